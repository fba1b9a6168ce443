#include "control/config/configuration.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/str_cat.h"
#include "control/config/validate.h"
#include "core/yaml/yaml_reader.h"

namespace hud {
namespace {

constexpr Duration kShortest = 10ms;  // a timer wheel's tick; shorter makes no sense on a network
constexpr Duration kDay = 24h;
constexpr Duration kMonth = 30 * kDay;
constexpr size_t kMostTokens = 100'000'000;
constexpr int64_t kMostConnections = 100'000'000;

std::string_view View(absl::string_view text) { return {text.data(), text.size()}; }

// From a document to a Configuration. Only the text is looked at here: what the values have to be beside each other is for Validate.
class Reader {
 public:
  explicit Reader(YamlDocument document) : document_(std::move(document)) {}

  absl::StatusOr<Configuration> Read() {
    const YamlValue root = document_.root();
    config_.source.path = document_.path();
    for (const auto& [key, line] : document_.Lines()) config_.source.places.emplace(key, absl::StrCat(line));
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
    for (const YamlValue& pool : root.Get("pools").Items()) ReadPool(pool);
    for (const YamlValue& listener : root.Get("listeners").Items()) ReadListener(listener);
    NoteFaults();
    if (absl::Status status = document_.Finish(); !status.ok()) return status;
    return std::move(config_);
  }

 private:
  // Each at its place, among those of the text.
  void NoteFaults() {
    const auto is_wrong = [this](const std::string& key) { return !key.empty() && document_.Find(key).HasErrors(); };
    for (const ConfigurationFault& fault : Validate(config_)) {
      if (!is_wrong(fault.unless)) document_.FindNearest(fault.key).Error(fault.what);
    }
  }

  // ---- The process --------------------------------------------------------------------------------------------------

  void ReadProcess(const YamlValue& root) {
    ReadWorkers(root.Get("workers"));
    root.Get("user").ReadString(&config_.user);
    root.Get("sandbox").ReadBool(&config_.sandbox);
    unsigned connections;
    if (root.Get("max_connections").ReadInteger(&connections, 1, kMostConnections)) config_.max_connections = connections;
    root.Get("max_connections_per_source").ReadInteger(&config_.max_connections_per_source, 1, kMostConnections);
    const YamlValue command = root.Get("command_socket");
    ReadSocketPath(command.Require("path", "like '/run/hudsucker/command.sock'"));
    ReadAbsolutePath(root.Get("state_dir"), &config_.state_dir);
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
    section.Require("bind", "like '0.0.0.0:9999'").ReadAddresses(&beacons.bind);
    section.Get("keys").ReadString(&beacons.keys_path);
    section.Get("dead_after").ReadDuration(&beacons.dead_after, 100ms, 1h);
  }

  void ReadAffinity(const YamlValue& section) {
    section.Get("capacity").ReadInteger(&config_.cluster.affinity.capacity, 1, kMostTokens);
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
    section.Get("mode").ReadEnum(&relay.mode, kRelayModeNames);
    section.Get("pipe_bytes").ReadByteSize(&relay.pipe_bytes, 4 << 10, 16 << 20);
    unsigned pipes;
    if (section.Get("pipes").ReadInteger(&pipes, 0, 65536)) relay.pipes = pipes;
    section.Get("hello_budget").ReadByteSize(&relay.hello_budget_bytes, 1 << 20, size_t{64} << 30);
  }

  void ReadStatus(const YamlValue& section) {
    section.Require("bind", "like '127.0.0.1:9180'").ReadAddresses(&config_.status);
    for (const YamlValue& item : section.Get("hosts").ItemsOrSelf()) {
      std::string& name = config_.status_hosts.emplace_back();
      if (!item.ReadString(&name)) continue;
      name = Lower(name);
      if (name.size() > 1 && name.back() == '.') name.pop_back();
    }
  }

  static std::string Lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    return text;
  }

  void ReadLog(const YamlValue& section) {
    LogConfig& log = config_.log;
    section.Get("level").ReadEnum(&log.level, kLogLevelNames);
    section.Get("format").ReadEnum(&log.format, kLogFormatNames);
    ReadAbsolutePath(section.Get("file"), &log.file);
    const YamlValue access = section.Get("access");
    access.Get("enabled").ReadBool(&log.access.enabled);
    access.Get("sample").ReadNumber(&log.access.sample, 0, 1);
  }

  // ---- Pools --------------------------------------------------------------------------------------------------------

