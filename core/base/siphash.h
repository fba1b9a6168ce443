// SipHash (Aumasson, Bernstein 2012): a keyed hash, so that who can choose tokens cannot choose buckets.
// SipHash-c-d makes c rounds a word and d rounds at the end.
#pragma once

#include <array>
#include <cstdint>

#include "core/base/types.h"

namespace hud {

struct SipKey {
  uint64_t k0 = 0;
  uint64_t k1 = 0;
  bool operator==(const SipKey&) const = default;
};

// SipHash-2-4: what its authors propose as a MAC.
uint64_t SipHash(const SipKey& key, Bytes data);

// SipHash-1-3, for tables under a random key whose hashes nobody outside sees: 8 rounds for 32 bytes, where 2-4 makes 14.
// To overfill buckets an attacker needs tokens that collide under a key that he does not know, and all he can see is where
// some of his look-ups led. No practical attack on 1-3 is published even for one who sees the hashes themselves; the hash
// tables of Rust and Python rest on it. 2-4 stays where a hash leaves the process or must never change.
uint64_t SipHash13(const SipKey& key, Bytes data);

// SipHash-2-4, 128 bits wide: for what is compared without the data that it was made of.
struct Hash128 {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const Hash128&) const = default;
};
Hash128 SipHash128(const SipKey& key, Bytes data);

}  // namespace hud
