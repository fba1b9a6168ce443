#include "ring/worker.h"

#include <poll.h>

#include <algorithm>
#include <new>
#include <utility>

namespace hud {
namespace {

constexpr int kAcceptsPerTurn = 32;
// Those who make room are gone within a turn or two, here or on another worker.
constexpr Duration kRoomWithin = std::chrono::milliseconds(2);

}  // namespace

Worker::Worker(const PassThrough::Options& options, const RoutingState& routing, Places& places, std::unique_ptr<Ring> ring,
               SocketCalls& calls, std::vector<ListeningSocket> listeners, Fd wake, WorkerOrders& orders, WorkerCounters& counters,
               SpscQueue<ConnectionRecord>& records)
    : index_(options.worker),
      check_invariants_(options.check_invariants),
      routing_(routing),
      places_(places),
      orders_(orders),
      counters_(counters),
      loop_(std::move(ring), calls),
      wake_(std::move(wake)),
      pass_through_(options, loop_, routing, places, counters, records) {
  counters_.connection_limit.Set(static_cast<int64_t>(places.limits().connections));
  for (ListeningSocket& socket : listeners) AddAcceptor(std::move(socket));
}

Worker::~Worker() { loop_.calls().Close(std::move(wake_)); }

void Worker::Run() {
  while (RunTurn()) {
  }
}

bool Worker::RunTurn() {
  if (stopping_ && NothingLeft()) return false;
  TakeTable();
  if (std::exchange(orders_wait_, false)) ObeyOrders();
  ArmAcceptors();
  ArmWake();
  const std::span<const Completion> completions = loop_.Wait(WakeAt());
  TakeTable();  // a new one is taken here, between batches, never inside one
  if (loop_.LostSome()) [[unlikely]] AfterALoss();
  for (const Completion& completion : completions) OnCompletion(completion);
  if (!loop_.timers_rest()) pass_through_.AdvanceTimers();
  pass_through_.TakeTurns();
  loop_.EndTurn();
  if (draining_ && (NothingLeft() || loop_.now() >= drain_deadline_)) {
    stopping_ = true;
    pass_through_.AbortAll(CloseReason::kDrainDeadline);  // in every turn from now on: a cancelled accept may still bring somebody
  }
  EndTurn();
  if (check_invariants_) [[unlikely]] pass_through_.CheckInvariants(completions, stopping_);
  return true;
}

void Worker::TakeTable() { pass_through_.BeginTurn(routing_.routes->Current(index_)); }

bool Worker::NothingLeft() const {
  return pass_through_.used() == 0 && std::ranges::all_of(acceptors_, [](const auto& entry) { return entry.second.IsQuiet(); });
}

Instant Worker::WakeAt() const {
  Instant at = pass_through_.WakeAt();
  if (accepting_) {
    if (over_limit_) at = std::min(at, loop_.now() + kRoomWithin);
    for (const auto& [number, a] : acceptors_) {
      if (!over_limit_) at = std::min(at, a.ArmsAt());
    }
  }
  if (draining_ && !stopping_) at = std::min(at, drain_deadline_);
  return at;
}

void Worker::OnCompletion(const Completion& completion) {
  const Tag tag = Tag::Unpack(completion.user_data);
  if (tag.op == Op::kIgnored) return;
  switch (tag.room) {
    case Room::kWorker: return tag.op == Op::kWake ? OnWake(tag) : OnAccept(tag, completion);
    case Room::kPassThrough: return pass_through_.OnCompletion(tag, completion);
  }
}

void Worker::ArmAcceptors() {
  if (!accepting_) return;
  const size_t used = places_.used(), limit = places_.limits().connections;
  const bool was_at_limit = std::exchange(at_limit_, used >= limit);
  if (at_limit_ && !was_at_limit) counters_.limit_reached.Add();
  over_limit_ = used > limit + places_.spare();
  // All of them may be accepting: what one of them could take at once, each of them could.
  std::optional<size_t> headroom;
  if (!over_limit_) headroom = (at_limit_ ? 0 : limit - used) / places_.limits().workers;
  for (auto& [number, a] : acceptors_) a.Arm(headroom);
}

void Worker::OnAccept(Tag tag, const Completion& completion) {
  const auto found = acceptors_.find(tag.slot);
  if (found == acceptors_.end()) {  // after a loss: it was given up
    if (completion.result >= 0) loop_.calls().Close(Fd(completion.result));
    return;
  }
  Acceptor& a = found->second;
  Fd client = a.OnCompletion(tag, completion);
  if (client) pass_through_.Admit(std::move(client), a.listener());
  if (a.IsClosed()) {
    if (a.IsQuiet()) acceptors_.erase(found);
    return;
  }
  if (completion.result < 0 || !a.TakesOneByOne() || !accepting_) return;
  for (int i = 0; i < kAcceptsPerTurn && places_.used() < places_.limits().connections; ++i) {
    client = a.TakeOne();
    if (!client) return;
    pass_through_.Admit(std::move(client), a.listener());
  }
}

void Worker::ArmWake() {
  if (std::exchange(wake_armed_, true)) return;
  loop_.ring().Poll(wake_.get(), POLLIN, WakeTag().Pack());
}

void Worker::OnWake(Tag tag) {
  if (tag.number == wake_round_) wake_armed_ = false;
  loop_.calls().TakeEvents(wake_.get());
  pass_through_.OnWake();
  orders_wait_ = true;
}

// Between batches of completions: an order may speak of a table that was published with it.
void Worker::ObeyOrders() {
  while (std::optional<WorkerOrder> order = orders_.Pop()) {
    TakeTable();
    std::visit([this](auto& o) { Obey(o); }, *order);
  }
  if (orders_.stopped()) {
    BeginDrain(loop_.now());
  } else if (const std::optional<Instant> until = orders_.drains_until(); until && !draining_) {
    TakeTable();
    BeginDrain(*until);
    for (auto& [number, a] : acceptors_) CloseAcceptor(a);
  }
}

void Worker::Obey(const RemoveListenerOrder& order) {
  for (auto& [number, a] : acceptors_) {
    if (a.listener() != order.listener) continue;
    a.Stop();
    CloseAcceptor(a);
  }
  ForgetClosedAcceptors();
}

void Worker::Obey(const PauseListenerOrder& order) {
  for (auto& [number, a] : acceptors_) {
    if (a.listener() == order.listener) a.Pause(order.paused);
  }
}

// Without memory for it the other workers have the listener, and the kernel gives this one none of its clients.
void Worker::AddAcceptor(ListeningSocket socket) {
  if (!accepting_) return loop_.calls().Close(std::move(socket.fd));
  constexpr uint32_t kNumbers = 1 << 24;  // as many as fit a tag
  while (acceptors_.contains(next_acceptor_)) next_acceptor_ = (next_acceptor_ + 1) % kNumbers;
  try {
    acceptors_.try_emplace(next_acceptor_, loop_, counters_, next_acceptor_, std::move(socket));
  } catch (const std::bad_alloc&) {
    counters_.accept_backoffs.Add();
    return loop_.calls().Close(std::move(socket.fd));
  }
  next_acceptor_ = (next_acceptor_ + 1) % kNumbers;
}

void Worker::ForgetClosedAcceptors() {
  std::erase_if(acceptors_, [](const auto& entry) { return entry.second.IsClosed() && entry.second.IsQuiet(); });
}

void Worker::BeginDrain(Instant deadline) {
  draining_ = true;
  drain_deadline_ = deadline;
  if (!std::exchange(accepting_, false)) return;
  for (auto& [number, a] : acceptors_) a.Stop();
}

// Clients that have finished the TCP handshake are served, not reset, when a listener ends, as long as there are places. Then it closes.
void Worker::CloseAcceptor(Acceptor& a) {
  if (a.IsClosed()) return;
  while (places_.used() < places_.limits().connections) {
    Fd client = a.TakeOne();
    if (!client) break;
    pass_through_.Admit(std::move(client), a.listener());
  }
  a.Close();
}

// The kernel had no memory to keep some completions: what waits for one of them for ever is asked for again.
void Worker::AfterALoss() {
  pass_through_.AfterALoss();
  for (auto& [number, a] : acceptors_) a.AfterALoss();
  ForgetClosedAcceptors();
  if (std::exchange(wake_armed_, false)) loop_.ring().Cancel(WakeTag().Pack());
  ++wake_round_;
}

void Worker::EndTurn() {
  pass_through_.EndTurn();
  counters_.buffers_free.Set(static_cast<int64_t>(loop_.ring().buffers_free()));
  counters_.cq_overflows.Set(static_cast<int64_t>(loop_.ring().overflows()));
  counters_.loops.Add();
  counters_.last_turn_ns.Set(loop_.now().time_since_epoch().count());
}

}  // namespace hud
