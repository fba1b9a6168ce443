#include "core/routing/choice.h"

#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/routing/balance.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hud {
namespace {

using namespace std::chrono_literals;
using testing::UnorderedElementsAre;

constexpr Balance kBalances[] = {Balance::kPowerOfTwo, Balance::kLeastConnections, Balance::kRoundRobin, Balance::kMaglev};
constexpr PoolIndex kWeb{0};
constexpr PoolIndex kOther{1};
const Instant kNow{1h};

OfferedToken Token(std::string_view text, size_t full_length = 0) {
  OfferedToken token;
  token.head_length = static_cast<uint8_t>(std::min(text.size(), token.head.size()));
  std::copy_n(text.begin(), token.head_length, token.head.begin());
  token.full_length = static_cast<uint16_t>(std::max(text.size(), full_length));
  return token;
}

ClientHello WithPsk(std::vector<OfferedToken> identities) {
  ClientHello hello;
  hello.offers_tls13 = hello.has_psk = true;
  for (const OfferedToken& identity : identities) hello.psk_identities[hello.psk_identity_count++] = identity;
  hello.session_id = Token("a session id that TLS 1.3 made up");
  return hello;
}
ClientHello WithTicket(OfferedToken ticket) {
  ClientHello hello;
  hello.has_ticket = true;
  hello.ticket = ticket;
  hello.session_id = Token("a session id that the client made");
  return hello;
}
ClientHello WithSessionId(OfferedToken id) {
  ClientHello hello;
  hello.session_id = id;
  return hello;
}
ClientHello WithMadeUpSessionId(OfferedToken id) {
  ClientHello hello = WithSessionId(id);
  hello.lists_versions = true;
  return hello;
}

// A route table to play with: pool "web" of nodes 0..n-1, pool "other" with node 9.
class World {
 public:
  explicit World(size_t nodes = 3) {
    table_.nodes.resize(10);
    for (uint16_t i = 0; i < table_.nodes.size(); ++i) {
      table_.nodes[i].name = "n" + std::to_string(i);
      table_.nodes[i].generation = 1;
    }
    table_.pools.resize(2);
    web().name = "web";
    for (uint16_t i = 0; i < nodes; ++i) web().members.push_back({static_cast<NodeIndex>(i), 100});
    table_.pools[1].name = "other";
    table_.pools[1].members.push_back({static_cast<NodeIndex>(9), 100});
  }

  PoolView& web() { return table_.pools[0]; }
  NodeView& node(int i) { return table_.nodes[i]; }
  NodeCounters& counters(int i) { return counters_->node(static_cast<NodeIndex>(i)); }
  RouteTable& table() { return table_; }

  void Active(std::vector<int> active) {
    for (size_t i = 0; i < active.size(); ++i) counters(static_cast<int>(i)).active = active[i];
  }
  void Down(int i) { node(i).verdicts.reachable = false; }
  void Silent(int i) { node(i).verdicts.agent = AgentVerdict::kSilent; }
  void Learn(std::string_view token, int owner, uint16_t generation = 1) {
    const OfferedToken offered = Token(token);
    affinity_->Insert(offered.head_bytes(), {static_cast<NodeIndex>(owner), generation}, kNow + 1h, kNow);
  }
  void Prefix(std::string_view prefix, std::vector<int> owners) {
    const Bytes bytes{reinterpret_cast<const uint8_t*>(prefix.data()), prefix.size()};
    for (const int owner : owners) prefixes_.push_back({TicketPrefix::Of(bytes), static_cast<NodeIndex>(owner)});
    table_.prefixes = PrefixStore(prefixes_);
  }
  void Use(Balance balance) {
    web().balance = balance;
    if (balance != Balance::kMaglev) return;
    std::vector<MaglevMember> members;
    for (const PoolMember& member : web().members) members.push_back({node(Raw(member.node)).name, member.weight});
    web().maglev = BuildMaglev(members);
  }

