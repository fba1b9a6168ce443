#include "control/config/configuration.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>

#include "absl/strings/str_cat.h"
#include "core/beacon/beacon.h"
#include "core/net/address_overlap.h"
#include "core/routing/server_name_router.h"
#include "core/yaml/yaml_reader.h"

namespace hud {
namespace {

constexpr Duration kShortest = 10ms;  // a timer wheel's tick; shorter makes no sense on a network
constexpr Duration kDay = 24h;
constexpr Duration kMonth = 30 * kDay;
constexpr size_t kMostTokens = 100'000'000;
constexpr int64_t kMostConnections = 100'000'000;  // what the descriptor limit allows is checked by itself
constexpr uint64_t kDescriptorsPerConnection = 2;
constexpr size_t kMostAlpnNameBytes = 255;  // RFC 7301
constexpr size_t kMostStatusHosts = 256;

std::string_view View(absl::string_view text) { return {text.data(), text.size()}; }

// The most descriptors that this process, or the service that a file with `user` is for, can ever have.
uint64_t MostDescriptors(bool starts_as_root) {
  uint64_t most = 1 << 20;
  std::ifstream("/proc/sys/fs/nr_open") >> most;
  rlimit limit{};
  if (geteuid() != 0 && !starts_as_root && getrlimit(RLIMIT_NOFILE, &limit) == 0)
    most = std::min<uint64_t>(most, limit.rlim_max);
  return most;
}

// From a document to a Configuration. What refers to something else in the file is checked where it stands, so pools
// are read before the listeners that name them, whatever their order in the file.
class Reader {
 public:
  explicit Reader(YamlDocument document) : document_(std::move(document)) {}

  absl::StatusOr<Configuration> Read() {
    const YamlValue root = document_.root();
    config_.source.path = document_.path();
    ReadProcess(root);
    ReadBeacons(root.Get("beacons"));
    ReadAffinity(root.Get("affinity"));
    ReadTimeouts(root.Get("timeouts"));
    ReadDialing(root);
    const YamlValue watchdog = root.Get("watchdog");
    watchdog.Get("after").ReadDuration(&config_.watchdog.after, 1s, 1h);
    watchdog.Get("end").ReadBool(&config_.watchdog.end);
    ReadRelay(root.Get("relay"));
    ReadStatus(root.Get("status"));
    ReadLog(root.Get("log"));
    ReadPools(root.Require("pools", "at least one, like 'pools: [{name: web, nodes: […]}]'"));
    ReadListeners(root.Require("listeners",
                               "at least one, like 'listeners: [{name: tls, bind: \"[::]:443\", default_pool: web}]'"));
    if (absl::Status status = document_.Finish(); !status.ok()) return status;
    return std::move(config_);
  }

 private:
  // ---- The process --------------------------------------------------------------------------------------------------

  // Remembers the line of what a reload cannot change, and of what the machine has to allow.
  const YamlValue& Mark(const YamlValue& value, std::string key) {
    if (value) config_.source.lines.emplace_back(std::move(key), value.place().line);
    return value;
  }

  void ReadProcess(const YamlValue& root) {
    ReadWorkers(Mark(root.Get("workers"), "workers"));
    Mark(root.Get("user"), "user").ReadString(&config_.user);
    Mark(root.Get("sandbox"), "sandbox").ReadBool(&config_.sandbox);
    ReadMaxConnections(Mark(root.Get("max_connections"), "max_connections"));
    Mark(root.Get("max_connections_per_source"), "max_connections_per_source")
        .ReadInteger(&config_.max_connections_per_source, 1, kMostConnections);
    const YamlValue command = root.Get("command_socket");
    ReadSocketPath(Mark(command.Require("path", "like '/run/hudsucker/command.sock'"), "command_socket"));
    ReadAbsolutePath(Mark(root.Get("state_dir"), "state_dir"), &config_.state_dir);
  }

