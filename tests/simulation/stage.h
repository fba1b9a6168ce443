// A worker in the simulated kernel, for a test that needs its exact scene: no faults but those that the test puts in, clients and nodes
// in its hands, and virtual time, so that a minute takes no longer than what happens in it. Everything is in one thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/affinity/affinity_map.h"
#include "ring/worker.h"
#include "tests/simulation/simulated_ring.h"
#include "tests/unit/ring/test_bed.h"

namespace hud::simulation {

using testing::TestBedOptions;
using namespace std::chrono_literals;

class Stage;

// One end of a stream, in the test's hand. What it does takes virtual time, while the worker works.
class Hand {
 public:
  Hand(Stage& stage, std::shared_ptr<Endpoint> end) : stage_(&stage), end_(std::move(end)) {}
  Hand(Hand&&) = default;
  Hand& operator=(Hand&&) = default;
  ~Hand() { Close(); }

  bool Send(std::string_view bytes);  // all of it; false: nobody takes it
  std::string Receive(size_t n);      // exactly n bytes, fewer at an end or after the time limit
  std::string HowItEnds();            // "end", "reset", or "bytes"/"nothing" if the stream goes on
  void SetTimeout(Duration limit) { limit_ = limit; }
  void FinishSending() { end_->EndStream(); }
  void Reset() { end_->Reset(), end_.reset(); }
  void Close();
  Endpoint& end() { return *end_; }
  Endpoint& workers_end() { return *end_->peer; }

 private:
  Stage* stage_;
  std::shared_ptr<Endpoint> end_;
  Duration limit_ = 20s;
};

class Stage {
 public:
  static constexpr int64_t kSocketBytes = 200'000;  // that a socket holds in each direction

  explicit Stage(const TestBedOptions& options = {}, RingFeatures features = {});
  // Stops the worker. All that it had must have come back, and no rule of the simulation have been broken.
  ~Stage();

  Hand Client(const char* from = "10.1.0.1", int socket = 0);
  Hand Node(int i = 0);  // its next connection

  // The worker works and time passes, until the condition holds. It is asked after each event, and may act itself.
  bool Eventually(const std::function<bool()>& condition, Duration limit = 20s);
  void Pass(Duration time) { Eventually([] { return false; }, time); }
  // Time passes, but not for the worker: it is being kept from turning.
  void PassWithoutWorker(Duration time) { world_.events.RunUntil(world_.events.now() + time); }
  int64_t TurnsIn(Duration time);

  WorkerCounters& counters() { return counters_; }
  int64_t Closes(CloseReason reason) { return counters_.closes[static_cast<size_t>(reason)].Get(); }
  NodeCounters& node(int i = 0) { return nodes_.node(NodeIndex(static_cast<uint16_t>(i))); }
  World& world() { return world_; }
  void Wake() { wake_->Signal(); }
  void Drain(Duration limit) {
    orders_.Drain(world_.events.now() + limit);
    Wake();
  }
  bool ended() const { return ended_; }  // the worker has
  void Publish() { routes_->Publish(testing::TableFor(options_, addresses_)); }  // as control does at a reload that changes nothing

 private:
  class Place;

  void Finish();
  void ExpectAllCameBack();

  TestBedOptions options_;
  World world_;
  SimulatedKernel kernel_{world_};
  std::vector<SocketAddress> addresses_;
  std::vector<std::unique_ptr<Place>> places_to_go_;
  NodeTable nodes_;
  AffinityMap affinity_{AffinityMap::Options{.capacity = 100, .key = {1, 2}}};
  std::unique_ptr<SnapshotChannel<RouteTable>> routes_;
  std::unique_ptr<Places> places_;
  WorkerCounters counters_;
  SpscQueue<ConnectionRecord> records_{1024};
  WorkerOrders orders_;
  std::vector<std::shared_ptr<Listener>> listeners_;  // two sockets of one listener
  std::shared_ptr<EventCounter> wake_ = std::make_shared<EventCounter>();
  SimulatedRing* ring_ = nullptr;  // the worker's
  std::unique_ptr<Worker> worker_;
  int clients_ = 0;
  bool ended_ = false;
};

}  // namespace hud::simulation
