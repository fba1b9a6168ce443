// Orders of events that a kernel produces only now and then, made certain.
#include "tests/simulation/stage.h"

namespace hud::simulation {
namespace {

constexpr std::string_view kFirst = "GET / HTTP/1.1\r\n\r\n";

// Control publishes right after a dial, and again when the worker has taken the next table but not yet submitted the
// connect: the table that held the address is gone then, and its memory somebody else's.
TEST(Order, AConnectOutlivesTheTableThatNamedItsAddress) {
  testing::Script script;
  Stage stage({.script = &script});
  std::vector<std::string> somebody_elses;
  bool dialed = false;
  script.takes_request = [&](uint64_t user_data) {
    if (Tag::Unpack(user_data).op != Op::kConnect) return false;
    stage.Publish();
    dialed = true;
    return false;
  };
  script.interrupts = [&] {
    if (!std::exchange(dialed, false)) return false;
    stage.Publish();
    for (int i = 0; i < 1000; ++i) somebody_elses.push_back(std::string(sizeof(NodeView) - 1, '\xee'));
    return false;
  };
  for (int i = 0; i < 5; ++i) {
    Hand client = stage.Client();
    client.Send(kFirst);
    Hand node = stage.Node();
    EXPECT_EQ(node.Receive(kFirst.size()), kFirst);
  }
  EXPECT_EQ(somebody_elses.size(), 5000u);
}

// One place is left, and each listening socket has an accept on its way.
TEST(Order, ClientsAcceptedAtOnceForTheLastPlaceAreAllServed) {
  Stage stage({.max_connections = 1});
  stage.Pass(1ms);
  Hand one = stage.Client("10.1.0.1", 0), two = stage.Client("10.1.0.1", 1);
  stage.PassWithoutWorker(10ms);
  one.Send(kFirst);
  two.Send(kFirst);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(stage.Node().Receive(kFirst.size()), kFirst);
  EXPECT_EQ(stage.counters().over_limit.Get(), 0);
}

// The client was accepted before the drain; that its completion comes after it is no reason to forget the client.
TEST(Order, AClientAcceptedBeforeTheDrainIsServedWhenItsCompletionComesAfter) {
  testing::Script script;
  int held = 0;
  bool holds = true;
  script.fate = [&](const Completion& c) {
    if (!holds || Tag::Unpack(c.user_data).op != Op::kAccept) return testing::Script::Fate::kHandedOut;
    ++held;
    return testing::Script::Fate::kHeldBack;
  };
  Stage stage({.script = &script});
  Hand client = stage.Client();
  client.Send(kFirst);
  ASSERT_TRUE(stage.Eventually([&] { return held > 0; }));
  stage.Drain(10s);
  stage.Pass(50ms);
  holds = false;
  stage.Wake();
  Hand node = stage.Node();
  EXPECT_EQ(node.Receive(kFirst.size()), kFirst);
  client.Close();
  node.Close();
  EXPECT_TRUE(stage.Eventually([&] { return stage.ended(); }));
  EXPECT_EQ(stage.Closes(CloseReason::kDone), 1);
}

// Both ends of its stream look like an error to the poll that watches it (POLLHUP). While it waits for a shared buffer to be read
// into, nobody else would say that it was none.
TEST(Order, ANodeWhoseClientIsGoneIsNotResetBecauseItEndsWhileItWaitsForABuffer) {
  Stage stage({.mode = RelayMode::kCopy}, {.buffers = 1, .buffer_bytes = 4096});
  Hand client = stage.Client();
  client.Send(kFirst);
  Hand node = stage.Node();
  ASSERT_EQ(node.Receive(kFirst.size()), kFirst);
  node.end().receive_capacity = 1000;
  node.end().send_capacity = 1 << 20;
  ASSERT_TRUE(client.Send(std::string(3000, 'x')));
  client.FinishSending();
  const std::vector<uint8_t> flood(1 << 20);
  ASSERT_GT(node.end().Send(flood), 0);
  stage.Pass(1s);  // the client reads nothing: the node's stream stalls, and is watched. Nor does the node: it has not all yet
  client.Close();
  stage.Pass(1s);
  (void)node.end().Send(Bytes(flood).first(100'000));
  node.FinishSending();
  stage.PassWithoutWorker(1s);
  stage.Pass(1s);
  EXPECT_EQ(node.Receive(3001).size(), 3000u);
}

// The connect may have succeeded, and the hello may be with the node, before the worker is told of either. The node's connection then
// ends as the client's did.
TEST(Order, AClientThatResetsWhileItsDialSucceedsIsAResetForItsNode) {
  testing::Script script;
  bool holds = true;
  script.fate = [&](const Completion& c) {
    const Tag tag = Tag::Unpack(c.user_data);
    const bool is_dial = tag.side == Side::kNode && (tag.op == Op::kConnect || tag.op == Op::kSend);
    return holds && is_dial ? testing::Script::Fate::kHeldBack : testing::Script::Fate::kHandedOut;
  };
  Stage stage({.script = &script});
  Hand client = stage.Client();
  client.Send(kFirst);
  Hand node = stage.Node();
  EXPECT_EQ(node.Receive(kFirst.size()), kFirst);
  stage.Pass(500ms);  // a dial that lasts
  client.Reset();
  ASSERT_TRUE(stage.Eventually([&] { return stage.Closes(CloseReason::kClientGoneInDial) == 0 && stage.counters().dialing.Get() == 0; }));
  holds = false;
  stage.Wake();
  EXPECT_EQ(node.HowItEnds(), "reset");
  EXPECT_EQ(stage.Closes(CloseReason::kClientGoneInDial), 1);
}

class InEveryMode : public ::testing::TestWithParam<testing::ModeName> {};
INSTANTIATE_TEST_SUITE_P(Order, InEveryMode, ::testing::ValuesIn(testing::kModes), [](const auto& p) { return p.param.name; });

// A TLS server closes, and answers the client's late close_notify with a reset. Nothing of what it sent may be lost.
TEST_P(InEveryMode, ANodeThatClosedAndThenResetsLosesNothingOfWhatItSent) {
  Stage stage({.mode = GetParam().mode, .plain_features = GetParam().plain_features});
  Hand client = stage.Client();
  client.Send(kFirst);
  Hand node = stage.Node();
  ASSERT_EQ(node.Receive(kFirst.size()), kFirst);
  // The node's FIN is there while a part of what it sent still waits in the worker, and in its sockets.
  client.end().receive_capacity = client.workers_end().send_capacity = 16 << 10;
  const std::string down = testing::RandomBytes(150'000, 8);
  ASSERT_TRUE(node.Send(down));
  ASSERT_TRUE(stage.Eventually([&] { return node.end().Unacknowledged() == 0; }));
  Endpoint& workers_end = node.workers_end();
  node.Close();
  ASSERT_TRUE(stage.Eventually([&] { return workers_end.fin_came; }));
  std::string got = client.Receive(1000);
  client.Send("late close_notify");
  ASSERT_TRUE(stage.Eventually([&] { return workers_end.reset_came; }));
  client.Send("again");
  stage.Pass(5ms);
  got += client.Receive(down.size() - got.size());
  EXPECT_TRUE(got == down);
  EXPECT_EQ(client.HowItEnds(), "end");
}

}  // namespace
}  // namespace hud::simulation
