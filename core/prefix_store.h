// Ticket prefixes (a ticket begins with the name of its key) and the set of nodes that can open such tickets.
// Immutable once built; part of the RouteTable. A prefix belongs to a set: nodes may share a key file.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/limits.h"
#include "core/types.h"

namespace hud {

struct TicketPrefix {
  std::array<uint8_t, limits::kMaxTokenBytes> bytes{};
  uint8_t length = 0;  // 4..32
  Bytes span() const { return {bytes.data(), length}; }
  static TicketPrefix Of(Bytes prefix);
  bool operator==(const TicketPrefix&) const = default;
};

class PrefixStore {
 public:
  struct Entry {
    TicketPrefix prefix;
    NodeIndex node;
  };
  PrefixStore() = default;
  explicit PrefixStore(std::span<const Entry> entries);

  // The owners of the longest prefix of `token_head` that is known; empty if none. `token_head` is the head of an
  // OfferedToken; a token no longer than a prefix does not match it.
  std::span<const NodeIndex> Find(Bytes token_head) const;
  // The next shorter match, for an owner outside the routed pool: call with the length just tried.
  std::span<const NodeIndex> FindShorterThan(Bytes token_head, size_t length, size_t* matched_length) const;
  size_t size() const { return count_; }

 private:
  std::vector<uint64_t> slots_;  // layout is private to prefix_store.cc
  std::vector<Entry> entries_;
  std::vector<NodeIndex> owners_;
  std::array<bool, limits::kMaxTokenBytes + 1> lengths_in_use_{};
  size_t count_ = 0;
};

}  // namespace hud
