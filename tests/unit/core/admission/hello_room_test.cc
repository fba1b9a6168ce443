#include "core/admission/hello_room.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

namespace hud {
namespace {

Instant At(int n) { return Instant(std::chrono::seconds(n)); }

using Slots = std::vector<uint32_t>;

TEST(HellosToEnd, TheOldestOfTheSourceThatHoldsMost) {
  const std::vector<HeldHello> held = {{7, 100, At(3), 0}, {7, 100, At(1), 1}, {7, 100, At(2), 2}, {8, 250, At(0), 3}};
  EXPECT_EQ(HellosToEnd(held, {}, 1), Slots({1}));
  EXPECT_EQ(HellosToEnd(held, {}, 101), Slots({1, 3})) << "by then the other one holds more";
  EXPECT_EQ(HellosToEnd(held, {}, 351), Slots({1, 3, 2}));
  EXPECT_EQ(HellosToEnd(held, {}, 10'000), Slots({1, 3, 2, 0})) << "all there are";
  EXPECT_EQ(HellosToEnd(held, {}, 0), Slots());
  EXPECT_EQ(HellosToEnd({}, {}, 100), Slots());
}

TEST(HellosToEnd, OfTwoThatHoldTheSameTheOlder) {
  EXPECT_EQ(HellosToEnd({{7, 100, At(2), 0}, {8, 100, At(1), 1}, {9, 100, At(3), 2}}, {}, 200), Slots({1, 0}));
}

TEST(HellosToEnd, NobodyGoesForASourceThatHoldsMore) {
  const std::vector<HeldHello> held = {{7, 100, At(1), 0}, {8, 50, At(0), 1}};
  EXPECT_EQ(HellosToEnd(held, {7, 100}, 1000), Slots({0})) << "its own, and then the newcomer itself holds most";
  EXPECT_EQ(HellosToEnd(held, {9, 200}, 1000), Slots()) << "the newcomer alone";
  EXPECT_EQ(HellosToEnd(held, {9, 60}, 1000), Slots({0}));
  EXPECT_EQ(HellosToEnd(held, {9, 50}, 1000), Slots({0, 1})) << "it holds no more than the newcomer; it is older";
}

TEST(HellosToEnd, ALargeOneOfASmallSourceDoesNotGoBeforeManySmallOnesOfALargeSource) {
  std::vector<HeldHello> held = {{8, 900, At(0), 1000}};
  for (uint32_t i = 0; i < 100; ++i) held.push_back({7, 10, At(100 - static_cast<int>(i)), i});
  const Slots slots = HellosToEnd(held, {}, 100);
  ASSERT_EQ(slots.size(), 10u);
  for (uint32_t i = 0; i < 10; ++i) EXPECT_EQ(slots[i], 99 - i);
}

// Against the rule as it is written.
TEST(HellosToEnd, AlwaysTheLargestByThen) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    std::vector<HeldHello> held;
    for (uint32_t i = 0; i < random() % 40; ++i) held.push_back({1 + random() % 5, 1 + random() % 20, At(static_cast<int>(random() % 1000)), i});
    const HelloNewcomer newcomer{1 + random() % 6, random() % 30};
    const size_t wanted = random() % 200;
    std::map<uint64_t, size_t> holds{{newcomer.source, newcomer.bytes}};
    for (const HeldHello& hello : held) holds[hello.source] += hello.bytes;
    std::vector<HeldHello> left = held;
    size_t freed = 0;
    for (uint32_t slot : HellosToEnd(held, newcomer, wanted)) {
      ASSERT_LT(freed, wanted);
      const auto gone = std::find_if(left.begin(), left.end(), [&](const HeldHello& h) { return h.slot == slot; });
      ASSERT_NE(gone, left.end());
      for (const auto& [source, bytes] : holds) ASSERT_LE(bytes, holds[gone->source]);
      for (const HeldHello& other : left) ASSERT_TRUE(other.source != gone->source || other.since >= gone->since);
      freed += gone->bytes;
      holds[gone->source] -= gone->bytes;
      left.erase(gone);
    }
    if (freed < wanted) {
      for (const HeldHello& other : left) ASSERT_LT(holds[other.source], holds[newcomer.source]);
      for (const HeldHello& other : left) ASSERT_NE(other.source, newcomer.source);
    }
  }
}

}  // namespace
}  // namespace hud
