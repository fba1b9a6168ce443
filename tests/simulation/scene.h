// One seed's life of a worker: clients that come, nodes that answer or do not, orders and route tables at any moment, faults of
// the kernel; then calm, in which everything has to come to its end. What must hold all the time is checked in every turn, what must
// hold of each stream at its end; the properties have names, in italics where they are checked.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/affinity/affinity_map.h"
#include "ring/worker.h"
#include "tests/simulation/peers.h"
#include "tests/simulation/simulated_ring.h"

namespace hud::simulation {

class Scene;
class NodePeer;

// How a client's stream begins, and what is to become of it.
struct Introduction {
  std::vector<uint8_t> proxy_header;  // in front of its hello
  SocketAddress client;               // who it says that it is
  bool welcome = true;                // false: no node may read a byte of it
  size_t pool = 0;                    // by its name
  bool routed = true;
};

class ClientPeer final : public Peer {
 public:
  ClientPeer(Scene& scene, uint64_t id, std::shared_ptr<Endpoint> endpoint, Content content, const Introduction& introduction, const Plan& plan);
  const Introduction& introduction() const { return introduction_; }
  const std::vector<NodePeer*>& nodes() const { return nodes_; }
  // All of its hello had come to the worker's socket. Meaningful until then.
  bool HelloIsThere() const { return proxys_end().arrived >= content().head_size(); }
  void MetBy(NodePeer* node) { nodes_.push_back(node); }

 private:
  void OnBytes(Bytes bytes) override;
  Scene& scene_;
  const Introduction introduction_;
  std::vector<uint8_t> first_;      // too few to know whose they are
  std::vector<NodePeer*> nodes_;    // that read its hello
  const NodePeer* heard_ = nullptr; // the node whose stream it reads
};

class NodePeer final : public Peer {
 public:
  NodePeer(Scene& scene, uint64_t id, int node, bool proxy_header, std::shared_ptr<Endpoint> endpoint, Content content, const Plan& plan);
  const ClientPeer* client() const { return client_; }
  // Too little of one to know whose it is. What is no TLS may be as short.
  bool read_a_cut_hello() const { return !first_.empty() && first_[0] == 0x16; }

 private:
  void OnBytes(Bytes bytes) override;
  bool TakeProxyHeader();
  void Identify();
  Scene& scene_;
  const int node_;
  bool wants_proxy_header_;
  SocketAddress said_client_;  // by the PROXY header
  std::vector<uint8_t> first_;
  ClientPeer* client_ = nullptr;
};

// A node, as something that one can connect to.
class SimulatedNode final : public Destination {
 public:
  SimulatedNode(Scene& scene, int number) : scene_(scene), number_(number) {}
  Answer Decide() override;
  void Connected(const std::shared_ptr<Endpoint>& their_end) override;

 private:
  Scene& scene_;
  const int number_;
};

class Scene {
 public:
  explicit Scene(uint64_t seed, bool tracing = false);
  ~Scene();

  // Until the worker has ended, or the first violation.
  void Run();
  World& world() { return world_; }
  const World& world() const { return world_; }
  uint64_t turns() const { return turns_; }
  uint64_t clients() const { return clients_.size(); }
  uint64_t bytes() const;
  uint64_t overflows() const { return static_cast<uint64_t>(counters_.cq_overflows.Get()); }
  uint64_t exhausted() const { return static_cast<uint64_t>(counters_.buffers_exhausted.Get()); }
  std::string Story() const;  // who did what, for a person

 private:
  friend class ClientPeer;
  friend class NodePeer;
  friend class SimulatedNode;

  void ChooseKernel();
  void ChooseTraffic();
  void ChooseRoutes();
  void ChooseLimits();
  std::unique_ptr<RouteTable> NewTable() const;
  void MakeWorker();
  void PlanTheDay();
  void ClientComes();
  std::vector<uint8_t> HelloOf(uint64_t id, Introduction& introduction);
  Introduction IntroductionOf(uint64_t id, const SocketAddress& address);
  Plan NewPlan();
  void PublishTwice();
  void NodeIsMet(int number, const std::shared_ptr<Endpoint>& end);
  void Signal() { wake_->Signal(); }
  void BeCalm();
  void Stop();
  void StopWhenAllIsOver();
  bool AllIsOver() const;

  bool Turn();
  void CheckTurn();
  void CheckNoSpin();
  void CheckStop();
  void CheckBlame(const ConnectionRecord& record, const ClientPeer& client);
  bool CameUnread(const Endpoint& source, const Endpoint& sink) const;
  bool MetAShortage(const ClientPeer& client) const;
  void TakeRecords();
  void JudgeStreams();
  void Judge(const ClientPeer& client);
  void JudgeDirection(const Peer& source, const Peer& sink, CloseReason reason, bool excused, size_t not_passed_on = 0);
  void JudgeEnd();
  void ExpectZero(const char* what, int64_t value);
  bool Excused(CloseReason reason, const ClientPeer& client) const;

  World world_;
  SimulatedKernel kernel_{world_};

  // Of the seed.
  RelayMode mode_;
  RingFeatures features_;
  PassThrough::Options options_;
  Timeouts timeouts_;
  size_t node_count_;
  uint64_t most_bytes_;
  double impolite_;
  bool unix_nodes_, proxy_headers_;
  bool accept_proxy_, trust_some_;  // PROXY headers from clients: of anybody, or of some
  size_t pool_count_;               // each has some of the nodes, and a server name
  bool no_route_;  // every client is told so
  bool short_timeouts_, short_patience_;
  bool hungry_;   // hardly any shared buffers
  bool torrent_;  // much at once, so that bulk engines begin and stop often
  size_t max_connections_, max_per_source_, hello_bytes_;

  NodeTable nodes_;
  AffinityMap affinity_{AffinityMap::Options{.capacity = 100, .key = {1, 2}}};
  std::unique_ptr<SnapshotChannel<RouteTable>> routes_;
  std::unique_ptr<Places> places_;
  WorkerCounters counters_;
  SpscQueue<ConnectionRecord> records_{4096};
  WorkerOrders orders_;
  std::shared_ptr<Listener> listener_;
  std::shared_ptr<EventCounter> wake_;
  SimulatedRing* ring_ = nullptr;  // the worker's
  std::unique_ptr<Worker> worker_;

  std::vector<std::unique_ptr<SimulatedNode>> destinations_;
  std::vector<std::unique_ptr<ClientPeer>> clients_;
  std::vector<std::unique_ptr<NodePeer>> met_;
  size_t still_to_come_ = 0;
  std::map<std::string, CloseReason> reasons_;  // by client
  std::map<std::string, ClientPeer*> by_address_;
  bool calm_ = false, stopped_ = false;
  Instant calm_since_{}, stopped_at_{};
  uint64_t turns_ = 0, idle_turns_ = 0, progress_seen_ = 0;
  Instant last_progress_{};
};

}  // namespace hud::simulation
