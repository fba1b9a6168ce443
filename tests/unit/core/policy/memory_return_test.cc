#include "core/policy/memory_return.h"

#include <gtest/gtest.h>

namespace hud {
namespace {

using std::chrono::seconds;

constexpr size_t kMuch = 4 * MemoryReturn::kWorthIt;

class MemoryReturnTest : public testing::Test {
 protected:
  // A second later.
  bool Due(size_t held) { return memory_.Due(now_ += seconds(1), held); }

  MemoryReturn memory_;
  Instant now_{seconds(1000)};
};

TEST_F(MemoryReturnTest, OnceAfterMuchWasFreed) {
  EXPECT_FALSE(Due(0));
  EXPECT_FALSE(Due(kMuch));
  EXPECT_FALSE(Due(0)) << "it just fell, and may fall on";
  EXPECT_TRUE(Due(0));
  for (int i = 0; i < 60; ++i) EXPECT_FALSE(Due(0)) << "nothing has been freed since";
}

TEST_F(MemoryReturnTest, NotForLittle) {
  for (int i = 0; i < 60; ++i) EXPECT_FALSE(Due(i % 2 == 0 ? MemoryReturn::kWorthIt - 1 : 0));
}

TEST_F(MemoryReturnTest, NotWhileItIsHeldOrStillFalls) {
  for (int i = 0; i < 60; ++i) EXPECT_FALSE(Due(kMuch));
  for (size_t held = kMuch; held > MemoryReturn::kWorthIt / 2; held -= MemoryReturn::kWorthIt / 2) EXPECT_FALSE(Due(held));
  EXPECT_FALSE(Due(0));
  EXPECT_TRUE(Due(0));
}

TEST_F(MemoryReturnTest, APeakBetweenTwoLooksCounts) {
  EXPECT_FALSE(Due(0));
  EXPECT_FALSE(memory_.Due(now_ + std::chrono::milliseconds(10), kMuch));
  EXPECT_FALSE(Due(kMuch / 4)) << "on its way down, for all that is known";
  EXPECT_FALSE(Due(0));
  EXPECT_TRUE(Due(0));
}

TEST_F(MemoryReturnTest, FloodsThatComeAndGoCostOneInTenSeconds) {
  int times = 0;
  for (int i = 0; i < 100; ++i) times += Due(i % 3 == 0 ? kMuch : 0);
  EXPECT_GT(times, 0);
  EXPECT_LE(times, 10);
}

TEST_F(MemoryReturnTest, WhatStaysHeldIsNotCountedAgain) {
  EXPECT_FALSE(Due(2 * kMuch));
  EXPECT_FALSE(Due(kMuch));
  EXPECT_TRUE(Due(kMuch));
  for (int i = 0; i < 60; ++i) EXPECT_FALSE(Due(kMuch));
}

}  // namespace
}  // namespace hud
