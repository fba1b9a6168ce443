// The cluster: what configuration, agents, connects and the operator say of nodes, and the route tables that come of
// it. core_cluster_simulation_test.cc lets all of it happen at random for a simulated day.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "core/cluster/cluster.h"
#include "core/cluster/node_life.h"
#include "core/routing/balance.h"

namespace hud {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

SocketAddress At(const std::string& text) { return SocketAddress::Parse(text).value(); }

NodeConfig Node(const std::string& name, const std::string& address, uint16_t weight = 100) {
  return {.name = name, .address = At(address), .weight = weight};
}

ClusterConfig OnePool(std::vector<NodeConfig> nodes) {
  ClusterConfig config;
  config.listeners.push_back({.name = "tls", .default_pool = "web"});
  config.pools.push_back({.name = "web", .nodes = std::move(nodes)});
  return config;
}

TicketPrefix Prefix(uint8_t byte) { return TicketPrefix::Of(std::vector<uint8_t>(16, byte)); }

// A cluster with its counters and a clock; checks the invariants after every mutation.
class World {
 public:
  explicit World(const ClusterConfig& config) {
    EXPECT_TRUE(cluster.Apply(config, now).ok());
    cluster.check_invariants();
    Publish();
  }

  absl::Status Apply(const ClusterConfig& config) {
    const absl::Status status = cluster.Apply(config, now);
    cluster.check_invariants();
    return status;
  }

  absl::Status Hear(BeaconEvent event) {
    const absl::Status status = cluster.OnBeacon(event, now);
    cluster.check_invariants();
    return status;
  }
  absl::Status Report(const std::string& name, const std::string& address, std::vector<std::string> pools = {"web"},
                      uint64_t epoch = 1) {
    return Hear(ReportOf(name, address, std::move(pools), epoch));
  }
  static BeaconEvent ReportOf(const std::string& name, const std::string& address,
                              std::vector<std::string> pools = {"web"}, uint64_t epoch = 1) {
    BeaconEvent event{.kind = BeaconEvent::Kind::kStillHere, .node = name, .epoch = epoch, .report = {}, .tokens = {}};
    event.report.address = At(address);
    event.report.pools = std::move(pools);
    return event;
  }
  absl::Status Dying(const std::string& name, uint64_t epoch = 1) {
    return Hear({.kind = BeaconEvent::Kind::kDying, .node = name, .epoch = epoch, .report = {}, .tokens = {}});
  }
  absl::Status Tokens(const std::string& name, uint64_t epoch = 1) {
    return Hear({.kind = BeaconEvent::Kind::kTokens, .node = name, .epoch = epoch, .report = {}, .tokens = {}});
  }

  void Tick(Duration paused = Duration(0)) {
    cluster.Tick(now, paused);
    cluster.check_invariants();
  }
  // Time passes as the control thread would let it: a tick at least every 100 ms.
  void Pass(Duration duration) {
    for (const Instant until = now + duration; now < until;) {
      now += std::min<Duration>(100ms, until - now);
      Tick();
    }
  }
  void PassHearing(Duration duration, const std::vector<BeaconEvent>& reports) {
    for (const Instant until = now + duration; now < until;) {
      for (const BeaconEvent& report : reports) EXPECT_TRUE(Hear(report).ok());
      Pass(std::min<Duration>(1s, until - now));
    }
  }

  // Lets `duration` pass and answers every probe as `answer` says; the times of the probes, since now.
  template <typename Answer>
  std::vector<Duration> PassProbing(Duration duration, const Answer& answer) {
    std::vector<Duration> times;
    const Instant begin = now;
    for (const Instant until = now + duration; now < until; now += 10ms) {
      Tick();
      for (const Cluster::ProbeOrder& order : cluster.TakeProbes(now)) {
        times.push_back(now - begin);
        cluster.OnProbe(order.node, answer(order) ? ProbeEnd::kConnected : ProbeEnd::kNoConnect, now);
        cluster.check_invariants();
      }
    }
    return times;
  }

  const RouteTable& Publish() {
    table = cluster.Build(now);
    EXPECT_FALSE(cluster.changed());
    cluster.check_invariants();
    return *table;
  }

  NodeRef Ref(const std::string& name) const { return cluster.Find(name); }
  NodeCounters& CountersOf(const std::string& name) { return counters->node(Ref(name).index); }
  const NodeView& View(const std::string& name) { return Publish().nodes.at(Raw(Ref(name).index)); }
  std::string State(const std::string& name) { return std::string(View(name).verdicts.StateName()); }
  bool IsUsable(const std::string& name) { return View(name).verdicts.Usable(); }
  // The names in a pool, in the order of their slots.
  std::vector<std::string> Members(const std::string& pool) {
    Publish();
    std::vector<std::string> names;
    if (const auto index = cluster.FindPool(pool)) {
      for (const PoolMember& member : table->pools[Raw(*index)].members)
        names.push_back(table->nodes[Raw(member.node)].name);
    }
    return names;
  }
  Cluster::NodeStatus StatusOf(const std::string& name) {
    for (const auto& status : cluster.StatusOf(*cluster.FindPool("web"))) {
      if (status.name == name) return status;
    }
    ADD_FAILURE() << name << " is not in the pool";
    return {};
  }

  Instant now{std::chrono::hours(100)};
  std::unique_ptr<NodeTable> counters = std::make_unique<NodeTable>();
  Cluster cluster{counters.get()};
  std::unique_ptr<const RouteTable> table;
};

// ---- Apply ----------------------------------------------------------------------------------------------------------

TEST(ClusterApply, ATableShowsWhatTheConfigurationSays) {
  ClusterConfig config = OnePool({Node("n1", "10.0.0.1:1"), Node("n2", "10.0.0.2:2", 7)});
  config.pools.push_back({.name = "other",
                          .balance = Balance::kMaglev,
                          .when_none = WhenNone::kAny,
                          .proxy_protocol = ProxyProtocol::kV2,
                          .load_bound = 3,
                          .load_bound_floor = 4,
                          .slow_start = 5s,
                          .nodes = {Node("n2", "10.0.0.2:2", 9)}});
  config.listeners[0].routes.push_back({.sni = {"www.example.com"}, .alpn = {}, .pool = "other"});
  config.listeners[0].accept_proxy_protocol = {true, {AddressRange::Parse("10.0.0.0/8").value()}};
  config.timeouts.idle = 77s;
  config.fall = 5;
  config.dial_attempts = 2;
  World world(config);
  const RouteTable& table = *world.table;
  ASSERT_THAT(table.pools, SizeIs(2));
  EXPECT_EQ(table.pools[0].members, (std::vector<PoolMember>{{NodeIndex{0}, 100}, {NodeIndex{1}, 7}}));
  EXPECT_EQ(table.pools[1].members, (std::vector<PoolMember>{{NodeIndex{1}, 9}}));
  EXPECT_EQ(table.pools[1].maglev.size(), kMaglevSize);
  EXPECT_THAT(table.pools[0].maglev, IsEmpty());
  EXPECT_EQ(table.pools[1].when_none, WhenNone::kAny);
  EXPECT_EQ(table.pools[1].proxy_protocol, ProxyProtocol::kV2);
  EXPECT_EQ(table.pools[1].load_bound, 3);
  EXPECT_EQ(table.pools[1].load_bound_floor, 4U);
  EXPECT_EQ(table.pools[1].slow_start, 5s);
  EXPECT_EQ(table.nodes[1].name, "n2");
  EXPECT_EQ(table.nodes[1].address.ToString(), "10.0.0.2:2");
  EXPECT_TRUE(table.nodes[1].verdicts.Usable());
  EXPECT_EQ(table.listeners[0].name, "tls");
  EXPECT_EQ(table.listeners[0].default_pool, PoolIndex{0});
  EXPECT_EQ(table.listeners[0].accept_proxy_protocol, config.listeners[0].accept_proxy_protocol);
  EXPECT_EQ(table.timeouts.idle, 77s);
  EXPECT_EQ(table.fall, 5U);
  EXPECT_EQ(table.dial_attempts, 2U);
}

TEST(ClusterApply, ABadConfigurationChangesNothing) {
  const ClusterConfig good = OnePool({Node("n1", "10.0.0.1:1")});
  struct Row {
    const char* name;
    std::function<void(ClusterConfig&)> spoil;
    const char* says;
  };
  const Row rows[] = {
      {"a route to a pool that is not there",
       [](ClusterConfig& c) {
         c.listeners[0].routes.push_back({{"a.example"}, {}, "nowhere"});
       },
       "no pool 'nowhere'"},
      {"a default pool that is not there", [](ClusterConfig& c) { c.listeners[0].default_pool = "nowhere"; },
       "no pool 'nowhere'"},
      {"a route to a pool that this very configuration removes", [](ClusterConfig& c) { c.pools[0].name = "web2"; },
       "no pool 'web'"},
      {"two pools of one name", [](ClusterConfig& c) { c.pools.push_back(c.pools[0]); }, "two pools are named 'web'"},
      {"two nodes of one name", [](ClusterConfig& c) { c.pools[0].nodes.push_back(c.pools[0].nodes[0]); },
       "two nodes are named 'n1'"},
      {"one node at two addresses",
       [](ClusterConfig& c) { c.pools.push_back({.name = "b", .nodes = {Node("n1", "10.0.0.9:9")}}); },
       "two addresses, 10.0.0.1:1 and 10.0.0.9:9"},
      {"two listeners of one name", [](ClusterConfig& c) { c.listeners.push_back(c.listeners[0]); }, "two listeners"},
      {"a name routed twice",
       [](ClusterConfig& c) {
         c.listeners[0].routes = {{{"a.example"}, {}, "web"}, {{"A.example"}, {}, "web"}};
       },
       "a.example"},
      {"a weight beyond the range", [](ClusterConfig& c) { c.pools[0].nodes[0].weight = 1001; }, "weight"},
      {"a node without an address", [](ClusterConfig& c) { c.pools[0].nodes.push_back({.name = "x"}); }, "no address"},
      {"more nodes than there are slots",
       [](ClusterConfig& c) {
         for (int i = 0; i < 1024; ++i)
           c.pools[0].nodes.push_back(Node(absl::StrCat("m", i), absl::StrCat("10.1.0.1:", i + 1)));
       },
       "too many nodes"},
      {"more pools than there are slots",
       [](ClusterConfig& c) {
         for (int i = 0; i < 256; ++i) c.pools.push_back({.name = absl::StrCat("p", i)});
       },
       "257 pools; at most 256"},
      {"more listeners than the bound",
       [](ClusterConfig& c) {
         for (int i = 0; i < 64; ++i) c.listeners.push_back({.name = absl::StrCat("l", i)});
       },
       "listeners"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    World world(good);
    ClusterConfig bad = good;
    row.spoil(bad);
    const absl::Status status = world.Apply(bad);
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.says));
    EXPECT_FALSE(world.cluster.changed());
    EXPECT_TRUE(world.cluster.config() == good);
    EXPECT_THAT(world.Members("web"), ElementsAre("n1"));
  }
}

