// Terminate → join → close. Terminating cancels what is in flight; the join comes when the kernel has answered all of
// it; only then are descriptors closed (a close before would send no FIN while a request holds the file) and memory freed.
#include <algorithm>
#include <utility>

#include "core/base/check.h"
#include "ring/pass_through/pass_through.h"

namespace hud {
namespace {

void SayWhatWasDecided(const Connection& c, ConnectionRecord& record) {
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
  record.bytes_in = c.from(Side::kClient).bytes;
  record.bytes_out = c.from(Side::kNode).bytes;
}

}  // namespace

void PassThrough::OnRelayOver(RelayState& r, CloseReason reason) { Terminate(static_cast<Connection&>(r), reason); }

void PassThrough::EndAtLimit(Connection& c, CloseReason reason) {
  if (c.state == ConnectionState::kHello && reason == CloseReason::kMadeRoom) return Terminate(c, reason);
  relay_.Abort(c, reason);
}

void PassThrough::Terminate(Connection& c, CloseReason reason) {
  HUD_CHECK(c.state != ConnectionState::kTerminating && c.state != ConnectionState::kFree);
  c.active = false;
  c.close_reason = reason;
  if (reason == CloseReason::kNodeReset) NodeDidNotAnswer(c, &NodeCounters::unanswered_resets);
  if (!c.joined && c.context) admission_.GiveBackHelloBytes(c.context->bytes.size);
  Enter(c, ConnectionState::kTerminating);
  timers_.Cancel(c);
  relay_.Cancel(c);
  if (c.context) dialer_.Cancel(c.context->dial, c.end(Side::kNode), c.TagOf(Op::kIgnored, Side::kNode));
  if (loop_.ever_lost()) timers_.Set(c, loop_.now() + options_.lost_after);
  JoinIfDone(c);
}

// Descriptors may close before the last zero-copy notification has come: a stalled peer would otherwise keep both for
// as long as it likes. The buffers, and the slot that their completions name, stay.
void PassThrough::JoinIfDone(Connection& c) {
  if (!c.end(Side::kClient).IsQuiet() || !c.end(Side::kNode).IsQuiet()) return;
  if (c.end(Side::kClient).fd) CloseDescriptors(c);
  if (c.notifications() != 0) return;
  relay_.Forget(c);
  timers_.Cancel(c);
  connections_.Free(c);
}

void PassThrough::CloseDescriptors(Connection& c) {
  relay_.Release(c);
  if (c.counted_active) dialer_.Release(c.choice);
  c.counted_active = false;
  if (c.context) {
    dialer_.Release(c.context->dial);
    memory_.Free(std::move(c.context->bytes));
  }
  c.context.reset();
  if (c.loop_cell != LoopGuard::kNone) places_.loops().Leave(c.loop_cell);
  places_.GiveBack();
  Record(c);
  for (Endpoint& end : c.ends) loop_.Close(end);
  // From here on the slot of the pool may be given to another one.
  if (c.counted_in_pool) PoolCountersOf(c).active.fetch_sub(1, std::memory_order_release);
  c.counted_in_pool = false;
}

// What is counted of a connection as it happens, over the worker, its listener, its pool and its node: all of it in this
// worker's own memory.
void PassThrough::OnBytesPassed(RelayState& r, Side source, uint64_t bytes) {
  const auto& c = static_cast<const Connection&>(r);
  const auto n = static_cast<int64_t>(bytes);
  const auto add = [source, n](auto& counters) { (source == Side::kClient ? counters.bytes_in : counters.bytes_out).Add(n); };
  add(counters_);
  add(counters_.listeners[Raw(c.listener)]);
  add(counters_.pools[Raw(c.route.pool)]);
  counters_.nodes[Raw(c.choice.node.index)].Add(c.choice.node.generation, source == Side::kClient ? n : 0,
                                                source == Side::kNode ? n : 0);
}

// Once for each that was accepted, also for those that never became a connection.
void PassThrough::CountClose(ListenerIndex listener, CloseReason reason) {
  counters_.closes[static_cast<size_t>(reason)].Add();
  counters_.listeners[Raw(listener)].closes[static_cast<size_t>(reason)].Add();
}

void PassThrough::Record(const Connection& c) {
  CountClose(c.listener, c.close_reason);
  if (c.joined) {
    const Duration lasted = loop_.now() - c.accepted_at;
    counters_.pools[Raw(c.route.pool)].connection_time.Add(static_cast<uint64_t>(lasted / std::chrono::microseconds(1)));
  }
  if (!options_.log_connections) return;
  if (!c.log) return counters_.records_dropped.Add();  // there was no memory for it
  ConnectionRecord record;
  record.id = c.log->id;
  record.accepted = c.accepted_at;
  record.hello_time = std::chrono::microseconds(c.hello_microseconds);
  record.connect_time = std::chrono::microseconds(c.connect_microseconds);
  record.total_time = loop_.now() - c.accepted_at;
  record.client = c.client_address;
  record.balancer = c.log->balancer;
  if (c.joined) record.local = InternetEndpoint(loop_.calls().LocalOf(c.fd(Side::kNode)));
  if (c.log->server_name) record.server_name.Set(c.log->server_name.get());
  record.listener.Set(ListenerOf(c).name);
  record.route = c.route.route;
  if (c.route.pool != PoolIndex::kNone) record.pool.Set(PoolOf(c).name);
  if (c.log->node) {
    record.node.Set(c.log->node->name);
    record.node_address.Set(c.log->node->address_text);
  }
  SayWhatWasDecided(c, record);
  if (!records_.Push(record)) counters_.records_dropped.Add();
}

}  // namespace hud
