// Ejection of one node that takes connections and leaves their ClientHellos without a byte. What workers see makes it
// suspected, and no more: clients can bring that about, since a server may close without a word on those that it does not
// like. A check of our own, a whole handshake, decides; a node that answers it is not ejected. An ejected node gets what no
// other can take, for a time that doubles with each relapse and is bounded. When that is over another check brings it back,
// or begins the next time, so that no client has to try it out. Without a check's verdict it comes back all the same, and so it
// does after the longest time.
// How many nodes of a pool may be out at once, and whether checks say anything there, is the Cluster's to say.
#pragma once

#include "core/base/types.h"
#include "core/routing/node_table.h"

namespace hud {

class Ejection {
 public:
  static constexpr Duration kMostTime = std::chrono::minutes(5);      // unless the configuration wants more
  static constexpr Duration kSteadyAfter = std::chrono::minutes(1);   // back this long: the next one is a first one
  static constexpr Duration kCheckCounts = std::chrono::seconds(5);   // so long an unanswered check is evidence
  static constexpr Duration kAwaitCheck = std::chrono::seconds(30);   // so long behind its end for a check's verdict

  struct Rules {
    uint32_t after = 0;  // connections in a row; 0: never
    Duration mute{0};    // a check that is not answered for so long after its connect is not answered
    Duration time{0};    // of a first ejection
  };

  // `counters` outlives it.
  explicit Ejection(NodeCounters* counters) : counters_(counters) {}

  bool is_out() const { return is_out_; }
  Instant until() const { return until_; }  // meaningful while it is out
  // In: it leaves clients without an answer, and a check is to say whether it is at fault.
  bool IsSuspected(const Rules& rules) const;
  // A check is to be made: of one that is suspected, or that may come back.
  bool WantsCheck(const Rules& rules, Instant now) const;
  // Suspected, and a check was not answered either.
  bool IsDue(const Rules& rules, Instant now) const { return IsSuspected(rules) && now < evidence_until_; }

  // Any handshake of ours with the node has ended.
  void OnCheck(bool answered, const Rules& rules, Instant now);
  void Begin(const Rules& rules, Instant now);
  // Ends what is over; true if it did.
  bool Tick(const Rules& rules, Instant now);
  // What was known is void: another server.
  void Forget();

  void check_invariants() const;

 private:
  NodeCounters* counters_;
  bool is_out_ = false;
  bool may_return_ = false;  // while it is out: with the next Tick
  Instant until_{};
  Duration last_time_{0};  // of the last one; 0: none yet
  Instant evidence_until_{};
};

}  // namespace hud
