// SipHash-2-4 (Aumasson, Bernstein 2012): a keyed hash, so that a client who can choose tokens cannot choose buckets.
#pragma once

#include <array>
#include <cstdint>

#include "core/types.h"

namespace hud {

struct SipKey {
  uint64_t k0 = 0;
  uint64_t k1 = 0;
  bool operator==(const SipKey&) const = default;
};

uint64_t SipHash(const SipKey& key, Bytes data);

// 128-bit variant, for map keys that are compared without the token.
struct Hash128 {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const Hash128&) const = default;
};
Hash128 SipHash128(const SipKey& key, Bytes data);

}  // namespace hud
