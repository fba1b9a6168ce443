// The exact tokens of one node, as its agent knows them: numbered, bounded, the oldest forgotten first. Shared by the
// senders to all proxies, each of which reads on from the number that its proxy has.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/beacon/beacon.h"

namespace hud {

class TokenJournal {
 public:
  explicit TokenJournal(size_t capacity);  // items kept for syncs; memory is taken as they come
  ~TokenJournal();

  // Returns the item's number (from 1), or 0 for what cannot be a token (empty, or longer than kMaxTokenBytes).
  // A token that is there already is refreshed at most once per quarter of its time to live: repeats cost nothing.
  uint64_t Add(Bytes token, Duration ttl, Instant now);
  uint64_t Withdraw(Bytes token, Instant now);

  uint64_t last() const;   // number of the newest item; 0: none yet
  uint64_t first() const;  // number of the oldest item still known; last() + 1 if none is
  size_t size() const;     // items kept

  // Items from `number` on (not below first()), at most `max`, with times to live as of `now`. One that has expired or
  // has been replaced by a later one has length 0.
  std::vector<TokenItem> Read(uint64_t number, size_t max, Instant now) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hud
