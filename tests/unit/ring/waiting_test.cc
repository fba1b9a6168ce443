// No state of a connection costs CPU while nothing moves: every state × who has sent its FIN × who reads nothing, in every relay
// mode. All of them wait in one worker at once, and its turns are counted; if there are too many, each state is tried alone.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/core/tls/hello_builder.h"
#include "tests/unit/ring/test_bed.h"

namespace hud::testing {
namespace {

// What one client and its node have done before nothing moves any more.
struct Situation {
  enum Stage { kHello, kRejecting, kDialing, kRelaying } stage = kRelaying;
  size_t sent_of_hello = 0;  // kHello
  bool client_ended = false, node_ended = false;          // before they send what nobody reads
  bool client_ends = false, node_ends = false;            // behind it
  bool client_floods = false, node_floods = false;        // the other side reads nothing
  bool client_resets = false, node_resets = false;        // behind what nobody reads

  std::string Name() const {
    std::string name = stage == kHello ? "hello" : stage == kRejecting ? "rejecting" : stage == kDialing ? "dialing" : "relaying";
    const auto add = [&](bool is, const char* what) {
      if (is) name += std::string(", ") + what;
    };
    if (stage == kHello) name += ", " + std::to_string(sent_of_hello) + " bytes of it sent";
    add(client_ended, "client had ended"), add(node_ended, "node had ended");
    add(client_floods, "client sends to a node that does not read"), add(node_floods, "node sends to a client that does not read");
    add(client_ends, "client ends behind it"), add(node_ends, "node ends behind it");
    add(client_resets, "client resets behind it"), add(node_resets, "node resets behind it");
    return name;
  }
};

std::vector<Situation> BeforeTheRelay(Situation::Stage stage) {
  std::vector<Situation> all;
  for (bool floods : {false, true}) {
    for (bool ends : {false, true}) {
      if (stage != Situation::kHello) all.push_back({.stage = stage, .client_ends = ends, .client_floods = floods});
    }
  }
  if (stage != Situation::kHello) return all;
  for (size_t sent : {0, 1, 3, 50}) all.push_back({.stage = stage, .sent_of_hello = sent});
  return all;
}

std::vector<Situation> OfARelay() {
  std::vector<Situation> all;
  for (int bits = 0; bits < 64; ++bits) {
    const auto bit = [bits](int i) { return ((bits >> i) & 1) != 0; };
    Situation s{.client_ended = bit(0), .node_ended = bit(1), .client_ends = bit(2), .node_ends = bit(3),
                .client_floods = bit(4), .node_floods = bit(5)};
    if (s.client_ended && (s.client_floods || s.client_ends)) continue;
    if (s.node_ended && (s.node_floods || s.node_ends)) continue;
    if ((s.client_ends && !s.client_floods) || (s.node_ends && !s.node_floods)) continue;  // as if it had ended before
    if (s.client_ended && s.node_ended) continue;  // that is the end
    all.push_back(s);
    // A reset tells a side that still sends so at once: it waits only where the other has nothing left to send.
    if (s.node_floods && !s.client_floods && !s.node_ends) {
      s.node_resets = true;
      all.push_back(s);
    }
    if (s.client_floods && !s.node_floods && !s.client_ends && !s.node_resets) {
      s.client_resets = true;
      all.push_back(s);
    }
  }
  return all;
}

class Waiting : public ::testing::TestWithParam<ModeName> {
 protected:
  // Those that spun made thousands. Behind a reset it is asked now and then, for ten seconds, whether all is acknowledged.
  static int64_t MostTurns(const std::vector<Situation>& situations) {
    return 15 + 7 * std::ranges::count_if(situations, [](const Situation& s) { return s.client_resets || s.node_resets; });
  }
  static constexpr auto kWatched = 400ms;

  // Two pipes, so that most bulk has to go without.
  TestBedOptions Options(Situation::Stage stage) {
    return {.mode = GetParam().mode,
            .pipes = 2,
            .adjust =
                [this, stage](RouteTable& table) {
                  table.listeners[0].hello_deadline = 60s;
                  table.timeouts.connect = 60s;
                  if (stage == Situation::kDialing) table.nodes[0].address = silent_.address();
                  if (stage == Situation::kRejecting) table.listeners[0].default_pool = PoolIndex::kNone;
                },
            .quiet_after = 60s,
            .reset_patience = 60s,
            .plain_features = GetParam().plain_features};
  }

  // Leaves both ends as they are, and nothing on its way.
  void Arrange(TestBed& bed, const Situation& s) {
    Peer client = bed.Client();
    client.SetTimeout(kStalled);
    const std::vector<uint8_t> hello = test::Record(test::Hello({.random = test::Counting(32, ++hellos_)}, test::ServerName("nobody.example")));
    client.Send({reinterpret_cast<const char*>(hello.data()), s.stage == Situation::kHello ? s.sent_of_hello : hello.size()});
    Peer node;
    if (s.stage == Situation::kRelaying) {
      node = bed.Node();
      ASSERT_EQ(node.Receive(hello.size()).size(), hello.size());
      node.SetTimeout(kStalled);
    }
    if (s.client_ended) client.FinishSending();
    if (s.node_ended) node.FinishSending();
    const bool all_was_taken = (s.client_floods && client.Send(flood_)) || (s.node_floods && node.Send(flood_));
    EXPECT_FALSE(all_was_taken && s.stage != Situation::kRejecting) << s.Name();  // what comes after an alert is thrown away
    if (s.client_ends) client.FinishSending();
    if (s.node_ends) node.FinishSending();
    if (s.client_resets) client.Reset();
    if (s.node_resets) node.Reset();
    peers_.push_back(std::move(client));
    if (node.fd) peers_.push_back(std::move(node));
  }

  // Of a worker that has all of them at once.
  bool ComeToRest(const std::vector<Situation>& situations) {
    TestBed bed(Options(situations.front().stage));
    for (const Situation& s : situations) {
      Arrange(bed, s);
      if (HasFatalFailure()) return false;
    }
    const bool rest = bed.ComesToRest(kWatched, MostTurns(situations));
    peers_.clear();
    return rest;
  }

  static constexpr auto kStalled = 25ms;
  uint8_t hellos_ = 0;
  SilentNode silent_;
  const std::string flood_ = std::string(size_t{32} << 20, 'x');
  std::vector<Peer> peers_;
};

INSTANTIATE_TEST_SUITE_P(Modes, Waiting, ::testing::ValuesIn(kModes), [](const auto& p) { return p.param.name; });

TEST_P(Waiting, CostsNothingInAnyState) {
  for (Situation::Stage stage : {Situation::kHello, Situation::kRejecting, Situation::kDialing, Situation::kRelaying}) {
    const std::vector<Situation> situations = stage == Situation::kRelaying ? OfARelay() : BeforeTheRelay(stage);
    if (ComeToRest(situations)) continue;
    for (const Situation& s : situations) EXPECT_TRUE(ComeToRest({s})) << s.Name();
    ADD_FAILURE() << "together they turn too often";
  }
}

}  // namespace
}  // namespace hud::testing
