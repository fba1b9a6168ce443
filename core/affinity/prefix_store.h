// Ticket prefixes (a ticket begins with the name of its key) and the set of nodes that can open such tickets.
// Immutable once built; part of the RouteTable. A prefix belongs to a set: nodes may share a key file.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <span>
#include <vector>

#include "core/base/limits.h"
#include "core/base/types.h"

namespace hud {

struct TicketPrefix {
  std::array<uint8_t, limits::kMaxTokenBytes> bytes{};
  uint8_t length = 0;  // 4..32
  Bytes span() const { return {bytes.data(), length}; }
  static TicketPrefix Of(Bytes prefix);  // at most 32 bytes
  bool operator==(const TicketPrefix&) const = default;
};

class PrefixStore {
 public:
  struct Entry {
    TicketPrefix prefix;
    NodeIndex node;
  };
  PrefixStore() = default;
  // Entries shorter than limits::kMinPrefixBytes are left out; the same entry twice counts once.
  explicit PrefixStore(std::span<const Entry> entries);

  // The owners of the longest prefix of `token_head` that is known, in the order of their index; empty if none.
  // `token_head` is the head of an OfferedToken. A token must be longer than the prefix; of a head of 32 bytes we cannot know whether
  // the token goes on, so it counts as longer.
  std::span<const NodeIndex> Find(Bytes token_head) const;
  // The next shorter match, for an owner outside the routed pool: call with the length just tried.
  std::span<const NodeIndex> FindShorterThan(Bytes token_head, size_t length, size_t* matched_length) const;
  size_t size() const { return known_.size(); }  // prefixes, each counted once

 private:
  struct Known {
    TicketPrefix prefix;
    uint32_t first_owner;  // in owners_
    uint32_t owner_count;
  };
  const Known* Lookup(Bytes prefix) const;

  std::vector<Known> known_;
  std::vector<NodeIndex> owners_;
  std::vector<uint32_t> slots_;  // open addressing: positions in known_ + 1, 0 for empty; at most half full
  std::bitset<limits::kMaxTokenBytes + 1> lengths_in_use_;
};

}  // namespace hud
