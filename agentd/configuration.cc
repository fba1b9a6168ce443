#include "agentd/configuration.h"

#include <algorithm>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "agentd/feed_line.h"
#include "core/base/limits.h"
#include "core/beacon/beacon.h"
#include "core/yaml/yaml_reader.h"

namespace hud {
namespace {

constexpr size_t kMaxNamesPerProbe = 32;
constexpr Duration kLongest = std::chrono::hours(24);
constexpr Duration kUsualMostEvery = 1s;  // a third of a proxy's usual dead_after

class Reader {
 public:
  explicit Reader(YamlDocument document) : document_(std::move(document)) {}

  absl::StatusOr<AgentConfig> Read() {
    const YamlValue root = document_.root();
    ReadNodes(root);
    ReadProxies(root);
    ReadProbes(root);
    ReadTicketKeyFiles(root);
    ReadFeeds(root);
    const YamlValue state_dir = root.Get("state_dir");
    if (state_dir.ReadString(&config_.state_dir) && config_.state_dir.front() != '/') {
      state_dir.Error("give an absolute path, like /var/lib/hud-agentd");
    }
    if (state_dir) config_.state_dir_at = At(state_dir);
    const YamlValue log = root.Get("log");
    log.Get("level").ReadEnum(&config_.log.level, kLogLevelNames);
    log.Get("format").ReadEnum(&config_.log.format, kLogFormatNames);
    const YamlValue user = root.Get("user");
    if (user.ReadString(&config_.user)) config_.user_at = At(user);
    root.Get("sandbox").ReadBool(&config_.sandbox);
    const YamlValue every = root.Get("beacon").Get("every");
    every.ReadDuration(&config_.beacon_every, 100ms, 60s);
    if (config_.beacon_every > kUsualMostEvery) {
      config_.warnings.push_back(absl::StrCat(At(every), ": beacon.every: a proxy calls a node ",
                                              "silent after its beacons.dead_after, 3s unless configured; say at least three ",
                                              "times in it, or raise dead_after there"));
    }
    if (absl::Status status = document_.Finish(); !status.ok()) return status;
    return std::move(config_);
  }

 private:
  std::string At(const YamlValue& value) const { return absl::StrCat(document_.path(), ":", value.place().line); }

  void ReadNodes(const YamlValue& root) {
    const YamlValue list = root.Require("node", "like {name: n1, address: \"10.0.0.11:8443\", pool: web}");
    const YamlValue key = root.Get("key");
    const std::vector<YamlValue> items = list ? list.ItemsOrSelf() : std::vector<YamlValue>();
    if (items.size() > kMaxAgentNodes) list.Error(absl::StrCat("at most ", kMaxAgentNodes, " nodes"));
    if (list && items.empty()) list.Error("at least one node is needed");
    if (key && items.size() > 1) key.Error("several nodes: each needs a 'key' of its own, within 'node'");
    for (const YamlValue& item : items) ReadNode(item, items.size() == 1 ? key : YamlValue());
  }

  void ReadNode(const YamlValue& value, const YamlValue& key_for_the_only_node) {
    AgentNodeConfig node;
    const YamlValue name = value.Require("name", "the name that the proxy's keys file has");
    const YamlValue address = value.Require("address", "where proxies reach the TLS server, like 10.0.0.11:8443");
    const YamlValue pool = value.Require("pool", "the proxy's pool, or a list of them");
    const bool named = name.ReadString(&node.name) && CheckNodeName(name, node.name);
    const bool addressed = address.ReadAddress(&node.address) && CheckReachable(address, node.address);
    const bool pooled = pool.ReadStrings(&node.pools) && !node.pools.empty();
    if (pool && pool.IsList() && pool.Items().empty()) pool.Error("at least one pool is needed");
    value.Get("weight").ReadInteger(&node.weight, 0, 1000);
    ReadKey(value, key_for_the_only_node, &node);
    if (named && addressed && pooled) CheckAnnounceable(value, node);
    config_.nodes.push_back(std::move(node));
  }

  void ReadKey(const YamlValue& value, const YamlValue& only_key, AgentNodeConfig* node) {
    const YamlValue own = value.Get("key");
    if (own && only_key) only_key.Error("the node has a 'key' already; keep one of the two");
    const YamlValue& key = own ? own : only_key;
    if (key) {
      key.ReadString(&node->key_path);
      node->key_at = At(key);
    } else if (value) {
      value.Error("no 'key': the file that 'hud-agentd keygen' wrote");
    }
  }

  bool CheckNodeName(const YamlValue& value, const std::string& name) {
    if (!IsBeaconName(name)) {
      value.Error(absl::StrCat("'", name, "' cannot name a node; use up to ", limits::kMaxBeaconNameBytes,
                               " letters, digits, '.', '_' and '-'"));
      return false;
    }
    if (FindNode(name)) {
      value.Error(absl::StrCat("there is a node '", name, "' already; a node is one TLS server"));
      return false;
    }
    return true;
  }

