// How the control thread hands immutable snapshots to workers, and learns when the old ones may go.
// Each worker says in a slot of its own which snapshot it holds (a hazard pointer), so a worker that sleeps for an hour
// keeps one old snapshot alive, not all that came since: at most readers + 1 exist.
#pragma once

#include <array>
#include <atomic>
#include <list>
#include <memory>

#include "core/base/check.h"
#include "core/base/limits.h"

namespace hud {

template <typename T>
class SnapshotChannel {
 public:
  SnapshotChannel(size_t readers, std::unique_ptr<const T> first) : readers_(readers) {
    HUD_CHECK(readers <= limits::kMaxWorkers);
    Publish(std::move(first));
  }

  // The publisher's thread only. Frees the snapshots that no reader holds.
  void Publish(std::unique_ptr<const T> next) {
    HUD_CHECK(next != nullptr);
    kept_.push_back(std::move(next));
    current_.store(kept_.back().get());
    kept_.remove_if([this](const std::unique_ptr<const T>& snapshot) {
      return snapshot.get() != current_.load() && !IsHeld(snapshot.get());
    });
  }

  // The publisher's thread only.
  const T& latest() const { return *kept_.back(); }
  size_t kept() const { return kept_.size(); }

  // Reader `i`, from one thread: the newest snapshot. What the last call returned is no longer valid.
  const T& Current(size_t i) {
    const T* snapshot = current_.load();
    while (true) {
      held_[i].pointer.store(snapshot);
      // Only if it is still current after we said that we hold it, the publisher must have seen that we do.
      const T* again = current_.load();
      if (again == snapshot) return *snapshot;
      snapshot = again;
    }
  }

 private:
  struct alignas(64) Held {
    std::atomic<const T*> pointer{nullptr};
  };

  bool IsHeld(const T* snapshot) const {
    for (size_t i = 0; i < readers_; ++i) {
      if (held_[i].pointer.load() == snapshot) return true;
    }
    return false;
  }

  const size_t readers_;
  std::list<std::unique_ptr<const T>> kept_;
  std::atomic<const T*> current_{nullptr};
  std::array<Held, limits::kMaxWorkers> held_;
};

}  // namespace hud
