// What a node's beacons say, given what its probes and key files found.
#include "agentd/node_agent.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace hud {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

TicketPrefix P(uint8_t number) {
  TicketPrefix prefix;
  prefix.length = 16;
  prefix.bytes[0] = number;
  return prefix;
}

Instant At(int second) { return Instant(std::chrono::seconds(second)); }

ProbeFinding Found(TicketKind kind, std::vector<TicketPrefix> prefixes, TlsVersion version = TlsVersion::kTls13,
                   uint32_t lifetime = 300) {
  return {"www", version, SessionEnd::kHandshakeDone, {}, {kind, std::move(prefixes), lifetime}};
}

ProbeFinding Failed(SessionEnd end) { return {"www", TlsVersion::kTls13, end, "why", {}}; }

ProbeReport Report(size_t probe, bool ready, std::vector<ProbeFinding> findings = {}) {
  return {probe, ready, ready ? SessionEnd::kHandshakeDone : SessionEnd::kRefused, ready ? "" : "refused", 1234, std::move(findings)};
}

class ANode : public testing::Test {
 protected:
  std::string News(NodeAgent& node) {
    std::string all;
    for (const NodeAgent::News& news : node.TakeNews()) all += news.text + "\n";
    return all;
  }
  static AgentNodeConfig Config() {
    AgentNodeConfig config;
    config.name = "n1";
    config.pools = {"web"};
    return config;
  }
  NodeAgent node_{Config(), {3}};
};

TEST_F(ANode, IsAnnouncedOnceItsServerAnswersAndNotBefore) {
  EXPECT_FALSE(node_.announced());
  node_.Apply(Report(3, false), At(0));
  EXPECT_FALSE(node_.announced());
  node_.Apply(Report(3, true), At(1));
  EXPECT_TRUE(node_.announced());
  node_.Apply(Report(3, false), At(2));
  EXPECT_TRUE(node_.announced()) << "it goes on speaking, to say that it is not ready";
  EXPECT_FALSE(node_.Report(At(2)).health.ready);
  EXPECT_EQ(node_.Report(At(2)).health.probe_micros, 1234u);
}

TEST_F(ANode, IsReadyWhenAllItsProbesSucceed) {
  NodeAgent node(Config(), {0, 1});
  node.Apply(Report(0, true), At(0));
  EXPECT_FALSE(node.ready());
  node.Apply(Report(1, true), At(0));
  EXPECT_TRUE(node.ready());
  node.Apply(Report(0, false), At(0));
  EXPECT_FALSE(node.Report(At(0)).health.ready);
}

TEST_F(ANode, AdvertisesTheNamesOfBothVersionsAndOfItsFiles) {
  node_.Apply(Report(3, true, {Found(TicketKind::kKeyName, {P(1)}, TlsVersion::kTls12), Found(TicketKind::kKeyName, {P(2)})}), At(0));
  node_.Apply("/ticket.key", {P(3), P(1)}, At(0));
  EXPECT_THAT(node_.Report(At(0)).prefixes, testing::UnorderedElementsAre(P(1), P(2), P(3)));
}

TEST_F(ANode, KeepsARotatedNameForTheLifetimeThatTheServerGivesItsTickets) {
  node_.Apply(Report(3, true, {Found(TicketKind::kKeyName, {P(1)})}), At(0));
  node_.Apply(Report(3, true, {Found(TicketKind::kKeyName, {P(2)})}), At(60));
  EXPECT_THAT(node_.Report(At(359)).prefixes, ElementsAre(P(2), P(1)));
  EXPECT_THAT(node_.Report(At(361)).prefixes, ElementsAre(P(2)));
}

TEST_F(ANode, WithoutAHintKeepsItForTwoHours) {
  node_.Apply(Report(3, true, {Found(TicketKind::kKeyName, {P(1)}, TlsVersion::kTls12, 0)}), At(0));
  node_.Apply(Report(3, true, {Found(TicketKind::kKeyName, {P(2)}, TlsVersion::kTls12, 0)}), At(60));
  EXPECT_THAT(node_.Report(At(7259)).prefixes, SizeIs(2));
  EXPECT_THAT(node_.Report(At(7261)).prefixes, SizeIs(1));
}

TEST_F(ANode, ForgetsNothingWhenAProbeFails) {
  node_.Apply(Report(3, true, {Found(TicketKind::kKeyName, {P(1)})}), At(0));
  for (const SessionEnd end : {SessionEnd::kFailed, SessionEnd::kTimedOut, SessionEnd::kRefused, SessionEnd::kLocalError,
                               SessionEnd::kWantsCertificate, SessionEnd::kAlert}) {
    node_.Apply(Report(3, true, {Failed(end)}), At(1));
  }
  node_.Apply(Report(3, true, {Found(TicketKind::kTooFew, {})}), At(2));
  EXPECT_THAT(node_.Report(At(1'000'000)).prefixes, ElementsAre(P(1)));
}

TEST_F(ANode, DropsTheNamesOfAVersionThatIsSwitchedOff) {
  node_.Apply(Report(3, true, {Found(TicketKind::kKeyName, {P(1)})}), At(0));
  node_.Apply(Report(3, true, {Failed(SessionEnd::kVersionRefused)}), At(1));
  EXPECT_THAT(node_.Report(At(302)).prefixes, IsEmpty());
}

