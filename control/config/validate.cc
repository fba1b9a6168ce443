#include "control/config/validate.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/beacon/beacon.h"
#include "core/net/address_overlap.h"
#include "core/routing/server_name_router.h"
#include "core/yaml/yaml_reader.h"

namespace hud {
namespace {

constexpr uint64_t kDescriptorsPerConnection = 2;
constexpr size_t kMaxAlpnNameBytes = 255;  // RFC 7301, section 3.1
constexpr size_t kMaxStatusHosts = 256;

// The most descriptors that this process, or the service that a file with `user` is for, can ever have.
uint64_t MostDescriptors(bool starts_as_root) {
  uint64_t most = 1 << 20;
  std::ifstream("/proc/sys/fs/nr_open") >> most;
  rlimit limit{};
  if (::geteuid() != 0 && !starts_as_root && ::getrlimit(RLIMIT_NOFILE, &limit) == 0) most = std::min<uint64_t>(most, limit.rlim_max);
  return most;
}

std::string ElementOf(const std::string& list, size_t number) { return absl::StrCat(list, "[", number, "]"); }

class Validation {
 public:
  explicit Validation(const Configuration& configuration) : configuration_(configuration), cluster_(configuration.cluster) {}

  std::vector<ConfigurationFault> Run() {
    CheckMaxConnections();
    CheckPools();
    CheckListeners();
    CheckBinds("beacons.bind", cluster_.beacons.bind, "beacons are UDP datagrams; write an address like '0.0.0.0:9999'", "beacons.bind",
               &datagram_binds_);
    CheckBinds("status.bind", configuration_.status, nullptr, "status.bind", &stream_binds_);
    CheckStatusHosts();
    CheckLoops();
    return std::move(faults_);
  }

 private:
  // Where each name of a kind was first.
  using Names = std::map<std::string, std::string, std::less<>>;

  struct Bound {
    SocketAddress address;
    std::string what;
    std::string key;
  };

  template <typename... Parts>
  void Add(std::string key, const Parts&... parts) {
    faults_.push_back({std::move(key), absl::StrCat(parts...), ""});
  }

  // ", at line 3", "" where nobody knows; for a place that another fault mentions.
  std::string Beside(std::string_view key) const { return configuration_.source.Beside(key); }

  void CheckMaxConnections() {
    if (!configuration_.max_connections) return;
    const uint64_t wanted = *configuration_.max_connections;
    const uint64_t most = MostDescriptors(!configuration_.user.empty()) / kDescriptorsPerConnection;
    if (wanted <= most) return;
    Add("max_connections", wanted, " connections need ", wanted * kDescriptorsPerConnection, " descriptors, and the limit has room for ", most,
        " connections; raise it (LimitNOFILE= of the unit, ulimit -n, fs.nr_open), or write less");
  }

  // A name, unique among its kind.
  bool CheckName(const std::string& key, const std::string& name, std::string_view kind, Names* names) {
    if (name.empty()) return false;
    const auto [first, is_new] = names->emplace(name, key);
    if (!IsBeaconName(name)) {
      Add(key, "'", name, "' is no name; write 1 to 31 of A-Z a-z 0-9 . _ -");
    } else if (!is_new) {
      Add(key, "there is a ", std::string(kind), " '", name, "' already", Beside(first->second), "; rename one");
    }
    return is_new && IsBeaconName(name);
  }

  // ---- Pools --------------------------------------------------------------------------------------------------------

  void CheckPools() {
    const std::vector<PoolConfig>& pools = cluster_.pools;
    if (pools.empty()) Add("pools", "there are no pools; add one, like 'pools: [{name: web, nodes: […]}]'");
    if (pools.size() > limits::kMaxPools) Add("pools", "holds ", pools.size(), " pools; at most ", limits::kMaxPools);
    for (size_t i = 0; i < pools.size(); ++i) CheckPool(ElementOf("pools", i), pools[i]);
    if (nodes_.size() > limits::kMaxNodes) Add("pools", "hold ", nodes_.size(), " nodes; at most ", limits::kMaxNodes);
  }

  void CheckPool(const std::string& key, const PoolConfig& pool) {
    CheckName(key + ".name", pool.name, "pool", &pools_);
    if (pool.nodes.empty() && cluster_.beacons.bind.empty()) {
      faults_.push_back({key + ".nodes", "no nodes, and without 'beacons' none can announce itself; add nodes, or 'beacons' with keys", "beacons"});
    }
    Names names;
    for (size_t i = 0; i < pool.nodes.size(); ++i) {
      const std::string node = ElementOf(key + ".nodes", i);
      const bool has_name = CheckName(node + ".name", pool.nodes[i].name, "node", &names);
      CheckNodeAddress(node + ".address", pool, i, has_name);
    }
  }

