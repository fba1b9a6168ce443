// When the operations of a paced load are due: evenly, whatever becomes of them (an open loop). A proxy that stalls
// does not slow the load down, and each operation's latency counts from when it was due.
#pragma once

#include <chrono>

#include "core/base/types.h"

namespace hud::load {

class Pace {
 public:
  explicit Pace(double per_second) : interval_(std::chrono::duration<double>(1 / per_second)) {}

  // Before it nothing is ever due.
  void Begin(Instant now) { start_ = now, taken_ = 0; }
  Instant Next() const {  // from the start each time, so that rounding does not add up
    return start_ + std::chrono::round<Duration>(static_cast<double>(taken_) * interval_);
  }
  bool IsDue(Instant now) const { return Next() <= now; }
  Instant Take() {
    const Instant due = Next();
    ++taken_;
    return due;
  }

 private:
  std::chrono::duration<double> interval_;
  Instant start_ = Instant::max();
  uint64_t taken_ = 0;
};

}  // namespace hud::load
