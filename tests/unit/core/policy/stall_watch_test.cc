#include "core/policy/stall_watch.h"

#include <gtest/gtest.h>

namespace hud {
namespace {

using namespace std::chrono_literals;

// Two workers and whoever watches them, who turns every half second and wakes them when he is told to.
class StallWatchTest : public ::testing::Test {
 protected:
  std::vector<StallWatch::News> For(Duration time) {
    std::vector<StallWatch::News> all;
    for (const Instant end = now_ + time; now_ < end;) {
      now_ += 500ms;
      for (const StallWatch::News& news : watch_.Look(now_, turns_, patience_)) all.push_back(news);
      if (watch_.TakeWake(now_, patience_)) {
        for (size_t i = 0; i < turns_.size(); ++i) turns_[i] += hangs_[i] ? 0 : 1;
      }
    }
    return all;
  }

  Instant now_{1000s};
  Duration patience_ = 10s;
  std::vector<int64_t> turns_ = {0, 0};
  std::vector<bool> hangs_ = {false, false};
  StallWatch watch_{2, now_};
};

TEST_F(StallWatchTest, WorkersThatSleepUntilTheyAreWokenAreFine) {
  EXPECT_TRUE(For(10min).empty());
  EXPECT_EQ(watch_.stalls(0), 0u);
}

TEST_F(StallWatchTest, OneThatHangsIsFoundOnceAndItsReturnIsTold) {
  For(5s);
  hangs_[1] = true;
  EXPECT_TRUE(For(9s).empty()) << "not before its time";
  const auto found = For(10min);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].worker, 1u);
  EXPECT_FALSE(found[0].back);
  EXPECT_GE(found[0].stood, 10s);
  EXPECT_LE(found[0].stood, 11s);
  EXPECT_TRUE(watch_.AnyHangs() && watch_.Hangs(1) && !watch_.Hangs(0));
  hangs_[1] = false;
  const auto back = For(10s);
  ASSERT_EQ(back.size(), 1u);
  EXPECT_TRUE(back[0].back);
  EXPECT_GE(back[0].stood, 10min);
  EXPECT_FALSE(watch_.AnyHangs());
  EXPECT_EQ(watch_.stalls(1), 1u);
  hangs_[1] = true;
  EXPECT_EQ(For(15s).size(), 1u);
  EXPECT_EQ(watch_.stalls(1), 2u);
}

TEST_F(StallWatchTest, AProcessThatWasStoppedIsNotJudgedForIt) {
  hangs_ = {true, true};  // as the whole process
  For(4s);
  now_ += 3h;             // the machine slept, a moment after they were woken
  hangs_ = {false, false};
  EXPECT_TRUE(For(1min).empty());
  hangs_ = {true, true};
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(For(2s).empty()) << "nor for many times together with what it was slow by itself";
    now_ += 1h;
  }
  hangs_ = {false, false};
  EXPECT_TRUE(For(1min).empty());
}

TEST_F(StallWatchTest, PatienceMayChange) {
  hangs_[0] = true;
  For(5s);
  patience_ = 2s;
  EXPECT_EQ(For(1s).size(), 1u);
}

}  // namespace
}  // namespace hud
