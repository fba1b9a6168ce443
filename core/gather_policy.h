// When a worker that has to wait should gather several completions instead of waking for each: only while so many come
// that the gathering ends long before anybody notices. Pure: the worker tells what each turn brought.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/types.h"

namespace hud {

class GatherPolicy {
 public:
  // The longest that a completion may wait for others.
  static constexpr Duration kPatience = std::chrono::microseconds(50);
  // Fewer than this in kPatience are not worth waiting for.
  static constexpr double kLeast = 4;
  static constexpr unsigned kMost = 64;

  // A turn brought so many completions, `elapsed` after the one before.
  void SawTurn(size_t completions, Duration elapsed) {
    constexpr double kMemory = 0.9;  // of a rate that was measured before, a turn later
    const double turns_per_patience = static_cast<double>(kPatience.count()) / static_cast<double>(std::max<int64_t>(elapsed.count(), 1000));
    expected_ = kMemory * expected_ + (1 - kMemory) * static_cast<double>(completions) * turns_per_patience;
  }

  // How many to wait for, at most kPatience long; 1: wake for the first.
  unsigned Completions() const { return expected_ < kLeast ? 1 : std::min(static_cast<unsigned>(expected_), kMost); }

 private:
  double expected_ = 0;  // completions in kPatience, as of late
};

}  // namespace hud