TEST(ClusterApply, TheSameConfigurationAgainIsNoChange) {
  const ClusterConfig config = OnePool({Node("n1", "10.0.0.1:1")});
  World world(config);
  ASSERT_TRUE(world.Apply(config).ok());
  EXPECT_FALSE(world.cluster.changed());
}

TEST(ClusterApply, PoolsAndListenersKeepTheirIndexWhateverTheOrderInTheFile) {
  ClusterConfig config = OnePool({Node("n1", "10.0.0.1:1")});
  config.pools.push_back({.name = "b", .nodes = {}});
  config.listeners.push_back({.name = "l2", .default_pool = "b"});
  World world(config);
  std::swap(config.pools[0], config.pools[1]);
  std::swap(config.listeners[0], config.listeners[1]);
  config.pools.insert(config.pools.begin(), PoolConfig{.name = "new", .nodes = {}});
  ASSERT_TRUE(world.Apply(config).ok());
  const RouteTable& table = world.Publish();
  EXPECT_EQ(table.pools[0].name, "web");
  EXPECT_EQ(table.pools[1].name, "b");
  EXPECT_EQ(table.pools[2].name, "new");
  EXPECT_EQ(table.listeners[0].name, "tls");
  EXPECT_EQ(table.listeners[0].default_pool, PoolIndex{0});
  EXPECT_EQ(table.listeners[1].default_pool, PoolIndex{1});
  // A removed pool keeps its slot and its name, without being there, and is there again when it returns.
  std::erase_if(config.pools, [](const PoolConfig& pool) { return pool.name == "b"; });
  config.listeners[0].default_pool = "web";
  ASSERT_TRUE(world.Apply(config).ok());
  EXPECT_EQ(world.Publish().pools[1].name, "b");
  EXPECT_TRUE(world.table->pools[1].leaving);
  EXPECT_FALSE(world.cluster.FindPool("b"));
  config.pools.push_back({.name = "b", .nodes = {}});
  ASSERT_TRUE(world.Apply(config).ok());
  EXPECT_EQ(world.cluster.FindPool("b"), PoolIndex{1});
  EXPECT_FALSE(world.Publish().pools[1].leaving);
  world.Pass(20s);
  EXPECT_EQ(world.cluster.FindPool("b"), PoolIndex{1}) << "nor is it freed later on";
  EXPECT_THAT(world.cluster.TakeFreedPools(), IsEmpty());
}

// A configuration of one pool, whose name it is.
ClusterConfig OnlyPool(const std::string& name) {
  ClusterConfig config = OnePool({Node("n1", "10.0.0.1:1")});
  config.pools[0].name = config.listeners[0].default_pool = name;
  return config;
}

TEST(ClusterPools, NamesMayChangeForEver) {
  World world(OnlyPool("p"));
  for (int i = 0; i < 1000; ++i) {
    const std::string name = absl::StrCat("p", i);
    ASSERT_TRUE(world.Apply(OnlyPool(name)).ok()) << i;
    const PoolIndex index = world.cluster.FindPool(name).value();
    ASSERT_EQ(world.Publish().pools[Raw(index)].name, name);
    world.Pass(50ms);
  }
  EXPECT_LT(world.table->pools.size(), 300U);
}

