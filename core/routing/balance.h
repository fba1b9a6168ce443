// The balances: which of the members that may take a connection takes it. Pure functions of what was counted and of a
// random number; ChooseNode gathers the candidates and calls them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/base/types.h"

namespace hud {

// Weights are counted in thousandths while they are at work, so that a slow start can grow in small steps.
inline constexpr uint32_t kWeightUnit = 1000;

// What is left of `weight` during a slow start, in thousandths: a tenth at `up_since`, then linear up to all of it after
// `slow_start`. A weight above 0 never becomes 0.
uint32_t EffectiveWeight(uint16_t weight, Instant up_since, Instant now, Duration slow_start);

// A member that may take the connection. Left uninitialised on purpose: ChooseNode has an array of them on its stack.
struct BalanceCandidate {
  NodeIndex node;
  uint32_t weight;         // effective, above 0
  int32_t active;          // connections, over all workers
  uint32_t load_permille;  // as its agent reports; 0: unknown
};

// Each returns a position in `candidates`, which must not be empty.

// Two different candidates drawn by weight; the one that has fewer connections for its weight, and less reported load, wins.
size_t PickPowerOfTwo(std::span<const BalanceCandidate> candidates, uint64_t random);
// The fewest connections for its weight; ties are drawn by weight.
size_t PickLeastConnections(std::span<const BalanceCandidate> candidates, uint64_t random);
// In every cycle of (sum of weights / their greatest common divisor) turns each gets exactly its share, spread evenly.
size_t PickRoundRobin(std::span<const BalanceCandidate> candidates, uint32_t turn);
// Drawn by weight, nothing else.
size_t PickByWeight(std::span<const BalanceCandidate> candidates, uint64_t random);

// Maglev (Eisenbud et al., NSDI 2016, section 3.4): a table that maps a client's hash to a member so that a change of one
// member moves few of the others' clients. It depends only on names and weights, so every proxy with the same pool builds
// the same table. Health is not part of it: the walk in ChooseNode steps over what is not usable.
struct MaglevMember {
  std::string_view name;
  uint16_t weight = 0;  // 0: not in the table
};
inline constexpr size_t kMaglevSize = 65537;  // prime; shares are exact to about 1 % with hundreds of members
// kMaglevSize member numbers (positions in `members`); empty if no member has weight.
std::vector<uint16_t> BuildMaglev(std::span<const MaglevMember> members);

// The place in a table at which the walk for `client_hash` begins.
inline size_t MaglevSlot(uint64_t client_hash, size_t table_size) {
  return static_cast<size_t>(((client_hash >> 32) * table_size) >> 32);
}

}  // namespace hud
