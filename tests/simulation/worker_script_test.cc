// A worker in the simulated kernel, step by step: what happens when is written down, and nothing goes wrong by chance. For faults
// that the simulation has found, each as short as it can be told.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/affinity/affinity_map.h"
#include "ring/worker.h"
#include "tests/simulation/simulated_ring.h"
#include "tests/unit/core/tls/hello_builder.h"

namespace hud::simulation {
namespace {

using namespace std::chrono_literals;

using EndpointPtr = std::shared_ptr<Endpoint>;

class WorkerScript : public ::testing::Test, private Destination {
 protected:
  WorkerScript() { world_.faults.ForbidAll(); }
  ~WorkerScript() override {
    worker_.reset();
    for (const std::string& violation : world_.violations) ADD_FAILURE() << violation;
  }

  void Begin(RingFeatures features = {}, PassThrough::Options options = {}) {
    options.check_invariants = true;
    auto table = std::make_unique<RouteTable>();
    table->nodes.push_back({.name = "n", .address = address_});
    PoolView pool;
    pool.name = "pool";
    pool.members.push_back({NodeIndex(0), 100});
    table->pools.push_back(std::move(pool));
    ListenerView listener;
    listener.name = "test";
    listener.hello_deadline = 5s;
    listener.hello_max_bytes = limits::kMaxHelloBytes;
    listener.default_pool = PoolIndex(0);
    table->listeners.push_back(std::move(listener));
    table->timeouts = {.connect = 2s, .idle = 24h, .half_closed = 24h};
    routes_ = std::make_unique<SnapshotChannel<RouteTable>>(1, std::move(table));
    kernel_.SetDestination(address_, this);
    std::vector<ListeningSocket> sockets;
    sockets.push_back({ListenerIndex(0), Fd(kernel_.Give(listener_))});
    worker_ = std::make_unique<Worker>(options, RoutingState{routes_.get(), &affinity_, &nodes_}, places_,
                                       std::make_unique<SimulatedRing>(kernel_, features), kernel_, std::move(sockets), Fd(kernel_.Give(wake_)),
                                       orders_, counters_, records_);
  }

  // Turns of the worker for so long.
  void RunFor(Duration time) {
    bool over = false;
    world_.events.After(time, [&] {
      over = true;
      wake_->Signal();
    });
    while (!over && world_.violations.empty()) worker_->RunTurn();
  }
  // The worker does not run meanwhile.
  void PassWithoutWorker(Duration time) { world_.events.RunUntil(world_.events.now() + time); }

  // Connected to its node, which has read its hello.
  void Join() {
    client_ = listener_->ConnectFrom(SocketAddress::Parse("10.1.0.1:1000").value());
    RunFor(1s);
    const test::Buffer hello = test::Record(test::Hello({}, test::ServerName("a.example")));
    ASSERT_EQ(client_->Send(hello), static_cast<ssize_t>(hello.size()));
    RunFor(1s);
    ASSERT_NE(node_, nullptr);
    ASSERT_EQ(Read(*node_), hello.size());
  }
  static size_t Read(Endpoint& end) {
    size_t sum = 0;
    std::vector<uint8_t> some(65536);
    for (ssize_t n; (n = end.Receive(some)) > 0;) sum += static_cast<size_t>(n);
    return sum;
  }
  static ssize_t Send(Endpoint& end, size_t bytes) { return end.Send(std::vector<uint8_t>(bytes, 'x')); }
  int64_t Closes(CloseReason reason) const { return counters_.closes[static_cast<size_t>(reason)].Get(); }

  World world_{1};
  SimulatedKernel kernel_{world_};
  const SocketAddress address_ = SocketAddress::Parse("10.0.0.1:443").value();
  EndpointPtr client_, node_;
  std::shared_ptr<Listener> listener_ = kernel_.Listen(SocketAddress::Parse("10.9.9.9:443").value(), 128);
  std::shared_ptr<EventCounter> wake_ = std::make_shared<EventCounter>();
  NodeTable nodes_;
  AffinityMap affinity_{AffinityMap::Options{.capacity = 100, .key = {1, 2}}};
  std::unique_ptr<SnapshotChannel<RouteTable>> routes_;
  Places places_{PlaceLimits{.connections = 10'000}, SipKey{1, 2}};
  WorkerCounters counters_;
  SpscQueue<ConnectionRecord> records_{64};
  WorkerOrders orders_;
  std::unique_ptr<Worker> worker_;

 private:
  Answer Decide() override { return {Answer::Kind::kAccepted, 100us}; }
  void Connected(const EndpointPtr& their_end) override { node_ = their_end; }
};

// Both ends of its stream look like an error to the poll that watches it (POLLHUP). While it waits for a shared buffer to be read
// into, nobody else would say that it was none.
TEST_F(WorkerScript, ANodeWhoseClientIsGoneIsNotResetBecauseItEndsWhileItWaitsForABuffer) {
  Begin({.buffers = 1, .buffer_bytes = 4096}, {.relay = {.mode = RelayMode::kCopy}});
  Join();
  node_->receive_capacity = 1000;
  node_->send_capacity = 1 << 20;
  ASSERT_EQ(Send(*client_, 3000), 3000);
  client_->EndStream();
  ASSERT_GT(Send(*node_, 1 << 20), 0);
  RunFor(1s);  // the client reads nothing: the node's stream stalls, and is watched. Nor does the node: it has not all yet
  client_->LastClose();
  RunFor(1s);
  (void)Send(*node_, 100'000);
  node_->EndStream();
  PassWithoutWorker(1s);
  RunFor(1s);
  size_t read = 0;
  for (int i = 0; i < 10; ++i, RunFor(100ms)) read += Read(*node_);
  EXPECT_EQ(read, 3000u);
}

}  // namespace
}  // namespace hud::simulation
