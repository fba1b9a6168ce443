// Which of a worker's connections come from where, and which one goes when room is needed: of one source or of all, the oldest
// unfinished hello first, then the connection that has been idle longest. Kept only by workers that need it (ring/pass_through/places.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "core/admission/source.h"
#include "core/base/types.h"

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
  uint64_t changes() const { return changes_; }  // of what a source holds, so far
  // The first `most` of those that hold most here; of equal ones, who has held that many longest comes first.
  absl::InlinedVector<Holder, 8> Largest(size_t most) const;

  // Who may go: an unfinished hello that began by the first of these, and another connection that moved no byte after the second.
  struct Quiet {
    Instant hellos = Instant::max();
    Instant others = Instant::max();
  };

  // The connection of the source that goes first; none if it has only `except`, or nothing that may go. `since(slot)` is when a
  // hello began, or when another connection last moved a byte.
  template <typename Since>
  std::optional<uint32_t> FirstToGo(uint64_t hash, uint32_t except, const Quiet& quiet, Since&& since) {
    const auto found = by_hash_.find(hash);
    if (found == by_hash_.end()) return std::nullopt;
    const uint32_t source = found->second;
    uint32_t hello = sources_[source].hellos.first;
    if (hello == except && hello != kNone) hello = links_[hello].next;
    if (hello != kNone && since(hello) <= quiet.hellos) return hello;
    const std::optional<uint32_t> idle = LongestIdle(source, since);
    if (!idle || since(*idle) > quiet.others) return std::nullopt;
    return idle;
  }

  // Likewise of all sources, but of those only that `may_go(hash)`, which is asked about a few.
  template <typename Since, typename MayGo>
  std::optional<uint32_t> FirstToGoOfAll(uint32_t except, const Quiet& quiet, Since&& since, MayGo&& may_go) {
    int looks = 0;
    for (uint32_t slot = hellos_.first; slot != kNone && looks < kLooks && since(slot) <= quiet.hellos; slot = links_[slot].newer, ++looks) {
      if (slot != except && may_go(HashOf(slot))) return slot;
    }
    bool skipped = false;
    std::optional<uint32_t> found;
    for (looks = 0; looks < kLooks && !found; ++looks) {
      const std::optional<uint32_t> idle = LongestIdle(kAll, since);
      if (!idle || since(*idle) > quiet.others) break;
      if (may_go(HashOf(*idle))) {
        found = idle;
      } else {
        idle_.pop_back();
        skipped = true;
      }
    }
    if (skipped) idle_of_ = kNone;  // the next look may be about somebody else
    return found;
  }

 private:
  static constexpr uint32_t kNone = 0xffffffff;
  static constexpr uint32_t kAll = 0xfffffffe;
  static constexpr int kLooks = 64;

  struct List {
    uint32_t first = kNone, last = kNone;
  };
  struct Link {
    uint32_t source = kNone, next = kNone, previous = kNone;
    uint32_t newer = kNone, older = kNone;  // among the hellos of all sources
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
  void AppendHello(uint32_t slot);
  void UnlinkHello(uint32_t slot);
  void SetCount(uint32_t source, uint32_t count);

  template <typename Visit>
  void ForEachOther(uint32_t source, Visit&& visit) const {
    if (source == kAll) {
      for (uint32_t slot = 0; slot < links_.size(); ++slot) {
        if (links_[slot].source != kNone && !links_[slot].in_hello) visit(slot);
      }
    } else {
      for (uint32_t slot = sources_[source].others.first; slot != kNone; slot = links_[slot].next) visit(slot);
    }
  }

  // To look at all connections of a source, or of all, for each one that goes would cost more than the newcomer is worth: a look
  // finds a sixteenth of them, and the next ones are taken from that as long as they still are what was seen.
  template <typename Since>
  std::optional<uint32_t> LongestIdle(uint32_t source, Since&& since) {
    for (int looks = 0; looks < 2; ++looks) {
      while (idle_of_ == source && !idle_.empty()) {
        const Idle candidate = idle_.back();
        const Link& link = links_[candidate.slot];
        const bool is_of_it = source == kAll ? link.source != kNone : link.source == source;
        if (is_of_it && !link.in_hello && since(candidate.slot) == candidate.since) return candidate.slot;
        idle_.pop_back();
      }
      if (looks == 1) break;
      idle_of_ = source;
      idle_.clear();
      ForEachOther(source, [&](uint32_t slot) { idle_.push_back({slot, since(slot)}); });
      if (idle_.empty()) break;
      const size_t kept = std::min(idle_.size(), std::max<size_t>(8, idle_.size() / 16));
      const auto older = [](const Idle& a, const Idle& b) { return a.since < b.since; };
      std::nth_element(idle_.begin(), idle_.begin() + static_cast<ptrdiff_t>(kept) - 1, idle_.end(), older);
      idle_.resize(kept);
      std::sort(idle_.begin(), idle_.end(), [](const Idle& a, const Idle& b) { return a.since > b.since; });
    }
    return std::nullopt;
  }

  std::vector<Link> links_;  // by slot
  List hellos_;              // of all sources, in the order in which they came
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