  void ReadWorkers(const YamlValue& value) {
    std::string_view text;
    if (value.IsScalar() && value.ReadScalar(&text) && text == "auto") return;
    unsigned workers;
    const auto most = static_cast<int64_t>(limits::kMaxWorkers);
    if (value.IsScalar() && (text.empty() || text.find_first_not_of("0123456789-") != std::string_view::npos)) {
      value.Error(absl::StrCat("'", std::string(text),
                               "' is neither 'auto' nor a number; write 'auto' for one worker a core, or 1 to ", most));
    } else if (value.ReadInteger(&workers, 1, most)) {
      config_.workers = workers;
    }
  }

  void ReadMaxConnections(const YamlValue& value) {
    unsigned wanted;
    if (!value.ReadInteger(&wanted, 1, kMostConnections)) return;
    const uint64_t most = MostDescriptors(!config_.user.empty()) / kDescriptorsPerConnection;
    if (wanted > most) {
      value.Error(absl::StrCat(
          wanted, " connections need ", wanted * kDescriptorsPerConnection, " descriptors, and the limit has room for ",
          most, " connections; raise it (LimitNOFILE= of the unit, ulimit -n, fs.nr_open), or write less"));
      return;
    }
    config_.max_connections = wanted;
  }

  void ReadSocketPath(const YamlValue& value) {
    std::string path;
    if (!ReadAbsolutePath(value, &path)) return;
    if (const auto address = SocketAddress::Parse("unix:" + path); !address.ok()) {
      value.Error(View(address.status().message()));
    } else {
      config_.command_socket = path;
    }
  }

  static bool ReadAbsolutePath(const YamlValue& value, std::string* out) {
    std::string path;
    if (!value.ReadString(&path)) return false;
    if (path.front() != '/') {
      value.Error(absl::StrCat("'", path,
                               "' is not an absolute path; begin it with '/', whatever folder the process starts in"));
      return false;
    }
    *out = std::move(path);
    return true;
  }

  // ---- Plain sections -----------------------------------------------------------------------------------------------

  void ReadBeacons(const YamlValue& section) {
    BeaconConfig& beacons = config_.cluster.beacons;
    has_beacons_ = static_cast<bool>(section);
    const YamlValue bind = Mark(section.Require("bind", "like '0.0.0.0:9999'"), "beacons.bind");
    bind.ReadAddresses(&beacons.bind);
    CheckBindable(bind, beacons.bind, "beacons are UDP datagrams; write an address like '0.0.0.0:9999'");
    CheckOverlaps(bind, beacons.bind, "beacons.bind", &datagram_binds_);
    section.Get("keys").ReadString(&beacons.keys_path);
    section.Get("dead_after").ReadDuration(&beacons.dead_after, 100ms, 1h);
  }

  void ReadAffinity(const YamlValue& section) {
    Mark(section.Get("capacity"), "affinity.capacity").ReadInteger(&config_.cluster.affinity.capacity, 1, kMostTokens);
    section.Get("token_ttl").ReadDuration(&config_.cluster.affinity.token_ttl, 1s, kMonth);
  }

  void ReadTimeouts(const YamlValue& section) {
    Timeouts& timeouts = config_.cluster.timeouts;
    section.Get("connect").ReadDuration(&timeouts.connect, kShortest, 5min);
    section.Get("idle").ReadDuration(&timeouts.idle, kShortest, kMonth);
    section.Get("half_closed").ReadDuration(&timeouts.half_closed, kShortest, kMonth);
    section.Get("drain").ReadDuration(&timeouts.drain, 0s, kDay);
    section.Get("drain_grace").ReadDuration(&timeouts.drain_grace, 0s, 10min);
  }

  void ReadDialing(const YamlValue& root) {
    const YamlValue dial = root.Get("dial");
    dial.Get("attempts").ReadInteger(&config_.cluster.dial_attempts, 1, limits::kMaxDialAttempts);
    dial.Get("fall").ReadInteger(&config_.cluster.fall, 1, 1000);
  }

