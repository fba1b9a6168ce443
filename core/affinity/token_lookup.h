// The order in which what a client offers is looked up; server name and load come later.
#pragma once

#include <array>
#include <string_view>

#include "core/tls/client_hello.h"

namespace hud {

enum class TokenKind : uint8_t { kNone, kPskIdentity, kTicket, kSessionId };
std::string_view TokenKindName(TokenKind kind);  // "none", "psk", "ticket", "session_id"

struct TokenCandidate {
  TokenKind kind = TokenKind::kNone;
  const OfferedToken* token = nullptr;  // into the ClientHello
  bool exact = false;                   // may be looked up in the affinity map
  bool prefix = false;                  // may be looked up among the ticket prefixes
  bool certain = false;                 // the client means to resume with it, known or not; else it may have made it up
};

struct TokenCandidates {
  std::array<TokenCandidate, limits::kMaxHelloTokens> items;
  uint8_t count = 0;
};

// Extension 41 first, else a non-empty extension 35, else the session id (exact only).
TokenCandidates CandidatesOf(const ClientHello& hello);

}  // namespace hud
