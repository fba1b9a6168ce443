#include "core/token_lookup.h"

namespace hud {
namespace {

void Add(TokenKind kind, const OfferedToken& token, bool prefix, TokenCandidates& candidates) {
  candidates.items[candidates.count++] = {kind, &token, token.IsWhole(), prefix};
}

}  // namespace

TokenCandidates CandidatesOf(const ClientHello& hello) {
  TokenCandidates candidates;
  if (hello.has_psk) {
    for (uint8_t i = 0; i < hello.psk_identity_count; ++i) {
      Add(TokenKind::kPskIdentity, hello.psk_identities[i], true, candidates);
    }
  } else if (hello.has_ticket) {
    Add(TokenKind::kTicket, hello.ticket, true, candidates);
  } else if (hello.session_id.full_length > 0) {
    // Under TLS 1.3 these are often bytes that the client made up: no harm, they are just not found.
    Add(TokenKind::kSessionId, hello.session_id, false, candidates);
  }
  return candidates;
}

}  // namespace hud