  void ReadRelay(const YamlValue& section) {
    RelayConfig& relay = config_.relay;
    Mark(section.Get("mode"), "relay.mode")
        .ReadEnum(&relay.mode, {{"auto", RelayMode::kAuto},
                                {"splice", RelayMode::kSplice},
                                {"copy", RelayMode::kCopy},
                                {"zerocopy", RelayMode::kZeroCopy}});
    Mark(section.Get("pipe_bytes"), "relay.pipe_bytes").ReadByteSize(&relay.pipe_bytes, 4 << 10, 16 << 20);
    unsigned pipes;
    if (Mark(section.Get("pipes"), "relay.pipes").ReadInteger(&pipes, 0, 65536)) relay.pipes = pipes;
    Mark(section.Get("hello_budget"), "relay.hello_budget")
        .ReadByteSize(&relay.hello_budget_bytes, 1 << 20, size_t{64} << 30);
  }

  void ReadStatus(const YamlValue& section) {
    const YamlValue bind = Mark(section.Require("bind", "like '127.0.0.1:9180'"), "status.bind");
    bind.ReadAddresses(&config_.status);
    CheckBindable(bind, config_.status, nullptr);
    CheckOverlaps(bind, config_.status, "status.bind", &stream_binds_);
    ReadStatusHosts(section.Get("hosts"));
  }

  void ReadStatusHosts(const YamlValue& list) {
    if (!list) return;
    const std::vector<YamlValue> items = list.ItemsOrSelf();
    if (items.size() > kMostStatusHosts)
      list.Error(absl::StrCat("holds ", items.size(), " names; at most ", kMostStatusHosts));
    for (const YamlValue& item : items) {
      std::string name;
      if (!item.ReadString(&name)) continue;
      name = Lower(name);
      if (name.find(':') != std::string::npos) {
        item.Error(absl::StrCat("'", name, "' has a colon; write the host name alone, without a port"));
      } else if (name.front() == '*') {
        item.Error(absl::StrCat("'", name, "' has a star; write each host name in full"));
      } else if (const absl::Status status = CheckServerNamePattern(name); !status.ok()) {
        item.Error(View(status.message()));
      } else {
        if (name.back() == '.') name.pop_back();
        config_.status_hosts.push_back(std::move(name));
      }
    }
  }

  static std::string Lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    return text;
  }

  void ReadLog(const YamlValue& section) {
    LogConfig& log = config_.log;
    Mark(section.Get("level"), "log.level")
        .ReadEnum(&log.level, {{"debug", LogLevel::kDebug},
                               {"info", LogLevel::kInfo},
                               {"warning", LogLevel::kWarning},
                               {"error", LogLevel::kError}});
    Mark(section.Get("format"), "log.format")
        .ReadEnum(&log.format, {{"logfmt", LogFormat::kLogfmt}, {"json", LogFormat::kJson}});
    ReadAbsolutePath(Mark(section.Get("file"), "log.file"), &log.file);
    const YamlValue access = section.Get("access");
    Mark(access.Get("enabled"), "log.access.enabled").ReadBool(&log.access.enabled);
    Mark(access.Get("sample"), "log.access.sample").ReadNumber(&log.access.sample, 0, 1);
  }

  // ---- Names --------------------------------------------------------------------------------------------------------

  struct Seen {
    std::map<std::string, int, std::less<>> lines;
  };

  // A name, unique among its kind. Without one, a name that no other has: further errors are still worth finding.
  bool ReadName(const YamlValue& value, std::string_view kind, Seen* seen, std::string* out) {
    std::string name;
    if (!value.ReadString(&name)) return false;
    if (!IsBeaconName(name)) {
      value.Error(absl::StrCat("'", name, "' is no name; write 1 to 31 of A-Z a-z 0-9 . _ -"));
      return false;
    }
    const auto [first, is_new] = seen->lines.emplace(name, value.place().line);
    if (!is_new) {
      value.Error(absl::StrCat("there is a ", std::string(kind), " '", name, "' already, at line ", first->second,
                               "; rename one"));
      return false;
    }
    *out = std::move(name);
    return true;
  }

