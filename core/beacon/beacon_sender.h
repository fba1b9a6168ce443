// The agent's half of the beacon protocol for one node and one proxy, without a socket or a clock.
// Keeps nonce and sequence for its proxy, paces syncs, and sends the exact tokens of a journal.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/beacon/beacon.h"
#include "core/beacon/token_journal.h"

namespace hud {

class BeaconSender {
 public:
  // `epoch`: of this boot of the agent, growing from boot to boot (wall-clock microseconds at start will do; a clock that
  // stepped back is made good by the proxy's challenge). `journal` may be null; it outlives the sender.
  BeaconSender(AgentKey key, uint64_t epoch, const TokenJournal* journal, Duration every);
  ~BeaconSender();

  // What the next ALIVE / STILL_HERE says; it goes out at once if it says something new beyond load figures. Until the
  // first call nothing is sent. An error says why this report can never be sent; the one before stays.
  absl::Status SetReport(NodeReport report);
  // Another key of the same node, from now on; true if it is one. What the proxy knows of the node it knows under either key.
  bool SetKey(const AgentKey& key);
  // From now on only kDying is sent: three times, then nothing.
  void Die(Instant now);
  bool DoneDying() const;

  // A datagram from the proxy: kChallenge and kSync. Anything else is ignored and counted.
  void Handle(Bytes datagram, Instant now);

  // Datagrams to send now, at most `max` (a report's up to kMaxReportParts go together all the same); call again at
  // NextDeadline(), and after Handle, SetReport and journal changes.
  std::vector<std::vector<uint8_t>> Poll(Instant now, size_t max);
  Instant NextDeadline() const;  // Instant::max(): nothing is due until something changes
  // Has this proxy been heard (a valid challenge or sync) since `since`?
  bool HeardSince(Instant since) const;
  // Does the proxy know this node and its report (it answered it)?
  bool Confirmed() const;

  struct Stats {
    uint64_t sent = 0, challenges = 0, syncs = 0, rejected = 0, tokens_sent = 0, losses = 0, rewinds = 0;
  };
  const Stats& stats() const;
  // Number of the first token item that the proxy has not acknowledged.
  uint64_t next_unacknowledged() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hud
