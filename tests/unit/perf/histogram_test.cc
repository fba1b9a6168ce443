#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "perf/load/histogram.h"

namespace hud::load {
namespace {

TEST(Histogram, AnEmptyOneSaysZero) {
  const Histogram histogram;
  EXPECT_EQ(histogram.count(), 0u);
  EXPECT_EQ(histogram.ValueAt(0.5), 0u);
  EXPECT_EQ(histogram.largest(), 0u);
}

TEST(Histogram, SmallValuesAreExact) {
  Histogram histogram;
  for (uint64_t value = 1; value <= 200; ++value) histogram.Add(value);
  EXPECT_EQ(histogram.ValueAt(0.5), 100u);
  EXPECT_EQ(histogram.ValueAt(0.99), 198u);
  EXPECT_EQ(histogram.ValueAt(0), 1u);
  EXPECT_EQ(histogram.ValueAt(1), 200u);
}

TEST(Histogram, EachValueAloneIsKnownToWithinOnePercent) {
  for (int bit = 0; bit < 40; ++bit) {
    for (const double part : {1.0, 1.004, 1.3, 1.5, 1.999}) {
      Histogram histogram;
      const auto value = static_cast<uint64_t>(std::ldexp(part, bit));
      histogram.Add(value);
      histogram.Add(uint64_t{1} << 40);  // so that the largest value does not help
      EXPECT_NEAR(static_cast<double>(histogram.ValueAt(0.5)), static_cast<double>(value),
                  0.01 * static_cast<double>(value));
    }
  }
}

TEST(Histogram, SharesOfManyLatenciesAreThoseOfTheSortedList) {
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> latency(11, 1.5);  // around 60 us with a long tail
  Histogram histogram;
  std::vector<uint64_t> all(100'000);
  for (uint64_t& value : all) histogram.Add(value = static_cast<uint64_t>(latency(random)));
  std::sort(all.begin(), all.end());
  for (const double share : {0.001, 0.5, 0.9, 0.99, 0.999}) {
    const uint64_t exact = all[static_cast<size_t>(share * static_cast<double>(all.size())) - 1];
    EXPECT_NEAR(static_cast<double>(histogram.ValueAt(share)), static_cast<double>(exact),
                0.01 * static_cast<double>(exact))
        << share;
  }
  EXPECT_EQ(histogram.largest(), all.back());
  EXPECT_LE(histogram.ValueAt(1), all.back());
}

TEST(Histogram, WhatIsLongerThanTheScaleCountsAndIsTheLargest) {
  Histogram histogram;
  histogram.Add(5);
  histogram.Add(~uint64_t{0});
  EXPECT_EQ(histogram.count(), 2u);
  EXPECT_EQ(histogram.largest(), ~uint64_t{0});
  EXPECT_GT(histogram.ValueAt(1), uint64_t{1} << 39);
}

TEST(Histogram, TwoMergedAreOneWithTheValuesOfBoth) {
  Histogram low, high, both;
  for (uint64_t value = 1000; value < 2000; ++value) low.Add(value), both.Add(value);
  for (uint64_t value = 50'000; value < 51'000; ++value) high.Add(value), both.Add(value);
  low.Merge(high);
  EXPECT_EQ(low.count(), both.count());
  EXPECT_EQ(low.largest(), both.largest());
  for (const double share : {0.1, 0.5, 0.51, 0.99}) EXPECT_EQ(low.ValueAt(share), both.ValueAt(share)) << share;
}

}  // namespace
}  // namespace hud::load
