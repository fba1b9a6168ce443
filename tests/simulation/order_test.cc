// Orders of events that a kernel produces only now and then, made certain.
#include <malloc.h>

#include "tests/simulation/stage.h"

namespace hud::simulation {
namespace {

constexpr std::string_view kFirst = "GET / HTTP/1.1\r\n\r\n";

// Control publishes right after a dial, and again when the worker has taken the next table but not yet submitted the
// connect: the table that held the address is gone then.
TEST(Order, AConnectOutlivesTheTableThatNamedItsAddress) {
  ::mallopt(M_PERTURB, 0xee);  // memory that was freed is overwritten
  testing::Script script;
  Stage stage({.script = &script});
  bool dialed = false;
  int published = 0;
  script.takes_request = [&](uint64_t user_data) {
    if (Tag::Unpack(user_data).op != Op::kConnect) return false;
    stage.Publish();
    dialed = true;
    return false;
  };
  script.interrupts = [&] {
    if (!std::exchange(dialed, false)) return false;
    stage.Publish();
    ++published;
    return false;
  };
  for (int i = 0; i < 5; ++i) {
    Hand client = stage.Client();
    client.Send(kFirst);
    Hand node = stage.Node();
    EXPECT_EQ(node.Receive(kFirst.size()), kFirst);
  }
  EXPECT_EQ(published, 5);
  ::mallopt(M_PERTURB, 0);
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

// The receive that told a direction to go on in bulk ends for want of a shared buffer. When one is there the direction is in
// bulk, has bytes in its pipe, and must not receive beside that.
TEST(Order, ADirectionThatFoundNoSharedBufferAndWentToBulkKeepsItsOrder) {
  testing::Script script;
  Stage stage({.script = &script}, {.buffers = 2});
  Hand other = stage.Client();
  other.Send(kFirst);
  Hand others_node = stage.Node();
  ASSERT_EQ(others_node.Receive(kFirst.size()), kFirst);
  Hand client = stage.Client();
  client.Send(kFirst);
  Hand node = stage.Node();
  ASSERT_EQ(node.Receive(kFirst.size()), kFirst);
  node.workers_end().send_capacity = 16 << 10;
  stage.Pass(20ms);
  int receives = 0;
  script.takes_request = [&](uint64_t user_data) {
    const Tag tag = Tag::Unpack(user_data);
    if (tag.slot != 1 || tag.side != Side::kClient || tag.op != Op::kRecv || ++receives != 1) return false;
    const uint8_t byte = 'x';
    EXPECT_EQ(other.end().Send({&byte, 1}), 1);  // it takes a buffer
    stage.PassWithoutWorker(5ms);
    return false;
  };
  const std::string message = testing::RandomBytes(380'000, 1);
  size_t sent = 0;
  for (int i = 0; i < 20; ++i) {
    sent += static_cast<size_t>(std::max<ssize_t>(0, client.end().Send({reinterpret_cast<const uint8_t*>(message.data()) + sent, message.size() - sent})));
    stage.PassWithoutWorker(20ms);
  }
  ASSERT_EQ(sent, message.size());
  client.FinishSending();
  EXPECT_TRUE(node.Receive(message.size() + 1) == message);
  EXPECT_GE(stage.counters().buffers_exhausted.Get(), 1);
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
