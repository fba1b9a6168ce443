// Input: 16 bits of length, that many bytes of a client, then what the server sends first.
#include "core/tls/server_hello.h"

#include "core/base/byte_reader.h"
#include "tests/fuzz/growing_prefix.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hud::ByteReader reader(hud::Bytes(data, size));
  hud::Bytes client;
  if (!reader.Vector16(client)) return 0;
  hud::ClientHello hello;
  if (hud::ParseClientHello(client, hud::limits::kMaxHelloBytes, hello) != hud::HelloVerdict::kComplete) hello = {};

  const hud::Bytes server = reader.rest();
  hud::ServerHelloFacts facts;
  const auto verdict = hud::fuzz::CheckGrowingPrefix(server, hud::ResumptionVerdict::kNeedMore, [&](hud::Bytes prefix) {
    return hud::ReadResumption(prefix, hello, facts);
  });
  HUD_CHECK(hud::ReadResumption(server, hello, facts) == verdict);
  HUD_CHECK(facts.session_id.full_length <= facts.session_id.head.size());
  if (verdict != hud::ResumptionVerdict::kResumed) return 0;
  // Nothing can be resumed that was not offered.
  HUD_CHECK(facts.tls13 ? hello.has_psk : hello.has_ticket || hello.session_id.full_length > 0);
  return 0;
}
