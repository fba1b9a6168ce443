// A connection before it relays, and how it ends: hello, choice of a node, connect, limits, drain.
#include <gtest/gtest.h>

#include "tests/unit/core/tls/hello_builder.h"
#include "tests/unit/ring/test_bed.h"

namespace hud::testing {
namespace {

constexpr std::string_view kNotTls = "GET / HTTP/1.1\r\n\r\n";
constexpr std::string_view kHelloBegun("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11);

TEST(Hello, BytesThatComeOneByOneReachTheNodeUntouched) {
  TestBed bed;
  Peer client = bed.Client();
  const std::string first = std::string(kHelloBegun) + std::string(505, 'h');
  for (char c : first) client.Send({&c, 1});
  client.Send("and what follows");
  Peer node = bed.Node();
  EXPECT_EQ(node.Receive(first.size() + 16), first + "and what follows");
}

TEST(Hello, AClientThatStallsIsClosedAtTheDeadline) {
  TestBed bed({.adjust = [](RouteTable& table) { table.listeners[0].hello_deadline = 300ms; }});
  Peer client = bed.Client();
  client.Send(kHelloBegun);
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(client.HowItEnds(), "end");
  const auto took = std::chrono::steady_clock::now() - began;
  EXPECT_GE(took, 290ms);
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kHelloTimeout) == 1; }));
}

TEST(Hello, AHelloBeyondTheCapIsClosed) {
  TestBed bed({.adjust = [](RouteTable& table) { table.listeners[0].hello_max_bytes = 1024; }});
  Peer client = bed.Client();
  client.Send(std::string("\x16\x03\x01\x20\x00\x01\x00\x1f\xfc\x03\x03", 11) + std::string(1000, 'h'));
  client.HowItEnds();
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kHelloTooLarge) == 1; }));
}

TEST(Hello, WithoutARouteATlsClientIsToldSo) {
  TestBed bed({.adjust = [](RouteTable& table) { table.listeners[0].default_pool = PoolIndex::kNone; }});
  Peer client = bed.Client();
  const std::vector<uint8_t> bytes = test::Record(test::Hello({}, test::ServerName("nobody.example")));
  client.Send({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  EXPECT_EQ(client.Receive(100), std::string("\x15\x03\x03\x00\x02\x02\x70", 7));
  client.Close();
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kUnrecognizedName) == 1; }));
}

TEST(Hello, TheSameHelloManyTimesAtOnceIsALoopAndIsStopped) {
  TestBed bed;
  const auto hello = [](uint8_t seed) {
    const std::vector<uint8_t> bytes =
        test::Record(test::Hello({.random = test::Counting(32, seed)}, test::ServerName("circle.example")));
    return std::string(bytes.begin(), bytes.end());
  };
  std::vector<Peer> round;
  for (uint32_t i = 0; i < LoopGuard::kMost; ++i) {
    round.push_back(bed.Client());
    round.back().Send(hello(1));
    round.push_back(bed.Node());
    EXPECT_EQ(round.back().Receive(hello(1).size()), hello(1));
  }
  Peer again = bed.Client();
  again.Send(hello(1));
  EXPECT_EQ(again.HowItEnds(), "end");
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kLoop) == 1; }));
  Peer other = bed.Client();
  other.Send(hello(2));
  EXPECT_EQ(bed.Node().Receive(hello(2).size()), hello(2));
  round.clear();
  EXPECT_TRUE(bed.Eventually([&] { return bed.counters().active.Get() <= 1; }));
  Peer later = bed.Client();
  later.Send(hello(1));
  EXPECT_EQ(bed.Node().Receive(hello(1).size()), hello(1));
}

TEST(Hello, AClientThatLeavesIsForgotten) {
  TestBed bed;
  for (bool reset : {false, true}) {
    Peer client = bed.Client();
    client.Send(kHelloBegun);
    ASSERT_TRUE(bed.Eventually([&] { return bed.counters().hello_bytes_held.Get() > 0; }));
    if (reset) client.Reset();
    else client.Close();
    EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kClientGoneInHello) == (reset ? 2 : 1); }));
  }
}

