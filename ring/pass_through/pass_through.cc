#include "ring/pass_through/pass_through.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"

namespace hud {
namespace {

constexpr Duration kStarvedAfterALoss = std::chrono::milliseconds(10);  // until a buffer is asked for again

}  // namespace

PassThrough::PassThrough(const Options& options, RingLoop& loop, const RoutingState& routing, Places& places, WorkerCounters& counters,
                         SpscQueue<ConnectionRecord>& records)
    : options_(options),
      loop_(loop),
      routing_(routing),
      places_(places),
      counters_(counters),
      records_(records),
      random_(options.random_seed),
      next_id_(random_.Next()),
      timers_(loop.now()),
      memory_(counters.private_bytes),
      admission_(options.worker, loop, places, connections_, *this, counters),
      dialer_(loop, routing, counters, random_),
      relay_(options.relay, loop, timers_, *this, memory_, counters) {
  if (!options.check_invariants) return;
  checks_ = std::make_unique<InvariantChecks>();
  checks_->buffers = loop.ring().buffers_free();
}

void PassThrough::BeginTurn(const RouteTable& table) {
  table_ = &table;
  dialer_.SetTable(table);
  relay_.SetTimeouts(table.timeouts);
  admission_.BeginTurn();
}

void PassThrough::Admit(Fd client, ListenerIndex listener) {
  counters_.accepted.Add();
  counters_.listeners[Raw(listener)].accepted.Add();
  const size_t used = places_.Take();
  Connection* c = nullptr;
  try {
    c = connections_.Allocate();
  } catch (const std::bad_alloc&) {
    places_.GiveBack();
    loop_.calls().Close(std::move(client));
    return CountClose(listener, CloseReason::kLocalError);
  }
  c->end(Side::kClient).fd = std::move(client);
  c->listener = listener;
  c->accepted_at = c->last_activity = loop_.now();
  Guarded(*c, [&] { BeginHello(*c, used); });
}

void PassThrough::OnCompletion(Tag tag, const Completion& completion) {
  Connection& c = connections_.At(tag.slot);
  if (c.state == ConnectionState::kFree || c.generation != tag.generation) [[unlikely]] {
    // Of a connect and its send both can complete: the connection is gone since the first.
    HUD_CHECK(Dialer::IsDials(tag) || loop_.ever_lost());
    if (completion.has_buffer) loop_.ring().ReturnBuffer(completion.buffer);
    return;
  }
  Guarded(c, [&] { OnConnectionsCompletion(c, tag, completion); });
  if (c.state == ConnectionState::kTerminating) JoinIfDone(c);
}

void PassThrough::OnConnectionsCompletion(Connection& c, Tag tag, const Completion& completion) {
  if (Dialer::IsDials(tag)) {
    if (!c.context) return;  // a straggler
    Endpoint& node = c.end(Side::kNode);
    if (c.state == ConnectionState::kTerminating) return (void)dialer_.Settle(c.context->dial, node, tag, completion);
    return OnDialed(c, dialer_.OnCompletion(c.context->dial, node, tag, completion, WishOf(c)));
  }
  switch (c.state) {
    case ConnectionState::kHello:
    case ConnectionState::kRejecting: return OnClient(c, tag, completion);
    case ConnectionState::kDialing: return OnClientWhileDialing(c, tag, completion);
    case ConnectionState::kRelaying:
    case ConnectionState::kTerminating: return relay_.OnCompletion(c, tag, completion);
    case ConnectionState::kFree: HUD_CHECK(false);
  }
}

void PassThrough::AdvanceTimers() {
  timers_.Advance(loop_.now(), [this](TimerEntry& entry) {
    auto& c = static_cast<Connection&>(entry);
    Guarded(c, [&] { OnTimer(c); });
  });
}

void PassThrough::OnTimer(Connection& c) {
  switch (c.state) {
    case ConnectionState::kHello: return Terminate(c, CloseReason::kHelloTimeout);
    case ConnectionState::kDialing:
      return OnDialed(c, dialer_.OnTimer(c.context->dial, c.end(Side::kNode), c.TagOf(Op::kIgnored, Side::kNode), WishOf(c)));
    case ConnectionState::kRelaying: return relay_.OnTimer(c);
    case ConnectionState::kRejecting: return Terminate(c, CloseReason::kUnrecognizedName);
    case ConnectionState::kTerminating:  // after a loss: what it waits for will not come any more
      relay_.Abandon(c);
      return JoinIfDone(c);
    case ConnectionState::kFree: HUD_CHECK(false);
  }
}

void PassThrough::TakeTurns() {
  relay_.TakeTurns();
  FeedStarved();
  relay_.LookForHiddenEnds();
}

// Those whose receive met an empty shared ring are asked again.
void PassThrough::FeedStarved() {
  if (loop_.ever_lost()) {
    if (loop_.now() < feed_at_) return;
    feed_at_ = loop_.now() + kStarvedAfterALoss;
  }
  relay_.FeedStarved();
  if (starved_.empty() || loop_.ring().buffers_free() == 0) return;
  for (const uint64_t packed : starved_) {
    const Tag tag = Tag::Unpack(packed);
    Connection& c = connections_.At(tag.slot);
    if (c.generation != tag.generation) continue;
    c.from(Side::kClient).starved = false;
    if (c.state == ConnectionState::kHello || c.state == ConnectionState::kRejecting) AwaitClient(c, Expected::kNow);
  }
  starved_.clear();
}

Instant PassThrough::WakeAt() const {
  // The starved wait for shared buffers, which are free or in sends that are on their way; but lost completions have taken some for
  // good, though they count as free.
  const bool starved = relay_.HasStarved() || !starved_.empty();
  if (relay_.HasMoreNow() || admission_.HasMoreNow() || (starved && !loop_.ever_lost())) return Instant::min();
  const Instant at = std::min(loop_.timers_rest() ? loop_.timers_rest_until() : timers_.NextDeadline(), relay_.LooksAt());
  return starved ? std::min(at, feed_at_) : at;
}

void PassThrough::EndTurn() {
  admission_.EndTurn();
  counters_.active.Set(static_cast<int64_t>(connections_.used()));
  counters_.pipes_held.Set(static_cast<int64_t>(relay_.pipes().lent()));
  counters_.pipe_bytes.Set(static_cast<int64_t>(relay_.pipes().lent_bytes()));
}

void PassThrough::AbortAll(CloseReason reason) {
  connections_.ForEach([this, reason](Connection& c) {
    if (c.state != ConnectionState::kTerminating) relay_.Abort(c, reason);
  });
}

// What the lost completions would have said is unknown, also that a send did not take all. So every connection visibly ends, and what
// waits for one of them for ever is abandoned.
void PassThrough::AfterALoss() {
  connections_.ForEach([this](Connection& c) {
    if (c.state != ConnectionState::kTerminating) return relay_.Abort(c, CloseReason::kLocalError);
    const Instant until = loop_.now() + options_.lost_after;
    if (!c.IsSet() || until < c.deadline()) timers_.Set(c, until);
  });
}

Counter* PassThrough::GaugeOf(ConnectionState state) {
  switch (state) {
    case ConnectionState::kHello: return &counters_.in_hello;
    case ConnectionState::kDialing: return &counters_.dialing;
    case ConnectionState::kRelaying: return &counters_.relaying;
    default: return nullptr;
  }
}

// Every change of state goes through here, so that the gauges cannot drift.
void PassThrough::Enter(Connection& c, ConnectionState state) {
  if (state == ConnectionState::kTerminating) admission_.Leave(c);
  if (Counter* left = GaugeOf(c.state)) left->Add(-1);
  if (Counter* entered = GaugeOf(state)) entered->Add();
  c.state = state;
  if (state != ConnectionState::kTerminating) admission_.HelloIsDone(c);
}

}  // namespace hud
