// hudsucker.yaml: what each bad file is told, at which line; what a good one means; what a reload may not change.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "control/config/compare.h"
#include "control/config/configuration.h"
#include "control/config/quick_start.h"
#include "control/config/validate.h"

namespace hud {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kGood[] = R"(workers: 2
listeners:
  - name: tls
    bind: "127.0.0.1:443"
    routes:
      - {sni: www.example.com, pool: web}
    default_pool: web
pools:
  - name: web
    nodes:
      - {name: n1, address: "10.0.0.1:8443"}
      - {name: n2, address: "10.0.0.2:8443"}
)";

std::vector<std::string> ErrorsOf(const std::string& text) {
  const absl::StatusOr<Configuration> configuration = ParseConfiguration(text, "f");
  if (configuration.ok()) return {};
  return absl::StrSplit(configuration.status().message(), '\n');
}

// kGood with one piece of its text replaced.
std::string Spoiled(const std::string& from, const std::string& to) {
  std::string text = kGood;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

struct BadRow {
  const char* name;
  std::string text;
  const char* place;  // "f:LINE:"
  const char* says;
};

TEST(Configuration, EachFaultOfAFileIsOneErrorAtItsLine) {
  const std::string node1 = R"({name: n1, address: "10.0.0.1:8443"})";
  const std::string node2 = R"({name: n2, address: "10.0.0.2:8443"})";
  const auto with = [](const std::string& more) { return std::string(kGood) + more; };
  const BadRow rows[] = {
      // The process.
      {"workers is a word", Spoiled("workers: 2", "workers: many"), "f:1:10:", "neither 'auto' nor a number"},
      {"workers is 0", Spoiled("workers: 2", "workers: 0"), "f:1:", "from 1 to 64"},
      {"more workers than the limit", Spoiled("workers: 2", "workers: 65"), "f:1:", "from 1 to 64"},
      {"workers is negative", Spoiled("workers: 2", "workers: -1"), "f:1:", "from 1 to 64"},
      {"an unknown key at the top", Spoiled("workers: 2", "worker: 2"),
       "f:1:1:", "unknown key 'worker'; did you mean 'workers'?"},
      {"a key of another program", with("proxies: []\n"), "f:13:1:", "unknown key 'proxies'; known here: 'workers'"},
      {"more connections than any process can have", with("max_connections: 90000000\n"),
       "f:13:", "need 180000000 descriptors"},
      {"no connection at all", with("max_connections: 0\n"), "f:13:", "from 1"},
      {"a state folder that moves with the process", with("state_dir: state\n"), "f:13:", "not an absolute path"},
      {"a command socket without a path", with("command_socket: {}\n"), "f:13:", "'path' is missing"},
      {"a command socket as a plain path", with("command_socket: /run/x\n"), "f:13:", "is a single value; write a map"},
      {"a command socket whose path is too long", with("command_socket: {path: /" + std::string(120, 'x') + "}\n"),
       "f:13:", "too long"},
      {"an empty user", with("user: \"\"\n"), "f:13:", "is empty"},
      {"a section without anything", with("timeouts:\n"), "f:13:", "has no value"},
      // Listeners.
      {"no listeners", "pools: [{name: web, nodes: [{name: a, address: \"1.2.3.4:5\"}]}]\n",
       "f:1:1:", "there are no listeners; add one"},
      {"an empty list of listeners",
       "listeners: []\npools: [{name: web, nodes: [{name: a, address: \"1.2.3.4:5\"}]}]\n",
       "f:1:", "listeners: there are no listeners"},
      {"listeners is a map", "listeners: {name: x}\npools: [{name: web, nodes: [{name: a, address: \"1.2.3.4:5\"}]}]\n",
       "f:1:12:", "is a map; write a list"},
      {"a listener without a name", Spoiled("  - name: tls\n    bind", "  - bind"), "f:3:5:", "'name' is missing"},
      {"a listener's name with a blank", Spoiled("name: tls", "name: \"t l s\""), "f:3:", "is no name"},
      {"a listener without an address", Spoiled("    bind: \"127.0.0.1:443\"\n", ""), "f:3:", "'bind' is missing"},
      {"a listener on a unix socket", Spoiled("127.0.0.1:443", "unix:/run/x"),
       "f:4:", "'unix:/run/x' is a unix socket; a listener needs an IP address and a port"},
      {"a listener without a port", Spoiled("127.0.0.1:443", "127.0.0.1:0"), "f:4:", "names no port"},
      {"beacons without a port", with("beacons: {bind: \"127.0.0.1:0\", keys: /k}\n"), "f:13:", "names no port"},
      {"a status host with its port", with("status: {bind: \"127.0.0.1:1\", hosts: [\"a.example:9180\"]}\n"),
       "f:13:39:", "write the host name alone, without a port"},
      {"a status host with a star", with("status: {bind: \"127.0.0.1:1\", hosts: \"*.example\"}\n"), "f:13:", "has a star"},
      {"a status host that is no name", with("status: {bind: \"127.0.0.1:1\", hosts: a_/b}\n"), "f:13:", "a_/b"},
      {"a status address without a port", with("status: {bind: \"127.0.0.1:0\"}\n"), "f:13:", "names no port"},
      {"bind is a name", Spoiled("127.0.0.1:443", "localhost:443"),
       "f:4:11:", "'localhost' is a name; addresses are numeric"},
      {"bind has no port", Spoiled("127.0.0.1:443", "127.0.0.1"), "f:4:", "has no port"},
      {"bind is an empty list", Spoiled("\"127.0.0.1:443\"", "[]"), "f:4:", "empty list"},
      {"the same address twice in a list", Spoiled("\"127.0.0.1:443\"", "[\"127.0.0.1:443\", \"127.0.0.1:443\"]"),
       "f:4:29:", "in this list already"},
      {"a wildcard over an address of the same list",
       Spoiled("\"127.0.0.1:443\"", "[\"127.0.0.1:443\", \"0.0.0.0:443\"]"),
       "f:4:29:", "is taken by '127.0.0.1:443' of listener 'tls' at line 4"},
      {"the dual-stack wildcard over IPv4's", Spoiled("\"127.0.0.1:443\"", "[\"0.0.0.0:443\", \"[::]:443\"]"),
       "f:4:", "'[::]' serves IPv4, too"},
      {"a mapped address that is an IPv4 address",
       Spoiled("\"127.0.0.1:443\"", "[\"127.0.0.1:443\", \"[::ffff:127.0.0.1]:443\"]"),
       "f:4:", "'127.0.0.1:443' is in this list already"},
      {"the status page on a listener's address", with("status: {bind: \"127.0.0.1:443\"}\n"),
       "f:13:", "is taken by '127.0.0.1:443' of listener 'tls' at line 4"},
      {"two listeners of one name",
       Spoiled("pools:", "  - {name: tls, bind: \"1.1.1.1:1\", default_pool: web}\npools:"),
       "f:8:12:", "there is a listener 'tls' already at line 3"},
      {"two listeners of one address",
       Spoiled("pools:", "  - {name: b, bind: \"127.0.0.1:443\", default_pool: web}\npools:"),
       "f:8:", "is taken by '127.0.0.1:443' of listener 'tls' at line 4"},
      {"a unix socket's path that is too long", Spoiled("127.0.0.1:443", "unix:/" + std::string(120, 'x')),
       "f:4:", "too long"},
      {"neither routes nor a default pool",
       Spoiled("    routes:\n      - {sni: www.example.com, pool: web}\n    default_pool: web\n", ""),
       "f:3:", "neither 'routes' nor 'default_pool'"},
      {"a default pool that is not there", Spoiled("default_pool: web", "default_pool: wep"),
       "f:7:19:", "there is no pool 'wep'; did you mean 'web'?"},
      {"a default pool far from any name", Spoiled("default_pool: web", "default_pool: backend"),
       "f:7:19:", "add it to 'pools'"},
      {"a hello deadline without a unit", Spoiled("    default_pool", "    hello: {deadline: 5}\n    default_pool"),
       "f:7:23:", "has no unit; write '5s'"},
      {"a hello deadline of nothing", Spoiled("    default_pool", "    hello: {deadline: 0s}\n    default_pool"),
       "f:7:", "from 10ms to 5m"},
      {"a hello cap below any hello", Spoiled("    default_pool", "    hello: {max_bytes: 100}\n    default_pool"),
       "f:7:24:", "from 512 to 256KiB"},
      {"a hello cap beyond the bound", Spoiled("    default_pool", "    hello: {max_bytes: 1MiB}\n    default_pool"),
       "f:7:", "from 512 to 256KiB"},
      {"a hello key that is misspelt", Spoiled("    default_pool", "    hello: {max_byte: 1KiB}\n    default_pool"),
       "f:7:13:", "did you mean 'max_bytes'?"},
      {"accept_proxy_protocol is a version",
       Spoiled("    default_pool", "    accept_proxy_protocol: v2\n    default_pool"), "f:7:", "'true' or 'false'"},
      {"accept_proxy_protocol is a list",
       Spoiled("    default_pool", "    accept_proxy_protocol: [10.0.0.0/8]\n    default_pool"), "f:7:28:", "write '{from: […]}'"},
      {"accept_proxy_protocol without networks",
       Spoiled("    default_pool", "    accept_proxy_protocol: {}\n    default_pool"), "f:7:28:", "'from' is missing; add it, the networks of the balancers"},
      {"accept_proxy_protocol from nobody",
       Spoiled("    default_pool", "    accept_proxy_protocol: {from: []}\n    default_pool"), "f:7:35:", "nobody could connect"},
      {"accept_proxy_protocol from a host with the bits of a network",
       Spoiled("    default_pool", "    accept_proxy_protocol: {from: [127.0.0.1, 10.0.0.1/8]}\n    default_pool"),
       "f:7:47:", "'10.0.0.1/8' has bits set behind its first 8; write '10.0.0.0/8' for the range"},
      {"accept_proxy_protocol from half a network",
       Spoiled("    default_pool", "    accept_proxy_protocol: {from: 10.0.0.0/33}\n    default_pool"),
       "f:7:35:", "number of fixed bits, from 0 to 32"},
      {"accept_proxy_protocol from a name",
       Spoiled("    default_pool", "    accept_proxy_protocol: {from: balancer.example}\n    default_pool"),
       "f:7:35:", "'balancer.example' is not an address range; write one like '10.0.0.0/8'"},
      {"accept_proxy_protocol from a unix socket",
       Spoiled("    default_pool", "    accept_proxy_protocol: {from: [\"unix:/run/x\"]}\n    default_pool"),
       "f:7:36:", "is not an address range"},
      {"accept_proxy_protocol with another key",
       Spoiled("    default_pool", "    accept_proxy_protocol: {from: 10.0.0.1, form: 10.0.0.2}\n    default_pool"), "f:7:45:", "did you mean 'from'?"},
      {"a backlog of 0", Spoiled("    default_pool", "    backlog: 0\n    default_pool"), "f:7:", "from 1 to 65535"},
      // Routes.
      {"a route to a pool that is not there", Spoiled("pool: web}", "pool: bank}"),
       "f:6:38:", "there is no pool 'bank'"},
      {"a route without a name", Spoiled("{sni: www.example.com, pool: web}", "{pool: web}"),
       "f:6:", "'sni' is missing"},
      {"a route without a pool", Spoiled("{sni: www.example.com, pool: web}", "{sni: www.example.com}"),
       "f:6:", "'pool' is missing"},
      {"a route with no names", Spoiled("sni: www.example.com", "sni: []"), "f:6:", "empty list"},
      {"a star for every name", Spoiled("www.example.com", "\"*\""), "f:6:15:", "default_pool"},
      {"a star that is not the first label", Spoiled("www.example.com", "www.*.com"), "f:6:", "whole first label"},
      {"the same name in two routes",
       Spoiled("    default_pool", "      - {sni: WWW.Example.Com, pool: web}\n    default_pool"),
       "f:7:15:", "remove one"},
      {"the same name twice in one route", Spoiled("sni: www.example.com", "sni: [www.example.com, www.example.com]"),
       "f:6:", "remove one"},
      {"the same name and ALPN in two routes",
       Spoiled("{sni: www.example.com, pool: web}",
               "{sni: a.example, alpn: [h2, x], pool: web}\n      - {sni: a.example, alpn: h2, pool: web}"),
       "f:7:15:", "\"h2\""},
      {"an ALPN name that is too long", Spoiled("pool: web}", "alpn: " + std::string(256, 'x') + ", pool: web}"),
       "f:6:", "255 bytes"},
      {"no ALPN names", Spoiled("pool: web}", "alpn: [], pool: web}"), "f:6:", "empty list"},
      // Pools and nodes.
      {"no pools", "listeners: [{name: tls, bind: \"1.2.3.4:5\", default_pool: web}]\n",
       "f:1:1:", "there are no pools; add one"},
      {"an empty list of pools", "listeners: [{name: tls, bind: \"1.2.3.4:5\", default_pool: web}]\npools: []\n",
       "f:2:", "pools: there are no pools"},
      {"two pools of one name", with("  - {name: web, nodes: [{name: x, address: \"1.2.3.4:5\"}]}\n"),
       "f:13:12:", "there is a pool 'web' already at line 9"},
      {"an unknown balance", Spoiled("    nodes:", "    balance: fastest\n    nodes:"),
       "f:10:14:", "'fastest' is not known here; write 'power_of_two', 'least_connections', 'round_robin' or 'maglev'"},
      {"a balance that is misspelt", Spoiled("    nodes:", "    balance: round-robin\n    nodes:"),
       "f:10:", "did you mean 'round_robin'?"},
      {"an unknown when_none", Spoiled("    nodes:", "    when_none: wait\n    nodes:"), "f:10:", "'close' or 'any'"},
      {"PROXY protocol v1 to the nodes", Spoiled("    nodes:", "    proxy_protocol: v1\n    nodes:"),
       "f:10:", "'off' or 'v2'"},
      {"a load bound below the mean", Spoiled("    nodes:", "    load_bound: 0.5\n    nodes:"),
       "f:10:", "from 1 to 100"},
      {"a health interval too short", Spoiled("    nodes:", "    health_interval: 1ms\n    nodes:"),
       "f:10:", "from 100ms to 1h"},
      {"nodes is a map", Spoiled("nodes:\n      - " + node1 + "\n      - " + node2, "nodes: {a: b}"),
       "f:10:12:", "is a map; write a list"},
      {"no nodes, and nobody can announce itself",
       Spoiled("nodes:\n      - " + node1 + "\n      - " + node2, "nodes: []"),
       "f:10:", "without 'beacons' none can announce itself"},
      {"a node without a name", Spoiled("name: n1, ", ""), "f:11:", "'name' is missing"},
      {"a node without an address", Spoiled(", address: \"10.0.0.1:8443\"", ""), "f:11:", "'address' is missing"},
      {"a node's name of another alphabet", Spoiled("name: n1", "name: nœud"), "f:11:", "is no name"},
      {"a node's name of 32 bytes", Spoiled("name: n1", "name: " + std::string(32, 'n')), "f:11:", "is no name"},
      {"two nodes of one name", Spoiled("name: n2", "name: n1"),
       "f:12:16:", "there is a node 'n1' already at line 11"},
      {"two nodes at one address", Spoiled("10.0.0.2", "10.0.0.1"), "f:12:29:", "is the address of node 'n1', too"},
      {"one node at two addresses", with("  - {name: b, nodes: [{name: n1, address: \"10.0.0.9:1\"}]}\n"),
       "f:13:", "node 'n1' is at 10.0.0.1:8443 at line 11"},
      {"a node by its host name", Spoiled("10.0.0.1:8443", "node1.example.com:8443"), "f:11:", "addresses are numeric"},
      {"a node without a port", Spoiled("10.0.0.1:8443", "10.0.0.1"), "f:11:", "has no port"},
      {"a node at port 0", Spoiled("10.0.0.1:8443", "10.0.0.1:0"), "f:11:", "has port 0"},
      {"a node's port beyond all ports", Spoiled("10.0.0.1:8443", "10.0.0.1:84430"), "f:11:", "is not a port"},
      {"a weight beyond the range", Spoiled("\"10.0.0.1:8443\"", "\"10.0.0.1:8443\", weight: 1001"),
       "f:11:", "from 0 to 1000"},
      {"a negative weight", Spoiled("\"10.0.0.1:8443\"", "\"10.0.0.1:8443\", weight: -1"), "f:11:", "from 0 to 1000"},
      {"a node that is this proxy", Spoiled("10.0.0.1:8443", "127.0.0.1:443"),
       "f:11:", "hudsucker would connect to itself"},
      {"a node that is a wildcard", Spoiled("10.0.0.1:8443", "0.0.0.0:443"), "f:11:", "no address of one machine"},
      {"a node that is a group", Spoiled("10.0.0.1:8443", "224.0.0.1:443"), "f:11:", "no address of one machine"},
      // The rest.
      {"beacons without an address", with("beacons: {keys: /k}\n"), "f:13:", "'bind' is missing"},
      {"beacons on a unix socket", with("beacons: {bind: \"unix:/x\", keys: /k}\n"), "f:13:", "UDP"},
      {"beacons of a short patience", with("beacons: {bind: \"1.2.3.4:5\", dead_after: 1ms}\n"),
       "f:13:", "from 100ms to 1h"},
      {"beacons on overlapping addresses", with("beacons: {bind: [\"1.2.3.4:5\", \"0.0.0.0:5\"]}\n"),
       "f:13:", "is taken by '1.2.3.4:5' of beacons.bind"},
      {"an affinity map of nothing", with("affinity: {capacity: 0}\n"), "f:13:", "from 1 to 100000000"},
      {"tokens that live for no time", with("affinity: {token_ttl: 0s}\n"), "f:13:", "from 1s"},
      {"a timeout that is a word", with("timeouts: {idle: soon}\n"), "f:13:18:", "'soon' is not a duration"},
      {"a negative timeout", with("timeouts: {idle: -3s}\n"), "f:13:18:", "'-3s' is not a duration"},
      {"a timeout that is misspelt", with("timeouts: {half-closed: 3s}\n"), "f:13:12:", "did you mean 'half_closed'?"},
      {"more attempts than the bound", with("dial: {attempts: 9}\n"), "f:13:", "from 1 to 3"},
      {"a relay mode that is none", with("relay: {mode: fast}\n"), "f:13:", "'auto', 'splice', 'copy' or 'zerocopy'"},
      {"a pipe too small for a page", with("relay: {pipe_bytes: 1KiB}\n"), "f:13:", "from 4KiB to 16MiB"},
      {"a log level that is none", with("log: {level: loud}\n"), "f:13:", "'debug', 'info', 'warning' or 'error'"},
      {"a log file that moves with the process", with("log: {file: x.log}\n"), "f:13:", "not an absolute path"},
      {"a sample above all", with("log: {access: {sample: 2}}\n"), "f:13:", "from 0 to 1"},
      {"status without an address", with("status: {}\n"), "f:13:", "'bind' is missing"},
  };
  for (const BadRow& row : rows) {
    SCOPED_TRACE(absl::StrCat(row.name, "\n", row.text));
    const std::vector<std::string> errors = ErrorsOf(row.text);
    ASSERT_THAT(errors, SizeIs(1));
    EXPECT_TRUE(absl::StartsWith(errors[0], row.place)) << errors[0];
    EXPECT_THAT(errors[0], HasSubstr(row.says));
  }
}

TEST(Configuration, AllFaultsAreToldAtOnceInTheOrderOfTheFile) {
  const std::vector<std::string> errors = ErrorsOf(R"(workers: many
listeners:
  - name: tls
    bind: "localhost:443"
    default_pool: nowhere
    helo: {deadline: 5s}
pools:
  - name: web
    balance: fastest
    nodes: [{name: n1, address: "10.0.0.1"}, {name: n1, address: "10.0.0.2:1", weight: 5000}]
timeouts: {idle: -3s}
)");
  std::vector<std::string> lines;
  for (const std::string& error : errors) lines.push_back(std::vector<std::string>(absl::StrSplit(error, ':'))[1]);
  EXPECT_THAT(lines, ElementsAre("1", "4", "5", "6", "9", "10", "10", "10", "11"));
}

TEST(Configuration, NoErrorFollowsFromAnother) {
  // The pools are wrong as a whole: that no route finds its pool is no news.
  EXPECT_THAT(ErrorsOf("listeners: [{name: tls, bind: \"1.2.3.4:5\", default_pool: web}]\npools: web\n"), SizeIs(1));
  EXPECT_THAT(ErrorsOf("listeners: [\n"), SizeIs(1));
  EXPECT_THAT(ErrorsOf("- 1\n- 2\n"), SizeIs(1));
  EXPECT_THAT(ErrorsOf("just words\n"), SizeIs(1));
}

TEST(Configuration, AnEmptyFileSaysWhatIsMissing) {
  const std::vector<std::string> errors = ErrorsOf("");
  ASSERT_THAT(errors, SizeIs(2));
  EXPECT_THAT(errors[0], HasSubstr("there are no pools"));
  EXPECT_THAT(errors[1], HasSubstr("there are no listeners"));
}

TEST(Configuration, AMissingFileIsNamed) {
  const auto configuration = LoadConfiguration("/nowhere/hudsucker.yaml");
  ASSERT_FALSE(configuration.ok());
  EXPECT_THAT(std::string(configuration.status().message()), HasSubstr("/nowhere/hudsucker.yaml: cannot be opened"));
}

TEST(Configuration, WhatIsNotInTheFileHasItsDefault) {
  const auto configuration = ParseConfiguration(kGood, "f");
  ASSERT_TRUE(configuration.ok()) << configuration.status();
  const ClusterConfig& cluster = configuration->cluster;
  EXPECT_EQ(configuration->workers, 2U);
  EXPECT_FALSE(configuration->max_connections);
  EXPECT_EQ(configuration->relay.mode, RelayMode::kAuto);
  EXPECT_THAT(configuration->status, IsEmpty());
  EXPECT_EQ(cluster.timeouts, Timeouts());
  EXPECT_EQ(cluster.affinity, AffinityConfig());
  EXPECT_EQ(cluster.beacons, BeaconConfig());
  ASSERT_THAT(cluster.listeners, SizeIs(1));
  EXPECT_EQ(cluster.listeners[0].hello_deadline, 5s);
  EXPECT_EQ(cluster.listeners[0].hello_max_bytes, 32U * 1024);
  EXPECT_EQ(cluster.listeners[0].default_pool, "web");
  ASSERT_THAT(cluster.pools, SizeIs(1));
  ASSERT_THAT(cluster.pools[0].nodes, SizeIs(2));
  EXPECT_EQ(cluster.pools[0].nodes[1].name, "n2");
  EXPECT_EQ(cluster.pools[0].nodes[1].address.ToString(), "10.0.0.2:8443");
  EXPECT_EQ(cluster.pools[0].nodes[1].weight, 100);
}

TEST(Configuration, EveryKeyArrivesWhereItBelongs) {
  const auto configuration = ParseConfiguration(R"(
workers: 3
max_connections: 10
user: someone
sandbox: false
watchdog: {after: 3s, end: true}
state_dir: /var/tmp/x
listeners:
  - name: a
    bind: ["1.2.3.4:1", "1.2.3.5:1"]
    hello: {deadline: 1s, max_bytes: 64KiB}
    backlog: 7
    defer_accept: false
    quick_ack: true
    accept_proxy_protocol: {from: [10.0.0.0/8, "2001:db8::/32", 192.0.2.7]}
    routes: [{sni: [A.Example, "*.B.example"], alpn: h2, pool: p}]
pools:
  - {name: p, balance: maglev, when_none: any, proxy_protocol: v2, load_bound: 2.5, load_bound_floor: 3, slow_start: 4s, check: tls, health_interval: 6s, eject: {after: 7, mute: 8s, time: 9s, share: 0.25}}
beacons: {bind: "[::]:9", keys: keys, dead_after: 8s}
affinity: {capacity: 9, token_ttl: 10s}
timeouts: {connect: 11s, idle: 12s, half_closed: 13s, drain: 14s, drain_grace: 17s}
dial: {attempts: 2, fall: 5}
relay: {mode: copy, pipe_bytes: 64KiB, pipes: 15, hello_budget: 1MiB}
status: {bind: ["127.0.0.1:16", "[::1]:16"], hosts: [Proxy1.Example, b.example.]}
command_socket: {path: /run/c}
log: {level: warning, format: json, file: /var/log/x, access: {enabled: false, sample: 0.25}}
)",
                                                "f");
  ASSERT_TRUE(configuration.ok()) << configuration.status();
  EXPECT_EQ(configuration->workers, 3U);
  EXPECT_EQ(configuration->max_connections, 10U);
  EXPECT_EQ(configuration->user, "someone");
  EXPECT_FALSE(configuration->sandbox);
  EXPECT_EQ(configuration->watchdog.after, 3s);
  EXPECT_TRUE(configuration->watchdog.end);
  EXPECT_EQ(configuration->state_dir, "/var/tmp/x");
  const ListenerConfig& listener = configuration->cluster.listeners.at(0);
  EXPECT_THAT(listener.bind, SizeIs(2));
  EXPECT_EQ(listener.hello_deadline, 1s);
  EXPECT_EQ(listener.hello_max_bytes, 65536U);
  EXPECT_EQ(listener.backlog, 7);
  EXPECT_FALSE(listener.defer_accept);
  EXPECT_TRUE(listener.quick_ack);
  EXPECT_TRUE(listener.accept_proxy_protocol.enabled);
  EXPECT_THAT(listener.accept_proxy_protocol.from, SizeIs(3));
  EXPECT_EQ(listener.accept_proxy_protocol.from[2].ToString(), "192.0.2.7/32");
  EXPECT_EQ(listener.default_pool, "");
  EXPECT_THAT(listener.routes.at(0).sni, ElementsAre("a.example", "*.b.example"));
  EXPECT_THAT(listener.routes.at(0).alpn, ElementsAre("h2"));
  EXPECT_EQ(listener.routes.at(0).pool, "p");
  const PoolConfig& pool = configuration->cluster.pools.at(0);
  EXPECT_EQ(pool.balance, Balance::kMaglev);
  EXPECT_EQ(pool.when_none, WhenNone::kAny);
  EXPECT_EQ(pool.proxy_protocol, ProxyProtocol::kV2);
  EXPECT_EQ(pool.load_bound, 2.5);
  EXPECT_EQ(pool.load_bound_floor, 3U);
  EXPECT_EQ(pool.slow_start, 4s);
  EXPECT_EQ(pool.check, NodeCheck::kTls);
  EXPECT_EQ(pool.eject, (EjectConfig{.after = 7, .mute = 8s, .time = 9s, .share = 0.25}));
  EXPECT_EQ(pool.health_interval, 6s);
  const BeaconConfig& beacons = configuration->cluster.beacons;
  EXPECT_EQ(beacons.bind.at(0).ToString(), "[::]:9");
  EXPECT_EQ(beacons.keys_path, "keys");
  EXPECT_EQ(beacons.dead_after, 8s);
  EXPECT_EQ(configuration->cluster.affinity.capacity, 9U);
  EXPECT_EQ(configuration->cluster.affinity.token_ttl, 10s);
  const Timeouts& timeouts = configuration->cluster.timeouts;
  EXPECT_EQ(timeouts.connect, 11s);
  EXPECT_EQ(timeouts.idle, 12s);
  EXPECT_EQ(timeouts.half_closed, 13s);
  EXPECT_EQ(timeouts.drain, 14s);
  EXPECT_EQ(configuration->cluster.dial_attempts, 2U);
  EXPECT_EQ(configuration->cluster.fall, 5U);
  EXPECT_EQ(configuration->relay.mode, RelayMode::kCopy);
  EXPECT_EQ(configuration->relay.pipe_bytes, 65536U);
  EXPECT_EQ(configuration->relay.pipes, 15U);
  EXPECT_EQ(configuration->relay.hello_budget_bytes, 1U << 20);
  EXPECT_THAT(configuration->status, SizeIs(2));
  EXPECT_THAT(configuration->status_hosts, ElementsAre("proxy1.example", "b.example"));
  EXPECT_EQ(configuration->command_socket, "/run/c");
  EXPECT_EQ(configuration->log.level, LogLevel::kWarning);
  EXPECT_EQ(configuration->log.format, LogFormat::kJson);
  EXPECT_EQ(configuration->log.file, "/var/log/x");
  EXPECT_FALSE(configuration->log.access.enabled);
  EXPECT_EQ(configuration->log.access.sample, 0.25);
}