  void CheckPoolName(const YamlValue& value, const std::string& name) {
    // Where no pool could be read, that is the error to mend.
    if (pools_seen_.lines.empty() || pools_seen_.lines.count(name) != 0) return;
    std::vector<std::string_view> known;
    for (const auto& pool : pools_seen_.lines) known.push_back(pool.first);
    const std::string_view near = Nearest(name, known);
    value.Error(absl::StrCat("there is no pool '", name, "'; ",
                             near.empty() ? "add it to 'pools', or correct the name"
                                          : absl::StrCat("did you mean '", std::string(near), "'?")));
  }

  // ---- Pools --------------------------------------------------------------------------------------------------------

  void ReadPools(const YamlValue& list) {
    const std::vector<YamlValue> items = list.Items();
    if (list.IsList() && items.empty()) list.Error("is empty; add a pool, like '{name: web, nodes: […]}'");
    if (items.size() > limits::kMaxPools)
      list.Error(absl::StrCat("holds ", items.size(), " pools; at most ", limits::kMaxPools));
    for (const YamlValue& item : items) ReadPool(item);
    if (nodes_.size() > limits::kMaxNodes) {
      list.Error(absl::StrCat("hold ", nodes_.size(), " nodes; at most ", limits::kMaxNodes));
    }
  }

  void ReadPool(const YamlValue& item) {
    PoolConfig& pool = config_.cluster.pools.emplace_back();
    const YamlValue name = item.Require("name");
    ReadName(name, "pool", &pools_seen_, &pool.name);
    item.Get("balance").ReadEnum(&pool.balance, kBalanceNames);
    item.Get("when_none").ReadEnum(&pool.when_none, {{"close", WhenNone::kClose}, {"any", WhenNone::kAny}});
    item.Get("proxy_protocol")
        .ReadEnum(&pool.proxy_protocol, {{"off", ProxyProtocol::kOff}, {"v2", ProxyProtocol::kV2}});
    item.Get("load_bound").ReadNumber(&pool.load_bound, 1, 100);
    item.Get("load_bound_floor").ReadInteger(&pool.load_bound_floor, 0, 1'000'000);
    item.Get("slow_start").ReadDuration(&pool.slow_start, 0s, kDay);
    ReadCheck(item, &pool.check);
    item.Get("health_interval").ReadDuration(&pool.health_interval, 100ms, 1h);
    const YamlValue eject = item.Get("eject");
    eject.Get("after").ReadInteger(&pool.eject.after, 0, 1'000'000);
    eject.Get("mute").ReadDuration(&pool.eject.mute, 100ms, 1h);
    eject.Get("time").ReadDuration(&pool.eject.time, 100ms, kDay);
    eject.Get("share").ReadNumber(&pool.eject.share, 0, 1);
    const YamlValue nodes = item.Get("nodes");
    const std::vector<YamlValue> items = nodes.Items();
    if (items.empty() && item.IsMap() && !has_beacons_) {
      (nodes ? nodes : item)
          .Error("no nodes, and without 'beacons' none can announce itself; add nodes, or 'beacons' with keys");
    }
    Seen seen;
    for (const YamlValue& node : items) ReadNode(node, &pool, &seen);
  }

  // `health_check: true` and `false` are how this was written before there was a choice.
  static void ReadCheck(const YamlValue& pool, NodeCheck* check) {
    const YamlValue old = pool.Get("health_check");
    const YamlValue value = pool.Get("check");
    bool wanted = true;
    if (old && old.ReadBool(&wanted) && !wanted) *check = NodeCheck::kOff;
    if (old && value) old.Error("'check' says it already; remove 'health_check'");
    value.ReadEnum(check, {{"auto", NodeCheck::kAuto},
                           {"tls", NodeCheck::kTls},
                           {"connect", NodeCheck::kConnect},
                           {"off", NodeCheck::kOff}});
  }

