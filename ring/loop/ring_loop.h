// The turns of one ring: submit, wait, hand out; and the requests, each noted at the endpoint that it is for. Knows no protocol and
// no timer: who has one says until when to wait.
#pragma once

#include <array>
#include <memory>
#include <span>

#include "core/policy/gather_policy.h"
#include "ring/io/ring.h"
#include "ring/io/socket_calls.h"
#include "ring/loop/endpoint.h"

namespace hud {

class RingLoop {
 public:
  RingLoop(std::unique_ptr<Ring> ring, SocketCalls& calls);

  Ring& ring() { return *ring_; }
  const Ring& ring() const { return *ring_; }
  SocketCalls& calls() { return calls_; }
  Instant now() const { return now_; }  // of this turn

  // ---- A turn

  // Submits what was requested and waits: until something has completed or `wake_at` is over, for ever if that is
  // Instant::max(), not at all if it is Instant::min() or somebody awaits a send. What is returned is valid until the next call.
  std::span<const Completion> Wait(Instant wake_at);
  void EndTurn();  // after all completions, timers and turns of bulk

  // The process was away (SIGSTOP, a paused machine), and what its peers did in time comes only with the next turns: nobody is
  // judged by the clock before timers_rest_until().
  bool timers_rest() const { return catching_up_; }
  Instant timers_rest_until() const { return caught_up_at_; }

  // Has the kernel lost completions since this was asked last? Then it may owe for ever.
  bool LostSome();
  bool ever_lost() const { return losses_ > 0; }

  // *WhoAwaitsASendSaysSo*: something is to happen once the send of this sink is done. Without this it is heard of when something
  // else happens.
  void AwaitSend(const Endpoint& sink) { sends_awaited_ |= sink.Owes(Op::kSend); }
  bool sends_awaited() const { return sends_awaited_; }
  bool batch_was_full() const { return batch_was_full_; }

  // What this turn brought, for the choice whether the next wait gathers.
  void SawArrival() { ++arrivals_; }  // a completion that is not of a send
  void SawMessage() { moved_messages_ = true; }
  void SawBulk(size_t bytes) { bulk_bytes_ += bytes; }
  // What all directions together may splice before the ring is asked again.
  bool IsBulkLeft() const { return bulk_bytes_ < kBulkBytesPerTurn; }

  // ---- Requests (ring/io/ring.h has their contracts). The tag's operation is noted at the endpoint, which must not owe it
  // yet. They may throw std::bad_alloc; then nothing was requested, and nothing is owed.

  void Recv(Endpoint& source, Tag tag, Expected expected);
  void RecvMultishot(Endpoint& source, Tag tag, Expected expected, uint32_t limit);
  void Send(Endpoint& sink, Tag tag, Bytes bytes);
  void SendZeroCopy(Endpoint& sink, Tag tag, Bytes bytes);
  // As long as one stands there is no second. `changes`: edge-triggered, for a socket whose peer has sent its FIN.
  void Poll(Endpoint& endpoint, Tag tag, uint32_t events, bool changes = false);
  void Cancel(const Endpoint& endpoint, Tag tag);  // if it is owed
  void Owe(Endpoint& endpoint, Op op);
  // Notes a completion. What it is of is no longer owed, unless more will come.
  void Settle(Endpoint& endpoint, Tag tag, const Completion& completion);
  void Forgive(Endpoint& endpoint, Op op) { endpoint.owed &= static_cast<uint16_t>(~(1u << static_cast<int>(op))); }
  // The endpoint is quiet.
  void Close(Endpoint& endpoint);

 private:
  // Well under a fifth of a millisecond.
  static constexpr size_t kBulkBytesPerTurn = 1024 * 1024;

  std::unique_ptr<Ring> ring_;
  SocketCalls& calls_;
  std::array<Completion, 512> completions_;  // reused: to clear 12 KB would cost every turn 150 ns
  GatherPolicy gather_;
  Instant now_;
  Instant before_;               // when the turn before this one began
  size_t arrivals_ = 0;          // in this turn, as those below
  size_t bulk_bytes_ = 0;
  bool moved_messages_ = false;
  bool sends_awaited_ = false;   // the next wait must not last
  bool batch_was_full_ = false;  // the ring may have more to say
  bool catching_up_ = false;
  Instant caught_up_at_{};
  uint64_t losses_ = 0;
};

}  // namespace hud