  void CheckNodeAddress(const std::string& key, const PoolConfig& pool, size_t number, bool has_name) {
    const NodeConfig& node = pool.nodes[number];
    const SocketAddress& address = node.address;
    if (address.family() == AF_UNSPEC) return;
    if (!address.IsUnix() && address.port() == 0) {
      return Add(key, "'", address.ToString(), "' has port 0, and a node has none; write the port of its TLS server");
    }
    if (!address.IsOneHost()) {
      return Add(key, "'", address.ToString(), "' is no address of one machine; write the one at which the TLS server is reached");
    }
    // Two names for one server would count its connections twice over and split its tokens.
    for (size_t i = 0; i < number; ++i) {
      const NodeConfig& other = pool.nodes[i];
      if (!(other.address == address) || other.name == node.name) continue;
      Add(key, "'", address.ToString(), "' is the address of node '", other.name,
          "', too; a server is one node: remove one (its 'weight' says how much it takes)");
    }
    if (!has_name) return;
    const auto [known, is_new] = nodes_.emplace(node.name, std::pair(address, key));
    if (is_new || known->second.first == address) return;
    Add(key, "node '", node.name, "' is at ", known->second.first.ToString(), Beside(known->second.second),
        "; a node has one address: correct one, or rename one");
  }

  void CheckPoolIsThere(const std::string& key, const std::string& name) {
    // Where no pool could be read, that is the error to mend.
    if (name.empty() || pools_.empty() || pools_.count(name) != 0) return;
    std::vector<std::string_view> known;
    for (const auto& pool : pools_) known.push_back(pool.first);
    const std::string_view near = Nearest(name, known);
    Add(key, "there is no pool '", name, "'; ",
        near.empty() ? "add it to 'pools', or correct the name" : absl::StrCat("did you mean '", std::string(near), "'?"));
  }

  // ---- Listeners ----------------------------------------------------------------------------------------------------

  void CheckListeners() {
    const std::vector<ListenerConfig>& listeners = cluster_.listeners;
    if (listeners.empty()) {
      Add("listeners", "there are no listeners; add one, like 'listeners: [{name: tls, bind: \"[::]:443\", default_pool: web}]'");
    }
    if (listeners.size() > limits::kMaxListeners) {
      Add("listeners", "holds ", listeners.size(), " listeners; at most ", limits::kMaxListeners);
    }
    Names names;
    for (size_t i = 0; i < listeners.size(); ++i) {
      const std::string key = ElementOf("listeners", i);
      CheckName(key + ".name", listeners[i].name, "listener", &names);
      CheckListener(key, listeners[i]);
    }
  }

  void CheckListener(const std::string& key, const ListenerConfig& listener) {
    CheckBinds(key + ".bind", listener.bind, "a listener needs an IP address and a port, like '[::]:443'",
               absl::StrCat("listener '", listener.name, "'"), &stream_binds_);
    if (const size_t ranges = listener.accept_proxy_protocol.from.size(); ranges > limits::kMaxProxyRanges) {
      Add(key + ".accept_proxy_protocol.from", "holds ", ranges, " networks; at most ", limits::kMaxProxyRanges);
    }
    CheckPoolIsThere(key + ".default_pool", listener.default_pool);
    CheckRoutes(key + ".routes", listener.routes);
    if (listener.default_pool.empty() && listener.routes.empty()) {
      faults_.push_back({key, "has neither 'routes' nor 'default_pool', so nothing could be sent anywhere; add one", key});
    }
  }

  void CheckRoutes(const std::string& key, const std::vector<RouteConfig>& routes) {
    ServerNameRouter router;  // finds what two routes both claim
    bool is_full = false;
    for (size_t i = 0; i < routes.size(); ++i) {
      const std::string route = ElementOf(key, i);
      CheckAlpn(route + ".alpn", routes[i].alpn);
      for (size_t j = 0; j < routes[i].sni.size(); ++j) {
        const std::string& sni = routes[i].sni[j];
        if (sni.empty()) continue;
        const absl::Status status = router.Add(sni, routes[i].alpn, PoolIndex{0}, static_cast<uint16_t>(i));
        // Of a list that is far too long the first name too many is enough.
        if (status.ok() || (absl::IsResourceExhausted(status) && std::exchange(is_full, true))) continue;
        faults_.push_back({ElementOf(route + ".sni", j), std::string(status.message()), route + ".alpn"});
      }
      CheckPoolIsThere(route + ".pool", routes[i].pool);
    }
  }

