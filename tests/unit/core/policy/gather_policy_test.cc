#include "core/policy/gather_policy.h"

#include <gtest/gtest.h>

namespace hud {
namespace {

using namespace std::chrono_literals;

Batch After(int turns, size_t completions, Duration each, bool bulk = false) {
  GatherPolicy policy;
  for (int i = 0; i < turns; ++i) policy.SawTurn(completions, each, bulk, false);
  return policy.Next();
}

TEST(GatherPolicy, AWorkerThatHasSeenNothingWakesForTheFirst) { EXPECT_EQ(GatherPolicy().Next().completions, 1u); }

TEST(GatherPolicy, OneConnectionThatExchangesMessagesIsNeverKeptWaiting) {
  EXPECT_EQ(After(1000, 2, 50us).completions, 1u);
}

TEST(GatherPolicy, ManyCompletionsInAShortTimeAreGathered) {
  const Batch batch = After(100, 16, 50us);
  EXPECT_GE(batch.completions, 14u);
  EXPECT_LE(batch.completions, 16u);
  EXPECT_EQ(batch.patience, GatherPolicy::kPatience);
}

// Two come together, then nothing for a long time: most turns are short, but few complete.
TEST(GatherPolicy, ShortTurnsBetweenLongWaitsAreNoFlood) {
  GatherPolicy policy;
  for (int i = 0; i < 100; ++i) {
    policy.SawTurn(1, 100us, false, true);
    policy.SawTurn(1, 2us, false, true);
    EXPECT_EQ(policy.Next().completions, 1u);
  }
}

TEST(GatherPolicy, HoweverManyComeTheBatchIsBounded) {
  EXPECT_EQ(After(100, 512, 1us).completions, GatherPolicy::kMost);
  EXPECT_EQ(After(100, 512, 0us).completions, GatherPolicy::kMost);
}

TEST(GatherPolicy, ABurstIsForgottenSoonAfterItIsOver) {
  GatherPolicy policy;
  for (int i = 0; i < 100; ++i) policy.SawTurn(64, 50us, false, true);
  ASSERT_GT(policy.Next().completions, 1u);
  int turns = 0;
  for (; policy.Next().completions > 1; ++turns) policy.SawTurn(1, 1ms, false, true);
  EXPECT_LE(turns, 30);
}

TEST(GatherPolicy, BulkWaitsLongerAndOnlyWhileItMoves) {
  EXPECT_EQ(After(1, 1, 1ms, true).patience, GatherPolicy::kBulkPatience);
  GatherPolicy policy;
  policy.SawTurn(1, 1ms, true, false);
  policy.SawTurn(1, 1ms, false, false);
  EXPECT_EQ(policy.Next().completions, 1u);
}

TEST(GatherPolicy, BulkDoesNotKeepMessagesWaiting) {
  GatherPolicy policy;
  policy.SawTurn(1, 1ms, true, true);
  EXPECT_EQ(policy.Next().completions, 1u);
  for (int i = 0; i < 5; ++i) policy.SawTurn(1, 1ms, true, false);
  EXPECT_EQ(policy.Next().patience, GatherPolicy::kBulkPatience);
}

}  // namespace
}  // namespace hud