  // Proxies connect to it: it must be one address, with a port.
  bool CheckReachable(const YamlValue& value, const SocketAddress& address) {
    if (address.IsUnix()) return true;
    const Bytes host = address.host_bytes();
    const bool wildcard = std::all_of(host.begin(), host.end(), [](uint8_t byte) { return byte == 0; });
    if (wildcard)
      value.Error("is not an address that can be connected to; give the one that clients of the server use");
    if (!wildcard && address.port() == 0) value.Error("port 0 cannot be connected to");
    return !wildcard && address.port() != 0;
  }

  // What the wire format has no room for is an error here, not when the first beacon is due.
  void CheckAnnounceable(const YamlValue& value, const AgentNodeConfig& node) {
    NodeReport report;
    report.address = node.address;
    report.pools = node.pools;
    report.weight = node.weight;
    std::vector<std::vector<uint8_t>> bodies;
    std::string why;
    if (!WriteReportBodies(report, 0, &bodies, &why)) value.Error(why);
  }

  void ReadProxies(const YamlValue& root) {
    const YamlValue list = root.Require("proxies", "where proxies listen for beacons, like [\"10.0.0.1:9999\"]");
    if (!list.ReadAddresses(&config_.proxies)) return;
    if (config_.proxies.empty()) list.Error("at least one proxy is needed");
    if (config_.proxies.size() > kMaxAgentProxies) list.Error(absl::StrCat("at most ", kMaxAgentProxies, " proxies"));
    for (const SocketAddress& proxy : config_.proxies) {
      if (proxy.IsUnix()) {
        list.Error(absl::StrCat(proxy.ToString(), ": beacons go over UDP; give the proxy's beacons.bind address"));
      } else {
        CheckReachable(list, proxy);
      }
    }
  }

  std::optional<size_t> FindNode(const std::string& name) const {
    for (size_t i = 0; i < config_.nodes.size(); ++i) {
      if (config_.nodes[i].name == name) return i;
    }
    return std::nullopt;
  }

  // The node that a probe, a file or a feed is about: the one it names, or the only one.
  std::optional<size_t> OwnerOf(const YamlValue& value) {
    const YamlValue name = value.IsMap() ? value.Get("node") : YamlValue();
    std::string wanted;
    if (name) {
      if (!name.ReadString(&wanted)) return std::nullopt;
      const std::optional<size_t> found = FindNode(wanted);
      if (!found) name.Error(absl::StrCat("there is no node '", wanted, "'"));
      return found;
    }
    if (config_.nodes.size() == 1) return 0;
    if (!config_.nodes.empty()) value.Error("several nodes: say which one this is about, with 'node: NAME'");
    return std::nullopt;
  }

  void ReadProbes(const YamlValue& root) {
    const YamlValue list = root.Get("probe");
    std::vector<bool> probed(config_.nodes.size(), false);
    const std::vector<YamlValue> items = list ? list.ItemsOrSelf() : std::vector<YamlValue>();
    if (items.size() > kMaxProbes) list.Error(absl::StrCat("at most ", kMaxProbes, " probes"));
    for (const YamlValue& item : items) {
      const std::optional<size_t> node = OwnerOf(item);
      ProbeConfig probe;
      if (node) probe.node = *node;
      if (node) probe.address = config_.nodes[*node].address;
      ReadProbe(item, &probe);
      if (node) probed[*node] = true;
      if (node) config_.probes.push_back(std::move(probe));
    }
    // A node that no probe names is probed at its own address.
    for (size_t i = 0; i < probed.size(); ++i) {
      if (probed[i]) continue;
      ProbeConfig probe;
      probe.node = i;
      probe.address = config_.nodes[i].address;
      probe.sni = {""};
      config_.probes.push_back(std::move(probe));
    }
  }

  void ReadProbe(const YamlValue& value, ProbeConfig* probe) {
    const YamlValue address = value.Get("address");
    if (address && address.ReadAddress(&probe->address)) CheckReachable(address, probe->address);
    ReadServerNames(value.Get("sni"), &probe->sni);
    value.Get("every").ReadDuration(&probe->every, 1s, kLongest);
    probe->ready_every = std::min(probe->ready_every, probe->every);
    value.Get("ready_every").ReadDuration(&probe->ready_every, 100ms, kLongest);
    value.Get("timeout").ReadDuration(&probe->timeout, 100ms, 60s);
    value.Get("proxy_protocol")
        .ReadEnum(
            &probe->proxy_protocol,
            {{"off", ProbeProxyProtocol::kOff}, {"v1", ProbeProxyProtocol::kV1}, {"v2", ProbeProxyProtocol::kV2}});
    ReadAlpn(value.Get("alpn"), &probe->alpn);
    ReadVersions(value.Get("versions"), probe);
    const YamlValue certificate = value.Get("client_certificate");
    const YamlValue key = value.Get("client_key");
    certificate.ReadString(&probe->client_certificate);
    probe->client_key = probe->client_certificate;
    key.ReadString(&probe->client_key);
    if (certificate) probe->client_certificate_at = At(certificate);
    probe->client_key_at = key ? At(key) : probe->client_certificate_at;
    if (key && !certificate) key.Error("is of no use without 'client_certificate'");
  }

