// The table of prefixes, as rows: what a server hands out, and what the agent makes of it.
#include "agentd/ticket_classifier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

namespace hud {
namespace {

// Builds what one probe sees. Random bytes come from a fixed seed: a row means the same in every run.
class Sample {
 public:
  explicit Sample(uint32_t seed = 1) : random_(seed) {}

  Sample& Ticket(uint32_t session, std::vector<uint8_t> head, uint32_t length, uint32_t lifetime = 300) {
    SeenToken token;
    token.session = session;
    token.length = length;
    token.lifetime_seconds = lifetime;
    for (uint8_t& byte : token.head) byte = static_cast<uint8_t>(random_());
    std::copy(head.begin(), head.end(), token.head.begin());
    tokens_.push_back(token);
    return *this;
  }
  Sample& SessionId(uint32_t session) {
    Ticket(session, {}, 32, 0);
    tokens_.back().is_session_id = true;
    return *this;
  }
  Sample& Tickets(uint32_t sessions, const std::vector<uint8_t>& head, uint32_t length, uint32_t each = 1) {
    for (uint32_t session = 0; session < sessions; ++session) {
      for (uint32_t i = 0; i < each; ++i) Ticket(session, head, length);
    }
    return *this;
  }
  const std::vector<SeenToken>& tokens() const { return tokens_; }