TEST(Dial, ARefusedConnectGoesToAnotherNode) {
  TestBed bed({.nodes = 2});
  bed.CloseNodeListener(0);
  for (int i = 0; i < 10; ++i) {
    Peer client = bed.Client();
    client.Send(kNotTls);
    Peer node = bed.Node(1);
    EXPECT_EQ(node.Receive(kNotTls.size()), kNotTls);
    node.Close();
    client.Close();
  }
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kDone) == 10; }));
  EXPECT_GT(bed.node(0).failed_connects.load(), 0u);
  EXPECT_LE(bed.node(0).failed_connects.load(), 3u) << "after three in a row it is not asked any more";
  EXPECT_EQ(bed.node(1).connect_failures.load(), 0u);
}

TEST(Dial, WhenEveryNodeRefusesTheClientIsClosedAndItIsCounted) {
  TestBed bed({.nodes = 2});
  bed.CloseNodeListener(0);
  bed.CloseNodeListener(1);
  Peer client = bed.Client();
  client.Send(kNotTls);
  EXPECT_EQ(client.HowItEnds(), "end");
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kConnectFailed) == 1; }));
}

TEST(Dial, ASilentNodeCostsHalfTheBudgetAndThenAnotherIsTried) {
  SilentNode silent;
  TestBed bed({.adjust =
                   [&](RouteTable& table) {
                     table.timeouts.connect = 600ms;
                     table.nodes[0].address = silent.address();
                     table.pools[0].members[1].weight = 0;  // never by balance, unless it is all there is
                   },
               .nodes = 2});
  Peer client = bed.Client();
  const auto began = std::chrono::steady_clock::now();
  client.Send(kNotTls);
  EXPECT_EQ(client.HowItEnds(), "end");
  const auto took = std::chrono::steady_clock::now() - began;
  EXPECT_GE(took, 250ms);
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kConnectTimeout) == 1; }));
  EXPECT_EQ(bed.node(0).failed_connects.load(), 1u);
}

TEST(Dial, AClientThatResetsDuringASlowConnectIsNoticed) {
  SilentNode silent;
  TestBed bed({.adjust = [&](RouteTable& table) {
    table.timeouts.connect = 8s;
    table.nodes[0].address = silent.address();
  }});
  Peer client = bed.Client();
  client.Send(kNotTls);
  ASSERT_TRUE(bed.Eventually([&] { return bed.counters().dialing.Get() == 1; }));
  client.Reset();
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kClientGoneInDial) == 1; }, 3s));
}

// A unix socket whose backlog is full refuses at once, where TCP waits.
TEST(Dial, ABurstLargerThanTheBacklogOfAUnixSocketIsServedAsByTcp) {
  constexpr int kClients = 40;
  const std::string name = "@hud-test-" + std::to_string(getpid());
  SocketAddress address = SocketAddress::Parse("unix:" + name).value();
  Fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(listener.get(), address.data(), address.size()), 0);
  ASSERT_EQ(::listen(listener.get(), 4), 0);
  TestBed bed({.adjust = [&](RouteTable& table) { table.nodes[0].address = address; }});
  std::vector<Peer> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.push_back(bed.Client());
    clients.back().Send(kNotTls);
  }
  ASSERT_TRUE(bed.Eventually([&] { return bed.counters().dialing.Get() + bed.counters().relaying.Get() == kClients; }));
  std::vector<Peer> nodes;
  for (int i = 0; i < kClients; ++i) {
    nodes.push_back(Peer::Accept(listener));
    ASSERT_EQ(nodes.back().Receive(kNotTls.size()), kNotTls);
  }
  EXPECT_TRUE(bed.Eventually([&] { return bed.counters().relaying.Get() == kClients; }));
}

TEST(Dial, TheNodeIsToldWhoTheClientIs) {
  TestBed bed({.adjust = [](RouteTable& table) { table.pools[0].proxy_protocol = ProxyProtocol::kV2; }});
  Peer client = bed.Client();
  client.Send(kNotTls);
  Peer node = bed.Node();
  const std::string got = node.Receive(28 + kNotTls.size());
  EXPECT_EQ(got.substr(0, 16), std::string("\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", 16));
  EXPECT_EQ(got.substr(16, 8), std::string("\x7f\0\0\x01\x7f\0\0\x01", 8));
  EXPECT_EQ(got.substr(28), kNotTls);
}

