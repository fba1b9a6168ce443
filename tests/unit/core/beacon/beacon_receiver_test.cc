// The rules of the proxy's half, each by itself: what is believed, what is refused in silence, and what is answered.
#include "core/beacon/beacon_receiver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "core/base/rate_limit.h"
#include "core/base/replay_window.h"
#include "tests/unit/core/beacon/beacon_pair.h"

namespace hud {
namespace {

using namespace beacon_test;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Kind = BeaconEvent::Kind;

// What the agent would send, field by field.
struct Draft {
  BeaconType type = BeaconType::kAlive;
  std::string node = "n1";
  uint8_t secret = 1;
  uint64_t epoch = 100;
  uint64_t nonce = 0;
  uint64_t sequence = 1;
  uint64_t sent = 1;
  NodeReport report = ReportOf("10.0.0.1:443", {"web"});

  std::vector<uint8_t> Seal() const {
    BeaconEnvelope envelope;
    envelope.type = type;
    envelope.node = node;
    envelope.epoch = epoch;
    envelope.nonce = nonce;
    envelope.sequence = sequence;
    envelope.sent_micros = sent;
    std::vector<std::vector<uint8_t>> bodies(1);
    std::string why;
    const bool written = type == BeaconType::kDying || WriteReportBodies(report, 1, &bodies, &why);
    EXPECT_TRUE(written) << why;
    return SealBeacon(BeaconMac(SecretOf(secret)), envelope, bodies[0]);
  }
  std::vector<uint8_t> Tokens(uint64_t base, uint64_t first, const std::vector<TokenItem>& items) const {
    BeaconEnvelope envelope;
    envelope.type = BeaconType::kTokens;
    envelope.node = node;
    envelope.epoch = epoch;
    envelope.nonce = nonce;
    envelope.sequence = sequence;
    std::vector<uint8_t> body;
    WriteTokensBody(base, first, items, &body);
    return SealBeacon(BeaconMac(SecretOf(secret)), envelope, body);
  }
};

// The nonce that the proxy holds for a node, learned as an agent does.
uint64_t NonceOf(Proxy& proxy, Instant now, std::string node = "n1", uint8_t secret = 1, uint64_t epoch = 100) {
  Draft hello;
  hello.node = std::move(node);
  hello.secret = secret;
  hello.epoch = epoch;
  const auto answer = proxy.Handle(hello.Seal(), now);
  const auto envelope = ReadBeaconEnvelope(answer);
  EXPECT_TRUE(envelope && envelope->type == BeaconType::kChallenge);
  return envelope ? envelope->nonce : 0;
}

// A draft that the proxy believes.
Draft Believed(Proxy& proxy, Instant now) {
  Draft draft;
  draft.nonce = NonceOf(proxy, now);
  return draft;
}

BeaconType TypeOf(const std::vector<uint8_t>& answer) { return ReadBeaconEnvelope(answer)->type; }

TEST(BeaconReceiver, AnAgentIsChallengedOnceAndThenBelieved) {
  Proxy proxy(7);
  auto agent = AgentOf("n1", 1, 100);
  Exchange(*agent, proxy, kStart);
  ASSERT_EQ(proxy.events.size(), 1u);
  EXPECT_EQ(proxy.events[0].kind, Kind::kAlive);
  EXPECT_EQ(proxy.events[0].node, "n1");
  EXPECT_EQ(proxy.events[0].epoch, 100u);
  EXPECT_EQ(proxy.events[0].report.pools, std::vector<std::string>{"web"});
  EXPECT_EQ(proxy.events[0].report.prefixes.size(), 1u);
  EXPECT_EQ(proxy.receiver.stats().challenges_sent, 1u);
  EXPECT_TRUE(agent->Confirmed());
  Exchange(*agent, proxy, kStart + 1s);
  ASSERT_EQ(proxy.events.size(), 2u);
  EXPECT_EQ(proxy.events[1].kind, Kind::kStillHere);
}

TEST(BeaconReceiver, StrangersAreToldOfOnceInAWhileWithNodeAndSource) {
  Proxy proxy(7);
  Draft unknown;
  unknown.node = "n9";
  Draft wrong;
  wrong.secret = 2;
  for (int i = 0; i < 1000; ++i) proxy.Handle(unknown.Seal(), kStart), proxy.Handle(wrong.Seal(), kStart);
  EXPECT_THAT(proxy.receiver.TakeAlarms(), ElementsAre(::testing::AllOf(HasSubstr("node n9: beacons come from 10.0.0.1:5000"),
                                                                         HasSubstr("no line for this node"))));
  proxy.Handle(wrong.Seal(), kStart + 10s);
  EXPECT_THAT(proxy.receiver.TakeAlarms(),
              ElementsAre(::testing::AllOf(HasSubstr("node n1: "), HasSubstr("not signed with its key"), HasSubstr("2000 such"))));
}

TEST(BeaconReceiver, AnAgentThatSpeaksTooSeldomIsToldOf) {
  Proxy proxy(7);
  auto agent = AgentOf("n1", 1, 100, nullptr, 5s);
  for (int i = 0; i < 5; ++i) Exchange(*agent, proxy, kStart + i * 5s);
  EXPECT_THAT(proxy.receiver.TakeAlarms(), ElementsAre(HasSubstr("every 5 s only, and is called silent after 3 s")));
  auto often = AgentOf("n2", 2, 100, nullptr, 1s);
  for (int i = 0; i < 20; ++i) Exchange(*often, proxy, kStart + i * 1s);
  EXPECT_THAT(proxy.receiver.TakeAlarms(), IsEmpty());
}

TEST(BeaconReceiver, AWeightAboveTheKeysIsTheKeys) {
  Proxy proxy(7);
  Draft draft = Believed(proxy, kStart);
  draft.report.weight = 1000;
  proxy.Handle(draft.Seal(), kStart);
  ASSERT_EQ(proxy.events.size(), 1u);
  EXPECT_EQ(proxy.events[0].report.weight, 100);
  EXPECT_THAT(proxy.receiver.TakeAlarms(), ElementsAre(HasSubstr("weight=1000")));
  BeaconKey heavier = KeyOf("n1", 1);
  heavier.most_weight = 1000;
  heavier.ticket_group = "web";
  proxy.receiver.SetKeys({heavier});
  draft.sequence = 2;
  proxy.Handle(draft.Seal(), kStart);
  ASSERT_EQ(proxy.events.size(), 2u);
  EXPECT_EQ(proxy.events[1].report.weight, 1000);
  EXPECT_EQ(proxy.events[1].ticket_group, "web");
}

TEST(BeaconReceiver, WhileAKeyIsChangedBothAreBelievedAndTheNodeIsTheSame) {
  Proxy proxy(7);
  Draft draft = Believed(proxy, kStart);
  proxy.Handle(draft.Seal(), kStart);
  proxy.receiver.SetKeys({KeyOf("n1", 1), KeyOf("n1", 9)});
  draft.sequence = 2;
  EXPECT_FALSE(proxy.Handle(draft.Seal(), kStart).empty()) << "the old key";
  draft.sequence = 3, draft.secret = 9;
  EXPECT_FALSE(proxy.Handle(draft.Seal(), kStart).empty()) << "the new key, under the same nonce";
  EXPECT_EQ(proxy.events.size(), 3u);
  proxy.receiver.SetKeys({KeyOf("n1", 9)});
  draft.sequence = 4;
  EXPECT_FALSE(proxy.Handle(draft.Seal(), kStart).empty());
  draft.sequence = 5, draft.secret = 1;
  EXPECT_THAT(proxy.Handle(draft.Seal(), kStart), IsEmpty()) << "the old key is gone";
  EXPECT_EQ(proxy.receiver.stats().bad_mac, 1u);
  EXPECT_EQ(proxy.events.size(), 4u);
}

TEST(BeaconReceiver, AFloodDoesNotLockOutAnAgentThatRestarts) {
  Proxy proxy(7);
  Draft draft = Believed(proxy, kStart);
  proxy.Handle(draft.Seal(), kStart);
  Instant now = kStart;
  for (int turn = 0; turn < 40; ++turn) {  // the kernel drops datagrams all the time
    now += 100ms;
    proxy.receiver.OnDoubt(100ms);
  }
  Draft again;
  again.epoch = 200;
  again.nonce = draft.nonce;
  const auto answer = proxy.Handle(again.Seal(), now);
  ASSERT_FALSE(answer.empty());
  EXPECT_EQ(TypeOf(answer), BeaconType::kChallenge);
  EXPECT_NE(ReadBeaconEnvelope(answer)->nonce, draft.nonce);
}

TEST(BeaconReceiver, WhatFailsIsCountedAndAnsweredWithSilence) {
  struct Row {
    const char* name;
    std::function<std::vector<uint8_t>(Draft)> make;
    uint64_t BeaconStats::*counter;
  };
  const Row rows[] = {
      {"an empty datagram", [](Draft) { return std::vector<uint8_t>{}; }, &BeaconStats::malformed},
      {"noise", [](Draft) { return std::vector<uint8_t>(200, 0x55); }, &BeaconStats::malformed},
      {"a cut datagram", [](Draft d) { auto bytes = d.Seal(); bytes.pop_back(); return bytes; }, &BeaconStats::bad_mac},
      {"a longer datagram", [](Draft d) { auto bytes = d.Seal(); bytes.push_back(0); return bytes; }, &BeaconStats::bad_mac},
      {"a node nobody knows", [](Draft d) { d.node = "n9"; return d.Seal(); }, &BeaconStats::unknown_node},
      {"another node's key", [](Draft d) { d.secret = 2; return d.Seal(); }, &BeaconStats::bad_mac},
      {"a node's name under its neighbour's key", [](Draft d) { d.node = "n2"; return d.Seal(); }, &BeaconStats::bad_mac},
      {"a pool that its key does not allow",
       [](Draft d) { d.report.pools = {"web", "bank"}; return d.Seal(); }, &BeaconStats::refused_pool},
      {"an address that its key does not allow",
       [](Draft d) { d.report.address = Address("192.0.2.1:443"); return d.Seal(); }, &BeaconStats::refused_address},
      {"a unix socket, where ranges are named",
       [](Draft d) { d.report.address = Address("unix:/run/x"); return d.Seal(); }, &BeaconStats::refused_address},
      {"loopback, which its range does not name",
       [](Draft d) { d.report.address = Address("127.0.0.1:443"); return d.Seal(); }, &BeaconStats::refused_address},
      {"where the proxy listens itself",
       [](Draft d) { d.report.address = Address("10.0.0.99:443"); return d.Seal(); }, &BeaconStats::refused_address},
      {"the same again", [](Draft d) { d.sequence = 1; return d.Seal(); }, &BeaconStats::replayed},
      {"sequence zero", [](Draft d) { d.sequence = 0; return d.Seal(); }, &BeaconStats::replayed},
      {"a lower epoch", [](Draft d) { d.epoch = 99; return d.Seal(); }, &BeaconStats::second_epoch},
      {"a greater epoch while the first is alive", [](Draft d) { d.epoch = 101; return d.Seal(); },
       &BeaconStats::second_epoch},
      {"a second agent's DYING", [](Draft d) { d.epoch = 101; d.type = BeaconType::kDying; return d.Seal(); },
       &BeaconStats::second_epoch},
      {"an older agent's DYING", [](Draft d) { d.epoch = 99; d.type = BeaconType::kDying; return d.Seal(); },
       &BeaconStats::second_epoch},
      {"a body that does not parse", [](Draft d) { return d.Tokens(0, 1, {}); }, &BeaconStats::malformed},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    Proxy proxy(7);
    proxy.receiver.SetOurAddresses({Address("0.0.0.0:443"), Address("10.0.0.99:443")});
    Draft draft = Believed(proxy, kStart);
    ASSERT_FALSE(proxy.Handle(draft.Seal(), kStart).empty());
    proxy.events.clear();
    draft.sequence = 2;
    const uint64_t before = proxy.receiver.stats().*row.counter;
    EXPECT_THAT(proxy.Handle(row.make(draft), kStart), IsEmpty());
    EXPECT_THAT(proxy.events, IsEmpty());
    EXPECT_EQ(proxy.receiver.stats().*row.counter, before + 1);
    // And the real agent goes on.
    draft.sequence = 3;
    draft.type = BeaconType::kStillHere;
    EXPECT_EQ(TypeOf(proxy.Handle(draft.Seal(), kStart)), BeaconType::kSync);
    EXPECT_EQ(proxy.events.size(), 1u);
  }
}

TEST(BeaconReceiver, AnswersOfAProxyAreNoQuestions) {
  Proxy proxy(7);
  Draft hello;
  const auto challenge = proxy.Handle(hello.Seal(), kStart);
  EXPECT_THAT(proxy.Handle(challenge, kStart), IsEmpty());
  EXPECT_EQ(proxy.receiver.stats().malformed, 1u);
}

TEST(BeaconReceiver, EveryNodeAndEveryProcessHasANonceOfItsOwn) {
  Proxy proxy(7), other(8);
  EXPECT_NE(NonceOf(proxy, kStart), NonceOf(proxy, kStart, "n2", 2));
  EXPECT_NE(NonceOf(proxy, kStart), NonceOf(other, kStart));
}

TEST(BeaconReceiver, WhatWasRecordedBeforeARestartOfTheProxyOnlyDrawsChallenges) {
  auto agent = AgentOf("n1", 1, 100);
  Proxy before(7);
  std::vector<std::vector<uint8_t>> recorded;
  for (int second = 0; second < 60; ++second) {
    for (auto& datagram : Exchange(*agent, before, kStart + second * 1s)) recorded.push_back(datagram);
  }
  Proxy after(8);
  for (int round = 0; round < 100; ++round) {
    for (const auto& datagram : recorded) after.Handle(datagram, kStart + 61s);
  }
  EXPECT_THAT(after.events, IsEmpty());
  EXPECT_EQ(after.receiver.stats().applied, 0u);
  EXPECT_LE(after.receiver.stats().challenges_sent, 8u);
}

TEST(BeaconReceiver, AFloodOfRecordingsDoesNotKeepTheAgentFromItsChallenge) {
  auto agent = AgentOf("n1", 1, 100);
  auto elsewhere = AgentOf("n1", 1, 100);  // the same agent's half towards another proxy, which knows it longer
  Proxy before(7), other(9), after(8);
  std::vector<std::vector<uint8_t>> recorded;
  for (int second = 0; second < 60; ++second) {
    for (auto& datagram : Exchange(*agent, before, kStart + second * 1s)) recorded.push_back(datagram);
    for (auto& datagram : Exchange(*elsewhere, other, kStart + second * 1s, 20)) recorded.push_back(datagram);
  }
  Instant now = kStart + 61s;
  size_t next = 0;
  for (; now < kStart + 65s && after.events.empty(); now += 10ms) {
    for (int i = 0; i < 100; ++i) after.Handle(recorded[next++ % recorded.size()], now);
    Exchange(*agent, after, now, 1);
  }
  EXPECT_LT(now, kStart + 64s) << "two reports suffice";
}

// ---- Epochs

// A row: what the first agent does last, how long ago, and whether a restarted one is believed at once.
TEST(BeaconReceiver, WhenASecondEpochTakesOver) {
  struct Row {
    const char* name;
    bool says_dying;
    Duration after;
    uint64_t epoch;
    bool takes_over;
  };
  const Row rows[] = {
      {"a greater epoch, the first alive", false, 1400ms, 101, false},
      {"a greater epoch, the first silent for half of dead_after", false, 1500ms, 101, true},
      {"a greater epoch, the first has said that it dies", true, 1ms, 101, true},
      {"a lower epoch, the first silent", false, 1h, 99, false},
      {"a lower epoch, the first has said that it dies", true, 1h, 99, false},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    Proxy proxy(7);
    Draft first = Believed(proxy, kStart);
    proxy.Handle(first.Seal(), kStart);
    if (row.says_dying) {
      first.sequence = 2;
      first.type = BeaconType::kDying;
      proxy.Handle(first.Seal(), kStart);
    }
    proxy.events.clear();
    Draft second;
    second.nonce = first.nonce;
    second.epoch = row.epoch;
    const auto answer = proxy.Handle(second.Seal(), kStart + row.after);
    EXPECT_THAT(proxy.events, IsEmpty()) << "it has to prove itself first";
    ASSERT_EQ(!answer.empty(), row.takes_over);
    if (!row.takes_over) continue;
    second.nonce = ReadBeaconEnvelope(answer)->nonce;
    EXPECT_NE(second.nonce, first.nonce);
    second.sequence = 2;
    EXPECT_EQ(TypeOf(proxy.Handle(second.Seal(), kStart + row.after)), BeaconType::kSync);
    ASSERT_EQ(proxy.events.size(), 1u);
    EXPECT_EQ(proxy.events[0].epoch, 101u);
    EXPECT_EQ(proxy.receiver.stats().takeovers, 1u);
  }
}

// Killed (no DYING) and started again: long before the first agent's silence is judged.
TEST(BeaconReceiver, ARestartedAgentIsTakenOverBeforeItIsMissed) {
  for (const bool says_dying : {false, true}) {
    Proxy proxy(7);
    auto first = AgentOf("n1", 1, 100);
    Exchange(*first, proxy, kStart);
    if (says_dying) {
      first->Die(kStart);
      Exchange(*first, proxy, kStart);
    }
    auto second = AgentOf("n1", 1, 200);
    Instant now = kStart;
    for (; now < kStart + 10s && !second->Confirmed(); now += 10ms) Exchange(*second, proxy, now);
    EXPECT_LE(now, kStart + (says_dying ? 10ms : 1900ms));
    EXPECT_EQ(proxy.events.back().epoch, 200u);
    EXPECT_THAT(proxy.receiver.TakeAlarms(), IsEmpty()) << "a restart is no alarm";
  }
}

TEST(BeaconReceiver, ABootWithAClockThatWentBackIsTakenOverToo) {
  Proxy proxy(7);
  auto first = AgentOf("n1", 1, 1'000'000);
  Exchange(*first, proxy, kStart);
  auto second = AgentOf("n1", 1, 5);
  Instant now = kStart;
  for (; now < kStart + 10s && !second->Confirmed(); now += 10ms) Exchange(*second, proxy, now);
  EXPECT_LE(now, kStart + 3300ms);
  EXPECT_EQ(proxy.events.back().epoch, 1'000'006u);
}

TEST(BeaconReceiver, ARefusedAgentsRecordingsAreWorthlessOnceTheFirstIsSilent) {
  Proxy proxy(7);
  Draft first = Believed(proxy, kStart);
  proxy.Handle(first.Seal(), kStart);
  Draft ghost;
  ghost.nonce = first.nonce;
  ghost.epoch = 200;
  proxy.Handle(ghost.Seal(), kStart + 1s);  // refused, and recorded
  proxy.events.clear();
  for (int i = 0; i < 10; ++i) proxy.Handle(ghost.Seal(), kStart + 10s + i * 1s);
  EXPECT_THAT(proxy.events, IsEmpty());
  // The first, back from a partition, is challenged and believed again.
  first.nonce = 0;
  first.sequence = 9;
  first.nonce = ReadBeaconEnvelope(proxy.Handle(first.Seal(), kStart + 30s))->nonce;
  first.sequence = 10;
  proxy.Handle(first.Seal(), kStart + 30s);
  EXPECT_EQ(proxy.events.size(), 1u);
}

TEST(BeaconReceiver, ASecondAgentIsAlarmedAndNotMoreThanAFewTimes) {
  Proxy proxy(7);
  Draft first = Believed(proxy, kStart);
  proxy.Handle(first.Seal(), kStart);
  Draft second = first;
  second.epoch = 200;
  for (uint64_t i = 1; i <= 1000; ++i) {
    second.sequence = i;
    proxy.Handle(second.Seal(), kStart);
    if (i != 500) continue;
    EXPECT_THAT(proxy.receiver.TakeAlarms(), IsEmpty()) << "it may be a restart";
    first.sequence = 2;
    proxy.Handle(first.Seal(), kStart + 100ms);  // but the first one speaks on
  }
  const auto alarms = proxy.receiver.TakeAlarms();
  ASSERT_EQ(alarms.size(), 1u);
  EXPECT_THAT(alarms[0], HasSubstr("node n1: a second agent (epoch 200) speaks from 10.0.0.1:5000"));
  EXPECT_THAT(proxy.receiver.TakeAlarms(), IsEmpty());
}

TEST(BeaconReceiver, TimeInWhichTheProxyWasStoppedCountsAsHeard) {
  Proxy proxy(7);
  Draft first = Believed(proxy, kStart);
  proxy.Handle(first.Seal(), kStart);
  proxy.receiver.OnPause(1h);
  Draft second = first;
  second.epoch = 200;
  second.sequence = 5;
  EXPECT_THAT(proxy.Handle(second.Seal(), kStart + 1h + 1s), IsEmpty());
  EXPECT_EQ(proxy.receiver.stats().second_epoch, 1u);
}

// ---- Reports

TEST(BeaconReceiver, ASplitReportCountsOnceItIsWhole) {
  NodeReport large = ReportOf("10.0.0.1:443", {"web", "api"}, 64);
  for (TicketPrefix& prefix : large.prefixes) prefix.length = 32;
  std::vector<std::vector<uint8_t>> bodies;
  std::string why;
  ASSERT_TRUE(WriteReportBodies(large, 5, &bodies, &why));
  ASSERT_EQ(bodies.size(), 2u);
  // In both orders.
  for (const bool swapped : {false, true}) {
    Proxy proxy(7);
    const Draft draft = Believed(proxy, kStart);
    BeaconEnvelope envelope;
    envelope.node = "n1";
    envelope.epoch = 100;
    envelope.nonce = draft.nonce;
    auto send = [&](size_t part, uint64_t sequence) {
      envelope.sequence = sequence;
      return proxy.Handle(SealBeacon(BeaconMac(SecretOf(1)), envelope, bodies[part]), kStart);
    };
    EXPECT_THAT(swapped ? send(1, 2) : send(0, 1), IsEmpty());
    EXPECT_THAT(proxy.events, IsEmpty());
    EXPECT_EQ(TypeOf(swapped ? send(0, 1) : send(1, 2)), BeaconType::kSync);
    ASSERT_EQ(proxy.events.size(), 1u);
    EXPECT_EQ(proxy.events[0].report.pools, large.pools);
    EXPECT_EQ(proxy.events[0].report.prefixes.size(), 64u);
  }
}

TEST(BeaconReceiver, WhatTheNetworkReorderedDoesNotUndoWhatCameAfter) {
  Proxy proxy(7);
  Draft old_report = Believed(proxy, kStart);
  Draft new_report = old_report;
  new_report.sequence = 2;
  new_report.report.health.ready = false;
  Draft dying = old_report;
  dying.sequence = 4;
  dying.type = BeaconType::kDying;
  Draft last_report = old_report;
  last_report.sequence = 3;
  proxy.Handle(new_report.Seal(), kStart);
  EXPECT_THAT(proxy.Handle(old_report.Seal(), kStart), IsEmpty()) << "older than the newest report";
  proxy.Handle(dying.Seal(), kStart);
  EXPECT_THAT(proxy.Handle(last_report.Seal(), kStart), IsEmpty()) << "sent before DYING";
  ASSERT_EQ(proxy.events.size(), 2u);
  EXPECT_FALSE(proxy.events[0].report.health.ready);
  EXPECT_EQ(proxy.events[1].kind, Kind::kDying);
  EXPECT_EQ(proxy.receiver.stats().late, 2u);
}

TEST(BeaconReceiver, AFloodOfReportsIsCutToTheQuotaAndTheNeighbourUntouched) {
  Proxy proxy(7);
  Draft draft = Believed(proxy, kStart);
  for (uint64_t i = 1; i <= 10'000; ++i) {
    draft.sequence = i;
    proxy.Handle(draft.Seal(), kStart);
  }
  EXPECT_EQ(proxy.events.size(), 200u);
  EXPECT_EQ(proxy.receiver.stats().over_quota, 9'800u);
  auto neighbour = AgentOf("n2", 2, 100);
  Exchange(*neighbour, proxy, kStart);
  EXPECT_TRUE(neighbour->Confirmed());
}

// ---- Tokens

std::vector<TokenItem> Items(std::string_view letters) {
  std::vector<TokenItem> items;
  for (char letter : letters) {
    TokenItem& item = items.emplace_back();
    if (letter == '-') continue;
    item.bytes[0] = static_cast<uint8_t>(letter);
    item.length = 1;
    item.ttl_seconds = 60;
  }
  return items;
}

std::string Letters(const std::vector<BeaconEvent>& events) {
  std::string letters;
  for (const BeaconEvent& event : events) {
    for (const TokenItem& item : event.tokens) letters += static_cast<char>(item.bytes[0]);
  }
  return letters;
}

TEST(BeaconReceiver, TokensAreAppliedInTheOrderOfTheirNumbersWhateverArrives) {
  struct Datagram {
    uint64_t base, first;
    const char* letters;
  };
  struct Row {
    const char* name;
    std::vector<Datagram> arrive;
    const char* applied;
    uint64_t next;
    uint64_t gaps;
  };
  const Row rows[] = {
      {"in order", {{1, 1, "ab"}, {3, 3, "c"}}, "abc", 4, 0},
      {"twice", {{1, 1, "ab"}, {1, 1, "ab"}}, "ab", 3, 0},
      {"overlapping", {{1, 1, "ab"}, {2, 2, "bcd"}}, "abcd", 5, 0},
      {"a gap waits", {{1, 1, "a"}, {3, 3, "c"}, {5, 5, "e"}}, "a", 2, 1},
      {"a gap is filled, and what came early is applied", {{1, 1, "a"}, {3, 3, "cd"}, {5, 5, "e"}, {2, 2, "b"}}, "abcde", 6, 1},
      {"all in reverse", {{4, 4, "d"}, {3, 3, "c"}, {2, 2, "b"}, {1, 1, "a"}}, "abcd", 5, 1},
      {"cut differently when sent again", {{3, 3, "cd"}, {1, 1, "abc"}}, "abcd", 5, 1},
      {"early twice", {{2, 2, "b"}, {2, 2, "b"}, {1, 1, "a"}}, "ab", 3, 1},
      {"what the agent forgot is skipped", {{1, 101, "x"}}, "x", 102, 0},
      {"a base ahead is a gap all the same", {{2, 101, "x"}}, "", 1, 1},
      {"numbers that hold nothing", {{1, 1, "a--b-"}}, "ab", 6, 0},
      {"nothing but numbers that hold nothing", {{1, 9, ""}}, "", 9, 0},
      {"a base behind", {{1, 1, "abc"}, {2, 5, "e"}}, "abce", 6, 0},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    Proxy proxy(7);
    Draft draft = Believed(proxy, kStart);
    proxy.Handle(draft.Seal(), kStart);
    std::vector<uint8_t> answer;
    for (const Datagram& datagram : row.arrive) {
      ++draft.sequence;
      answer = proxy.Handle(draft.Tokens(datagram.base, datagram.first, Items(datagram.letters)), kStart);
    }
    EXPECT_EQ(Letters(proxy.events), row.applied);
    ASSERT_EQ(TypeOf(answer), BeaconType::kSync);
    EXPECT_EQ(ReadSyncBody(BeaconBody(answer)).next_token, row.next);
    EXPECT_EQ(proxy.receiver.stats().token_gaps, row.gaps);
  }
}

TEST(BeaconReceiver, KeepsNoMoreEarlyTokensThanItsLimit) {
  Proxy proxy(7);
  Draft draft = Believed(proxy, kStart);
  proxy.Handle(draft.Seal(), kStart);
  size_t answered = 0;
  for (uint64_t number = 2; number < 200; ++number) {
    draft.sequence = number;
    answered += proxy.Handle(draft.Tokens(number, number, Items("x")), kStart).empty() ? 0 : 1;
  }
  EXPECT_EQ(answered, limits::kMaxTokenFlight) << "what is not kept is not acknowledged";
  draft.sequence = 200;
  proxy.Handle(draft.Tokens(1, 1, Items("x")), kStart);
  EXPECT_EQ(Letters(proxy.events).size(), 1 + limits::kMaxTokenFlight);
}

TEST(BeaconReceiver, TokensBeforeTheReportAreIgnored) {
  Proxy proxy(7);
  Draft draft = Believed(proxy, kStart);
  EXPECT_THAT(proxy.Handle(draft.Tokens(1, 1, Items("a")), kStart), IsEmpty());
  EXPECT_THAT(proxy.events, IsEmpty());
}

TEST(BeaconReceiver, AFloodOfTokensIsCutToTheQuotaAndTheNeighbourUntouched) {
  Proxy proxy(7);
  Draft draft = Believed(proxy, kStart);
  proxy.Handle(draft.Seal(), kStart);
  const auto items = Items(std::string(34, 'x'));
  for (uint64_t i = 0; i < 10'000; ++i) {
    draft.sequence = i + 2;
    proxy.Handle(draft.Tokens(i * 34 + 1, i * 34 + 1, items), kStart);
  }
  EXPECT_LE(proxy.receiver.stats().tokens_applied, 50'000u);
  EXPECT_GE(proxy.receiver.stats().tokens_applied, 35'000u);
  EXPECT_GT(proxy.receiver.stats().over_quota, 8'000u);

  TokenJournal journal(10);
  journal.Add(AsBytes("token"), 1h, kStart);
  auto neighbour = AgentOf("n2", 2, 100, &journal);
  proxy.events.clear();
  Exchange(*neighbour, proxy, kStart);
  ASSERT_EQ(proxy.events.size(), 2u);
  EXPECT_EQ(proxy.events[1].tokens.size(), 1u);
}

TEST(BeaconReceiver, ANodeThatWasSilentOrForgottenIsAskedForAllItsTokensAgain) {
  TokenJournal journal(10);
  journal.Add(AsBytes("a"), 1h, kStart);
  for (const bool forgotten : {false, true}) {
    Proxy proxy(7);
    auto agent = AgentOf("n1", 1, 100, &journal);
    Exchange(*agent, proxy, kStart);
    ASSERT_EQ(Letters(proxy.events), "a");
    Exchange(*agent, proxy, kStart + 2s);
    ASSERT_EQ(Letters(proxy.events), "a");
    if (forgotten) proxy.receiver.ForgetTokens("n1");
    Exchange(*agent, proxy, kStart + (forgotten ? 3s : 10s));
    EXPECT_EQ(Letters(proxy.events), "aa");
  }
}

// ---- Keys

TEST(BeaconReceiver, AReloadKeepsTheStateOfTheKeysThatStay) {
  Proxy proxy(7);
  auto agent = AgentOf("n1", 1, 100);
  Exchange(*agent, proxy, kStart);
  BeaconKey narrower = KeyOf("n1", 1);
  narrower.pools = {"api"};
  proxy.receiver.SetKeys({KeyOf("n1", 1)});
  Exchange(*agent, proxy, kStart + 1s);
  EXPECT_EQ(proxy.events.size(), 2u);
  EXPECT_EQ(proxy.receiver.stats().challenges_sent, 1u);
  proxy.receiver.SetKeys({narrower});
  Exchange(*agent, proxy, kStart + 2s);
  EXPECT_EQ(proxy.receiver.stats().refused_pool, 1u);
}

TEST(BeaconReceiver, AKeyThatWentAndCameBackBelievesNothingRecorded) {
  Proxy proxy(7);
  auto agent = AgentOf("n1", 1, 100);
  const auto recorded = Exchange(*agent, proxy, kStart);
  proxy.receiver.SetKeys({});
  EXPECT_THAT(proxy.Handle(recorded.back(), kStart), IsEmpty());
  proxy.receiver.SetKeys({KeyOf("n1", 1)});
  proxy.events.clear();
  for (const auto& datagram : recorded) proxy.Handle(datagram, kStart);
  EXPECT_THAT(proxy.events, IsEmpty());
  Exchange(*agent, proxy, kStart + 1s);
  EXPECT_EQ(proxy.events.size(), 1u);
}

TEST(BeaconReceiver, AChangedKeyEndsTheOldOne) {
  Proxy proxy(7);
  auto agent = AgentOf("n1", 1, 100);
  Exchange(*agent, proxy, kStart);
  proxy.receiver.SetKeys({KeyOf("n1", 9)});
  proxy.events.clear();
  Exchange(*agent, proxy, kStart + 1s);
  EXPECT_THAT(proxy.events, IsEmpty());
  auto renewed = AgentOf("n1", 9, 101);
  Exchange(*renewed, proxy, kStart + 1s);
  EXPECT_EQ(proxy.events.size(), 1u);
}

// ---- The small parts

TEST(ReplayWindow, EachNumberOnceAndNoneThatIsTooOld) {
  ReplayWindow window;
  EXPECT_FALSE(window.Accept(0));
  EXPECT_TRUE(window.Accept(5));
  EXPECT_FALSE(window.Accept(5));
  EXPECT_TRUE(window.Accept(1));
  EXPECT_FALSE(window.Accept(1));
  EXPECT_TRUE(window.Accept(5 + limits::kReplayWindow));
  EXPECT_FALSE(window.Accept(5)) << "out of the window";
  EXPECT_TRUE(window.Accept(6));
  EXPECT_TRUE(window.Accept(UINT64_MAX));
  EXPECT_FALSE(window.Accept(UINT64_MAX));
  EXPECT_FALSE(window.Accept(7));
  EXPECT_TRUE(window.Accept(UINT64_MAX - 1));
}

// Against a set: numbers near a moving front, in any order.
TEST(ReplayWindow, AgreesWithASet) {
  ReplayWindow window;
  std::map<uint64_t, bool> seen;
  uint64_t newest = 0, state = 1;
  for (int i = 0; i < 200'000; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const uint64_t back = (state >> 33) % 1500, forward = (state >> 20) % 8;
    const uint64_t sequence = newest + forward > back ? newest + forward - back : 0;
    const bool expected = sequence != 0 && !seen[sequence] &&
                          (sequence > newest || newest - sequence < limits::kReplayWindow);
    ASSERT_EQ(window.Accept(sequence), expected) << "step " << i << " sequence " << sequence;
    if (expected) seen[sequence] = true;
    newest = std::max(newest, sequence);
  }
}

TEST(RateLimit, SoMuchAtOnceAndThenSoMuchASecond) {
  RateLimit limit(100ms, 3);
  EXPECT_TRUE(limit.Take(kStart, 2));
  EXPECT_FALSE(limit.Take(kStart, 2));
  EXPECT_TRUE(limit.Take(kStart));
  EXPECT_FALSE(limit.Take(kStart));
  EXPECT_EQ(limit.Next(kStart), kStart + 100ms);
  EXPECT_FALSE(limit.Take(kStart + 99ms));
  EXPECT_TRUE(limit.Take(kStart + 100ms));
  EXPECT_FALSE(limit.Take(kStart + 50ms)) << "time that steps back earns nothing";
  EXPECT_TRUE(limit.Take(kStart + 1h, 3));
  EXPECT_FALSE(limit.Take(kStart + 1h)) << "and no time earns more than the burst";
}

}  // namespace
}  // namespace hud
