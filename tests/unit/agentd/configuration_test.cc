#include "agentd/configuration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace hud {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

constexpr char kSmallest[] = R"(node: {name: n1, address: "10.0.0.11:8443", pool: web}
key: /etc/hudsucker/n1.key
proxies: ["10.0.0.1:9999"]
)";

AgentConfig Good(const std::string& yaml) {
  absl::StatusOr<AgentConfig> config = ParseAgentConfig(yaml, "a.yaml");
  EXPECT_TRUE(config.ok()) << config.status().message() << "\n" << yaml;
  return config.ok() ? *std::move(config) : AgentConfig();
}

TEST(AgentConfiguration, TheSmallestFileProbesTheNodeAtItsAddress) {
  const AgentConfig config = Good(kSmallest);
  ASSERT_THAT(config.nodes, SizeIs(1));
  EXPECT_EQ(config.nodes[0].name, "n1");
  EXPECT_EQ(config.nodes[0].weight, 100);
  EXPECT_EQ(config.nodes[0].key_path, "/etc/hudsucker/n1.key");
  EXPECT_THAT(config.nodes[0].pools, ElementsAre("web"));
  ASSERT_THAT(config.probes, SizeIs(1));
  EXPECT_EQ(config.probes[0].address, config.nodes[0].address);
  EXPECT_THAT(config.probes[0].sni, ElementsAre(""));
  EXPECT_EQ(config.probes[0].every, 60s);
  EXPECT_TRUE(config.probes[0].tls12 && config.probes[0].tls13);
  EXPECT_EQ(config.beacon_every, 1s);
  EXPECT_EQ(config.user, "");
  EXPECT_TRUE(config.sandbox);
}

TEST(AgentConfiguration, EveryKeyIsRead) {
  const AgentConfig config = Good(R"(
node:
  - {name: n1, address: "10.0.0.11:8443", pool: [web, api], weight: 50, key: n1.key}
  - {name: n2, address: "unix:/run/n2.sock", pool: web, key: n2.key}
proxies: ["10.0.0.1:9999", "[2001:db8::1]:9999"]
probe:
  - {node: n1, address: "127.0.0.1:8443", sni: [a.example, b.example], every: 5m, ready_every: 1s, timeout: 500ms,
     client_certificate: c.pem, client_key: k.pem, alpn: [h2, http/1.1], proxy_protocol: v2, versions: ["1.3"]}
  - {node: n1, address: "127.0.0.1:9443", sni: a.example, client_certificate: both.pem}
ticket_key_files:
  - {path: /etc/nginx/ticket.key, node: n1}
  - {path: /etc/haproxy/keys, format: haproxy, node: n2}
feeds:
  - {node: n1, syslog: /run/n1.syslog, tokens: /run/n1.tokens, group: www-data, ttl: 5m}
beacon: {every: 500ms}
log: {level: warning, format: json}
user: someone
sandbox: false
)");
  EXPECT_EQ(config.user, "someone");
  EXPECT_FALSE(config.sandbox);
  EXPECT_THAT(config.nodes, SizeIs(2));
  EXPECT_THAT(config.proxies, SizeIs(2));
  ASSERT_THAT(config.probes, SizeIs(3)) << "n2 has one of its own accord";
  const ProbeConfig& first = config.probes[0];
  EXPECT_THAT(first.sni, ElementsAre("a.example", "b.example"));
  EXPECT_THAT(first.alpn, ElementsAre("h2", "http/1.1"));
  EXPECT_EQ(first.every, 5min);
  EXPECT_EQ(first.ready_every, 1s);
  EXPECT_EQ(first.timeout, 500ms);
  EXPECT_EQ(first.client_key, "k.pem");
  EXPECT_EQ(first.proxy_protocol, ProbeProxyProtocol::kV2);
  EXPECT_TRUE(first.tls13 && !first.tls12);
  EXPECT_EQ(config.probes[1].client_key, "both.pem") << "the key is in the certificate's file unless told";
  EXPECT_EQ(config.probes[2].node, 1u);
  ASSERT_THAT(config.ticket_key_files, SizeIs(2));
  EXPECT_EQ(config.ticket_key_files[1].format, TicketKeyFormat::kHaproxy);
  EXPECT_EQ(config.ticket_key_files[1].node, 1u);
  ASSERT_THAT(config.feeds, SizeIs(1));
  EXPECT_EQ(config.feeds[0].ttl, 5min);
  EXPECT_EQ(config.feeds[0].group, "www-data");
  EXPECT_EQ(config.beacon_every, 500ms);
  EXPECT_EQ(config.log.level, LogLevel::kWarning);
  EXPECT_EQ(config.log.format, LogFormat::kJson);
}

TEST(AgentConfiguration, ReadinessIsLookedAtNoLessOftenThanTickets) {
  EXPECT_EQ(Good(std::string(kSmallest) + "probe: {every: 1s}\n").probes[0].ready_every, 1s);
}

struct Row {
  const char* name;
  std::string yaml;
  int line;
  const char* words;
};

