#include "core/base/timer_wheel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

namespace hud {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

const Instant kStart = Instant(hours(7)) + milliseconds(3);

TEST(TimerWheel, AnEmptyWheelHasNoDeadline) {
  TimerWheel wheel(kStart);
  EXPECT_EQ(wheel.NextDeadline(), Instant::max());
}

TEST(TimerWheel, FiresNeverBeforeAndAtMostATickAfter) {
  for (Duration delay : {Duration(0), Duration(milliseconds(1)), Duration(milliseconds(10)), Duration(milliseconds(639)),
                         Duration(milliseconds(640)), Duration(milliseconds(641)), Duration(seconds(41)), Duration(minutes(10)),
                         Duration(hours(1)), Duration(hours(30))}) {
    TimerWheel wheel(kStart);
    TimerEntry entry;
    wheel.Set(entry, kStart + delay);
    Instant now = kStart;
    int fired = 0;
    for (int step = 0; fired == 0 && step < 1000; ++step) {
      now = std::max(now + Duration(1), wheel.NextDeadline());
      wheel.Advance(now, [&](TimerEntry& e) {
        EXPECT_EQ(&e, &entry);
        ++fired;
      });
    }
    EXPECT_EQ(fired, 1);
    EXPECT_GE(now, kStart + delay);
    EXPECT_LE(now, kStart + delay + 2 * TimerWheel::kTick);
    EXPECT_FALSE(entry.IsSet());
  }
}

TEST(TimerWheel, AFiringTimerMayCancelAnotherThatIsDueToo) {
  TimerWheel wheel(kStart);
  TimerEntry a, b;
  wheel.Set(a, kStart + seconds(1));
  wheel.Set(b, kStart + seconds(1));
  int fired = 0;
  wheel.Advance(kStart + seconds(2), [&](TimerEntry& e) {
    ++fired;
    wheel.Cancel(&e == &a ? b : a);
  });
  EXPECT_EQ(fired, 1);
  EXPECT_EQ(wheel.size(), 0u);
}

// Against a sorted reference, with sets, moves, cancels and sleeps of all sizes.
TEST(TimerWheel, AgreesWithASortedListOverRandomRuns) {
  for (uint32_t seed = 1; seed <= 30; ++seed) {
    std::mt19937 random(seed);
    TimerWheel wheel(kStart);
    std::vector<TimerEntry> entries(200);
    std::map<TimerEntry*, Instant> reference;
    Instant now = kStart;
    auto delay = [&] { return milliseconds(std::uniform_int_distribution<int64_t>(0, int64_t{1} << (random() % 27))(random)); };
    for (int step = 0; step < 3000; ++step) {
      TimerEntry& entry = entries[random() % entries.size()];
      switch (random() % 4) {
        case 0:
        case 1:
          reference[&entry] = now + delay();
          wheel.Set(entry, reference[&entry]);
          break;
        case 2:
          wheel.Cancel(entry);
          reference.erase(&entry);
          break;
        default:
          now += milliseconds(random() % 3000);
          for (auto& [e, when] : reference) {
            ASSERT_LE(wheel.NextDeadline(), when + TimerWheel::kTick) << "would oversleep, seed " << seed;
          }
          wheel.Advance(now, [&](TimerEntry& e) {
            auto it = reference.find(&e);
            ASSERT_NE(it, reference.end()) << "seed " << seed;
            ASSERT_LE(it->second, now) << "fired early, seed " << seed;
            reference.erase(it);
          });
          for (auto& [e, when] : reference) ASSERT_GT(when + TimerWheel::kTick, now) << "not fired, seed " << seed;
      }
      ASSERT_EQ(wheel.size(), reference.size());
    }
  }
}

}  // namespace
}  // namespace hud
