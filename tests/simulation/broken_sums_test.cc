// The invariants that need a whole worker find what they are for: each is broken, and ends the process. Those of one connection
// are in tests/unit/ring/invariants_test.cc.
#include "tests/simulation/stage.h"

namespace hud {

struct AdmissionAccess {
  static size_t& HelloBytes(Admission& a) { return a.held_hello_bytes_; }
};
struct RelayAccess {
  static int64_t& BytesInPipes(Relay& r) { return r.splice_.bytes_in_pipes_; }
};

}  // namespace hud

namespace hud::testing {

struct PassThroughAccess {
  static Admission& AdmissionOf(PassThrough& p) { return p.admission_; }
  static Relay& RelayOf(PassThrough& p) { return p.relay_; }
};
struct WorkerAccess {
  static PassThrough& PassThroughOf(Worker& w) { return w.pass_through_; }
};

namespace {

using simulation::Hand;
using simulation::Stage;

// A worker with one relay, of which something is changed while it waits.
void RunWith(const std::function<void(Stage&)>& change, const TestBedOptions& options = {}) {
  Stage stage(options);
  Hand client = stage.Client();
  client.Send("GET / HTTP/1.1\r\n\r\n");
  Hand node = stage.Node();
  node.Receive(18);
  if (!stage.Eventually([&] { return stage.counters().relaying.Get() == 1; })) return;
  stage.Pass(20ms);
  change(stage);
  stage.Wake();
  stage.Pass(20ms);
}

// The process that breaks one is another one, begun anew: this one may have had threads.
class BrokenSums : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(BrokenSums, EndTheProcess) {
  EXPECT_DEATH(RunWith([](Stage& stage) { stage.counters().private_bytes.Add(1); }),
               "broken invariant: SumsAreRight: private bytes; kept 1, counted 0");
  EXPECT_DEATH(RunWith([](Stage& stage) { stage.counters().relaying.Add(-1); }), "SumsAreRight: relaying; kept 0, counted 1");
  EXPECT_DEATH(RunWith([](Stage& stage) { stage.node().active++; }), "SumsAreRight: active of a node; kept 2, counted 1");
  EXPECT_DEATH(RunWith([](Stage& stage) { stage.counters().closes[0].Add(); }), "OneCloseReason: .*all: 1 accepted, 1 open, 1 closed");
  EXPECT_DEATH(RunWith([](Stage& stage) { stage.counters().listeners[0].accepted.Add(); }),
               "OneCloseReason: .*test: 2 accepted, 1 open, 0 closed");
}

TEST_F(BrokenSums, EndTheProcessInTheFirstTurn) {
  const auto nothing = [](Stage&) {};
  EXPECT_DEATH(RunWith(nothing, {.with_worker = [](Worker& w) { AdmissionAccess::HelloBytes(PassThroughAccess::AdmissionOf(WorkerAccess::PassThroughOf(w))) = 1; }}),
               "SumsAreRight: bytes of hellos; kept 1");
  EXPECT_DEATH(RunWith(nothing, {.with_worker = [](Worker& w) { RelayAccess::BytesInPipes(PassThroughAccess::RelayOf(WorkerAccess::PassThroughOf(w))) = 1; }}),
               "SumsAreRight: bytes in pipes; kept 1");
  Script script;  // a ring that has lost a buffer, or given one twice
  script.after_wait = [&script] { script.buffers_missing = 1; };
  EXPECT_DEATH(RunWith(nothing, {.script = &script}), "SumsAreRight: shared buffers with the worker; kept 1, counted 0");
}

}  // namespace
}  // namespace hud::testing