TEST(AgentConfiguration, EachMistakeIsNamedWithItsLine) {
  const std::string small = kSmallest;
  const std::string two = R"(node:
  - {name: n1, address: "10.0.0.11:8443", pool: web, key: n1.key}
  - {name: n2, address: "10.0.0.12:8443", pool: web, key: n2.key}
proxies: ["10.0.0.1:9999"]
)";
  const std::string rest = "key: k\nproxies: [\"10.0.0.1:9999\"]\n";
  const Row rows[] = {
      {"no node", rest, 1, "node"},
      {"no proxies", "node: {name: n1, address: \"10.0.0.1:1\", pool: web, key: k}\n", 1, "proxies"},
      {"no key", "node: {name: n1, address: \"10.0.0.1:1\", pool: web}\nproxies: [\"10.0.0.1:9999\"]\n", 1, "hud-agentd keygen"},
      {"two keys for one node", "node: {name: n1, address: \"10.0.0.1:1\", pool: web, key: a}\n" + rest, 2, "has a 'key' already"},
      {"one key for two nodes", two + "key: k\n", 5, "each needs a 'key' of its own"},
      {"two nodes of one name", "node:\n  - {name: n1, address: \"10.0.0.1:1\", pool: w, key: a}\n"
                                "  - {name: n1, address: \"10.0.0.1:2\", pool: w, key: b}\nproxies: [\"10.0.0.1:9999\"]\n",
       3, "there is a node 'n1' already"},
      {"a name with a space", "node: {name: \"n 1\", address: \"10.0.0.1:1\", pool: web}\n" + rest, 1, "cannot name a node"},
      {"a host name", "node: {name: n1, address: \"www.example.com:443\", pool: web}\n" + rest, 1, "address"},
      {"a wildcard address", "node: {name: n1, address: \"0.0.0.0:443\", pool: web}\n" + rest, 1, "not an address that can be connected to"},
      {"a wildcard address of IPv6", "node: {name: n1, address: \"[::]:443\", pool: web}\n" + rest, 1, "not an address that can be connected to"},
      {"port 0", "node: {name: n1, address: \"10.0.0.1:0\", pool: web}\n" + rest, 1, "port"},
      {"a pool that cannot be named", "node: {name: n1, address: \"10.0.0.1:1\", pool: \"a b\"}\n" + rest, 1, "pool"},
      {"no pool at all", "node: {name: n1, address: \"10.0.0.1:1\", pool: []}\n" + rest, 1, "pool"},
      {"17 pools", "node: {name: n1, address: \"10.0.0.1:1\", pool: [a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q]}\n" + rest, 1, "pool"},
      {"a weight over 1000", "node: {name: n1, address: \"10.0.0.1:1\", pool: web, weight: 1001}\n" + rest, 1, "weight"},
      {"a proxy on a unix socket", "node: {name: n1, address: \"10.0.0.1:1\", pool: web, key: k}\nproxies: [\"unix:/x\"]\n", 2, "beacons go over UDP"},
      {"an unknown key", small + "probes: {}\n", 4, "probes"},
      {"an unknown node in a probe", small + "probe: {node: n7}\n", 4, "there is no node 'n7'"},
      {"a probe of nobody", two + "probe: {sni: a.example}\n", 5, "say which one this is about"},
      {"a wildcard name", small + "probe: {sni: \"*.example\"}\n", 4, "a name that a client would send"},
      {"an unknown version", small + "probe: {versions: [\"1.1\"]}\n", 4, "\"1.2\" and \"1.3\""},
      {"no version", small + "probe: {versions: []}\n", 4, "versions"},
      {"a key without a certificate", small + "probe: {client_key: k}\n", 4, "without 'client_certificate'"},
      {"an unknown format", small + "ticket_key_files: [{path: x, format: iis}]\n", 4, "format"},
      {"a key file without a path", small + "ticket_key_files: [{format: nginx}]\n", 4, "path"},
      {"a key file of nobody", two + "ticket_key_files: [x]\n", 5, "say which one this is about"},
      {"a relative socket", small + "feeds: {syslog: x.sock}\n", 4, "absolute path"},
      {"a socket's path that is too long", small + "feeds: {syslog: /" + std::string(107, 'x') + "}\n", 4, "at most 107 bytes"},
      {"one socket for two feeds", small + "feeds: {syslog: /run/x, tokens: /run/x}\n", 4, "used twice"},
      {"two feeds for a node", small + "feeds: [{syslog: /run/x}, {tokens: /run/y}]\n", 4, "has feeds already"},
      {"feeds without a feed", small + "feeds: {group: www-data}\n", 4, "no feed is named"},
      {"a log level that there is not", small + "log: {level: loud}\n", 4, "level"},
      {"a log format that there is not", small + "log: {format: xml}\n", 4, "format"},
      {"a time to live over a week", small + "feeds: {tokens: /run/y, ttl: 8d}\n", 4, "ttl"},
      {"beacons too fast", small + "beacon: {every: 1ms}\n", 4, "every"},
      {"a number for a duration", small + "probe: {every: 60}\n", 4, "every"},
      {"a list of feeds that is a word", small + "feeds: yes\n", 4, "feeds"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    const auto config = ParseAgentConfig(row.yaml, "a.yaml");
    ASSERT_FALSE(config.ok());
    const std::string all(config.status().message());
    const std::string place = "a.yaml:" + std::to_string(row.line) + ":";
    std::istringstream lines(all);
    bool found = false;
    for (std::string line; std::getline(lines, line);) found |= line.starts_with(place) && line.find(row.words) != std::string::npos;
    EXPECT_TRUE(found) << "wanted " << place << " … " << row.words << ", got\n" << all;
  }
}

TEST(AgentConfiguration, AllMistakesAreToldAtOnce) {
  const auto config = ParseAgentConfig("node: {name: n1, weight: x}\nproxies: [here]\nbeacon: {often: 1s}\n", "a.yaml");
  ASSERT_FALSE(config.ok());
  const std::string all(config.status().message());
  for (const char* words : {"address", "pool", "weight", "keygen", "a.yaml:2:", "often"}) EXPECT_THAT(all, HasSubstr(words));
}

}  // namespace
}  // namespace hud
