// Terminate → join → close. Terminating cancels what is in flight; the join comes when the kernel has answered all of
// it; only then are descriptors closed (a close before would send no FIN while a request holds the file) and memory freed.
#include <algorithm>
#include <utility>

#include "core/base/check.h"
#include "ring/worker.h"

namespace hud {

void Worker::Terminate(Connection& c, CloseReason reason) {
  HUD_CHECK(c.state != ConnectionState::kTerminating && c.state != ConnectionState::kFree);
  c.close_reason = reason;
  if (reason == CloseReason::kNodeReset) NodeDidNotAnswer(c, &NodeCounters::unanswered_resets);
  if (!c.joined && c.context) held_hello_bytes_ -= c.context->bytes.size;
  Enter(c, ConnectionState::kTerminating);
  timers_.Cancel(c);
  CancelAll(c);
  if (losses_ > 0) SetTimer(c, now_ + options_.lost_after);
  JoinIfDone(c);
}

// The kernel had no memory to keep some completions: what they would have said is unknown, also that a send did not take all.
// So every connection visibly ends, and what waits for one of them for ever is asked for again or abandoned.
void Worker::EndAllAfterALoss() {
  losses_ = ring_->losses();
  connections_.ForEach([this](Connection& c) {
    if (c.state != ConnectionState::kTerminating) return Abort(c, CloseReason::kLocalError);
    SetTimerAtMost(c, now_ + options_.lost_after);
  });
  for (Acceptor& a : acceptors_) {
    if (std::exchange(a.armed, false)) ring_->Cancel(TagOf(a).Pack());
    ++a.round;
  }
  if (std::exchange(wake_armed_, false)) ring_->Cancel(Tag{.op = Op::kWake, .number = wake_round_}.Pack());
  ++wake_round_;
}

// After a loss: the completion that this connection waits for will not come any more. Memory that a zero-copy send may still
// read is not given back.
void Worker::Abandon(Connection& c) {
  c.pending = {};
  c.zero_copy_owed = 0;
  for (Direction& d : c.direction) {
    if (d.held) d.held->zero_copy.clear();
  }
  JoinIfDone(c);
}

// A close then sends RST instead of FIN, and throws away what is still queued: for forwarding a reset only.
void Worker::SetReset(Connection& c, Side side) {
  if (c.fd[Index(side)]) calls_.ResetOnClose(c.fd[Index(side)].get());
}

void Worker::CancelAll(Connection& c) {
  for (Side side : {Side::kClient, Side::kNode}) {
    AwaitSend(c, side);
    for (Op op : {Op::kRecv, Op::kPollIn, Op::kPollOut, Op::kPollError}) {
      if (c.IsPending(side, op)) ring_->Cancel(c.TagOf(op, side));
    }
    if (c.IsPending(side, Op::kConnect)) ring_->Cancel(c.DialTagOf(Op::kConnect));
  }
}

// Descriptors may close before the last zero-copy notification has come: a stalled peer would otherwise keep both for
// as long as it likes. The buffers, and the slot that their completions name, stay.
void Worker::JoinIfDone(Connection& c) {
  if (c.pending[0] != 0 || c.pending[1] != 0) return;
  if (c.fd[Index(Side::kClient)]) CloseDescriptors(c);
  if (c.zero_copy_owed != 0) return;
  for (Direction& d : c.direction) {
    if (!d.held) continue;
    if (!d.held->zero_copy.empty()) d.held->zero_copy.back().size = d.held->zero_copy.back().offset;
    FreeZeroCopyBuffers(d);
    HUD_CHECK(!d.held->InUse());
  }
  timers_.Cancel(c);
  connections_.Free(c);
}

void Worker::CloseDescriptors(Connection& c) {
  for (Direction& d : c.direction) {
    DropBuffer(d);
    GiveBackPipe(d);
    if (!d.held) continue;
    FreePrivate(d.held->rest);
    FreePrivate(d.held->behind);
  }
  if (c.context) FreePrivate(c.context->bytes);
  c.context.reset();
  ReleaseNode(c);
  if (c.loop_cell != LoopGuard::kNone) places_.loops().Leave(c.loop_cell);
  places_.GiveBack();
  Record(c);
  for (Fd& fd : c.fd) {
    if (fd) ring_->Close(std::move(fd));
  }
  // From here on the slot of the pool may be given to another one.
  if (c.counted_in_pool) shared_.nodes->pool(c.route.pool).active.fetch_sub(1, std::memory_order_release);
  c.counted_in_pool = false;
}

void Worker::Record(const Connection& c) {
  const uint64_t in = c.direction[Index(Side::kClient)].bytes;
  const uint64_t out = c.direction[Index(Side::kNode)].bytes;
  CountClose(c.listener, c.close_reason);
  if (c.joined) {
    const Duration lasted = now_ - c.accepted_at;
    counters_.pools[Raw(c.route.pool)].connection_time.Add(static_cast<uint64_t>(lasted / std::chrono::microseconds(1)));
  }
  if (!options_.log_connections) return;
  if (!c.log) return counters_.records_dropped.Add();  // there was no memory for it
  ConnectionRecord record;
  record.id = c.log->id;
  record.accepted = c.accepted_at;
  record.hello_time = std::chrono::microseconds(c.hello_microseconds);
  record.connect_time = std::chrono::microseconds(c.connect_microseconds);
  record.total_time = now_ - c.accepted_at;
  record.client = c.client_address;
  record.balancer = c.log->balancer;
  if (c.joined) record.local = InternetEndpoint(calls_.LocalOf(c.fd[Index(Side::kNode)].get()));
  if (c.log->server_name) record.server_name.Set(c.log->server_name.get());
  record.listener.Set(table_->listeners[Raw(c.listener)].name);
  record.route = c.route.route;
  if (c.route.pool != PoolIndex::kNone) record.pool.Set(table_->pools[Raw(c.route.pool)].name);
  if (c.log->node) {
    record.node.Set(c.log->node->name);
    record.node_address.Set(c.log->node->address_text);
  }
  record.reason = c.choice.reason;
  record.offered = c.choice.offered;
  record.token_digest = c.token_digest;
  record.hello = c.hello_verdict;
  record.not_tls = c.not_tls;
  record.flaw = c.hello_flaw;
  record.tls13 = c.tls13;
  record.early_data = c.early_data;
  record.ech = c.ech;
  record.resumption = c.resumption;
  record.attempts = c.attempts;
  record.close = c.close_reason;
  record.bytes_in = in;
  record.bytes_out = out;
  if (!records_.Push(record)) counters_.records_dropped.Add();
}

}  // namespace hud
