// Ends, resets and errors. FIN only after all bytes; what came before a reset is delivered, and then the reset.
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/base/check.h"
#include "core/net/local_error.h"
#include "ring/relay/relay.h"
#include "ring/relay/relay_times.h"

namespace hud {
namespace {

// A source whose sink is gone may send this much more before it is reset; a late close_notify is 24 bytes.
constexpr uint64_t kDiscardAllowance = 256 * 1024;

}  // namespace

CloseReason ResetReason(Side side) { return side == Side::kClient ? CloseReason::kClientReset : CloseReason::kNodeReset; }

void Relay::OnSourceEnd(RelayState& r, Side source) {
  Direction& d = r.from(source);
  const Side sink = Other(source);
  r.last_activity = loop_.now();
  // A reset behind a FIN takes nothing back of it. Of resets the kernel's errors tell the two apart (tcp_reset()), but not once our own
  // FIN is out; other errors (a peer that is gone: tcp_write_err()) never do, and one that was hidden may be all there was. To ask is two
  // system calls.
  const bool says_too_little = d.source_reset && r.from(sink).stream == Stream::kFinished;
  if (says_too_little || r.from(sink).sink_error_hidden) {
    if (const std::optional<bool> fin = loop_.calls().FinCame(r.fd(source))) d.source_reset = !*fin;
  }
  StreamEnds ends = r.Ends();
  const EndStep step = ends.SourceEnded(Index(source));
  if (step == EndStep::kAbort) return Abort(r, ResetReason(source));
  if (step == EndStep::kDeliver && r.watched && source == Side::kNode) owner_.OnWatchedEnd(r, d.source_reset);
  r.SetEnds(ends);
  if (step == EndStep::kDone) return Over(r, CloseReason::kDone);
  SetTimerAtMost(r, loop_.now() + std::min(timeouts_->half_closed, kHalfClosedWatch));
  if (step == EndStep::kGoOn) return;
  d.polls_at_once = true;
  loop_.AwaitSend(r.end(sink));
  if (d.source_reset) StopDirection(r, sink);
  if (!d.HoldsBytes() && !r.Owes(sink, Op::kSend)) FinishDirection(r, source);
}

// The sink has been given all bytes: now the FIN. shutdown(2), because IORING_OP_SHUTDOWN costs a kernel thread.
void Relay::FinishDirection(RelayState& r, Side source) {
  Direction& d = r.from(source);
  const Side sink = Other(source);
  FreeHeldIfUnused(d);
  StreamEnds ends = r.Ends();
  const EndStep step = ends.Delivered(Index(source));
  r.SetEnds(ends);
  if (step == EndStep::kFlush) {
    d.discarded = 0;
    if (ResetFlushedSink(r, source)) return;
    SetTimerAtMost(r, loop_.now() + kAcknowledgedCheck);
    // A sink that has ended its own stream is not read: its reset would leave the acknowledgement owed for ever.
    if (!r.Owes(sink, Op::kRecv)) WatchErrors(r, sink);
    return;
  }
  loop_.calls().EndStream(r.fd(sink));
  if (step == EndStep::kDone) return Over(r, CloseReason::kDone);
  SetTimerAtMost(r, loop_.now() + kHalfClosedWatch);
  if (r.from(sink).stream == Stream::kDiscard) SetTimerAtMost(r, loop_.now() + kDiscardCheck);
}

// A reset takes nothing back of what came before it: that is delivered first.
void Relay::OnSourceError(RelayState& r, Side source, int error) {
  if (!EndsAConnection(error)) return Abort(r, CloseReason::kLocalError);
  r.from(source).source_reset = true;
  r.from(source).told_reset = error == ECONNRESET;
  OnSourceEnd(r, source);
}

// The direction towards that side is over; what it said itself may still lie in our receive queue, and is read to its end.
// EPIPE says that its FIN had come before its reset (tcp_reset() in the kernel tells the two apart by the state), or that
// somebody else was told of the reset: the end of the read will know. An ordinary TLS server does the first: it closes, and answers the
// client's close_notify with a reset.
void Relay::OnSinkError(RelayState& r, Side sink, int error) {
  if (!EndsAConnection(error)) return Abort(r, CloseReason::kLocalError);
  const Side source = Other(sink);
  if (error != ECONNRESET) r.from(source).sink_error_hidden = true;  // of what came before it only a reset tells
  StreamEnds ends = r.Ends();
  const EndStep step = ends.SinkFailed(Index(sink), error != EPIPE);
  if (step == EndStep::kAbort) return Abort(r, ResetReason(r.from(source).source_reset ? source : sink));
  r.SetEnds(ends);
  StopDirection(r, source);
  if (step == EndStep::kDone) return Over(r, CloseReason::kDone);
  LookAgain(r, sink);
  if (WaitsForNotification(r, sink)) {  // which may take a while: what is left to read goes by copy
    LeaveBulk(r.from(sink));
    AwaitSource(r, sink);
  }
}

// Its sink is gone: nothing is held for it any more. What the source still says, if it may say anything, is thrown away.
void Relay::StopDirection(RelayState& r, Side source) {
  Direction& d = r.from(source);
  const Side sink = Other(source);
  d.bulk_wanted = false;
  d.engine = Engine::kSmall;
  DropHeld(r, source);
  if (d.stream != Stream::kDiscard) return SetTimerAtMost(r, loop_.now() + kHalfClosedWatch);
  loop_.Cancel(r.end(source), r.TagOf(Op::kPollIn, source));
  SetTimerAtMost(r, loop_.now() + kDiscardCheck);
  loop_.AwaitSend(r.end(sink));
  if (!r.Owes(sink, Op::kSend)) AwaitSource(r, source);
}

// A source whose sink is gone cannot be told so by a FIN. Once what went to it is acknowledged, so that nothing can be
// lost any more, it is reset: a node at once, for its client is gone; a client only when it goes on sending.
bool Relay::ResetDiscardedSource(RelayState& r, Side source) {
  const Direction& d = r.from(source);
  if (d.stream != Stream::kDiscard || r.from(Other(source)).stream != Stream::kFinished) return false;
  if (source == Side::kClient && d.discarded < kDiscardAllowance) return false;
  if (loop_.calls().Unacknowledged(r.fd(source)) > 0) return false;
  Abort(r, ResetReason(Other(source)));
  return true;
}

// The source was reset and the sink has all that came before, but may not have acknowledged it: a reset now would destroy
// that. True: it was time. A sink that takes bytes, however slowly, is not idle.
bool Relay::ResetFlushedSink(RelayState& r, Side source) {
  Direction& d = r.from(source);
  if (d.stream != Stream::kFlushing) return false;
  const uint32_t owed = loop_.calls().Unacknowledged(r.fd(Other(source)));
  if (owed > 0) {
    if (owed != std::exchange(d.discarded, owed)) r.last_activity = loop_.now();
    return false;
  }
  Abort(r, ResetReason(source));
  return true;
}

void Relay::WatchErrors(RelayState& r, Side side) {
  loop_.Poll(r.end(side), r.TagOf(Op::kPollError, side), POLLRDHUP, r.from(side).polls_at_once);
}

void Relay::OnPollError(RelayState& r, Side side, const Completion& completion) {
  const int events = completion.result;
  if (events < 0 && events != -ECANCELED) return Abort(r, CloseReason::kLocalError);
  Direction& d = r.from(side);
  // Also what is read a little later: by then both ends may have come, which look like an error here (POLLHUP).
  const bool is_read = r.Owes(side, Op::kRecv) || r.Owes(side, Op::kPollIn) || d.starved || d.stream == Stream::kDiscard;
  if (events < 0) {  // cancelled below, when the end was known, or by nobody that we know
    if (!d.polls_at_once && !is_read) WatchErrors(r, side);
    return;
  }
  if ((events & (POLLRDHUP | POLLHUP)) != 0) d.polls_at_once = true;
  if ((events & (POLLERR | POLLHUP)) == 0) {  // only its FIN, which will be read in its place
    if (!is_read) WatchErrors(r, side);
    return;
  }
  if (completion.more) loop_.Cancel(r.end(side), r.TagOf(Op::kPollError, side));
  // The read is given the error, in its place behind the bytes; asking here would take it away.
  if (is_read) return LookAgain(r, side);
  const int error = loop_.calls().TakeError(r.fd(side));
  // Without one both of its ways are shut, or somebody else was told: then that was a reset, and is known or will be.
  OnSinkError(r, side, error == 0 ? EPIPE : error);
}

void Relay::Over(RelayState& r, CloseReason reason) {
  r.active = false;
  owner_.OnRelayOver(r, reason);
}

void Relay::Abort(RelayState& r, CloseReason reason) {
  for (Side side : {Side::kClient, Side::kNode}) {
    if (r.end(side).fd && !r.from(side).told_reset) loop_.calls().ResetOnClose(r.fd(side));
  }
  Over(r, reason);
}

void Relay::Cancel(RelayState& r) {
  for (Side side : {Side::kClient, Side::kNode}) {
    loop_.AwaitSend(r.end(side));
    for (Op op : {Op::kRecv, Op::kPollIn, Op::kPollOut, Op::kPollError}) loop_.Cancel(r.end(side), r.TagOf(op, side));
  }
}

void Relay::Release(RelayState& r) {
  for (Direction& d : r.direction) {
    DropBuffer(d);
    splice_.GiveBackPipe(d);
    if (!d.held) continue;
    memory_.Free(std::move(d.held->rest));
    memory_.Free(std::move(d.held->behind));
  }
}

void Relay::Forget(RelayState& r) {
  for (Direction& d : r.direction) {
    if (!d.held) continue;
    ZeroCopyPump::GiveUpUnsent(d);
    zero_copy_.FreeSent(d);
    HUD_CHECK(!d.held->InUse());
  }
}

// After a loss of completions. Memory that a zero-copy send may still read is not given back.
void Relay::Abandon(RelayState& r) {
  for (Endpoint& end : r.ends) end.owed = end.notifications = 0;
  for (Direction& d : r.direction) {
    if (d.held) d.held->zero_copy.clear();
  }
}

}  // namespace hud
