// Input: what a client side sends to a listener that expects a PROXY header.
#include "core/limits.h"
#include "core/proxy_protocol.h"
#include "tests/fuzz/growing_prefix.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const hud::Bytes input(data, size);
  hud::ProxyHeader header;
  const auto verdict = hud::fuzz::CheckGrowingPrefix(input, hud::ProxyHeaderVerdict::kNeedMore, [&](hud::Bytes prefix) {
    return hud::ParseProxyHeader(prefix, header);
  });
  HUD_CHECK(verdict != hud::ProxyHeaderVerdict::kNeedMore || size < hud::limits::kMaxProxyHeaderBytes);
  if (verdict != hud::ProxyHeaderVerdict::kComplete) return 0;

  hud::ParseProxyHeader(input, header);
  HUD_CHECK(header.bytes_used <= size && header.bytes_used <= hud::limits::kMaxProxyHeaderBytes);
  HUD_CHECK(header.source.family() == header.destination.family());
  header.source.ToString();

  // What we write of it says the same again.
  hud::ProxyHeader again;
  const hud::ProxyV2Header written = hud::WriteProxyV2(header.source, header.destination);
  HUD_CHECK(hud::ParseProxyHeader(written.bytes(), again) == hud::ProxyHeaderVerdict::kComplete);
  HUD_CHECK(again.bytes_used == written.size);
  const auto plain = [](const hud::SocketAddress& address) { return address.UnmappedIpv4().value_or(address); };
  HUD_CHECK(plain(again.source) == plain(header.source) && plain(again.destination) == plain(header.destination));
  return 0;
}
