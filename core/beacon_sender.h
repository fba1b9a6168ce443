// The agent's half of the beacon protocol for one node and one proxy, without a socket or a clock.
// Keeps nonce and sequence for its proxy, paces syncs, and remembers the exact tokens to be able to send them again.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/beacon.h"

namespace hud {

// The exact tokens of one node, shared by the senders to all its proxies: numbered, bounded, oldest forgotten first.
class TokenJournal {
 public:
  explicit TokenJournal(size_t capacity);  // items kept for syncs
  ~TokenJournal();
  // Returns the item's number (from 1). A token that is there already with the same owner is refreshed at most once per
  // quarter of its time to live: repeats cost nothing.
  uint64_t Add(Bytes token, Duration ttl, Instant now);
  uint64_t Withdraw(Bytes token, Instant now);
  uint64_t last() const;   // number of the newest item
  uint64_t first() const;  // number of the oldest item still known
  // Items from `number` on, at most `max`, the expired left out as withdrawn; times to live as of `now`.
  std::vector<TokenItem> Read(uint64_t number, size_t max, Instant now) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class BeaconSender {
 public:
  // `epoch`: of this boot of the agent, growing from boot to boot (wall-clock microseconds at start will do).
  BeaconSender(AgentKey key, uint64_t epoch, const TokenJournal* journal, Duration every);
  ~BeaconSender();

  // What the next ALIVE / STILL_HERE says. Until the first call nothing is sent.
  void SetReport(NodeReport report);
  // From now on only kDying is sent: three times, then nothing.
  void Die(Instant now);
  bool DoneDying() const;

  // A datagram from the proxy: kChallenge and kSync. Anything else is ignored and counted.
  void Handle(Bytes datagram, Instant now);

  // Datagrams to send now, at most `max`; call again at NextDeadline(), and after Handle, SetReport and journal changes.
  std::vector<std::vector<uint8_t>> Poll(Instant now, size_t max);
  Instant NextDeadline() const;
  // Has this proxy been heard (a valid challenge or sync) since `since`?
  bool HeardSince(Instant since) const;

  struct Stats {
    uint64_t sent = 0, challenges = 0, syncs = 0, rejected = 0;
  };
  const Stats& stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hud
