// Latencies in fixed memory: 128 equal steps to each power of two, so that a value is known to within 0.8 %.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace hud::load {

class Histogram {
 public:
  void Add(uint64_t value) {
    ++buckets_[BucketOf(std::min(value, kLargest))];
    ++count_;
    largest_ = std::max(largest_, value);
  }

  void Merge(const Histogram& other) {
    for (size_t i = 0; i < buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
    count_ += other.count_;
    largest_ = std::max(largest_, other.largest_);
  }

  uint64_t count() const { return count_; }
  uint64_t largest() const { return largest_; }

  // The smallest value that at least `share` (0 to 1) of all values do not exceed, as the middle of its bucket and
  // never more than the largest value. 0 when empty.
  uint64_t ValueAt(double share) const {
    const auto wanted = static_cast<uint64_t>(share * static_cast<double>(count_) + 0.999999);
    uint64_t seen = 0;
    for (size_t i = 0; i < buckets_.size(); ++i) {
      seen += buckets_[i];
      if (seen >= wanted && seen > 0) return std::min(MiddleOf(i), largest_);
    }
    return largest_;
  }

 private:
  static constexpr int kStepBits = 7;
  static constexpr uint64_t kSteps = uint64_t{1} << kStepBits;
  static constexpr int kLargestBits = 40;  // of nanoseconds: 18 minutes; what is longer counts as that long
  static constexpr uint64_t kLargest = (uint64_t{1} << kLargestBits) - 1;

  // Values below 2 * kSteps have a bucket each; then each further bit has kSteps buckets.
  static constexpr size_t BucketOf(uint64_t value) {
    if (value < 2 * kSteps) return value;
    const int shift = static_cast<int>(std::bit_width(value)) - (kStepBits + 1);
    return static_cast<size_t>(shift) * kSteps + (value >> shift);
  }
  static constexpr uint64_t MiddleOf(size_t bucket) {
    if (bucket < 2 * kSteps) return bucket;
    const auto shift = static_cast<int>(bucket / kSteps - 1);
    const uint64_t low = (bucket - static_cast<size_t>(shift) * kSteps) << shift;
    return low + ((uint64_t{1} << shift) >> 1);
  }

  std::array<uint64_t, (kLargestBits - kStepBits + 1) * kSteps> buckets_{};
  uint64_t count_ = 0;
  uint64_t largest_ = 0;
};

}  // namespace hud::load
