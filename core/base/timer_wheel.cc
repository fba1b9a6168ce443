#include "core/base/timer_wheel.h"

#include <algorithm>

#include "core/base/check.h"

namespace hud {
namespace {

constexpr int kSlotBits = 6;
constexpr int64_t kHorizon = int64_t{1} << (kSlotBits * TimerWheel::kLevels);  // ticks: 46 hours

}  // namespace

TimerWheel::TimerWheel(Instant now) : origin_(now) {
  for (auto& level : slots_) {
    for (TimerEntry& head : level) head.next_ = head.previous_ = &head;
  }
}

void TimerWheel::Set(TimerEntry& entry, Instant deadline) {
  if (entry.IsSet()) Unlink(entry);
  entry.deadline_ = deadline;
  Place(entry);
  ++size_;
}

void TimerWheel::Cancel(TimerEntry& entry) {
  if (entry.IsSet()) Unlink(entry);
}

void TimerWheel::Unlink(TimerEntry& entry) {
  entry.previous_->next_ = entry.next_;
  entry.next_->previous_ = entry.previous_;
  entry.next_ = entry.previous_ = nullptr;
  --size_;
}

void TimerWheel::Place(TimerEntry& entry) {
  // Rounded up: never early. At least the next tick: the current one has fired already.
  const int64_t due = TickOf(entry.deadline_ + kTick - Duration(1));
  const int64_t tick = std::clamp(due, tick_ + 1, tick_ + kHorizon - 1);
  int level = 0;
  while (level < kLevels - 1 && (tick >> (kSlotBits * (level + 1))) != (tick_ >> (kSlotBits * (level + 1)))) ++level;
  TimerEntry& head = slots_[static_cast<size_t>(level)][(tick >> (kSlotBits * level)) & (kSlots - 1)];
  entry.previous_ = head.previous_;
  entry.next_ = &head;
  head.previous_->next_ = &entry;
  head.previous_ = &entry;
}

// When the tick enters a new slot of a higher level, that slot's entries are spread over the levels below.
void TimerWheel::Cascade() {
  for (int level = 1; level < kLevels; ++level) {
    if ((tick_ & ((int64_t{1} << (kSlotBits * level)) - 1)) != 0) return;
    TimerEntry& head = slots_[static_cast<size_t>(level)][(tick_ >> (kSlotBits * level)) & (kSlots - 1)];
    TimerEntry* entry = head.next_;
    head.next_ = head.previous_ = &head;
    while (entry != &head) {
      TimerEntry* next = entry->next_;
      // An entry due at this very tick belongs to the slot that fires right after the cascade.
      const int64_t due = TickOf(entry->deadline_ + kTick - Duration(1));
      if (due <= tick_) {
        TimerEntry& now = slots_[0][tick_ & (kSlots - 1)];
        entry->previous_ = now.previous_;
        entry->next_ = &now;
        now.previous_->next_ = entry;
        now.previous_ = entry;
      } else {
        Place(*entry);
      }
      entry = next;
    }
  }
}

Instant TimerWheel::NextDeadline() const {
  if (size_ == 0) return Instant::max();
  for (int level = 0; level < kLevels; ++level) {
    const int shift = kSlotBits * level;
    // Slots of this level still ahead in the current turn of the level above.
    for (int64_t step = (tick_ >> shift) + 1; (step & (kSlots - 1)) != 0; ++step) {
      const TimerEntry& head = slots_[static_cast<size_t>(level)][step & (kSlots - 1)];
      if (head.next_ != &head) return origin_ + (step << shift) * kTick;
    }
  }
  // Only the far end of the highest level is left: look again when it turns over.
  return origin_ + (((tick_ >> (kSlotBits * kLevels)) + 1) << (kSlotBits * kLevels)) * kTick;
}

}  // namespace hud
