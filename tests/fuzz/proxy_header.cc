// Input: what a client side sends to a listener that expects a PROXY header.
#include "core/base/limits.h"
#include "core/net/proxy_protocol.h"
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
  // One of an IPv6 pair may be a mapped address, which is IPv4.
  const auto kind = [](const hud::SocketAddress& a) { return a.family() == AF_INET6 ? AF_INET : a.family(); };
  HUD_CHECK(kind(header.source) == kind(header.destination));
  header.source.ToString();

  // What we write of it says the same again.
  hud::ProxyHeader again;
  const hud::ProxyV2Header written = hud::WriteProxyV2(header.source, header.destination);
  HUD_CHECK(hud::ParseProxyHeader(written.bytes(), again) == hud::ProxyHeaderVerdict::kComplete);
  HUD_CHECK(again.bytes_used == written.size);
  HUD_CHECK(again.source == header.source && again.destination == header.destination);
  return 0;
}
