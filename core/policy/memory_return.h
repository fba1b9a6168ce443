// When memory that connections held goes back to the kernel. The allocator keeps what is freed below something that lives, so
// that after a flood the process would stay as large as it was then. To give it back takes time, in which a worker that
// allocates may wait: it is done once when much has been freed, not as it is freed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/base/types.h"

namespace hud {

class MemoryReturn {
 public:
  static constexpr size_t kWorthIt = 16 << 20;
  static constexpr Duration kLookEvery = std::chrono::seconds(1);
  static constexpr Duration kPause = std::chrono::seconds(10);  // after it was given back

  // `held`: what connections hold now, in bytes, roughly; a peak that no call sees is not known of. True: give back now.
  bool Due(Instant now, size_t held) {
    most_ = std::max(most_, held);
    if (now < next_look_) return false;
    next_look_ = now + kLookEvery;
    if (most_ - held < kWorthIt) {
      last_ = kNone;
      return false;
    }
    if (held + kWorthIt / 4 < std::exchange(last_, held)) return false;  // it may fall on
    last_ = kNone;
    most_ = held;
    next_look_ = now + kPause;
    return true;
  }

 private:
  static constexpr size_t kNone = SIZE_MAX;

  size_t most_ = 0;      // held at once since memory was last given back
  size_t last_ = kNone;  // at the last look, if so much had been freed by then
  Instant next_look_{};
};

}  // namespace hud
