// What a node's first bytes say: whether it resumed the session, and that it answers at all. It took a connection and a ClientHello
// that is whole and right, and the client is still there: its first byte, an alert too, is an answer. A reset, a close, or nothing for
// the pool's eject.mute is none. Judged once a connection; what comes of it is for the control thread to say
// (core/cluster/ejection.h).
#include <algorithm>

#include "ring/pass_through/pass_through.h"

namespace hud {

// The relay tells of the node as long as there is something to learn.
void PassThrough::Watch(Connection& c) {
  c.watched = c.verdict_pending || !c.answer_judged;
  c.keep_bulk_off = c.verdict_pending;
  if (const Instant mute_at = MuteAt(c); mute_at < c.deadline()) timers_.Set(c, mute_at);
}

void PassThrough::OnWatchedBytes(RelayState& r, Bytes bytes) {
  auto& c = static_cast<Connection&>(r);
  if (!c.answer_judged) {
    c.answer_judged = true;
    std::atomic<uint32_t>& unanswered = NodeOf(c).unanswered;
    if (unanswered.load(std::memory_order_relaxed) != 0) unanswered.store(0, std::memory_order_relaxed);
  }
  if (c.verdict_pending) ReadVerdict(c, bytes);
  c.watched = c.keep_bulk_off = c.verdict_pending;
}

void PassThrough::ReadVerdict(Connection& c, Bytes bytes) {
  std::vector<uint8_t>& early = c.context->server_bytes;
  if (!early.empty()) early.insert(early.end(), bytes.begin(), bytes.end());
  const Bytes first = early.empty() ? bytes : Bytes(early);
  ServerHelloFacts facts;
  c.resumption = ReadResumption(first, c.context->hello, facts);
  if (c.resumption == ResumptionVerdict::kNeedMore && first.size() < kMaxServerHelloBytes) {
    if (early.empty()) early.assign(bytes.begin(), bytes.end());
    return;
  }
  if (c.resumption == ResumptionVerdict::kResumed) {
    NodeOf(c).resumed.fetch_add(1, std::memory_order_relaxed);
    PoolCountersOf(c).resumed.fetch_add(1, std::memory_order_relaxed);
  }
  c.verdict_pending = false;
  c.context.reset();
}

void PassThrough::OnWatchedEnd(RelayState& r, bool reset) {
  NodeDidNotAnswer(static_cast<Connection&>(r), reset ? &NodeCounters::unanswered_resets : &NodeCounters::unanswered_closes);
}

// A client may say anything, and a node may close on it without a word: only what a good client says counts.
bool PassThrough::OwesAnswer(const Connection& c) const {
  const Direction& client = c.from(Side::kClient);
  return c.joined && !c.answer_judged && c.hello_verdict == HelloVerdict::kComplete && c.hello_flaw == HelloFlaw::kNone &&
         client.stream == Stream::kOpen && !client.source_reset;
}

void PassThrough::NodeDidNotAnswer(Connection& c, std::atomic<uint64_t> NodeCounters::*how) {
  if (!OwesAnswer(c)) return;
  c.answer_judged = true;
  NodeOf(c).unanswered.fetch_add(1, std::memory_order_relaxed);
  (NodeOf(c).*how).fetch_add(1, std::memory_order_relaxed);
}

// When a node that says nothing will be mute; Instant::max() when nobody waits for it.
Instant PassThrough::MuteAt(const Connection& c) const {
  const Duration after = PoolOf(c).mute_after;
  if (after == Duration(0) || !OwesAnswer(c)) return Instant::max();
  return c.accepted_at + std::chrono::microseconds(c.hello_microseconds) + std::chrono::microseconds(c.connect_microseconds) + after;
}

Instant PassThrough::OnWatchTimer(RelayState& r) {
  auto& c = static_cast<Connection&>(r);
  if (MuteAt(c) <= loop_.now()) NodeDidNotAnswer(c, &NodeCounters::unanswered_mutes);
  return MuteAt(c);
}

}  // namespace hud
