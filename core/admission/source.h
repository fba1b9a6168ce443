// Who a client is, as far as fairness is concerned: an IPv4 address, or the /64 that one IPv6 subscriber has.
#pragma once

#include <cstdint>
#include <string>

#include "core/base/siphash.h"
#include "core/net/address.h"

namespace hud {

struct SourceKey {
  enum class Kind : uint8_t { kUnknown, kIpv4, kIpv6 };

  uint64_t prefix = 0;  // the address, or its first 64 bits, in network order
  Kind kind = Kind::kUnknown;  // also what has no internet address: all of that is one source

  static SourceKey Of(const SocketAddress& address);
  std::string ToString() const;  // "192.0.2.7", "2001:db8:1:2::/64", "unknown"
  bool operator==(const SourceKey&) const = default;
};

// Under a random key of the process, so that nobody can choose addresses that meet in one place of a table.
uint64_t HashOf(const SipKey& key, const SourceKey& source);

}  // namespace hud