TEST(Configuration, AddressesThatDoNotOverlapAreNoConflict) {
  EXPECT_THAT(ErrorsOf(Spoiled("\"127.0.0.1:443\"", "[\"0.0.0.0:443\", \"[::1]:443\"]")), IsEmpty());
  EXPECT_THAT(ErrorsOf(Spoiled("\"127.0.0.1:443\"", "[\"127.0.0.1:443\", \"127.0.0.2:443\", \"127.0.0.1:444\"]")),
              IsEmpty());
  EXPECT_THAT(ErrorsOf(std::string(kGood) + "beacons: {bind: \"127.0.0.1:443\"}\n"), IsEmpty())
      << "UDP and TCP have their own ports";
}

// ---- The files in deploy/ -------------------------------------------------------------------------------------------

std::filesystem::path Deploy() { return std::filesystem::path(HUD_SOURCE_DIR) / "deploy"; }

TEST(ExampleFiles, AreRight) {
  const Configuration commented = *[] {
    auto configuration = LoadConfiguration((Deploy() / "hudsucker.yaml").string());
    EXPECT_TRUE(configuration.ok()) << configuration.status();
    return configuration;
  }();
  EXPECT_EQ(commented.cluster.pools.size(), 2U);
  size_t examples = 0;
  for (const auto& file : std::filesystem::directory_iterator(Deploy() / "examples")) {
    if (absl::StartsWith(file.path().filename().string(), "agent")) continue;
    EXPECT_TRUE(LoadConfiguration(file.path().string()).ok()) << LoadConfiguration(file.path().string()).status();
    ++examples;
  }
  EXPECT_GE(examples, 3U);
}

