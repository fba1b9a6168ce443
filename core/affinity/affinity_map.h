// Exact tokens (TLS 1.2 session ids, stateful TLS 1.3 identities) and the node that owns each.
// One writer (the control thread); readers take no lock and never wait: a read that meets a write tries twice, then misses.
// Fixed capacity, cache-line buckets, at most two buckets a key, no tombstones, no moves. Holds keyed hashes, never tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/base/siphash.h"
#include "core/base/types.h"

namespace hud {

class AffinityMap {
 public:
  struct Options {
    size_t capacity = 1'000'000;  // tokens; memory is reserved for it at once
    SipKey key;                   // random
  };
  enum class InsertResult : uint8_t { kInserted, kRefreshed, kHeldByAnother, kEvictedExpired, kEvictedOverShare, kRejected };

  explicit AffinityMap(const Options& options);
  ~AffinityMap();
  AffinityMap(const AffinityMap&) = delete;
  AffinityMap& operator=(const AffinityMap&) = delete;

  // Any thread. NodeIndex::kNone if the token is not known.
  // An entry that has expired is found until a sweep, or another token that needs its place, removes it: readers do not look
  // at expiries, which would double the memory that they touch. It does no harm: a client whose token has expired pays a full
  // handshake wherever it is sent. For the same reason it is no harm that of 100,000 tokens which were never inserted one or
  // two are taken for one that was (when the map is full).
  NodeRef Find(Bytes token) const;

  // The writer only. `owner` is the node that its slot belongs to now: with it, entries of the slot's node before are nobody's.
  // A token that another node holds stays that node's until it expires, is withdrawn, or its node is gone: the holder of one
  // node's key must not take others' clients.
  InsertResult Insert(Bytes token, NodeRef owner, Instant expiry, Instant now);
  bool Withdraw(Bytes token, NodeRef owner);  // true if it was there and was this owner's
  size_t WithdrawAll(NodeRef owner);          // O(capacity): for a node that is gone
  size_t SweepExpired(Instant now, size_t max_buckets);  // a bounded step; call it from time to time

  struct Stats {
    size_t capacity, size, bytes;
    uint64_t inserted, refreshed, held_by_another, evicted_expired, evicted_over_share, rejected, withdrawn, expired;
  };
  Stats stats() const;  // any thread; relaxed
  size_t CountOf(NodeRef owner) const;  // the writer only
  const SipKey& key() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hud
