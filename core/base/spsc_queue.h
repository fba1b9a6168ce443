// A bounded queue between one producer thread and one consumer thread. A full queue refuses; it never waits.
#pragma once

#include <atomic>
#include <cstddef>
#include <utility>
#include <vector>

#include "core/base/check.h"

namespace hud {

template <typename T>
class SpscQueue {
 public:
  explicit SpscQueue(size_t capacity) : items_(capacity), mask_(capacity - 1) {
    HUD_CHECK(capacity > 0 && (capacity & (capacity - 1)) == 0);
  }

  // By the producer. False: it is full, and the item is as it was.
  template <typename Item = T>
  bool Push(Item&& item) {
    const size_t tail = tail_.load(std::memory_order_relaxed);
    if (tail - head_.load(std::memory_order_acquire) == items_.size()) return false;
    items_[tail & mask_] = std::forward<Item>(item);
    tail_.store(tail + 1, std::memory_order_release);
    return true;
  }
  size_t room() const { return items_.size() - (tail_.load(std::memory_order_relaxed) - head_.load(std::memory_order_acquire)); }

  bool Pop(T& item) {
    const size_t head = head_.load(std::memory_order_relaxed);
    if (head == tail_.load(std::memory_order_acquire)) return false;
    item = std::move(items_[head & mask_]);
    head_.store(head + 1, std::memory_order_release);
    return true;
  }

 private:
  std::vector<T> items_;
  const size_t mask_;
  alignas(64) std::atomic<size_t> head_{0};
  alignas(64) std::atomic<size_t> tail_{0};
};

}  // namespace hud
