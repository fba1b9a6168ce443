// Numbers that one thread counts and others read: relaxed atomics, so that both may, and no locked instruction, because
// there is one writer.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace hud {

class Counter {
 public:
  void Add(int64_t n = 1) { value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed); }
  void Set(int64_t n) { value_.store(n, std::memory_order_relaxed); }
  int64_t Get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

// How often a time was how long: buckets whose upper bounds are powers of two of microseconds, from 2^kFirst on, and one
// more for what is longer than the last. Two additions a time.
template <int kFirst, int kBounds>
class DurationHistogram {
 public:
  static constexpr size_t kBuckets = kBounds + 1;

  void Add(uint64_t microseconds) {
    buckets_[BucketOf(microseconds)].Add();
    sum_.Add(static_cast<int64_t>(microseconds));
  }
  void Reset() {
    for (Counter& bucket : buckets_) bucket.Set(0);
    sum_.Set(0);
  }
  // The first bucket whose bound is not below it.
  static constexpr size_t BucketOf(uint64_t microseconds) {
    const int bits = microseconds == 0 ? 0 : static_cast<int>(std::bit_width(microseconds - 1));
    return static_cast<size_t>(std::clamp(bits - kFirst, 0, kBounds));
  }
  static constexpr double BoundSeconds(size_t bucket) { return static_cast<double>(uint64_t{1} << (kFirst + bucket)) / 1e6; }

  int64_t Bucket(size_t i) const { return buckets_[i].Get(); }
  int64_t SumMicroseconds() const { return sum_.Get(); }

 private:
  std::array<Counter, kBuckets> buckets_;
  Counter sum_;
};

}  // namespace hud
