#include "core/routing/balance.h"

#include <algorithm>
#include <numeric>

#include "core/base/check.h"
#include "core/base/siphash.h"

namespace hud {

namespace {

uint64_t TotalWeight(std::span<const BalanceCandidate> candidates) {
  uint64_t total = 0;
  for (const BalanceCandidate& candidate : candidates) total += candidate.weight;
  return total;
}

// The candidate on whose stretch of the total weight `point` lies.
size_t AtWeight(std::span<const BalanceCandidate> candidates, uint64_t point) {
  size_t i = 0;
  while (i + 1 < candidates.size() && point >= candidates[i].weight) point -= candidates[i++].weight;
  return i;
}

// 32 random bits to a number below `range`, which is below 2^32.
uint64_t Scale(uint32_t random, uint64_t range) { return (random * range) >> 32; }

// Reports are a second old and jitter: differences within an eighth of a full node are noise, not load. A node at half
// of what it can take counts 1.75 times, a full one 4 times, so that load says little while there is room.
double LoadFactor(uint32_t permille) {
  const double load = std::min(permille, 2000U) / 125U / 8.0;
  return 1.0 + 3.0 * load * load;
}

}  // namespace

uint32_t EffectiveWeight(uint16_t weight, Instant up_since, Instant now, Duration slow_start) {
  const uint32_t full = weight * kWeightUnit;
  const Duration up = now - up_since;
  if (slow_start <= Duration::zero() || up >= slow_start) return full;
  const double done = std::max(0.0, static_cast<double>(up.count()) / static_cast<double>(slow_start.count()));
  return static_cast<uint32_t>(full * (0.1 + 0.9 * done));
}

size_t PickByWeight(std::span<const BalanceCandidate> candidates, uint64_t random) {
  HUD_CHECK(!candidates.empty());
  return AtWeight(candidates, Scale(static_cast<uint32_t>(random), TotalWeight(candidates)));
}

size_t PickPowerOfTwo(std::span<const BalanceCandidate> candidates, uint64_t random) {
  HUD_CHECK(!candidates.empty());
  if (candidates.size() == 1) return 0;
  const uint64_t total = TotalWeight(candidates);
  const size_t first = AtWeight(candidates, Scale(static_cast<uint32_t>(random), total));
  // The other one is drawn from the rest of the weight: the node in front of which a queue has formed is never both.
  uint64_t point = Scale(static_cast<uint32_t>(random >> 32), total - candidates[first].weight);
  const uint64_t before_first = TotalWeight(candidates.first(first));
  if (point >= before_first) point += candidates[first].weight;
  const size_t second = AtWeight(candidates, point);
  // To both loads we add half a connection of mean weight: idle nodes then cost the same whatever their weight, so that the first
  // draw alone decides, and that draw keeps the shares.
  const double idle = 0.5 * static_cast<double>(candidates.size()) / static_cast<double>(total);
  const auto cost = [&](const BalanceCandidate& candidate) {
    return (static_cast<double>(candidate.active) / candidate.weight + idle) * LoadFactor(candidate.load_permille);
  };
  return cost(candidates[second]) < cost(candidates[first]) ? second : first;
}

size_t PickLeastConnections(std::span<const BalanceCandidate> candidates, uint64_t random) {
  HUD_CHECK(!candidates.empty());
  // a.active / a.weight < b.active / b.weight, in whole numbers.
  const auto fewer = [](const BalanceCandidate& a, const BalanceCandidate& b) {
    return int64_t{a.active} * b.weight < int64_t{b.active} * a.weight;
  };
  size_t best = 0;
  uint64_t tied = 0;  // weight of all that are as good as the best
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (fewer(candidates[i], candidates[best])) {
      best = i;
      tied = 0;
    }
    if (!fewer(candidates[best], candidates[i])) tied += candidates[i].weight;
  }
  uint64_t point = Scale(static_cast<uint32_t>(random), tied);
  for (size_t i = best; i < candidates.size(); ++i) {
    if (fewer(candidates[best], candidates[i])) continue;
    if (point < candidates[i].weight) return i;
    point -= candidates[i].weight;
  }
  return best;
}

size_t PickRoundRobin(std::span<const BalanceCandidate> candidates, uint32_t turn) {
  HUD_CHECK(!candidates.empty());
  uint32_t divisor = 0;
  for (const BalanceCandidate& candidate : candidates) divisor = std::gcd(divisor, candidate.weight);
  // A cycle visits every point of the total weight once, in steps of about the golden ratio: whoever owns a stretch of it
  // is visited in proportion, and as evenly as can be (Weyl's sequence). No state but the turn, so workers can share it.
  const uint64_t cycle = TotalWeight(candidates) / divisor;
  uint64_t step = static_cast<uint64_t>(static_cast<double>(cycle) * 0.6180339887498949);
  while (std::gcd(step, cycle) != 1) ++step;
  return AtWeight(candidates, (turn % cycle) * step % cycle * divisor);
}

std::vector<uint16_t> BuildMaglev(std::span<const MaglevMember> members) {
  constexpr uint16_t kEmpty = 0xffff;
  // The key is fixed: proxies that share a pool must agree. Names come from the operator, not from clients.
  constexpr SipKey kMaglevKey{0x6875647375636b65, 0x72206d61676c6576};
  struct Turn {
    uint16_t member;
    uint32_t position;  // the next slot that it would like
    uint32_t skip;
    double due;         // takes a slot in each round in which this is reached
  };
  uint16_t heaviest = 0;
  std::vector<Turn> turns;
  for (size_t i = 0; i < members.size(); ++i) {
    if (members[i].weight == 0) continue;
    heaviest = std::max(heaviest, members[i].weight);
    const Bytes name{reinterpret_cast<const uint8_t*>(members[i].name.data()), members[i].name.size()};
    const Hash128 hash = SipHash128(kMaglevKey, name);
    turns.push_back({static_cast<uint16_t>(i), static_cast<uint32_t>(hash.low % kMaglevSize),
                     static_cast<uint32_t>(hash.high % (kMaglevSize - 1)) + 1, 0});
  }
  if (turns.empty()) return {};
  // The order of the turns must not depend on the order in which members were listed.
  std::sort(turns.begin(), turns.end(),
            [&](const Turn& a, const Turn& b) { return members[a.member].name < members[b.member].name; });

  std::vector<uint16_t> table(kMaglevSize, kEmpty);
  size_t filled = 0;
  while (true) {
    for (Turn& turn : turns) {
      turn.due += members[turn.member].weight;
      if (turn.due < heaviest) continue;
      turn.due -= heaviest;
      while (table[turn.position] != kEmpty) {
        turn.position = static_cast<uint32_t>((turn.position + turn.skip) % kMaglevSize);
      }
      table[turn.position] = turn.member;
      if (++filled == kMaglevSize) return table;
    }
  }
}

}  // namespace hud