  struct KnownNode {
    SocketAddress address;
    int line;
  };

  void ReadNode(const YamlValue& item, PoolConfig* pool, Seen* seen) {
    NodeConfig node;
    const bool has_name = ReadName(item.Require("name"), "node", seen, &node.name);
    const YamlValue address = item.Require("address", "like '10.0.0.11:8443'");
    bool has_address = address.ReadAddress(&node.address);
    if (has_address && !node.address.IsUnix() && node.address.port() == 0) {
      address.Error("a node has no port 0; write the port of its TLS server");
      has_address = false;
    }
    if (has_address && !node.address.IsOneHost()) {
      address.Error("that is no address of one machine; write the one at which the TLS server is reached");
      node.address = SocketAddress();  // nothing else is said of it
      has_address = false;
    }
    item.Get("weight").ReadInteger(&node.weight, 0, 1000);
    if (has_address) CheckOneServerOneName(address, node, *pool);
    if (has_name && has_address) {
      const auto [known, is_new] = nodes_.emplace(node.name, KnownNode{node.address, address.place().line});
      if (!is_new && !(known->second.address == node.address)) {
        address.Error(absl::StrCat("node '", node.name, "' is at ", known->second.address.ToString(), " at line ",
                                   known->second.line, "; a node has one address: correct one, or rename one"));
      }
    }
    node_places_.emplace_back(address, node.address);
    if (has_name) Mark(address, absl::StrCat("pools.", pool->name, ".nodes.", node.name));
    pool->nodes.push_back(std::move(node));
  }

  // Two names for one server would count its connections twice over and split its tokens.
  static void CheckOneServerOneName(const YamlValue& address, const NodeConfig& node, const PoolConfig& pool) {
    for (const NodeConfig& other : pool.nodes) {
      if (!(other.address == node.address) || other.name == node.name) continue;
      address.Error(absl::StrCat("is the address of node '", other.name,
                                 "', too; a server is one node: remove one (its 'weight' says how much it takes)"));
    }
  }

  // ---- Listeners ----------------------------------------------------------------------------------------------------

  void ReadListeners(const YamlValue& list) {
    const std::vector<YamlValue> items = list.Items();
    if (list.IsList() && items.empty())
      list.Error("is empty; add a listener, like '{name: tls, bind: \"[::]:443\", default_pool: web}'");
    if (items.size() > limits::kMaxListeners)
      list.Error(absl::StrCat("holds ", items.size(), " listeners; at most ", limits::kMaxListeners));
    Seen seen;
    for (const YamlValue& item : items) ReadListener(item, &seen);
    CheckLoops();
  }

  void ReadListener(const YamlValue& item, Seen* seen) {
    ListenerConfig& listener = config_.cluster.listeners.emplace_back();
    ReadName(item.Require("name"), "listener", seen, &listener.name);
    Mark(item, absl::StrCat("listeners.", listener.name));
    const YamlValue bind =
        Mark(item.Require("bind", "like '[::]:443'"), absl::StrCat("listeners.", listener.name, ".bind"));
    bind.ReadAddresses(&listener.bind);
    CheckBindable(bind, listener.bind, "a listener needs an IP address and a port, like '[::]:443'");
    CheckOverlaps(bind, listener.bind, absl::StrCat("listener '", listener.name, "'"), &stream_binds_);
    const YamlValue hello = item.Get("hello");
    hello.Get("deadline").ReadDuration(&listener.hello_deadline, kShortest, 5min);
    hello.Get("max_bytes").ReadByteSize(&listener.hello_max_bytes, 512, limits::kMaxConfiguredHelloBytes);
    Mark(item.Get("backlog"), absl::StrCat("listeners.", listener.name, ".backlog"))
        .ReadInteger(&listener.backlog, 1, 65535);
    Mark(item.Get("defer_accept"), absl::StrCat("listeners.", listener.name, ".defer_accept")).ReadBool(&listener.defer_accept);
    Mark(item.Get("quick_ack"), absl::StrCat("listeners.", listener.name, ".quick_ack")).ReadBool(&listener.quick_ack);
    ReadAcceptProxyProtocol(Mark(item.Get("accept_proxy_protocol"), absl::StrCat("listeners.", listener.name, ".accept_proxy_protocol")),
                            &listener.accept_proxy_protocol);
    const YamlValue default_pool = item.Get("default_pool");
    if (default_pool.ReadString(&listener.default_pool)) CheckPoolName(default_pool, listener.default_pool);
    ReadRoutes(item.Get("routes"), &listener);
    if (item.IsMap() && !default_pool && !item.Get("routes")) {
      item.Error("has neither 'routes' nor 'default_pool', so nothing could be sent anywhere; add one");
    }
  }

