// Completions that say what is seldom said, come late, or never.
#include "tests/simulation/stage.h"

namespace hud::simulation {
namespace {

using testing::Script;

constexpr std::string_view kFirst = "GET / HTTP/1.1\r\n\r\n";

// What the kernel does when it has no memory to begin a connect and the send behind it: both complete, in either order, with
// errors, and nothing was connected.
void RefuseConnects(Script& script, int failures, bool send_first) {
  script.takes_request = [&script, left = failures, send_first](uint64_t connect) mutable {
    Tag send = Tag::Unpack(connect);
    if (send.op != Op::kConnect || left-- <= 0) return false;
    send.op = Op::kSend;
    if (send_first) script.Answer(send.Pack(), -ENOMEM);
    script.Answer(connect, -ECANCELED);
    if (!send_first) script.Answer(send.Pack(), -ENOMEM);
    return true;
  };
}

TEST(Completions, AConnectAndASendThatBothFailForWantOfMemoryAreTriedAgain) {
  for (bool send_first : {true, false}) {
    Script script;
    RefuseConnects(script, 3, send_first);
    Stage stage({.script = &script});
    Hand client = stage.Client();
    client.Send(kFirst);
    Hand node = stage.Node();
    EXPECT_EQ(node.Receive(kFirst.size()), kFirst);
    node.Send("answer");
    EXPECT_EQ(client.Receive(6), "answer");
  }
}

TEST(Completions, WithoutMemoryForAsLongAsAConnectMayTakeTheConnectionEnds) {
  for (bool send_first : {true, false}) {
    Script script;
    RefuseConnects(script, 1'000'000, send_first);
    Stage stage({.script = &script, .adjust = [](RouteTable& table) { table.timeouts.connect = 200ms; }});
    Hand client = stage.Client();
    client.Send(kFirst);
    client.SetTimeout(250ms);
    EXPECT_NE(client.HowItEnds(), "nothing");
    EXPECT_EQ(stage.Closes(CloseReason::kLocalError), 1);
    EXPECT_EQ(stage.node().failed_connects.load(), 0u) << "not the node's fault";
  }
}

// A lost completion may have been that of a send which did not take all: every connection visibly ends, and the worker goes on.
TEST(Completions, AfterALossEveryConnectionEndsAndNewOnesAreServed) {
  Script script;
  Stage stage({.script = &script});
  Hand client = stage.Client();
  client.Send(kFirst);
  Hand node = stage.Node();
  node.Receive(kFirst.size());
  script.losses = 1;
  stage.Wake();
  EXPECT_EQ(client.HowItEnds(), "reset");
  EXPECT_EQ(node.HowItEnds(), "reset");
  EXPECT_EQ(stage.Closes(CloseReason::kLocalError), 1);
  Hand next = stage.Client();
  next.Send(kFirst);
  Hand next_node = stage.Node();
  EXPECT_EQ(next_node.Receive(kFirst.size()), kFirst);
}

// ---- Zero copy: the kernel reads memory after a send has "completed", until it says so in a notification

class LateNotifications : public ::testing::Test {
 protected:
  LateNotifications() {
    script_.takes_request = [this](uint64_t user_data) {
      sends_ += Tag::Unpack(user_data).op == Op::kZeroCopy;
      return false;
    };
    script_.fate = [this](const Completion& c) { return c.notification && held_back_ ? Script::Fate::kHeldBack : Script::Fate::kHandedOut; };
    client_.Send(kFirst);
    node_.emplace(stage_.Node());
    EXPECT_EQ(node_->Receive(kFirst.size()), kFirst);
  }
  ~LateNotifications() override { held_back_ = false; }

  Script script_;
  bool held_back_ = true;
  int sends_ = 0;
  Stage stage_{TestBedOptions{.mode = RelayMode::kZeroCopy, .script = &script_}};
  Hand client_ = stage_.Client();
  std::optional<Hand> node_;
};

TEST_F(LateNotifications, NoSendWaitsForTheOneBefore) {
  const std::string bytes = testing::RandomBytes(1'000'000, 1);
  client_.SetTimeout(1s);
  EXPECT_FALSE(client_.Send(bytes)) << "something is bounded";
  const auto sent_unheard = sends_;
  EXPECT_GT(sent_unheard, 1);
  stage_.Pass(1min);
  EXPECT_EQ(sends_, sent_unheard) << "no buffer is used again before its notification";
}

TEST_F(LateNotifications, DescriptorsDoNotWaitForThemAndTheirMemoryDoes) {
  const std::string bytes = testing::RandomBytes(100'000, 3);
  client_.Send(bytes);
  EXPECT_TRUE(node_->Receive(bytes.size()) == bytes);
  ASSERT_GT(sends_, 0);
  client_.Reset();
  EXPECT_EQ(node_->HowItEnds(), "reset");
  stage_.Pass(1min);
  EXPECT_EQ(stage_.counters().active.Get(), 1) << "the slot waits";
  held_back_ = false;
  stage_.Wake();
  EXPECT_TRUE(stage_.Eventually([&] { return stage_.counters().active.Get() == 0; }));
}

}  // namespace
}  // namespace hud::simulation
