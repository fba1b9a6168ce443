// Listeners that come and go while the data plane runs, as control makes them.
#include "ring/data_plane.h"

#include <gtest/gtest.h>

#include "tests/unit/ring/test_bed.h"

namespace hud::testing {
namespace {

constexpr std::string_view kFirst = "GET / HTTP/1.1\r\n\r\n";
constexpr unsigned kWorkers = 2;

class RunningDataPlane : public ::testing::Test {
 protected:
  void SetUp() override {
    auto table = std::make_unique<RouteTable>();
    uint16_t node_port;
    node_ = ListenOnLoopback(node_port);
    NodeView node;
    node.name = "n";
    node.address = SocketAddress::Parse("127.0.0.1:" + std::to_string(node_port)).value();
    table->nodes.push_back(node);
    PoolView pool;
    pool.name = "pool";
    pool.members.push_back({NodeIndex(0), 100});
    table->pools.push_back(pool);
    for (const char* name : {"first", "second"}) {
      ListenerView listener;
      listener.name = name;
      listener.hello_deadline = 5s;
      listener.hello_max_bytes = limits::kMaxHelloBytes;
      listener.default_pool = PoolIndex(0);
      table->listeners.push_back(std::move(listener));
    }
    routes_ = std::make_unique<SnapshotChannel<RouteTable>>(kWorkers, std::move(table));
    std::vector<ListenerSockets> listeners;
    listeners.push_back(Bind(0));
    auto started = DataPlane::Start({.workers = kWorkers, .pin_workers = false}, {routes_.get(), &affinity_, &nodes_}, std::move(listeners));
    ASSERT_TRUE(started.ok()) << started.status();
    plane_ = std::move(*started);
  }

  // On a port of its own, which is ports_[listener] then.
  ListenerSockets Bind(uint16_t listener, bool defer_accept = false) {
    ListenOnLoopback(ports_[listener]).Reset();
    ListenerConfig config;
    config.name = "listener";
    config.bind = {SocketAddress::Parse("127.0.0.1:" + std::to_string(ports_[listener])).value()};
    config.defer_accept = defer_accept;
    auto bound = BindListeners({config}, kWorkers);
    EXPECT_TRUE(bound.ok()) << bound.status();
    ListenerSockets sockets = std::move(bound->front());
    sockets.listener = ListenerIndex(listener);
    return sockets;
  }
  // Several, so that each worker has some.
  void Serves(uint16_t listener) {
    for (int i = 0; i < 8; ++i) {
      Peer client = Peer::Connect(ports_[listener]);
      IsServed(client);
    }
  }
  void IsServed(Peer& client) {
    client.Send(kFirst);
    Peer node = Peer::Accept(node_);
    EXPECT_EQ(node.Receive(kFirst.size()), kFirst);
    node.Send("answer");
    EXPECT_EQ(client.Receive(6), "answer");
  }
  int64_t Accepted(uint16_t listener) {
    int64_t sum = 0;
    for (unsigned i = 0; i < kWorkers; ++i) sum += plane_->counters(i).listeners[listener].accepted.Get();
    return sum;
  }
  bool IsSoonRefused(uint16_t listener) {
    return WaitUntil([&] { return IsRefused(ports_[listener]); });
  }

  uint16_t ports_[2] = {};
  Fd node_;
  NodeTable nodes_;
  AffinityMap affinity_{AffinityMap::Options{.capacity = 100, .key = {1, 2}}};
  std::unique_ptr<SnapshotChannel<RouteTable>> routes_;
  std::unique_ptr<DataPlane> plane_;
};

TEST_F(RunningDataPlane, ListenersComeAndGo) {
  Serves(0);
  ASSERT_TRUE(plane_->AddListener(Bind(1)).ok());
  Serves(1);
  ASSERT_TRUE(plane_->RemoveListener(ListenerIndex(0)).ok());
  EXPECT_TRUE(IsSoonRefused(0));
  Serves(1);
  ASSERT_TRUE(plane_->PauseListener(ListenerIndex(1), true).ok());
  ASSERT_TRUE(plane_->PauseListener(ListenerIndex(1), false).ok());
  Serves(1);
}

// The kernel keeps a client that has said nothing to itself, and a close of the listening socket would reset him.
TEST_F(RunningDataPlane, WhoHasConnectedWithoutAWordIsServedWhenHisListenerGoes) {
  ASSERT_TRUE(plane_->AddListener(Bind(1, true)).ok());
  std::vector<Peer> silent;
  for (int i = 0; i < 8; ++i) silent.push_back(Peer::Connect(ports_[1]));
  plane_->TurnNewcomersAway(ListenerIndex(1));
  EXPECT_TRUE(WaitUntil([&] { return Accepted(1) == 8; }));
  ASSERT_TRUE(plane_->RemoveListener(ListenerIndex(1)).ok());
  EXPECT_TRUE(IsSoonRefused(1));
  for (Peer& client : silent) IsServed(client);
}

TEST_F(RunningDataPlane, NoListenerIsAddedToADrain) {
  plane_->Drain(10s);
  EXPECT_TRUE(IsSoonRefused(0));
  EXPECT_EQ(plane_->AddListener(Bind(1)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(IsRefused(ports_[1]));
  plane_->Join();
  EXPECT_TRUE(plane_->Drained());
}

}  // namespace
}  // namespace hud::testing
