// The one source of chance of a simulation: what a seed orders, it orders again.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "core/base/random.h"
#include "core/base/types.h"

namespace hud::simulation {

class Random {
 public:
  explicit Random(uint64_t seed) : numbers_(seed * 0x9e3779b97f4a7c15 + 0x2545f4914f6cdd1d) {}

  uint64_t Next() { return numbers_.Next(); }
  size_t Below(size_t n) { return n == 0 ? 0 : Next() % n; }
  size_t Between(size_t least, size_t most) { return least + Below(most - least + 1); }
  double Unit() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  bool Chance(double p) { return p > 0 && Unit() < p; }
  // Each order of magnitude is as likely as the others. `least` at least 1.
  size_t Magnitude(size_t least, size_t most) {
    const double low = std::log(static_cast<double>(least)), high = std::log(static_cast<double>(most) + 1);
    return std::clamp(static_cast<size_t>(std::exp(low + Unit() * (high - low))), least, most);
  }
  Duration Time(Duration least, Duration most) {
    return Duration(static_cast<int64_t>(Magnitude(static_cast<size_t>(least.count()), static_cast<size_t>(most.count()))));
  }

 private:
  SplitMix64 numbers_;
};

}  // namespace hud::simulation