TEST(ClusterPools, AllOfThemMayGetOtherNamesAtOnce) {
  const auto named = [](const char* prefix) {
    ClusterConfig config = OnlyPool(absl::StrCat(prefix, 0));
    for (size_t i = 1; i < limits::kMaxPools; ++i) config.pools.push_back({.name = absl::StrCat(prefix, i)});
    return config;
  };
  World world(named("a"));
  ASSERT_TRUE(world.Apply(named("b")).ok());
  world.Publish();
  const absl::Status status = world.Apply(named("c"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("no place for pool 'c0'"));
  EXPECT_TRUE(world.cluster.FindPool("b255")) << "and nothing has changed";
  world.Pass(11s);
  EXPECT_TRUE(world.Apply(named("c")).ok());
}

TEST(ClusterPools, WhatHasConnectionsKeepsItsSlotAndItsNameUntilTheyEnd) {
  World world(OnlyPool("old"));
  PoolCounters& counters = world.counters->pool(PoolIndex{0});
  counters.active = 1;
  counters.total = 7;
  for (int i = 0; i < 600; ++i) {
    ASSERT_TRUE(world.Apply(OnlyPool(absl::StrCat("p", i))).ok()) << i;
    world.Publish();
    world.Pass(50ms);
    ASSERT_EQ(world.table->pools[0].name, "old");
    ASSERT_TRUE(world.table->pools[0].leaving);
    ASSERT_THAT(world.table->pools[0].members, IsEmpty());
  }
  world.cluster.TakeFreedPools();
  counters.active = 0;
  world.Pass(1s);
  EXPECT_THAT(world.cluster.TakeFreedPools(), ::testing::Contains(PoolIndex{0}));
  EXPECT_EQ(world.Publish().pools[0].name, "");
  ASSERT_TRUE(world.Apply(OnlyPool("new")).ok());
  EXPECT_EQ(world.cluster.FindPool("new"), PoolIndex{0});
  EXPECT_EQ(counters.total, 0U) << "what was counted is not the new pool's";
}

TEST(ClusterListeners, OneThatIsRemovedServesWhoHasConnectedAndKeepsItsSlotUntilItIsFreed) {
  const ClusterConfig both = [] {
    ClusterConfig config = OnePool({Node("n1", "10.0.0.1:1")});
    config.listeners.push_back({.name = "other", .default_pool = "web"});
    return config;
  }();
  ClusterConfig one = both;
  one.listeners.pop_back();
  World world(both);
  ASSERT_EQ(world.cluster.FindListener("other"), ListenerIndex{1});

  ASSERT_TRUE(world.Apply(one).ok());
  EXPECT_EQ(world.Publish().listeners[1].name, "other");
  EXPECT_EQ(world.table->listeners[1].default_pool, PoolIndex{0}) << "their hellos still come";
  world.Pass(9s);
  EXPECT_THAT(world.cluster.ListenersLeaving(world.now), IsEmpty()) << "a worker may have an older table";
  world.Pass(2s);
  EXPECT_THAT(world.cluster.ListenersLeaving(world.now), ElementsAre(ListenerIndex{1}));

  one.fall = 7;
  ASSERT_TRUE(world.Apply(one).ok());
  EXPECT_EQ(world.Publish().listeners[1].default_pool, PoolIndex::kNone) << "pools' slots may go to others from here on";
  EXPECT_EQ(world.table->listeners[1].name, "other") << "for the lines of its connections";
  world.cluster.FreeListener(ListenerIndex{1});
  EXPECT_EQ(world.Publish().listeners[1].name, "");
  EXPECT_FALSE(world.cluster.FindListener("other"));
  world.cluster.check_invariants();
}

TEST(ClusterListeners, ASlotIsGivenAgainOnceItIsFreeAndNotBefore) {
  const auto with = [](const std::string& name) {
    ClusterConfig config = OnePool({Node("n1", "10.0.0.1:1")});
    config.listeners.push_back({.name = name, .default_pool = "web"});
    return config;
  };
  World world(with("l0"));
  for (size_t i = 1; i < limits::kMaxListenerSlots - 1; ++i) {
    ASSERT_TRUE(world.Apply(with(absl::StrCat("l", i))).ok()) << i;
    world.Publish();
  }
  const absl::Status full = world.Apply(with("one more"));
  EXPECT_THAT(std::string(full.message()), HasSubstr("reload again later"));
  world.Pass(11s);
  for (const ListenerIndex listener : world.cluster.ListenersLeaving(world.now)) world.cluster.FreeListener(listener);
  ASSERT_TRUE(world.Apply(with("one more")).ok());
  EXPECT_EQ(world.cluster.FindListener("one more"), ListenerIndex{1});
  // One that comes back before its slot is free has it again.
  ASSERT_TRUE(world.Apply(with("two")).ok());
  world.Publish();
  ASSERT_TRUE(world.Apply(with("one more")).ok());
  EXPECT_EQ(world.cluster.FindListener("one more"), ListenerIndex{1});
  world.Publish();
  world.Pass(60s);
  EXPECT_THAT(world.cluster.ListenersLeaving(world.now), ElementsAre(ListenerIndex{2}, ListenerIndex{limits::kMaxListenerSlots - 1}));
  world.cluster.check_invariants();
}

TEST(ClusterPools, ASlotIsNotFreeWhileAWorkerMayHaveATableWithItsPool) {
  World world(OnlyPool("old"));
  ASSERT_TRUE(world.Apply(OnlyPool("new")).ok());
  world.Pass(60s);
  EXPECT_THAT(world.cluster.TakeFreedPools(), IsEmpty()) << "no table without it was built";
  world.Publish();
  EXPECT_LE(world.cluster.NextDeadline(), world.now + 1s) << "somebody has to tick";
  world.Pass(9s);
  EXPECT_THAT(world.cluster.TakeFreedPools(), IsEmpty());
  world.Pass(2s);
  EXPECT_THAT(world.cluster.TakeFreedPools(), ElementsAre(PoolIndex{0}));
}

TEST(ClusterApply, ANodeMayBeInSeveralPoolsWithItsOwnWeightInEach) {
  ClusterConfig config = OnePool({Node("n1", "10.0.0.1:1", 10)});
  config.pools.push_back({.name = "b", .nodes = {Node("n1", "10.0.0.1:1", 20)}});
  World world(config);
  EXPECT_EQ(world.table->pools[0].members[0].node, world.table->pools[1].members[0].node);
  EXPECT_EQ(world.table->pools[0].members[0].weight, 10);
  EXPECT_EQ(world.table->pools[1].members[0].weight, 20);
  config.pools[0].nodes.clear();
  ASSERT_TRUE(world.Apply(config).ok());
  EXPECT_THAT(world.Members("web"), IsEmpty());
  EXPECT_THAT(world.Members("b"), ElementsAre("n1"));
}

TEST(ClusterApply, ANodeThatIsRemovedKeepsItsSlotUntilItsLastConnectionHasEndedAndNoWorkerKnowsIt) {
  World world(OnePool({Node("n1", "10.0.0.1:1"), Node("n2", "10.0.0.2:1")}));
  const NodeRef old = world.Ref("n1");
  world.CountersOf("n1").active = 1;
  world.CountersOf("n1").total = 55;
  ASSERT_TRUE(world.Apply(OnePool({Node("n2", "10.0.0.2:1")})).ok());
  EXPECT_TRUE(world.cluster.changed());
  EXPECT_THAT(world.Members("web"), ElementsAre("n2"));
  EXPECT_EQ(world.table->nodes[Raw(old.index)].name, "n1") << "for the log lines of what goes on";
  world.Pass(1h);
  EXPECT_EQ(world.Ref("n1"), old);
  EXPECT_THAT(world.cluster.TakeGone(), IsEmpty());
  world.counters->node(old.index).active = 0;
  world.Pass(1s);
  EXPECT_THAT(world.cluster.TakeGone(), ElementsAre(old));
  EXPECT_THAT(world.cluster.TakeGone(), IsEmpty());
  EXPECT_FALSE(world.Ref("n1"));
  // The next node gets the slot, another generation, and counters from zero.
  ASSERT_TRUE(world.Apply(OnePool({Node("n2", "10.0.0.2:1"), Node("n3", "10.0.0.3:1")})).ok());
  EXPECT_EQ(world.Ref("n3").index, old.index);
  EXPECT_NE(world.Ref("n3").generation, old.generation);
  EXPECT_EQ(world.CountersOf("n3").total, 0U);
  EXPECT_EQ(world.View("n3").generation, world.Ref("n3").generation);
}

TEST(ClusterApply, ASlotIsNotReusedWhileAWorkerMayHoldATableWithItsOldNode) {
  World world(OnePool({Node("n1", "10.0.0.1:1")}));
  const NodeRef old = world.Ref("n1");
  ASSERT_TRUE(world.Apply(OnePool({})).ok());
  world.Pass(60s);  // no table without it was built in all this time
  EXPECT_EQ(world.Ref("n1"), old);
  world.Publish();
  world.Pass(5s);
  EXPECT_EQ(world.Ref("n1"), old);
  world.Pass(6s);
  EXPECT_FALSE(world.Ref("n1"));
}

TEST(ClusterApply, ANodeThatReturnsWhileItIsLeavingIsTheSameNode) {
  const ClusterConfig with = OnePool({Node("n1", "10.0.0.1:1")});
  World world(with);
  const NodeRef old = world.Ref("n1");
  ASSERT_TRUE(world.Apply(OnePool({})).ok());
  world.Publish();
  world.Pass(5s);
  ASSERT_TRUE(world.Apply(with).ok());
  world.Publish();
  world.Pass(60s);
  EXPECT_EQ(world.Ref("n1"), old);
  EXPECT_THAT(world.Members("web"), ElementsAre("n1"));
  EXPECT_THAT(world.cluster.TakeGone(), IsEmpty());
}

TEST(ClusterApply, AnotherAddressVoidsWhatWasKnownOfTheReachabilityOfTheOldOne) {
  World world(OnePool({Node("n1", "10.0.0.1:1")}));
  const NodeRef ref = world.Ref("n1");
  world.CountersOf("n1").connect_failures = 3;
  world.Tick();
  EXPECT_EQ(world.State("n1"), "down");
  world.CountersOf("n1").total = 7;
  ASSERT_TRUE(world.Apply(OnePool({Node("n1", "10.0.0.2:1")})).ok());
  EXPECT_EQ(world.Ref("n1"), ref);
  EXPECT_EQ(world.State("n1"), "unknown");
  world.Tick();
  EXPECT_EQ(world.State("n1"), "unknown") << "those connections went to the old one";
  world.CountersOf("n1").total = 8;
  world.Tick();
  EXPECT_EQ(world.State("n1"), "up");
  EXPECT_EQ(world.View("n1").address.ToString(), "10.0.0.2:1");
}

TEST(ClusterApply, MaglevTablesFollowTheMembersAndTheBalance) {
  ClusterConfig config = OnePool({Node("n1", "10.0.0.1:1"), Node("n2", "10.0.0.2:1", 50)});
  config.pools[0].balance = Balance::kMaglev;
  World world(config);
  const auto expected = [](std::vector<MaglevMember> members) { return BuildMaglev(members); };
  EXPECT_EQ(world.table->pools[0].maglev, expected({{"n1", 100}, {"n2", 50}}));
  config.pools[0].nodes[1].weight = 100;
  ASSERT_TRUE(world.Apply(config).ok());
  EXPECT_EQ(world.Publish().pools[0].maglev, expected({{"n1", 100}, {"n2", 100}}));
  world.CountersOf("n1").connect_failures = 3;
  world.Tick();
  EXPECT_EQ(world.Publish().pools[0].maglev, expected({{"n1", 100}, {"n2", 100}})) << "health is not part of it";
  config.pools[0].balance = Balance::kRoundRobin;
  ASSERT_TRUE(world.Apply(config).ok());
  EXPECT_THAT(world.Publish().pools[0].maglev, IsEmpty());
}

// ---- Agents ---------------------------------------------------------------------------------------------------------

TEST(ClusterBeacons, ANodeThatAnnouncesItselfIsInThePoolsItNamesThatExist) {
  ClusterConfig config = OnePool({});
  config.pools.push_back({.name = "b", .nodes = {}});
  World world(config);
  BeaconEvent event = World::ReportOf("n1", "10.0.0.1:1", {"b", "unknown"});
  event.report.weight = 33;
  event.report.prefixes = {Prefix(2), Prefix(1), Prefix(2)};
  ASSERT_TRUE(world.Hear(event).ok());
  EXPECT_TRUE(world.cluster.changed());
  EXPECT_THAT(world.Members("b"), ElementsAre("n1"));
  EXPECT_THAT(world.Members("web"), IsEmpty());
  EXPECT_EQ(world.table->pools[1].members[0].weight, 33);
  EXPECT_EQ(world.table->prefixes.size(), 2U);
  EXPECT_EQ(world.State("n1"), "up");
  // A reload that brings the pool it also names lets it in at once.
  config.pools.push_back({.name = "unknown", .nodes = {}});
  ASSERT_TRUE(world.Apply(config).ok());
  EXPECT_THAT(world.Members("unknown"), ElementsAre("n1"));
}

TEST(ClusterBeacons, WhatAReportMayNotSayChangesNothing) {
  World world(OnePool({Node("n1", "10.0.0.1:1")}));
  struct Row {
    const char* name;
    BeaconEvent event;
    const char* says;
  };
  BeaconEvent heavy = World::ReportOf("n2", "10.0.0.2:1");
  heavy.report.weight = 1001;
  BeaconEvent prefixes = World::ReportOf("n2", "10.0.0.2:1");
  for (size_t i = 0; i <= limits::kMaxPrefixesPerNode; ++i)
    prefixes.report.prefixes.push_back(Prefix(static_cast<uint8_t>(i)));
  BeaconEvent nowhere = World::ReportOf("n2", "10.0.0.2:1");
  nowhere.report.address = SocketAddress();
  const Row rows[] = {
      {"a pool that is not there", World::ReportOf("n2", "10.0.0.2:1", {"nowhere"}), "pool 'nowhere'"},
      {"no pool", World::ReportOf("n2", "10.0.0.2:1", {}), "no pool"},
      {"no address", nowhere, "no address"},
      {"a weight beyond the range", heavy, "weight of 1001"},
      {"more prefixes than the bound", prefixes, "65 prefixes"},
      {"dying, of a node that nobody knows",
       {.kind = BeaconEvent::Kind::kDying, .node = "n2", .epoch = 1, .report = {}, .tokens = {}},
       "not known"},
      {"tokens of a node that nobody knows",
       {.kind = BeaconEvent::Kind::kTokens, .node = "n2", .epoch = 1, .report = {}, .tokens = {}},
       "not known"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    const absl::Status status = world.Hear(row.event);
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.says));
    EXPECT_FALSE(world.cluster.changed());
    EXPECT_FALSE(world.Ref("n2"));
  }
}

TEST(ClusterBeacons, AStaticNodesAddressAndWeightWinOverItsAgents) {
  World world(OnePool({Node("n1", "10.0.0.1:1", 10)}));
  BeaconEvent event = World::ReportOf("n1", "10.9.9.9:9");
  event.report.weight = 500;
  ASSERT_TRUE(world.Hear(event).ok());
  EXPECT_EQ(world.View("n1").address.ToString(), "10.0.0.1:1");
  EXPECT_EQ(world.table->pools[0].members[0].weight, 10);
  // Once the configuration no longer lists it, its agent's word counts.
  ASSERT_TRUE(world.Apply(OnePool({})).ok());
  EXPECT_EQ(world.View("n1").address.ToString(), "10.9.9.9:9");
  EXPECT_EQ(world.table->pools[0].members[0].weight, 500);
}

