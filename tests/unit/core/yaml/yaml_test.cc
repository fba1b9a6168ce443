// The typed YAML reader: every error with its place and what to do, all of them at once, and nothing that hangs or
// crashes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/yaml/yaml_reader.h"

namespace hud {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

std::string MessageOf(YamlDocument document) { return std::string(document.Finish().message()); }

// ---- Text that is not taken at all ----------------------------------------------------------------------------------

struct BadText {
  const char* name;
  std::string text;
  const char* place;
  const char* says;
};

TEST(YamlParse, WhatIsNotPlainYamlIsAnErrorWithItsPlace) {
  const BadText rows[] = {
      {"a list that does not end", "a: [1, 2\n", "f:1:9:", "not YAML"},
      {"a tab as indentation", "a:\n\tb: 1\n", "f:2:1:", "a tab in the indentation"},
      {"a tab behind blanks as indentation", "a:\n  \tb: 1\n", "f:2:3:", "a tab in the indentation"},
      {"an anchor", "a: &x 1\n", "f:1:4:", "anchors are not taken"},
      {"an anchor on a map", "a: &x {b: 1}\n", "f:1:", "anchors are not taken"},
      {"an alias", "a: &x 1\nb: *x\n", "f:2:4:", "aliases are not taken"},
      {"a merge key", "a: &x {b: 1}\nc:\n  <<: *x\n", "f:3:", "aliases are not taken"},
      {"a tag", "a: !!str 1\n", "f:1:4:", "tags are not taken"},
      {"a tag of one's own", "a: !secret 1\n", "f:1:4:", "tags are not taken"},
      {"the same key twice", "a: 1\nb: 2\na: 3\n", "f:3:1:", "is there already, at line 1"},
      {"the same key twice, deeper", "a:\n  b: 2\n  b: 3\n", "f:3:3:", "is there already, at line 2"},
      {"the same key in quotes", "a: 1\n\"a\": 3\n", "f:2:1:", "is there already, at line 1"},
      {"a second document", "a: 1\n---\nb: 2\n", "f:2:1:", "a second document"},
      {"a list as a key", "? [1, 2]\n: b\n", "f:1:", "as a key"},
      {"a map as a key", "{a: 1}: b\n", "f:1:", "as a key"},
      {"no key at all", "a: 1\n: 2\n", "f:2:", "without a key"},
      {"a zero byte", std::string("a: 1\nb: \0", 9), "f:2:4:", "control character (byte 0)"},
      {"the byte that yaml-cpp takes for the end", "a: 1\n\x04listeners: []\n", "f:2:1:", "control character (byte 4)"},
      {"an escape sequence", "a: \x1b[2J\n", "f:1:4:", "control character (byte 27)"},
      {"Latin-1", "a: caf\xe9\n", "f:1:7:", "not UTF-8"},
      {"an overlong encoding", "a: \xc0\xaf\n", "f:1:4:", "not UTF-8"},
      {"UTF-16",
       "\xff\xfe"
       "a\0:\0",
       "f:1:1:", "not UTF-8"},
      {"half a character at the end", "a: \xe2\x82", "f:1:4:", "not UTF-8"},
      {"a value with an unknown escape", "a: \"\\q\"\n", "f:1:", "not YAML"},
      {"a quote that does not end", "a: \"b\n", "f:1:6:", "a quote that is not closed"},
      {"a quote that swallows the rest of the file", "a: 'b\nc: d\ne: f", "f:3:5:", "a quote that is not closed"},
      {"two values on one line", "a: b: c\n", "f:1:", "not YAML"},
  };
  for (const BadText& row : rows) {
    SCOPED_TRACE(row.name);
    const std::string message = MessageOf(YamlDocument::Parse(row.text, "f"));
    EXPECT_THAT(message, HasSubstr(row.place));
    EXPECT_THAT(message, HasSubstr(row.says));
  }
}

TEST(YamlParse, AListOrAMapInsideTooManyOthersIsAnErrorAndNoDeepRecursion) {
  for (const std::string& open : {std::string("["), std::string("{a: "), std::string("- "), std::string("? ")}) {
    std::string text;
    for (int i = 0; i < 20000; ++i) text += open;
    EXPECT_THAT(MessageOf(YamlDocument::Parse(text, "f")), StartsWith("f:1:")) << open;
  }
  std::string block;
  for (int i = 0; i < 400; ++i) block += std::string(static_cast<size_t>(i), ' ') + "a:\n";
  EXPECT_THAT(MessageOf(YamlDocument::Parse(block, "f")), HasSubstr("inside each other"));
}

TEST(YamlParse, ADepthThatSomebodyCouldNeedIsTaken) {
  std::string text = "a: ";
  for (int i = 0; i < kMaxYamlDepth - 1; ++i) text += "[";
  for (int i = 0; i < kMaxYamlDepth - 1; ++i) text += "]";
  EXPECT_EQ(MessageOf(YamlDocument::Parse(text, "f")), "");
}

TEST(YamlParse, SizeAndNumberOfValuesAreBounded) {
  const std::string large(kMaxYamlBytes + 1, '#');
  EXPECT_THAT(MessageOf(YamlDocument::Parse(large, "f")), HasSubstr("larger than 1MiB"));
  std::string many = "a: [";
  for (size_t i = 0; i < kMaxYamlValues; ++i) many += "1,";
  EXPECT_THAT(MessageOf(YamlDocument::Parse(many + "]", "f")), HasSubstr("more than 100000 values"));
}

TEST(YamlParse, AliasBombsAreRefusedWhereTheyBegin) {
  std::string text = "a: &a [x, x]\n";
  for (char c = 'b'; c < 'z'; ++c)
    text += absl::StrCat(std::string(1, c), ": &", std::string(1, c), " [*", std::string(1, c - 1), ", *",
                         std::string(1, c - 1), "]\n");
  const std::string message = MessageOf(YamlDocument::Parse(text, "f"));
  EXPECT_THAT(message, StartsWith("f:1:4: an anchor"));
}

TEST(YamlParse, ManyErrorsAreCountedNotListed) {
  std::string text;
  for (int i = 0; i < 500; ++i) text += "a: 1\n";
  const std::string message = MessageOf(YamlDocument::Parse(text, "f"));
  const std::vector<std::string> lines = absl::StrSplit(message, '\n');
  EXPECT_EQ(lines.size(), kMaxYamlErrors + 1);
  EXPECT_THAT(lines.back(), HasSubstr("and 399 more"));
}

TEST(YamlParse, ABrokenFileGivesOneErrorAndNotAllThatFollowFromIt) {
  YamlDocument document = YamlDocument::Parse("workers: 3\nlisteners: [\n", "f");
  int workers = 7;
  EXPECT_FALSE(document.root().Get("workers").ReadInteger(&workers, 1, 64));
  document.root().Require("pools");
  const std::string message = MessageOf(std::move(document));
  EXPECT_THAT(message, HasSubstr("not YAML"));
  EXPECT_THAT(message, Not(HasSubstr("pools")));
  EXPECT_EQ(workers, 7);
}

TEST(YamlParse, ByteOrderMarkAndEmptyFilesAreFine) {
  for (const char* text :
       {"", "# nothing\n", "---\n", "---\n...\n", "\n\n", "\t\n", "\t# x", "\xef\xbb\xbf", "\xef\xbb\xbf# x\n"}) {
    YamlDocument document = YamlDocument::Parse(text, "f");
    EXPECT_FALSE(document.root().Get("a"));
    EXPECT_EQ(MessageOf(std::move(document)), "") << text;
  }
}

// ---- Values ---------------------------------------------------------------------------------------------------------

// Reads the key `v` of a map; the error, or what was read.
template <typename T, typename ReadIt>
std::string ReadValue(const std::string& text, const ReadIt& read_it) {
  YamlDocument document = YamlDocument::Parse(absl::StrCat("v: ", text, "\n"), "f");
  T value{};
  const bool is_right = read_it(document.root().Get("v"), &value);
  const std::string message(document.Finish().message());
  EXPECT_EQ(is_right, message.empty()) << text;
  if constexpr (std::is_same_v<T, std::string>) {
    return is_right ? value : message;
  } else if constexpr (std::is_same_v<T, Duration>) {
    return is_right ? FormatDuration(value) : message;
  } else {
    return is_right ? absl::StrCat(value) : message;
  }
}

struct ValueRow {
  const char* text;
  const char* expected;  // the value, or part of the error
};

TEST(YamlValue, WholeNumbersAreTakenWithinTheirRange) {
  for (const auto& [text, expected] : std::vector<ValueRow>{{"1", "1"},
                                                            {"64", "64"},
                                                            {"\"7\"", "7"},
                                                            {"0", "f:1:4: v: '0' is not a whole number from 1 to 64"},
                                                            {"65", "from 1 to 64"},
                                                            {"-1", "from 1 to 64"},
                                                            {"1.5", "whole number"},
                                                            {"0x10", "whole number"},
                                                            {"1e1", "whole number"},
                                                            {"+1", "whole number"},
                                                            {"12a", "whole number"},
                                                            {"many", "whole number"},
                                                            {"99999999999999999999", "whole number"},
                                                            {"[1]", "is a list"},
                                                            {"{a: 1}", "is a map"},
                                                            {"", "has no value"},
                                                            {"~", "has no value"},
                                                            {"null", "has no value"}}) {
    EXPECT_THAT(ReadValue<int>(text, [](YamlValue v, int* out) { return v.ReadInteger(out, 1, 64); }),
                HasSubstr(expected))
        << text;
  }
}

TEST(YamlValue, BooleansAreTrueOrFalseAndNothingElse) {
  for (const auto& [text, expected] : std::vector<ValueRow>{{"true", "1"},
                                                            {"false", "0"},
                                                            {"yes", "write 'true' or 'false'"},
                                                            {"on", "'true' or 'false'"},
                                                            {"True", "did you mean 'true'?"},
                                                            {"1", "'true' or 'false'"},
                                                            {"flase", "did you mean 'false'?"}}) {
    EXPECT_THAT(ReadValue<bool>(text, [](YamlValue v, bool* out) { return v.ReadBool(out); }), HasSubstr(expected))
        << text;
  }
}

TEST(YamlValue, NumbersAreDecimalAndFinite) {
  for (const auto& [text, expected] : std::vector<ValueRow>{{"1.5", "1.5"},
                                                            {"1", "1"},
                                                            {"0.99", "from 1 to 100"},
                                                            {".nan", "not a number"},
                                                            {"nan", "not a number"},
                                                            {"inf", "not a number"},
                                                            {"-2", "from 1 to 100"},
                                                            {"1e1", "not a number"},
                                                            {"1,5", "not a number"},
                                                            {"2x", "not a number"}}) {
    EXPECT_THAT(ReadValue<double>(text, [](YamlValue v, double* out) { return v.ReadNumber(out, 1, 100); }),
                HasSubstr(expected))
        << text;
  }
}

TEST(YamlValue, DurationsHaveAUnit) {
  for (const auto& [text, expected] : std::vector<ValueRow>{{"5s", "5s"},
                                                            {"200ms", "200ms"},
                                                            {"90s", "1m30s"},
                                                            {"1h30m", "1h30m"},
                                                            {"1500us", "1ms500us"},
                                                            {"1h0m", "1h"},
                                                            {"0s", "0s"},
                                                            {"5", "has no unit; write '5s' for seconds"},
                                                            {"-3s", "not a duration"},
                                                            {"5 s", "not a duration"},
                                                            {"1.5s", "not a duration"},
                                                            {"s", "not a duration"},
                                                            {"soon", "not a duration"},
                                                            {"5sec", "not a duration"},
                                                            {"30m1h", "not a duration"},
                                                            {"5s5s", "not a duration"},
                                                            {"3h", "write from 0s to 2h"},
                                                            {"99999999999999d", "not a duration"},
                                                            {"106752d", "not a duration"},
                                                            {"18446744073709551616s", "not a duration"}}) {
    EXPECT_THAT(
        ReadValue<Duration>(
            text, [](YamlValue v, Duration* out) { return v.ReadDuration(out, Duration(0), std::chrono::hours(2)); }),
        HasSubstr(expected))
        << text;
  }
}

TEST(YamlValue, ByteSizesAreBytesOrBinaryUnits) {
  for (const auto& [text, expected] : std::vector<ValueRow>{{"4096", "4096"},
                                                            {"32KiB", "32768"},
                                                            {"1MiB", "1048576"},
                                                            {"512B", "512"},
                                                            {"1KiB512B", "1536"},
                                                            {"32KB", "not a size in bytes"},
                                                            {"32k", "not a size"},
                                                            {"-1", "not a size"},
                                                            {"1.5MiB", "not a size"},
                                                            {"2MiB", "write from 512 to 1MiB"},
                                                            {"9999999999GiB", "not a size"}}) {
    EXPECT_THAT(ReadValue<size_t>(text, [](YamlValue v, size_t* out) { return v.ReadByteSize(out, 512, 1 << 20); }),
                HasSubstr(expected))
        << text;
  }
}

TEST(YamlValue, StringsAreNotEmptyAndHoldNoControlCharacters) {
  for (const auto& [text, expected] : std::vector<ValueRow>{{"abc", "abc"},
                                                            {"\"a b\"", "a b"},
                                                            {"'a: b'", "a: b"},
                                                            {"12", "12"},
                                                            {"true", "true"},
                                                            {"\"\"", "is empty"},
                                                            {"\"a\\nb\"", "holds a control character"},
                                                            {"\"a\\0b\"", "holds a control character"},
                                                            {"[a]", "is a list"}}) {
    EXPECT_THAT(ReadValue<std::string>(text, [](YamlValue v, std::string* out) { return v.ReadString(out); }),
                HasSubstr(expected))
        << text;
  }
}

TEST(YamlValue, AnErrorQuotesWhatWasWrittenSafelyAndNotForEver) {
  const auto read = [](YamlValue v, int* out) { return v.ReadInteger(out, 1, 2); };
  EXPECT_THAT(ReadValue<int>("\"\\e[2J\\u0007\"", read), HasSubstr("'\\x1b[2J\\x07'"));
  const std::string message = ReadValue<int>(std::string(100000, 'x'), read);
  EXPECT_LT(message.size(), 300U);
}

TEST(YamlValue, EnumsNameWhatTheyKnow) {
  enum class Fruit { kApple, kPear };
  const auto read = [](YamlValue v, int* out) {
    Fruit fruit;
    if (!v.ReadEnum(&fruit, {{"apple", Fruit::kApple}, {"pear", Fruit::kPear}})) return false;
    *out = static_cast<int>(fruit);
    return true;
  };
  EXPECT_EQ(ReadValue<int>("pear", read), "1");
  EXPECT_THAT(ReadValue<int>("aple", read), HasSubstr("did you mean 'apple'? write 'apple' or 'pear'"));
  EXPECT_THAT(ReadValue<int>("stone", read), HasSubstr("'stone' is not known here; write 'apple' or 'pear'"));
}

TEST(YamlValue, AddressesMayBeOneOrAList) {
  const auto read = [](const std::string& text) {
    YamlDocument document = YamlDocument::Parse("v: " + text, "f");
    std::vector<SocketAddress> addresses;
    std::string result;
    if (document.root().Get("v").ReadAddresses(&addresses)) {
      for (const SocketAddress& address : addresses) absl::StrAppend(&result, address.ToString(), " ");
      return result;
    }
    return std::string(document.Finish().message());
  };
  EXPECT_EQ(read("\"[::]:443\""), "[::]:443 ");
  EXPECT_EQ(read("1.2.3.4:5"), "1.2.3.4:5 ");
  EXPECT_EQ(read("[\"1.2.3.4:5\", \"unix:/run/x\"]"), "1.2.3.4:5 unix:/run/x ");
  EXPECT_THAT(read("[1.2.3.4:5, 1.2.3.4:5]"), HasSubstr("in this list already"));
  EXPECT_THAT(read("[]"), HasSubstr("empty list"));
  EXPECT_THAT(read("{a: b}"), HasSubstr("is a map; write an address or a list of them"));
  EXPECT_THAT(read("localhost:443"), HasSubstr("addresses are numeric"));
  const std::string both = read("[\"a:1\", \"b:2\"]");
  EXPECT_THAT(both, HasSubstr("v[0]"));
  EXPECT_THAT(both, HasSubstr("v[1]"));
}

TEST(YamlValue, WhatIsAbsentLeavesTheDefaultAlone) {
  YamlDocument document = YamlDocument::Parse("a: 1\n", "f");
  document.root().Get("a");
  int number = 5;
  std::string text = "kept";
  EXPECT_FALSE(document.root().Get("b").Get("c").ReadInteger(&number, 0, 9));
  EXPECT_FALSE(document.root().Get("d").ReadString(&text));
  EXPECT_THAT(document.root().Get("e").Items(), IsEmpty());
  EXPECT_FALSE(document.root().Get("f").Require("g"));
  EXPECT_EQ(MessageOf(std::move(document)), "");
  EXPECT_EQ(number, 5);
  EXPECT_EQ(text, "kept");
}

TEST(YamlValue, KeysThatNobodyAskedForAreErrorsWithAGuess) {
  YamlDocument document =
      YamlDocument::Parse("workers: 1\nlisteners:\n  - bnid: x\n    hello: {maxBytes: 5, zebra: 1}\n", "f");
  int workers;
  document.root().Get("workers").ReadInteger(&workers, 1, 9);
  for (const YamlValue& listener : document.root().Get("listeners").Items()) {
    listener.Get("bind");
    listener.Get("hello").Get("max_bytes");
  }
  const std::vector<std::string> lines = absl::StrSplit(MessageOf(std::move(document)), '\n');
  EXPECT_THAT(lines, ElementsAre("f:3:5: listeners[0]: unknown key 'bnid'; did you mean 'bind'?",
                                 "f:4:13: listeners[0].hello: unknown key 'maxBytes'; did you mean 'max_bytes'?",
                                 "f:4:26: listeners[0].hello: unknown key 'zebra'; known here: 'max_bytes'"));
}

TEST(YamlValue, AllErrorsComeAtOnceInTheOrderOfTheFile) {
  YamlDocument document = YamlDocument::Parse("a: x\nb: y\nc: {d: z}\n", "f");
  int number;
  document.root().Get("c").Get("d").ReadInteger(&number, 0, 1);
  document.root().Get("b").ReadInteger(&number, 0, 1);
  document.root().Get("a").ReadInteger(&number, 0, 1);
  document.root().Require("e", "like 'e: 1'");
  const std::vector<std::string> lines = absl::StrSplit(MessageOf(std::move(document)), '\n');
  ASSERT_EQ(lines.size(), 4U);
  EXPECT_THAT(lines[0], HasSubstr("'e' is missing; add it, like 'e: 1'"));
  EXPECT_THAT(lines[1], StartsWith("f:1:4: a:"));
  EXPECT_THAT(lines[2], StartsWith("f:2:4: b:"));
  EXPECT_THAT(lines[3], StartsWith("f:3:8: c.d:"));
}

TEST(YamlValue, TheSameWrongValueReadTwiceIsOneError) {
  YamlDocument document = YamlDocument::Parse("a: [1]\n", "f");
  document.root().Get("a").Get("b");
  document.root().Get("a").Get("c");
  const std::string message = MessageOf(std::move(document));
  EXPECT_EQ(message, "f:1:4: a: is a list; write a map, 'key: value'");
}

TEST(YamlValue, AMapWithKeysOfTheUsersOwnGivesThemInOrder) {
  YamlDocument document = YamlDocument::Parse("z: 1\na: 2\n", "f");
  std::vector<std::string> keys;
  for (const auto& [key, value] : document.root().Entries()) keys.push_back(key);
  EXPECT_THAT(keys, ElementsAre("z", "a"));
  EXPECT_EQ(MessageOf(std::move(document)), "");
}

TEST(YamlWords, DurationsAndSizesReadBackAsWritten) {
  for (const int64_t count : {int64_t{0}, int64_t{1}, int64_t{1'000}, int64_t{1'500'000}, int64_t{90'000'000'000},
                              int64_t{86'400'000'000'001}, std::numeric_limits<int64_t>::max()}) {
    Duration back;
    ASSERT_TRUE(ParseDuration(FormatDuration(Duration(count)), &back)) << FormatDuration(Duration(count));
    EXPECT_EQ(back.count(), count);
  }
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{1024}, size_t{1025}, size_t{3} << 20, size_t{5} << 30}) {
    size_t back;
    ASSERT_TRUE(ParseByteSize(FormatByteSize(bytes), &back));
    EXPECT_EQ(back, bytes);
  }
}

