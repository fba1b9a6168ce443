#include "control/config/compare.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/net/address_overlap.h"

namespace hud {
namespace {

std::string Text(const std::string& value) { return value.empty() ? "none" : absl::StrCat("'", value, "'"); }
std::string Text(bool value) { return value ? "true" : "false"; }
std::string Text(int value) { return absl::StrCat(value); }
std::string Text(unsigned value) { return absl::StrCat(value); }
std::string Text(size_t value) { return absl::StrCat(value); }
std::string Text(double value) { return absl::StrCat(value); }
std::string Text(const std::optional<unsigned>& value) { return value ? absl::StrCat(*value) : "auto"; }
std::string Text(const std::vector<SocketAddress>& addresses) {
  if (addresses.empty()) return "none";
  return absl::StrJoin(addresses, ", ", [](std::string* out, const SocketAddress& a) { absl::StrAppend(out, a.ToString()); });
}
std::string Text(RelayMode mode) { return std::string(kRelayModeNames[static_cast<size_t>(mode)].first); }
std::string Text(LogLevel level) { return std::string(kLogLevelNames[static_cast<size_t>(level)].first); }
std::string Text(LogFormat format) { return std::string(kLogFormatNames[static_cast<size_t>(format)].first); }

// The elements of `from` and `to` by name, side by side; null where one is missing.
template <typename T>
using Pairs = std::map<std::string, std::pair<const T*, const T*>>;
template <typename T>
Pairs<T> SideBySide(const std::vector<T>& from, const std::vector<T>& to) {
  Pairs<T> pairs;
  for (const T& item : from) pairs[item.name].first = &item;
  for (const T& item : to) pairs[item.name].second = &item;
  return pairs;
}

bool SameSettings(PoolConfig a, PoolConfig b) {
  a.nodes.clear();
  b.nodes.clear();
  return a == b;
}

class Comparison {
 public:
  Comparison(const Configuration& from, const Configuration& to) : from_(from), to_(to) {}

  Difference Run() {
    CompareProcess();
    CompareListeners();
    for (const auto& [name, pools] : SideBySide(from_.cluster.pools, to_.cluster.pools)) ComparePools(name, pools.first, pools.second);
    CompareRest();
    return std::move(difference_);
  }

 private:
  template <typename... Parts>
  void Change(const Parts&... parts) {
    difference_.changes.push_back(absl::StrCat(parts...));
  }

  void Restart(std::string_view key, std::string_view change) {
    difference_.restarts.push_back(
        absl::StrCat(to_.At(key), ": ", std::string(change), " needs a restart; restart hudsucker, or undo this change"));
  }

  template <typename T>
  void Same(std::string_view key, const T& from, const T& to) {
    if (from != to) Restart(key, absl::StrCat("from ", Text(from), " to ", Text(to)));
  }

  void CompareProcess() {
    Same("workers", from_.workers, to_.workers);
    Same("user", from_.user, to_.user);
    Same("sandbox", from_.sandbox, to_.sandbox);
    Same("max_connections", from_.max_connections, to_.max_connections);
    Same("max_connections_per_source", from_.max_connections_per_source, to_.max_connections_per_source);
    Same("command_socket", from_.command_socket, to_.command_socket);
    Same("state_dir", from_.state_dir, to_.state_dir);
    Same("beacons.bind", from_.cluster.beacons.bind, to_.cluster.beacons.bind);
    Same("affinity.capacity", from_.cluster.affinity.capacity, to_.cluster.affinity.capacity);
    Same("relay.mode", from_.relay.mode, to_.relay.mode);
    Same("relay.pipe_bytes", from_.relay.pipe_bytes, to_.relay.pipe_bytes);
    Same("relay.pipes", from_.relay.pipes, to_.relay.pipes);
    Same("relay.hello_budget", from_.relay.hello_budget_bytes, to_.relay.hello_budget_bytes);
    Same("status.bind", from_.status, to_.status);
    Same("log.level", from_.log.level, to_.log.level);
    Same("log.format", from_.log.format, to_.log.format);
    Same("log.file", from_.log.file, to_.log.file);
    Same("log.access.enabled", from_.log.access.enabled, to_.log.access.enabled);
    Same("log.access.sample", from_.log.access.sample, to_.log.access.sample);
  }