 private:
  std::mt19937 random_;
  std::vector<SeenToken> tokens_;
};

std::vector<uint8_t> Name(uint8_t first, size_t length = 16) {
  std::vector<uint8_t> name(length);
  for (size_t i = 0; i < length; ++i) name[i] = static_cast<uint8_t>(first + 7 * i);
  return name;
}

TicketPrefix Prefix(const std::vector<uint8_t>& bytes) {
  TicketPrefix prefix;
  std::copy(bytes.begin(), bytes.end(), prefix.bytes.begin());
  prefix.length = static_cast<uint8_t>(bytes.size());
  return prefix;
}

struct Row {
  std::string name;
  Sample sample;
  std::vector<std::vector<uint8_t>> known;
  TicketKind kind;
  std::vector<std::vector<uint8_t>> prefixes;
};

std::vector<Row> Rows() {
  return {
      {"nothing was handed out", Sample(), {}, TicketKind::kNone, {}},
      {"one ticket tells nothing", Sample().Ticket(0, Name(9), 192), {}, TicketKind::kTooFew, {}},
      {"two tickets of one session tell nothing", Sample().Tickets(1, Name(9), 192, 2), {}, TicketKind::kTooFew, {}},
      {"OpenSSL's 16-byte key name", Sample().Tickets(4, Name(9), 192), {}, TicketKind::kKeyName, {Name(9)}},
      {"OpenSSL in TLS 1.3, two tickets a session", Sample().Tickets(4, Name(9), 224, 2), {}, TicketKind::kKeyName, {Name(9)}},
      {"a key name that happens to begin with 0x01", Sample().Tickets(4, Name(1), 192), {}, TicketKind::kKeyName, {Name(1)}},
      {"random bytes behind the name agree by chance", Sample().Tickets(4, Name(9, 18), 192), {}, TicketKind::kKeyName, {Name(9)}},
      {"s2n: a version byte, then the name", Sample().Tickets(4, Name(1, 17), 200), {}, TicketKind::kS2n, {Name(1, 17)}},
      {"17 common bytes that do not begin with 0x01", Sample().Tickets(4, Name(2, 17), 200), {}, TicketKind::kKeyName, {Name(2)}},
      {"24 constant bytes are more than chance: both lengths", Sample().Tickets(4, Name(9, 24), 200), {}, TicketKind::kKeyName,
       {Name(9, 24), Name(9)}},
      {"the same ticket every time", Sample().Tickets(4, Name(9, 32), 200), {}, TicketKind::kKeyName, {Name(9, 32), Name(9)}},
      {"JSSE's 4-byte key number", Sample().Tickets(4, Name(9, 4), 1200), {}, TicketKind::kJsse, {Name(9, 4)}},
      {"an application's tag of 8 bytes", Sample().Tickets(4, Name(9, 8), 180), {}, TicketKind::kTag, {Name(9, 8)}},
      {"TLS 1.3 stateful: 32 random bytes", Sample().Tickets(4, {}, 32), {}, TicketKind::kStateful, {}},
      {"TLS 1.2 stateful: session ids", Sample().SessionId(0).SessionId(1).SessionId(2).SessionId(3), {}, TicketKind::kStateful, {}},
      {"a single session id is enough to know", Sample().SessionId(0), {}, TicketKind::kStateful, {}},
      {"Go 1.21: tickets without a name", Sample().Tickets(16, {}, 120), {}, TicketKind::kNoPrefix, {}},
      {"3 common bytes are no name", Sample().Tickets(16, Name(9, 3), 120), {}, TicketKind::kNoPrefix, {}},
      {"32-byte tokens that begin with a tag", Sample().Tickets(4, Name(9, 8), 32), {}, TicketKind::kTag, {Name(9, 8)}},
      {"two processes, each with a name that repeats",
       Sample().Ticket(0, Name(9), 192).Ticket(1, Name(80), 192).Ticket(2, Name(9), 192).Ticket(3, Name(80), 192),
       {}, TicketKind::kSeveralKeyNames, {Name(9), Name(80)}},
      {"names that share their beginning are still two names",
       Sample().Ticket(0, Name(9), 192).Ticket(1, [] { auto n = Name(9); n[15] ^= 1; return n; }(), 192)
           .Ticket(2, Name(9), 192).Ticket(3, [] { auto n = Name(9); n[15] ^= 1; return n; }(), 192),
       {}, TicketKind::kSeveralKeyNames, {Name(9), [] { auto n = Name(9); n[15] ^= 1; return n; }()}},
      {"most names repeat: the one seen once is a name, too",
       Sample().Ticket(0, Name(9), 192).Ticket(1, Name(9), 192).Ticket(2, Name(9), 192).Ticket(3, Name(80), 192),
       {}, TicketKind::kSeveralKeyNames, {Name(9), Name(80)}},
      {"repetition within one session proves nothing",
       Sample().Ticket(0, Name(9), 192).Ticket(0, Name(9), 192).Ticket(1, Name(80), 192).Ticket(1, Name(80), 192),
       {}, TicketKind::kNoPrefix, {}},
      {"names known from an earlier probe count as repeated",
       Sample().Ticket(0, Name(9), 192).Ticket(1, Name(80), 192),
       {Name(9), Name(80)}, TicketKind::kSeveralKeyNames, {Name(9), Name(80)}},
      {"a shorter known prefix does not count",
       Sample().Ticket(0, Name(9), 192).Ticket(1, Name(80), 192),
       {Name(9, 8), Name(80, 8)}, TicketKind::kNoPrefix, {}},
      {"one repeated name among many strangers is not enough",
       Sample().Ticket(0, Name(9), 192).Ticket(1, Name(9), 192).Ticket(2, {}, 192).Ticket(3, {}, 192).Ticket(4, {}, 192),
       {}, TicketKind::kNoPrefix, {}},
      {"tickets decide where session ids come along",
       Sample().Tickets(4, Name(9), 192).SessionId(4), {}, TicketKind::kKeyName, {Name(9)}},
  };
}

TEST(TicketClassifier, ReadsTheIssuerFromWhatAServerHandsOut) {
  for (const Row& row : Rows()) {
    SCOPED_TRACE(row.name);
    std::vector<TicketPrefix> known, expected;
    for (const auto& name : row.known) known.push_back(Prefix(name));
    for (const auto& name : row.prefixes) expected.push_back(Prefix(name));
    const TicketVerdict verdict = ClassifyTickets(row.sample.tokens(), known);
    EXPECT_EQ(Explain(verdict.kind), Explain(row.kind));
    EXPECT_EQ(verdict.prefixes, expected);
  }
}

TEST(TicketClassifier, EveryPrefixItLearnsBeginsATicketItSaw) {
  for (uint32_t seed = 1; seed <= 2000; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&](uint32_t limit) { return static_cast<uint32_t>(random() % limit); };
    Sample sample(seed);
    const size_t common = below(33);
    for (uint32_t i = 0, n = below(20); i < n; ++i) {
      sample.Ticket(below(6), Name(static_cast<uint8_t>(below(3)), common), 1 + below(250));
    }
    for (const TicketPrefix& prefix : ClassifyTickets(sample.tokens(), {}).prefixes) {
      ASSERT_GE(prefix.length, 4) << "seed " << seed;
      const bool found = std::any_of(sample.tokens().begin(), sample.tokens().end(), [&](const SeenToken& token) {
        return token.length >= prefix.length &&
               std::equal(prefix.bytes.begin(), prefix.bytes.begin() + prefix.length, token.head.begin());
      });
      ASSERT_TRUE(found) << "seed " << seed;
    }
  }
}

TEST(TicketClassifier, LearnsNoMoreNamesThanANodeMayAdvertise) {
  Sample sample;
  for (uint32_t i = 0; i < 200; ++i) {
    sample.Ticket(2 * i, Name(static_cast<uint8_t>(i)), 192).Ticket(2 * i + 1, Name(static_cast<uint8_t>(i)), 192);
  }
  EXPECT_EQ(ClassifyTickets(sample.tokens(), {}).prefixes.size(), limits::kMaxPrefixesPerNode);
}

TEST(TicketClassifier, KeepsTheLongestLifetime) {
  Sample sample;
  sample.Ticket(0, Name(9), 192, 300).Ticket(1, Name(9), 192, 7200).Ticket(2, Name(9), 192, 0);
  EXPECT_EQ(ClassifyTickets(sample.tokens(), {}).lifetime_seconds, 7200u);
}

}  // namespace
}  // namespace hud
