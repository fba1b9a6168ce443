// One node's life: its three verdicts over time, and when to try to connect to it. Knows neither its name nor its
// pools.
//
// The agent's verdict:
//
//   kNone ──report──▶ kAlive ◀──ready/not ready──▶ kNotReady
//                     │   ▲                            │
//           dead_after│   │any beacon                  │
//            of silence   │                            │
//                     ▼   │                            │
//                    kSilent ──no connection left──▶ kDead ◀──silence, no connection left── kDying ◀──DYING── any
//
//   kDead, kSilent, kNotReady → by the next report; kDying, and kDead after it → by a report of another epoch only:
//     a STILL_HERE that was overtaken by its DYING must not bring the node back.
//   kDead → kNone, for static nodes only, by a successful connect: the operator has written the node into the file, and
//     it can serve without an agent; but only the connect proves that it was the agent that died and not the machine.
//     After a DYING that proof is not taken before kForgetDeadAfter: its own agent has said that it is going to stop.
//
// Reachability: `fall` connects in a row failed → down; only a successful connect, ours or a worker's, clears it. So do
// `fall` handshakes of checks, and only a check that the node answers clears that: a worker's connect proves too little. A
// node that is down is tried with back-off, doubling; one that falls again soon after it came up keeps the long
// intervals, so that it does not flap.
#pragma once

#include <optional>

#include "core/base/types.h"
#include "core/cluster/ejection.h"
#include "core/routing/node_table.h"
#include "core/routing/route_table.h"

namespace hud {

// How a check of a node ended.
enum class ProbeEnd : uint8_t {
  kNoConnect,
  kConnected,  // and that was all that was asked
  kNoAnswer,   // connected, but no TLS came back
  kTls,        // the node speaks TLS: a handshake, or an alert
};

class NodeLife {
 public:
  static constexpr Duration kFirstBackoff = std::chrono::seconds(1);
  static constexpr Duration kMostBackoff = std::chrono::seconds(30);
  static constexpr Duration kSteadyAfter = std::chrono::minutes(1);  // up this long: the next fall begins anew
  static constexpr Duration kProbeLost = std::chrono::minutes(1);    // a probe without an end is given up
  static constexpr Duration kForgetDeadAfter = std::chrono::minutes(10);
  static constexpr int kMostDoubt = 3;  // times dead_after

  // What the configuration says of it, at this moment.
  struct Rules {
    Duration dead_after{};
    uint32_t fall = 3;  // 0: never down
    bool is_static = false;
    std::optional<Duration> health_interval;  // none: not health-checked
    Ejection::Rules eject;
  };

  // `jitter`: spreads the probes of many nodes; the node's index will do. `counters` outlives it.
  NodeLife(Instant now, uint32_t jitter, NodeCounters* counters);

  const NodeVerdicts& verdicts() const { return verdicts_; }
  Instant up_since() const { return up_since_; }  // the last transition into usable
  bool has_agent() const { return has_agent_; }
  // A check has ended, an agent has spoken or a connection was joined.
  bool is_proven() const { return is_proven_; }
  std::optional<Instant> last_heard() const { return has_agent_ ? std::optional(last_heard_) : std::nullopt; }
  // An announced node that has been dead for long, and on which the operator's verdict would not be lost.
  bool IsForgettable(Instant now) const;
  std::optional<Instant> dead_since() const;

  // An authenticated report of the agent. False if it changes nothing because this epoch has said DYING.
  bool OnReport(uint64_t epoch, bool ready, Instant now);
  void OnDying(uint64_t epoch, Instant now);
  // Any other sign of life of its agent (tokens).
  void OnHeard(Instant now);

  void SetOperatorVerdict(OperatorVerdict verdict, Instant now);
  // Another address: what was known of the reachability of the old one is void.
  void OnNewAddress(Instant now);
  void OnProbe(ProbeEnd end, const Rules& rules, Instant now);
  // `paused`: so long this process stood still; it counts as heard. `doubt`: so long what its agent may have said was lost
  // among others' datagrams; it counts as heard up to kMostDoubt. A node that is silent for longer is used last, and judged
  // by connects: neither does a flood keep alive who is dead, nor does it take out who serves.
  void Tick(const Rules& rules, Instant now, Duration paused, Duration doubt = Duration(0));

  // Its connections go unanswered, and so did a check; whether it may be ejected is for those to say who know its pools.
  // Tick ends it.
  bool IsSuspected(const Rules& rules) const { return verdicts_.Usable() && ejection_.IsSuspected(rules.eject); }
  bool IsEjectionDue(const Rules& rules, Instant now) const {
    return verdicts_.Usable() && ejection_.IsDue(rules.eject, now);
  }
  void Eject(const Rules& rules, Instant now);

  // True if a connect is to be tried now; it has then begun, and OnProbe is to end it.
  bool TakeProbe(const Rules& rules, Instant now);
  // The same, of one that others need: whether a node that nobody suspects answers checks. Not more often than once in
  // kFirstBackoff.
  bool TakeComparison(Instant now);
  // What was taken last asks for an answer, and no more: that there is none says nothing of reachability.
  bool asks() const { return asks_; }
  // When Tick (last called with `last_tick`) or TakeProbe has something to do, as far as time alone decides.
  Instant NextDeadline(const Rules& rules, Instant last_tick) const;

  void check_invariants() const;

 private:
  bool IsSilent(const Rules& rules, Instant now) const { return now - last_heard_ > rules.dead_after; }
  bool NeedsProof(const Rules& rules, Instant now) const;
  bool WantsProbe(const Rules& rules, Instant now) const;
  bool MayAsk(Instant now) const { return last_asked_ == Instant::min() || now - last_asked_ >= kFirstBackoff; }
  void SetAgent(AgentVerdict verdict, Instant now);
  void SetReachable(bool reachable, Instant now);
  void SetEjected(bool ejected, Instant now);
  void NoteUsable(bool was_usable, Instant now);
  void JudgeReachability(const Rules& rules, Instant now);
  void JudgeSilence(const Rules& rules, Instant now);
  void ProbeSoon(Instant now);
  Duration WithJitter(Duration duration) const;

  uint32_t jitter_;
  NodeCounters* counters_;
  NodeVerdicts verdicts_;
  Instant up_since_;

  bool has_agent_ = false;
  uint64_t epoch_ = 0;
  bool said_dying_ = false;  // this epoch has
  Instant last_heard_{};
  Instant dead_since_{};
  Duration doubted_{0};     // counted as heard since it was last heard
  bool in_doubt_ = false;   // at the last Tick

  Ejection ejection_;
  bool is_proven_ = false;
  uint64_t total_elsewhere_ = 0;  // connections joined at addresses that it had before

  bool connects_ = true;             // what connects say, the workers' and ours; with check_failures_: reachable
  uint32_t check_failures_ = 0;      // handshakes of checks in a row that failed though the connect succeeded
  uint32_t failures_seen_ = 0;  // while down; a lower count means that a worker's connect succeeded
  Instant reachable_since_;
  Duration backoff_ = kFirstBackoff;
  Instant next_probe_;
  Instant last_probe_ = Instant::min();
  bool probing_ = false;
  bool asks_ = false;  // see asks()
  Instant last_asked_ = Instant::min();
};

}  // namespace hud
