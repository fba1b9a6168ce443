// Active health checks: TCP (or unix) connects that are closed as soon as they succeed, or whole TLS handshakes that end
// as a client's do, so that a TLS server's log has nothing to say of them. Bounded in number and in time.
// An error of our own side (no descriptor, no port, no memory) says nothing about a node: such a probe is tried again.
#pragma once

#include <deque>
#include <functional>
#include <unordered_map>
#include <vector>

#include "control/nodes/tls_handshake.h"
#include "control/process/event_loop.h"
#include "core/cluster/cluster.h"

namespace hud {

class HealthChecker {
 public:
  static constexpr size_t kMaxInFlight = limits::kMaxChecksInFlight;
  static constexpr size_t kMaxWaiting = limits::kMaxNodes;
  static constexpr Duration kLocalErrorDelay = std::chrono::seconds(1);
  static constexpr Duration kHandshakeTime = std::chrono::seconds(5);  // from the connect on, unless the order says: a busy server is no dead one
  static constexpr Duration kLearningTime = std::chrono::seconds(1);   // of one whose connect was all that it had to do
  static constexpr Duration kClosingTime = std::chrono::seconds(1);

  using Verdict = std::function<void(NodeRef node, ProbeEnd end)>;

  using Clock = std::function<Instant()>;

  // `loop` outlives the checker. `verdict` is called from within Start, Tick or the loop's turn.
  HealthChecker(EventLoop* loop, Clock clock, Verdict verdict);
  ~HealthChecker();

  void SetTimeout(Duration timeout) { timeout_ = timeout; }

  // An order for a node that is waiting or in flight replaces nothing and is dropped, unless the node has another address
  // now: one probe a node at a time.
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
    std::unique_ptr<TlsHandshake> handshake;  // once connected, where there is one; ends before its descriptor
    bool closing = false;                     // the verdict has been said
    EventLoop::Id watch = EventLoop::Id::kNone;
  };

  enum class Outcome : uint8_t { kConnected, kFailed, kLocalError, kPending };
  static Outcome OutcomeOf(int error);

  bool IsKnown(NodeRef node) const;
  void EndOutdated(const Cluster::ProbeOrder& order);
  void Begin(Cluster::ProbeOrder order, Instant now);
  void Ready(uint32_t node_key);
  void Connected(uint32_t node_key);
  bool BeginHandshake(Probe& probe);
  void Shake(uint32_t node_key);
  void Watch(uint32_t node_key, uint32_t events);
  void End(uint32_t node_key, Outcome outcome);
  void EndHandshake(uint32_t node_key, bool answered);
  Probe Take(uint32_t node_key);
  void Retry(Cluster::ProbeOrder order, Instant now);

  EventLoop* loop_;
  Clock clock_;
  TlsClient tls_;
  Verdict verdict_;
  Duration timeout_ = std::chrono::seconds(2);
  std::unordered_map<uint32_t, Probe> in_flight_;  // by index and generation of the node
  std::deque<Probe> waiting_;
  uint64_t local_errors_ = 0;
};

}  // namespace hud
