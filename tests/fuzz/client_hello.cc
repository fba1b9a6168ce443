// Input: what a client sends first. Checks more than "does not crash": growing prefixes, caps, and the same message cut
// into other records.
#include "core/tls/client_hello.h"

#include <string>

#include "core/affinity/token_lookup.h"
#include "core/tls/tls_record.h"
#include "tests/fuzz/growing_prefix.h"
#include "tests/unit/core/tls/hello_builder.h"

namespace hud {
namespace {

using test::Buffer;
using test::Describe;

HelloVerdict VerdictOf(Bytes input, size_t cap) {
  ClientHello hello;
  return ParseClientHello(input, cap, hello);
}

// The handshake message in the records of a complete hello, without what may lie behind it.
Buffer MessageIn(Bytes records) {
  Buffer message;
  while (!records.empty()) {
    const size_t length = size_t{records[3]} << 8 | records[4];
    const Bytes payload = records.subspan(tls::kRecordHeaderBytes, length);
    message.insert(message.end(), payload.begin(), payload.end());
    records = records.subspan(tls::kRecordHeaderBytes + length);
  }
  message.resize(tls::kHandshakeHeaderBytes + (size_t{message[1]} << 16 | size_t{message[2]} << 8 | message[3]));
  return message;
}

void CheckComplete(Bytes input, size_t cap, const ClientHello& hello) {
  HUD_CHECK(hello.bytes_used <= input.size() && hello.bytes_used <= cap);
  for (char c : hello.server_name()) HUD_CHECK(c != '\0' && !(c >= 'A' && c <= 'Z'));
  HUD_CHECK(hello.psk_identity_count <= limits::kMaxHelloTokens);
  HUD_CHECK(hello.has_psk == (hello.psk_identity_count > 0));
  HUD_CHECK(hello.session_id.full_length <= tls::kMaxSessionIdBytes);
  for (size_t i = 0; i < hello.psk_identity_count; ++i) HUD_CHECK(hello.psk_identities[i].full_length > 0);
  HUD_CHECK(CandidatesOf(hello).count <= limits::kMaxHelloTokens);
  hello.OffersAlpn(input, "h2");
  const bool flawed = hello.flaw != HelloFlaw::kNone;
  HUD_CHECK(!flawed || (!hello.server_name().empty() && CandidatesOf(hello).count == 0));

  // What follows does not count, and another way of cutting records says the same.
  HUD_CHECK(VerdictOf(input.first(hello.bytes_used - 1), cap) == HelloVerdict::kNeedMore);
  const Buffer message = MessageIn(input.first(hello.bytes_used));
  const std::string said = Describe(hello);
  // What was wrong with the records is gone when they are others.
  const bool same = hello.flaw != HelloFlaw::kEmptyRecord && hello.flaw != HelloFlaw::kBytesBehind;
  for (size_t size : {size_t{16384}, size_t{1}, size_t{5}, 1 + message.size() / 2, 1 + hello.bytes_used % 97}) {
    ClientHello again;
    const Buffer records = test::Records(message, size);
    HUD_CHECK(ParseClientHello(records, limits::kMaxConfiguredHelloBytes, again) == HelloVerdict::kComplete);
    HUD_CHECK(again.bytes_used == records.size() && again.server_name() == hello.server_name());
    HUD_CHECK(!same || (Describe(again) == said && again.flaw == hello.flaw));
    HUD_CHECK(again.OffersAlpn(records, "h2") == hello.OffersAlpn(input, "h2"));
  }
}

void Check(Bytes input, size_t cap) {
  const HelloVerdict verdict =
      fuzz::CheckGrowingPrefix(input, HelloVerdict::kNeedMore, [cap](Bytes prefix) { return VerdictOf(prefix, cap); });
  HUD_CHECK(verdict != HelloVerdict::kNeedMore || input.size() < cap);
  if (verdict != HelloVerdict::kComplete) return;
  ClientHello hello;
  HUD_CHECK(ParseClientHello(input, cap, hello) == HelloVerdict::kComplete);
  CheckComplete(input, cap, hello);
}

}  // namespace
}  // namespace hud

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const hud::Bytes input(data, size);
  hud::Check(input, hud::limits::kMaxHelloBytes);
  hud::Check(input, 300);
  hud::fuzz::ParseExact(input, [](hud::Bytes bytes) {
    const bool is_tls =
        bytes.empty() || hud::VerdictOf(bytes, hud::limits::kMaxHelloBytes) != hud::HelloVerdict::kNotTls;
    HUD_CHECK(is_tls || hud::ClassifyNotTls(bytes) != hud::NotTlsKind::kNone);
    return is_tls;
  });
  return 0;
}
