// What all workers and the control thread share about nodes and pools: counters, relaxed, one cache line a node.
// Verdicts that change rarely travel in the RouteTable; what changes with every connection is here.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "core/base/limits.h"
#include "core/base/types.h"

namespace hud {

struct alignas(128) NodeCounters {
  std::atomic<int32_t> active{0};             // connections dialing or relaying to it, over all workers
  std::atomic<uint32_t> connect_failures{0};  // in a row; set to 0 by a successful connect
  std::atomic<uint32_t> reported_load{0};     // by the agent's health: permille of what it can take, 0 = unknown or idle
  std::atomic<uint64_t> total{0};             // connections ever joined
  std::atomic<uint64_t> offered{0};           // of those, clients that offered a resumption
  std::atomic<uint64_t> resumed{0};           // of those, accepted by the node, as seen in its first message
  std::atomic<uint64_t> failed_connects{0};
  // Whole, right ClientHellos that were delivered and got not one byte, though the client was still there: in a row (0 by a
  // first byte), and in all, by how.
  std::atomic<uint32_t> unanswered{0};
  std::atomic<uint64_t> unanswered_resets{0};
  std::atomic<uint64_t> unanswered_closes{0};
  std::atomic<uint64_t> unanswered_mutes{0};  // nothing for the pool's eject.mute
  // Set to zero by control when the slot goes to another node (never while `active` is above zero).
  void Reset();
};

struct alignas(128) PoolCounters {
  std::atomic<int32_t> active{0};             // connections that were routed to it, until they end, over all workers
  std::atomic<uint64_t> total{0};
  std::atomic<uint64_t> offered{0};
  std::atomic<uint64_t> resumed{0};
  std::atomic<uint64_t> no_usable_node{0};
  std::atomic<uint64_t> over_bound{0};        // the owner was known, but at its load bound
  std::atomic<uint32_t> round_robin{0};       // the next turn
  // As for a node.
  void Reset();
};

class NodeTable {
 public:
  NodeCounters& node(NodeIndex i) { return nodes_[Raw(i)]; }
  const NodeCounters& node(NodeIndex i) const { return nodes_[Raw(i)]; }
  PoolCounters& pool(PoolIndex i) { return pools_[Raw(i)]; }
  const PoolCounters& pool(PoolIndex i) const { return pools_[Raw(i)]; }

 private:
  std::array<NodeCounters, limits::kMaxNodes> nodes_;
  std::array<PoolCounters, limits::kMaxPoolSlots> pools_;
};

}  // namespace hud
