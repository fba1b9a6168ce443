// What is counted of a connection as it happens, over the worker, its listener, its pool and its node: all of it in this
// worker's own memory.
#include "ring/worker.h"

namespace hud {

// Bytes of `source` that the other side's socket has taken.
void Worker::CountBytes(Connection& c, Side source, uint64_t bytes) {
  c.direction[Index(source)].bytes += bytes;
  const auto n = static_cast<int64_t>(bytes);
  const auto add = [source, n](auto& counters) { (source == Side::kClient ? counters.bytes_in : counters.bytes_out).Add(n); };
  add(counters_);
  add(counters_.listeners[Raw(c.listener)]);
  add(counters_.pools[Raw(c.route.pool)]);
  counters_.nodes[Raw(c.choice.node.index)].Add(c.choice.node.generation, source == Side::kClient ? n : 0,
                                                source == Side::kNode ? n : 0);
}

// Once for each that was accepted, also for those that never became a connection.
void Worker::CountClose(ListenerIndex listener, CloseReason reason) {
  counters_.closes[static_cast<size_t>(reason)].Add();
  counters_.listeners[Raw(listener)].closes[static_cast<size_t>(reason)].Add();
}

}  // namespace hud