  // `true`, `false`, or whose headers are taken: {from: [10.0.0.0/8, 192.0.2.7]}.
  static void ReadAcceptProxyProtocol(const YamlValue& value, AcceptProxyProtocol* out) {
    if (value.IsList()) return value.Error("is a list; write '{from: […]}' with it");
    if (!value.IsMap()) {
      value.ReadBool(&out->enabled);
      return;
    }
    out->enabled = true;
    const YamlValue from = value.Require("from", "the networks of the balancers in front, like '[10.0.0.0/8, 192.0.2.7]'");
    const std::vector<YamlValue> items = from.ItemsOrSelf();
    if (from.IsList() && items.empty()) from.Error("is an empty list, so that nobody could connect; write the balancers' networks");
    if (items.size() > limits::kMaxProxyRanges)
      from.Error(absl::StrCat("holds ", items.size(), " networks; at most ", limits::kMaxProxyRanges));
    for (const YamlValue& item : items) {
      std::string text;
      if (!item.ReadString(&text)) continue;
      if (const absl::StatusOr<AddressRange> range = AddressRange::Parse(text); range.ok()) {
        out->from.push_back(*range);
      } else {
        item.Error(View(range.status().message()));
      }
    }
  }

  void ReadRoutes(const YamlValue& list, ListenerConfig* listener) {
    ServerNameRouter router;  // finds what two routes both claim
    bool is_full = false;
    for (const YamlValue& item : list.Items()) {
      RouteConfig& route = listener->routes.emplace_back();
      const bool alpn_is_right = ReadAlpn(item.Get("alpn"), &route.alpn);
      const YamlValue names = item.Require("sni", "like '[\"www.example.com\", \"*.shop.example.com\"]'");
      const std::vector<YamlValue> values = names.ItemsOrSelf();
      if (names.IsList() && values.empty()) names.Error("is an empty list; write a server name, or use 'default_pool'");
      for (const YamlValue& name : values) {
        std::string& sni = route.sni.emplace_back();
        if (!name.ReadString(&sni)) continue;
        sni = Lower(std::move(sni));
        const auto number = static_cast<uint16_t>(listener->routes.size() - 1);
        const absl::Status status =
            alpn_is_right ? router.Add(sni, route.alpn, PoolIndex{0}, number) : CheckServerNamePattern(sni);
        // Of a list that is far too long the first name too many is enough.
        if (status.ok() || (absl::IsResourceExhausted(status) && std::exchange(is_full, true))) continue;
        name.Error(View(status.message()));
      }
      const YamlValue pool = item.Require("pool");
      if (pool.ReadString(&route.pool)) CheckPoolName(pool, route.pool);
    }
  }

  static bool ReadAlpn(const YamlValue& value, std::vector<std::string>* out) {
    if (!value) return true;
    if (value.IsList() && value.Items().empty())
      value.Error("is an empty list; name a protocol like 'h2', or remove the key");
    if (!value.ReadStrings(out)) return false;
    for (const std::string& name : *out) {
      if (name.size() <= kMostAlpnNameBytes) continue;
      value.Error("has a name of more than 255 bytes; no protocol has");
      return false;
    }
    return true;
  }