  void CompareListeners() {
    const std::vector<ListenerConfig>& next = to_.cluster.listeners;
    auto pairs = SideBySide(from_.cluster.listeners, next);
    for (size_t i = 0; i < next.size(); ++i) {
      const std::string key = absl::StrCat("listeners[", i, "]");
      if (const ListenerConfig* was = pairs[next[i].name].first; was == nullptr) {
        Change("listener ", next[i].name, " added, at ", Text(next[i].bind));
        CheckAddressesAreFree(key, next[i], pairs);
      } else {
        CompareListener(key, *was, next[i]);
      }
    }
    for (const auto& [name, pair] : pairs) {
      if (pair.second != nullptr) continue;
      Change("listener ", name, " removed; its connections go on");
      difference_.removed_listeners.push_back(name);
    }
  }

  // Until a listener that goes has served its backlog its address is its own.
  void CheckAddressesAreFree(const std::string& key, const ListenerConfig& added, const Pairs<ListenerConfig>& pairs) {
    for (const auto& [name, pair] : pairs) {
      const auto& [was, is] = pair;
      if (is != nullptr || was == nullptr) continue;
      for (const SocketAddress& address : added.bind) {
        const bool is_taken = std::ranges::any_of(was->bind, [&](const SocketAddress& other) { return Overlap(address, other); });
        if (!is_taken) continue;
        difference_.restarts.push_back(absl::StrCat(to_.At(key + ".bind"), ": ", address.ToString(), " is still that of listener '", name,
                                                    "', which this removes; remove it first and add this one with a second reload, or restart"));
      }
    }
  }

  void CompareListener(const std::string& key, const ListenerConfig& was, const ListenerConfig& is) {
    Same(key + ".bind", was.bind, is.bind);
    Same(key + ".backlog", was.backlog, is.backlog);
    Same(key + ".defer_accept", was.defer_accept, is.defer_accept);
    Same(key + ".quick_ack", was.quick_ack, is.quick_ack);
    if (was.routes != is.routes || was.default_pool != is.default_pool) {
      Change("listener ", is.name, ": routes changed, now ", is.routes.size());
    }
    if (was.hello_deadline != is.hello_deadline || was.hello_max_bytes != is.hello_max_bytes ||
        was.accept_proxy_protocol != is.accept_proxy_protocol) {
      Change("listener ", is.name, ": settings changed");
    }
  }

  void ComparePools(const std::string& name, const PoolConfig* was, const PoolConfig* is) {
    if (was == nullptr) return Change("pool ", name, " added, with ", is->nodes.size(), " static nodes");
    if (is == nullptr) return Change("pool ", name, " removed");
    if (!SameSettings(*was, *is)) Change("pool ", name, ": settings changed");
    for (const auto& [node, nodes] : SideBySide(was->nodes, is->nodes)) {
      CompareNodes(absl::StrCat("pool ", name, ": node ", node), nodes.first, nodes.second);
    }
  }

  void CompareNodes(const std::string& node, const NodeConfig* was, const NodeConfig* is) {
    if (was == nullptr) return Change(node, " ", is->address.ToString(), " added");
    if (is == nullptr) return Change(node, " removed");
    if (!(was->address == is->address)) return Change(node, " moved to ", is->address.ToString());
    if (was->weight != is->weight) Change(node, " has weight ", is->weight, ", had ", was->weight);
  }

  void CompareRest() {
    const ClusterConfig& was = from_.cluster;
    const ClusterConfig& is = to_.cluster;
    if (from_.watchdog != to_.watchdog) Change("watchdog changed");
    if (was.timeouts != is.timeouts) Change("timeouts changed");
    if (was.beacons.dead_after != is.beacons.dead_after) Change("beacons.dead_after changed");
    if (was.affinity.token_ttl != is.affinity.token_ttl) Change("affinity.token_ttl changed");
    if (from_.status_hosts != to_.status_hosts) Change("status.hosts changed");
    if (was.fall != is.fall || was.dial_attempts != is.dial_attempts) Change("dialing changed");
  }

  const Configuration& from_;
  const Configuration& to_;
  Difference difference_;
};

}  // namespace

Difference Compare(const Configuration& from, const Configuration& to) { return Comparison(from, to).Run(); }

}  // namespace hud
