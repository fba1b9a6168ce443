#include "core/affinity/token_lookup.h"

namespace hud {
namespace {

void Add(TokenKind kind, const OfferedToken& token, bool prefix, bool certain, TokenCandidates& candidates) {
  candidates.items[candidates.count++] = {kind, &token, token.IsWhole(), prefix, certain};
}

}  // namespace

std::string_view TokenKindName(TokenKind kind) {
  switch (kind) {
    case TokenKind::kNone: return "none";
    case TokenKind::kPskIdentity: return "psk";
    case TokenKind::kTicket: return "ticket";
    case TokenKind::kSessionId: return "session_id";
  }
  return "none";
}

TokenCandidates CandidatesOf(const ClientHello& hello) {
  TokenCandidates candidates;
  if (hello.has_psk) {
    for (uint8_t i = 0; i < hello.psk_identity_count; ++i) {
      Add(TokenKind::kPskIdentity, hello.psk_identities[i], true, true, candidates);
    }
  } else if (hello.has_ticket) {
    Add(TokenKind::kTicket, hello.ticket, true, true, candidates);
  } else if (hello.session_id.full_length > 0) {
    // A client that lists its versions mostly made it up: for middleboxes if it offers TLS 1.3 (RFC 8446 D.4), and Go's client
    // does so whatever it offers. It may still be a session of TLS 1.2, so it is looked up.
    Add(TokenKind::kSessionId, hello.session_id, false, !hello.lists_versions, candidates);
  }
  return candidates;
}

}  // namespace hud
