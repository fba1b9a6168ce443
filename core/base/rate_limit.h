// A token bucket without a timer: so much at once, and then so much a second. (The cell rate algorithm of ATM: one
// instant is the whole state.)
#pragma once

#include <algorithm>

#include "core/base/types.h"

namespace hud {

class RateLimit {
 public:
  RateLimit(Duration each, int64_t burst) : each_(each), burst_(burst) {}

  // True, and spent, if `n` may pass now. Time that steps back earns nothing.
  bool Take(Instant now, int64_t n = 1) {
    const Instant after = std::max(spent_until_, now - each_ * burst_) + each_ * n;
    if (after > now) return false;
    spent_until_ = after;
    return true;
  }
  // When one more may pass.
  Instant Next(Instant now) const { return std::max(spent_until_, now - each_ * burst_) + each_; }

 private:
  Duration each_;
  int64_t burst_;
  Instant spent_until_ = Instant::min();
};

}  // namespace hud