  void ReadPool(const YamlValue& item) {
    PoolConfig& pool = config_.cluster.pools.emplace_back();
    item.Require("name").ReadString(&pool.name);
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
    for (const YamlValue& node : item.Get("nodes").Items()) ReadNode(node, &pool.nodes.emplace_back());
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

  static void ReadNode(const YamlValue& item, NodeConfig* node) {
    item.Require("name").ReadString(&node->name);
    item.Require("address", "like '10.0.0.11:8443'").ReadAddress(&node->address);
    item.Get("weight").ReadInteger(&node->weight, 0, limits::kMaxWeight);
  }

  // ---- Listeners ----------------------------------------------------------------------------------------------------

  void ReadListener(const YamlValue& item) {
    ListenerConfig& listener = config_.cluster.listeners.emplace_back();
    item.Require("name").ReadString(&listener.name);
    item.Require("bind", "like '[::]:443'").ReadAddresses(&listener.bind);
    const YamlValue hello = item.Get("hello");
    hello.Get("deadline").ReadDuration(&listener.hello_deadline, kShortest, 5min);
    hello.Get("max_bytes").ReadByteSize(&listener.hello_max_bytes, 512, limits::kMaxConfiguredHelloBytes);
    item.Get("backlog").ReadInteger(&listener.backlog, 1, 65535);
    item.Get("defer_accept").ReadBool(&listener.defer_accept);
    item.Get("quick_ack").ReadBool(&listener.quick_ack);
    ReadAcceptProxyProtocol(item.Get("accept_proxy_protocol"), &listener.accept_proxy_protocol);
    item.Get("default_pool").ReadString(&listener.default_pool);
    for (const YamlValue& route : item.Get("routes").Items()) ReadRoute(route, &listener.routes.emplace_back());
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

  static void ReadRoute(const YamlValue& item, RouteConfig* route) {
    const YamlValue alpn = item.Get("alpn");
    if (alpn.IsList() && alpn.Items().empty()) alpn.Error("is an empty list; name a protocol like 'h2', or remove the key");
    alpn.ReadStrings(&route->alpn);
    const YamlValue names = item.Require("sni", "like '[\"www.example.com\", \"*.shop.example.com\"]'");
    const std::vector<YamlValue> values = names.ItemsOrSelf();
    if (names.IsList() && values.empty()) names.Error("is an empty list; write a server name, or use 'default_pool'");
    for (const YamlValue& name : values) {
      std::string& sni = route->sni.emplace_back();
      if (name.ReadString(&sni)) sni = Lower(std::move(sni));
    }
    item.Require("pool").ReadString(&route->pool);
  }

  YamlDocument document_;
  Configuration config_;
};

// "listeners.tls.bind" for "listeners[0].bind": people know their listeners by name.
std::string NamedKey(const Configuration& configuration, std::string_view key) {
  const std::vector<NodeConfig>* nodes = nullptr;
  const auto name_of = [&](std::string_view list, size_t number) -> std::string {
    const ClusterConfig& cluster = configuration.cluster;
    if (list == "listeners" && number < cluster.listeners.size()) return cluster.listeners[number].name;
    if (list == "pools" && number < cluster.pools.size()) {
      nodes = &cluster.pools[number].nodes;
      return cluster.pools[number].name;
    }
    return list.ends_with(".nodes") && nodes != nullptr && number < nodes->size() ? (*nodes)[number].name : "";
  };
  std::string named;
  while (!key.empty()) {
    const size_t open = key.find('['), close = key.find(']', open);
    absl::StrAppend(&named, std::string(key.substr(0, open)));
    if (close == std::string_view::npos) break;
    size_t number = 0;
    std::from_chars(key.data() + open + 1, key.data() + close, number);
    const std::string name = name_of(key.substr(0, open), number);
    absl::StrAppend(&named, name.empty() ? std::string(key.substr(open, close + 1 - open)) : absl::StrCat(".", name));
    key.remove_prefix(close + 1);
  }
  return named;
}

}  // namespace

const std::string* Configuration::Source::PlaceOf(std::string_view key) const {
  while (!key.empty()) {
    if (const auto place = places.find(key); place != places.end()) return &place->second;
    key = key.substr(0, key.find_last_of(".[") == std::string_view::npos ? 0 : key.find_last_of(".["));
  }
  return nullptr;
}

std::string Configuration::Source::Beside(std::string_view key) const {
  const std::string* place = PlaceOf(key);
  return place == nullptr ? "" : path.empty() ? absl::StrCat(" (", *place, ")") : absl::StrCat(" at line ", *place);
}

std::string Configuration::At(std::string_view key) const {
  const std::string* place = source.PlaceOf(key);
  if (source.path.empty()) return place == nullptr ? "command line" : *place;
  return absl::StrCat(source.path, place == nullptr ? "" : ":", place == nullptr ? "" : *place, ": ", NamedKey(*this, key));
}

absl::StatusOr<Configuration> LoadConfiguration(const std::string& path) {
  return Reader(YamlDocument::Load(path)).Read();
}

absl::StatusOr<Configuration> ParseConfiguration(std::string_view text, std::string path) {
  return Reader(YamlDocument::Parse(text, std::move(path))).Read();
}

}  // namespace hud