TEST(ClusterBeacons, ReportsThatSayNothingNewPublishNothing) {
  World world(OnePool({Node("n1", "10.0.0.1:1")}));
  BeaconEvent event = World::ReportOf("n1", "10.0.0.1:1");
  event.report.prefixes = {Prefix(1), Prefix(2)};
  ASSERT_TRUE(world.Hear(event).ok());
  world.Publish();
  std::swap(event.report.prefixes[0], event.report.prefixes[1]);  // the same set
  for (int i = 0; i < 100; ++i) {
    event.report.health = {.ready = true,
                           .load_permille = static_cast<uint16_t>(i),
                           .connections = 5,
                           .probe_micros = 900,
                           .cpu_pressure_permille = 4};
    world.Pass(1s);
    ASSERT_TRUE(world.Hear(event).ok());
    EXPECT_FALSE(world.cluster.changed());
  }
  EXPECT_EQ(world.CountersOf("n1").reported_load, 99U) << "health travels by the counters";
  event.report.prefixes.pop_back();
  ASSERT_TRUE(world.Hear(event).ok());
  EXPECT_TRUE(world.cluster.changed());
}

// ---- Doubt: the kernel drops datagrams in every turn

TEST(ClusterDoubt, ANodeThatIsNotHeardIsJudgedWithinABoundedTime) {
  World world(OnePool({}));
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1").ok());
  Duration until_silent{0}, until_down{0};
  for (Duration passed{0}; passed < 60s && until_down == Duration(0); passed += 100ms) {
    world.now += 100ms;
    world.cluster.Tick(world.now, Duration(0), 100ms);
    for (const auto& order : world.cluster.TakeProbes(world.now)) world.cluster.OnProbe(order.node, ProbeEnd::kNoConnect, world.now);
    world.cluster.check_invariants();
    if (until_silent == Duration(0) && world.State("n1") == "silent") until_silent = passed;
    if (world.State("n1") == "down") until_down = passed;
  }
  EXPECT_GT(until_silent, 9s) << "a few beacons lost in a flood are no silence";
  EXPECT_LT(until_silent, 13s);
  EXPECT_GT(until_down, until_silent);
  EXPECT_LT(until_down, 20s);
}

TEST(ClusterDoubt, AFloodTakesOutNobodyWhoCanBeConnectedTo) {
  World world(OnePool({}));
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1").ok());
  for (int turn = 0; turn < 1000; ++turn) {
    world.now += 100ms;
    world.cluster.Tick(world.now, Duration(0), 100ms);
    for (const auto& order : world.cluster.TakeProbes(world.now)) world.cluster.OnProbe(order.node, ProbeEnd::kConnected, world.now);
    ASSERT_NE(world.State("n1"), "down") << turn;
  }
  EXPECT_EQ(world.State("n1"), "silent");
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1").ok());
  EXPECT_EQ(world.State("n1"), "up");
  world.Pass(10s);  // the flood is over, and it is silent now beyond doubt
  EXPECT_EQ(world.State("n1"), "down");
}

// ---- Whose a prefix is

BeaconEvent Claim(const std::string& name, std::vector<TicketPrefix> prefixes, const std::string& group = {},
                  uint64_t epoch = 1) {
  BeaconEvent event = World::ReportOf(name, "10.0.0." + name.substr(1) + ":1", {"web"}, epoch);
  event.report.prefixes = std::move(prefixes);
  event.ticket_group = group;
  return event;
}

std::vector<std::string> OwnersOf(World& world, const TicketPrefix& prefix) {
  std::vector<uint8_t> head(prefix.span().begin(), prefix.span().end());
  head.resize(limits::kMaxTokenBytes, 0x77);
  std::vector<std::string> names;
  const RouteTable& table = world.Publish();
  for (const NodeIndex node : table.prefixes.Find(head)) names.push_back(table.nodes[Raw(node)].name);
  return names;
}

TEST(ClusterPrefixes, WhoAnnouncedFirstHasThePrefixWhileItLives) {
  World world(OnePool({}));
  ASSERT_TRUE(world.Hear(Claim("n2", {Prefix(1)})).ok());
  ASSERT_TRUE(world.Hear(Claim("n1", {Prefix(1), Prefix(2)})).ok());
  EXPECT_THAT(OwnersOf(world, Prefix(1)), ElementsAre("n2"));
  EXPECT_THAT(OwnersOf(world, Prefix(2)), ElementsAre("n1"));
  EXPECT_THAT(world.cluster.TakeAlarms(), ElementsAre(HasSubstr("node n1")));
  // Once more, in another order and with another beside them: the first stays the first, and no word more.
  ASSERT_TRUE(world.Hear(Claim("n2", {Prefix(3), Prefix(1)})).ok());
  EXPECT_THAT(OwnersOf(world, Prefix(1)), ElementsAre("n2"));
  EXPECT_THAT(world.cluster.TakeAlarms(), IsEmpty());
  world.Pass(5s);  // n2 is silent and has no connection: dead
  ASSERT_TRUE(world.Hear(Claim("n1", {Prefix(1)})).ok());
  EXPECT_THAT(OwnersOf(world, Prefix(1)), ::testing::Contains("n1"));
  ASSERT_TRUE(world.Hear(Claim("n2", {Prefix(1)}, {}, 2)).ok());
  EXPECT_THAT(OwnersOf(world, Prefix(1)), ElementsAre("n2")) << "and back again it is still the first";
}

TEST(ClusterPrefixes, NodesOfAGroupShareAndOthersDoNot) {
  World world(OnePool({}));
  ASSERT_TRUE(world.Hear(Claim("n1", {Prefix(1)}, "web")).ok());
  ASSERT_TRUE(world.Hear(Claim("n2", {Prefix(1)}, "web")).ok());
  ASSERT_TRUE(world.Hear(Claim("n3", {Prefix(1)})).ok());
  ASSERT_TRUE(world.Hear(Claim("n4", {Prefix(1)}, "other")).ok());
  ASSERT_TRUE(world.Hear(Claim("n5", {Prefix(1)}, "web")).ok());
  EXPECT_THAT(OwnersOf(world, Prefix(1)), ElementsAre("n1", "n2", "n5"));
}

TEST(ClusterPrefixes, ALongerPrefixTakesNothingFromTheOneThatItBeginsWith) {
  World world(OnePool({}));
  ASSERT_TRUE(world.Hear(Claim("n1", {Prefix(1)})).ok());
  ASSERT_TRUE(world.Hear(Claim("n2", {TicketPrefix::Of(std::vector<uint8_t>(20, 1))})).ok());
  EXPECT_THAT(OwnersOf(world, TicketPrefix::Of(std::vector<uint8_t>(20, 1))), ElementsAre("n1"));
}

TEST(ClusterBeacons, ANodeThatIsNotReadyGetsNothingAndItsLoadIsForgotten) {
  World world(OnePool({}));
  BeaconEvent event = World::ReportOf("n1", "10.0.0.1:1");
  event.report.health.load_permille = 400;
  ASSERT_TRUE(world.Hear(event).ok());
  EXPECT_EQ(world.CountersOf("n1").reported_load, 400U);
  event.report.health.ready = false;
  ASSERT_TRUE(world.Hear(event).ok());
  EXPECT_FALSE(world.IsUsable("n1"));
  EXPECT_EQ(world.State("n1"), "down");
  EXPECT_EQ(world.CountersOf("n1").reported_load, 0U);
  world.CountersOf("n1").active = 1;
  world.Pass(10s);
  EXPECT_FALSE(world.IsUsable("n1")) << "silence makes nothing usable";
  event.report.health.ready = true;
  ASSERT_TRUE(world.Hear(event).ok());
  EXPECT_EQ(world.State("n1"), "up");
}

TEST(ClusterBeacons, AnAnnouncedNodeMayChangeItsAddressAndItsPools) {
  ClusterConfig config = OnePool({});
  config.pools.push_back({.name = "b", .nodes = {}});
  World world(config);
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1").ok());
  const NodeRef ref = world.Ref("n1");
  ASSERT_TRUE(world.Report("n1", "10.0.0.2:1", {"b"}).ok());
  EXPECT_EQ(world.Ref("n1"), ref);
  EXPECT_EQ(world.View("n1").address.ToString(), "10.0.0.2:1");
  EXPECT_THAT(world.Members("web"), IsEmpty());
  EXPECT_THAT(world.Members("b"), ElementsAre("n1"));
}

TEST(ClusterBeacons, APoolThatAReloadRemovesLosesItsAnnouncedNodes) {
  World world(OnePool({}));
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1").ok());
  ClusterConfig other;
  other.pools.push_back({.name = "b", .nodes = {}});
  ASSERT_TRUE(world.Apply(other).ok());
  world.Publish();
  EXPECT_FALSE(world.Report("n1", "10.0.0.1:1").ok());
  world.Pass(11s);
  EXPECT_FALSE(world.Ref("n1"));
  EXPECT_THAT(world.cluster.TakeGone(), SizeIs(1));
}

TEST(ClusterBeacons, AFullTableRefusesAndMakesRoomByWhatHasBeenDeadForLongest) {
  World world(OnePool({}));
  for (size_t i = 0; i < limits::kMaxNodes; ++i) {
    ASSERT_TRUE(world.Report(absl::StrCat("n", i), absl::StrCat("10.0.0.1:", i + 1)).ok());
  }
  EXPECT_THAT(std::string(world.Report("x", "10.0.0.9:9").message()), HasSubstr("no room"));
  // n7 falls silent first.
  for (int round = 0; round < 5; ++round) {
    world.Pass(1s);
    for (size_t i = 0; i < limits::kMaxNodes; ++i) {
      if (i == 7 || (i == 8 && round >= 2)) continue;
      ASSERT_TRUE(world.Report(absl::StrCat("n", i), absl::StrCat("10.0.0.1:", i + 1)).ok());
    }
  }
  EXPECT_EQ(world.State("n7"), "down");
  EXPECT_FALSE(world.Report("x", "10.0.0.9:9").ok());
  world.Publish();
  for (int i = 0; i < 11; ++i) world.Pass(1s);
  EXPECT_FALSE(world.Ref("n7"));
  EXPECT_TRUE(world.Report("x", "10.0.0.9:9").ok());
  EXPECT_EQ(world.Ref("x").index, NodeIndex{7});
}

