// The words that every folder shares: time, bytes, indices. No behaviour here.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>

namespace hud {

// Time is always passed in; nothing in core/ reads a clock.
using Duration = std::chrono::nanoseconds;
using Instant = std::chrono::time_point<std::chrono::steady_clock, std::chrono::nanoseconds>;

using Bytes = std::span<const uint8_t>;

// A node is one TLS server. Its index is a slot in the NodeTable, stable while the node exists.
// Slots are reused after a node has gone, so whatever outlives a batch keeps a NodeRef.
enum class NodeIndex : uint16_t { kNone = 0xffff };
constexpr uint16_t Raw(NodeIndex i) { return static_cast<uint16_t>(i); }

// The generation changes each time a slot is given to another node.
struct NodeRef {
  NodeIndex index = NodeIndex::kNone;
  uint16_t generation = 0;
  bool operator==(const NodeRef&) const = default;
  explicit operator bool() const { return index != NodeIndex::kNone; }
};

// Pools and listeners keep their index across reloads. A removed pool keeps it, and its name in the table, until its last
// connection has ended; then its slot is given to another one. A configuration changes listeners at a restart only.
enum class PoolIndex : uint16_t { kNone = 0xffff };
constexpr uint16_t Raw(PoolIndex i) { return static_cast<uint16_t>(i); }
enum class ListenerIndex : uint16_t {};
constexpr uint16_t Raw(ListenerIndex i) { return static_cast<uint16_t>(i); }

}  // namespace hud
