#include "core/routing/node_table.h"

namespace hud {

void NodeCounters::Reset() {
  active.store(0, std::memory_order_relaxed);
  connect_failures.store(0, std::memory_order_relaxed);
  reported_load.store(0, std::memory_order_relaxed);
  total.store(0, std::memory_order_relaxed);
  offered.store(0, std::memory_order_relaxed);
  resumed.store(0, std::memory_order_relaxed);
  failed_connects.store(0, std::memory_order_relaxed);
  unanswered.store(0, std::memory_order_relaxed);
  unanswered_resets.store(0, std::memory_order_relaxed);
  unanswered_closes.store(0, std::memory_order_relaxed);
  unanswered_mutes.store(0, std::memory_order_relaxed);
}

void PoolCounters::Reset() {
  active.store(0, std::memory_order_relaxed);
  for (auto* counter : {&total, &offered, &resumed, &no_usable_node, &over_bound}) counter->store(0, std::memory_order_relaxed);
  round_robin.store(0, std::memory_order_relaxed);
}

}  // namespace hud
