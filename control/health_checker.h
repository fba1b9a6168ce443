// Active health checks: TCP (or unix) connects that are closed as soon as they succeed. Bounded in number and in time.
// An error of our own side (no descriptor, no port, no memory) says nothing about a node: such a probe is tried again.
#pragma once

#include <deque>
#include <functional>
#include <unordered_map>
#include <vector>

#include "control/event_loop.h"
#include "core/cluster.h"

namespace hud {

class HealthChecker {
 public:
  static constexpr size_t kMaxInFlight = 32;
  static constexpr size_t kMaxWaiting = limits::kMaxNodes;
  static constexpr Duration kLocalErrorDelay = std::chrono::seconds(1);

  using Verdict = std::function<void(NodeRef node, bool connected)>;

  // `loop` outlives the checker. `verdict` is called from within Start, Tick or the loop's turn.
  HealthChecker(EventLoop* loop, Verdict verdict);
  ~HealthChecker();

  void SetTimeout(Duration timeout) { timeout_ = timeout; }

  // An order for a node that is waiting or in flight replaces nothing and is dropped: one probe a node at a time.
  void Start(const std::vector<Cluster::ProbeOrder>& orders, Instant now);

  // The node is gone: what waits or flies for it ends without a verdict.
  void Forget(NodeRef node);

  // Ends probes whose time is over and starts those that wait.
  void Tick(Instant now);
  Instant NextDeadline() const;

  size_t in_flight() const { return in_flight_.size(); }
  uint64_t local_errors() const { return local_errors_; }

 private:
  struct Probe {
    Cluster::ProbeOrder order;
    Instant deadline;  // in flight: when it has failed; waiting: not before
    Fd fd;
    EventLoop::Id watch = EventLoop::Id::kNone;
  };

  enum class Outcome : uint8_t { kConnected, kFailed, kLocalError, kPending };
  static Outcome OutcomeOf(int error);

  bool IsKnown(NodeRef node) const;
  void Begin(Cluster::ProbeOrder order, Instant now);
  void Ready(uint32_t node_key);
  void End(uint32_t node_key, Outcome outcome);
  void Retry(Cluster::ProbeOrder order, Instant now);

  EventLoop* loop_;
  Verdict verdict_;
  Duration timeout_ = std::chrono::seconds(2);
  Instant now_{};
  std::unordered_map<uint32_t, Probe> in_flight_;  // by index and generation of the node
  std::deque<Probe> waiting_;
  uint64_t local_errors_ = 0;
};

}  // namespace hud
