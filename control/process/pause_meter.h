// Notices that this process itself stood still: stopped by a signal, by a debugger, by the machine under its virtual
// machine, or starved. What agents said in that time may be lost, so it counts as heard.
#pragma once

#include <algorithm>

#include "core/base/types.h"

namespace hud {

class PauseMeter {
 public:
  static constexpr Duration kTolerance = std::chrono::milliseconds(250);

  explicit PauseMeter(Instant now) : last_turn_(now) {}

  // Once a turn, at its beginning. `asked`: how long the turn before meant to sleep, at most.
  Duration OnTurn(Instant now, Duration asked) {
    const Duration elapsed = now - last_turn_;
    last_turn_ = now;
    return elapsed > asked + kTolerance ? elapsed - asked : Duration(0);
  }

 private:
  Instant last_turn_;
};

}  // namespace hud
