#include "core/net/address_overlap.h"

#include <algorithm>

namespace hud {

bool Overlap(const SocketAddress& a, const SocketAddress& b) {
  if (a.IsUnix() || b.IsUnix()) return a == b;
  if (a.port() != b.port() || a.port() == 0) return false;
  const SocketAddress* pair[2] = {&a, &b};
  for (int i : {0, 1}) {
    const Bytes host = pair[i]->host_bytes();
    const bool any = std::all_of(host.begin(), host.end(), [](uint8_t byte) { return byte == 0; });
    if (any && (pair[i]->family() == AF_INET6 || pair[1 - i]->family() == AF_INET)) return true;
  }
  return a == b;
}

namespace {

bool IsWildcard(const SocketAddress& address) {
  const Bytes host = address.host_bytes();
  return std::all_of(host.begin(), host.end(), [](uint8_t byte) { return byte == 0; });
}

bool IsLoopback(const SocketAddress& address) {
  const Bytes host = address.host_bytes();
  if (address.family() == AF_INET) return host[0] == 127;
  return std::all_of(host.begin(), host.end() - 1, [](uint8_t byte) { return byte == 0; }) && host.back() == 1;
}

}  // namespace

bool WildcardTakes(const SocketAddress& bound, const SocketAddress& to) {
  if (to.family() == AF_UNSPEC || to.IsUnix() || bound.IsUnix() || to.port() != bound.port()) return false;
  return IsWildcard(bound) && (to.family() == bound.family() || bound.family() == AF_INET6);
}

bool WouldReach(const SocketAddress& to, const SocketAddress& bound) {
  if (to == bound) return true;
  if (to.family() == AF_UNSPEC || to.IsUnix() || bound.IsUnix() || to.port() != bound.port()) return false;
  if (WildcardTakes(bound, to)) return IsWildcard(to) || IsLoopback(to);
  if (!IsWildcard(to) || to.family() != bound.family() || !IsLoopback(bound)) return false;
  const Bytes host = bound.host_bytes();
  return host.size() != 4 || (host[1] == 0 && host[2] == 0 && host[3] == 1);  // 0.0.0.0 is 127.0.0.1
}

}  // namespace hud
