// What a server's tickets say about where their issuer can be read from. Pure: tickets come in, a verdict comes out.
// The rules are those of the prefix table: servers built on OpenSSL, BoringSSL, GnuTLS, rustls and old Go
// begin a ticket with the 16-byte name of its key; s2n puts a version byte before it; JSSE a 4-byte key number; a stateful
// server hands out 32 random bytes, of which only an exact feed can tell the owner.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/affinity/prefix_store.h"
#include "core/base/limits.h"

namespace hud {

enum class TlsVersion : uint8_t { kTls12, kTls13 };
std::string_view NameOf(TlsVersion version);

inline constexpr size_t kKeyNameBytes = 16;

// One token that the server gave to one of the probe's sessions. Of a ticket only the head is kept: the rest is secret.
struct SeenToken {
  uint32_t session = 0;           // tokens of one session come from one server process
  bool is_session_id = false;     // TLS 1.2 without a ticket: the id that the server chose
  uint32_t length = 0;            // of the whole token
  std::array<uint8_t, limits::kMaxTokenBytes> head{};
  uint32_t lifetime_seconds = 0;  // the server's hint; 0: it said nothing
};

enum class TicketKind : uint8_t {
  kNone,             // the server offers no resumption
  kTooFew,           // fewer than two tickets: nothing can be concluded
  kKeyName,          // 16 bytes
  kSeveralKeyNames,  // 16 bytes each: separate processes behind one port
  kS2n,              // 0x01, then 16 bytes
  kJsse,             // 4 bytes
  kTag,              // 5 to 15 bytes: put there by an application
  kStateful,         // a random id per session: needs an exact feed
  kNoPrefix,         // tickets without a clear name: nothing to be learnt from them
};

struct TicketVerdict {
  TicketKind kind = TicketKind::kNone;
  std::vector<TicketPrefix> prefixes;
  uint32_t lifetime_seconds = 0;  // the longest hint seen; 0: none
};

// `known`: names learnt before from the same server. Seeing one again counts as a repetition.
TicketVerdict ClassifyTickets(std::span<const SeenToken> seen, std::span<const TicketPrefix> known);

// True when more sessions could change the verdict: no common prefix, and not stateful either.
bool WantsMoreSessions(const TicketVerdict& verdict);

// For the log: what was learnt.
std::string_view Explain(TicketKind kind);

}  // namespace hud
