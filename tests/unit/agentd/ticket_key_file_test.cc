#include "agentd/ticket_key_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

namespace hud {
namespace {

std::string Key(char first, size_t bytes) {
  std::string key;
  for (size_t i = 0; i < bytes; ++i) key.push_back(static_cast<char>(first + static_cast<char>(i)));
  return key;
}

std::string Base64(const std::string& bytes) {
  std::string text(4 * ((bytes.size() + 2) / 3) + 1, '\0');
  const int n = EVP_EncodeBlock(reinterpret_cast<uint8_t*>(text.data()), reinterpret_cast<const uint8_t*>(bytes.data()),
                                static_cast<int>(bytes.size()));
  text.resize(static_cast<size_t>(n));
  return text;
}

std::string Lines(std::initializer_list<std::string> keys, const std::string& end = "\n") {
  std::string text;
  for (const std::string& key : keys) text += Base64(key) + end;
  return text;
}

absl::StatusOr<std::vector<TicketPrefix>> Parse(const std::string& content, TicketKeyFormat format) {
  return ParseTicketKeys({reinterpret_cast<const uint8_t*>(content.data()), content.size()}, format, "k");
}

struct Row {
  const char* name;
  std::string content;
  TicketKeyFormat format;
  std::string firsts;  // the first byte of each expected name, the issuing one first
};

TEST(TicketKeyFile, GivesTheNamesAndTheIssuingOneFirst) {
  using enum TicketKeyFormat;
  const Row rows[] = {
      {"nginx, 48 bytes", Key('A', 48), kNginx, "A"},
      {"nginx, 80 bytes", Key('A', 80), kNginx, "A"},
      {"Apache, 48 bytes", Key('A', 48), kApache, "A"},
      {"48 bytes are recognised", Key('A', 48), kAuto, "A"},
      {"80 bytes are recognised", Key('A', 80), kAuto, "A"},
      {"HAProxy, three lines: the second issues", Lines({Key('A', 48), Key('B', 48), Key('C', 48)}), kHaproxy, "BAC"},
      {"HAProxy is recognised", Lines({Key('A', 80), Key('B', 80), Key('C', 80)}), kAuto, "BAC"},
      {"HAProxy, five lines: the last three count", Lines({Key('A', 48), Key('B', 48), Key('C', 48), Key('D', 48), Key('E', 48)}),
       kHaproxy, "DCE"},
      {"HAProxy, no newline at the end", Lines({Key('A', 48), Key('B', 48)}) + Base64(Key('C', 48)), kHaproxy, "BAC"},
      {"HAProxy, lines that end as on Windows", Lines({Key('A', 48), Key('B', 48), Key('C', 48)}, "\r\n"), kHaproxy, "BAC"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    const auto names = Parse(row.content, row.format);
    ASSERT_TRUE(names.ok()) << names.status();
    std::string firsts;
    for (const TicketPrefix& name : *names) {
      EXPECT_EQ(name.length, 16);
      firsts.push_back(static_cast<char>(name.bytes[0]));
      const std::string expected = Key(firsts.back(), 16) + std::string(16, '\0');
      EXPECT_EQ(std::string(name.bytes.begin(), name.bytes.end()), expected) << "more than the name has left the file";
    }
    EXPECT_EQ(firsts, row.firsts);
  }
}

TEST(TicketKeyFile, RefusesWhatNoServerWouldRead) {
  using enum TicketKeyFormat;
  const Row rows[] = {
      {"an empty file", "", kAuto, "has 0 bytes"},
      {"47 bytes for nginx", Key('A', 47), kNginx, "wants 48 or 80"},
      {"a half-written nginx file", Key('\x80', 79), kAuto, "has 79 bytes"},
      {"80 bytes for Apache", Key('A', 80), kApache, "Apache wants 48"},
      {"two lines for HAProxy", Lines({Key('A', 48), Key('B', 48)}), kHaproxy, "at least 3 lines"},
      {"two sizes of key", Lines({Key('A', 48), Key('B', 80), Key('C', 48)}), kHaproxy, "line 2 holds 80 bytes"},
      {"a key of 32 bytes", Lines({Key('A', 48), Key('B', 32), Key('C', 48)}), kHaproxy, "line 2 is not base64"},
      {"a line that is no base64", Base64(Key('A', 48)) + "\n!!!!\n", kHaproxy, "line 2 is not base64"},
      {"an empty line in the middle", Base64(Key('A', 48)) + "\n\n" + Base64(Key('B', 48)), kHaproxy, "line 2 is not base64"},
      {"a very long line", std::string(5000, 'A'), kAuto, "line 1 is not base64"},
      {"a PEM file", "-----BEGIN PRIVATE KEY-----\nMIGH\n", kAuto, "line 1 is not base64"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    const auto names = Parse(row.content, row.format);
    ASSERT_FALSE(names.ok());
    EXPECT_THAT(std::string(names.status().message()), testing::HasSubstr(row.firsts));
  }
}

class OnDisk : public testing::Test {
 protected:
  std::string Write(const std::string& content) {
    const std::string path = testing::TempDir() + "ticket_key." + std::to_string(::getpid());
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
};

TEST_F(OnDisk, IsReadToItsEndAndNotBeyondItsLimit) {
  std::string path = Write(Key('A', 80));
  EXPECT_TRUE(ReadTicketKeyNames(path, TicketKeyFormat::kAuto).ok());
  path = Write(std::string(kMaxTicketKeyFileBytes + 1, '\0'));
  const auto too_long = ReadTicketKeyNames(path, TicketKeyFormat::kAuto);
  EXPECT_THAT(std::string(too_long.status().message()), testing::HasSubstr("is longer than"));
  ::unlink(path.c_str());
  const auto missing = ReadTicketKeyNames(path, TicketKeyFormat::kAuto);
  EXPECT_THAT(std::string(missing.status().message()), testing::HasSubstr("cannot be opened"));
}

TEST_F(OnDisk, APipeOrAFolderInItsPlaceIsAnErrorAndDoesNotHang) {
  const std::string path = testing::TempDir() + "ticket_pipe." + std::to_string(::getpid());
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_FALSE(ReadTicketKeyNames(path, TicketKeyFormat::kAuto).ok());
  ::unlink(path.c_str());
  EXPECT_FALSE(ReadTicketKeyNames(testing::TempDir(), TicketKeyFormat::kAuto).ok());
}

}  // namespace
}  // namespace hud
