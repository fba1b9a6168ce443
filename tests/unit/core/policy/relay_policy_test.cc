#include "core/policy/relay_policy.h"

#include <gtest/gtest.h>

namespace hud {
namespace {

constexpr size_t kBuffer = 16 * 1024;

TEST(RelayPolicy, TwoFullBuffersWithMoreBehindThemAreBulk) {
  RelayPolicy policy;
  EXPECT_FALSE(policy.SawReceive(kBuffer, kBuffer, true));
  EXPECT_TRUE(policy.SawReceive(kBuffer, kBuffer, true));
}

TEST(RelayPolicy, MessagesThatJustFillABufferStayMessages) {
  RelayPolicy policy;
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(policy.SawReceive(kBuffer, kBuffer, false));
}

TEST(RelayPolicy, AShortReceiveBeginsTheCountAnew) {
  RelayPolicy policy;
  policy.SawReceive(kBuffer, kBuffer, true);
  policy.SawReceive(kBuffer - 1, kBuffer, true);
  EXPECT_FALSE(policy.SawReceive(kBuffer, kBuffer, true));
  EXPECT_TRUE(policy.SawReceive(kBuffer, kBuffer, true));
}

TEST(RelayPolicy, FourSmallTransfersInARowLeaveBulk) {
  RelayPolicy policy;
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(policy.SawBulkTransfer(RelayPolicy::kSmallTransfer - 1));
  EXPECT_FALSE(policy.SawBulkTransfer(RelayPolicy::kSmallTransfer));
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(policy.SawBulkTransfer(1));
  EXPECT_TRUE(policy.SawBulkTransfer(1));
}

TEST(SpliceChunk, IsWhatTheSinkHasRoomForButNeverTooLittleNorMoreThanThePipe) {
  EXPECT_EQ(SpliceChunk(1 << 20, 300'000, 100'000), 200'000u);
  EXPECT_EQ(SpliceChunk(1 << 20, 300'000, 400'000), 16u * 1024);
  EXPECT_EQ(SpliceChunk(64 * 1024, 4'000'000, 0), 64u * 1024);
}

}  // namespace
}  // namespace hud
