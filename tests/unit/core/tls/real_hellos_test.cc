// What real clients and servers said (recorded by tests/fuzz/record_hellos.py), read by both parsers.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "core/affinity/token_lookup.h"
#include "core/tls/client_hello.h"
#include "core/tls/server_hello.h"
#include "tests/unit/core/tls/hello_builder.h"
#include "tests/unit/source_tree.h"

namespace hud {
namespace {

using test::Buffer;
using test::Describe;

const std::filesystem::path kCorpus = SourceTree() / "tests" / "fuzz" / "corpus";

Buffer ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return Buffer(std::istreambuf_iterator<char>(file), {});
}

constexpr auto kFull = ResumptionVerdict::kFull;
constexpr auto kResumed = ResumptionVerdict::kResumed;

struct Recording {
  const char* name;
  bool tls13;  // chosen by the server
  TokenKind offered;  // first, whether or not it is certain
  ResumptionVerdict verdict;
  bool retry = false;
  bool early_data = false;
};

const Recording kRecordings[] = {
    {"openssl_tls12_ticket_1", false, TokenKind::kNone, kFull},
    {"openssl_tls12_ticket_2", false, TokenKind::kTicket, kResumed},
    {"openssl_tls12_session_id_1", false, TokenKind::kNone, kFull},
    {"openssl_tls12_session_id_2", false, TokenKind::kSessionId, kResumed},
    {"openssl_tls13_ticket_1", true, TokenKind::kSessionId, kFull},
    {"openssl_tls13_ticket_2", true, TokenKind::kPskIdentity, kResumed},
    {"openssl_tls13_stateful_1", true, TokenKind::kSessionId, kFull},
    {"openssl_tls13_stateful_2", true, TokenKind::kPskIdentity, kResumed},
    {"openssl_tls13_retry_1", true, TokenKind::kSessionId, kFull, true},
    {"openssl_tls13_retry_2", true, TokenKind::kPskIdentity, kResumed, true},
    {"openssl_tls13_early_data_1", true, TokenKind::kSessionId, kFull},
    {"openssl_tls13_early_data_2", true, TokenKind::kPskIdentity, kResumed, false, true},
    {"openssl_tls13_to_tls12_1", false, TokenKind::kSessionId, kFull},
    {"openssl_tls13_to_tls12_2", false, TokenKind::kTicket, kResumed},
    {"gnutls_tls12_1", false, TokenKind::kNone, kFull},
    {"gnutls_tls12_2", false, TokenKind::kTicket, kResumed},
    {"gnutls_tls13_1", true, TokenKind::kSessionId, kFull},
    {"gnutls_tls13_2", true, TokenKind::kPskIdentity, kResumed},
    {"python_tls12_1", false, TokenKind::kNone, kFull},
    {"python_tls12_2", false, TokenKind::kTicket, kResumed},
    {"python_tls13_1", true, TokenKind::kSessionId, kFull},
    {"python_tls13_2", true, TokenKind::kPskIdentity, kResumed},
    {"java_tls12_1", false, TokenKind::kNone, kFull},
    {"java_tls12_2", false, TokenKind::kTicket, kResumed},
    {"java_tls13_1", true, TokenKind::kSessionId, kFull},
    {"java_tls13_2", true, TokenKind::kPskIdentity, kResumed},
    {"curl_1", true, TokenKind::kSessionId, kFull},
    {"go_1", true, TokenKind::kSessionId, kFull},
    {"go_2", true, TokenKind::kSessionId, kFull},
};

TEST(RealHellos, AreReadRight) {
  for (const Recording& recording : kRecordings) {
    SCOPED_TRACE(recording.name);
    const Buffer client = ReadFile(kCorpus / "client_hello" / ("real_" + std::string(recording.name)));
    const Buffer both = ReadFile(kCorpus / "server_hello" / ("real_" + std::string(recording.name)));
    const Bytes server = Bytes(both).subspan(2 + client.size());

    ClientHello hello;
    ASSERT_EQ(ParseClientHello(client, limits::kMaxHelloBytes, hello), HelloVerdict::kComplete);
    EXPECT_EQ(hello.server_name(), "www.example.com");
    EXPECT_EQ(hello.early_data, recording.early_data);
    EXPECT_EQ(hello.bytes_used == client.size(), !recording.early_data);
    for (size_t count = 0; count < hello.bytes_used; ++count) {
      ClientHello unused;
      ASSERT_EQ(ParseClientHello(Bytes(client).first(count), limits::kMaxHelloBytes, unused), HelloVerdict::kNeedMore)
          << count;
    }
    const TokenCandidates candidates = CandidatesOf(hello);
    EXPECT_EQ(candidates.count == 0 ? TokenKind::kNone : candidates.items[0].kind, recording.offered)
        << Describe(hello);
    // Of all these clients only those that offer TLS 1.3 made their session id up.
    if (recording.offered == TokenKind::kSessionId) {
      EXPECT_EQ(candidates.items[0].certain, !hello.lists_versions);
      EXPECT_EQ(candidates.items[0].certain, recording.verdict == kResumed);
    }

    ServerHelloFacts facts;
    EXPECT_EQ(ReadResumption(server, hello, facts), recording.verdict);
    EXPECT_EQ(facts.tls13, recording.tls13);
    EXPECT_EQ(facts.hello_retry, recording.retry);
  }
}

// The identity of a stateful server is 32 bytes; tickets of one OpenSSL key begin with the same 16 bytes.
TEST(RealHellos, OfferWhatTheFactsSay) {
  ClientHello hello;
  ASSERT_EQ(
      ParseClientHello(ReadFile(kCorpus / "client_hello/real_openssl_tls13_stateful_2"), limits::kMaxHelloBytes, hello),
      HelloVerdict::kComplete);
  EXPECT_EQ(hello.psk_identities[0].full_length, 32);
  EXPECT_TRUE(CandidatesOf(hello).items[0].exact);
  ASSERT_EQ(
      ParseClientHello(ReadFile(kCorpus / "client_hello/real_openssl_tls13_ticket_2"), limits::kMaxHelloBytes, hello),
      HelloVerdict::kComplete);
  EXPECT_GT(hello.psk_identities[0].full_length, 100);
  EXPECT_FALSE(CandidatesOf(hello).items[0].exact);
}

TEST(RealHellos, AreAllInTheTable) {
  std::set<std::string> known;
  for (const Recording& recording : kRecordings) known.insert("real_" + std::string(recording.name));
  for (const char* folder : {"client_hello", "server_hello"}) {
    for (const auto& entry : std::filesystem::directory_iterator(kCorpus / folder)) {
      const std::string name = entry.path().filename();
      EXPECT_TRUE(!name.starts_with("real_") || known.contains(name)) << name;
    }
  }
}

}  // namespace
}  // namespace hud
