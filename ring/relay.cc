// The small engine, where every direction starts: one message, one shared buffer, one send. The receive goes on meanwhile,
// but within a limit; if the sink turns out to be slow, no more than that arrives, it goes to private memory, and the
// direction stops receiving until all of it is sent.
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "core/base/check.h"
#include "core/net/local_error.h"
#include "ring/relay_times.h"
#include "ring/worker.h"

namespace hud {
namespace {

// What one receive may bring before it has to be asked for again: with less than a buffer more the most that can arrive
// behind a sink that stops. Two full buffers, so that a stream turns to bulk just when the receive ends.
constexpr uint32_t kReceiveLimit = 32 * 1024;
// A source whose sink is gone may send this much more before it is reset; a late close_notify is 24 bytes.
constexpr uint64_t kDiscardAllowance = 256 * 1024;
// A side that has ended its stream is no longer read. If it does not go altogether within this time, it is watched.
constexpr Duration kHalfClosedWatch = std::chrono::milliseconds(30);
// So often in a row may a socket say that it has room and take nothing, before it is asked by the clock.
constexpr uint8_t kVainWakes = 3;

// A node that loses its power says nothing. An idle relay to it is found out by keep-alive after 10 + 3 × 5 s (tcp(7)),
// one with unacknowledged bytes by IsSilent(). Only relays that last are worth the four system calls.
constexpr KeepAliveTimes kKeepAlive{.idle_seconds = 10, .interval_seconds = 5, .probes = 3};

// A buffer of the shared ring that goes back at the end of the scope, unless it is to be sent.
class LentBuffer {
 public:
  LentBuffer(Ring& ring, uint16_t buffer) : ring_(&ring), buffer_(buffer) {}
  LentBuffer(const LentBuffer&) = delete;
  LentBuffer& operator=(const LentBuffer&) = delete;
  ~LentBuffer() {
    if (ring_ != nullptr) ring_->ReturnBuffer(buffer_);
  }
  void Keep() { ring_ = nullptr; }

