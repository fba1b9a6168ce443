#include "core/policy/engine_policy.h"

#include <gtest/gtest.h>

namespace hud {
namespace {

using Bulk = EnginePolicy::Bulk;

TEST(EnginePolicy, HasARowForEachMode) {
  const EnginePolicy automatic = PolicyOf(RelayMode::kAuto);
  EXPECT_EQ(automatic.bulk, Bulk::kAfterFullBuffers);
  EXPECT_TRUE(automatic.may_return);
  EXPECT_TRUE(automatic.pipeless_zero_copy);
  EXPECT_FALSE(automatic.zero_copy_only);
  EXPECT_EQ(PolicyOf(RelayMode::kCopy).bulk, Bulk::kNever);
  for (RelayMode forced : {RelayMode::kSplice, RelayMode::kZeroCopy}) {
    EXPECT_EQ(PolicyOf(forced).bulk, Bulk::kAlways);
    EXPECT_FALSE(PolicyOf(forced).may_return) << "an engine that is forced is kept";
    EXPECT_EQ(PolicyOf(forced).zero_copy_only, forced == RelayMode::kZeroCopy);
  }
}

}  // namespace
}  // namespace hud
