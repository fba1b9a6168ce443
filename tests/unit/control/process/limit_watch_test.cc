#include "control/process/limit_watch.h"

#include <gtest/gtest.h>

namespace hud {
namespace {

using namespace std::chrono_literals;

TEST(LimitWatch, SaysEachLimitOnceInTenSecondsWithWhatHappenedSince) {
  WorkerCounters a, b;
  LimitWatch watch({&a, &b});
  const Instant start{1h};
  EXPECT_TRUE(watch.Look(start).empty());
  a.limit_reached.Add();
  b.evicted_for_places.Add(7);
  auto said = watch.Look(start + 1s);
  ASSERT_EQ(said.size(), 1u);
  EXPECT_TRUE(said[0].message.find("max_connections") != std::string_view::npos);
  ASSERT_EQ(said[0].counts.size(), 3u);
  EXPECT_EQ(said[0].counts[0].second, 1);
  EXPECT_EQ(said[0].counts[1].second, 7);
  EXPECT_EQ(said[0].counts[2].second, 0);
  b.evicted_for_places.Add(5);
  EXPECT_TRUE(watch.Look(start + 5s).empty());
  a.evicted_for_places.Add(1);
  a.accept_backoffs.Add();
  said = watch.Look(start + 10s);
  ASSERT_EQ(said.size(), 1u) << "the other limit has a clock of its own";
  EXPECT_TRUE(said[0].message.find("descriptors") != std::string_view::npos);
  EXPECT_FALSE(said[0].names_source) << "nobody made room for it";
  said = watch.Look(start + 11s);
  ASSERT_EQ(said.size(), 1u);
  EXPECT_EQ(said[0].counts[1].second, 6);
  EXPECT_TRUE(watch.Look(start + 60s).empty()) << "nothing has happened since";
}

TEST(LimitWatch, KnowsTheMemoryForHellosAndTheLimitOfASource) {
  WorkerCounters w;
  LimitWatch watch({&w});
  w.closes[static_cast<size_t>(CloseReason::kSourceLimit)].Add(3);
  w.hello_budget_refused.Add(2);
  const auto said = watch.Look(Instant{1h});
  ASSERT_EQ(said.size(), 2u);
  EXPECT_TRUE(said[0].message.find("hello_budget") != std::string_view::npos);
  EXPECT_TRUE(said[1].message.find("max_connections_per_source") != std::string_view::npos);
  EXPECT_EQ(said[1].counts[0].second, 3);
  EXPECT_TRUE(said[0].names_source && said[1].names_source);
}

}  // namespace
}  // namespace hud
