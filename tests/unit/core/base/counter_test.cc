#include "core/base/counter.h"

#include <gtest/gtest.h>

#include "core/report/worker_counters.h"

namespace hud {
namespace {

TEST(DurationHistogram, ATimeIsInTheFirstBucketWhoseBoundIsNotBelowIt) {
  using Histogram = DurationHistogram<6, 20>;
  struct Row {
    uint64_t microseconds;
    size_t bucket;
  };
  for (const Row& row : {Row{0, 0}, Row{1, 0}, Row{64, 0}, Row{65, 1}, Row{128, 1}, Row{129, 2}, Row{1 << 25, 19},
                         Row{(1 << 25) + 1, 20}, Row{UINT64_MAX, 20}}) {
    EXPECT_EQ(Histogram::BucketOf(row.microseconds), row.bucket) << row.microseconds;
  }
  EXPECT_EQ(Histogram::BoundSeconds(0), 64e-6);
  Histogram histogram;
  histogram.Add(100);
  histogram.Add(120);
  EXPECT_EQ(histogram.Bucket(1), 2);
  EXPECT_EQ(histogram.SumMicroseconds(), 220);
}

TEST(NodeTraffic, ASlotThatGoesToAnotherNodeBeginsAtNothing) {
  NodeTraffic traffic;
  traffic.Add(3, 10, 20);
  traffic.Add(3, 1, 2);
  EXPECT_EQ(traffic.BytesIn(3), 11);
  EXPECT_EQ(traffic.BytesOut(3), 22);
  EXPECT_EQ(traffic.BytesIn(4), 0);
  traffic.Add(4, 5, 0);
  EXPECT_EQ(traffic.BytesIn(4), 5);
  EXPECT_EQ(traffic.BytesOut(4), 0);
  EXPECT_EQ(traffic.BytesIn(3), 0);
}

}  // namespace
}  // namespace hud