TEST(ClusterBeacons, ManyWhoAskForRoomInAFullTableCostOneDeadNode) {
  World world(OnePool({}));
  for (size_t i = 0; i < limits::kMaxNodes; ++i) {
    ASSERT_TRUE(world.Report(absl::StrCat("n", i), absl::StrCat("10.0.0.1:", i + 1)).ok());
  }
  world.Pass(4s);  // all are dead
  for (int i = 0; i < 100; ++i) {
    EXPECT_FALSE(world.Report("x", "10.0.0.9:9").ok());
    EXPECT_FALSE(world.Report("y", "10.0.0.9:10").ok());
  }
  EXPECT_THAT(world.Members("web"), SizeIs(limits::kMaxNodes - 1));
  // One that waits for its last connection makes no room: another has to.
  const auto left = [&] { return world.Members("web").size(); };
  for (size_t i = 0; i < limits::kMaxNodes; ++i) world.counters->node(static_cast<NodeIndex>(i)).active = 1;
  EXPECT_FALSE(world.Report("x", "10.0.0.9:9").ok());
  EXPECT_EQ(left(), limits::kMaxNodes - 2);
}

// ---- Silence, death, dying ------------------------------------------------------------------------------------------

TEST(ClusterSilence, ANodeWithConnectionsIsSilentAndOneWithoutIsDead) {
  World world(OnePool({}));
  ASSERT_TRUE(world.Report("busy", "10.0.0.1:1").ok());
  ASSERT_TRUE(world.Report("idle", "10.0.0.2:1").ok());
  world.CountersOf("busy").active = 1;
  world.Pass(3s);
  EXPECT_EQ(world.State("busy"), "up");
  EXPECT_EQ(world.State("idle"), "up");
  world.Pass(100ms);
  EXPECT_EQ(world.State("busy"), "silent");
  EXPECT_TRUE(world.IsUsable("busy"));
  EXPECT_EQ(world.State("idle"), "down");
  EXPECT_EQ(world.View("idle").verdicts.agent, AgentVerdict::kDead);
  // An idle relay can keep it silent, not for longer: when it ends, the node is dead.
  world.Pass(1h);
  EXPECT_EQ(world.State("busy"), "silent");
  world.CountersOf("busy").active = 0;
  world.Pass(500ms);
  EXPECT_EQ(world.State("busy"), "down");
}

TEST(ClusterSilence, TimeInWhichThisProcessWasStoppedIsCountedAsHeard) {
  World world(OnePool({}));
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1").ok());
  world.Pass(2s);
  world.now += 60s;
  world.Tick(60s);
  EXPECT_EQ(world.State("n1"), "up");
  world.Pass(1s);
  EXPECT_EQ(world.State("n1"), "up");
  world.Pass(200ms);
  EXPECT_EQ(world.State("n1"), "down");
}

TEST(ClusterSilence, ABeaconBringsSilentAndDeadNodesBack) {
  World world(OnePool({}));
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1").ok());
  const NodeRef ref = world.Ref("n1");
  const Instant up_since = world.View("n1").up_since;
  world.CountersOf("n1").active = 1;
  world.Pass(4s);
  EXPECT_EQ(world.State("n1"), "silent");
  ASSERT_TRUE(world.Tokens("n1").ok());
  EXPECT_EQ(world.State("n1"), "up") << "tokens are a sign of life, too";
  EXPECT_EQ(world.View("n1").up_since, up_since) << "it was usable all the time";
  world.CountersOf("n1").active = 0;
  world.Pass(4s);
  EXPECT_EQ(world.State("n1"), "down");
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1").ok());
  EXPECT_EQ(world.State("n1"), "up");
  EXPECT_EQ(world.View("n1").up_since, world.now);
  EXPECT_EQ(world.Ref("n1"), ref);
}

TEST(ClusterSilence, AnAnnouncedNodeThatIsDeadForLongIsGone) {
  World world(OnePool({}));
  BeaconEvent event = World::ReportOf("n1", "10.0.0.1:1");
  event.report.prefixes = {Prefix(1)};
  ASSERT_TRUE(world.Hear(event).ok());
  const NodeRef ref = world.Ref("n1");
  world.Pass(NodeLife::kForgetDeadAfter);
  EXPECT_EQ(world.Publish().prefixes.size(), 1U) << "a prefix is kept while its node exists";
  EXPECT_THAT(world.Members("web"), ElementsAre("n1"));
  world.Pass(5s);
  EXPECT_THAT(world.Members("web"), IsEmpty());
  EXPECT_EQ(world.Publish().prefixes.size(), 0U);
  world.Pass(11s);
  EXPECT_THAT(world.cluster.TakeGone(), ElementsAre(ref));
  EXPECT_THAT(world.cluster.TakeProbes(world.now), IsEmpty());
}

TEST(ClusterSilence, AStaticNodeWhoseAgentDiedServesOnOnceAConnectHasSucceeded) {
  World world(OnePool({Node("n1", "10.0.0.1:1")}));
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1").ok());
  world.Pass(3100ms);
  EXPECT_FALSE(world.IsUsable("n1"));
  const auto refused = world.PassProbing(60s, [](const auto&) { return false; });
  EXPECT_FALSE(world.IsUsable("n1"));
  EXPECT_LE(refused.at(0), 10ms) << "tried at once";
  EXPECT_LE(refused.size(), 8U) << "and with back-off";
  world.PassProbing(40s, [](const auto&) { return true; });
  EXPECT_EQ(world.State("n1"), "up");
  EXPECT_EQ(world.View("n1").verdicts.agent, AgentVerdict::kNone);
  EXPECT_FALSE(world.StatusOf("n1").has_agent);
  // From now on health checks judge it, and its agent may come back.
  EXPECT_GE(world.PassProbing(60s, [](const auto&) { return true; }).size(), 9U);
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1", {"web"}, 2).ok());
  EXPECT_EQ(world.View("n1").verdicts.agent, AgentVerdict::kAlive);
  // Taken out of the file without an agent, it goes: it does not live on as a node that announced itself once.
  world.Pass(4s);
  world.PassProbing(1s, [](const auto&) { return true; });
  ASSERT_EQ(world.View("n1").verdicts.agent, AgentVerdict::kNone);
  ASSERT_TRUE(world.Apply(OnePool({})).ok());
  EXPECT_THAT(world.Members("web"), IsEmpty());
}

TEST(ClusterDying, ADyingNodeDrainsAndIsDeadWhenItsConnectionsHaveEnded) {
  World world(OnePool({}));
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1").ok());
  world.CountersOf("n1").active = 2;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(world.Dying("n1").ok());
  EXPECT_EQ(world.State("n1"), "draining");
  EXPECT_FALSE(world.IsUsable("n1"));
  world.Pass(1h);
  EXPECT_EQ(world.State("n1"), "draining");
  world.CountersOf("n1").active = 0;
  world.Pass(100ms);
  EXPECT_EQ(world.State("n1"), "down");
}

TEST(ClusterDying, AStillHereThatItsDyingHasOvertakenDoesNotBringTheNodeBackButARestartDoes) {
  World world(OnePool({}));
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1", {"web"}, 5).ok());
  ASSERT_TRUE(world.Dying("n1", 5).ok());
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1", {"web"}, 5).ok());
  ASSERT_TRUE(world.Tokens("n1", 5).ok());
  EXPECT_EQ(world.State("n1"), "draining");
  world.Pass(4s);
  EXPECT_EQ(world.State("n1"), "down");
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1", {"web"}, 5).ok());
  EXPECT_EQ(world.State("n1"), "down");
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1", {"web"}, 6).ok());
  EXPECT_EQ(world.State("n1"), "up");
  EXPECT_EQ(world.View("n1").up_since, world.now);
  ASSERT_TRUE(world.Dying("n1", 6).ok());
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1", {"web"}, 7).ok());
  EXPECT_EQ(world.State("n1"), "up") << "a restart faster than the silence";
}

TEST(ClusterDying, AStaticNodeThatSaidDyingIsNotTakenBackByAHealthCheckUntilLongAfter) {
  World world(OnePool({Node("n1", "10.0.0.1:1")}));
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1").ok());
  ASSERT_TRUE(world.Dying("n1").ok());
  EXPECT_THAT(world.PassProbing(NodeLife::kForgetDeadAfter, [](const auto&) { return true; }), IsEmpty());
  EXPECT_EQ(world.State("n1"), "down");
  world.PassProbing(10s, [](const auto&) { return true; });
  EXPECT_EQ(world.State("n1"), "up");
  EXPECT_EQ(world.View("n1").verdicts.agent, AgentVerdict::kNone);
}

// ---- Reachability ---------------------------------------------------------------------------------------------------

TEST(ClusterReachability, FallFailedConnectsInARowTakeANodeDownAndOnlyASuccessfulOneClearsIt) {
  World world(OnePool({}));
  const std::vector<BeaconEvent> alive = {World::ReportOf("n1", "10.0.0.1:1")};
  ASSERT_TRUE(world.Hear(alive[0]).ok());
  world.CountersOf("n1").connect_failures = 2;
  world.Tick();
  EXPECT_EQ(world.State("n1"), "up");
  world.CountersOf("n1").connect_failures = 3;
  world.Tick();
  EXPECT_EQ(world.State("n1"), "down");
  world.PassHearing(60s, alive);
  EXPECT_EQ(world.State("n1"), "down") << "that its agent is alive is another verdict";
  const auto orders = world.cluster.TakeProbes(world.now);
  ASSERT_THAT(orders, SizeIs(1));
  EXPECT_EQ(orders[0].node, world.Ref("n1"));
  EXPECT_EQ(orders[0].address, At("10.0.0.1:1"));
  EXPECT_THAT(world.cluster.TakeProbes(world.now), IsEmpty()) << "one at a time";
  world.cluster.OnProbe(orders[0].node, ProbeEnd::kConnected, world.now);
  EXPECT_EQ(world.State("n1"), "up");
  EXPECT_EQ(world.CountersOf("n1").connect_failures, 0U) << "workers look at it, too";
  EXPECT_EQ(world.View("n1").up_since, world.now);
}

TEST(ClusterReachability, AWorkersSuccessClearsItToo) {
  World world(OnePool({Node("n1", "10.0.0.1:1")}));
  world.CountersOf("n1").connect_failures = 7;
  world.Tick();
  EXPECT_EQ(world.State("n1"), "down");
  world.CountersOf("n1").connect_failures = 0;
  world.CountersOf("n1").total = 1;
  world.Tick();
  EXPECT_EQ(world.State("n1"), "up");
  world.CountersOf("n1").connect_failures = 7;
  world.Tick();
  world.CountersOf("n1").connect_failures = 1;  // 0 for a moment, and one failure since
  world.Tick();
  EXPECT_EQ(world.State("n1"), "up");
}

