#include "core/admission/source.h"

#include <arpa/inet.h>

#include <cstring>

namespace hud {

SourceKey SourceKey::Of(const SocketAddress& address) {
  SourceKey key;
  if (address.family() == AF_INET) {
    key.kind = Kind::kIpv4;
    std::memcpy(&key.prefix, address.host_bytes().data(), 4);
  } else if (address.family() == AF_INET6) {
    key.kind = Kind::kIpv6;
    std::memcpy(&key.prefix, address.host_bytes().data(), sizeof key.prefix);
  }
  return key;
}

std::string SourceKey::ToString() const {
  char text[INET6_ADDRSTRLEN] = {};
  uint8_t host[16] = {};
  std::memcpy(host, &prefix, sizeof prefix);
  switch (kind) {
    case Kind::kUnknown: return "unknown";
    case Kind::kIpv4: inet_ntop(AF_INET, host, text, sizeof text); return text;
    case Kind::kIpv6: inet_ntop(AF_INET6, host, text, sizeof text); return std::string(text) + "/64";
  }
  return "unknown";
}

uint64_t HashOf(const SipKey& key, const SourceKey& source) {
  uint8_t bytes[9];
  std::memcpy(bytes, &source.prefix, sizeof source.prefix);
  bytes[8] = static_cast<uint8_t>(source.kind);
  return SipHash13(key, bytes);
}

}  // namespace hud