// ---- Files ----------------------------------------------------------------------------------------------------------

TEST(YamlFile, WhatCannotBeReadIsNamed) {
  const std::string folder = ::testing::TempDir();
  EXPECT_THAT(MessageOf(YamlDocument::Load(folder + "/not-there.yaml")),
              HasSubstr("not-there.yaml: cannot be opened: No such file"));
  EXPECT_THAT(MessageOf(YamlDocument::Load(folder)), HasSubstr("is not a file"));
  const std::string fifo = absl::StrCat(folder, "/fifo.", ::getpid());
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(MessageOf(YamlDocument::Load(fifo)), HasSubstr("is not a file"));
  ::unlink(fifo.c_str());
}

TEST(YamlFile, AFileIsReadWholeAndBounded) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/yaml_test.", ::getpid());
  std::ofstream(path) << "a: " << std::string(40000, 'x') << "\n";
  YamlDocument document = YamlDocument::Load(path);
  std::string text;
  EXPECT_TRUE(document.root().Get("a").ReadString(&text));
  EXPECT_EQ(text.size(), 40000U);
  EXPECT_EQ(document.path(), path);
  std::ofstream(path) << std::string(3 * kMaxYamlBytes, '#');
  EXPECT_THAT(MessageOf(YamlDocument::Load(path)), HasSubstr("larger than 1MiB"));
  ::unlink(path.c_str());
}

}  // namespace
}  // namespace hud
