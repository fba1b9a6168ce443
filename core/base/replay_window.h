// Which sequence numbers have been seen: the newest, and the kReplayWindow behind it (RFC 4303's sliding window).
#pragma once

#include <array>
#include <cstdint>

#include "core/base/limits.h"

namespace hud {

class ReplayWindow {
 public:
  // True, and noted, if `sequence` was never accepted before. Zero and what is older than the window never is.
  bool Accept(uint64_t sequence) {
    if (sequence > newest_) {
      ForgetBetween(newest_, sequence);
      newest_ = sequence;
      Word(sequence) |= Bit(sequence);
      return true;
    }
    if (sequence == 0 || newest_ - sequence >= limits::kReplayWindow) return false;
    if ((Word(sequence) & Bit(sequence)) != 0) return false;
    Word(sequence) |= Bit(sequence);
    return true;
  }
  uint64_t newest() const { return newest_; }

 private:
  // The numbers that enter the window take the places of those that leave it.
  void ForgetBetween(uint64_t newest, uint64_t sequence) {
    if (sequence - newest >= limits::kReplayWindow) {
      seen_.fill(0);
      return;
    }
    for (uint64_t s = newest + 1; s <= sequence; ++s) Word(s) &= ~Bit(s);
  }
  uint64_t& Word(uint64_t sequence) { return seen_[sequence / 64 % seen_.size()]; }
  static uint64_t Bit(uint64_t sequence) { return uint64_t{1} << (sequence % 64); }

  static_assert(limits::kReplayWindow % 64 == 0);
  std::array<uint64_t, limits::kReplayWindow / 64> seen_{};
  uint64_t newest_ = 0;
};

}  // namespace hud
