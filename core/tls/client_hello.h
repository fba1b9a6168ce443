// What a ClientHello says that matters to a balancer that does not decrypt.
// TLS 1.3: RFC 8446 section 4.1.2; TLS 1.2: RFC 5246 section 7.4.1.2; tickets: RFC 5077; SNI: RFC 6066; ALPN: RFC 7301.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "core/base/limits.h"
#include "core/base/types.h"

namespace hud {

enum class HelloVerdict : uint8_t {
  kNeedMore,   // a strict prefix of something that may still be a ClientHello
  kComplete,   // the whole ClientHello is there
  kNotTls,     // the first bytes cannot begin a TLS record with a handshake (see NotTlsKind)
  kMalformed,  // TLS, but against the rules, and no server name can be read in it: the node shall answer
  kTooLarge,   // longer than the cap
};

// Why it was not TLS, for counting.
enum class NotTlsKind : uint8_t { kNone, kSslv2, kHttp, kAlert, kChangeCipherSpec, kProxyHeader, kOther };
inline constexpr size_t kNotTlsKindCount = static_cast<size_t>(NotTlsKind::kOther) + 1;

// The first rule that a hello breaks. What its server name says does not depend on these: it routes all the same, as with
// OpenSSL and nginx, and the node shall answer. Only its tokens are not believed.
enum class HelloFlaw : uint8_t {
  kNone,
  kEmptyRecord,         // within the message
  kBytesBehind,         // the message ends before its record does
  kSessionId,
  kCipherSuites,
  kCompressionMethods,
  kExtensions,          // the lengths of the list do not add up
  kDuplicateExtension,
  kServerName,          // the one that loses the name
  kAlpn,                // counts as none
  kSupportedVersions,
  kEarlyData,
  kPreSharedKey,
  kOther,               // not a ClientHello that has all its fields
  kCount,
};
inline constexpr size_t kHelloFlawCount = static_cast<size_t>(HelloFlaw::kCount);
std::string_view HelloFlawName(HelloFlaw flaw);  // "none", "empty_record", …

// The head of a ticket, PSK identity or session id: enough for an exact match of up to 32 bytes
// and for a prefix match; `full_length` is what the client sent.
struct OfferedToken {
  std::array<uint8_t, limits::kMaxTokenBytes> head{};
  uint8_t head_length = 0;
  uint16_t full_length = 0;
  Bytes head_bytes() const { return {head.data(), head_length}; }
  bool IsWhole() const { return full_length == head_length; }
};

// Plain values copied out of the bytes: no pointers into them, so a hello spread over many records is no special case.
struct ClientHello {
  // server_name, lower-cased; empty if absent. Never holds a zero byte.
  std::array<char, limits::kMaxServerNameBytes> server_name_bytes;
  uint8_t server_name_length = 0;
  std::string_view server_name() const { return {server_name_bytes.data(), server_name_length}; }

  // The ALPN protocol list may have 64 KB, and stays where it is: its place in the body of the message, length 0 if absent.
  // `hello_bytes` are those that were parsed.
  uint32_t alpn_at = 0;
  uint16_t alpn_length = 0;
  bool OffersAlpn(Bytes hello_bytes, std::string_view protocol) const;

  uint16_t legacy_version = 0;
  bool lists_versions = false;  // extension 43, supported_versions, present
  bool offers_tls13 = false;    // and lists 0x0304
  bool early_data = false;    // extension 42
  bool ech = false;           // extension 0xfe0d, outer
  bool has_psk = false;       // extension 41 present
  bool has_ticket = false;    // extension 35 present and not empty

  OfferedToken session_id;  // full_length 0 if empty
  OfferedToken ticket;      // extension 35
  std::array<OfferedToken, limits::kMaxHelloTokens> psk_identities;
  uint8_t psk_identity_count = 0;  // of those kept, at most kMaxHelloTokens

  HelloFlaw flaw = HelloFlaw::kNone;  // with one: no tokens, whatever the client offered; meaningful after kMalformed, too

  size_t bytes_used = 0;  // of the input, to the end of the record in which the hello ends
};

// Reads the hello at the start of `prefix`. Keeps no state and allocates nothing; reassembles across TLS records.
// `cap` is the most bytes (records included) that a hello may take. `hello` is meaningful only after kComplete (its flaw
// after kMalformed, too).
// Incremental = whole: parsing growing prefixes gives kNeedMore until the one that completes it, then always the same.
HelloVerdict ParseClientHello(Bytes prefix, size_t cap, ClientHello& hello);

// Meaningful when the verdict was kNotTls.
NotTlsKind ClassifyNotTls(Bytes prefix);

}  // namespace hud
