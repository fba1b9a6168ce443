// ClientHello → pool → node → relay → record, of all connections of a worker. TLS passes through: only the ClientHello is read, and
// of the node's answer what tells whether it resumed the session.
//
//   pass_through.cc  who is let in; where completions and timers go
//   hello.cc         reads and judges the ClientHello, chooses a route; the unrecognized_name alert
//   to_node.cc       goes to a node (dialer.h), and hands the connection to the relay
//   answer.cc        what the node's first bytes say, and whether it answers at all
//   close.cc         terminate → join → close, and the connection's record
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/base/spsc_queue.h"
#include "core/base/timer_wheel.h"
#include "core/report/connection_record.h"
#include "core/report/worker_counters.h"
#include "ring/loop/ring_loop.h"
#include "ring/pass_through/admission.h"
#include "ring/pass_through/connection_table.h"
#include "ring/pass_through/dialer.h"
#include "ring/pass_through/invariants.h"
#include "ring/pass_through/places.h"
#include "ring/pass_through/routing_state.h"
#include "ring/relay/relay.h"

namespace hud {

namespace testing {
struct PassThroughAccess;  // breaks what the invariants are to find
}  // namespace testing

class PassThrough final : RelayOwner, AdmissionOwner {
 public:
  struct Options {
    unsigned worker = 0;  // index
    Relay::Options relay;
    bool log_connections = true;
    Duration lost_after = std::chrono::seconds(10);  // a completion that a loss may have taken is no longer waited for
    SipKey digest_key;                               // of ConnectionRecord::token_digest
    uint64_t random_seed = 1;
    bool check_invariants = false;  // at the end of every turn
  };

  PassThrough(const Options& options, RingLoop& loop, const RoutingState& routing, Places& places, WorkerCounters& counters,
              SpscQueue<ConnectionRecord>& records);

  void Admit(Fd client, ListenerIndex listener);
  void OnCompletion(Tag tag, const Completion& completion);
  void OnWake() { admission_.OnWake(); }  // other workers have asked for room

  // A turn: the table, which stays until the next one; completions; then these.
  void BeginTurn(const RouteTable& table);
  void AdvanceTimers();
  void TakeTurns();  // of bulk, of those that starved, of hidden ends
  void EndTurn();
  // When the next turn is wanted, as RingLoop::Wait() takes it.
  Instant WakeAt() const;

  void AbortAll(CloseReason reason);
  void AfterALoss();  // of completions, by the kernel
  size_t used() const { return connections_.used(); }

  // Precondition: Options::check_invariants. `completions` are those of this turn.
  void CheckInvariants(std::span<const Completion> completions, bool all);

 private:
  friend struct testing::PassThroughAccess;

  // What a connection does may find no memory. That ends the connection, and not the process.
  template <typename Act>
  void Guarded(Connection& c, Act&& act) {
    try {
      act();
    } catch (const std::bad_alloc&) {
      const bool lives = c.state != ConnectionState::kTerminating && c.state != ConnectionState::kFree;
      if (lives) relay_.Abort(c, CloseReason::kLocalError);
    }
  }

  // pass_through.cc
  void OnConnectionsCompletion(Connection& c, Tag tag, const Completion& completion);
  void OnTimer(Connection& c);
  void FeedStarved();
  void Enter(Connection& c, ConnectionState state);
  Counter* GaugeOf(ConnectionState state);
  const ListenerView& ListenerOf(const Connection& c) const { return table_->listeners[Raw(c.listener)]; }
  const PoolView& PoolOf(const Connection& c) const { return table_->pools[Raw(c.route.pool)]; }
  NodeCounters& NodeOf(const Connection& c) const { return routing_.nodes->node(c.choice.node.index); }
  PoolCounters& PoolCountersOf(const Connection& c) const { return routing_.nodes->pool(c.route.pool); }

  // hello.cc
  void BeginHello(Connection& c, size_t used);
  bool IsWelcome(Connection& c, Admission::Verdict verdict);
  const InternetEndpoint& ClientOf(Connection& c) override;
  SocketAddress ClientAddress(Connection& c);
  void AwaitClient(Connection& c, Expected expected);
  void OnClient(Connection& c, Tag tag, const Completion& completion);
  void OnHelloBytes(Connection& c, Bytes bytes);
  void JudgeHello(Connection& c);
  bool PeerIsBelieved(Connection& c);
  bool TakeProxyHeader(Connection& c);
  void HelloDone(Connection& c, HelloVerdict verdict);
  void NoteHello(Connection& c);
  void Reject(Connection& c);
  bool ComesRound(Connection& c);

  // to_node.cc
  void BeginDial(Connection& c);
  Dialer::Wish WishOf(Connection& c);
  void OnDialed(Connection& c, Dialer::Outcome outcome);
  void OnClientWhileDialing(Connection& c, Tag tag, const Completion& completion);
  std::shared_ptr<const NodeLabel> LabelOf(const NodeChoice& choice);
  void PrependProxyHeader(Connection& c);
  void Join(Connection& c, int sent);
  void CountJoined(Connection& c);

  // answer.cc
  void OnWatchedBytes(RelayState& r, Bytes bytes) override;
  void OnWatchedEnd(RelayState& r, bool reset) override;
  Instant OnWatchTimer(RelayState& r) override;
  void Watch(Connection& c);
  void ReadVerdict(Connection& c, Bytes bytes);
  bool OwesAnswer(const Connection& c) const;
  void NodeDidNotAnswer(Connection& c, std::atomic<uint64_t> NodeCounters::*how);
  Instant MuteAt(const Connection& c) const;

  // close.cc
  void OnRelayOver(RelayState& r, CloseReason reason) override;
  void OnBytesPassed(RelayState& r, Side source, uint64_t bytes) override;
  Instant BeganAt(const RelayState& r) const override { return static_cast<const Connection&>(r).accepted_at; }
  void EndAtLimit(Connection& c, CloseReason reason) override;
  void Terminate(Connection& c, CloseReason reason);
  void JoinIfDone(Connection& c);
  void CloseDescriptors(Connection& c);
  void Record(const Connection& c);
  void CountClose(ListenerIndex listener, CloseReason reason);

  // invariants.cc
  void CheckConnection(const Connection& c) const;
  void CheckSums() const;
  void CheckLists() const;
  void CheckCloses() const;
  void CheckWhatAllWorkersCount() const;

  const Options options_;
  RingLoop& loop_;
  const RoutingState routing_;
  Places& places_;
  WorkerCounters& counters_;
  SpscQueue<ConnectionRecord>& records_;
  SplitMix64 random_;
  uint64_t next_id_;  // of a connection, in the log; the first is random, so that no two workers or processes have the same
  TimerWheel timers_;
  PrivateMemory memory_;
  ConnectionTable connections_;
  Admission admission_;
  Dialer dialer_;
  Relay relay_;
  Instant feed_at_{};  // after a loss of completions: when those that starve are asked again
  std::vector<uint64_t> starved_;  // hellos that met an empty shared ring: tags of their receives
  std::vector<std::shared_ptr<const NodeLabel>> node_labels_;  // by NodeIndex, of those dialed; only for the log
  const RouteTable* table_ = nullptr;  // of this turn
  std::unique_ptr<InvariantChecks> checks_;  // null: not looked at
};

}  // namespace hud
