#include <gtest/gtest.h>

#include <string>

#include "core/affinity/token_lookup.h"
#include "tests/unit/core/tls/hello_builder.h"

namespace hud {
namespace {

using namespace test;  // NOLINT: the builder's words are this file's language

std::string CandidatesOf(const Buffer& session_id, const Buffer& extensions) {
  ClientHello hello;
  const Buffer input = Record(Hello({.session_id = session_id}, extensions));
  EXPECT_EQ(ParseClientHello(input, limits::kMaxHelloBytes, hello), HelloVerdict::kComplete);
  const TokenCandidates candidates = hud::CandidatesOf(hello);
  std::string out;
  for (size_t i = 0; i < candidates.count; ++i) {
    const TokenCandidate& candidate = candidates.items[i];
    constexpr const char* kKinds[] = {"none", "psk", "ticket", "id"};
    out += std::string(i == 0 ? "" : ", ") + kKinds[static_cast<size_t>(candidate.kind)] + " " +
           std::to_string(candidate.token->head[0]);
    out += candidate.exact ? " exact" : "";
    out += candidate.prefix ? " prefix" : "";
    out += candidate.certain ? "" : " perhaps";
  }
  return out;
}

// The number is the token's first byte.
TEST(TokenLookup, AsksForWhatSaysMostFirst) {
  const Buffer id = Counting(32, 9);
  const Buffer tls13 = SupportedVersions({0x0304});
  const struct {
    const char* client;
    Buffer session_id;
    Buffer extensions;
    const char* candidates;
  } rows[] = {
      {"nothing is offered", {}, {}, ""},
      {"a session id is looked up exactly, never by prefix", id, {}, "id 9 exact"},
      {"a session id of one byte", {9}, {}, "id 9 exact"},
      {"a 1.3 client's session id, which may be a real one of TLS 1.2", id, tls13, "id 9 exact perhaps"},
      {"of 1.3 and 1.2", id, SupportedVersions({0x0304, 0x0303}), "id 9 exact perhaps"},
      {"of 1.3 among GREASE", id, SupportedVersions({0x5a5a, 0x0304, 0x0303}), "id 9 exact perhaps"},
      {"of a draft of 1.3", id, SupportedVersions({0x7f1c, 0x0303}), "id 9 exact perhaps"},
      {"of a version to come", id, SupportedVersions({0x0305}), "id 9 exact perhaps"},
      {"of Go, which makes one up for 1.2 alone, too", id, SupportedVersions({0x0303}), "id 9 exact perhaps"},
      {"and with an empty ticket", id, SupportedVersions({0x0303}) + Ticket({}), "id 9 exact perhaps"},
      {"no session id in the first hello of a 1.3 client without middlebox compatibility", {}, tls13, ""},
      {"a ticket hides the session id, which the client made up", id, Ticket(Counting(180, 5)), "ticket 5 prefix"},
      {"a ticket of 32 bytes may be a stateful id", id, Ticket(Counting(32, 5)), "ticket 5 exact prefix"},
      {"a ticket of 33 bytes may not", id, Ticket(Counting(33, 5)), "ticket 5 prefix"},
      {"an empty ticket is no ticket", id, Ticket({}), "id 9 exact"},
      {"a PSK hides the session id", id, tls13 + PreSharedKey({Counting(200, 1)}), "psk 1 prefix"},
      {"a PSK hides the ticket", id, Ticket(Counting(180, 5)) + PreSharedKey({Counting(200, 1)}), "psk 1 prefix"},
      {"identities in the client's order", id, tls13 + PreSharedKey({Counting(200, 1), Counting(32, 2)}),
       "psk 1 prefix, psk 2 exact prefix"},
      {"the first four identities only",
       {},
       PreSharedKey({{1}, {2}, {3}, {4}, {5}}),
       "psk 1 exact prefix, psk 2 exact prefix, psk 3 exact prefix, psk 4 exact prefix"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.client);
    EXPECT_EQ(CandidatesOf(row.session_id, row.extensions), row.candidates);
  }
}

}  // namespace
}  // namespace hud
