#include "agentd/prefix_file.h"
#include "agentd/prefix_ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace hud {
namespace {

using std::chrono::seconds;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

TicketPrefix P(int number) {
  TicketPrefix prefix;
  prefix.length = 16;
  prefix.bytes[0] = static_cast<uint8_t>(number);
  prefix.bytes[1] = static_cast<uint8_t>(number >> 8);
  return prefix;
}

Instant At(int second) { return Instant(seconds(second)); }

class Ledger : public testing::Test {
 protected:
  bool Sees(const std::string& source, std::vector<TicketPrefix> prefixes, int second, int lifetime = 300) {
    return ledger_.Replace(source, prefixes, seconds(lifetime), At(second));
  }
  PrefixLedger ledger_;
};

TEST_F(Ledger, ARotatedNameStaysForATicketsLifetime) {
  EXPECT_TRUE(Sees("probe", {P(1)}, 0));
  EXPECT_TRUE(Sees("probe", {P(2)}, 60));
  EXPECT_THAT(ledger_.Advertised(At(359)), ElementsAre(P(2), P(1)));
  EXPECT_THAT(ledger_.Advertised(At(360)), ElementsAre(P(2)));
}

TEST_F(Ledger, TheSameAgainIsNoChange) {
  Sees("probe", {P(1)}, 0);
  EXPECT_FALSE(Sees("probe", {P(1)}, 60));
}

TEST_F(Ledger, ANameThatComesBackIsCurrentAgain) {
  Sees("probe", {P(1)}, 0);
  Sees("probe", {P(2)}, 10);
  Sees("probe", {P(1)}, 20);
  EXPECT_THAT(ledger_.Advertised(At(20)), ElementsAre(P(1), P(2)));
  EXPECT_TRUE(ledger_.IsCurrent(P(1)));
  EXPECT_THAT(ledger_.Advertised(At(100000)), ElementsAre(P(1)));
}

TEST_F(Ledger, ANameStaysWhileAnySourceSeesIt) {
  Sees("file", {P(1), P(2)}, 0);
  Sees("probe", {P(1)}, 0);
  Sees("file", {}, 10);
  EXPECT_THAT(ledger_.Advertised(At(11)), UnorderedElementsAre(P(1), P(2)));
  EXPECT_THAT(ledger_.Advertised(At(100000)), ElementsAre(P(1)));
}

TEST_F(Ledger, AServerThatStopsGivingTicketsKeepsItsOldOnesForAWhile) {
  Sees("probe", {P(1)}, 0);
  EXPECT_FALSE(Sees("probe", {}, 10)) << "what is advertised has not changed yet";
  EXPECT_THAT(ledger_.Advertised(At(11)), ElementsAre(P(1)));
  EXPECT_THAT(ledger_.Advertised(At(310)), IsEmpty());
}

TEST_F(Ledger, AdvertisesNoMoreThanItsBoundAndTheCurrentOnesFirst) {
  for (int i = 0; i < 500; ++i) Sees("probe", {P(i)}, i, 10000);
  const auto advertised = ledger_.Advertised(At(500));
  ASSERT_EQ(advertised.size(), limits::kMaxPrefixesPerNode);
  EXPECT_EQ(advertised[0], P(499));
  EXPECT_EQ(advertised[1], P(498)) << "of the retired the one that lives longest";
}

TEST(KeptPrefixes, WhatIsWrittenIsReadAndBadLinesAreLeftOut) {
  const std::vector<KeptPrefix> kept = {{TicketPrefix::Of(std::vector<uint8_t>(16, 0xab)), 1'700'000'000},
                                        {TicketPrefix::Of(std::vector<uint8_t>(4, 0x01)), 0}};
  EXPECT_EQ(ParseKeptPrefixes(FormatKeptPrefixes(kept)), kept);
  EXPECT_EQ(ParseKeptPrefixes("\n01020304\n010203 5\n01020304 -5\n01020304 5x\nzz 5\n01010101 0").size(), 1u);
  EXPECT_TRUE(ParseKeptPrefixes(std::string(100'000, 'a')).empty());
}

TEST(KeptPrefixes, RestoredOnesAreAdvertisedUntilThen) {
  PrefixLedger ledger;
  const TicketPrefix old = TicketPrefix::Of(std::vector<uint8_t>(16, 1));
  const Instant now{std::chrono::hours(1)};
  ledger.Restore(old, now + std::chrono::seconds(10));
  EXPECT_EQ(ledger.Advertised(now).size(), 1u);
  EXPECT_EQ(ledger.UsefulUntil(old, std::chrono::seconds(300), now), now + std::chrono::seconds(10));
  EXPECT_TRUE(ledger.Advertised(now + std::chrono::seconds(11)).empty());
  ledger.Replace("probe", std::vector<TicketPrefix>{old}, std::chrono::seconds(300), now);
  EXPECT_EQ(ledger.Advertised(now).size(), 1u);
  EXPECT_EQ(ledger.UsefulUntil(old, std::chrono::seconds(300), now), now + std::chrono::seconds(300));
}

}  // namespace
}  // namespace hud
