// The agent's half: what it sends when, and what of the network's it believes.
#include "core/beacon/beacon_sender.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/core/beacon/beacon_pair.h"

namespace hud {
namespace {

using namespace beacon_test;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

BeaconEnvelope EnvelopeOf(const std::vector<uint8_t>& datagram) { return *ReadBeaconEnvelope(datagram); }

// A challenge or sync of the proxy's that answers `question`.
std::vector<uint8_t> AnswerTo(const std::vector<uint8_t>& question, BeaconType type, uint64_t nonce, uint64_t sequence,
                              uint64_t first_integer, uint64_t second_integer) {
  BeaconEnvelope envelope = EnvelopeOf(question);
  envelope.direction = BeaconDirection::kToAgent;
  envelope.type = type;
  envelope.nonce = nonce;
  envelope.sequence = sequence;
  return SealBeacon(BeaconMac(SecretOf(1)), envelope, WriteChallengeBody({first_integer, second_integer}));
}
std::vector<uint8_t> ChallengeTo(const std::vector<uint8_t>& question, uint64_t nonce, uint64_t held_epoch = 0) {
  return AnswerTo(question, BeaconType::kChallenge, nonce, 1, EnvelopeOf(question).sequence, held_epoch);
}
std::vector<uint8_t> SyncTo(const std::vector<uint8_t>& question, uint64_t sequence, uint64_t next_token) {
  return AnswerTo(question, BeaconType::kSync, EnvelopeOf(question).nonce, sequence, next_token,
                  EnvelopeOf(question).sequence);
}

TEST(BeaconSender, SaysNothingBeforeItsFirstReport) {
  BeaconSender agent(AgentKey{"n1", SecretOf(1)}, 1, nullptr, 1s);
  EXPECT_THAT(agent.Poll(kStart, 100), IsEmpty());
  EXPECT_EQ(agent.NextDeadline(), Instant::max());
}

TEST(BeaconSender, AReportThatCannotBeSentIsAnErrorAndTheOldOneStays) {
  auto agent = AgentOf("n1", 1, 100);
  EXPECT_FALSE(agent->SetReport(ReportOf("10.0.0.1:443", {})).ok());
  EXPECT_THAT(agent->Poll(kStart, 100), SizeIs(1));
}

TEST(BeaconSender, AsksQuicklyForAWhileAndThenEachInterval) {
  auto agent = AgentOf("n1", 1, 100);
  std::vector<Duration> pauses;
  Instant now = kStart, last = kStart;
  while (pauses.size() < 40) {
    if (!agent->Poll(now, 100).empty()) {
      pauses.push_back(now - last);
      last = now;
    }
    ASSERT_GT(agent->NextDeadline(), now);
    now = agent->NextDeadline();
  }
  EXPECT_EQ(pauses[1], 250ms);
  EXPECT_EQ(pauses[31], 250ms);
  EXPECT_EQ(pauses[32], 1s);
}

TEST(BeaconSender, NewsGoOutAtOnceAndLoadFiguresWithTheNextReport) {
  auto agent = AgentOf("n1", 1, 100);
  agent->Poll(kStart, 100);
  NodeReport report = ReportOf("10.0.0.1:443", {"web"});
  report.health.load_permille = 500;
  ASSERT_TRUE(agent->SetReport(report).ok());
  EXPECT_THAT(agent->Poll(kStart + 1ms, 100), IsEmpty());
  report.health.ready = false;
  ASSERT_TRUE(agent->SetReport(report).ok());
  EXPECT_THAT(agent->Poll(kStart + 2ms, 100), SizeIs(1));
  report.prefixes.clear();
  ASSERT_TRUE(agent->SetReport(report).ok());
  EXPECT_THAT(agent->Poll(kStart + 3ms, 100), SizeIs(1));
}

TEST(BeaconSender, BelievesOnlyWhatAnswersItsPresentNonce) {
  auto agent = AgentOf("n1", 1, 100);
  const auto first = agent->Poll(kStart, 100)[0];
  const auto old_challenge = ChallengeTo(first, 111);
  agent->Handle(old_challenge, kStart);
  EXPECT_EQ(agent->stats().challenges, 1u);
  const auto second = agent->Poll(kStart, 100)[0];
  EXPECT_EQ(EnvelopeOf(second).nonce, 111u);
  agent->Handle(ChallengeTo(second, 222), kStart);
  const auto third = agent->Poll(kStart, 100)[0];
  EXPECT_EQ(EnvelopeOf(third).nonce, 222u);

  struct Row {
    const char* name;
    std::vector<uint8_t> datagram;
  };
  auto flipped = ChallengeTo(third, 333);
  flipped[90] ^= 1;
  const Row rows[] = {
      {"a recorded challenge", old_challenge},
      {"a challenge to what was never sent", AnswerTo(third, BeaconType::kChallenge, 333, 1, 99, 0)},
      {"a challenge without a nonce", ChallengeTo(third, 0)},
      {"a challenge with the nonce it has", ChallengeTo(third, 222)},
      {"a bit flipped", flipped},
      {"a sync under another nonce", SyncTo(second, 9, 1)},
      {"a sync to what was never sent", AnswerTo(third, BeaconType::kSync, 222, 1, 1, 99)},
      {"a sync that knows more than there is", SyncTo(third, 1, 2)},
      {"a sync of number zero", SyncTo(third, 1, 0)},
      {"its own report", third},
      {"noise", std::vector<uint8_t>(124, 7)},
      {"nothing", {}},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    const uint64_t before = agent->stats().rejected;
    agent->Handle(row.datagram, kStart);
    EXPECT_EQ(agent->stats().rejected, before + 1);
    EXPECT_FALSE(agent->Confirmed());
    EXPECT_THAT(agent->Poll(kStart, 100), IsEmpty());
  }
  agent->Handle(SyncTo(third, 5, 1), kStart + 1ms);
  EXPECT_TRUE(agent->Confirmed());
  EXPECT_TRUE(agent->HeardSince(kStart + 1ms));
  EXPECT_FALSE(agent->HeardSince(kStart + 2ms));
  agent->Handle(SyncTo(third, 5, 1), kStart + 9ms);
  EXPECT_FALSE(agent->HeardSince(kStart + 2ms)) << "a sync recorded and played again";
}

TEST(BeaconSender, DyingIsSaidThreeTimesAndThenNothing) {
  TokenJournal journal(10);
  journal.Add(AsBytes("a"), 1h, kStart);
  auto agent = AgentOf("n1", 1, 100, &journal);
  Proxy proxy(7);
  Exchange(*agent, proxy, kStart);
  const Instant end = kStart + 500ms;
  agent->Die(end);
  agent->Die(end);
  std::vector<Duration> said;
  for (Instant now = end; now < end + 5s; now += 1ms) {
    for (const auto& datagram : agent->Poll(now, 100)) {
      EXPECT_EQ(EnvelopeOf(datagram).type, BeaconType::kDying);
      said.push_back(now - end);
    }
    EXPECT_EQ(agent->DoneDying(), said.size() == 3);
  }
  EXPECT_THAT(said, ElementsAre(0ms, 100ms, 200ms));
  EXPECT_EQ(agent->NextDeadline(), Instant::max());
}

TEST(BeaconSender, DyingReachesAProxyThatHasJustRestarted) {
  auto agent = AgentOf("n1", 1, 100);
  Proxy before(7), after(8);
  Exchange(*agent, before, kStart);
  agent->Die(kStart);
  for (Instant now = kStart; !agent->DoneDying(); now += 10ms) Exchange(*agent, after, now);
  ASSERT_FALSE(after.events.empty());
  EXPECT_EQ(after.events[0].kind, BeaconEvent::Kind::kDying);
}

TEST(BeaconSender, ANetworkThatKeepsChallengingDoesNotKeepItFromDying) {
  auto agent = AgentOf("n1", 1, 100);
  agent->Die(kStart);
  size_t said = 0;
  for (Instant now = kStart; now < kStart + 5s; now += 10ms) {
    for (const auto& datagram : agent->Poll(now, 100)) {
      ++said;
      agent->Handle(ChallengeTo(datagram, 1000 + said), now);
    }
  }
  EXPECT_TRUE(agent->DoneDying());
  EXPECT_LE(said, 4u);
}

TEST(BeaconSender, AnEpochBehindTheProxysIsRaised) {
  auto agent = AgentOf("n1", 1, 100);
  agent->Handle(ChallengeTo(agent->Poll(kStart, 100)[0], 7, 100), kStart);
  const auto second = agent->Poll(kStart, 100)[0];
  EXPECT_EQ(EnvelopeOf(second).epoch, 100u);
  agent->Handle(ChallengeTo(second, 8, 500), kStart);
  EXPECT_EQ(EnvelopeOf(agent->Poll(kStart, 100)[0]).epoch, 601u) << "500, and one more, and its own 100";
}

TEST(BeaconSender, TokensWaitForTheFirstSync) {
  TokenJournal journal(10);
  journal.Add(AsBytes("a"), 1h, kStart);
  auto agent = AgentOf("n1", 1, 100, &journal);
  const auto alive = agent->Poll(kStart, 100);
  ASSERT_THAT(alive, SizeIs(1));
  agent->Handle(ChallengeTo(alive[0], 7), kStart);
  const auto again = agent->Poll(kStart, 100);
  ASSERT_THAT(again, SizeIs(1));
  agent->Handle(SyncTo(again[0], 1, 1), kStart);
  const auto tokens = agent->Poll(kStart, 100);
  ASSERT_THAT(tokens, SizeIs(1));
  EXPECT_EQ(EnvelopeOf(tokens[0]).type, BeaconType::kTokens);
  EXPECT_THAT(agent->Poll(kStart, 100), IsEmpty());
}

TEST(BeaconSender, IsNeverMoreThanItsPaceNorItsWindowAhead) {
  TokenJournal journal(100'000);
  for (int i = 0; i < 100'000; ++i) journal.Add(AsBytes(std::to_string(i)), 1h, kStart);
  auto agent = AgentOf("n1", 1, 100, &journal);
  Proxy proxy(7);
  Exchange(*agent, proxy, kStart, 2);
  size_t unanswered = 0;
  for (Instant now = kStart; now < kStart + 90ms; now += 10ms) {
    const size_t burst = agent->Poll(now, 1000).size();
    EXPECT_LE(burst, 20u);
    unanswered += burst;
  }
  EXPECT_EQ(unanswered, 16u) << "without an answer the first window is all";
}

// A datagram lost, and the tail lost: what is missing is sent again, in time.
TEST(BeaconSender, LostTokensAreSentAgain) {
  for (const size_t lost : {0u, 3u, 9u}) {
    SCOPED_TRACE(lost);
    TokenJournal journal(1000);
    for (int i = 0; i < 300; ++i) journal.Add(AsBytes(std::string(28, 'x') + std::to_string(1000 + i)), 1h, kStart);
    auto agent = AgentOf("n1", 1, 100, &journal);
    Proxy proxy(7);
    size_t token_datagrams = 0;
    Instant now = kStart;
    for (; now < kStart + 2s && agent->next_unacknowledged() != 301; now += 5ms) {
      for (const auto& datagram : agent->Poll(now, 100)) {
        const bool is_tokens = EnvelopeOf(datagram).type == BeaconType::kTokens;
        if (is_tokens && token_datagrams++ == lost) continue;
        const auto answer = proxy.Handle(datagram, now);
        if (!answer.empty()) agent->Handle(answer, now);
      }
    }
    EXPECT_EQ(agent->next_unacknowledged(), 301u);
    EXPECT_LT(now, kStart + 600ms);
    size_t applied = 0;
    for (const auto& event : proxy.events) applied += event.tokens.size();
    EXPECT_EQ(applied, 300u);
  }
}

}  // namespace
}  // namespace hud