 private:
  Ring* ring_;
  const uint16_t buffer_;
};

CloseReason ResetReason(Side side) { return side == Side::kClient ? CloseReason::kClientReset : CloseReason::kNodeReset; }

// Nothing was heard of that peer for so long, though it was asked several times over: its power is gone, or its network.
// Keep-alive rests while bytes are unacknowledged, and the kernel alone would go on asking for a quarter of an hour.
// TCP_USER_TIMEOUT is no help: since Linux 5.11 it also ends a connection to a peer that lives, answers every window
// probe, and only does not read for that long (measured on 6.18), which is nothing but back-pressure.
bool IsSilent(const std::optional<PeerSilence>& peer, Duration limit) {
  constexpr uint32_t kUnanswered = 3;
  return peer && peer->since_heard >= limit && peer->unanswered >= kUnanswered;
}

}  // namespace

void Worker::BeginRelay(Connection& c) {
  SetTimer(c, std::min(now_ + std::min(table_->timeouts.idle, options_.quiet_after), MuteAt(c)));
  Read(c, Side::kNode);
}

// Asks for the next bytes of a side by the direction's engine. Holds nothing while it waits.
void Worker::Read(Connection& c, Side source) {
  Direction& d = c.direction[Index(source)];
  FreeHeldIfUnused(d);
  if (c.IsPending(source, Op::kRecv) || d.starved) return;
  if (d.engine == Engine::kSmall || d.stream == Stream::kDiscard) {
    const Expected expected = d.said_readable ? Expected::kNow : Expected::kLater;
    d.said_readable = false;
    return RequestRelayRecv(c, source, expected);
  }
  RequestPoll(c, source, Op::kPollIn, POLLIN | POLLRDHUP);
}

void Worker::OnRecv(Connection& c, Side source, const Completion& completion) {
  Direction& d = c.direction[Index(source)];
  if (completion.result > 0) {
    const auto length = static_cast<uint32_t>(completion.result);
    switch (c.state) {
      case ConnectionState::kRelaying:
        return OnRelayBytes(c, source, completion.buffer, length, completion.more_to_read ? Expected::kNow : Expected::kLater);
      case ConnectionState::kHello: {
        const LentBuffer lent(*ring_, completion.buffer);
        return OnHelloBytes(c, ring_->BufferBytes(completion.buffer).first(length));
      }
      default:  // kRejecting: thrown away
        ring_->ReturnBuffer(completion.buffer);
        return RequestRecv(c, source, Expected::kLater);
    }
  }
  if (completion.has_buffer) ring_->ReturnBuffer(completion.buffer);
  if (completion.result == -ENOBUFS) {
    counters_.buffers_exhausted.Add();
    starved_.push_back({c.slot, c.generation, source});
    d.starved = true;
    return;
  }
  if (completion.result == -ECANCELED && c.state == ConnectionState::kRelaying) {
    return RequestPoll(c, source, Op::kPollIn, POLLIN | POLLRDHUP);  // GoQuiet(), LookAgain()
  }
  if (c.state == ConnectionState::kRejecting) return Terminate(c, CloseReason::kUnrecognizedName);
  if (c.state == ConnectionState::kHello) {
    const bool client_left = completion.result == 0 || EndsAConnection(-completion.result);
    return Terminate(c, client_left ? CloseReason::kClientGoneInHello : CloseReason::kLocalError);
  }
  if (completion.result == 0) return OnSourceEnd(c, source);
  OnSourceError(c, source, -completion.result);
}

// `next`: whether more bytes are likely to be in the socket already.
void Worker::OnRelayBytes(Connection& c, Side source, uint16_t buffer, uint32_t length, Expected next) {
  Direction& d = c.direction[Index(source)];
  const Side sink = Other(source);
  const Bytes bytes = ring_->BufferBytes(buffer).first(length);
  LentBuffer lent(*ring_, buffer);
  NoteHeard(c, d, source);
  if (d.stream == Stream::kDiscard) {
    d.discarded += length;
    if (!ResetDiscardedSource(c, source)) Read(c, source);
    return;
  }
  c.last_activity = now_;
  if (source == Side::kNode && !c.answer_judged) NodeAnswered(c);
  if (source == Side::kNode && c.verdict_pending) ReadVerdict(c, bytes);
  const bool full_run = d.policy.SawReceive(length, ring_->buffer_size(), next == Expected::kNow);
  if (d.HoldsBytes() || c.IsPending(sink, Op::kSend)) {
    if (!KeepBehind(d, bytes)) return Abort(c, CloseReason::kLocalError);
    return HoldSource(c, source);
  }
  moved_messages_ = true;
  lent.Keep();
  d.has_buffer = true;
  d.buffer = buffer;
  d.buffer_length = length;
  d.bulk_wanted = WantsBulk(c, source, full_run);
  RequestSend(c, sink, bytes);
  if (!d.bulk_wanted && !c.IsPending(source, Op::kRecv)) RequestRelayRecv(c, source, next);
  if (!c.IsPending(source, Op::kRecv)) AwaitSend(c, sink);
}

// Modes that force an engine leave this one after the first message, and take it at its word.
void Worker::RequestRelayRecv(Connection& c, Side source, Expected expected) {
  if (options_.relay_mode == RelayMode::kSplice || options_.relay_mode == RelayMode::kZeroCopy) return RequestRecv(c, source, expected);
  HUD_CHECK(!c.IsPending(source, Op::kRecv));
  ring_->RecvMultishot(c.fd[Index(source)].get(), expected, kReceiveLimit, c.TagOf(Op::kRecv, source));
  Owe(c, Op::kRecv, source);
}

bool Worker::WantsBulk(const Connection& c, Side source, bool full_run) const {
  if (source == Side::kNode && c.verdict_pending) return false;
  switch (options_.relay_mode) {
    case RelayMode::kCopy: return false;
    case RelayMode::kAuto: return full_run;
    case RelayMode::kSplice:
    case RelayMode::kZeroCopy: return true;
  }
  return false;
}

// A send of the shared buffer or of the first residue ended.
void Worker::OnSent(Connection& c, Side sink, int result) {
  const Side source = Other(sink);
  Direction& d = c.direction[Index(source)];
  if (result < 0 && result != -EAGAIN) {
    DropBuffer(d);
    return OnSinkError(c, sink, -result);
  }
  const auto sent = static_cast<uint32_t>(std::max(result, 0));
  CountBytes(c, source, sent);
  // What was just received has been counted as activity; its send may be heard of much later.
  if (sent > 0 && !d.has_buffer) c.last_activity = now_;
  if (d.stream == Stream::kDiscard) {  // the sink was given up while this was on its way
    DropBuffer(d);
    DropHeld(c, source);
    return Read(c, source);
  }
  bool took_all;
  if (d.has_buffer) {
    const Bytes rest = ring_->BufferBytes(d.buffer).first(d.buffer_length).subspan(sent);
    took_all = rest.empty();
    const bool kept = took_all || KeepRest(d, rest);
    DropBuffer(d);
    if (!kept) return Abort(c, CloseReason::kLocalError);
  } else {
    PrivateBytes& rest = d.Held().rest;
    rest.offset += sent;
    took_all = rest.empty();
    if (took_all) FreePrivate(rest);
  }
  if (sent > 0 && d.held) d.held->vain_wakes = 0;
  if (!d.HoldsBytes()) return Advance(c, source);
  if (sent > 0 && !took_all) d.sink_error_hidden = true;
  if (!took_all) return Stall(c, source);
  SendHeld(c, source);
}

// Sends the oldest bytes that are held.
void Worker::SendHeld(Connection& c, Side source) {
  Direction& d = c.direction[Index(source)];
  const Side sink = Other(source);
  if (c.IsPending(sink, Op::kSend) || c.IsPending(sink, Op::kZeroCopy)) return;
  if (d.held) {
    HeldBytes& held = *d.held;
    if (held.rest.empty()) held.rest = std::exchange(held.behind, PrivateBytes());
    if (!held.rest.empty()) {
      RequestSend(c, sink, held.rest.rest());
      return AwaitSend(c, sink);
    }
  }
  if (d.pipe_bytes() > 0) return PumpSplice(c, source);
  if (d.HoldsBytes()) return SendZeroCopy(c, source);
  Advance(c, source);
}

// Nothing is held: end, change engine, or read on.
void Worker::Advance(Connection& c, Side source) {
  Direction& d = c.direction[Index(source)];
  if (d.stream == Stream::kEnded) return FinishDirection(c, source);
  const bool goes_on = d.stream == Stream::kOpen || d.stream == Stream::kDiscard;
  if (!goes_on || c.IsPending(source, Op::kRecv)) return FreeHeldIfUnused(d);
  if (d.bulk_wanted) EnterBulk(c, source);
  if (d.stream == Stream::kDiscard || d.engine == Engine::kSmall) return Read(c, source);
  if (d.engine == Engine::kSplice) return PumpSplice(c, source);
  PumpZeroCopy(c, source);
}

// Bytes are held, so no more are asked for: what is to follow their send is announced, and where they wait for room the source,
// which is not read, is watched.
void Worker::HoldSource(Connection& c, Side source) {
  AwaitSend(c, Other(source));
  if (!c.IsPending(Other(source), Op::kSend) && !c.IsPending(source, Op::kRecv)) WatchErrors(c, source);
}

// The sink takes no more: wait until it does, and meanwhile watch the source, which is not being read.
void Worker::Stall(Connection& c, Side source) {
  Direction& d = c.direction[Index(source)];
  HeldBytes& held = d.Held();
  if (held.vain_wakes == 0) held.stalled_since = now_;
  if (held.vain_wakes < kVainWakes) {
    WaitForRoom(c, Other(source));
  } else {
    held.wait_by_timer = true;
    SetTimerAtMost(c, now_ + kVainPause);
  }
  if (!c.IsPending(source, Op::kRecv)) WatchErrors(c, source);
  // From when it stalled, not from now: the timer may have passed by while a turn that then sent nothing was to come.
  if (d.pipe_bytes() > 0) SetTimerAtMost(c, held.stalled_since + kPipeStall);
}

void Worker::WaitForRoom(Connection& c, Side sink) {
  RequestPoll(c, sink, Op::kPollOut, POLLOUT, c.direction[Index(sink)].polls_at_once);
}

void Worker::OnPollOut(Connection& c, Side sink, const Completion& completion) {
  const Side source = Other(sink);
  Direction& d = c.direction[Index(source)];
  const int events = completion.result;
  if (events < 0 && events != -ECANCELED) return Abort(c, CloseReason::kLocalError);
  if (events > 0) {
    if ((events & (POLLRDHUP | POLLHUP)) != 0) c.direction[Index(sink)].polls_at_once = true;
    if ((events & (POLLOUT | POLLERR | POLLHUP)) == 0) return WaitForRoom(c, sink);
    if (completion.more) ring_->Cancel(c.TagOf(Op::kPollOut, sink));
  }
  if (!d.HoldsBytes()) return;
  if (d.held) ++d.held->vain_wakes;  // unless something is sent
  SendHeld(c, source);
}

// What the sink did not take of a shared buffer or of a zero-copy one. False: no memory, here and below.
bool Worker::KeepRest(Direction& d, Bytes bytes) {
  HUD_CHECK(d.Held().rest.empty());
  return Append(d.Held().rest, bytes);
}

// What arrives while something is being sent. At most kReceiveLimit: no more is received until all of it is sent.
bool Worker::KeepBehind(Direction& d, Bytes bytes) { return Append(d.Held().behind, bytes); }

bool Worker::Append(PrivateBytes& place, Bytes bytes) {
  const size_t needed = place.size + bytes.size();
  if (needed > place.capacity) {
    const auto capacity = static_cast<uint32_t>(std::max<size_t>(needed, size_t{place.capacity} * 2));
    std::unique_ptr<uint8_t[]> grown(new (std::nothrow) uint8_t[capacity]);
    if (!grown) return false;
    if (place.size > 0) std::memcpy(grown.get(), place.data.get(), place.size);
    counters_.private_bytes.Add(capacity - place.capacity);
    place.data = std::move(grown);
    place.capacity = capacity;
  }
  std::memcpy(place.data.get() + place.size, bytes.data(), bytes.size());
  place.size = static_cast<uint32_t>(needed);
  return true;
}

void Worker::FreePrivate(PrivateBytes& place) {
  counters_.private_bytes.Add(-int64_t{place.capacity});
  place = PrivateBytes();
}

void Worker::DropBuffer(Direction& d) {
  if (!d.has_buffer) return;
  ring_->ReturnBuffer(d.buffer);
  d.has_buffer = false;
}

// Forgets what is held for the sink, but not what the kernel is still reading.
void Worker::DropHeld(Connection& c, Side source) {
  Direction& d = c.direction[Index(source)];
  if (!c.IsPending(Other(source), Op::kSend)) DropBuffer(d);
  if (!d.held) return;
  if (!c.IsPending(Other(source), Op::kSend)) FreePrivate(d.held->rest);
  FreePrivate(d.held->behind);
  GiveBackPipe(d);
  // The result of a send that is on its way says how much of its buffer the kernel still reads: OnZeroCopyResult goes on.
  if (c.IsPending(Other(source), Op::kZeroCopy)) return;
  if (!d.held->zero_copy.empty()) d.held->zero_copy.back().size = d.held->zero_copy.back().offset;
  FreeZeroCopyBuffers(d);
  FreeHeldIfUnused(d);
}

// So that a direction that goes idle costs nothing.
void Worker::FreeHeldIfUnused(Direction& d) {
  if (d.held && !d.held->InUse()) d.held.reset();
}

void Worker::OnSourceEnd(Connection& c, Side source) {
  Direction& d = c.direction[Index(source)];
  c.last_activity = now_;
  // What a send was told is not the last word: a reset behind a FIN takes nothing back of it, and one that was hidden may be all
  // there was.
  if (d.source_reset || c.direction[Index(Other(source))].sink_error_hidden) {
    if (const std::optional<bool> fin = calls_.FinCame(c.fd[Index(source)].get())) d.source_reset = !*fin;
  }
  if (d.stream == Stream::kDiscard) {
    if (d.source_reset) return Abort(c, ResetReason(source));  // both are gone
    d.stream = Stream::kFinished;
    if (c.direction[Index(Other(source))].stream == Stream::kFinished) Terminate(c, CloseReason::kDone);
    return;
  }
  if (d.source_reset && c.direction[Index(Other(source))].source_reset) return Abort(c, ResetReason(source));
  if (source == Side::kNode) {
    NodeDidNotAnswer(c, d.source_reset ? &NodeCounters::unanswered_resets : &NodeCounters::unanswered_closes);
  }
  d.stream = Stream::kEnded;
  d.polls_at_once = true;
  SetTimerAtMost(c, now_ + std::min(table_->timeouts.half_closed, kHalfClosedWatch));
  AwaitSend(c, Other(source));
  if (d.source_reset) DropDirection(c, Other(source));  // who was reset takes no more either
  if (!d.HoldsBytes() && !c.IsPending(Other(source), Op::kSend)) FinishDirection(c, source);
}

// The sink has been given all bytes: now the FIN. shutdown(2), because IORING_OP_SHUTDOWN costs a kernel thread.
void Worker::FinishDirection(Connection& c, Side source) {
  Direction& d = c.direction[Index(source)];
  FreeHeldIfUnused(d);
  if (d.source_reset) {
    d.stream = Stream::kFlushing;
    d.discarded = 0;
    if (ResetFlushedSink(c, source)) return;
    SetTimerAtMost(c, now_ + kAcknowledgedCheck);
    // A sink that has ended its own stream is not read: its reset would leave the acknowledgement owed for ever.
    if (!c.IsPending(Other(source), Op::kRecv)) WatchErrors(c, Other(source));
    return;
  }
  calls_.EndStream(c.fd[Index(Other(source))].get());
  d.stream = Stream::kFinished;
  const Direction& other = c.direction[Index(Other(source))];
  if (other.stream == Stream::kFinished) return Terminate(c, CloseReason::kDone);
  if (other.stream == Stream::kDiscard) SetTimerAtMost(c, now_ + kDiscardCheck);
}

// A reset takes nothing back of what came before it: that is delivered first.
void Worker::OnSourceError(Connection& c, Side source, int error) {
  if (!EndsAConnection(error)) return Abort(c, CloseReason::kLocalError);
  c.direction[Index(source)].source_reset = true;
  c.direction[Index(source)].told_reset = error == ECONNRESET;
  OnSourceEnd(c, source);
}

// The direction towards that side is over; what it said itself may still lie in our receive queue, and is read to its end.
// EPIPE says that its FIN had come before its reset (tcp_reset() in the kernel tells the two apart by the state), or that
// somebody else was told of the reset: the end of the read will know. An ordinary TLS server does the first: it closes, and answers the
// client's close_notify with a reset.
void Worker::OnSinkError(Connection& c, Side sink, int error) {
  if (!EndsAConnection(error)) return Abort(c, CloseReason::kLocalError);
  const Side source = Other(sink);
  Direction& from_sink = c.direction[Index(sink)];
  if (error != EPIPE && from_sink.stream == Stream::kOpen) from_sink.source_reset = true;
  if (error == EPIPE) c.direction[Index(source)].sink_error_hidden = true;
  const bool nobody_is_left = c.direction[Index(source)].source_reset || from_sink.stream == Stream::kDiscard;
  if (nobody_is_left) return Abort(c, ResetReason(c.direction[Index(source)].source_reset ? source : sink));
  DropDirection(c, source);
  if (c.state != ConnectionState::kRelaying) return;
  LookAgain(c, sink);
  if (WaitsForNotification(c, sink)) {  // which may take a while: what is left to read goes by copy
    LeaveBulk(c, sink);
    Read(c, sink);
  }
}

void Worker::DropDirection(Connection& c, Side source) {
  Direction& d = c.direction[Index(source)];
  HUD_CHECK(d.stream != Stream::kFlushing);
  const bool source_had_ended = d.stream == Stream::kEnded || d.stream == Stream::kFinished;
  d.stream = source_had_ended ? Stream::kFinished : Stream::kDiscard;
  d.bulk_wanted = false;
  d.engine = Engine::kSmall;
  DropHeld(c, source);
  const Direction& other = c.direction[Index(Other(source))];
  if (source_had_ended) {
    if (other.stream == Stream::kFinished) Terminate(c, CloseReason::kDone);
    return;
  }
  if (c.IsPending(source, Op::kPollIn)) ring_->Cancel(c.TagOf(Op::kPollIn, source));
  SetTimerAtMost(c, now_ + kDiscardCheck);
  AwaitSend(c, Other(source));
  if (!c.IsPending(Other(source), Op::kSend)) Read(c, source);
}

// A source whose sink is gone cannot be told so by a FIN. Once what went to it is acknowledged, so that nothing can be
// lost any more, it is reset: a node at once, for its client is gone; a client only when it goes on sending.
bool Worker::ResetDiscardedSource(Connection& c, Side source) {
  const Direction& d = c.direction[Index(source)];
  if (d.stream != Stream::kDiscard || c.direction[Index(Other(source))].stream != Stream::kFinished) return false;
  if (source == Side::kClient && d.discarded < kDiscardAllowance) return false;
  if (calls_.Unacknowledged(c.fd[Index(source)].get()) > 0) return false;
  Abort(c, ResetReason(Other(source)));
  return true;
}

// The source was reset and the sink has all that came before, but may not have acknowledged it: a reset now would destroy
// that. True: it was time. A sink that takes bytes, however slowly, is not idle.
bool Worker::ResetFlushedSink(Connection& c, Side source) {
  Direction& d = c.direction[Index(source)];
  if (d.stream != Stream::kFlushing) return false;
  const uint32_t owed = calls_.Unacknowledged(c.fd[Index(Other(source))].get());
  if (owed > 0) {
    if (owed != std::exchange(d.discarded, owed)) c.last_activity = now_;
    return false;
  }
  Abort(c, ResetReason(source));
  return true;
}

// Errors and FINs of a side that is not being read.
void Worker::WatchErrors(Connection& c, Side side) {
  RequestPoll(c, side, Op::kPollError, POLLRDHUP, c.direction[Index(side)].polls_at_once);
}

void Worker::OnPollError(Connection& c, Side side, const Completion& completion) {
  const int events = completion.result;
  if (events < 0 && events != -ECANCELED) return Abort(c, CloseReason::kLocalError);
  Direction& d = c.direction[Index(side)];
  const bool is_read = c.IsPending(side, Op::kRecv) || c.IsPending(side, Op::kPollIn);
  if (events < 0) {  // cancelled below, when the end was known, or by nobody that we know
    if (!d.polls_at_once && !is_read) WatchErrors(c, side);
    return;
  }
  if ((events & (POLLRDHUP | POLLHUP)) != 0) d.polls_at_once = true;
  if ((events & (POLLERR | POLLHUP)) == 0) {  // only its FIN, which will be read in its place
    if (!is_read) WatchErrors(c, side);
    return;
  }
  if (c.state != ConnectionState::kRelaying) return Terminate(c, CloseReason::kClientGoneInDial);
  if (completion.more) ring_->Cancel(c.TagOf(Op::kPollError, side));
  // The read is given the error, in its place behind the bytes; asking here would take it away.
  if (is_read) return LookAgain(c, side);
  const int error = calls_.TakeError(c.fd[Index(side)].get());
  // Without one both of its ways are shut, or somebody else was told: then that was a reset, and is known or will be.
  OnSinkError(c, side, error == 0 ? EPIPE : error);
}

void Worker::ReadVerdict(Connection& c, Bytes bytes) {
  std::vector<uint8_t>& early = c.context->server_bytes;
  const Bytes first = early.empty() ? bytes : (early.insert(early.end(), bytes.begin(), bytes.end()), Bytes(early));
  ServerHelloFacts facts;
  c.resumption = ReadResumption(first, c.context->hello, facts);
  if (c.resumption == ResumptionVerdict::kNeedMore && first.size() < kMaxServerHelloBytes) {
    if (early.empty()) early.assign(bytes.begin(), bytes.end());
    return;
  }
  if (c.resumption == ResumptionVerdict::kResumed) {
    shared_.nodes->node(c.choice.node.index).resumed.fetch_add(1, std::memory_order_relaxed);
    shared_.nodes->pool(c.route.pool).resumed.fetch_add(1, std::memory_order_relaxed);
  }
  c.verdict_pending = false;
  c.context.reset();
}

void Worker::OnRelayTimer(Connection& c) {
  Instant next = Instant::max();
  for (Side source : {Side::kClient, Side::kNode}) {
    Direction& d = c.direction[Index(source)];
    if (ResetDiscardedSource(c, source) || ResetFlushedSink(c, source)) return;
    if (d.stream == Stream::kDiscard && source == Side::kNode) next = std::min(next, now_ + kDiscardCheck);
    if (d.stream == Stream::kFlushing) {
      next = std::min(next, now_ + std::clamp((now_ - c.last_activity) / 4, kAcknowledgedCheck, kLatestAcknowledgedCheck));
    }
    if (d.stream == Stream::kFinished && c.direction[Index(Other(source))].stream == Stream::kOpen) WatchErrors(c, source);
    if (d.held && std::exchange(d.held->wait_by_timer, false)) {
      SendHeld(c, source);
      if (c.state != ConnectionState::kRelaying) return;
    }
    const bool stalled = c.IsPending(Other(source), Op::kPollOut) || (d.held && d.held->wait_by_timer);
    if (d.pipe_bytes() == 0 || !stalled) continue;
    if (now_ - d.held->stalled_since >= kPipeStall) EmptyPipeToMemory(c, source);
    if (c.state != ConnectionState::kRelaying) return;
    if (d.pipe_bytes() > 0) next = std::min(next, d.held->stalled_since + kPipeStall);
  }
  if (MuteAt(c) <= now_) NodeDidNotAnswer(c, &NodeCounters::unanswered_mutes);
  next = std::min(next, MuteAt(c));
  if (now_ - c.last_activity >= options_.quiet_after) GoQuiet(c);
  const bool lasts = now_ - c.accepted_at >= options_.quiet_after;
  if (lasts && !c.keep_alive) {
    calls_.KeepAlive(c.fd[Index(Side::kNode)].get(), kKeepAlive);
    c.keep_alive = true;
  }
  if (lasts && IsSilent(calls_.SilenceOf(c.fd[Index(Side::kNode)].get()), options_.node_silence)) return Abort(c, ResetReason(Side::kNode));
  next = std::min(next, now_ + options_.node_silence / 2);
  const bool half_closed = c.direction[0].stream != Stream::kOpen || c.direction[1].stream != Stream::kOpen;
  Duration limit = half_closed ? table_->timeouts.half_closed : table_->timeouts.idle;
  const bool reset = c.direction[0].source_reset || c.direction[1].source_reset;
  if (reset) limit = std::min(limit, options_.reset_patience);
  if (now_ - c.last_activity >= limit) {
    if (reset) return Abort(c, ResetReason(c.direction[0].source_reset ? Side::kClient : Side::kNode));
    return Abort(c, half_closed ? CloseReason::kHalfClosedTimeout : CloseReason::kIdleTimeout);
  }
  SetTimerAtMost(c, std::min(next, c.last_activity + limit));  // what was sent above may have set it for sooner
}

// A receive that waits pins 860 bytes in the kernel, a poll 256 (FACTS 4): an idle relay waits with polls, and receives
// again with its next message.
void Worker::GoQuiet(Connection& c) {
  for (Side source : {Side::kClient, Side::kNode}) {
    const Direction& d = c.direction[Index(source)];
    if (d.stream == Stream::kOpen && !d.HoldsBytes() && c.IsPending(source, Op::kRecv)) ring_->Cancel(c.TagOf(Op::kRecv, source));
  }
}

// Both sides see a reset: a clean end would make a truncated stream look whole.
void Worker::Abort(Connection& c, CloseReason reason) {
  for (Side side : {Side::kClient, Side::kNode}) {
    if (!c.direction[Index(side)].told_reset) SetReset(c, side);
  }
  Terminate(c, reason);
}

}  // namespace hud
