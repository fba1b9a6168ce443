#include "core/address_overlap.h"

#include <algorithm>

namespace hud {

bool Overlap(const SocketAddress& a, const SocketAddress& b) {
  if (a.IsUnix() || b.IsUnix()) return a == b;
  if (a.port() != b.port() || a.port() == 0) return false;
  const SocketAddress plain[2] = {a.UnmappedIpv4().value_or(a), b.UnmappedIpv4().value_or(b)};
  for (int i : {0, 1}) {
    const Bytes host = plain[i].host_bytes();
    const bool any = std::all_of(host.begin(), host.end(), [](uint8_t byte) { return byte == 0; });
    if (any && (plain[i].family() == AF_INET6 || plain[1 - i].family() == AF_INET)) return true;
  }
  return plain[0] == plain[1];
}

}  // namespace hud
