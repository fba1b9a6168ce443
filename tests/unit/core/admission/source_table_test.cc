// Who makes room: the source that holds most; of it, the oldest unfinished hello, then the longest idle.
#include "core/admission/source_table.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace hud {
namespace {

using namespace std::chrono_literals;

SourceKey Key(const char* address) { return SourceKey::Of(SocketAddress::Parse(address).value()); }

TEST(Source, IsAnIpv4AddressOrAnIpv6Subscribers64Bits) {
  EXPECT_EQ(Key("192.0.2.7:1").ToString(), "192.0.2.7");
  EXPECT_EQ(Key("192.0.2.7:1"), Key("192.0.2.7:2"));
  EXPECT_FALSE(Key("192.0.2.7:1") == Key("192.0.2.8:1"));
  EXPECT_EQ(Key("[::ffff:192.0.2.7]:1"), Key("192.0.2.7:1"));
  EXPECT_EQ(Key("[2001:db8:1:2:3::1]:1"), Key("[2001:db8:1:2:4::9]:7"));
  EXPECT_FALSE(Key("[2001:db8:1:2::1]:1") == Key("[2001:db8:1:3::1]:1"));
  EXPECT_EQ(Key("[2001:db8:1:2:3::1]:1").ToString(), "2001:db8:1:2::/64");
  EXPECT_EQ(Key("unix:/run/x").ToString(), "unknown");
}

TEST(Source, HashesDifferByKindAndByKey) {
  const SourceKey v4 = Key("192.0.2.7:1");
  SourceKey v6 = v4;
  v6.kind = SourceKey::Kind::kIpv6;
  EXPECT_NE(HashOf({1, 2}, v4), HashOf({1, 2}, v6));
  EXPECT_NE(HashOf({1, 2}, v4), HashOf({1, 3}, v4));
}

class SourceTableTest : public ::testing::Test {
 protected:
  void Enter(uint32_t slot, int source, int64_t at) {
    SourceKey key;
    key.prefix = static_cast<uint64_t>(source);
    key.kind = SourceKey::Kind::kIpv4;
    table_.Enter(slot, key, Hash(source));
    since_[slot] = Instant(at * 1s);
  }
  void Relay(uint32_t slot, int64_t at) {
    table_.HelloDone(slot);
    since_[slot] = Instant(at * 1s);
  }
  static uint64_t Hash(int source) { return 1000 + static_cast<uint64_t>(source); }
  std::optional<uint32_t> First(int source, uint32_t except = 0xffffffff, int64_t quiet_until = 1'000'000) {
    const Instant quiet(quiet_until * 1s);
    return table_.FirstToGo(Hash(source), except, {quiet, quiet}, [this](uint32_t slot) { return since_.at(slot); });
  }
  std::optional<uint32_t> FirstOfAll(int64_t hellos = 1'000'000, int64_t others = 1'000'000, std::set<int> stay = {}, uint32_t except = 0xffffffff) {
    return table_.FirstToGoOfAll(except, {Instant(hellos * 1s), Instant(others * 1s)}, [this](uint32_t slot) { return since_.at(slot); },
                                 [&](uint64_t hash) { return !stay.contains(static_cast<int>(hash - 1000)); });
  }

