// Which of a worker's connections come from where, and which one goes when room is needed: of one source, the oldest
// unfinished hello first, then the connection that has been idle longest. Kept only by workers that need it (ring/places.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "core/source.h"
#include "core/types.h"

namespace hud {

class SourceTable {
 public:
  struct Holder {
    uint64_t hash = 0;  // of the source
    uint32_t count = 0;
  };

  // A connection is known by its slot. It begins with an unfinished hello.
  void Enter(uint32_t slot, const SourceKey& source, uint64_t hash);
  void HelloDone(uint32_t slot);
  void Leave(uint32_t slot);

  bool Contains(uint32_t slot) const { return slot < links_.size() && links_[slot].source != kNone; }
  uint64_t HashOf(uint32_t slot) const { return sources_[links_[slot].source].hash; }
  const SourceKey& SourceOf(uint64_t hash) const { return sources_[by_hash_.at(hash)].key; }
  bool Has(uint64_t hash) const { return by_hash_.contains(hash); }
  uint32_t CountOf(uint64_t hash) const;
  size_t sources() const { return by_hash_.size(); }
  // The first `most` of those that hold most here; of equal ones, who has held that many longest comes first.
  absl::InlinedVector<Holder, 8> Largest(size_t most) const;

  // The connection of the source that goes first; none if it has only `except`, or nothing whose time is at or before
  // `quiet_until`. `since(slot)` is when a hello began, or when an other connection last moved a byte.
  template <typename Since>
  std::optional<uint32_t> FirstToGo(uint64_t hash, uint32_t except, Instant quiet_until, Since&& since) {
    const auto found = by_hash_.find(hash);
    if (found == by_hash_.end()) return std::nullopt;
    const uint32_t source = found->second;
    uint32_t hello = sources_[source].hellos.first;
    if (hello == except && hello != kNone) hello = links_[hello].next;
    if (hello != kNone && since(hello) <= quiet_until) return hello;
    const std::optional<uint32_t> idle = LongestIdle(source, since);
    if (!idle || since(*idle) > quiet_until) return std::nullopt;
    return idle;
  }

 private:
  static constexpr uint32_t kNone = 0xffffffff;

  struct List {
    uint32_t first = kNone, last = kNone;
  };
  struct Link {
    uint32_t source = kNone, next = kNone, previous = kNone;
    bool in_hello = false;
  };
  struct Source {
    SourceKey key;
    uint64_t hash = 0;
    uint32_t count = 0;
    uint64_t rank = 0;  // when it came to have this count, in changes
    List hellos, others;  // in the order in which they came
  };
  struct Idle {
    uint32_t slot;
    Instant since;
  };

  List& ListOf(const Link& link) { return link.in_hello ? sources_[link.source].hellos : sources_[link.source].others; }
  void Append(uint32_t slot);
  void Unlink(uint32_t slot);
  void SetCount(uint32_t source, uint32_t count);

  // To look at all of a source's connections for each one that goes would cost more than the newcomer is worth: a look
  // finds a sixteenth of them, and the next ones are taken from that as long as they still are what was seen.
  template <typename Since>
  std::optional<uint32_t> LongestIdle(uint32_t source, Since&& since) {
    for (int looks = 0; looks < 2; ++looks) {
      while (idle_of_ == source && !idle_.empty()) {
        const Idle candidate = idle_.back();
        const Link& link = links_[candidate.slot];
        if (link.source == source && !link.in_hello && since(candidate.slot) == candidate.since) return candidate.slot;
        idle_.pop_back();
      }
      if (sources_[source].others.first == kNone || looks == 1) break;
      idle_of_ = source;
      idle_.clear();
      for (uint32_t slot = sources_[source].others.first; slot != kNone; slot = links_[slot].next) {
        idle_.push_back({slot, since(slot)});
      }
      const size_t kept = std::min(idle_.size(), std::max<size_t>(8, idle_.size() / 16));
      const auto older = [](const Idle& a, const Idle& b) { return a.since < b.since; };
      std::nth_element(idle_.begin(), idle_.begin() + static_cast<ptrdiff_t>(kept) - 1, idle_.end(), older);
      idle_.resize(kept);
      std::sort(idle_.begin(), idle_.end(), [](const Idle& a, const Idle& b) { return a.since > b.since; });
    }
    return std::nullopt;
  }

  std::vector<Link> links_;  // by slot
  std::vector<Source> sources_;
  std::vector<uint32_t> free_;  // of sources_
  std::unordered_map<uint64_t, uint32_t> by_hash_;  // not Abseil's, which is broken once it found no memory (20220623)
  struct ByCount {
    uint32_t count;
    uint64_t rank;
    uint32_t source;
    bool operator<(const ByCount& o) const { return count != o.count ? count > o.count : rank < o.rank; }
  };
  std::set<ByCount> by_count_;
  uint64_t changes_ = 0;
  std::vector<Idle> idle_;  // the longest idle at the end
  uint32_t idle_of_ = kNone;
};

}  // namespace hud
