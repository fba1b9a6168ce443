// The small engine, where every direction starts: one message, one shared buffer, one send. The receive goes on meanwhile,
// but within a limit; if the sink turns out to be slow, no more than that arrives, it goes to private memory, and the
// direction stops receiving until all of it is sent.
#include "ring/relay/relay.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/base/check.h"
#include "ring/loop/lent_buffer.h"
#include "ring/relay/relay_times.h"

namespace hud {
namespace {

// What one receive may bring before it has to be asked for again: with less than a buffer more the most that can arrive
// behind a sink that stops. Two full buffers, so that a stream turns to bulk just when the receive ends.
constexpr uint32_t kReceiveLimit = 32 * 1024;
// So often in a row may a socket say that it has room and take nothing, before it is asked by the clock.
constexpr uint8_t kVainWakes = 3;

}  // namespace

Relay::Relay(const Options& options, RingLoop& loop, TimerWheel& timers, RelayOwner& owner, PrivateMemory& memory, WorkerCounters& counters)
    : options_(options),
      policy_(PolicyOf(options.mode)),
      loop_(loop),
      timers_(timers),
      owner_(owner),
      memory_(memory),
      counters_(counters),
      splice_(loop.calls(), memory, options.pipes, options.pipe_bytes),
      zero_copy_(loop.calls()) {}

void Relay::Begin(RelayState& r) {
  r.active = true;
  timers_.Set(r, loop_.now() + std::min(timeouts_->idle, options_.quiet_after));
  AwaitSource(r, Side::kNode);
}

void Relay::OnCompletion(RelayState& r, Tag tag, const Completion& completion) {
  if (tag.op == Op::kZeroCopy) return OnZeroCopy(r, tag, completion);
  loop_.Settle(r.end(tag.side), tag, completion);
  if (!r.active) {
    if (completion.has_buffer) loop_.ring().ReturnBuffer(completion.buffer);
    if (tag.op == Op::kSend && completion.result > 0) CountSent(r, Other(tag.side), static_cast<uint32_t>(completion.result));
    return;
  }
  switch (tag.op) {
    case Op::kRecv: return OnRecv(r, tag.side, completion);
    case Op::kSend: return OnSent(r, tag.side, completion.result);
    case Op::kPollIn: return OnPollIn(r, tag.side, completion.result);
    case Op::kPollOut: return OnPollOut(r, tag.side, completion);
    case Op::kPollError: return OnPollError(r, tag.side, completion);
    default: HUD_CHECK(false);
  }
}

// Asks for the next bytes of a side by the direction's engine. Holds nothing while it waits.
void Relay::AwaitSource(RelayState& r, Side source) {
  Direction& d = r.from(source);
  FreeHeldIfUnused(d);
  if (r.Owes(source, Op::kRecv) || d.starved) return;
  if (d.engine == Engine::kSmall || d.stream == Stream::kDiscard) {
    const Expected expected = d.said_readable ? Expected::kNow : Expected::kLater;
    d.said_readable = false;
    return RequestRecv(r, source, expected);
  }
  loop_.Poll(r.end(source), r.TagOf(Op::kPollIn, source), POLLIN | POLLRDHUP);
}

// Where bulk is forced the small engine has one message only, for which a receive that goes on would be too much.
void Relay::RequestRecv(RelayState& r, Side source, Expected expected) {
  const Tag tag = r.TagOf(Op::kRecv, source);
  if (policy_.bulk == EnginePolicy::Bulk::kAlways) return loop_.Recv(r.end(source), tag, expected);
  loop_.RecvMultishot(r.end(source), tag, expected, kReceiveLimit);
}

void Relay::OnRecv(RelayState& r, Side source, const Completion& completion) {
  if (completion.result > 0) return OnBytes(r, source, completion);
  if (completion.has_buffer) loop_.ring().ReturnBuffer(completion.buffer);
  if (completion.result == 0) return OnSourceEnd(r, source);
  if (completion.result == -ENOBUFS) {
    counters_.buffers_exhausted.Add();
    starved_.push_back({&r, r.generation, source});
    r.from(source).starved = true;
    return;
  }
  if (completion.result == -ECANCELED) {  // GoQuiet(), LookAgain()
    return loop_.Poll(r.end(source), r.TagOf(Op::kPollIn, source), POLLIN | POLLRDHUP);
  }
  OnSourceError(r, source, -completion.result);
}

void Relay::OnBytes(RelayState& r, Side source, const Completion& completion) {
  Direction& d = r.from(source);
  const Side sink = Other(source);
  const auto length = static_cast<uint32_t>(completion.result);
  const Bytes bytes = loop_.ring().BufferBytes(completion.buffer).first(length);
  LentBuffer lent(loop_.ring(), completion.buffer);
  NoteHeard(r, source);
  if (d.stream == Stream::kDiscard) {
    d.discarded += length;
    if (!ResetDiscardedSource(r, source)) AwaitSource(r, source);
    return;
  }
  r.last_activity = loop_.now();
  if (r.watched && source == Side::kNode) owner_.OnWatchedBytes(r, bytes);
  const bool full_run = d.policy.SawReceive(length, loop_.ring().buffer_size(), completion.more_to_read);
  if (d.HoldsBytes() || r.Owes(sink, Op::kSend)) {  // at most kReceiveLimit: no more is received until all of it is sent
    if (!memory_.Append(d.EnsureHeld().behind, bytes)) return Abort(r, CloseReason::kLocalError);
    return HoldSource(r, source);
  }
  loop_.SawMessage();
  lent.Keep();
  d.has_buffer = true;
  d.buffer = completion.buffer;
  d.buffer_length = length;
  d.bulk_wanted = WantsBulk(r, source, full_run);
  loop_.Send(r.end(sink), r.TagOf(Op::kSend, sink), bytes);
  const bool reads_on = !d.bulk_wanted && !r.Owes(source, Op::kRecv);
  if (reads_on) RequestRecv(r, source, completion.more_to_read ? Expected::kNow : Expected::kLater);
  if (!r.Owes(source, Op::kRecv)) loop_.AwaitSend(r.end(sink));
}

bool Relay::WantsBulk(const RelayState& r, Side source, bool full_run) const {
  if (source == Side::kNode && r.keep_bulk_off) return false;
  return policy_.bulk == EnginePolicy::Bulk::kAlways || (full_run && policy_.bulk == EnginePolicy::Bulk::kAfterFullBuffers);
}

void Relay::CountSent(RelayState& r, Side source, uint64_t bytes) {
  r.from(source).bytes += bytes;
  owner_.OnBytesPassed(r, source, bytes);
}

// A send of the shared buffer or of the oldest held bytes ended.
void Relay::OnSent(RelayState& r, Side sink, int result) {
  const Side source = Other(sink);
  Direction& d = r.from(source);
  if (result < 0 && result != -EAGAIN) {
    DropBuffer(d);
    return OnSinkError(r, sink, -result);
  }
  const auto sent = static_cast<uint32_t>(std::max(result, 0));
  if (sent > 0) CountSent(r, source, sent);
  // What was just received has been counted as activity; its send may be heard of much later.
  if (sent > 0 && !d.has_buffer) r.last_activity = loop_.now();
  if (d.stream == Stream::kDiscard) {  // the sink was given up while this was on its way
    DropBuffer(d);
    DropHeld(r, source);
    return AwaitSource(r, source);
  }
  const std::optional<bool> took_all = TakeSent(d, sent);
  if (!took_all) return Abort(r, CloseReason::kLocalError);
  if (sent > 0 && d.held) d.held->vain_wakes = 0;
  if (!d.HoldsBytes()) return Advance(r, source);
  if (*took_all) return SendHeld(r, source);
  if (sent > 0) d.sink_error_hidden = true;
  AwaitSink(r, source);
}

// Did the sink take all of what was sent? None: there was no memory for what it left.
std::optional<bool> Relay::TakeSent(Direction& d, uint32_t sent) {
  if (d.has_buffer) {
    const Bytes left = loop_.ring().BufferBytes(d.buffer).first(d.buffer_length).subspan(sent);
    const bool kept = left.empty() || KeepRest(d, left);
    DropBuffer(d);
    if (!kept) return std::nullopt;
    return left.empty();
  }
  PrivateBytes& rest = d.EnsureHeld().rest;
  rest.offset += sent;
  const bool took_all = rest.empty();
  if (took_all) memory_.Free(std::move(rest));
  return took_all;
}

// What the sink did not take of a shared buffer or of a zero-copy one. False: no memory.
bool Relay::KeepRest(Direction& d, Bytes bytes) {
  HUD_CHECK(d.EnsureHeld().rest.empty());
  return memory_.Append(d.EnsureHeld().rest, bytes);
}

// Sends the oldest bytes that are held.
void Relay::SendHeld(RelayState& r, Side source) {
  Direction& d = r.from(source);
  const Side sink = Other(source);
  if (r.end(sink).IsSending()) return;
  if (d.held) {
    HeldBytes& held = *d.held;
    if (held.rest.empty()) held.rest = std::exchange(held.behind, PrivateBytes());
    if (!held.rest.empty()) {
      loop_.Send(r.end(sink), r.TagOf(Op::kSend, sink), held.rest.unsent());
      return loop_.AwaitSend(r.end(sink));
    }
  }
  if (d.pipe_bytes() > 0) return PumpSplice(r, source);
  if (d.HoldsBytes()) return SendZeroCopy(r, source);
  Advance(r, source);
}

// Nothing is held: end, change engine, or read on.
void Relay::Advance(RelayState& r, Side source) {
  Direction& d = r.from(source);
  if (d.stream == Stream::kEnded) return FinishDirection(r, source);
  const bool goes_on = d.stream == Stream::kOpen || d.stream == Stream::kDiscard;
  if (!goes_on || r.Owes(source, Op::kRecv)) return FreeHeldIfUnused(d);
  if (d.bulk_wanted) EnterBulk(d);
  if (d.stream == Stream::kDiscard || d.engine == Engine::kSmall) return AwaitSource(r, source);
  if (d.engine == Engine::kSplice) return PumpSplice(r, source);
  PumpZeroCopy(r, source);
}

// Bytes are held, so no more are asked for: what is to follow their send is announced, and where they wait for room the source,
// which is not read, is watched.
void Relay::HoldSource(RelayState& r, Side source) {
  loop_.AwaitSend(r.end(Other(source)));
  if (!r.Owes(Other(source), Op::kSend) && !r.Owes(source, Op::kRecv)) WatchErrors(r, source);
}

// The sink takes no more: wait until it does, and meanwhile watch the source, which is not being read.
void Relay::AwaitSink(RelayState& r, Side source) {
  Direction& d = r.from(source);
  HeldBytes& held = d.EnsureHeld();
  if (held.vain_wakes == 0) held.stalled_since = loop_.now();
  if (held.vain_wakes < kVainWakes) {
    WaitForRoom(r, Other(source));
  } else {
    held.wait_by_timer = true;
    SetTimerAtMost(r, loop_.now() + kVainPause);
  }
  if (!r.Owes(source, Op::kRecv)) WatchErrors(r, source);
  // From when it stalled, not from now: the timer may have passed by while a turn that then sent nothing was to come.
  if (d.pipe_bytes() > 0) SetTimerAtMost(r, held.stalled_since + kPipeStall);
}

void Relay::WaitForRoom(RelayState& r, Side sink) {
  loop_.Poll(r.end(sink), r.TagOf(Op::kPollOut, sink), POLLOUT, r.from(sink).polls_at_once);
}

void Relay::OnPollOut(RelayState& r, Side sink, const Completion& completion) {
  const Side source = Other(sink);
  Direction& d = r.from(source);
  const int events = completion.result;
  if (events < 0 && events != -ECANCELED) return Abort(r, CloseReason::kLocalError);
  if (events > 0) {
    if ((events & (POLLRDHUP | POLLHUP)) != 0) r.from(sink).polls_at_once = true;
    if ((events & (POLLOUT | POLLERR | POLLHUP)) == 0) return WaitForRoom(r, sink);
    if (completion.more) loop_.Cancel(r.end(sink), r.TagOf(Op::kPollOut, sink));
  }
  if (!d.HoldsBytes()) return;
  if (d.held) ++d.held->vain_wakes;  // unless something is sent
  SendHeld(r, source);
}

void Relay::OnPollIn(RelayState& r, Side source, int events) {
  if (events < 0 && events != -ECANCELED) return Abort(r, CloseReason::kLocalError);
  Direction& d = r.from(source);
  d.said_readable = events > 0;
  if (d.stream == Stream::kDiscard) return AwaitSource(r, source);
  if (d.stream != Stream::kOpen) return;
  if (d.HoldsBytes()) return HoldSource(r, source);
  d.engine == Engine::kSplice ? TakeTurnLater(r, source) : Advance(r, source);
}

void Relay::DropBuffer(Direction& d) {
  if (!d.has_buffer) return;
  loop_.ring().ReturnBuffer(d.buffer);
  d.has_buffer = false;
}

// Forgets what is held for the sink, but not what the kernel is still reading.
void Relay::DropHeld(RelayState& r, Side source) {
  Direction& d = r.from(source);
  const Endpoint& sink = r.end(Other(source));
  if (!sink.Owes(Op::kSend)) DropBuffer(d);
  if (!d.held) return;
  if (!sink.Owes(Op::kSend)) memory_.Free(std::move(d.held->rest));
  memory_.Free(std::move(d.held->behind));
  splice_.GiveBackPipe(d);
  // The result of a send that is on its way says how much of its buffer the kernel still reads: OnZeroCopyResult goes on.
  if (sink.Owes(Op::kZeroCopy)) return;
  ZeroCopyPump::GiveUpUnsent(d);
  zero_copy_.FreeSent(d);
  FreeHeldIfUnused(d);
}

// So that a direction that goes idle costs nothing.
void Relay::FreeHeldIfUnused(Direction& d) {
  if (d.held && !d.held->InUse()) d.held.reset();
}

// Receives that met an empty shared ring are asked for again, in order, once buffers have come back.
void Relay::FeedStarved() {
  if (starved_.empty() || loop_.ring().buffers_free() == 0) return;
  taking_.swap(starved_);
  for (const Waiting& w : taking_) {
    RelayState& r = *w.relay;
    if (!w.IsOf(r)) continue;
    Direction& d = r.from(w.source);
    d.starved = false;
    if (!r.active || r.Owes(w.source, Op::kRecv)) continue;
    // It may hold bytes by now, even in a pipe: a receive would let others overtake them. It goes on when they are sent.
    Guarded(r, [&] { d.HoldsBytes() ? HoldSource(r, w.source) : Advance(r, w.source); });
  }
  taking_.clear();
}

}  // namespace hud
