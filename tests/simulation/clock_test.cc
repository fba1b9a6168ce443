// What a worker does by the clock, and what costs nothing while time passes.
#include "tests/simulation/stage.h"

namespace hud::simulation {
namespace {

constexpr std::string_view kFirst = "GET / HTTP/1.1\r\n\r\n";
constexpr std::string_view kHelloBegun("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11);

TEST(ByTheClock, DrippingDoesNotMoveTheDeadlineOfAHello) {
  Stage stage({.adjust = [](RouteTable& table) { table.listeners[0].hello_deadline = 300ms; }});
  Hand client = stage.Client();
  client.Send(kHelloBegun);
  for (int i = 0; i < 28; ++i) {
    client.Send("h");
    stage.Pass(10ms);
  }
  EXPECT_EQ(stage.Closes(CloseReason::kHelloTimeout), 0);
  client.Send("h");
  stage.Pass(30ms);
  EXPECT_EQ(stage.Closes(CloseReason::kHelloTimeout), 1);
}

TEST(ByTheClock, AQuietRelayWaitsWithPollsAndGoesOnWithTheNextMessage) {
  testing::Script script;
  int receives = 0, polls = 0;
  script.takes_request = [&](uint64_t user_data) {
    const Op op = Tag::Unpack(user_data).op;
    receives += op == Op::kRecv;
    polls += op == Op::kPollIn;
    return false;
  };
  Stage stage({.script = &script, .node_silence = 400ms, .quiet_after = 100ms});
  Hand client = stage.Client();
  client.Send(kFirst);
  Hand node = stage.Node();
  EXPECT_EQ(node.Receive(kFirst.size()), kFirst);
  ASSERT_TRUE(stage.Eventually([&] { return polls == 2; })) << "both sides";
  const int before = receives;
  for (int i = 0; i < 3; ++i) {
    node.Send("from the node");
    EXPECT_EQ(client.Receive(13), "from the node");
    client.Send("from the client");
    EXPECT_EQ(node.Receive(15), "from the client");
  }
  EXPECT_GE(receives, before + 2) << "it receives again";
  ASSERT_TRUE(stage.Eventually([&] { return polls == 4; })) << "and goes quiet again";
  node.Close();
  EXPECT_EQ(client.HowItEnds(), "end");
  client.Close();
  EXPECT_TRUE(stage.Eventually([&] { return stage.Closes(CloseReason::kDone) == 1; }));
}

// No more goes into a pipe than the sink has room for.
TEST(ByTheClock, AStalledReaderStopsTheSenderAndLeavesLittleInTheWorker) {
  for (RelayMode mode : {RelayMode::kAuto, RelayMode::kSplice, RelayMode::kCopy}) {
    Stage stage({.mode = mode});
    Hand client = stage.Client();
    client.Send(kFirst);
    Hand node = stage.Node();
    node.SetTimeout(1s);
    node.end().send_capacity = node.workers_end().receive_capacity = 1 << 20;  // there is far more to be read
    EXPECT_FALSE(node.Send(std::string(4 << 20, 'x')));
    EXPECT_LE(stage.counters().private_bytes.Get() + stage.counters().pipe_bytes.Get(), Stage::kSocketBytes);
    EXPECT_EQ(stage.counters().pipes_held.Get(), 0);
    EXPECT_EQ(stage.counters().buffers_free.Get(), 256);
  }
}

// ---- Who makes room goes by how long he has been idle

using Relayed = std::pair<Hand, Hand>;  // a client that has moved its first bytes, and its node

Relayed Relay(Stage& stage, const std::string& from) {
  Hand client = stage.Client(from.c_str());
  client.Send(kFirst);
  Hand node = stage.Node();
  EXPECT_EQ(node.Receive(kFirst.size()), kFirst);
  return {std::move(client), std::move(node)};
}

TEST(LimitByTheClock, WhereNobodyHoldsMoreThanTheNewcomersSourceOnlyTheQuietMakeRoom) {
  Stage stage({.max_connections = 3});
  std::vector<Relayed> relays;
  for (int i = 0; i < 4; ++i) relays.push_back(Relay(stage, "10.1.0.1"));  // one more: there are two listening sockets
  Hand refused = stage.Client("10.1.0.1");
  refused.Send(kFirst);
  EXPECT_NE(refused.HowItEnds(), "bytes");
  EXPECT_TRUE(stage.Eventually([&] { return stage.Closes(CloseReason::kOverLimit) == 1; }));
  EXPECT_EQ(stage.counters().over_limit.Get(), 1);
  EXPECT_EQ(stage.counters().limit_reached.Get(), 1);
  EXPECT_LE(stage.TurnsIn(1100ms), 5) << "a full worker spins";
  auto newcomer = Relay(stage, "10.1.0.1");
  EXPECT_EQ(relays[0].first.HowItEnds(), "reset");
  EXPECT_TRUE(stage.Eventually([&] { return stage.Closes(CloseReason::kMadeRoom) == 1; }));
}

// Every source holds one. The oldest clients are at work: they stay, and so does every newcomer.
class LimitAmongEquals : public ::testing::Test {
 protected:
  static constexpr int kBusy = 12, kPlaces = 40, kNewcomers = 15;

  void FillWithBusy() {
    for (int i = 0; i < kBusy; ++i) busy_.push_back(Relay(stage_, absl::StrCat("10.1.1.", i + 1)));
  }
  void Work() {
    for (auto& [client, node] : busy_) {
      client.Send("x");
      EXPECT_EQ(node.Receive(1), "x");
    }
  }
  void NewcomersAreServed() {
    std::vector<Relayed> newcomers;
    for (int i = 0; i < kNewcomers; ++i) {
      Work();
      newcomers.push_back(Relay(stage_, absl::StrCat("10.1.3.", i + 1)));
    }
    Work();
    for (auto& [client, node] : newcomers) {
      node.Send("alive");
      EXPECT_EQ(client.Receive(5), "alive");
    }
    EXPECT_EQ(stage_.counters().over_limit.Get(), 0);
    EXPECT_TRUE(stage_.Eventually([&] { return stage_.Closes(CloseReason::kMadeRoom) >= kNewcomers - 1; }));
  }

  Stage stage_{TestBedOptions{.max_connections = kPlaces}};
  std::vector<Relayed> busy_;
};

TEST_F(LimitAmongEquals, UnfinishedHellosMakeRoom) {
  FillWithBusy();
  std::vector<Hand> hellos;
  for (int i = 0; i < kPlaces - kBusy; ++i) {
    hellos.push_back(stage_.Client(absl::StrCat("10.1.2.", i + 1).c_str()));
    hellos.back().Send(kHelloBegun);
  }
  stage_.Pass(150ms);
  NewcomersAreServed();
  EXPECT_EQ(stage_.counters().in_hello.Get(), kPlaces - kBusy - stage_.Closes(CloseReason::kMadeRoom)) << "nobody else went";
}

TEST_F(LimitAmongEquals, IdleRelaysMakeRoom) {
  FillWithBusy();
  std::vector<Relayed> idle;
  for (int i = 0; i < kPlaces - kBusy; ++i) idle.push_back(Relay(stage_, absl::StrCat("10.1.2.", i + 1)));
  for (int i = 0; i < 12; ++i) {
    stage_.Pass(100ms);
    Work();
  }
  NewcomersAreServed();
  EXPECT_EQ(idle[0].first.HowItEnds(), "reset");
}

}  // namespace
}  // namespace hud::simulation
