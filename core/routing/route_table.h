// What a worker needs to send a connection somewhere: an immutable snapshot (SnapshotsAreImmutable), published by the
// control thread and swapped in between batches. Built by Cluster.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/affinity/prefix_store.h"
#include "core/base/types.h"
#include "core/config/cluster_config.h"
#include "core/routing/server_name_router.h"

namespace hud {

// What the agent says of its node. Without an agent: kNone.
enum class AgentVerdict : uint8_t { kNone, kAlive, kNotReady, kSilent, kDying, kDead };
enum class OperatorVerdict : uint8_t { kOn, kDraining, kOff };

// The three independent verdicts. New connections need all three good; silent nodes come last, and behind them those that
// are ejected.
struct NodeVerdicts {
  AgentVerdict agent = AgentVerdict::kNone;
  bool reachable = true;
  OperatorVerdict by_operator = OperatorVerdict::kOn;
  bool ejected = false;  // takes connections and does not answer (ejection.h)
  bool unknown = false;  // its first check has not ended, and nobody has heard of it otherwise; used all the same

  bool Usable() const {
    return reachable && by_operator == OperatorVerdict::kOn &&
           (agent == AgentVerdict::kNone || agent == AgentVerdict::kAlive || agent == AgentVerdict::kSilent);
  }
  bool Silent() const { return agent == AgentVerdict::kSilent; }
  // As /status says it: one of kNodeStateNames.
  std::string_view StateName() const;
  bool operator==(const NodeVerdicts&) const = default;
};

// Every state that StateName() knows: all of them are shown, those that no node is in as 0.
inline constexpr std::string_view kNodeStateNames[] = {"up", "unknown", "silent", "ejected", "draining", "down"};

struct NodeView {
  std::string name;  // empty: the slot is free
  SocketAddress address;
  uint16_t generation = 0;
  NodeVerdicts verdicts;
  Instant up_since{};  // for slow start
};

struct PoolMember {
  NodeIndex node;
  uint16_t weight;
  bool operator==(const PoolMember&) const = default;
};

struct PoolView {
  std::string name;      // empty: the slot is free
  bool leaving = false;  // removed by a reload: known to its connections only, and without members
  Balance balance = Balance::kPowerOfTwo;
  WhenNone when_none = WhenNone::kClose;
  ProxyProtocol proxy_protocol = ProxyProtocol::kOff;
  double load_bound = 1.5;
  uint32_t load_bound_floor = 16;
  Duration slow_start{0};
  Duration mute_after{0};  // a node that has said nothing of a hello for so long does not answer
  std::vector<PoolMember> members;
  std::vector<uint16_t> maglev;  // member numbers; empty unless balance is kMaglev
};

struct ListenerView {
  std::string name;
  Duration hello_deadline{};
  size_t hello_max_bytes = 0;
  AcceptProxyProtocol accept_proxy_protocol;
  ServerNameRouter router;
  PoolIndex default_pool = PoolIndex::kNone;
};

struct RouteTable {
  uint64_t version = 0;
  std::vector<NodeView> nodes;          // by NodeIndex
  std::vector<PoolView> pools;          // by PoolIndex
  std::vector<ListenerView> listeners;  // by ListenerIndex
  PrefixStore prefixes;
  Timeouts timeouts;
  uint32_t fall = 3;
  uint32_t dial_attempts = 3;
};

}  // namespace hud