bool IsKeyByte(char c) { return (c >= 'a' && c <= 'z') || c == '_'; }

// "  # idle: 10m" → "  idle: 10m", if the comment is a key; the line as it is, if it is a sentence.
std::string Uncommented(const std::string& line) {
  const size_t mark = line.find_first_not_of(' ');
  if (mark == line.npos || line.compare(mark, 2, "# ") != 0) return line;
  size_t at = line.find_first_not_of(' ', mark + 2);
  const size_t key = at;
  while (at < line.size() && IsKeyByte(line[at])) ++at;
  return at > key && at < line.size() && line[at] == ':' ? line.substr(0, mark) + line.substr(mark + 2) : line;
}

std::string WithDefaultsWritten() {
  std::ifstream file(Deploy() / "hudsucker.yaml");
  std::string text;
  for (std::string line; std::getline(file, line);) absl::StrAppend(&text, Uncommented(line), "\n");
  return text;
}

// The words in single quotes behind "known here: ".
std::vector<std::string> KnownIn(const std::string& error) {
  std::vector<std::string> words;
  for (const auto list = error.substr(error.find("known here: ") + 12);
       absl::string_view part : absl::StrSplit(list, ", ")) {
    words.emplace_back(part.substr(1, part.size() - 2));
  }
  return words;
}