  void CheckAlpn(const std::string& key, const std::vector<std::string>& names) {
    if (std::ranges::all_of(names, [](const std::string& name) { return name.size() <= kMaxAlpnNameBytes; })) return;
    Add(key, "has a name of more than ", kMaxAlpnNameBytes, " bytes; no protocol has");
  }

  void CheckStatusHosts() {
    const std::vector<std::string>& hosts = configuration_.status_hosts;
    if (hosts.size() > kMaxStatusHosts) Add("status.hosts", "holds ", hosts.size(), " names; at most ", kMaxStatusHosts);
    for (size_t i = 0; i < hosts.size(); ++i) {
      const std::string& name = hosts[i];
      const std::string key = ElementOf("status.hosts", i);
      if (name.empty()) continue;
      if (name.find(':') != std::string::npos) {
        Add(key, "'", name, "' has a colon; write the host name alone, without a port");
      } else if (name.front() == '*') {
        Add(key, "'", name, "' has a star; write each host name in full");
      } else if (const absl::Status status = CheckServerNamePattern(name); !status.ok()) {
        Add(key, status.message());
      }
    }
  }

  // ---- Addresses ----------------------------------------------------------------------------------------------------

  // Port 0 would be another one at each start, and with each worker. `not_unix`: why a unix socket is none, if it is none.
  void CheckBinds(const std::string& key, const std::vector<SocketAddress>& addresses, const char* not_unix, const std::string& what,
                  std::vector<Bound>* bound) {
    for (size_t i = 0; i < addresses.size(); ++i) {
      const SocketAddress& address = addresses[i];
      const std::string item = ElementOf(key, i);
      if (address.IsUnix() && not_unix != nullptr) {
        Add(item, "'", address.ToString(), "' is a unix socket; ", not_unix);
      } else if (!address.IsUnix() && address.port() == 0) {
        Add(item, "'", address.ToString(), "' names no port; write one from 1 to 65535");
      }
      const auto taken =
          std::find_if(bound->begin(), bound->end(), [&](const Bound& other) { return Overlap(address, other.address); });
      if (taken != bound->end()) {
        Add(item, "'", address.ToString(), "' is taken by '", taken->address.ToString(), "' of ", taken->what, Beside(taken->key),
            "; remove one ('[::]' serves IPv4, too), or change a port");
      }
      bound->push_back({address, what, item});
    }
  }

  // A node that is this proxy itself: each connection would make another one, until all are used up.
  void CheckLoops() {
    for (size_t i = 0; i < cluster_.pools.size(); ++i) {
      const std::vector<NodeConfig>& nodes = cluster_.pools[i].nodes;
      for (size_t j = 0; j < nodes.size(); ++j) {
        const SocketAddress& address = nodes[j].address;
        if (address.family() == AF_UNSPEC || !address.IsOneHost() || (!address.IsUnix() && address.port() == 0)) continue;
        const auto bound = std::find_if(stream_binds_.begin(), stream_binds_.end(),
                                        [&](const Bound& b) { return WouldReach(address, b.address); });
        if (bound == stream_binds_.end()) continue;
        Add(ElementOf(ElementOf("pools", i) + ".nodes", j) + ".address", "'", address.ToString(), "' is where ", bound->what, " listens",
            Beside(bound->key), ": hudsucker would connect to itself; write the address of the TLS server");
      }
    }
  }

  const Configuration& configuration_;
  const ClusterConfig& cluster_;
  std::vector<ConfigurationFault> faults_;
  Names pools_;
  std::map<std::string, std::pair<SocketAddress, std::string>> nodes_;  // where each was first
  std::vector<Bound> stream_binds_;
  std::vector<Bound> datagram_binds_;
};

}  // namespace

std::vector<ConfigurationFault> Validate(const Configuration& configuration) { return Validation(configuration).Run(); }

std::vector<std::string> UnguardedProxyHeaders(const Configuration& configuration) {
  std::vector<std::string> warnings;
  const std::vector<ListenerConfig>& listeners = configuration.cluster.listeners;
  for (size_t i = 0; i < listeners.size(); ++i) {
    if (!listeners[i].accept_proxy_protocol.enabled || !listeners[i].accept_proxy_protocol.from.empty()) continue;
    warnings.push_back(absl::StrCat(configuration.At(ElementOf("listeners", i) + ".accept_proxy_protocol"),
                                    ": whoever can connect can claim to be any client; write whose headers are taken, like "
                                    "'{from: [10.0.0.0/8]}' (or '{from: [0.0.0.0/0, \"::/0\"]}' if that is meant)"));
  }
  return warnings;
}

}  // namespace hud
