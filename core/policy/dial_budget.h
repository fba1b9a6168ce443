// How long one attempt to connect may take, out of the time for all of them: half of what is left, so that a silent
// node leaves time for the next ones; all of it when there is no next one.
#pragma once

#include <algorithm>

#include "core/base/types.h"

namespace hud {

inline Duration DialAttemptLimit(Duration left, uint32_t attempts_left) {
  constexpr Duration kLeast = std::chrono::milliseconds(20);
  return std::max(attempts_left > 1 ? left / 2 : left, kLeast);
}

}  // namespace hud