TEST(Timeouts, AnIdleRelayIsResetOnBothSides) {
  TestBed bed({.adjust = [](RouteTable& table) { table.timeouts.idle = 200ms; }});
  Peer client = bed.Client();
  client.Send(kNotTls);
  Peer node = bed.Node();
  node.Receive(kNotTls.size());
  EXPECT_EQ(client.HowItEnds(), "reset");
  EXPECT_EQ(node.HowItEnds(), "reset");
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kIdleTimeout) == 1; }));
}

TEST(Timeouts, AHalfClosedRelayHasATimeOfItsOwn) {
  TestBed bed({.adjust = [](RouteTable& table) { table.timeouts.half_closed = 200ms; }});
  Peer client = bed.Client();
  client.Send(kNotTls);
  Peer node = bed.Node();
  node.Receive(kNotTls.size());
  node.FinishSending();
  EXPECT_EQ(client.HowItEnds(), "end");
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kHalfClosedTimeout) == 1; }));
}

// A relay from `from` that has moved its first bytes, and its node's end.
std::pair<Peer, Peer> Relay(TestBed& bed, const char* from) {
  Peer client = bed.Client(from);
  client.Send(kNotTls);
  Peer node = bed.Node();
  EXPECT_EQ(node.Receive(kNotTls.size()), kNotTls);
  return {std::move(client), std::move(node)};
}

TEST(Limit, ANewcomerFromElsewhereIsServedAndTheLongestIdleOfTheLargestHolderMakesRoom) {
  TestBed bed({.max_connections = 4});
  auto honest = Relay(bed, "127.0.0.7");
  std::vector<std::pair<Peer, Peer>> many;
  for (int i = 0; i < 3; ++i) many.push_back(Relay(bed, "127.0.0.1"));
  many[0].first.Send("x");  // now the second has been idle longest
  EXPECT_EQ(many[0].second.Receive(1), "x");
  auto newcomer = Relay(bed, "127.0.0.8");
  EXPECT_EQ(many[1].first.HowItEnds(), "reset");
  EXPECT_EQ(many[1].second.HowItEnds(), "reset");
  auto another = Relay(bed, "127.0.0.9");
  EXPECT_EQ(many[2].first.HowItEnds(), "reset");
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kMadeRoom) == 2; }));
  EXPECT_EQ(bed.counters().evicted_for_places.Get(), 2);
  EXPECT_GE(bed.counters().limit_reached.Get(), 1);
  for (auto* pair : {&honest, &newcomer, &another, &many[0]}) {
    pair->second.Send("alive");
    EXPECT_EQ(pair->first.Receive(5), "alive");
  }
}

TEST(Limit, AnUnfinishedHelloGoesBeforeARelay) {
  TestBed bed({.max_connections = 4});
  auto relay = Relay(bed, "127.0.0.1");
  std::vector<Peer> hellos;
  for (int i = 0; i < 3; ++i) {
    hellos.push_back(bed.Client("127.0.0.1"));
    hellos.back().Send(kHelloBegun);
    ASSERT_TRUE(bed.Eventually([&] { return bed.counters().in_hello.Get() == i + 1; }));
  }
  auto newcomer = Relay(bed, "127.0.0.8");
  EXPECT_EQ(hellos[0].HowItEnds(), "end");
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kMadeRoom) == 1; }));
  relay.second.Send("alive");
  EXPECT_EQ(relay.first.Receive(5), "alive");
}

TEST(Limit, ASourceAtItsOwnLimitIsRefusedAndOthersAreServed) {
  TestBed bed({.max_connections_per_source = 2});
  std::vector<std::pair<Peer, Peer>> relays;
  for (int i = 0; i < 2; ++i) relays.push_back(Relay(bed, "127.0.0.1"));
  Peer refused = bed.Client("127.0.0.1");
  refused.Send(kNotTls);
  EXPECT_NE(refused.HowItEnds(), "bytes");
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kSourceLimit) == 1; }));
  auto other = Relay(bed, "127.0.0.2");
  relays.pop_back();
  ASSERT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kDone) == 1; }));
  relays.push_back(Relay(bed, "127.0.0.1"));
}

