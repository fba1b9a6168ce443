// The control thread's knowledge of pools and nodes: what the configuration says, what agents say, what connects say,
// what the operator says. Turns all of it into RouteTables. No socket, no clock: a simulated day runs in a second.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/beacon/beacon_receiver.h"
#include "core/cluster/node_life.h"
#include "core/config/cluster_config.h"
#include "core/routing/node_table.h"
#include "core/routing/route_table.h"

namespace hud {

class Cluster {
 public:
  // `counters` outlives the cluster.
  explicit Cluster(NodeTable* counters);
  ~Cluster();

  // All or nothing: on an error nothing has changed (ReloadIsAllOrNothing). `now` begins slow starts.
  absl::Status Apply(const ClusterConfig& config, Instant now);

  // A beacon that passed the receiver. An announced node that the configuration does not know is added to the pools it
  // names that exist; a static node's address wins. An error says why it changed nothing (unknown pool, table full).
  absl::Status OnBeacon(const BeaconEvent& event, Instant now);
  // The owner to use for a token report; none if the node is not known.
  NodeRef Find(std::string_view node) const;

  // A check (of TakeProbes) ended. Do not report one that failed for a local reason (no descriptor, no port): its order expires after a
  // minute. An order that only learns (NodeCheck::kAuto) may end twice: kConnected, then
  // kTls, after which the pool's checks are handshakes.
  void OnProbe(NodeRef node, ProbeEnd end, Instant now);
  // The operator's verdict.
  absl::Status SetOperatorVerdict(std::string_view node, OperatorVerdict verdict, Instant now);

  // Judges silence and death (silent and no active connection); reads connect_failures from the counters.
  // `paused`: how long this process itself was stopped since the last call, counted as heard. `doubt`: how long the kernel
  // dropped datagrams; see NodeLife::Tick.
  void Tick(Instant now, Duration paused, Duration doubt = Duration(0));

  // Nodes whose reachability should be probed now: static nodes without an agent (health checks), nodes that are down,
  // and static nodes whose agent died (both with back-off). See node_life.h. Also nodes that are suspected of not answering
  // or may come back, whatever the pool says of checks (ejection.h); and where no check was ever answered, so that one says
  // nothing, another node of the pool to compare with.
  struct ProbeOrder {
    NodeRef node;
    SocketAddress address;
    NodeCheck check = NodeCheck::kConnect;  // kAuto: a connect will do, and a handshake is tried to learn whether it is TLS
    bool proxy_header = false;  // the pool speaks PROXY: a LOCAL header in front of the handshake
    std::string server_name;    // that a route of the pool has; may be empty
    Duration answer_within{0};  // of the connect; 0: as long as any check
  };
  std::vector<ProbeOrder> TakeProbes(Instant now);
  Instant NextDeadline() const;

  // Nodes that are gone since the last call: their tokens are to be withdrawn from the affinity map. A node that leaves
  // the configuration, or was dead for long, is gone once its last connection has ended and no worker can know it any more.
  std::vector<NodeRef> TakeGone();

  // Slots of pools that are free since the last call: no worker can know the pool that had it, and no connection of it is left.
  // What is counted by slot elsewhere is to be set to zero before the next Apply(), which may give it to another pool.
  std::vector<PoolIndex> TakeFreedPools();

  // The slot of a listener: for whoever binds its sockets. None if it is neither configured nor leaving.
  std::optional<ListenerIndex> FindListener(std::string_view name) const;
  // Listeners that the configuration has no longer and that no worker can take for another's. Whoever sees that one has no connection
  // left sets to zero what is counted by its slot, and frees it.
  std::vector<ListenerIndex> ListenersLeaving(Instant now) const;
  void FreeListener(ListenerIndex listener);

  // What the operator should know of what agents claimed, since the last call; of a node once in ten minutes at most.
  std::vector<std::string> TakeAlarms();

  // True if a new RouteTable would differ from the last one built.
  bool changed() const;
  std::unique_ptr<const RouteTable> Build(Instant now);

  // For /status.
  struct NodeStatus {
    std::string name;
    NodeRef ref;
    SocketAddress address;
    uint16_t weight;
    bool is_static;
    NodeVerdicts verdicts;
    NodeHealth health;
    bool has_agent = false;
    std::optional<Instant> last_beacon;
    size_t prefixes = 0;
  };
  std::vector<NodeStatus> StatusOf(PoolIndex pool) const;
  // Nodes that are in no pool any more, until their last connection has ended and no worker knows them.
  struct LeavingNode {
    std::string name;
    NodeRef ref;
    SocketAddress address;
  };
  std::vector<LeavingNode> Leaving() const;
  const ClusterConfig& config() const;
  std::optional<PoolIndex> FindPool(std::string_view name) const;

  void check_invariants() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hud