  NodeChoice Choose(const ClientHello* hello, std::vector<int> tried = {}, PoolIndex pool = kWeb) {
    std::vector<NodeIndex> indices;
    for (const int node : tried) indices.push_back(static_cast<NodeIndex>(node));
    return ChooseNode({.table = table_, .affinity = *affinity_, .counters = *counters_, .now = kNow, .random = random_(),
                       .client_hash = client_hash_},
                      pool, hello, indices);
  }
  // The nodes that many choices give, and how often.
  std::map<int, int> ChooseMany(int times, const ClientHello* hello = nullptr, std::vector<int> tried = {}) {
    std::map<int, int> counts;
    for (int i = 0; i < times; ++i) {
      client_hash_ = random_();
      const NodeChoice choice = Choose(hello, tried);
      ++counts[choice.node ? Raw(choice.node.index) : -1];
    }
    return counts;
  }
  void set_client_hash(uint64_t hash) { client_hash_ = hash; }
  uint64_t Random() { return random_(); }

 private:
  RouteTable table_;
  std::vector<PrefixStore::Entry> prefixes_;
  std::unique_ptr<AffinityMap> affinity_ = std::make_unique<AffinityMap>(AffinityMap::Options{.capacity = 1000, .key = {1, 2}});
  std::unique_ptr<NodeTable> counters_ = std::make_unique<NodeTable>();
  std::mt19937_64 random_{42};
  uint64_t client_hash_ = 0;
};

const std::string kKeyA = "key-name-of-A-16";
const std::string kKeyB = "key-name-of-B-16";
const std::string kLong = " and the rest of a ticket, longer than a head";

// ---- By token ------------------------------------------------------------------------------------------------------------

struct Row {
  const char* name;
  ClientHello hello;
  std::function<void(World&)> given;
  int node;  // -1: whatever the balance gives
  ChoiceReason reason;
  TokenKind offered;
};

TEST(ChooseNode, ByToken) {
  const Row rows[] = {
      {"an exact PSK identity", WithPsk({Token("id-1")}), [](World& w) { w.Learn("id-1", 2); }, 2,
       ChoiceReason::kExactToken, TokenKind::kPskIdentity},
      {"a PSK identity by its prefix", WithPsk({Token(kKeyA + kLong)}), [](World& w) { w.Prefix(kKeyA, {1}); }, 1,
       ChoiceReason::kTicketPrefix, TokenKind::kPskIdentity},
      {"an exact token before its prefix", WithPsk({Token(kKeyA + " short")}),
       [](World& w) { w.Prefix(kKeyA, {1}), w.Learn(kKeyA + " short", 2); }, 2, ChoiceReason::kExactToken,
       TokenKind::kPskIdentity},
      {"a head that equals a known token is not that token when more follows", WithPsk({Token("id-1", 100)}),
       [](World& w) { w.Learn("id-1", 2); }, -1, ChoiceReason::kBalance, TokenKind::kPskIdentity},
      {"the second identity when the first is unknown", WithPsk({Token("unknown"), Token("id-2")}),
       [](World& w) { w.Learn("id-2", 1); }, 1, ChoiceReason::kExactToken, TokenKind::kPskIdentity},
      {"the first identity when both are known", WithPsk({Token("id-1"), Token("id-2")}),
       [](World& w) { w.Learn("id-1", 0), w.Learn("id-2", 1); }, 0, ChoiceReason::kExactToken, TokenKind::kPskIdentity},
      {"the second identity when the first one's owner is down", WithPsk({Token("id-1"), Token("id-2")}),
       [](World& w) { w.Learn("id-1", 0), w.Learn("id-2", 1), w.Down(0); }, 1, ChoiceReason::kExactToken,
       TokenKind::kPskIdentity},
      {"the prefix when the exact owner is down", WithPsk({Token(kKeyA + " short")}),
       [](World& w) { w.Prefix(kKeyA, {1}), w.Learn(kKeyA + " short", 2), w.Down(2); }, 1, ChoiceReason::kTicketPrefix,
       TokenKind::kPskIdentity},
      {"a PSK whose session id is known: the session id is not looked at", WithPsk({Token("unknown")}),
       [](World& w) { w.Learn("a session id that TLS 1.3 made up", 1); }, -1, ChoiceReason::kBalance,
       TokenKind::kPskIdentity},
      {"a ticket by its prefix", WithTicket(Token(kKeyA + kLong)), [](World& w) { w.Prefix(kKeyA, {1}); }, 1,
       ChoiceReason::kTicketPrefix, TokenKind::kTicket},
      {"an unknown ticket counts as offered", WithTicket(Token("unknown")), [](World&) {}, -1, ChoiceReason::kBalance,
       TokenKind::kTicket},
      {"a known session id", WithSessionId(Token("sid")), [](World& w) { w.Learn("sid", 1); }, 1,
       ChoiceReason::kExactToken, TokenKind::kSessionId},
      {"an unknown session id counts as offered", WithSessionId(Token("sid")), [](World&) {}, -1, ChoiceReason::kBalance,
       TokenKind::kSessionId},
      {"unless the client may have made it up", WithMadeUpSessionId(Token("sid")), [](World&) {}, -1, ChoiceReason::kBalance,
       TokenKind::kNone},
      {"one that is known was not made up", WithMadeUpSessionId(Token("sid")), [](World& w) { w.Learn("sid", 1); }, 1,
       ChoiceReason::kExactToken, TokenKind::kSessionId},
      {"a session id that begins like a prefix is exact only", WithSessionId(Token(kKeyA + " and more")),
       [](World& w) { w.Prefix(kKeyA, {1}); }, -1, ChoiceReason::kBalance, TokenKind::kSessionId},
      {"a known session id whose owner is down was offered", WithSessionId(Token("sid")),
       [](World& w) { w.Learn("sid", 1), w.Down(1); }, -1, ChoiceReason::kOwnerDown, TokenKind::kSessionId},
      {"nothing offered", ClientHello{}, [](World&) {}, -1, ChoiceReason::kBalance, TokenKind::kNone},
      {"an owner of another pool is no owner here", WithPsk({Token("id-1")}), [](World& w) { w.Learn("id-1", 9); }, -1,
       ChoiceReason::kBalance, TokenKind::kPskIdentity},
      {"an owner whose slot was given to another node", WithPsk({Token("id-1")}), [](World& w) { w.Learn("id-1", 1, 7); },
       -1, ChoiceReason::kBalance, TokenKind::kPskIdentity},
      {"an owner beyond the table", WithPsk({Token("id-1")}), [](World& w) { w.Learn("id-1", 1000); }, -1,
       ChoiceReason::kBalance, TokenKind::kPskIdentity},
      {"the longest prefix belongs to another pool: the shorter one counts", WithPsk({Token(kKeyA + kLong)}),
       [](World& w) { w.Prefix(kKeyA, {9}), w.Prefix(kKeyA.substr(0, 8), {2}); }, 2, ChoiceReason::kTicketPrefix,
       TokenKind::kPskIdentity},
      {"a shared prefix, of which only one owner is in the pool", WithPsk({Token(kKeyA + kLong)}),
       [](World& w) { w.Prefix(kKeyA, {1, 9}); }, 1, ChoiceReason::kTicketPrefix, TokenKind::kPskIdentity},
      {"a shared prefix goes to the least loaded owner", WithPsk({Token(kKeyA + kLong)}),
       [](World& w) { w.Prefix(kKeyA, {0, 1, 2}), w.Active({9, 5, 8}); }, 1, ChoiceReason::kTicketPrefix,
       TokenKind::kPskIdentity},
      {"a shared prefix: load is relative to weight", WithPsk({Token(kKeyA + kLong)}),
       [](World& w) { w.Prefix(kKeyA, {0, 1}), w.Active({9, 5, 8}), w.web().members[0].weight = 300; }, 0,
       ChoiceReason::kTicketPrefix, TokenKind::kPskIdentity},
      {"a shared prefix: silent owners last", WithPsk({Token(kKeyA + kLong)}),
       [](World& w) { w.Prefix(kKeyA, {0, 1}), w.Active({9, 5, 8}), w.Silent(1); }, 0, ChoiceReason::kTicketPrefix,
       TokenKind::kPskIdentity},
      {"a silent owner still has its keys", WithPsk({Token("id-1")}), [](World& w) { w.Learn("id-1", 1), w.Silent(1); }, 1,
       ChoiceReason::kExactToken, TokenKind::kPskIdentity},
      {"an owner of weight 0", WithPsk({Token("id-1")}),
       [](World& w) { w.Learn("id-1", 1), w.web().members[1].weight = 0; }, 1, ChoiceReason::kExactToken,
       TokenKind::kPskIdentity},
      {"an owner of weight 0 that still has many connections", WithPsk({Token("id-1")}),
       [](World& w) { w.Learn("id-1", 1), w.web().members[1].weight = 0, w.Active({100, 100, 100}); }, 1,
       ChoiceReason::kExactToken, TokenKind::kPskIdentity},
      {"an owner to which connects have just failed, before control has judged it", WithPsk({Token("id-1")}),
       [](World& w) { w.Learn("id-1", 1), w.counters(1).connect_failures = 3; }, -1, ChoiceReason::kOwnerDown,
       TokenKind::kPskIdentity},
      {"an owner with one failure less", WithPsk({Token("id-1")}),
       [](World& w) { w.Learn("id-1", 1), w.counters(1).connect_failures = 2; }, 1, ChoiceReason::kExactToken,
       TokenKind::kPskIdentity},
      {"a draining owner", WithPsk({Token("id-1")}),
       [](World& w) { w.Learn("id-1", 1), w.node(1).verdicts.by_operator = OperatorVerdict::kDraining; }, -1,
       ChoiceReason::kOwnerDown, TokenKind::kPskIdentity},
      {"an owner that says it is not ready", WithPsk({Token("id-1")}),
       [](World& w) { w.Learn("id-1", 1), w.node(1).verdicts.agent = AgentVerdict::kNotReady; }, -1,
       ChoiceReason::kOwnerDown, TokenKind::kPskIdentity},
      {"an owner over its bound", WithPsk({Token("id-1")}), [](World& w) { w.Learn("id-1", 1), w.Active({20, 100, 20}); },
       -1, ChoiceReason::kOwnerOverBound, TokenKind::kPskIdentity},
      {"one owner down and one over its bound", WithPsk({Token(kKeyA + kLong)}),
       [](World& w) { w.Prefix(kKeyA, {0, 1}), w.Down(0), w.Active({0, 100, 20}); }, -1, ChoiceReason::kOwnerOverBound,
       TokenKind::kPskIdentity},
      {"of a shared prefix, the owner that is under its bound", WithPsk({Token(kKeyA + kLong)}),
       [](World& w) { w.Prefix(kKeyA, {0, 1}), w.Active({60, 100, 20}); }, 0, ChoiceReason::kTicketPrefix,
       TokenKind::kPskIdentity},
  };
  for (const Row& row : rows) {
    World world;
    row.given(world);
    for (int i = 0; i < 20; ++i) {
      const NodeChoice choice = world.Choose(&row.hello);
      ASSERT_TRUE(choice.node) << row.name;
      EXPECT_EQ(choice.reason, row.reason) << row.name << ": " << ChoiceReasonName(choice.reason);
      EXPECT_EQ(choice.offered, row.offered) << row.name;
      EXPECT_EQ(choice.node.generation, 1) << row.name;
      if (row.node >= 0) {
        EXPECT_EQ(Raw(choice.node.index), row.node) << row.name;
      }
      EXPECT_LT(Raw(choice.node.index), 3) << row.name << ": a node outside the pool";
    }
  }
}

TEST(ChooseNode, EqualOwnersOfASharedPrefixTakeTurns) {
  World world;
  world.Prefix(kKeyA, {0, 1, 2});
  const ClientHello hello = WithPsk({Token(kKeyA + kLong)});
  const std::map<int, int> counts = world.ChooseMany(3000, &hello);
  for (const int node : {0, 1, 2}) EXPECT_NEAR(counts.at(node), 1000, 150);
}

// ---- The load bound --------------------------------------------------------------------------------------------------------

struct BoundRow {
  const char* name;
  std::vector<uint16_t> weights;
  std::vector<int> active;  // of all nodes; node 0 is the owner
  double bound;
  uint32_t floor;
  bool taken;
  std::set<int> down = {};
};

TEST(ChooseNode, TheLoadBound) {
  const BoundRow rows[] = {
      {"the floor's last place", {100, 100}, {15, 0}, 1.5, 16, true},
      {"the floor is full, and the others are idle", {100, 100}, {16, 0}, 1.5, 16, false},
      {"within 1.5 of the mean", {100, 100}, {74, 25}, 1.5, 16, true},
      {"beyond it", {100, 100}, {76, 25}, 1.5, 16, false},
      {"a heavier node may have more", {300, 100}, {150, 30}, 1.5, 16, true},
      {"a lighter one less", {100, 300}, {80, 120}, 1.5, 16, false},
      {"the only node is never over its bound", {100}, {5000}, 1.0, 16, true},
      {"two of three are down: the one that is left carries all", {100, 100, 100}, {900, 0, 0}, 1.5, 16, true, {1, 2}},
      {"the connections of a node that is down do not count", {100, 100, 100}, {90, 10, 1000}, 1.5, 16, false, {2}},
      {"no floor", {100, 100}, {1, 0}, 1.5, 0, false},
  };
  for (const BoundRow& row : rows) {
    World world(row.weights.size());
    for (size_t i = 0; i < row.weights.size(); ++i) world.web().members[i].weight = row.weights[i];
    for (const int node : row.down) world.Down(node);
    world.Active(row.active);
    world.web().load_bound = row.bound;
    world.web().load_bound_floor = row.floor;
    world.Learn("id-1", 0);
    const ClientHello hello = WithPsk({Token("id-1")});
    EXPECT_EQ(world.Choose(&hello).reason, row.taken ? ChoiceReason::kExactToken : ChoiceReason::kOwnerOverBound) << row.name;
  }
}

TEST(ChooseNode, ClientsThatAimAtOneNodeCannotPushItPastItsBound) {
  for (const Balance balance : kBalances) {
    World world(5);
    world.Use(balance);
    world.Prefix(kKeyA, {0});
    const ClientHello aimed = WithPsk({Token(kKeyA + kLong)});
    int total = 0;
    for (int i = 0; i < 2000; ++i, ++total) {
      ++world.counters(Raw(world.Choose(&aimed).node.index)).active;
      const int on_target = world.counters(0).active;
      EXPECT_LE(on_target, std::max(16.0, 1.5 * (total + 1) / 5.0));
    }
    EXPECT_GT(world.counters(0).active, 500) << "tokens still count for something";
  }
}

// ---- By balance ------------------------------------------------------------------------------------------------------------

struct BalanceRow {
  const char* name;
  std::function<void(World&)> given;
  std::set<int> nodes;  // exactly those that are ever chosen; -1: none
  ChoiceReason reason;
  std::vector<int> tried = {};
};

TEST(ChooseNode, ByBalance) {
  const BalanceRow rows[] = {
      {"all usable", [](World&) {}, {0, 1, 2}, ChoiceReason::kBalance},
      {"one is down", [](World& w) { w.Down(1); }, {0, 2}, ChoiceReason::kBalance},
      {"one has failed three times", [](World& w) { w.counters(2).connect_failures = 3; }, {0, 1}, ChoiceReason::kBalance},
      {"one is silent: last", [](World& w) { w.Silent(0); }, {1, 2}, ChoiceReason::kBalance},
      {"all others are down: the silent one", [](World& w) { w.Silent(0), w.Down(1), w.Down(2); }, {0}, ChoiceReason::kBalance},
      {"one of weight 0", [](World& w) { w.web().members[2].weight = 0; }, {0, 1}, ChoiceReason::kBalance},
      {"only one of weight 0 is left: no new clients for it",
       [](World& w) { w.web().members[2].weight = 0, w.Down(0), w.Down(1); }, {-1}, ChoiceReason::kNone},
      {"none usable, close", [](World& w) { w.Down(0), w.Down(1), w.Down(2); }, {-1}, ChoiceReason::kNone},
      {"none usable, any",
       [](World& w) { w.Down(0), w.Down(1), w.Down(2), w.web().when_none = WhenNone::kAny; }, {0, 1, 2}, ChoiceReason::kAny},
      {"any is not what the operator switched off",
       [](World& w) {
         w.Down(0), w.Down(1), w.Down(2), w.web().when_none = WhenNone::kAny;
         w.node(1).verdicts.by_operator = OperatorVerdict::kOff;
       },
       {0, 2}, ChoiceReason::kAny},
      {"any, but one is usable", [](World& w) { w.Down(0), w.Down(1), w.web().when_none = WhenNone::kAny; }, {2},
       ChoiceReason::kBalance},
      {"any, and no member at all", [](World& w) { w.web().members.clear(), w.web().when_none = WhenNone::kAny; }, {-1},
       ChoiceReason::kNone},
      {"a retry leaves out what was tried", [](World&) {}, {0}, ChoiceReason::kRetry, {1, 2}},
      {"a retry with all tried", [](World&) {}, {-1}, ChoiceReason::kNone, {0, 1, 2}},
      {"any leaves out what was tried", [](World& w) { w.Down(0), w.Down(1), w.Down(2), w.web().when_none = WhenNone::kAny; },
       {2}, ChoiceReason::kAny, {0, 1}},
      {"an empty pool", [](World& w) { w.web().members.clear(); }, {-1}, ChoiceReason::kNone},
  };
  for (const BalanceRow& row : rows) {
    for (const Balance balance : kBalances) {
      World world;
      row.given(world);
      world.Use(balance);
      std::set<int> nodes;
      for (const auto& [node, count] : world.ChooseMany(200, nullptr, row.tried)) nodes.insert(node);
      EXPECT_EQ(nodes, row.nodes) << row.name << ", balance " << static_cast<int>(balance);
      EXPECT_EQ(world.Choose(nullptr, row.tried).reason, row.reason) << row.name << ", balance " << static_cast<int>(balance);
    }
  }
}

TEST(ChooseNode, APoolThatIsGoneHasNoNode) {
  World world;
  EXPECT_FALSE(world.Choose(nullptr, {}, static_cast<PoolIndex>(2)).node);
  EXPECT_FALSE(world.Choose(nullptr, {}, PoolIndex::kNone).node);
  EXPECT_EQ(Raw(world.Choose(nullptr, {}, kOther).node.index), 9);
}

TEST(ChooseNode, ARetryPrefersAnotherOwner) {
  World world;
  world.Prefix(kKeyA, {0, 1});
  const ClientHello hello = WithPsk({Token(kKeyA + kLong)});
  NodeChoice choice = world.Choose(&hello, {0});
  EXPECT_EQ(Raw(choice.node.index), 1);
  EXPECT_EQ(choice.reason, ChoiceReason::kTicketPrefix);
  choice = world.Choose(&hello, {0, 1});
  EXPECT_EQ(Raw(choice.node.index), 2);
  EXPECT_EQ(choice.reason, ChoiceReason::kRetry);
  EXPECT_EQ(choice.offered, TokenKind::kPskIdentity);
}

TEST(ChooseNode, ANodeInItsSlowStartGetsAGrowingPart) {
  for (const Balance balance : kBalances) {
    World world(2);
    world.Use(balance);
    world.web().slow_start = 10s;
    int last = 0;
    for (const auto& [up, part] : std::map<Duration, double>{{0s, 0.1}, {5s, 0.55}, {10s, 1.0}}) {
      world.node(1).up_since = kNow - up;
      const int count = world.ChooseMany(20'000)[1];
      // Maglev takes the clients that are its own by the table, a part of them; the others share by weight.
      const double due = balance == Balance::kMaglev ? part / 2 : part / (1 + part);
      EXPECT_NEAR(count / 20'000.0, due, 0.02) << "balance " << static_cast<int>(balance) << " up " << up.count();
      EXPECT_GT(count, last);
      last = count;
    }
  }
}

TEST(ChooseNode, MaglevKeepsAClientWhereItWas) {
  World world(10);
  world.table().nodes.resize(11);
  world.Use(Balance::kMaglev);
  const auto choices = [&] {
    std::vector<int> result;
    std::mt19937_64 clients(1);
    for (int i = 0; i < 5000; ++i) {
      world.set_client_hash(clients());
      result.push_back(Raw(world.Choose(nullptr).node.index));
    }
    return result;
  };
  const std::vector<int> before = choices();
  EXPECT_EQ(choices(), before) << "the same client, the same node";
  world.Down(3);
  const std::vector<int> during = choices();
  std::map<int, int> taken_over;
  for (size_t i = 0; i < before.size(); ++i) {
    if (before[i] == 3) {
      ++taken_over[during[i]];
    } else {
      EXPECT_EQ(during[i], before[i]);
    }
  }
  EXPECT_EQ(taken_over.size(), 9U) << "its clients spread over all the others";
  EXPECT_EQ(taken_over.count(3), 0U);
  world.node(3).verdicts.reachable = true;
  EXPECT_EQ(choices(), before) << "and come back";
}

TEST(ChooseNode, AnEjectedNodeGetsWhatNoOtherCanTake) {
  for (const Balance balance : {Balance::kPowerOfTwo, Balance::kLeastConnections, Balance::kRoundRobin, Balance::kMaglev}) {
    World world(3);
    world.Use(balance);
    world.Learn("token", 0);
    world.node(0).verdicts.ejected = true;
    world.Active({0, 900, 900});  // it answers nobody, and so has the fewest connections
    EXPECT_EQ(world.ChooseMany(100).count(0), 0U);
    const ClientHello hello = WithTicket(Token("token"));
    const NodeChoice owned = world.Choose(&hello);
    EXPECT_NE(Raw(owned.node.index), 0);
    EXPECT_EQ(owned.reason, ChoiceReason::kOwnerDown);
    world.Silent(1), world.Silent(2);
    EXPECT_EQ(world.ChooseMany(100).count(0), 0U) << "silent ones come before it";
    world.Down(1), world.Down(2);
    EXPECT_THAT(world.ChooseMany(20), UnorderedElementsAre(testing::Pair(0, 20)));
  }
}

TEST(ChooseNode, MaglevFindsTheOneLightNodeThatIsLeft) {
  World world(3);
  world.web().members[0].weight = 1000;
  world.web().members[1].weight = 1000;
  world.web().members[2].weight = 1;
  world.Use(Balance::kMaglev);
  world.Down(0), world.Down(1);
  EXPECT_THAT(world.ChooseMany(200), UnorderedElementsAre(testing::Pair(2, 200)));
}

// ---- Routes ----------------------------------------------------------------------------------------------------------------

TEST(ChooseRoute, ByNameOrTheDefaultPool) {
  ListenerView listener;
  ASSERT_TRUE(listener.router.Add("www.example.com", {}, kOther, 3).ok());
  ClientHello hello;
  const std::string name = "www.example.com";
  std::copy(name.begin(), name.end(), hello.server_name_bytes.begin());
  hello.server_name_length = static_cast<uint8_t>(name.size());
  EXPECT_EQ(ChooseRoute(listener, &hello, {}).pool, kOther);
  EXPECT_EQ(ChooseRoute(listener, &hello, {}).route, 3);
  const ClientHello nameless{};
  EXPECT_EQ(ChooseRoute(listener, &nameless, {}).pool, PoolIndex::kNone);
  EXPECT_EQ(ChooseRoute(listener, nullptr, {}).pool, PoolIndex::kNone);
  listener.default_pool = kWeb;
  EXPECT_EQ(ChooseRoute(listener, &nameless, {}).pool, kWeb);
  EXPECT_EQ(ChooseRoute(listener, &nameless, {}).route, 0xffff);
  EXPECT_EQ(ChooseRoute(listener, nullptr, {}).pool, kWeb);
}

TEST(NodeTable, ResetLeavesNothingOfTheNodeBefore) {
  auto table = std::make_unique<NodeTable>();
  NodeCounters& node = table->node(static_cast<NodeIndex>(5));
  node.active = 1, node.connect_failures = 2, node.reported_load = 3, node.total = 4, node.offered = 5, node.resumed = 6;
  node.failed_connects = 7;
  node.Reset();
  EXPECT_EQ(node.active + node.connect_failures + node.reported_load + node.total + node.offered + node.resumed +
                node.failed_connects, 0U);
}

}  // namespace
}  // namespace hud
