// Moves bytes between two ends until both streams are over: keeps their order, and passes ends and resets on as they came. Three
// engines move them; relay.cc has the small one, and the one switch that decides what follows.
//
//   relay.cc          the small engine: copy through shared buffers; what is sent next; what follows when an engine stops
//   relay_ends.cc     ends, resets, errors
//   relay_bulk.cc     the other two engines, and what follows when one stops
//   relay_timer.cc    what is waited for by the clock
//   splice_pump, zero_copy_pump   the other engines: they decide nothing, and say why they stopped
//   hidden_ends.cc    ends that a multishot receive does not tell
#pragma once

#include <deque>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "core/base/timer_wheel.h"
#include "core/config/cluster_config.h"
#include "core/policy/engine_policy.h"
#include "core/report/close_reason.h"
#include "core/report/worker_counters.h"
#include "ring/loop/ring_loop.h"
#include "ring/relay/relay_state.h"
#include "ring/relay/splice_pump.h"
#include "ring/relay/zero_copy_pump.h"

namespace hud {

class RelayOwner {
 public:
  // The ends still have descriptors and debts: the owner cancels, joins, releases and closes. It may free the record, whose memory
  // must stay and say that it is not active. None of the other calls ends the relay.
  virtual void OnRelayOver(RelayState& r, CloseReason reason) = 0;
  // Bytes of `source` that the other side's socket took.
  virtual void OnBytesPassed(RelayState& r, Side source, uint64_t bytes) = 0;
  // Of a relay that is watched: bytes of the node as they come, and the end of its stream.
  virtual void OnWatchedBytes(RelayState& r, Bytes bytes) = 0;
  virtual void OnWatchedEnd(RelayState& r, bool reset) = 0;
  // Acts on what the owner waits for by the clock. Returns when to ask again; Instant::max(): never.
  virtual Instant OnWatchTimer(RelayState& r) = 0;
  // Since when the connection has been there.
  virtual Instant BeganAt(const RelayState& r) const = 0;

 protected:
  ~RelayOwner() = default;
};

class Relay {
 public:
  struct Options {
    RelayMode mode = RelayMode::kAuto;
    size_t pipe_bytes = 1024 * 1024;
    unsigned pipes = 128;
    bool zero_copy_send = false;    // the kernel has it
    Duration quiet_after = std::chrono::seconds(5);      // before a relay waits with polls and keep-alive
    Duration node_silence = std::chrono::seconds(30);    // of a node that owes acknowledgements, before it counts as gone
    Duration reset_patience = std::chrono::seconds(10);  // with a side that takes nothing of what came before the other's reset
  };

  Relay(const Options& options, RingLoop& loop, TimerWheel& timers, RelayOwner& owner, PrivateMemory& memory, WorkerCounters& counters);

  // Of the route table of this turn.
  void SetTimeouts(const Timeouts& timeouts) { timeouts_ = &timeouts; }

  // Both ends are connected. The owner may set the timer for sooner.
  void Begin(RelayState& r);
  // Passes on what is held of a direction, also what the owner has put there; then reads on.
  void GoOn(RelayState& r, Side source) { SendHeld(r, source); }
  // The sink's socket said this to a send.
  void OnSinkError(RelayState& r, Side sink, int error);
  // Of an active relay, and of one that is over and still owed something.
  void OnCompletion(RelayState& r, Tag tag, const Completion& completion);
  void OnTimer(RelayState& r);

  // Both sides see a reset: a clean end would make a truncated stream look whole. Then OnRelayOver(). Also of one that has not begun.
  void Abort(RelayState& r, CloseReason reason);
  // Errors and FINs of a side that is not being read. Before Begin() the completion is the owner's.
  void WatchErrors(RelayState& r, Side side);
  void CountSent(RelayState& r, Side source, uint64_t bytes);

  // Behind OnRelayOver(). Cancel: all that may take long. Release: all memory and pipes but what notifications are owed for.
  // Forget: what is left of that, when they have come, or will not any more.
  void Cancel(RelayState& r);
  void Release(RelayState& r);
  void Forget(RelayState& r);
  void Abandon(RelayState& r);

  // Bulk, in the order in which it became ready; then those that waited for a shared buffer; then the ends that nobody told.
  void TakeTurns();
  void FeedStarved();
  void LookForHiddenEnds();
  bool HasMoreNow() const { return !ready_.empty(); }
  bool HasStarved() const { return !starved_.empty(); }
  Instant LooksAt() const { return heard_.empty() ? Instant::max() : look_at_; }

  const PipePool& pipes() const { return splice_.pipes(); }
  int64_t bytes_in_pipes() const { return splice_.bytes_in_pipes(); }

  enum class List : uint8_t { kReady, kStarved, kHeard };
  template <typename Visit>  // visit(List) for each entry that is not out of date; for the invariants
  void ForEachWaiting(Visit&& visit) const;

