// The proxy's half of the beacon protocol, without a socket or a clock: datagrams and time come in, events and answers
// come out. Owns: freshness (this process's nonce), replay windows, epochs, token numbering and gaps, quotas on noise.
//
// The caller applies events in order (reports to the Cluster, tokens to the affinity map), sends answers to where the
// datagram came from, from the address that it was sent to, and gives its socket room (limits::kMaxTokenFlight datagrams
// for each agent that may refill at once).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/beacon/beacon.h"

namespace hud {

// A message that passed every check, for the Cluster and the affinity map to apply.
struct BeaconEvent {
  enum class Kind : uint8_t { kAlive, kStillHere, kDying, kTokens } kind = Kind::kAlive;
  std::string node;      // by its key
  uint64_t epoch = 0;    // of the agent's boot
  std::string ticket_group;  // that its key is in, or empty
  NodeReport report;     // kAlive, kStillHere; checked against the key (pools, addresses), its weight limited
  std::vector<TokenItem> tokens;  // kTokens: never empty, none of length 0, in the order in which the agent learned them
};

struct BeaconAnswer {
  std::vector<uint8_t> datagram;  // never larger than the one it answers; empty: silence
};

struct BeaconStats {
  uint64_t received = 0, applied = 0;  // applied: passed every check, event or not
  // Refused without an answer.
  uint64_t malformed = 0, unknown_node = 0, bad_mac = 0, replayed = 0, second_epoch = 0, refused_pool = 0,
           refused_address = 0, over_quota = 0;
  uint64_t late = 0;              // overtaken by a newer report, or a report behind its DYING; no event
  uint64_t stale_nonce = 0;       // valid MAC, another nonce: changes nothing, may be challenged
  uint64_t challenges_sent = 0, challenges_held_back = 0, syncs_sent = 0, token_gaps = 0, tokens_applied = 0;
  uint64_t takeovers = 0;         // times a later epoch followed an earlier one
};

class BeaconReceiver {
 public:
  // `nonce`: drawn once for each process, from the kernel.
  explicit BeaconReceiver(uint64_t nonce);
  ~BeaconReceiver();

  // Reload: a node that keeps a key keeps its state; one that keeps none begins anew.
  void SetKeys(std::vector<BeaconKey> keys);
  // Where this proxy listens itself; a wildcard is followed by each address of the machine.
  void SetOurAddresses(std::vector<SocketAddress> addresses);
  // How long an epoch is held to be alive after its last valid beacon (second epochs are refused meanwhile).
  void SetDeadAfter(Duration dead_after);
  // This process itself was stopped for so long: counted as time in which every live agent was heard.
  void OnPause(Duration paused);
  // So long the kernel dropped datagrams: nobody's tokens are asked for again because of it. But an epoch that is not heard
  // does not count as alive for it, or a flood would lock out an agent that restarts.
  void OnDoubt(Duration doubt);
  // The caller no longer has this node's tokens: ask its agent for all of them again. (Done without being asked for a
  // node that was silent for `dead_after`.)
  void ForgetTokens(std::string_view node);

  // At most one event and one answer for a datagram; true if there is an event. `from` is for alarms; it proves nothing.
  bool Handle(Bytes datagram, const SocketAddress& from, Instant now, BeaconEvent* event, BeaconAnswer* answer);

  const BeaconStats& stats() const;
  // Alarms since the last call, at most a few a second: "node n1: a second agent (epoch …) from …", for the log.
  std::vector<std::string> TakeAlarms();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hud