TEST_F(ANode, TellsEachClassificationOnceAndAgainWhenItChanges) {
  const auto tell = [&](std::vector<ProbeFinding> findings) {
    node_.Apply(Report(3, true, std::move(findings)), At(0));
    return News(node_);
  };
  EXPECT_THAT(tell({Found(TicketKind::kKeyName, {P(1)})}), HasSubstr("16-byte key name"));
  EXPECT_EQ(tell({Found(TicketKind::kKeyName, {P(1)})}), "");
  EXPECT_THAT(tell({Found(TicketKind::kKeyName, {P(2)})}), HasSubstr("(02000000..)"));
  EXPECT_THAT(tell({Found(TicketKind::kStateful, {})}), HasSubstr("feeds.syslog"));
  EXPECT_THAT(tell({Failed(SessionEnd::kWantsCertificate)}), HasSubstr("no ticket seen: why"));
  EXPECT_THAT(tell({Failed(SessionEnd::kFailed)}), HasSubstr("cannot be probed: why"));
  EXPECT_THAT(tell({Failed(SessionEnd::kAlert)}), HasSubstr("no ticket seen: why"));
}

TEST_F(ANode, SaysThatIdsBesideTicketsNeedAFeedUnlessThereIsOne) {
  ProbeFinding both = Found(TicketKind::kKeyName, {P(1)}, TlsVersion::kTls12);
  both.resumes_ids = true;
  node_.Apply(Report(3, true, {both, Found(TicketKind::kKeyName, {P(1)})}), At(0));
  const std::string news = News(node_);
  EXPECT_THAT(news, HasSubstr("TLS 1.2 www: tickets begin with a 16-byte key name (01000000..); clients without ticket support get "
                              "session ids from a cache, so an exact feed is needed (feeds.syslog or feeds.tokens)\n"));
  EXPECT_THAT(news, HasSubstr("group: www-data}\n"));
  EXPECT_THAT(news, HasSubstr("map $ssl_protocol"));
  node_.Apply(Report(3, true, {both}), At(60));
  EXPECT_EQ(News(node_), "");
  both.resumes_ids = false;  // its cache was switched off
  node_.Apply(Report(3, true, {both}), At(120));
  EXPECT_THAT(News(node_), HasSubstr("nothing more to set up"));

  both.resumes_ids = true;
  NodeAgent fed(Config(), {3});
  fed.SetHasFeed();
  fed.Apply(Report(3, true, {both, Found(TicketKind::kStateful, {})}), At(0));
  const std::string fed_news = News(fed);
  EXPECT_THAT(fed_news, HasSubstr("from a cache, which the configured feed has to bring"));
  EXPECT_THAT(fed_news, HasSubstr("an id of its own, which the configured feed has to bring"));
  EXPECT_THAT(fed_news, Not(HasSubstr("needed")));
}

TEST_F(ANode, OfSeveralNamesWhichTakeTurnsDoesNotTellEachTurn) {
  node_.Apply(Report(3, true, {Found(TicketKind::kSeveralKeyNames, {P(1), P(2)})}), At(0));
  News(node_);
  node_.Apply(Report(3, true, {Found(TicketKind::kKeyName, {P(2)})}), At(60));
  node_.Apply(Report(3, true, {Found(TicketKind::kKeyName, {P(1)})}), At(120));
  EXPECT_EQ(News(node_), "");
}

TEST_F(ANode, TellsThatItIsNotReadyOnceAndWhy) {
  node_.Apply(Report(3, false), At(0));
  EXPECT_THAT(News(node_), HasSubstr("not ready: refused"));
  node_.Apply(Report(3, false), At(1));
  EXPECT_EQ(News(node_), "");
}

TEST(AProbesReadiness, NeedsOneSuccessAndTwoFailuresInARowUnlessNobodyListens) {
  using enum SessionEnd;
  struct Row {
    const char* name;
    std::vector<SessionEnd> ends;
    bool ready;
  };
  const Row rows[] = {
      {"nothing yet", {}, false},
      {"a success", {kHandshakeDone}, true},
      {"a server that wants a certificate serves", {kWantsCertificate}, true},
      {"an alert is an answer", {kAlert}, true},
      {"and so is the refusal of a version", {kVersionRefused, kVersionRefused, kVersionRefused}, true},
      {"after failures, too", {kRefused, kTimedOut, kAlert, kTimedOut}, true},
      {"one timeout may be chance", {kHandshakeDone, kTimedOut}, true},
      {"two are not", {kHandshakeDone, kTimedOut, kFailed}, false},
      {"not in a row", {kHandshakeDone, kTimedOut, kHandshakeDone, kTimedOut}, true},
      {"nobody listens", {kHandshakeDone, kRefused}, false},
      {"our own lack of descriptors says nothing", {kHandshakeDone, kLocalError, kLocalError, kLocalError}, true},
      {"and mends nothing", {kHandshakeDone, kRefused, kLocalError}, false},
      {"back after a failure", {kHandshakeDone, kRefused, kHandshakeDone}, true},
      {"a timeout before the first success", {kTimedOut}, false},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    Readiness readiness;
    for (const SessionEnd end : row.ends) readiness.Note(end);
    EXPECT_EQ(readiness.ready(), row.ready);
  }
}

}  // namespace
}  // namespace hud