 private:
  friend struct RelayAccess;  // of tests

  struct Waiting {  // a direction that has more to do now, or waits for a shared buffer, or was heard
    RelayState* relay;  // its memory stays (ConnectionTable)
    uint16_t generation;
    Side source;
    bool IsOf(const RelayState& r) const { return r.generation == generation; }
  };

  // What a relay does may find no memory. That ends it, and not the process.
  template <typename Act>
  void Guarded(RelayState& r, Act&& act);

  // relay.cc
  void OnRecv(RelayState& r, Side source, const Completion& completion);
  void OnBytes(RelayState& r, Side source, const Completion& completion);
  bool WantsBulk(const RelayState& r, Side source, bool full_run) const;
  void RequestRecv(RelayState& r, Side source, Expected expected);
  void OnSent(RelayState& r, Side sink, int result);
  std::optional<bool> TakeSent(Direction& d, uint32_t sent);
  bool KeepRest(Direction& d, Bytes bytes);
  void SendHeld(RelayState& r, Side source);
  void Advance(RelayState& r, Side source);
  void AwaitSource(RelayState& r, Side source);
  void HoldSource(RelayState& r, Side source);
  void AwaitSink(RelayState& r, Side source);
  void WaitForRoom(RelayState& r, Side sink);
  void OnPollOut(RelayState& r, Side sink, const Completion& completion);
  void OnPollIn(RelayState& r, Side source, int events);
  void TakeTurnLater(RelayState& r, Side source);
  void EnterBulk(Direction& d);
  void LeaveBulk(Direction& d);
  void DropBuffer(Direction& d);
  void DropHeld(RelayState& r, Side source);
  static void FreeHeldIfUnused(Direction& d);

  // relay_bulk.cc
  void PumpSplice(RelayState& r, Side source);
  void PumpZeroCopy(RelayState& r, Side source);
  void OnStop(RelayState& r, Side source, Pumped pumped);
  void OnDirectEnd(RelayState& r, Side source);
  void OnNoPipe(RelayState& r, Side source);
  bool ZeroCopyIsUseful(const Direction& d) const;
  void SendZeroCopy(RelayState& r, Side source);
  void OnZeroCopy(RelayState& r, Tag tag, const Completion& completion);
  void OnZeroCopyNotification(RelayState& r, Side sink, ZeroCopyBuffer& buffer, const Completion& completion);
  void OnZeroCopyResult(RelayState& r, Side sink, int result);
  bool WaitsForNotification(const RelayState& r, Side source) const;

  // relay_ends.cc
  void Over(RelayState& r, CloseReason reason);
  void OnSourceEnd(RelayState& r, Side source);
  void OnSourceError(RelayState& r, Side source, int error);
  void OnPollError(RelayState& r, Side side, const Completion& completion);
  void FinishDirection(RelayState& r, Side source);
  void StopDirection(RelayState& r, Side source);
  bool ResetDiscardedSource(RelayState& r, Side source);
  bool ResetFlushedSink(RelayState& r, Side source);

  // relay_timer.cc
  bool OnDirectionTimer(RelayState& r, Side source, Instant& next);
  std::pair<Instant, CloseReason> IdleUntil(const RelayState& r) const;
  bool NodeLives(RelayState& r);
  void GoQuiet(RelayState& r);
  void SetTimerAtMost(RelayState& r, Instant deadline) {
    if (!r.IsSet() || deadline < r.deadline()) timers_.Set(r, deadline);
  }

  // hidden_ends.cc
  void NoteHeard(RelayState& r, Side source);
  void LookAgain(RelayState& r, Side source);

  const Options options_;
  const EnginePolicy policy_;
  RingLoop& loop_;
  TimerWheel& timers_;
  RelayOwner& owner_;
  PrivateMemory& memory_;
  WorkerCounters& counters_;
  const Timeouts* timeouts_ = nullptr;
  SplicePump splice_;
  ZeroCopyPump zero_copy_;
  std::deque<Waiting> ready_;
  std::vector<Waiting> starved_;
  std::vector<Waiting> taking_;  // reused by FeedStarved()
  std::vector<Waiting> heard_;   // multishot receives that may hide an end
  Instant look_at_{};            // meaningful while there are some
};

CloseReason ResetReason(Side side);

template <typename Act>
void Relay::Guarded(RelayState& r, Act&& act) {
  try {
    act();
  } catch (const std::bad_alloc&) {
    if (r.active) Abort(r, CloseReason::kLocalError);
  }
}

template <typename Visit>
void Relay::ForEachWaiting(Visit&& visit) const {
  const auto each = [&](const auto& entries, List list) {
    for (const Waiting& w : entries) {
      if (w.IsOf(*w.relay)) visit(list);
    }
  };
  each(ready_, List::kReady), each(starved_, List::kStarved), each(heard_, List::kHeard);
}

}  // namespace hud
