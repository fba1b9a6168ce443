// Bulk: what each of its two engines is given, and what follows when it stops.
#include <poll.h>

#include <cerrno>

#include "core/base/check.h"
#include "ring/relay/relay.h"

namespace hud {

void Relay::EnterBulk(Direction& d) {
  d.bulk_wanted = false;
  d.policy.EngineChanged();
  d.engine = policy_.zero_copy_only ? Engine::kZeroCopy : Engine::kSplice;
  counters_.splice_entered.Add(d.engine == Engine::kSplice);
}

void Relay::LeaveBulk(Direction& d) {
  HUD_CHECK(d.pipe_bytes() == 0);
  splice_.GiveBackPipe(d);
  counters_.splice_left.Add(d.engine == Engine::kSplice);
  d.policy.EngineChanged();
  d.engine = Engine::kSmall;
}

void Relay::PumpSplice(RelayState& r, Side source) {
  const Pumped pumped = splice_.Pump(r.fd(source), r.fd(Other(source)), r.from(source), policy_.may_return);
  loop_.SawBulk(pumped.in);
  if (pumped.in + pumped.out > 0) r.last_activity = loop_.now();
  if (pumped.out > 0) CountSent(r, source, pumped.out);
  OnStop(r, source, pumped);
}

// Precondition: every byte received has been accepted by the sink.
void Relay::PumpZeroCopy(RelayState& r, Side source) {
  Direction& d = r.from(source);
  const bool forced = policy_.zero_copy_only && options_.zero_copy_send && !d.zero_copy_refused;
  const Pumped pumped = zero_copy_.Receive(r.fd(source), d, forced || ZeroCopyIsUseful(d));
  if (pumped.in > 0) r.last_activity = loop_.now();
  OnStop(r, source, pumped);
}

void Relay::OnStop(RelayState& r, Side source, Pumped pumped) {
  Direction& d = r.from(source);
  switch (pumped.stop) {
    case Stop::kSourceEmpty: return AwaitSource(r, source);
    case Stop::kNothingToRead:  // although a poll said that there was: splice(2) does not go past urgent data, a receive does
      if (d.said_readable) LeaveBulk(d);
      return AwaitSource(r, source);
    case Stop::kSourceEnded: return OnDirectEnd(r, source);
    case Stop::kSourceError: return OnSourceError(r, source, pumped.error);
    case Stop::kSinkFull: return AwaitSink(r, source);
    case Stop::kSinkError: return OnSinkError(r, Other(source), pumped.error);
    case Stop::kAllSent: return Advance(r, source);
    case Stop::kTurnOver: return TakeTurnLater(r, source);
    case Stop::kSmallAgain:
      LeaveBulk(d);
      return Advance(r, source);
    case Stop::kNoPipe: return OnNoPipe(r, source);
    case Stop::kNoBuffer:
      LeaveBulk(d);
      return AwaitSource(r, source);
    case Stop::kAllOnTheirWay: return WatchErrors(r, source);  // WaitsForNotification()
    case Stop::kReceived: return SendZeroCopy(r, source);
  }
}

// A direct read said 0. That is the source's FIN, or a reset that was told to a send whose completion we have not seen yet.
void Relay::OnDirectEnd(RelayState& r, Side source) {
  if (!r.end(source).IsSending()) {
    r.from(Other(source)).sink_error_hidden = true;
    return OnSourceEnd(r, source);
  }
  loop_.AwaitSend(r.end(source));
  TakeTurnLater(r, source);
}

// The pool is empty, or the kernel grants no pipe: the bytes pass through user space until one is there.
void Relay::OnNoPipe(RelayState& r, Side source) {
  Direction& d = r.from(source);
  if (policy_.pipeless_zero_copy && ZeroCopyIsUseful(d)) {
    d.engine = Engine::kZeroCopy;
    return PumpZeroCopy(r, source);
  }
  LeaveBulk(d);
  AwaitSource(r, source);
}

void Relay::TakeTurnLater(RelayState& r, Side source) {
  Direction& d = r.from(source);
  if (d.in_ready_list) return;
  ready_.push_back({&r, r.generation, source});
  d.in_ready_list = true;
}

// Bulk has its turn here, in the order in which it became ready, and behind all messages: so that one fast stream cannot
// starve the others, nor all of them together a message.
void Relay::TakeTurns() {
  if (ready_.empty()) return;
  loop_.ring().Submit();
  for (size_t left = ready_.size(); left > 0 && loop_.IsBulkLeft(); --left) {
    const Waiting w = ready_.front();
    ready_.pop_front();
    RelayState& r = *w.relay;
    if (!w.IsOf(r)) continue;
    r.from(w.source).in_ready_list = false;
    if (r.active) Guarded(r, [&] { SendHeld(r, w.source); });
  }
}

// Loopback, veth and tunnels copy after all, and unix sockets refuse; the kernel says so, and then a plain send is cheaper.
bool Relay::ZeroCopyIsUseful(const Direction& d) const { return options_.zero_copy_send && !d.zero_copy_copied; }

void Relay::SendZeroCopy(RelayState& r, Side source) {
  const Side sink = Other(source);
  const ZeroCopyBuffer& buffer = r.from(source).held->zero_copy.back();
  loop_.SendZeroCopy(r.end(sink), r.TagOf(Op::kZeroCopy, sink, buffer.number), buffer.unsent());
  counters_.zerocopy_sends.Add();
}

// Also of a relay that is over: the buffer stays until its last notification.
void Relay::OnZeroCopy(RelayState& r, Tag tag, const Completion& completion) {
  Direction& d = r.from(Other(tag.side));
  ZeroCopyBuffer& buffer = ZeroCopyPump::Find(d, tag.number);
  if (completion.notification) return OnZeroCopyNotification(r, tag.side, buffer, completion);
  HUD_CHECK(r.Owes(tag.side, Op::kZeroCopy));
  loop_.Forgive(r.end(tag.side), Op::kZeroCopy);
  if (completion.more) {
    ++buffer.notifications;
    ++r.end(tag.side).notifications;
  }
  if (completion.result > 0) {
    buffer.offset += static_cast<uint32_t>(completion.result);
    CountSent(r, Other(tag.side), static_cast<uint32_t>(completion.result));
    d.held->vain_wakes = 0;
  }
  if (r.active) OnZeroCopyResult(r, tag.side, completion.result);
}

void Relay::OnZeroCopyNotification(RelayState& r, Side sink, ZeroCopyBuffer& buffer, const Completion& completion) {
  const Side source = Other(sink);
  Direction& d = r.from(source);
  if (buffer.notifications == 0) [[unlikely]] {  // the result that announced it was lost: what ends the connection is on its way
    HUD_CHECK(loop_.ever_lost());
    return;
  }
  HUD_CHECK(r.end(sink).notifications > 0);
  --buffer.notifications;
  --r.end(sink).notifications;
  if ((static_cast<uint32_t>(completion.result) & kZeroCopyCopied) != 0) {
    counters_.zerocopy_copied.Add();
    d.zero_copy_copied = true;
  }
  if (!r.active) return;
  const bool waited = WaitsForNotification(r, source);
  zero_copy_.FreeSent(d);
  if (waited && !ZeroCopyPump::AllOnTheirWay(d)) return Advance(r, source);
  FreeHeldIfUnused(d);
}

// All buffers are on their way, so nothing is read.
bool Relay::WaitsForNotification(const RelayState& r, Side source) const {
  const Direction& d = r.from(source);
  return d.engine == Engine::kZeroCopy && d.stream == Stream::kOpen && ZeroCopyPump::AllOnTheirWay(d) && !d.HoldsBytes() &&
         !r.Owes(source, Op::kPollIn);
}

void Relay::OnZeroCopyResult(RelayState& r, Side sink, int result) {
  const Side source = Other(sink);
  Direction& d = r.from(source);
  if (d.stream == Stream::kDiscard || d.stream == Stream::kFinished) {
    DropHeld(r, source);
    if (d.stream == Stream::kDiscard) AwaitSource(r, source);
    return;
  }
  if (result == -EAGAIN) return AwaitSink(r, source);
  const bool refused = result == -EOPNOTSUPP || result == -EINVAL;  // on this socket, or with the usage report
  const bool no_room = result == -ENOMEM || result == -ENOBUFS;     // RLIMIT_MEMLOCK counts what sends in flight pin
  if (refused || no_room) {  // what is left goes by plain send
    if (refused) d.zero_copy_copied = d.zero_copy_refused = true;
    if (!KeepRest(d, d.held->zero_copy.back().unsent())) return Abort(r, CloseReason::kLocalError);
    ZeroCopyPump::GiveUpUnsent(d);
    zero_copy_.FreeSent(d);
    return SendHeld(r, source);
  }
  if (result < 0) return OnSinkError(r, sink, -result);
  r.last_activity = loop_.now();
  if (d.HoldsBytes()) {  // a short send: the sink is full
    d.sink_error_hidden = true;
    return AwaitSink(r, source);
  }
  zero_copy_.FreeSent(d);
  Advance(r, source);
}

}  // namespace hud