  SourceTable table_;
  std::map<uint32_t, Instant> since_;
};

TEST_F(SourceTableTest, TheLargestComeFirstAndOfEqualOnesTheEarlier) {
  for (uint32_t slot = 0; slot < 5; ++slot) Enter(slot, 7, slot);
  Enter(10, 1, 5);
  Enter(11, 2, 6);
  const auto largest = table_.Largest(2);
  ASSERT_EQ(largest.size(), 2u);
  EXPECT_EQ(largest[0].hash, Hash(7));
  EXPECT_EQ(largest[0].count, 5u);
  EXPECT_EQ(largest[1].hash, Hash(1));
  for (uint32_t slot = 0; slot < 5; ++slot) table_.Leave(slot);
  EXPECT_EQ(table_.sources(), 2u);
  EXPECT_EQ(table_.Largest(1)[0].hash, Hash(1));
  EXPECT_EQ(table_.CountOf(Hash(7)), 0u);
}

TEST_F(SourceTableTest, TheOldestHelloGoesBeforeAnyRelay) {
  Enter(1, 7, 1);
  Relay(1, 1);
  Enter(2, 7, 5);
  Enter(3, 7, 4);
  EXPECT_EQ(First(7), 2u) << "in the order of arrival";
  EXPECT_EQ(First(7, 2), 3u) << "not the newcomer itself";
  table_.Leave(2);
  table_.Leave(3);
  EXPECT_EQ(First(7), 1u);
  table_.Leave(1);
  EXPECT_EQ(First(7), std::nullopt);
}

TEST_F(SourceTableTest, ThenTheOneThatHasBeenIdleLongest) {
  for (uint32_t slot = 0; slot < 400; ++slot) {
    Enter(slot, 7, 0);
    Relay(slot, 1000 + (slot * 131) % 400);
  }
  for (int64_t expected = 1000; expected < 1400; ++expected) {
    const auto slot = First(7);
    ASSERT_TRUE(slot);
    EXPECT_EQ(since_[*slot], Instant(expected * 1s));
    table_.Leave(*slot);
  }
  EXPECT_EQ(First(7), std::nullopt);
}

TEST_F(SourceTableTest, WhoHasMovedABytesSinceItWasSeenIsNotTheLongestIdle) {
  for (uint32_t slot = 0; slot < 20; ++slot) {
    Enter(slot, 7, 0);
    Relay(slot, slot);
  }
  EXPECT_EQ(First(7), 0u);
  since_[0] = Instant(100s);
  EXPECT_EQ(First(7), 1u);
  table_.Leave(1);
  Enter(1, 7, 200);  // the slot is given again
  Relay(1, 200);
  EXPECT_EQ(First(7), 2u);
}

TEST_F(SourceTableTest, WhereOnlyTheQuietMayGoTheOthersStay) {
  Enter(1, 7, 50);
  EXPECT_EQ(First(7, 0xffffffff, 49), std::nullopt) << "a hello that has just begun";
  EXPECT_EQ(First(7, 0xffffffff, 50), 1u);
  Enter(2, 7, 0);
  Relay(2, 30);
  EXPECT_EQ(First(7, 0xffffffff, 40), 2u) << "a quiet relay although a fresh hello is there";
  since_[2] = Instant(45s);
  EXPECT_EQ(First(7, 0xffffffff, 40), std::nullopt);
}

TEST_F(SourceTableTest, OfAllSourcesTheOldestHelloGoesAndThenTheLongestIdle) {
  EXPECT_EQ(FirstOfAll(), std::nullopt);
  Enter(1, 1, 10);
  Relay(1, 30);
  Enter(2, 2, 11);
  Enter(3, 3, 12);
  Enter(4, 4, 13);
  Relay(4, 20);
  EXPECT_EQ(FirstOfAll(), 2u);
  EXPECT_EQ(FirstOfAll(1'000, 1'000, {2}), 3u);
  EXPECT_EQ(FirstOfAll(1'000, 1'000, {2}, 3), 4u) << "the newcomer does not go";
  EXPECT_EQ(FirstOfAll(5, 1'000), 4u) << "the hellos are too young";
  EXPECT_EQ(FirstOfAll(5, 1'000, {4}), 1u);
  EXPECT_EQ(FirstOfAll(5, 19), std::nullopt);
  table_.Leave(2);
  Relay(3, 40);
  EXPECT_EQ(FirstOfAll(), 4u);
  table_.Leave(4);
  EXPECT_EQ(FirstOfAll(), 1u);
}

TEST_F(SourceTableTest, OfAllSourcesThousandsGoInTheOrderOfTheirIdleness) {
  for (uint32_t slot = 0; slot < 3000; ++slot) {
    Enter(slot, static_cast<int>(slot), 0);
    Relay(slot, 1000 + (slot * 1777) % 3000);
  }
  for (int64_t expected = 1000; expected < 4000; ++expected) {
    const auto slot = FirstOfAll();
    ASSERT_TRUE(slot);
    EXPECT_EQ(since_[*slot], Instant(expected * 1s));
    table_.Leave(*slot);
  }
  EXPECT_EQ(FirstOfAll(), std::nullopt);
}

// Against plain counting: many sources that come, turn to relays and go.
TEST_F(SourceTableTest, CountsStayRightOverAHundredThousandChanges) {
  std::mt19937 random(1);
  std::map<uint32_t, int> source_of;
  std::map<int, uint32_t> count;
  for (int i = 0; i < 100'000; ++i) {
    const auto slot = static_cast<uint32_t>(random() % 2000);
    const auto known = source_of.find(slot);
    if (known == source_of.end()) {
      const int source = static_cast<int>(random() % 50 * (random() % 50));
      Enter(slot, source, i);
      source_of[slot] = source;
      ++count[source];
    } else if (random() % 3 == 0) {
      Relay(slot, i);
    } else {
      table_.Leave(slot);
      if (--count[known->second] == 0) count.erase(known->second);
      source_of.erase(known);
    }
    if (i % 1000 != 999 || count.empty()) continue;
    uint32_t most = 0;
    for (const auto& [source, n] : count) {
      most = std::max(most, n);
      ASSERT_EQ(table_.CountOf(Hash(source)), n);
    }
    const auto largest = table_.Largest(1);
    ASSERT_EQ(largest[0].count, most);
    ASSERT_EQ(table_.sources(), count.size());
    const int source = static_cast<int>(largest[0].hash - 1000);
    const auto first = First(source);
    ASSERT_TRUE(first);
    ASSERT_EQ(source_of.at(*first), source);
  }
}

}  // namespace
}  // namespace hud
