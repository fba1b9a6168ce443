// Deadlines for many connections: a hierarchical timer wheel (Varghese and Lauck 1987), intrusive, no allocation.
// Ticks of 10 ms, four levels of 64 slots: set, move and cancel cost O(1); a timer fires at the first Advance() at or
// after its deadline, never before it.
#pragma once

#include <array>
#include <cstdint>

#include "core/base/types.h"

namespace hud {

class TimerWheel;

// Lives inside the object it times. Must not move or die while set.
class TimerEntry {
 public:
  bool IsSet() const { return next_ != nullptr; }
  Instant deadline() const { return deadline_; }

 private:
  friend class TimerWheel;
  TimerEntry* next_ = nullptr;
  TimerEntry* previous_ = nullptr;
  Instant deadline_{};
};

class TimerWheel {
 public:
  static constexpr Duration kTick = std::chrono::milliseconds(10);
  static constexpr int kLevels = 4;
  static constexpr int kSlots = 64;

  explicit TimerWheel(Instant now);
  TimerWheel(const TimerWheel&) = delete;
  TimerWheel& operator=(const TimerWheel&) = delete;

  void Set(TimerEntry& entry, Instant deadline);  // moves it if it is set
  void Cancel(TimerEntry& entry);

  // Calls fire(entry) for every entry that is due; the entry is no longer set then, and fire may set or cancel any.
  template <typename Fire>
  void Advance(Instant now, Fire&& fire) {
    const int64_t target = TickOf(now);
    while (tick_ < target) {
      // Whole stretches without an entry are skipped at once, so a long sleep costs no loop over its ticks.
      if (size_ == 0) {
        tick_ = target;
        return;
      }
      ++tick_;
      Cascade();
      FireSlot(tick_ & (kSlots - 1), fire);
    }
  }

  // When Advance() should be called next; Instant::max() if nothing is set. Never later than the next deadline's tick.
  Instant NextDeadline() const;
  size_t size() const { return size_; }

 private:
  int64_t TickOf(Instant t) const { return (t - origin_) / kTick; }
  void Place(TimerEntry& entry);
  void Cascade();
  void Unlink(TimerEntry& entry);

  template <typename Fire>
  void FireSlot(int64_t slot, Fire&& fire) {
    TimerEntry& head = slots_[0][static_cast<size_t>(slot)];
    while (head.next_ != &head) {
      TimerEntry& entry = *head.next_;
      Unlink(entry);
      fire(entry);
    }
  }

  Instant origin_;
  int64_t tick_ = 0;  // every entry due at or before this tick has fired
  size_t size_ = 0;
  std::array<std::array<TimerEntry, kSlots>, kLevels> slots_;  // heads of circular lists
};

}  // namespace hud