TEST(ClusterReachability, AHigherFallDoesNotClearIt) {
  ClusterConfig config = OnePool({Node("n1", "10.0.0.1:1")});
  World world(config);
  world.CountersOf("n1").connect_failures = 3;
  world.Tick();
  config.fall = 10;
  ASSERT_TRUE(world.Apply(config).ok());
  world.Tick();
  EXPECT_EQ(world.State("n1"), "down");
}

TEST(ClusterReachability, ProbesOfADownNodeBackOffFromOneSecondDoublingToThirty) {
  World world(OnePool({}));
  const std::vector<BeaconEvent> alive = {World::ReportOf("n1", "10.0.0.1:1")};
  ASSERT_TRUE(world.Hear(alive[0]).ok());
  world.CountersOf("n1").connect_failures = 3;
  world.Tick();
  std::vector<Duration> times;
  const Instant begin = world.now;
  for (int second = 0; second < 200; ++second) {
    world.PassHearing(0s, {});
    ASSERT_TRUE(world.Hear(alive[0]).ok());
    for (const Duration at : world.PassProbing(1s, [](const auto&) { return false; }))
      times.push_back(world.now - begin - 1s + at);
  }
  const Duration expected[] = {1s, 3s, 7s, 15s, 31s, 61s, 91s, 121s, 151s, 181s};
  ASSERT_GE(times.size(), 8U);
  for (size_t i = 0; i < times.size(); ++i) {
    ASSERT_LT(i, std::size(expected));
    EXPECT_GE(times[i], expected[i]);
    EXPECT_LE(times[i], expected[i] * 5 / 4 + 1s);
  }
}

TEST(ClusterReachability, ANodeThatFallsAgainSoonKeepsTheLongIntervals) {
  World world(OnePool({Node("n1", "10.0.0.1:1")}));
  // It accepts connects of ours and refuses those of clients, for ten minutes.
  size_t ups = 0;
  for (int i = 0; i < 6000; ++i) {
    world.now += 100ms;
    const bool was_up = world.IsUsable("n1");
    for (const auto& order : world.cluster.TakeProbes(world.now)) world.cluster.OnProbe(order.node, ProbeEnd::kConnected, world.now);
    const bool is_up = world.IsUsable("n1");
    ups += is_up && !was_up;
    if (is_up) world.CountersOf("n1").connect_failures += 3;
    world.Tick();
  }
  EXPECT_GE(ups, 10U) << "it is tried";
  EXPECT_LE(ups, 25U) << "it flaps";
  // Once it has been up for long, the next fall begins anew.
  world.PassProbing(2min, [](const auto&) { return true; });
  ASSERT_TRUE(world.IsUsable("n1"));
  world.CountersOf("n1").connect_failures = 3;
  EXPECT_THAT(world.PassProbing(2s, [](const auto&) { return true; }), SizeIs(1));
}

TEST(ClusterReachability, StaticNodesWithoutAnAgentAreHealthCheckedUnlessThePoolSaysNo) {
  ClusterConfig config = OnePool({Node("n1", "10.0.0.1:1"), Node("n2", "10.0.0.2:1")});
  config.pools[0].health_interval = 5s;
  config.pools.push_back({.name = "quiet", .check = NodeCheck::kOff, .nodes = {Node("n3", "10.0.0.3:1")}});
  World world(config);
  const std::vector<BeaconEvent> alive = {World::ReportOf("n2", "10.0.0.2:1")};
  ASSERT_TRUE(world.Hear(alive[0]).ok());
  std::map<std::string, int> count;
  for (int second = 0; second < 60; ++second) {
    ASSERT_TRUE(world.Hear(alive[0]).ok());
    world.PassProbing(1s, [&](const Cluster::ProbeOrder& order) { return ++count[order.address.ToString()], true; });
  }
  EXPECT_THAT(count, SizeIs(1));
  EXPECT_GE(count["10.0.0.1:1"], 9);
  EXPECT_LE(count["10.0.0.1:1"], 13);
}

TEST(ClusterReachability, FailedHealthChecksTakeANodeDownAndASuccessfulOneBringsItBack) {
  World world(OnePool({Node("n1", "10.0.0.1:1")}));
  const auto times = world.PassProbing(10s, [](const auto&) { return false; });
  EXPECT_EQ(world.State("n1"), "down");
  EXPECT_LE(times.at(2), 4s) << "after a first failure it is looked at more closely";
  world.PassProbing(40s, [](const auto&) { return true; });
  EXPECT_EQ(world.State("n1"), "up");
}

TEST(ClusterReachability, TheEndOfAProbeOfANodeThatIsGoneSaysNothingOfTheNextInItsSlot) {
  World world(OnePool({Node("n1", "10.0.0.1:1")}));
  const NodeRef old = world.Ref("n1");
  ASSERT_TRUE(world.Apply(OnePool({})).ok());
  world.Publish();
  world.Pass(20s);
  ASSERT_TRUE(world.Apply(OnePool({Node("n2", "10.0.0.2:1")})).ok());
  ASSERT_EQ(world.Ref("n2").index, old.index);
  for (int i = 0; i < 5; ++i) world.cluster.OnProbe(old, ProbeEnd::kNoConnect, world.now);
  world.cluster.OnProbe({NodeIndex{999}, 1}, ProbeEnd::kNoConnect, world.now);
  world.cluster.OnProbe({}, ProbeEnd::kNoConnect, world.now);
  world.Tick();
  EXPECT_EQ(world.State("n2"), "unknown");
}

TEST(ClusterReachability, AProbeThatNeverEndsIsGivenUp) {
  World world(OnePool({Node("n1", "10.0.0.1:1")}));
  world.Pass(1s);
  EXPECT_THAT(world.cluster.TakeProbes(world.now), SizeIs(1));
  world.Pass(59s);
  EXPECT_THAT(world.cluster.TakeProbes(world.now), IsEmpty());
  world.Pass(2s);
  EXPECT_THAT(world.cluster.TakeProbes(world.now), SizeIs(1));
}

TEST(ClusterReachability, ADeadNodeIsNotProbedUntilItsAgentIsBack) {
  World world(OnePool({}));
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1").ok());
  world.CountersOf("n1").connect_failures = 3;
  world.Pass(3200ms);
  ASSERT_EQ(world.View("n1").verdicts.agent, AgentVerdict::kDead);
  world.Pass(5min);
  EXPECT_THAT(world.cluster.TakeProbes(world.now), IsEmpty());
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1", {"web"}, 2).ok());
  EXPECT_THAT(world.cluster.TakeProbes(world.now), SizeIs(1));
}

TEST(ClusterReachability, AMachineThatWasSwitchedOnAgainNeedNotWaitForALongBackOff) {
  World world(OnePool({}));
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1").ok());
  world.CountersOf("n1").connect_failures = 3;
  world.Tick();
  bool probed = false;
  for (int second = 0; second < 300 && !(second > 100 && probed); ++second) {
    ASSERT_TRUE(world.Report("n1", "10.0.0.1:1").ok());
    probed = !world.PassProbing(1s, [](const auto&) { return false; }).empty();
  }
  ASSERT_TRUE(probed);  // the next one is due in half a minute
  world.PassProbing(1s, [](const auto&) { return true; });
  ASSERT_EQ(world.State("n1"), "down");
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1", {"web"}, 2).ok());
  EXPECT_THAT(world.PassProbing(1s, [](const auto&) { return false; }), SizeIs(1));
  // However often it restarts, it is tried once a second at most.
  size_t probes = 0;
  for (uint64_t epoch = 3; epoch < 103; ++epoch) {
    ASSERT_TRUE(world.Report("n1", "10.0.0.1:1", {"web"}, epoch).ok());
    probes += world.PassProbing(100ms, [](const auto&) { return false; }).size();
  }
  EXPECT_LE(probes, 10U);
  EXPECT_GE(probes, 5U);
}

// ---- The operator, and all three together ---------------------------------------------------------------------------

TEST(ClusterOperator, HisVerdictIsOneOfThree) {
  World world(OnePool({Node("n1", "10.0.0.1:1")}));
  EXPECT_FALSE(world.cluster.SetOperatorVerdict("n9", OperatorVerdict::kOff, world.now).ok());
  EXPECT_FALSE(world.cluster.changed());
  ASSERT_TRUE(world.cluster.SetOperatorVerdict("n1", OperatorVerdict::kDraining, world.now).ok());
  EXPECT_TRUE(world.cluster.changed());
  EXPECT_EQ(world.State("n1"), "draining");
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1").ok());
  EXPECT_EQ(world.State("n1"), "draining") << "no beacon overrules him";
  ASSERT_TRUE(world.Apply(OnePool({Node("n1", "10.0.0.1:1"), Node("n2", "10.0.0.2:1")})).ok());
  EXPECT_EQ(world.State("n1"), "draining") << "and no reload";
  ASSERT_TRUE(world.cluster.SetOperatorVerdict("n1", OperatorVerdict::kOff, world.now).ok());
  EXPECT_EQ(world.State("n1"), "down");
  world.now += 5s;
  ASSERT_TRUE(world.cluster.SetOperatorVerdict("n1", OperatorVerdict::kOn, world.now).ok());
  EXPECT_EQ(world.State("n1"), "up");
  EXPECT_EQ(world.View("n1").up_since, world.now);
}

TEST(ClusterOperator, ANodeThatHeTookOutIsNotForgottenHoweverLongItIsDead) {
  World world(OnePool({}));
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1").ok());
  ASSERT_TRUE(world.cluster.SetOperatorVerdict("n1", OperatorVerdict::kOff, world.now).ok());
  world.Pass(NodeLife::kForgetDeadAfter + 1min);
  world.Publish();
  world.Pass(1min);
  ASSERT_TRUE(world.Report("n1", "10.0.0.1:1", {"web"}, 2).ok());
  EXPECT_FALSE(world.IsUsable("n1")) << "only he may bring it back";
  ASSERT_TRUE(world.cluster.SetOperatorVerdict("n1", OperatorVerdict::kOn, world.now).ok());
  EXPECT_TRUE(world.IsUsable("n1"));
  world.Pass(NodeLife::kForgetDeadAfter + 1min);
  EXPECT_THAT(world.Members("web"), IsEmpty());
}

