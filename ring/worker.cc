#include "ring/worker.h"

#include <poll.h>

#include <algorithm>

#include "core/base/check.h"

namespace hud {
namespace {

// A process that was stopped (SIGSTOP, a paused machine) wakes to deadlines that passed in its absence. What its peers
// did in time comes only with the next turns: it looks at that before it judges anybody.
constexpr Duration kAbsent = std::chrono::milliseconds(50);
constexpr Duration kCatchUp = std::chrono::milliseconds(100);

// Those who make room are gone within a turn or two, here or on another worker.
constexpr Duration kRoomWithin = std::chrono::milliseconds(2);

// What all directions together may splice before the ring is asked again: well under a fifth of a millisecond.
constexpr size_t kBulkBytesPerTurn = 1024 * 1024;

}  // namespace

Worker::Worker(const Options& options, const DataPlane::Shared& shared, Places& places, std::unique_ptr<Ring> ring, SocketCalls& calls,
               std::vector<ListeningSocket> listeners, Fd wake, const WorkerOrders& orders, WorkerCounters& counters,
               SpscQueue<ConnectionRecord>& records)
    : options_(options),
      shared_(shared),
      places_(places),
      orders_(orders),
      counters_(counters),
      records_(records),
      ring_(std::move(ring)),
      calls_(calls),
      wake_(std::move(wake)),
      timers_(calls.Now()),
      pipes_(calls, options.pipes, options.pipe_bytes),
      now_(calls.Now()),
      random_state_(options.random_seed),
      next_id_(Random()) {
  if (options.check_invariants) {
    checks_ = std::make_unique<InvariantChecks>();
    checks_->buffers = ring_->buffers_free();
  }
  counters_.connection_limit.Set(static_cast<int64_t>(places.limits().connections));
  for (ListeningSocket& socket : listeners) {
    acceptors_.emplace_back();
    acceptors_.back().socket = std::move(socket);
  }
}

Worker::~Worker() {
  for (Acceptor& a : acceptors_) calls_.Close(std::move(a.socket.fd));
  calls_.Close(std::move(wake_));
}

void Worker::Run() {
  while (RunTurn()) {
  }
}

bool Worker::RunTurn() {
  if (stopping_ && NothingLeft()) return false;
  RunOnce();
  return true;
}

void Worker::RunOnce() {
  table_ = &shared_.routes->Current(options_.index);
  ArmAcceptors();
  if (!wake_armed_) {
    ring_->Poll(wake_.get(), POLLIN, Tag{.op = Op::kWake, .number = wake_round_}.Pack());
    wake_armed_ = true;
  }
  const Duration timeout = TimeToWait();
  const Instant due = timeout == Duration::max() ? Instant::max() - kAbsent : calls_.Now() + timeout;
  const size_t n = ring_->Wait(completions_, timeout, gather_.Next());
  sends_awaited_ = false;
  // A new route table is taken here, between batches, never inside one.
  table_ = &shared_.routes->Current(options_.index);
  const Instant before = std::exchange(now_, calls_.Now());
  if (ring_->losses() != losses_) [[unlikely]] EndAllAfterALoss();
  others_hello_bytes_ = places_.HelloBytesOfOthers(options_.index);
  for (size_t i = 0; i < n; ++i) Dispatch(completions_[i]);
  AdvanceTimers(now_ > due + kAbsent);
  TakeTurns();
  FeedStarved();
  LookForHiddenEnds();
  CountSources();
  gather_.SawTurn(std::exchange(arrivals_, 0), now_ - before, std::exchange(bulk_bytes_, 0) > 0, std::exchange(moved_messages_, false));
  if (draining_ && (NothingLeft() || now_ >= drain_deadline_)) {
    stopping_ = true;
    // In every turn from now on: a cancelled accept may still bring somebody.
    connections_.ForEach([this](Connection& c) {
      if (c.state != ConnectionState::kTerminating) Abort(c, CloseReason::kDrainDeadline);
    });
  }
  UpdateGauges();
  if (checks_) [[unlikely]] CheckInvariants(n);
}

// A cancelled accept counts until it has completed: it may have succeeded, and then a client waits for an answer.
bool Worker::NothingLeft() const {
  return connections_.used() == 0 && std::none_of(acceptors_.begin(), acceptors_.end(), [](const Acceptor& a) { return a.armed; });
}

Duration Worker::TimeToWait() const {
  // The starved wait for shared buffers, which are free or in sends that are on their way.
  if (!ready_.empty() || !starved_.empty() || sends_awaited_) return Duration::zero();
  if (watching_ && next_to_count_ < connections_.slots()) return Duration::zero();
  Instant next = catching_up_ ? caught_up_at_ : timers_.NextDeadline();
  if (!heard_.empty()) next = std::min(next, look_at_);
  if (over_limit_ && accepting_) next = std::min(next, now_ + kRoomWithin);
  if (accepting_) {
    for (const Acceptor& a : acceptors_) {
      if (!a.armed && !over_limit_) next = std::min(next, a.retry_at);
    }
  }
  if (draining_ && !stopping_) next = std::min(next, drain_deadline_);
  if (next == Instant::max()) return Duration::max();
  return std::max(next - calls_.Now(), Duration(1));
}

// The one place where each completion goes.
void Worker::Dispatch(const Completion& completion) {
  const Tag tag = Tag::Unpack(completion.user_data);
  switch (tag.op) {
    case Op::kIgnored: return;
    case Op::kAccept: return OnAccept(tag, completion);
    case Op::kWake: return OnWake(tag);
    default: break;
  }
  Connection& c = connections_.At(tag.slot);
  const bool dialed = tag.op == Op::kConnect || (tag.op == Op::kSend && tag.number != 0);
  if (c.state == ConnectionState::kFree || c.generation != tag.generation) [[unlikely]] {
    HUD_CHECK(dialed || losses_ > 0);  // of a connect and its send both can complete: the connection is gone since the first
    if (completion.has_buffer) ring_->ReturnBuffer(completion.buffer);
    return;
  }
  Guarded(c, [&] { return dialed ? OnDialed(c, tag, completion) : DispatchConnection(c, tag, completion); });
}

void Worker::DispatchConnection(Connection& c, Tag tag, const Completion& completion) {
  if (tag.op == Op::kZeroCopy) return OnZeroCopy(c, tag, completion);
  HUD_CHECK(c.IsPending(tag.side, tag.op));
  if (tag.op != Op::kSend) ++arrivals_;
  if (!completion.more) Paid(c, tag.op, tag.side);
  if (c.state == ConnectionState::kTerminating) {
    if (completion.has_buffer) ring_->ReturnBuffer(completion.buffer);
    if (tag.op == Op::kSend && completion.result > 0) CountBytes(c, Other(tag.side), static_cast<uint32_t>(completion.result));
    return JoinIfDone(c);
  }
  switch (tag.op) {
    case Op::kRecv: return OnRecv(c, tag.side, completion);
    case Op::kSend: return OnSent(c, tag.side, completion.result);
    case Op::kPollIn: return OnPollIn(c, tag.side, completion.result);
    case Op::kPollOut: return OnPollOut(c, tag.side, completion);
    case Op::kPollError: return OnPollError(c, tag.side, completion);
    default: HUD_CHECK(false);
  }
}

void Worker::OnWake(Tag tag) {
  if (tag.number == wake_round_) wake_armed_ = false;
  calls_.TakeEvents(wake_.get());
  WatchSources();
  MakeRoomForOthers();
  if (orders_.stop.load(std::memory_order_acquire)) {
    StopAccepting();
    draining_ = true;
    drain_deadline_ = now_;
  } else if (orders_.drain.load(std::memory_order_acquire) && !draining_) {
    StopAccepting();
    TakeBacklog();
    draining_ = true;
    drain_deadline_ = Instant(Duration(orders_.drain_deadline_ns.load(std::memory_order_relaxed)));
  }
}

// A machine so busy that every wait ends late must not put the timers off for ever: after each delay they do advance.
void Worker::AdvanceTimers(bool was_absent) {
  if (was_absent && !catching_up_) {
    catching_up_ = true;
    caught_up_at_ = now_ + kCatchUp;
  }
  if (catching_up_ && now_ < caught_up_at_) return;
  catching_up_ = false;
  timers_.Advance(now_, [this](TimerEntry& entry) {
    auto& c = static_cast<Connection&>(entry);
    Guarded(c, [&] { OnTimer(c); });
  });
}

void Worker::OnTimer(Connection& c) {
  switch (c.state) {
    case ConnectionState::kHello: return Terminate(c, CloseReason::kHelloTimeout);
    case ConnectionState::kDialing: return OnDialTimer(c);
    case ConnectionState::kRelaying: return OnRelayTimer(c);
    case ConnectionState::kRejecting: return Terminate(c, CloseReason::kUnrecognizedName);
    case ConnectionState::kTerminating: return Abandon(c);
    case ConnectionState::kFree: HUD_CHECK(false);
  }
}

// Bulk has its turn here, in the order in which it became ready, and behind all messages: so that one fast stream cannot
// starve the others, nor all of them together a message.
void Worker::TakeTurns() {
  if (ready_.empty()) return;
  ring_->Submit();
  for (size_t left = ready_.size(); left > 0 && bulk_bytes_ < kBulkBytesPerTurn; --left) {
    const Turn turn = ready_.front();
    ready_.pop_front();
    Connection& c = connections_.At(turn.slot);
    if (c.generation != turn.generation) continue;
    c.direction[Index(turn.source)].in_ready_list = false;
    if (c.state == ConnectionState::kRelaying) Guarded(c, [&] { SendHeld(c, turn.source); });
  }
}

// Receives that met an empty shared ring are asked again, in order, once buffers have come back.
void Worker::FeedStarved() {
  if (starved_.empty() || ring_->buffers_free() == 0) return;
  taking_.swap(starved_);
  for (const Turn& turn : taking_) {
    Connection& c = connections_.At(turn.slot);
    if (c.generation != turn.generation) continue;
    Direction& d = c.direction[Index(turn.source)];
    d.starved = false;
    if (c.IsPending(turn.source, Op::kRecv)) continue;
    if (c.state == ConnectionState::kHello || c.state == ConnectionState::kRejecting) {
      RequestRecv(c, turn.source, Expected::kNow);
    }
    // A relay may hold bytes by now, even in a pipe: a receive would let others overtake them. It goes on when they are sent.
    if (c.state == ConnectionState::kRelaying) Guarded(c, [&] { d.HoldsBytes() ? HoldSource(c, turn.source) : Advance(c, turn.source); });
  }
  taking_.clear();
}

void Worker::UpdateGauges() {
  counters_.active.Set(static_cast<int64_t>(connections_.used()));
  counters_.hello_bytes_held.Set(static_cast<int64_t>(held_hello_bytes_));
  if (held_hello_bytes_ != std::exchange(published_hello_bytes_, held_hello_bytes_)) {
    places_.PublishHelloBytes(options_.index, held_hello_bytes_);
  }
  // Asking takes locks: not in turns in which nobody came or went.
  if (watching_ && sources_.changes() != std::exchange(published_changes_, sources_.changes())) {
    places_.PublishLargest(options_.index, LargestHere().count);
  }
  counters_.buffers_free.Set(static_cast<int64_t>(ring_->buffers_free()));
  counters_.pipes_held.Set(static_cast<int64_t>(pipes_.lent()));
  counters_.pipe_bytes.Set(static_cast<int64_t>(pipes_.lent_bytes()));
  counters_.cq_overflows.Set(static_cast<int64_t>(ring_->overflows()));
  counters_.loops.Add();
  counters_.last_turn_ns.Set(now_.time_since_epoch().count());
}

// SplitMix64 (Steele, Lea, Flood 2014): for choices, not for secrets.
uint64_t Worker::Random() {
  uint64_t z = random_state_ += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// Every change of state goes through here, so that the gauges cannot drift.
void Worker::Enter(Connection& c, ConnectionState state) {
  auto gauge = [this](ConnectionState s) -> Counter* {
    switch (s) {
      case ConnectionState::kHello: return &counters_.in_hello;
      case ConnectionState::kDialing: return &counters_.dialing;
      case ConnectionState::kRelaying: return &counters_.relaying;
      default: return nullptr;
    }
  };
  if (watching_) {
    if (state == ConnectionState::kTerminating) LeaveSource(c);
    else if (state != ConnectionState::kHello) sources_.HelloDone(c.slot);
  }
  if (Counter* left = gauge(c.state)) left->Add(-1);
  if (Counter* entered = gauge(state)) entered->Add();
  c.state = state;
}

void Worker::RequestRecv(Connection& c, Side side, Expected expected) {
  HUD_CHECK(!c.IsPending(side, Op::kRecv));
  ring_->Recv(c.fd[Index(side)].get(), expected, c.TagOf(Op::kRecv, side));
  Owe(c, Op::kRecv, side);
}

void Worker::RequestSend(Connection& c, Side sink, Bytes data) {
  HUD_CHECK(!c.IsPending(sink, Op::kSend));
  ring_->Send(c.fd[Index(sink)].get(), data, c.TagOf(Op::kSend, sink));
  Owe(c, Op::kSend, sink);
}

void Worker::RequestPoll(Connection& c, Side side, Op op, uint32_t events, bool changes) {
  if (c.IsPending(side, op)) return;
  const int fd = c.fd[Index(side)].get();
  changes ? ring_->PollChanges(fd, events, c.TagOf(op, side)) : ring_->Poll(fd, events, c.TagOf(op, side));
  Owe(c, op, side);
}

}  // namespace hud