  // ---- Addresses ----------------------------------------------------------------------------------------------------

  struct Bound {
    SocketAddress address;
    std::string what;
    int line;
  };

  // Port 0 would be another one at each start, and with each worker. `not_unix`: why a unix socket is none, if it is none.
  static void CheckBindable(const YamlValue& bind, const std::vector<SocketAddress>& addresses, const char* not_unix) {
    if (addresses.empty()) return;  // absent, or wrong
    const std::vector<YamlValue> items = bind.ItemsOrSelf();
    for (size_t i = 0; i < addresses.size(); ++i) {
      if (addresses[i].IsUnix()) {
        if (not_unix != nullptr) items[i].Error(absl::StrCat("'", addresses[i].ToString(), "' is a unix socket; ", not_unix));
      } else if (addresses[i].port() == 0) {
        items[i].Error(absl::StrCat("'", addresses[i].ToString(), "' names no port; write one from 1 to 65535"));
      }
    }
  }

  void CheckOverlaps(const YamlValue& bind, const std::vector<SocketAddress>& addresses, const std::string& what,
                     std::vector<Bound>* bound) {
    if (addresses.empty()) return;  // absent, or wrong
    const std::vector<YamlValue> items = bind.ItemsOrSelf();
    for (size_t i = 0; i < addresses.size(); ++i) {
      const YamlValue& item = items[i];
      const SocketAddress& address = addresses[i];
      for (const Bound& other : *bound) {
        if (!Overlap(address, other.address)) continue;
        item.Error(absl::StrCat("'", address.ToString(), "' is taken by '", other.address.ToString(), "' of ",
                                other.what, " at line ", other.line,
                                "; remove one ('[::]' serves IPv4, too), or change a port"));
        break;
      }
      bound->push_back({address, what, item.place().line});
    }
  }

  // A node that is this proxy itself: each connection would make another one, until all are used up.
  void CheckLoops() {
    for (const auto& [place, address] : node_places_) {
      for (const Bound& bound : stream_binds_) {
        if (address.family() == AF_UNSPEC || !WouldReach(address, bound.address)) continue;
        place.Error(absl::StrCat("is where ", bound.what, " listens (line ", bound.line,
                                 "): hudsucker would connect to itself; write the address of the TLS server"));
      }
    }
  }

  YamlDocument document_;
  Configuration config_;
  bool has_beacons_ = false;
  Seen pools_seen_;
  std::map<std::string, KnownNode> nodes_;
  std::vector<std::pair<YamlValue, SocketAddress>> node_places_;
  std::vector<Bound> stream_binds_;
  std::vector<Bound> datagram_binds_;
};

}  // namespace

std::string Configuration::Source::At(std::string_view key) const {
  if (path.empty()) return "command line";
  for (const auto& [name, line] : lines) {
    if (name == key) return absl::StrCat(path, ":", line);
  }
  return path;
}

std::vector<std::string> UnguardedProxyHeaders(const Configuration& configuration) {
  std::vector<std::string> warnings;
  for (const ListenerConfig& listener : configuration.cluster.listeners) {
    if (!listener.accept_proxy_protocol.enabled || !listener.accept_proxy_protocol.from.empty()) continue;
    const std::string key = absl::StrCat("listeners.", listener.name, ".accept_proxy_protocol");
    warnings.push_back(absl::StrCat(configuration.source.At(key), ": ", key,
                                    ": whoever can connect can claim to be any client; write whose headers are taken, like "
                                    "'{from: [10.0.0.0/8]}' (or '{from: [0.0.0.0/0, \"::/0\"]}' if that is meant)"));
  }
  return warnings;
}

absl::StatusOr<Configuration> LoadConfiguration(const std::string& path) {
  return Reader(YamlDocument::Load(path)).Read();
}

absl::StatusOr<Configuration> ParseConfiguration(std::string_view text, std::string path) {
  return Reader(YamlDocument::Parse(text, std::move(path))).Read();
}

}  // namespace hud