TEST(Limit, MemoryForHellosIsMadeByTheSourceThatHoldsMostOfIt) {
  TestBed bed({.hello_budget = 64 << 10});
  const std::string half = std::string("\x16\x03\x01\x3f\xff\x01\x00\x3f\xfb\x03\x03", 11) + std::string(8000, 'h');
  std::vector<Peer> attackers;
  for (int i = 0; i < 12; ++i) {
    attackers.push_back(bed.Client("127.0.0.1"));
    attackers.back().Send(half);
  }
  ASSERT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kMadeRoom) >= 4; }));
  EXPECT_LE(bed.counters().hello_bytes_held.Get(), 64 << 10);
  Peer honest = bed.Client("127.0.0.9");
  honest.Send(half);
  ASSERT_TRUE(bed.Eventually([&] { return bed.counters().accepted.Get() == 13; }));
  ASSERT_TRUE(bed.ComesToRest());
  const std::string rest(0x3fff + 5 - half.size(), 'h');
  honest.Send(rest);
  Peer node = bed.Node();
  EXPECT_EQ(node.Receive(half.size() + rest.size()), half + rest);
  EXPECT_EQ(bed.counters().hello_budget_refused.Get(), 0);
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kMadeRoom) == bed.counters().evicted_for_hellos.Get(); }));
}

// Each source holds one: then it is the oldest who go, and not one at a time, for to look at all of them takes time.
TEST(Limit, MemoryForHellosIsMadeAShareAtATimeByManySources) {
  TestBed bed({.hello_budget = 64 << 10});
  const std::string part = std::string("\x16\x03\x01\x3f\xff\x01\x00\x3f\xfb\x03\x03", 11) + std::string(189, 'h');
  std::vector<Peer> attackers;
  for (size_t i = 0; i < 400; ++i) {
    attackers.push_back(bed.Client(absl::StrCat("127.0.", i / 200 + 1, ".", i % 200 + 1).c_str()));
    attackers.back().Send(part);
  }
  // 1 KiB at once: six hellos.
  ASSERT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kMadeRoom) >= 400 - (64 << 10) / 200; }));
  EXPECT_EQ(bed.counters().evicted_for_hellos.Get() % 6, 0);
  EXPECT_EQ(bed.counters().hello_budget_refused.Get(), 0);
  Peer honest = bed.Client("127.0.9.9");
  honest.Send(part);
  honest.Send(std::string(0x3fff + 5 - part.size(), 'h'));
  EXPECT_EQ(bed.Node().Receive(0x3fff + 5).size(), size_t{0x3fff + 5});
}

TEST(Drain, ConnectionsGoOnAndTheWorkerEndsAfterTheLast) {
  TestBed bed;
  Peer client = bed.Client();
  client.Send(kNotTls);
  Peer node = bed.Node();
  node.Receive(kNotTls.size());
  bed.orders().Drain(std::chrono::time_point_cast<Duration>(std::chrono::steady_clock::now() + 10s));
  bed.Wake();
  ASSERT_TRUE(bed.Eventually([&] { return IsRefused(bed.port()); }));
  node.Send("still here");
  EXPECT_EQ(client.Receive(10), "still here");
  client.Close();
  node.Close();
  bed.JoinThread();
  EXPECT_EQ(bed.Closes(CloseReason::kDone), 1);
}

TEST(Drain, AtTheDeadlineWhatIsLeftIsReset) {
  TestBed bed;
  Peer client = bed.Client();
  client.Send(kNotTls);
  Peer node = bed.Node();
  node.Receive(kNotTls.size());
  bed.orders().Drain(std::chrono::time_point_cast<Duration>(std::chrono::steady_clock::now() + 100ms));
  bed.Wake();
  bed.JoinThread();
  EXPECT_EQ(client.HowItEnds(), "reset");
  EXPECT_EQ(bed.Closes(CloseReason::kDrainDeadline), 1);
}

TEST(Terminate, ThousandsOfConnectsAndAbortsLeaveNothing) {
  TestBed bed;
  for (int i = 0; i < 3000; ++i) {
    Peer client = bed.Client();
    if (i % 3 == 1) client.Send(kHelloBegun);
    if (i % 3 == 2) client.Send(kNotTls);
    EXPECT_TRUE(i % 300 != 2 || bed.Eventually([&] { return bed.counters().relaying.Get() > 0; })) << "some get as far as that";
    client.Reset();
    while (bed.TryNode()) {
    }
  }
  EXPECT_TRUE(bed.Eventually([&] { return bed.counters().active.Get() == 0; }));
}

}  // namespace
}  // namespace hud::testing
