#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/affinity/token_lookup.h"
#include "core/tls/client_hello.h"
#include "perf/load/hello.h"
#include "tests/unit/core/tls/hello_builder.h"

namespace hud::load {
namespace {

constexpr Order kOrder = {Operation::kConnect, 0, 64};

ClientHello Parsed(Bytes record) {
  ClientHello hello;
  EXPECT_EQ(ParseClientHello(record, limits::kMaxHelloBytes, hello), HelloVerdict::kComplete);
  EXPECT_EQ(hello.bytes_used, record.size());
  return hello;
}

struct Shape {
  const char* what;
  HelloShape shape;
  size_t bytes;  // of the record
};

const Shape kShapes[] = {
    {"as it comes", {}, 517},
    {"as long as a hello with a post-quantum key share", {.bytes = 1800}, 1800},
    {"as long as a record", {.bytes = 16389}, 16389},
    {"with a ticket", {.offers_psk = true}, 517},
    {"with a ticket, long", {.bytes = 1500, .offers_psk = true}, 1500},
    {"for a short name", {.server_name = "a"}, 517},
    {"for the longest name, which fits", {.server_name = std::string(250, 'n') + ".test"}, 517},
    {"for the longest name and with a ticket, which does not",
     {.server_name = std::string(250, 'n') + ".test", .offers_psk = true},
     739},
};

TEST(LoadHello, IsAValidClientHelloInOneRecordOfTheLengthWanted) {
  for (const Shape& row : kShapes) {
    SCOPED_TRACE(row.what);
    auto made = HelloTemplate::Build(row.shape);
    ASSERT_TRUE(made.ok()) << made.status();
    const Bytes record = made->For(kOrder, 7);
    EXPECT_EQ(record.size(), row.bytes);
    const ClientHello hello = Parsed(record);
    EXPECT_EQ(hello.server_name(), row.shape.server_name);
    EXPECT_TRUE(hello.OffersAlpn(record, "h2"));
    EXPECT_TRUE(hello.offers_tls13);
    EXPECT_EQ(hello.session_id.full_length, 32);
    EXPECT_EQ(hello.has_psk, row.shape.offers_psk);
    EXPECT_FALSE(hello.has_ticket);
  }
}

TEST(LoadHello, CarriesTheOrderWhereTheServerReadsIt) {
  for (const Shape& row : kShapes) {
    SCOPED_TRACE(row.what);
    auto made = HelloTemplate::Build(row.shape);
    ASSERT_TRUE(made.ok());
    const Order order = {Operation::kExchange, 4096, 1'000'000};
    EXPECT_EQ(DecodeOrder(made->For(order, 1).subspan<kOrderOffset, kOrderBytes>()), order);
    EXPECT_EQ(DecodeOrder(made->For(kOrder, 2).subspan<kOrderOffset, kOrderBytes>()), kOrder);
  }
}

TEST(LoadHello, DiffersBetweenSeedsInAllThatABalancerCouldKnowAgainAndIsTheSameForTheSame) {
  auto made = HelloTemplate::Build({.offers_psk = true});
  ASSERT_TRUE(made.ok());
  const auto record = [&](uint64_t seed) {
    const Bytes bytes = made->For(kOrder, seed);
    return std::vector<uint8_t>(bytes.begin(), bytes.end());
  };
  const std::vector<uint8_t> one = record(1), two = record(2);
  EXPECT_EQ(one, record(1));
  const ClientHello first = Parsed(one), second = Parsed(two);
  EXPECT_NE(first.session_id.head, second.session_id.head);
  ASSERT_EQ(first.psk_identity_count, 1);
  EXPECT_EQ(first.psk_identities[0].full_length, kTicketBytes);
  EXPECT_NE(first.psk_identities[0].head, second.psk_identities[0].head);
  EXPECT_NE(std::vector(one.begin() + kOrderOffset, one.begin() + kHelloHeadBytes),
            std::vector(two.begin() + kOrderOffset, two.begin() + kHelloHeadBytes));
}

TEST(LoadHello, TheWholeTicketIsFilledAndNothingBehindIt) {
  auto made = HelloTemplate::Build({.offers_psk = true});
  ASSERT_TRUE(made.ok());
  const Bytes bytes = made->For(kOrder, 1);
  const std::vector<uint8_t> one(bytes.begin(), bytes.end());
  made->For(kOrder, 2);
  size_t last_that_differs = 0;
  for (size_t i = 0; i < one.size(); ++i) {
    if (one[i] != bytes[i]) last_that_differs = i;
  }
  const size_t behind_ticket = 4 + 2 + 1 + 32;  // age, length of the binders, one binder
  EXPECT_GE(last_that_differs, one.size() - behind_ticket - 8);
  EXPECT_LT(last_that_differs, one.size() - behind_ticket);
}

TEST(LoadHello, ABalancerLooksTheTicketUp) {
  auto made = HelloTemplate::Build({.offers_psk = true});
  ASSERT_TRUE(made.ok());
  const ClientHello hello = Parsed(made->For(kOrder, 1));
  EXPECT_EQ(CandidatesOf(hello).items[0].kind, TokenKind::kPskIdentity);
}

TEST(LoadHello, AShapeThatIsNotPossibleIsRefusedWithTheLengthsThatAre) {
  const auto refusal = [](const HelloShape& shape) {
    const auto made = HelloTemplate::Build(shape);
    return made.ok() ? std::string("taken") : std::string(made.status().message());
  };
  EXPECT_NE(refusal({.bytes = 100}).find("100 bytes is not possible"), std::string::npos);
  EXPECT_NE(refusal({.bytes = 16390}).find("to 16389"), std::string::npos);
  EXPECT_NE(refusal({.server_name = ""}).find("1 to 255"), std::string::npos);
  EXPECT_NE(refusal({.server_name = std::string(256, 'a')}).find("1 to 255"), std::string::npos);
}

struct StrangerRow {
  const char* what;
  std::array<uint8_t, kOrderBytes> random;
};

TEST(LoadOrder, IsNothingInAHelloThatIsNotOurs) {
  std::array<uint8_t, kOrderBytes> ours{};
  EncodeOrder({Operation::kIdle, 1, 2}, ours);
  ASSERT_TRUE(DecodeOrder(ours));
  const auto with = [&](size_t at, uint8_t value) {
    auto changed = ours;
    changed[at] = value;
    return changed;
  };
  const StrangerRow kRows[] = {{"all zeros", {}},
                               {"another first byte of the magic", with(0, 'H')},
                               {"another last byte of the magic", with(7, 'D')},
                               {"operation 0", with(8, 0)},
                               {"an operation from the future", with(8, 8)}};
  for (const auto& row : kRows) EXPECT_FALSE(DecodeOrder(row.random)) << row.what;
}

TEST(LoadOrder, EveryOperationAndSizeComesBackAsItWent) {
  for (const Operation operation : {Operation::kExchange, Operation::kUpload, Operation::kDownload, Operation::kConnect,
                                    Operation::kIdle, Operation::kProbe, Operation::kStall}) {
    for (const uint32_t bytes : {0u, 1u, 255u, 256u, 65536u, 0xffffffffu}) {
      const Order order = {operation, bytes, 0xffffffffu - bytes};
      std::array<uint8_t, kOrderBytes> random;
      random.fill(0xee);
      EncodeOrder(order, random);
      EXPECT_EQ(DecodeOrder(random), order);
      for (size_t i = kOrderBytes - kOrderNonceBytes; i < kOrderBytes; ++i) EXPECT_EQ(random[i], 0xee) << "the nonce";
    }
  }
}

}  // namespace
}  // namespace hud::load
