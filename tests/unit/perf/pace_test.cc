#include <gtest/gtest.h>

#include "perf/load/pace.h"
#include "perf/load/pattern.h"

namespace hud::load {
namespace {

using namespace std::chrono_literals;

constexpr Instant kStart{100s};

TEST(Pace, IsEvenAndDoesNotDriftOverTenMinutes) {
  Pace pace(30'000);  // an interval that is not a whole number of nanoseconds
  pace.Begin(kStart);
  EXPECT_EQ(pace.Take(), kStart);
  EXPECT_EQ(pace.Take(), kStart + 33'333ns);
  EXPECT_EQ(pace.Take(), kStart + 66'667ns);
  for (int i = 3; i < 30'000 * 600; ++i) pace.Take();
  EXPECT_EQ(pace.Next(), kStart + 10min);
}

TEST(Pace, NothingIsDueBeforeItBegins) {
  Pace pace(1e7);
  EXPECT_FALSE(pace.IsDue(kStart));
  pace.Begin(kStart);
  EXPECT_TRUE(pace.IsDue(kStart));
}

TEST(Pace, WhatIsLateKeepsTheInstantAtWhichItWasDue) {
  Pace pace(1000);
  pace.Begin(kStart);
  EXPECT_FALSE(pace.IsDue(kStart - 1ns));
  const Instant after_a_stall = kStart + 5500us;
  int due = 0;
  while (pace.IsDue(after_a_stall)) EXPECT_EQ(pace.Take(), kStart + due++ * 1ms);
  EXPECT_EQ(due, 6);
}

TEST(Pace, BeginsAgainWithoutADebt) {
  Pace pace(1000);
  pace.Begin(kStart);
  pace.Take();
  pace.Begin(kStart + 10s);
  EXPECT_EQ(pace.Take(), kStart + 10s);
}

TEST(Pattern, AByteDependsOnItsPlaceWhereverACallBegins) {
  const Pattern pattern;
  for (const uint64_t place : {uint64_t{0}, uint64_t{1}, uint64_t{65535}, uint64_t{65536}, uint64_t{1} << 40}) {
    const Bytes bytes = pattern.From(place, 10'000'000);
    ASSERT_EQ(bytes.size(), kSendBytes);
    for (size_t i = 0; i < bytes.size(); ++i) ASSERT_EQ(bytes[i], Pattern::At(place + i)) << place << " + " << i;
  }
  EXPECT_EQ(pattern.From(5, 3).size(), 3u);
}

TEST(Pattern, NeighboursDiffer) {
  for (uint64_t place = 0; place < 70'000; ++place) ASSERT_NE(Pattern::At(place), Pattern::At(place + 1)) << place;
}

}  // namespace
}  // namespace hud::load
