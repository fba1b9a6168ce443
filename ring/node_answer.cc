// Whether a node answers at all: it took a connection and a ClientHello that is whole and right, and the client is still
// there. Its first byte, an alert too, is an answer. A reset, a close, or nothing for the pool's eject.mute is none. Judged
// once a connection; what comes of it is for the control thread to say (core/cluster/ejection.h).
#include <algorithm>

#include "ring/worker.h"

namespace hud {

void Worker::NodeAnswered(Connection& c) {
  c.answer_judged = true;
  std::atomic<uint32_t>& unanswered = shared_.nodes->node(c.choice.node.index).unanswered;
  if (unanswered.load(std::memory_order_relaxed) != 0) unanswered.store(0, std::memory_order_relaxed);
}

// A client may say anything, and a node may close on it without a word: only what a good client says counts.
bool Worker::OwesAnswer(const Connection& c) const {
  const Direction& client = c.direction[Index(Side::kClient)];
  return c.joined && !c.answer_judged && c.hello_verdict == HelloVerdict::kComplete && c.hello_flaw == HelloFlaw::kNone &&
         client.stream == Stream::kOpen && !client.source_reset;
}

void Worker::NodeDidNotAnswer(Connection& c, std::atomic<uint64_t> NodeCounters::*how) {
  if (!OwesAnswer(c)) return;
  c.answer_judged = true;
  NodeCounters& node = shared_.nodes->node(c.choice.node.index);
  node.unanswered.fetch_add(1, std::memory_order_relaxed);
  (node.*how).fetch_add(1, std::memory_order_relaxed);
}

// When a node that says nothing will be mute; far away when nobody waits for it.
Instant Worker::MuteAt(const Connection& c) const {
  const Duration after = table_->pools[Raw(c.route.pool)].mute_after;
  if (after == Duration(0) || !OwesAnswer(c)) return Instant::max();
  return c.accepted_at + std::chrono::microseconds(c.hello_microseconds) + std::chrono::microseconds(c.connect_microseconds) +
         after;
}

}  // namespace hud
