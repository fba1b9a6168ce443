// The bytes that both sides send. A receiver that knows a byte's place in its message knows the byte.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/base/types.h"

namespace hud::load {

inline constexpr size_t kSendBytes = 256 * 1024;  // the most that one call sends

class Pattern {
 public:
  static constexpr uint8_t At(uint64_t place) {
    const uint64_t at = place % kPeriod;
    return static_cast<uint8_t>(at * 167 + at / 256 + 0x5a);
  }

  // What one call may send of a message that goes on from `place` for `left` bytes.
  Bytes From(uint64_t place, uint64_t left) const {
    return {bytes_.data() + place % kPeriod, static_cast<size_t>(std::min<uint64_t>(left, kSendBytes))};
  }

 private:
  static constexpr size_t kPeriod = 64 * 1024;

  static std::vector<uint8_t> Make() {
    std::vector<uint8_t> bytes(kPeriod + kSendBytes);  // so that a call can begin anywhere in the period
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = At(i);
    return bytes;
  }

  std::vector<uint8_t> bytes_ = Make();
};

}  // namespace hud::load
