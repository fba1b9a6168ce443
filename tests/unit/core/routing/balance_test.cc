#include "core/routing/balance.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <queue>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hud {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::Each;

std::vector<BalanceCandidate> Candidates(const std::vector<uint32_t>& weights) {
  std::vector<BalanceCandidate> candidates;
  for (const uint32_t weight : weights) {
    candidates.push_back({static_cast<NodeIndex>(candidates.size()), weight * kWeightUnit, 0, 0});
  }
  return candidates;
}

// ---- Slow start --------------------------------------------------------------------------------------------------------

struct SlowStartRow {
  const char* name;
  uint16_t weight;
  Duration up, slow_start;
  uint32_t effective;
};

TEST(SlowStart, WeightGrowsFromATenth) {
  const SlowStartRow rows[] = {
      {"no slow start", 100, 0s, 0s, 100'000},
      {"just up", 100, 0s, 10s, 10'000},
      {"half way", 100, 5s, 10s, 55'000},
      {"over", 100, 10s, 10s, 100'000},
      {"long over", 100, 24h, 10s, 100'000},
      {"a clock that is behind", 100, -5s, 10s, 10'000},
      {"the least weight is never nothing", 1, 0s, 10s, 100},
      {"weight 0 stays 0", 0, 5s, 10s, 0},
      {"the most", 1000, 10s, 10s, 1'000'000},
  };
  for (const SlowStartRow& row : rows) {
    EXPECT_EQ(EffectiveWeight(row.weight, Instant{1h}, Instant{1h + row.up}, row.slow_start), row.effective) << row.name;
  }
}

// ---- Picking -----------------------------------------------------------------------------------------------------------

TEST(LeastConnections, TakesTheFewestForTheWeight) {
  std::vector<BalanceCandidate> candidates = Candidates({100, 200, 100});
  candidates[0].active = 10, candidates[1].active = 19, candidates[2].active = 11;
  for (uint64_t random = 0; random < 50; ++random) EXPECT_EQ(PickLeastConnections(candidates, random << 26), 1U);
  candidates[1].active = 21;
  for (uint64_t random = 0; random < 50; ++random) EXPECT_EQ(PickLeastConnections(candidates, random << 26), 0U);
}

TEST(LeastConnections, DrawsTiesByWeight) {
  std::vector<BalanceCandidate> candidates = Candidates({100, 300, 50, 100});
  candidates[2].active = 1;  // not a tie
  std::array<int, 4> picks{};
  std::mt19937_64 random(1);
  for (int i = 0; i < 50'000; ++i) ++picks[PickLeastConnections(candidates, random())];
  EXPECT_NEAR(picks[0], 10'000, 500);
  EXPECT_NEAR(picks[1], 30'000, 500);
  EXPECT_EQ(picks[2], 0);
  EXPECT_NEAR(picks[3], 10'000, 500);
}

TEST(RoundRobin, EqualWeightsTakeTurns) {
  const std::vector<BalanceCandidate> candidates = Candidates({100, 100, 100});
  std::vector<size_t> picks;
  for (uint32_t turn = 0; turn < 6; ++turn) picks.push_back(PickRoundRobin(candidates, turn));
  EXPECT_THAT(picks, ElementsAre(0, 1, 2, 0, 1, 2));
}

TEST(RoundRobin, EveryCycleIsExactAndSmooth) {
  const std::vector<std::vector<uint32_t>> rows = {{1}, {5, 1, 1}, {3, 2}, {100, 50, 25}, {7, 11, 13, 17}, {999, 1}, {1000, 999, 998}};
  for (const std::vector<uint32_t>& weights : rows) {
    const std::vector<BalanceCandidate> candidates = Candidates(weights);
    const uint32_t divisor = std::accumulate(weights.begin(), weights.end(), 0U, [](uint32_t a, uint32_t b) { return std::gcd(a, b); });
    const uint32_t cycle = std::accumulate(weights.begin(), weights.end(), 0U) / divisor;
    for (const uint32_t start : {0U, cycle, 5 * cycle}) {
      std::vector<uint32_t> picks(weights.size());
      for (uint32_t turn = 0; turn < cycle; ++turn) {
        ++picks[PickRoundRobin(candidates, start + turn)];
        // At no time is anyone more than a few turns ahead of its share or behind it.
        for (size_t i = 0; i < weights.size(); ++i) {
          const double due = static_cast<double>(turn + 1) * weights[i] / divisor / cycle;
          EXPECT_LE(std::abs(picks[i] - due), 3.0) << "weights " << testing::PrintToString(weights) << " turn " << turn;
        }
      }
      for (size_t i = 0; i < weights.size(); ++i) EXPECT_EQ(picks[i], weights[i] / divisor);
    }
  }
}

std::vector<int> PickCounts(std::span<const BalanceCandidate> candidates) {
  std::vector<int> picks(candidates.size());
  std::mt19937_64 random(1);
  for (int i = 0; i < 30'000; ++i) ++picks[PickPowerOfTwo(candidates, random())];
  return picks;
}

TEST(PowerOfTwo, AFullNodeGetsFewerThanAnIdleOne) {
  std::vector<BalanceCandidate> candidates = Candidates({100, 100, 100});
  for (BalanceCandidate& candidate : candidates) candidate.active = 10;
  candidates[0].load_permille = 1000, candidates[1].load_permille = 300, candidates[2].load_permille = 320;
  const std::vector<int> picks = PickCounts(candidates);
  EXPECT_EQ(picks[0], 0) << "a full node counts four times";
  EXPECT_NEAR(picks[1], picks[2], 600) << "differences within an eighth are noise";
  candidates[0].active = 2;
  EXPECT_GT(PickCounts(candidates)[0], 15'000) << "unless it has a fourth of the connections";
}

TEST(PowerOfTwo, NeverTheWorstOfAll) {
  std::vector<BalanceCandidate> candidates = Candidates({100, 1, 1000});
  candidates[0].active = 50, candidates[1].active = 1, candidates[2].active = 400;
  EXPECT_EQ(PickCounts(candidates)[1], 0) << "1 for a weight of 1";
}

// ---- A simulation: connections come and go -----------------------------------------------------------------------------

enum class Pick : uint8_t { kPowerOfTwo, kLeast, kRoundRobin };
struct SimulationRow {
  const char* name;
  Pick pick;
  std::vector<uint32_t> weights;
  double concurrency;   // connections open at a time, over all nodes
  double share_within;  // of the connections that each gets, relative to its weight
  double peak_within;   // most connections that a node ever has, relative to its share of `concurrency`; 0: not looked at
};

TEST(BalanceSimulation, SharesFollowWeights) {
  const SimulationRow rows[] = {
      {"two choices, equal, busy", Pick::kPowerOfTwo, {100, 100, 100, 100, 100, 100, 100, 100}, 800, 0.03, 1.25},
      {"two choices, equal, nearly idle", Pick::kPowerOfTwo, {100, 100, 100, 100}, 0.5, 0.04, 0},
      {"two choices, weights, busy", Pick::kPowerOfTwo, {100, 200, 300, 400}, 1000, 0.05, 1.3},
      {"two choices, weights, nearly idle", Pick::kPowerOfTwo, {100, 300}, 0.2, 0.08, 0},
      {"two choices, weights, a connection a node: whole connections are coarse", Pick::kPowerOfTwo, {100, 300}, 2, 0.5, 0},
      {"two choices, one very heavy", Pick::kPowerOfTwo, {1000, 10, 10}, 2000, 0.25, 0},
      {"least, equal, busy", Pick::kLeast, {100, 100, 100, 100, 100}, 500, 0.03, 1.2},
      {"least, weights, busy", Pick::kLeast, {100, 200, 300, 400}, 1000, 0.03, 1.2},
      {"least, weights, nearly idle", Pick::kLeast, {100, 300}, 0.2, 0.06, 0},
      {"round robin, weights", Pick::kRoundRobin, {100, 200, 300, 400}, 1000, 0.001, 0},
  };
  for (const SimulationRow& row : rows) {
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      std::mt19937_64 random(seed);
      std::exponential_distribution<double> hold(1.0 / row.concurrency);  // one arrival a unit of time
      std::vector<BalanceCandidate> candidates = Candidates(row.weights);
      std::priority_queue<std::pair<double, size_t>, std::vector<std::pair<double, size_t>>, std::greater<>> ends;
      std::vector<double> total(row.weights.size()), peak(row.weights.size());
      const int arrivals = 60'000;
      for (int now = 0; now < arrivals; ++now) {
        for (; !ends.empty() && ends.top().first <= now; ends.pop()) --candidates[ends.top().second].active;
        const size_t picked = row.pick == Pick::kPowerOfTwo ? PickPowerOfTwo(candidates, random())
                              : row.pick == Pick::kLeast    ? PickLeastConnections(candidates, random())
                                                            : PickRoundRobin(candidates, static_cast<uint32_t>(now));
        ++candidates[picked].active;
        ++total[picked];
        peak[picked] = std::max<double>(peak[picked], candidates[picked].active);
        ends.push({now + hold(random), picked});
      }
      const double weight = std::accumulate(row.weights.begin(), row.weights.end(), 0.0);
      for (size_t i = 0; i < row.weights.size(); ++i) {
        const double share = row.weights[i] / weight;
        EXPECT_NEAR(total[i] / arrivals / share, 1.0, row.share_within) << row.name << ", node " << i << ", seed " << seed;
        if (row.peak_within > 0) {
          EXPECT_LE(peak[i] / (row.concurrency * share), row.peak_within) << row.name << ", node " << i << ", seed " << seed;
        }
      }
    }
  }
}

// ---- Maglev ------------------------------------------------------------------------------------------------------------

struct Pool {
  std::vector<std::string> names;
  std::vector<uint16_t> weights;
  std::vector<uint16_t> Build() const {
    std::vector<MaglevMember> members;
    for (size_t i = 0; i < names.size(); ++i) members.push_back({names[i], weights[i]});
    return BuildMaglev(members);
  }
  // The name at each place.
  std::vector<std::string> Named() const {
    std::vector<std::string> named;
    for (const uint16_t member : Build()) named.push_back(names[member]);
    return named;
  }
};
Pool PoolOf(size_t count, uint16_t weight = 100) {
  Pool pool;
  for (size_t i = 0; i < count; ++i) pool.names.push_back("node-" + std::to_string(i)), pool.weights.push_back(weight);
  return pool;
}
double Changed(const std::vector<std::string>& a, const std::vector<std::string>& b, const std::string& leaving = "") {
  size_t changed = 0;
  for (size_t i = 0; i < a.size(); ++i) changed += a[i] != b[i] && a[i] != leaving && b[i] != leaving;
  return static_cast<double>(changed) / static_cast<double>(a.size());
}

TEST(Maglev, SpreadsEvenlyByWeight) {
  std::vector<Pool> pools = {PoolOf(1), PoolOf(3), PoolOf(100), PoolOf(1024, 1), PoolOf(5)};
  pools.back().weights = {1, 10, 100, 500, 1000};
  for (const Pool& pool : pools) {
    std::vector<double> count(pool.names.size());
    const std::vector<uint16_t> table = pool.Build();
    ASSERT_EQ(table.size(), kMaglevSize);
    for (const uint16_t member : table) ++count.at(member);
    const double weight = std::accumulate(pool.weights.begin(), pool.weights.end(), 0.0);
    for (size_t i = 0; i < count.size(); ++i) {
      const double due = kMaglevSize * pool.weights[i] / weight;
      EXPECT_NEAR(count[i], due, 1.5 + due * 0.001) << pool.names.size() << " members, member " << i;
    }
  }
}

TEST(Maglev, OneMemberMoreOrLessMovesFewOfTheOthersClients) {
  for (const size_t size : {3U, 10U, 100U}) {
    const Pool all = PoolOf(size);
    Pool fewer = all;
    fewer.names.erase(fewer.names.begin() + 1), fewer.weights.pop_back();
    const std::string& gone = all.names[1];
    const double moved = Changed(all.Named(), fewer.Named(), gone);
    EXPECT_LT(moved, 0.08) << size << " members: clients of members that stayed";
  }
}

TEST(Maglev, AChangeOfWeightMovesFewClientsOfTheOthers) {
  const Pool before = PoolOf(10);
  Pool after = before;
  after.weights[4] = 50;
  EXPECT_LT(Changed(before.Named(), after.Named(), before.names[4]), 0.08);
}

TEST(Maglev, DependsOnNamesAndWeightsOnly) {
  const Pool pool = PoolOf(20);
  Pool shuffled = pool;
  std::shuffle(shuffled.names.begin(), shuffled.names.end(), std::mt19937(5));
  EXPECT_EQ(Changed(pool.Named(), shuffled.Named()), 0.0);
}

TEST(Maglev, WithoutWeightThereIsNoTable) {
  EXPECT_TRUE(BuildMaglev({}).empty());
  EXPECT_TRUE(PoolOf(3, 0).Build().empty());
  Pool pool = PoolOf(2);
  pool.weights[0] = 0;
  EXPECT_THAT(pool.Build(), Each(1));
}

TEST(Maglev, EverySlotCanBeAHomeAndHashesSpreadOverThem) {
  std::mt19937_64 random(1);
  std::vector<int> tenths(10);
  for (int i = 0; i < 100'000; ++i) ++tenths[MaglevSlot(random(), kMaglevSize) * 10 / kMaglevSize];
  EXPECT_THAT(tenths, Each(testing::AllOf(testing::Gt(9500), testing::Lt(10'500))));
  EXPECT_EQ(MaglevSlot(0, kMaglevSize), 0U);
  EXPECT_EQ(MaglevSlot(UINT64_MAX, kMaglevSize), kMaglevSize - 1);
}

}  // namespace
}  // namespace hud
