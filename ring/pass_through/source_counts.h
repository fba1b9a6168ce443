// How many places each source has, over all workers: exact, for who holds most is cut off in favour of who holds less. A lock
// each for 64 parts of it: it is asked for once or a few times a connection, and only while places are short.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "core/base/check.h"

namespace hud {

class SourceCounts {
 public:
  // Returns how many it has then. `hash`: keyed, so that nobody can make two of them the same. Throws std::bad_alloc, and then
  // nothing has changed.
  uint32_t Enter(uint64_t hash) {
    Part& part = PartOf(hash);
    std::lock_guard lock(part.mutex);
    return ++part.counts[hash];
  }
  void Leave(uint64_t hash) {
    Part& part = PartOf(hash);
    std::lock_guard lock(part.mutex);
    const auto found = part.counts.find(hash);
    HUD_CHECK(found != part.counts.end());
    if (--found->second == 0) part.counts.erase(found);
  }
  uint32_t CountOf(uint64_t hash) const {
    const Part& part = parts_[hash % kParts];
    std::lock_guard lock(part.mutex);
    const auto found = part.counts.find(hash);
    return found == part.counts.end() ? 0 : found->second;
  }

 private:
  static constexpr size_t kParts = 64;

  struct alignas(64) Part {
    mutable std::mutex mutex;
    std::unordered_map<uint64_t, uint32_t> counts;  // not Abseil's, which is broken once it found no memory (20220623)
  };
  Part& PartOf(uint64_t hash) { return parts_[hash % kParts]; }

  std::array<Part, kParts> parts_;
};

}  // namespace hud