  void ReadServerNames(const YamlValue& value, std::vector<std::string>* names) {
    value.ReadStrings(names);
    if (names->size() > kMaxNamesPerProbe) value.Error(absl::StrCat("at most ", kMaxNamesPerProbe, " names"));
    for (const std::string& name : *names) {
      if (name.find('*') != std::string::npos)
        value.Error(absl::StrCat("'", name, "': give a name that a client would send"));
      if (name.size() > limits::kMaxServerNameBytes) value.Error("a server name has at most 255 bytes");
    }
    if (names->empty()) *names = {""};
  }

  void ReadAlpn(const YamlValue& value, std::vector<std::string>* protocols) {
    value.ReadStrings(protocols);
    size_t bytes = 0;
    for (const std::string& protocol : *protocols) {
      bytes += protocol.size() + 1;
      if (protocol.size() > 255) value.Error("an ALPN protocol has at most 255 bytes");
    }
    if (bytes > limits::kMaxAlpnBytes) value.Error(absl::StrCat("more than ", limits::kMaxAlpnBytes, " bytes in all"));
  }

  void ReadVersions(const YamlValue& value, ProbeConfig* probe) {
    std::vector<std::string> versions;
    if (!value.ReadStrings(&versions)) return;
    probe->tls12 = std::find(versions.begin(), versions.end(), "1.2") != versions.end();
    probe->tls13 = std::find(versions.begin(), versions.end(), "1.3") != versions.end();
    const bool known = std::all_of(versions.begin(), versions.end(),
                                   [](const std::string& version) { return version == "1.2" || version == "1.3"; });
    if (!known || versions.empty()) value.Error("give one or both of \"1.2\" and \"1.3\"");
  }

  void ReadTicketKeyFiles(const YamlValue& root) {
    const YamlValue list = root.Get("ticket_key_files");
    if (!list) return;
    const std::vector<YamlValue> items = list.ItemsOrSelf();
    if (items.size() > kMaxTicketKeyFiles) list.Error(absl::StrCat("at most ", kMaxTicketKeyFiles, " files"));
    for (const YamlValue& item : items) {
      TicketKeyFileConfig file;
      const bool read = item.IsMap() ? item.Require("path").ReadString(&file.path) : item.ReadString(&file.path);
      if (item.IsMap()) {
        using enum TicketKeyFormat;
        item.Get("format").ReadEnum(&file.format,
                                    {{"auto", kAuto}, {"nginx", kNginx}, {"apache", kApache}, {"haproxy", kHaproxy}});
      }
      const std::optional<size_t> node = OwnerOf(item);
      if (!read || !node) continue;
      file.node = *node;
      file.at = At(item);
      config_.ticket_key_files.push_back(std::move(file));
    }
  }

  void ReadFeeds(const YamlValue& root) {
    const YamlValue list = root.Get("feeds");
    if (!list) return;
    std::set<size_t> fed;
    for (const YamlValue& item : list.ItemsOrSelf()) {
      FeedsConfig feeds;
      feeds.at = At(item);
      ReadSocketPath(item.Get("syslog"), &feeds.syslog);
      ReadSocketPath(item.Get("tokens"), &feeds.tokens);
      item.Get("group").ReadString(&feeds.group);
      item.Get("ttl").ReadDuration(&feeds.ttl, 1s, kLongestTokenTtl);
      if (item.IsMap() && feeds.syslog.empty() && feeds.tokens.empty()) {
        item.Error("no feed is named; write 'syslog: PATH', 'tokens: PATH' or both");
      }
      const std::optional<size_t> node = OwnerOf(item);
      if (!node) continue;
      if (!fed.insert(*node).second)
        item.Error(absl::StrCat("node '", config_.nodes[*node].name, "' has feeds already"));
      feeds.node = *node;
      config_.feeds.push_back(std::move(feeds));
    }
  }

  void ReadSocketPath(const YamlValue& value, std::string* path) {
    if (!value.ReadString(path)) return;
    if (path->front() != '/') value.Error("give an absolute path, like /run/hud-agentd/n1.syslog");
    if (path->size() >= sizeof(sockaddr_un::sun_path)) value.Error("a socket's path has at most 107 bytes");
    if (!socket_paths_.insert(*path).second)
      value.Error(absl::StrCat(*path, " is used twice; each feed needs its own"));
  }

  YamlDocument document_;
  AgentConfig config_;
  std::set<std::string> socket_paths_;
};

}  // namespace

absl::StatusOr<AgentConfig> ParseAgentConfig(const std::string& yaml, const std::string& path) {
  return Reader(YamlDocument::Parse(yaml, path)).Read();
}

absl::StatusOr<AgentConfig> ReadAgentConfig(const std::string& path) { return Reader(YamlDocument::Load(path)).Read(); }

}  // namespace hud