TEST(ExampleFiles, TheCommentsOfTheFullOneAreTheDefaults) {
  const auto with = ParseConfiguration(WithDefaultsWritten(), "uncommented");
  ASSERT_TRUE(with.ok()) << with.status();
  const auto without = LoadConfiguration((Deploy() / "hudsucker.yaml").string());
  ASSERT_TRUE(without.ok());
  EXPECT_TRUE(with->cluster == without->cluster);
  EXPECT_EQ(with->workers, without->workers);
  EXPECT_EQ(with->state_dir, without->state_dir);
  EXPECT_EQ(with->relay.mode, without->relay.mode);
  EXPECT_EQ(with->relay.pipe_bytes, without->relay.pipe_bytes);
  EXPECT_EQ(with->relay.hello_budget_bytes, without->relay.hello_budget_bytes);
  EXPECT_EQ(with->log.level, without->log.level);
  EXPECT_EQ(with->log.format, without->log.format);
  EXPECT_EQ(with->log.access.enabled, without->log.access.enabled);
  EXPECT_EQ(with->log.access.sample, without->log.access.sample);
  EXPECT_EQ(with->max_connections, 20000U) << "the lines that are comments were not read";
}

TEST(ExampleFiles, TheFullOneNamesEveryKeyThereIs) {
  // An unknown key at each level is answered with all that are known there; each of them must be in the file.
  std::string text = WithDefaultsWritten();
  for (const char* section : {"hello:\n", "timeouts:\n", "dial:\n", "relay:\n", "affinity:\n", "beacons:  "}) {
    EXPECT_THAT(text, HasSubstr(std::string(section).substr(0, std::string(section).find(':') + 1)));
  }
  const std::string spoiled =
      std::string(kGood) +
      "zzzzzzzz: 1\nbeacons: {bind: \"1.2.3.4:5\", zzzzzzzz: 1}\naffinity: {zzzzzzzz: 1}\ntimeouts: {zzzzzzzz: 1}\n"
      "dial: {zzzzzzzz: 1}\nrelay: {zzzzzzzz: 1}\nstatus: {bind: \"1.2.3.4:5\", zzzzzzzz: 1}\nlog: {zzzzzzzz: 1, "
      "access: {zzzzzzzz: 1}}\n";
  std::vector<std::string> errors = ErrorsOf(spoiled);
  EXPECT_THAT(errors, SizeIs(9));
  for (const std::string& more :
       {Spoiled("workers: 2", "workers: 2"),
        Spoiled("    default_pool", "    zzzzzzzz: 1\n    hello: {zzzzzzzz: 1}\n    default_pool"),
        Spoiled("pool: web}", "pool: web, zzzzzzzz: 1}"), Spoiled("    nodes:", "    zzzzzzzz: 1\n    nodes:"),
        Spoiled("{name: n1", "{zzzzzzzz: 1, name: n1")}) {
    for (std::string& error : ErrorsOf(more)) errors.push_back(std::move(error));
  }
  EXPECT_THAT(errors, SizeIs(14));
  size_t keys = 0;
  for (const std::string& error : errors) {
    for (const std::string& key : KnownIn(error)) {
      EXPECT_THAT(text, HasSubstr(key + ":"));
      ++keys;
    }
  }
  EXPECT_GT(keys, 50U);
}