TEST(NodeVerdicts, ATableOfStates) {
  struct Row {
    AgentVerdict agent;
    bool reachable;
    OperatorVerdict by_operator;
    bool usable;
    const char* state;
  };
  const Row rows[] = {
      {AgentVerdict::kNone, true, OperatorVerdict::kOn, true, "up"},
      {AgentVerdict::kAlive, true, OperatorVerdict::kOn, true, "up"},
      {AgentVerdict::kSilent, true, OperatorVerdict::kOn, true, "silent"},
      {AgentVerdict::kNotReady, true, OperatorVerdict::kOn, false, "down"},
      {AgentVerdict::kDying, true, OperatorVerdict::kOn, false, "draining"},
      {AgentVerdict::kDead, true, OperatorVerdict::kOn, false, "down"},
      {AgentVerdict::kAlive, false, OperatorVerdict::kOn, false, "down"},
      {AgentVerdict::kSilent, false, OperatorVerdict::kOn, false, "down"},
      {AgentVerdict::kDying, false, OperatorVerdict::kOn, false, "down"},
      {AgentVerdict::kAlive, true, OperatorVerdict::kDraining, false, "draining"},
      {AgentVerdict::kSilent, true, OperatorVerdict::kDraining, false, "draining"},
      {AgentVerdict::kNotReady, true, OperatorVerdict::kDraining, false, "down"},
      {AgentVerdict::kNone, true, OperatorVerdict::kOff, false, "down"},
  };
  for (const Row& row : rows) {
    const NodeVerdicts verdicts{row.agent, row.reachable, row.by_operator};
    EXPECT_EQ(verdicts.Usable(), row.usable) << row.state;
    EXPECT_EQ(verdicts.StateName(), row.state);
  }
}

// ---- Nodes that take connections and do not answer -------------------------------------------------------------------------

class Ejecting : public World {
 public:
  explicit Ejecting(EjectConfig eject = {}, int nodes = 4) : World(Config(eject, nodes)) {}
  static ClusterConfig Config(EjectConfig eject, int nodes) {
    std::vector<NodeConfig> list;
    for (int i = 1; i <= nodes; ++i) list.push_back(Node(NameOf(i), absl::StrCat("10.0.0.", i, ":1")));
    ClusterConfig config = OnePool(list);
    config.pools[0].eject = eject;
    config.pools[0].check = NodeCheck::kOff;
    return config;
  }
  static std::string NameOf(int i) { return absl::StrCat("n", i); }
  // As the workers count.
  void Unanswered(const std::string& name, uint32_t times) { CountersOf(name).unanswered += times; }
  bool IsOut(const std::string& name) { return View(name).verdicts.ejected; }

  // Time passes, and every check ends at once: unanswered by those that are `broken`.
  void PassChecking(Duration duration) {
    for (const Instant until = now + duration; now < until;) {
      now += 100ms;
      Tick();
      for (const Cluster::ProbeOrder& order : cluster.TakeProbes(now)) EndCheck(order);
      Tick();
    }
  }
  void EndCheck(const Cluster::ProbeOrder& order) {
    const std::string name(table->nodes.at(Raw(order.node.index)).name);
    ++checks[name];
    const bool answers = !broken.contains(name);
    if (order.check == NodeCheck::kAuto) cluster.OnProbe(order.node, ProbeEnd::kConnected, now);
    if (answers) cluster.OnProbe(order.node, ProbeEnd::kTls, now);
    if (!answers && order.check == NodeCheck::kTls) cluster.OnProbe(order.node, ProbeEnd::kNoAnswer, now);
    cluster.check_invariants();
  }
  // That nodes of the pool answer checks becomes known.
  void LearnThatChecksAreAnswered() {
    Unanswered("n1", 5);
    PassChecking(2s);
    ASSERT_FALSE(IsOut("n1"));
  }
  // How long it stays out, to the next second; it must be out.
  int SecondsOut(const std::string& name) {
    EXPECT_TRUE(IsOut(name));
    int seconds = 0;
    for (; IsOut(name) && seconds < 2000; ++seconds) PassChecking(1s);
    return seconds;
  }

  std::set<std::string> broken;
  std::map<std::string, int> checks;
};

TEST(ClusterEjection, TakesOutANodeThatDoesNotAnswerAndBringsItBackByItself) {
  Ejecting world;
  world.broken = {"n1"};
  world.Unanswered("n1", 4);
  world.PassChecking(2s);
  EXPECT_FALSE(world.IsOut("n1")) << "not yet";
  EXPECT_THAT(world.checks, IsEmpty());
  world.Unanswered("n1", 1);
  world.PassChecking(1s);
  EXPECT_EQ(world.State("n1"), "ejected");
  EXPECT_TRUE(world.IsUsable("n1")) << "it is what is left when all others are down";
  EXPECT_EQ(world.State("n2"), "up");
  world.broken.clear();
  EXPECT_THAT(world.SecondsOut("n1"), ::testing::AllOf(::testing::Ge(9), ::testing::Le(11)));
  EXPECT_EQ(world.State("n1"), "up");
  EXPECT_LE(world.now - world.View("n1").up_since, 1s) << "a slow start begins";
}

TEST(ClusterEjection, WhatClientsBringAboutEjectsNobodyWhoAnswersAChecksHandshake) {
  Ejecting world;
  for (int turn = 0; turn < 100; ++turn) {
    for (const char* name : {"n1", "n2", "n3", "n4"}) world.Unanswered(name, 1000);
    world.PassChecking(300ms);
    for (const char* name : {"n1", "n2", "n3", "n4"}) ASSERT_EQ(world.State(name), "up") << turn;
  }
  for (const auto& [name, count] : world.checks) EXPECT_LE(count, 31) << name << ": one a second at most";
}

TEST(ClusterEjection, ANodeThatCouldNotBeSparedIsNotAskedEither) {
  Ejecting alone({}, 1);
  alone.Unanswered("n1", 100);
  alone.PassChecking(5s);
  EXPECT_THAT(alone.checks, IsEmpty());
  Ejecting world({}, 2);
  world.CountersOf("n2").connect_failures = 3;
  world.Tick();
  world.Unanswered("n1", 100);
  world.PassChecking(900ms);
  EXPECT_EQ(world.checks["n1"], 0) << "the other one is down";
}

TEST(ClusterEjection, WhereNoNodeAnswersChecksThatOneDoesNotIsNoEvidence) {
  Ejecting world;
  world.broken = {"n1", "n2", "n3", "n4"};
  for (int turn = 0; turn < 60; ++turn) {
    world.Unanswered("n1", 100);
    world.PassChecking(1s);
    ASSERT_EQ(world.State("n1"), "up") << "neither ejected nor down, " << turn;
  }
  EXPECT_GE(world.checks["n4"], 2) << "all others are asked, in turn";
  EXPECT_LE(world.checks["n2"] + world.checks["n3"] + world.checks["n4"], 200);
  world.broken = {"n1"};
  world.PassChecking(10s);
  EXPECT_EQ(world.State("n1"), "ejected") << "now one of them did";
}

TEST(ClusterEjection, DoublesAsLongAsChecksAreNotAnsweredUpToABoundAndForgetsAfterAGoodTime) {
  Ejecting world;
  world.LearnThatChecksAreAnswered();
  world.broken = {"n1"};
  world.Unanswered("n1", 5);
  world.PassChecking(1s);
  world.checks.clear();
  const int longest = 10 + 20 + 40 + 80 + 160 + 300;
  EXPECT_THAT(world.SecondsOut("n1"), ::testing::AllOf(::testing::Ge(longest - 5), ::testing::Le(longest + 5)))
      << "no client has to try it out; in the end they have to, should it have something against checks alone";
  EXPECT_EQ(world.checks["n1"], 6);
  world.Unanswered("n1", 5);
  world.PassChecking(1s);
  EXPECT_THAT(world.SecondsOut("n1"), ::testing::AllOf(::testing::Ge(298), ::testing::Le(302))) << "a relapse";
  world.broken.clear();
  world.PassChecking(301s);
  world.broken = {"n1"};
  world.Unanswered("n1", 5);
  world.PassChecking(1s);
  world.broken.clear();
  EXPECT_THAT(world.SecondsOut("n1"), ::testing::AllOf(::testing::Ge(9), ::testing::Le(11))) << "a first one again";
}

TEST(ClusterEjection, EndsWithoutTheVerdictOfACheckToo) {
  Ejecting world;
  world.LearnThatChecksAreAnswered();
  world.broken = {"n1"};
  world.Unanswered("n1", 5);
  world.PassChecking(1s);
  ASSERT_TRUE(world.IsOut("n1"));
  world.Pass(45s);  // no check ever ends
  EXPECT_EQ(world.State("n1"), "up");
}

TEST(ClusterEjection, LeavesAShareOfThePoolAndAlwaysOneNode) {
  const struct {
    int nodes;
    double share;
    int out;
  } rows[] = {{1, 1, 0}, {1, 0.5, 0}, {2, 0.5, 1}, {2, 1, 1}, {3, 0.5, 1}, {4, 0.5, 2}, {4, 1, 3}, {10, 0.3, 3}, {4, 0, 0}};
  for (const auto& row : rows) {
    Ejecting world({.share = row.share}, row.nodes);
    world.LearnThatChecksAreAnswered();
    for (int i = 1; i <= row.nodes; ++i) {
      world.broken.insert(world.NameOf(i));
      world.Unanswered(world.NameOf(i), static_cast<uint32_t>(5 + i));
    }
    int out = 0;
    for (int seconds = 0; seconds < 5; ++seconds) {
      world.PassChecking(1s);
      out = 0;
      for (int i = 1; i <= row.nodes; ++i) out += world.IsOut(world.NameOf(i));
      EXPECT_EQ(out, row.out) << row.nodes << " nodes, share " << row.share;
    }
    if (out == 0) continue;
    EXPECT_TRUE(world.IsOut(world.NameOf(row.nodes))) << "the worst first";
  }
}

