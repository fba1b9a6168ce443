// The part of the configuration that a reload may change, as plain values: what control/ reads from YAML and core/ acts on.
// Defaults are the documented ones. Names are unique within their kind; the reader has checked that.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/limits.h"
#include "core/base/types.h"
#include "core/net/address.h"

namespace hud {

using namespace std::chrono_literals;

enum class Balance : uint8_t { kPowerOfTwo, kLeastConnections, kRoundRobin, kMaglev };
inline constexpr std::pair<std::string_view, Balance> kBalanceNames[] = {{"power_of_two", Balance::kPowerOfTwo},
                                                                         {"least_connections", Balance::kLeastConnections},
                                                                         {"round_robin", Balance::kRoundRobin},
                                                                         {"maglev", Balance::kMaglev}};
constexpr std::string_view BalanceName(Balance balance) { return kBalanceNames[static_cast<size_t>(balance)].first; }
enum class WhenNone : uint8_t { kClose, kAny };  // no usable node: close, or try any node of the pool all the same
// How a node without an agent is checked: by a whole TLS handshake (an alert is an answer, too), by a mere connect, or not.
// kAuto is kTls from the moment that a node of the pool has answered one, and until then kConnect.
enum class NodeCheck : uint8_t { kAuto, kTls, kConnect, kOff };
enum class ProxyProtocol : uint8_t { kOff, kV2 };

struct NodeConfig {
  std::string name;
  SocketAddress address;
  uint16_t weight = 100;  // 0..1000; 0: no new connections but by affinity
  bool operator==(const NodeConfig&) const = default;
};

// Nodes that take connections and leave ClientHellos without a byte: reset, closed, or mute. See ejection.h.
struct EjectConfig {
  uint32_t after = 5;   // connections in a row; 0: never
  Duration mute = 5s;   // nothing for so long is no answer
  Duration time = 10s;  // of a first ejection
  double share = 0.5;   // of a pool's usable nodes, at most, when one more is ejected
  bool operator==(const EjectConfig&) const = default;
};

struct PoolConfig {
  std::string name;
  Balance balance = Balance::kPowerOfTwo;
  WhenNone when_none = WhenNone::kClose;
  ProxyProtocol proxy_protocol = ProxyProtocol::kOff;  // towards the nodes
  double load_bound = 1.5;        // × weighted mean of active connections; an owner over it is not used
  uint32_t load_bound_floor = 16; // connections
  Duration slow_start{0};         // a node that comes up reaches its full weight after this time
  NodeCheck check = NodeCheck::kAuto;  // of static nodes without an agent
  Duration health_interval = 5s;
  EjectConfig eject;
  std::vector<NodeConfig> nodes;  // static ones; others announce themselves
  bool operator==(const PoolConfig&) const = default;
};

struct RouteConfig {
  std::vector<std::string> sni;   // lower case; "*.example.com" matches exactly one more label
  std::vector<std::string> alpn;  // empty: any; else the client must offer one of these
  std::string pool;
  bool operator==(const RouteConfig&) const = default;
};

// Whether a listener's clients begin with a PROXY v1 or v2 header. Where they do, all of them must.
struct AcceptProxyProtocol {
  bool enabled = false;
  std::vector<AddressRange> from;  // who may connect and is believed; empty: anybody
  bool Believes(const SocketAddress& peer) const { return from.empty() || AnyContains(from, peer); }
  bool operator==(const AcceptProxyProtocol&) const = default;
};

struct ListenerConfig {
  std::string name;
  std::vector<SocketAddress> bind;  // needs a restart to change, or another listener
  Duration hello_deadline = 5s;
  size_t hello_max_bytes = limits::kMaxHelloBytes;
  std::vector<RouteConfig> routes;
  std::string default_pool;        // empty: no match gets the unrecognized_name alert
  int backlog = 4096;
  bool defer_accept = true;  // accept with the first byte (tcp(7), TCP_DEFER_ACCEPT); needs a restart to change
  bool quick_ack = false;    // acknowledge at once, instead of with the answer; needs a restart to change
  AcceptProxyProtocol accept_proxy_protocol;
  bool operator==(const ListenerConfig&) const = default;
};

struct Timeouts {
  Duration connect = 2s;       // all attempts together
  Duration idle = 10min;
  Duration half_closed = 1min;
  Duration drain = 30s;        // SIGTERM: how long connections may go on
  Duration drain_grace = 5s;   // SIGTERM: how long new ones are still taken, if somebody asks /ready
  bool operator==(const Timeouts&) const = default;
};

struct BeaconConfig {
  std::vector<SocketAddress> bind;  // needs a restart to change
  std::string keys_path;
  Duration dead_after = 3s;   // silence after which a node is `silent`
  bool operator==(const BeaconConfig&) const = default;
};

struct AffinityConfig {
  size_t capacity = 1'000'000;  // needs a restart to change
  Duration token_ttl = 1h;
  bool operator==(const AffinityConfig&) const = default;
};

struct ClusterConfig {
  std::vector<ListenerConfig> listeners;
  std::vector<PoolConfig> pools;
  Timeouts timeouts;
  BeaconConfig beacons;
  AffinityConfig affinity;
  uint32_t fall = 3;              // failed connects in a row that take a node down
  uint32_t dial_attempts = limits::kMaxDialAttempts;
  bool operator==(const ClusterConfig&) const = default;
};

}  // namespace hud