TEST(ExampleFiles, TheFullOneSaysTheLimits) {
  std::ifstream file(Deploy() / "hudsucker.yaml");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  EXPECT_THAT(text, HasSubstr(absl::StrCat("# Limits: ", limits::kMaxWorkers, " workers, ", limits::kMaxListeners, " listeners, ",
                                           limits::kMaxRoutes, " server names a listener, ", limits::kMaxPools, " pools, ",
                                           limits::kMaxNodes, " nodes, a file of 1 MiB.")));
}

TEST(Configuration, TooManyNamesAreOneError) {
  std::string names;
  for (int i = 0; i < 20'000; ++i) absl::StrAppend(&names, i == 0 ? "" : ", ", "n", i, ".example.com");
  const std::vector<std::string> errors =
      ErrorsOf("listeners: [{name: tls, bind: \"127.0.0.1:443\", routes: [{sni: [" + names + "], pool: web}]}]\n" +
               "pools: [{name: web, nodes: [{name: a, address: \"1.2.3.4:5\"}]}]\n");
  ASSERT_THAT(errors, SizeIs(1));
  EXPECT_THAT(errors[0], HasSubstr("at most 4096 names"));
}

TEST(Configuration, WhatYamlTakesForSomethingElseIsToBeQuoted) {
  const std::string pools = "pools: [{name: web, nodes: [{name: a, address: \"1.2.3.4:5\"}]}]\n";
  struct Row {
    std::string text;
    const char* says;
  };
  const Row rows[] = {
      {"listeners: [{name: tls, bind: \"127.0.0.1:443\", routes: [{sni: *.example.com, pool: web}]}]\n" + pools,
       "f:1:63: *.example.com means something else in YAML; quote it: \"*.example.com\""},
      {"listeners:\n  - name: tls\n    bind: \"127.0.0.1:443\"\n    routes:\n      - sni: [a.example, *.b.example]\n        pool: web\n" +
           pools, "f:5:26: *.b.example means"},
      {"listeners:\n  - name: tls\n    bind: [::]:443\n    default_pool: web\n" + pools,
       "f:3:11: [::]:443 means something else in YAML; quote it: \"[::]:443\""},
      {"listeners: [{name: tls, bind: [2001:db8::1]:443, default_pool: web}]\n" + pools, "quote it: \"[2001:db8::1]:443\""},
      {"listeners:\n  - name: tls\n    bind:\n      - [::]:443\n    default_pool: web\n" + pools, "f:4:9: [::]:443 means"},
  };
  for (const Row& row : rows) {
    const std::vector<std::string> errors = ErrorsOf(row.text);
    ASSERT_FALSE(errors.empty()) << row.text;
    EXPECT_THAT(errors[0], HasSubstr(row.says));
  }
}

// ---- Quick start ----------------------------------------------------------------------------------------------------

TEST(QuickStart, OneListenerAndOnePool) {
  const auto configuration = QuickStart({"127.0.0.1:4433", "[::1]:4433"}, {"10.0.0.1:1", "unix:/run/x"}, "127.0.0.1:9180");
  ASSERT_TRUE(configuration.ok()) << configuration.status();
  ASSERT_THAT(configuration->cluster.listeners, SizeIs(1));
  EXPECT_THAT(configuration->cluster.listeners[0].bind, SizeIs(2));
  EXPECT_EQ(configuration->cluster.listeners[0].default_pool, configuration->cluster.pools.at(0).name);
  ASSERT_THAT(configuration->cluster.pools[0].nodes, SizeIs(2));
  EXPECT_EQ(configuration->cluster.pools[0].nodes[0].name, "n1");
  EXPECT_EQ(configuration->cluster.pools[0].nodes[1].name, "n2");
  EXPECT_THAT(configuration->cluster.beacons.bind, IsEmpty());
  ASSERT_THAT(configuration->status, SizeIs(1));
}

TEST(QuickStart, EachFaultIsTold) {
  struct Row {
    const char* name;
    std::vector<std::string> listen, nodes;
    std::vector<const char*> says;
    std::string status = "";
  };
  const Row rows[] = {
      {"nothing", {}, {}, {"--listen is missing", "--node is missing"}},
      {"names", {"localhost:1"}, {"example.com:1"}, {"--listen: 'localhost:1'", "--node: 'example.com:1'"}},
      {"the same node twice", {"127.0.0.1:1"}, {"10.0.0.1:1", "10.0.0.1:1"}, {"--node: '10.0.0.1:1' is the address of node 'n1', too"}},
      {"overlapping listeners", {"127.0.0.1:1", "0.0.0.0:1"}, {"10.0.0.1:1"}, {"--listen: '0.0.0.0:1' is taken by '127.0.0.1:1' of listener 'tls' (--listen)"}},
      {"a node that is the listener", {"127.0.0.1:1"}, {"127.0.0.1:1"}, {"connect to itself"}},
      {"a node behind the listener's wildcard", {"[::]:1"}, {"127.0.0.1:1"}, {"connect to itself"}},
      {"a node at port 0", {"127.0.0.1:1"}, {"127.0.0.1:0"}, {"--node: '127.0.0.1:0' has port 0"}},
      {"a listener at port 0", {"127.0.0.1:0"}, {"10.0.0.1:1"}, {"--listen: '127.0.0.1:0' names no port"}},
      {"a listener on a unix socket", {"unix:/run/x"}, {"10.0.0.1:1"}, {"a listener needs an IP address and a port"}},
      {"several nodes in one", {"127.0.0.1:1"}, {"10.0.0.1:1,10.0.0.2:2"},
       {"write --node once for each: --node 10.0.0.1:1 --node 10.0.0.2:2"}},
      {"a URL", {"127.0.0.1:1"}, {"https://10.0.0.1:1"}, {"like '10.0.0.1:1'"}},
      {"a port alone", {"29100"}, {"10.0.0.1:1"}, {"write '127.0.0.1:29100', or '[::]:29100'"}},
      {"the status address is the listener's", {"[::]:1"}, {"10.0.0.1:1"},
       {"--status: '127.0.0.1:1' is taken by '[::]:1' of listener 'tls' (--listen)"}, "127.0.0.1:1"},
      {"a status address without a port", {"127.0.0.1:1"}, {"10.0.0.1:1"}, {"--status: '9180'"}, "9180"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    const auto configuration = QuickStart(row.listen, row.nodes, row.status);
    ASSERT_FALSE(configuration.ok());
    const std::vector<std::string> errors = absl::StrSplit(configuration.status().message(), '\n');
    ASSERT_EQ(errors.size(), row.says.size()) << configuration.status();
    for (size_t i = 0; i < errors.size(); ++i) EXPECT_THAT(errors[i], HasSubstr(row.says[i]));
  }
}

TEST(CommandLine, SaysWhatToWriteInstead) {
  struct Row {
    std::vector<std::string> arguments;
    const char* says;  // "": nothing
  };
  const Row rows[] = {
      {{"--listn", "127.0.0.1:1"}, "there is no option --listn; did you mean --listen?"},
      {{"--listen", "127.0.0.1:1", "--nodes", "10.0.0.1:1"}, "no option --nodes; did you mean --node?"},
      {{"--listen=127.0.0.1:1", "--nodes=10.0.0.1:1"}, "no option --nodes; did you mean --node?"},
      {{"-config", "x"}, "did you mean --config?"},
      {{"-c", "x"}, "there is no option -c; write --config FILE"},
      {{"-t", "x"}, "write --check FILE"},
      {{"-v"}, "write --version"},
      {{"-V"}, "write --version"},
      {{"hudsucker.yaml"}, "write --config hudsucker.yaml"},
      {{"--zzz"}, "there is no option --zzz"},
      {{"--listen", "127.0.0.1:1", "--node", "10.0.0.1:1", "10.0.0.2:1"}, ""},
      {{"-h"}, ""},
      {{"--config=x"}, ""},
      {{}, ""},
  };
  for (const Row& row : rows) {
    const std::string says = ExplainArguments(row.arguments);
    EXPECT_EQ(says.empty(), *row.says == '\0') << says;
    EXPECT_THAT(says, HasSubstr(row.says));
  }
}

// ---- Reload ---------------------------------------------------------------------------------------------------------

TEST(Reload, WhatNeedsARestartIsNamedWithItsPlaceAndAllElseIsTaken) {
  struct Row {
    const char* name;
    std::string next;
    std::vector<const char*> says;  // empty: a reload can do it
  };
  const auto with = [](const std::string& more) { return std::string(kGood) + more; };
  const Row rows[] = {
      {"nothing", kGood, {}},
      {"a comment more", with("# x\n"), {}},
      {"another node", Spoiled("10.0.0.2", "10.0.0.3"), {}},
      {"another pool and route", with("  - {name: b, nodes: [{name: x, address: \"1.2.3.4:5\"}]}\n"), {}},
      {"another timeout", with("timeouts: {idle: 1s}\n"), {}},
      {"another hello deadline", Spoiled("    default_pool", "    hello: {deadline: 1s}\n    default_pool"), {}},
      {"another token lifetime", with("affinity: {token_ttl: 1m}\n"), {}},
      {"other dialing", with("dial: {attempts: 1, fall: 9}\n"), {}},
      {"another watchdog", with("watchdog: {after: 1s, end: true}\n"), {}},
      {"workers", Spoiled("workers: 2", "workers: 4"), {"f:1: workers: from 2 to 4 needs a restart"}},
      {"workers no longer said", Spoiled("workers: 2\n", ""), {"f: workers: from 2 to auto needs a restart"}},
      {"max_connections", with("max_connections: 10\n"), {"f:13: max_connections: from auto to 10 needs a restart"}},
      {"max_connections_per_source", with("max_connections_per_source: 10\n"),
       {"f:13: max_connections_per_source: from 0 to 10 needs a restart"}},
      {"user", with("user: x\n"), {"f:13: user: from none to 'x' needs a restart"}},
      {"sandbox", with("sandbox: false\n"), {"f:13: sandbox: from true to false needs a restart"}},
      {"bind",
       Spoiled("127.0.0.1:443", "127.0.0.1:444"),
       {"f:4: listeners.tls.bind: from 127.0.0.1:443 to 127.0.0.1:444 needs a restart"}},
      {"a listener of another name",
       Spoiled("name: tls", "name: other"),
       {"f:4: listeners.other.bind: 127.0.0.1:443 is still that of listener 'tls', which this removes"}},
      {"a listener more", Spoiled("pools:", "  - {name: b, bind: \"127.0.0.1:444\", default_pool: web}\npools:"), {}},
      {"a listener in place of another", Spoiled("name: tls\n    bind: \"127.0.0.1:443\"", "name: b\n    bind: \"127.0.0.1:444\""), {}},
      {"a backlog",
       Spoiled("    default_pool", "    backlog: 5\n    default_pool"),
       {"f:7: listeners.tls.backlog: from 4096 to 5"}},
      {"how a listener accepts",
       Spoiled("    default_pool", "    defer_accept: false\n    quick_ack: true\n    default_pool"),
       {"f:7: listeners.tls.defer_accept: from ", "f:8: listeners.tls.quick_ack: from "}},
      {"beacons", with("beacons: {bind: \"1.2.3.4:5\"}\n"), {"f:13: beacons.bind: from none to 1.2.3.4:5"}},
      {"capacity", with("affinity: {capacity: 5}\n"), {"f:13: affinity.capacity: from 1000000 to 5"}},
      {"relay mode", with("relay: {mode: copy}\n"), {"f:13: relay.mode: from auto to copy"}},
      {"relay's sizes",
       with("relay: {pipe_bytes: 64KiB, pipes: 4, hello_budget: 1MiB}\n"),
       {"relay.pipe_bytes", "relay.pipes", "relay.hello_budget"}},
      {"status", with("status: {bind: \"127.0.0.1:1\"}\n"), {"f:13: status.bind: from none to 127.0.0.1:1"}},
      {"the log",
       with("log: {level: debug, format: json, file: /x, access: {enabled: false, sample: 0.5}}\n"),
       {"log.level: from info to debug", "log.format", "log.file", "log.access.enabled", "log.access.sample"}},
      {"command socket and state",
       with("command_socket: {path: /x}\nstate_dir: /y\n"),
       {"command_socket", "state_dir"}},
  };
  const auto running = ParseConfiguration(kGood, "f");
  ASSERT_TRUE(running.ok());
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    const auto next = ParseConfiguration(row.next, "f");
    ASSERT_TRUE(next.ok()) << next.status();
    const std::vector<std::string> errors = Compare(*running, *next).restarts;
    ASSERT_EQ(errors.size(), row.says.size()) << absl::StrJoin(errors, "\n");
    for (size_t i = 0; i < errors.size(); ++i) EXPECT_THAT(errors[i], HasSubstr(row.says[i]));
  }
}

}  // namespace
}  // namespace hud