TEST(ClusterEjection, NodesThatAreDownAreNoPartOfThePoolThen) {
  Ejecting world({.share = 0.5}, 4);
  world.LearnThatChecksAreAnswered();
  world.broken = {"n1", "n2"};
  for (const char* name : {"n3", "n4"}) world.CountersOf(name).connect_failures = 3;
  for (const char* name : {"n1", "n2"}) world.Unanswered(name, 5);
  world.PassChecking(200ms);
  EXPECT_NE(world.IsOut("n1"), world.IsOut("n2")) << "one of the two that are left";
}

TEST(ClusterEjection, OnePoolThatNeverEjectsKeepsItsNodes) {
  ClusterConfig config = Ejecting::Config({}, 4);
  config.pools.push_back({.name = "never", .check = NodeCheck::kOff, .eject = {.after = 0}, .nodes = {Node("n1", "10.0.0.1:1")}});
  Ejecting world;
  ASSERT_TRUE(world.Apply(config).ok());
  world.broken = {"n1", "n2"};
  for (const char* name : {"n1", "n2"}) world.Unanswered(name, 5);
  world.PassChecking(2s);
  EXPECT_FALSE(world.IsOut("n1"));
  EXPECT_TRUE(world.IsOut("n2"));
}

TEST(ClusterEjection, EndsWhenItIsSwitchedOffOrTheAddressChanges) {
  Ejecting world;
  world.LearnThatChecksAreAnswered();
  world.broken = {"n1", "n2"};
  world.Unanswered("n1", 5);
  world.Unanswered("n2", 5);
  world.PassChecking(1s);
  ASSERT_TRUE(world.IsOut("n1") && world.IsOut("n2"));
  ClusterConfig config = Ejecting::Config({}, 4);
  config.pools[0].nodes[0].address = At("10.0.0.9:1");
  ASSERT_TRUE(world.Apply(config).ok());
  EXPECT_FALSE(world.IsOut("n1")) << "another server";
  config.pools[0].eject.after = 0;
  ASSERT_TRUE(world.Apply(config).ok());
  world.PassChecking(1s);
  EXPECT_FALSE(world.IsOut("n2"));
  world.Unanswered("n2", 100);
  world.PassChecking(1s);
  EXPECT_FALSE(world.IsOut("n2"));
}

TEST(ClusterEjection, AsksWithAHandshakeAsTheNodesClientsComeWhateverThePoolSaysOfChecks) {
  for (const NodeCheck check : {NodeCheck::kOff, NodeCheck::kConnect}) {
    ClusterConfig config = Ejecting::Config({.mute = 700ms}, 2);
    config.pools[0].check = check;
    config.pools[0].health_interval = 100ms;  // its own checks leave time for it
    config.pools[0].proxy_protocol = ProxyProtocol::kV2;
    config.listeners[0].routes.push_back({.sni = {"www.example.com"}, .pool = "web"});
    World world(config);
    world.CountersOf("n1").unanswered = 5;
    size_t asked = 0;
    for (int turn = 0; turn < 25; ++turn) {
      world.now += 100ms;
      world.Tick();
      for (const auto& order : world.cluster.TakeProbes(world.now)) {
        const bool asks = order.node == world.Ref("n1") && order.check == NodeCheck::kTls;
        world.cluster.OnProbe(order.node, asks ? ProbeEnd::kNoConnect : ProbeEnd::kConnected, world.now);
        if (!asks) continue;
        ++asked;
        EXPECT_TRUE(order.proxy_header);
        EXPECT_EQ(order.server_name, "www.example.com");
        EXPECT_EQ(order.answer_within, 700ms);
      }
    }
    EXPECT_THAT(asked, ::testing::AllOf(::testing::Ge(2U), ::testing::Le(3U)));
  }
}

// ---- Checks by handshakes --------------------------------------------------------------------------------------------------

class Checking : public World {
 public:
  explicit Checking(NodeCheck check) : World(Config(check)) {}
  static ClusterConfig Config(NodeCheck check) {
    ClusterConfig config = OnePool({Node("n1", "10.0.0.1:1"), Node("n2", "10.0.0.2:1")});
    config.listeners[0].routes.push_back({.sni = {"*.example.com", "192.0.2.1", "www.example.com"}, .pool = "web"});
    config.pools[0].check = check;
    config.pools[0].proxy_protocol = ProxyProtocol::kV2;
    return config;
  }
  // Answers all checks of `duration`; the orders.
  std::vector<Cluster::ProbeOrder> PassChecking(Duration duration, const std::map<std::string, ProbeEnd>& ends) {
    std::vector<Cluster::ProbeOrder> all;
    for (const Instant until = now + duration; now < until; now += 10ms) {
      Tick();
      for (const Cluster::ProbeOrder& order : cluster.TakeProbes(now)) {
        all.push_back(order);
        cluster.OnProbe(order.node, ends.at(order.node == Ref("n1") ? "n1" : "n2"), now);
        cluster.check_invariants();
      }
    }
    return all;
  }
};

TEST(ClusterChecks, AStaticNodeIsUnknownUntilItsFirstCheckHasEnded) {
  Checking world(NodeCheck::kAuto);
  EXPECT_EQ(world.State("n1"), "unknown");
  EXPECT_TRUE(world.IsUsable("n1"));
  EXPECT_EQ(world.StatusOf("n1").verdicts.StateName(), "unknown");
  world.PassChecking(1s, {{"n1", ProbeEnd::kConnected}, {"n2", ProbeEnd::kNoConnect}});
  EXPECT_EQ(world.State("n1"), "up");
  EXPECT_EQ(Checking(NodeCheck::kOff).State("n1"), "up") << "nobody is going to look";
  Checking heard(NodeCheck::kAuto);
  heard.CountersOf("n2").total = 1;
  ASSERT_TRUE(heard.Report("n1", "10.0.0.1:1").ok());
  heard.Tick();
  EXPECT_EQ(heard.State("n1"), "up");
  EXPECT_EQ(heard.State("n2"), "up") << "a connection was joined";
}

TEST(ClusterChecks, AutoIsByConnectUntilANodeOfThePoolHasAnsweredAHandshake) {
  Checking world(NodeCheck::kAuto);
  for (const auto& order : world.PassChecking(8s, {{"n1", ProbeEnd::kConnected}, {"n2", ProbeEnd::kConnected}})) {
    EXPECT_EQ(order.check, NodeCheck::kAuto);
    EXPECT_TRUE(order.proxy_header);
    EXPECT_EQ(order.server_name, "www.example.com");
  }
  world.PassChecking(8s, {{"n1", ProbeEnd::kTls}, {"n2", ProbeEnd::kConnected}});
  const auto orders = world.PassChecking(8s, {{"n1", ProbeEnd::kTls}, {"n2", ProbeEnd::kTls}});
  EXPECT_FALSE(orders.empty());
  for (const auto& order : orders) EXPECT_EQ(order.check, NodeCheck::kTls);
  ASSERT_TRUE(world.Apply(Checking::Config(NodeCheck::kConnect)).ok());
  for (const auto& order : world.PassChecking(8s, {{"n1", ProbeEnd::kConnected}, {"n2", ProbeEnd::kConnected}})) {
    EXPECT_EQ(order.check, NodeCheck::kConnect);
  }
}

TEST(ClusterChecks, OnlyACheckThatIsAnsweredBringsBackANodeThatDidNotAnswerChecks) {
  Checking world(NodeCheck::kTls);
  world.PassChecking(20s, {{"n1", ProbeEnd::kNoAnswer}, {"n2", ProbeEnd::kTls}});
  EXPECT_EQ(world.State("n1"), "down");
  EXPECT_EQ(world.State("n2"), "up");
  world.CountersOf("n1").connect_failures = 0;  // a worker's connect succeeded
  world.Tick();
  EXPECT_EQ(world.State("n1"), "down");
  world.PassChecking(60s, {{"n1", ProbeEnd::kTls}, {"n2", ProbeEnd::kTls}});
  EXPECT_EQ(world.State("n1"), "up");
}

TEST(ClusterLeaving, ANodeThatWasRemovedIsListedUntilItIsGone) {
  World world(OnePool({Node("n1", "10.0.0.1:1"), Node("n2", "10.0.0.2:1")}));
  world.CountersOf("n2").active = 1;
  const NodeRef n2 = world.Ref("n2");
  ASSERT_TRUE(world.Apply(OnePool({Node("n1", "10.0.0.1:1")})).ok());
  world.Publish();
  world.Pass(60s);
  ASSERT_THAT(world.cluster.Leaving(), SizeIs(1));
  EXPECT_EQ(world.cluster.Leaving()[0].name, "n2");
  EXPECT_EQ(world.cluster.Leaving()[0].ref, n2);
  world.counters->node(n2.index).active = 0;
  world.Pass(20s);
  EXPECT_THAT(world.cluster.Leaving(), IsEmpty());
}

TEST(ClusterStatus, ShowsWhatIsKnownOfANode) {
  World world(OnePool({Node("n1", "10.0.0.1:1", 42), Node("n2", "10.0.0.2:1")}));
  BeaconEvent event = World::ReportOf("n1", "10.0.0.1:1");
  event.report.prefixes = {Prefix(1), Prefix(2)};
  event.report.health.connections = 17;
  ASSERT_TRUE(world.Hear(event).ok());
  const Cluster::NodeStatus n1 = world.StatusOf("n1");
  EXPECT_EQ(n1.ref, world.Ref("n1"));
  EXPECT_EQ(n1.weight, 42);
  EXPECT_TRUE(n1.is_static);
  EXPECT_TRUE(n1.has_agent);
  EXPECT_EQ(n1.last_beacon, world.now);
  EXPECT_EQ(n1.prefixes, 2U);
  EXPECT_EQ(n1.health.connections, 17U);
  const Cluster::NodeStatus n2 = world.StatusOf("n2");
  EXPECT_FALSE(n2.has_agent);
  EXPECT_FALSE(n2.last_beacon);
  EXPECT_THAT(world.cluster.StatusOf(PoolIndex{99}), IsEmpty());
}

}  // namespace
}  // namespace hud
