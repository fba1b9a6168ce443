// The limits that all workers have together: places (max_connections), memory for hellos that are not finished, and how many
// places one source may have. A hash decides which worker gets a client, so no worker has a share of its own.
//
// Full is fair. The newcomer is taken, and room is made by the source that holds most, wherever that is: a worker that has
// nothing of it asks the one that does. Where nobody holds more than the newcomer's source, the oldest unfinished hello or the
// longest idle relay makes room, whosever it is. Sources are counted only once half of the places are in use (or a limit of one
// source's is set): before that, a connection costs one addition to `used` and one look at `watched`.
#pragma once

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>

#include "core/admission/loop_guard.h"
#include "core/admission/source.h"
#include "core/base/check.h"
#include "core/base/limits.h"
#include "core/base/siphash.h"
#include "ring/pass_through/source_counts.h"

namespace hud {

struct PlaceLimits {
  size_t connections = 1000;
  size_t per_source = 0;  // 0: none
  size_t hello_bytes = 64 << 20;
  unsigned workers = 1;
  size_t accepts = 1;  // listening sockets of all workers, to begin with: each may have one client on its way when the last place is taken
};

class Places {
 public:
  static constexpr unsigned kNobody = limits::kMaxWorkers;

  Places(const PlaceLimits& limits, const SipKey& key)
      : limits_(limits),
        key_(key),
        loops_(limits.connections, key),
        accepts_(limits.accepts),
        watched_(limits.per_source > 0) {
    HUD_CHECK(limits.workers > 0 && limits.workers <= limits::kMaxWorkers);
    for (Seat& seat : seats_) seat.wake = -1;
  }

  const PlaceLimits& limits() const { return limits_; }
  // The eventfd of a worker, before any of them runs.
  void SetWake(unsigned worker, int fd) { seats_[worker].wake = fd; }

  // ---- Places

  // Returns how many are in use then, which may be more than there are: then somebody has to make room.
  size_t Take() { return used_.fetch_add(1, std::memory_order_relaxed) + 1; }
  void GiveBack() { used_.fetch_sub(1, std::memory_order_relaxed); }
  size_t used() const { return used_.load(std::memory_order_relaxed); }
  // More than the limit, but what was on its way when the last place was taken.
  size_t spare() const { return accepts_.load(std::memory_order_relaxed) - 1; }
  // By control, when listeners come and go.
  void AddAccepts(ptrdiff_t more) { accepts_.fetch_add(static_cast<size_t>(more), std::memory_order_relaxed); }

  // ---- Sources

  // Are they counted? From the moment on when half of the places are in use. Wakes all workers then: each has to count
  // what it has.
  bool Watched(size_t used, unsigned worker) {
    if (watched_.load(std::memory_order_relaxed)) return true;
    if (2 * used < limits_.connections) return false;
    if (!watched_.exchange(true)) {
      for (unsigned i = 0; i < limits_.workers; ++i) {
        if (i != worker) Wake(i);
      }
    }
    return true;
  }
  bool watched() const { return watched_.load(std::memory_order_relaxed); }

  uint64_t HashOf(const SourceKey& source) const { return hud::HashOf(key_, source); }
  // Over all workers.
  SourceCounts& sources() { return sources_; }

  // ---- Who makes room

  // What the largest source of those on this worker holds, over all workers.
  void PublishLargest(unsigned worker, uint32_t count) { seats_[worker].largest.store(count, std::memory_order_relaxed); }
  // Another worker with a source that holds more than `count`; the one whose largest is the largest.
  unsigned WhoHoldsMore(unsigned worker, uint32_t count) const {
    unsigned most = kNobody;
    for (unsigned i = 0; i < limits_.workers; ++i) {
      const uint32_t largest = seats_[i].largest.load(std::memory_order_relaxed);
      if (i == worker || largest <= count) continue;
      count = largest;
      most = i;
    }
    return most;
  }
  void AskForPlace(unsigned worker) {
    seats_[worker].places_wanted.fetch_add(1, std::memory_order_release);
    Wake(worker);
  }
  uint32_t TakePlacesWanted(unsigned worker) {
    return seats_[worker].places_wanted.exchange(0, std::memory_order_acquire);
  }

  // ---- Memory of hellos

  void PublishHelloBytes(unsigned worker, size_t held) {
    const size_t before = seats_[worker].hello_bytes.load(std::memory_order_relaxed);
    seats_[worker].hello_bytes.store(held, std::memory_order_relaxed);
    hello_bytes_.fetch_add(held - before, std::memory_order_relaxed);
  }
  size_t HelloBytesOfOthers(unsigned worker) const {
    // The two are not read in one instant: never less than nothing.
    const size_t all = hello_bytes_.load(std::memory_order_relaxed);
    return all - std::min(all, seats_[worker].hello_bytes.load(std::memory_order_relaxed));
  }
  void AskForHelloRoom(unsigned worker) {
    unsigned most = kNobody;
    size_t bytes = 0;
    for (unsigned i = 0; i < limits_.workers; ++i) {
      const size_t held = seats_[i].hello_bytes.load(std::memory_order_relaxed);
      if (i == worker || held <= bytes) continue;
      bytes = held;
      most = i;
    }
    if (most == kNobody || seats_[most].hello_room_wanted.exchange(true, std::memory_order_release)) return;
    Wake(most);
  }
  bool TakeHelloRoomWanted(unsigned worker) {
    return seats_[worker].hello_room_wanted.exchange(false, std::memory_order_acquire);
  }

  // ---- Connections that come back to where they began

  LoopGuard& loops() { return loops_; }

  // ---- For the log

  void NoteMadeRoom(const SourceKey& source) {
    std::lock_guard lock(mutex_);
    made_room_ = source;
  }
  SourceKey LastToMakeRoom() const {
    std::lock_guard lock(mutex_);
    return made_room_;
  }

 private:
  struct alignas(64) Seat {
    std::atomic<uint32_t> largest{0};
    std::atomic<uint32_t> places_wanted{0};
    std::atomic<size_t> hello_bytes{0};
    std::atomic<bool> hello_room_wanted{false};
    int wake;
  };

  void Wake(unsigned worker) {
    const uint64_t one = 1;
    if (seats_[worker].wake >= 0) (void)!::write(seats_[worker].wake, &one, sizeof one);
  }

  const PlaceLimits limits_;
  const SipKey key_;
  LoopGuard loops_;
  alignas(64) std::atomic<size_t> used_{0};
  alignas(64) std::atomic<size_t> hello_bytes_{0};
  alignas(64) std::atomic<size_t> accepts_;
  std::atomic<bool> watched_;
  SourceCounts sources_;
  std::array<Seat, limits::kMaxWorkers> seats_;
  mutable std::mutex mutex_;
  SourceKey made_room_;
};

}  // namespace hud
