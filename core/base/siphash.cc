#include "core/base/siphash.h"

#include <bit>
#include <cstring>

namespace hud {
namespace {

static_assert(std::endian::native == std::endian::little, "SipHash reads little-endian words; add a byte swap");

template <int kWordRounds, int kEndRounds>
struct State {
  uint64_t v0, v1, v2, v3;

  State(const SipKey& key, uint64_t wide)
      : v0(key.k0 ^ 0x736f6d6570736575),
        v1(key.k1 ^ 0x646f72616e646f6d ^ wide),
        v2(key.k0 ^ 0x6c7967656e657261),
        v3(key.k1 ^ 0x7465646279746573) {}

  template <int kCount>
  void Rounds() {
    for (int i = 0; i < kCount; ++i) Round();
  }

  void Round() {
    v0 += v1, v1 = std::rotl(v1, 13), v1 ^= v0, v0 = std::rotl(v0, 32);
    v2 += v3, v3 = std::rotl(v3, 16), v3 ^= v2;
    v0 += v3, v3 = std::rotl(v3, 21), v3 ^= v0;
    v2 += v1, v1 = std::rotl(v1, 17), v1 ^= v2, v2 = std::rotl(v2, 32);
  }

  void Compress(uint64_t word) {
    v3 ^= word;
    Rounds<kWordRounds>();
    v0 ^= word;
  }

  void Absorb(Bytes data) {
    const uint64_t length = data.size();
    for (; data.size() >= 8; data = data.subspan(8)) {
      uint64_t word;
      std::memcpy(&word, data.data(), 8);
      Compress(word);
    }
    uint64_t last = length << 56;
    for (size_t i = 0; i < data.size(); ++i) last |= uint64_t{data[i]} << (8 * i);
    Compress(last);
  }

  uint64_t Finish() {
    Rounds<kEndRounds>();
    return v0 ^ v1 ^ v2 ^ v3;
  }
};

// What sets the 128-bit variant apart from the 64-bit one at the start, at its end, and between its two halves.
constexpr uint64_t kWide = 0xee;
constexpr uint64_t kNarrowEnd = 0xff;
constexpr uint64_t kSecondHalf = 0xdd;

template <int kWordRounds, int kEndRounds>
uint64_t Narrow(const SipKey& key, Bytes data) {
  State<kWordRounds, kEndRounds> state(key, 0);
  state.Absorb(data);
  state.v2 ^= kNarrowEnd;
  return state.Finish();
}

}  // namespace

uint64_t SipHash(const SipKey& key, Bytes data) { return Narrow<2, 4>(key, data); }
uint64_t SipHash13(const SipKey& key, Bytes data) { return Narrow<1, 3>(key, data); }

Hash128 SipHash128(const SipKey& key, Bytes data) {
  State<2, 4> state(key, kWide);
  state.Absorb(data);
  state.v2 ^= kWide;
  Hash128 hash;
  hash.low = state.Finish();
  state.v1 ^= kSecondHalf;
  hash.high = state.Finish();
  return hash;
}

}  // namespace hud
