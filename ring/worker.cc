#include "ring/worker.h"

#include <poll.h>

#include <algorithm>
#include <utility>

namespace hud {

Worker::Worker(const PassThrough::Options& options, const RoutingState& routing, Places& places, std::unique_ptr<Ring> ring,
               SocketCalls& calls, std::vector<ListeningSocket> listeners, Fd wake, WorkerOrders& orders, WorkerCounters& counters,
               SpscQueue<ConnectionRecord>& records)
    : index_(options.worker),
      check_invariants_(options.check_invariants),
      routing_(routing),
      orders_(orders),
      counters_(counters),
      loop_(std::move(ring), calls),
      wake_(std::move(wake)),
      pass_through_(options, loop_, routing, places, counters, records),
      listeners_(loop_, places, pass_through_, counters, std::move(listeners)) {
  counters_.connection_limit.Set(static_cast<int64_t>(places.limits().connections));
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
  listeners_.Arm();
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

Instant Worker::WakeAt() const {
  const Instant at = std::min(pass_through_.WakeAt(), listeners_.ArmsAt());
  return draining_ && !stopping_ ? std::min(at, drain_deadline_) : at;
}

void Worker::OnCompletion(const Completion& completion) {
  const Tag tag = Tag::Unpack(completion.user_data);
  if (tag.op == Op::kIgnored) return;
  switch (tag.room) {
    case Room::kWorker: return tag.op == Op::kWake ? OnWake(tag) : listeners_.OnCompletion(tag, completion);
    case Room::kPassThrough: return pass_through_.OnCompletion(tag, completion);
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
    listeners_.CloseAll();
  }
}

void Worker::BeginDrain(Instant deadline) {
  draining_ = true;
  drain_deadline_ = deadline;
  listeners_.StopAll();
}

// The kernel had no memory to keep some completions: what waits for one of them for ever is asked for again.
void Worker::AfterALoss() {
  pass_through_.AfterALoss();
  listeners_.AfterALoss();
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
