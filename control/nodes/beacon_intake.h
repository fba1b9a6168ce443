// Beacons on their way in: from the sockets through the receiver's checks to the Cluster and the affinity map, and answers
// back. Bounded work a turn, and it knows up to what moment everything that had arrived has been read: only up to there
// may anybody be called silent.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "control/nodes/beacon_socket.h"
#include "core/affinity/affinity_map.h"
#include "core/beacon/beacon_receiver.h"
#include "core/cluster/cluster.h"
#include "core/os/log.h"

namespace hud {

class BeaconIntake {
 public:
  static constexpr size_t kBatchesATurn = 8;  // of each socket: 512 datagrams, a few milliseconds

  // All but the sockets outlive the intake.
  BeaconIntake(std::vector<std::unique_ptr<BeaconSocket>> sockets, BeaconReceiver* receiver, Cluster* cluster,
               AffinityMap* affinity, const Log* log);

  const std::vector<std::unique_ptr<BeaconSocket>>& sockets() const { return sockets_; }
  void SetTokenTtl(Duration ttl) { token_ttl_ = ttl; }

  struct Turn {
    size_t datagrams = 0;
    bool more = false;      // a socket was not drained: come again before anything that can wait
    bool bad_news = false;  // a node that dies, or is not ready: worth a route table at once
  };
  Turn Read(Instant now);

  // Everything that had arrived by then has been read. Under a flood that is never drained this falls behind `now` by what
  // the socket's buffer can hold, and no more.
  Instant drained_at() const;

  // Has the kernel dropped datagrams since the last call? What agents said then is not known, so the time counts as heard.
  bool TookDrops();

  // The node's tokens are no longer in the map: when it speaks again its agent is asked for all of them.
  void ForgetTokens(const std::string& node);

  uint64_t dropped() const;
  uint64_t answers_failed() const;
  uint64_t refused() const { return refused_; }
  uint64_t tokens_unowned() const { return tokens_unowned_; }

 private:
  struct Progress {
    Instant drained_at = Instant::min();
    Instant mark{};          // everything that arrived before it will have been read …
    size_t mark_left = 0;    // … after so many more datagrams; 0: no mark is set
  };
  // What was said of a node that is in no pool. One entry for a key at most.
  struct Refusal {
    Instant logged = Instant::min();
    bool tokens_lost = false;
  };

  void ReadSocket(size_t i, Instant now, Turn* turn);
  void NoteProgress(Progress& progress, size_t read, Instant now);
  void Apply(const BeaconEvent& event, Instant now, Turn* turn);
  void ApplyTokens(const BeaconEvent& event, Instant now);
  void Refuse(const BeaconEvent& event, const absl::Status& why, Instant now);

  std::vector<std::unique_ptr<BeaconSocket>> sockets_;
  std::vector<Progress> progress_;
  BeaconReceiver* receiver_;
  Cluster* cluster_;
  AffinityMap* affinity_;
  const Log* log_;
  Duration token_ttl_ = std::chrono::hours(1);
  std::unordered_map<std::string, Refusal> refusals_;
  uint64_t refused_ = 0;
  uint64_t tokens_unowned_ = 0;
  uint64_t dropped_seen_ = 0;
};

}  // namespace hud
