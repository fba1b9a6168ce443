#include "core/affinity/affinity_map.h"

#include <atomic>
#include <cstring>
#include <random>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/base/limits.h"
#include "gtest/gtest.h"

namespace hud {
namespace {

using namespace std::chrono_literals;
using Result = AffinityMap::InsertResult;

constexpr SipKey kKey{0x0706050403020100, 0x0f0e0d0c0b0a0908};

struct Token {
  explicit Token(uint64_t number) { std::memcpy(bytes, &number, 8); }
  operator Bytes() const { return bytes; }
  uint8_t bytes[32] = {};
};

NodeRef Node(uint64_t index, uint16_t generation = 1) { return {static_cast<NodeIndex>(index), generation}; }
Instant At(Duration since_start) { return Instant{since_start}; }

TEST(AffinityMap, FindsTheOwnerUntilASweepMeetsTheExpiredEntry) {
  AffinityMap map({.capacity = 1000, .key = kKey});
  const Token token(1);
  EXPECT_EQ(map.Find(token), NodeRef{});
  EXPECT_EQ(map.Insert(token, Node(3), At(60s), At(0s)), Result::kInserted);
  EXPECT_EQ(map.SweepExpired(At(59'999ms), SIZE_MAX), 0U);
  EXPECT_EQ(map.Find(token), Node(3));
  EXPECT_EQ(map.SweepExpired(At(60s), SIZE_MAX), 1U);
  EXPECT_EQ(map.Find(token), NodeRef{});
  EXPECT_EQ(map.Find(Token(2)), NodeRef{});
}

TEST(AffinityMap, AnEntryNeverExpiresEarly) {
  AffinityMap map({.capacity = 1000, .key = kKey});
  std::mt19937_64 random(1);
  for (int i = 0; i < 500; ++i) {
    const Duration expiry(1 + random() % 1'000'000'000'000);
    map.Insert(Token(i), Node(0), At(expiry), At(0s));
    EXPECT_EQ(map.SweepExpired(At(expiry - 1ns), SIZE_MAX), 0U) << expiry.count();
    EXPECT_EQ(map.Find(Token(i)), Node(0)) << expiry.count();
    EXPECT_EQ(map.SweepExpired(At(expiry + 63ms), SIZE_MAX), 1U) << expiry.count();
    EXPECT_EQ(map.Find(Token(i)), NodeRef{}) << expiry.count();
  }
}

TEST(AffinityMap, SaysWhatAnInsertDid) {
  AffinityMap map({.capacity = 1000, .key = kKey});
  const Token token(1);
  EXPECT_EQ(map.Insert(token, Node(1), At(60s), At(0s)), Result::kInserted);
  EXPECT_EQ(map.Insert(token, Node(1), At(90s), At(10s)), Result::kRefreshed);
  EXPECT_EQ(map.SweepExpired(At(80s), SIZE_MAX), 0U);
  EXPECT_EQ(map.Find(token), Node(1));
  EXPECT_EQ(map.Insert(token, Node(2), At(200s), At(10s)), Result::kHeldByAnother);
  EXPECT_EQ(map.Find(token), Node(1)) << "what a node holds no other takes";
  EXPECT_EQ(map.Insert(token, Node(2), At(200s), At(91s)), Result::kEvictedExpired);
  EXPECT_EQ(map.Find(token), Node(2));
  EXPECT_EQ(map.Insert(token, Node(2, 2), At(200s), At(91s)), Result::kEvictedExpired) << "another generation is another node";
  EXPECT_EQ(map.Insert(Token(2), Node(1), At(10s), At(10s)), Result::kRejected) << "expired before it came";
  EXPECT_EQ(map.CountOf(Node(1)), 0U);
  EXPECT_EQ(map.CountOf(Node(2, 1)), 0U);
  EXPECT_EQ(map.CountOf(Node(2, 2)), 1U);
  const AffinityMap::Stats stats = map.stats();
  EXPECT_EQ(stats.size, 1U);
  EXPECT_EQ(stats.inserted, 1U);
  EXPECT_EQ(stats.refreshed, 1U);
  EXPECT_EQ(stats.held_by_another, 1U);
  EXPECT_EQ(stats.evicted_expired, 2U);
  EXPECT_EQ(stats.rejected, 1U);
}

TEST(AffinityMap, OnlyTheOwnerWithdraws) {
  AffinityMap map({.capacity = 1000, .key = kKey});
  const Token token(1);
  map.Insert(token, Node(1), At(60s), At(0s));
  EXPECT_FALSE(map.Withdraw(token, Node(2)));
  EXPECT_FALSE(map.Withdraw(token, Node(1, 2)));
  EXPECT_EQ(map.Find(token), Node(1));
  EXPECT_TRUE(map.Withdraw(token, Node(1)));
  EXPECT_FALSE(map.Withdraw(token, Node(1)));
  EXPECT_EQ(map.Find(token), NodeRef{});
  EXPECT_EQ(map.stats().size, 0U);
}

TEST(AffinityMap, WithdrawAllTakesOneNodesTokensAndNoOthers) {
  AffinityMap map({.capacity = 10'000, .key = kKey});
  for (uint64_t i = 0; i < 3000; ++i) map.Insert(Token(i), Node(i % 3), At(60s), At(0s));
  EXPECT_EQ(map.WithdrawAll(Node(1)), 1000U);
  for (uint64_t i = 0; i < 3000; ++i) EXPECT_EQ(map.Find(Token(i)), i % 3 == 1 ? NodeRef{} : Node(i % 3));
  EXPECT_EQ(map.CountOf(Node(0)), 1000U);
  EXPECT_EQ(map.CountOf(Node(1)), 0U);
}

TEST(AffinityMap, ASweepIsBoundedAndComesAround) {
  AffinityMap map({.capacity = 10'000, .key = kKey});
  for (uint64_t i = 0; i < 1000; ++i) map.Insert(Token(i), Node(0), At(i < 400 ? 10s : 100s), At(0s));
  EXPECT_LE(map.SweepExpired(At(50s), 10), 40U);
  EXPECT_GT(map.stats().size, 600U);
  for (int i = 0; i < 400; ++i) map.SweepExpired(At(50s), 10);
  EXPECT_EQ(map.stats().size, 600U);
  EXPECT_EQ(map.stats().expired, 400U);
  EXPECT_EQ(map.CountOf(Node(0)), 600U);
}

struct CapacityRow {
  const char* name;
  size_t capacity;
};
class AffinityMapCapacity : public testing::TestWithParam<CapacityRow> {};

TEST_P(AffinityMapCapacity, HoldsAllButTwoInAThousandOfItsCapacity) {
  const size_t capacity = GetParam().capacity;
  AffinityMap map({.capacity = capacity, .key = kKey});
  // 12 bytes a cell, 85 % of them taken, and a whole number of pages of buckets.
  EXPECT_LE(map.stats().bytes, capacity * 12 * 100 / 85 + 64 * 192);
  size_t rejected = 0;
  for (uint64_t i = 0; i < capacity; ++i) rejected += map.Insert(Token(i), Node(i % 7), At(60s), At(0s)) != Result::kInserted;
  EXPECT_LE(rejected, capacity / 500);
  size_t found = 0;
  for (uint64_t i = 0; i < capacity; ++i) found += map.Find(Token(i)) == Node(i % 7);
  EXPECT_EQ(found, map.stats().size);
  EXPECT_EQ(found, capacity - rejected);
}
INSTANTIATE_TEST_SUITE_P(Sizes, AffinityMapCapacity,
                         testing::Values(CapacityRow{"a_thousand", 1000}, CapacityRow{"a_hundred_thousand", 100'000},
                                         CapacityRow{"a_million_in_huge_pages", 1'000'000}),
                         [](const auto& row) { return row.param.name; });

// ---- Tags that two tokens share ------------------------------------------------------------------------------------------

// A map with room, all of whose tokens have the same two buckets: who is refused has met his tag.
TEST(AffinityMap, ATokenWithTheTagOfAnotherIsRefusedAndChangesNothing) {
  AffinityMap map({.capacity = 20, .key = kKey});
  constexpr uint64_t kResidents = 20;
  for (uint64_t i = 0; i < kResidents; ++i) ASSERT_EQ(map.Insert(Token(i), Node(i), At(60s), At(0s)), Result::kInserted);
  size_t refused = 0;
  for (uint64_t i = kResidents; i < 1'000'000; ++i) {
    if (map.Insert(Token(i), Node(99), At(60s), At(0s)) == Result::kInserted) {
      EXPECT_TRUE(map.Withdraw(Token(i), Node(99)));
      continue;
    }
    ++refused;
    EXPECT_FALSE(map.Withdraw(Token(i), Node(99)));
    EXPECT_TRUE(map.Find(Token(i))) << "a reader takes it for the other one";
    EXPECT_FALSE(map.Withdraw(Token(i), map.Find(Token(i)))) << "the writer does not";
    EXPECT_EQ(map.Insert(Token(i), Node(99), At(90s), At(60s)), Result::kEvictedExpired);
    EXPECT_TRUE(map.Withdraw(Token(i), Node(99)));
    break;
  }
  EXPECT_GT(refused, 0U) << "expected once in 2^21 / 20 = 105,000 tokens";
  EXPECT_EQ(map.stats().size, kResidents - 1);
}

TEST(AffinityMap, AnUnknownTokenIsSeldomTakenForAKnownOne) {
  AffinityMap map({.capacity = 10'000, .key = kKey});
  for (uint64_t i = 0; i < 10'000; ++i) map.Insert(Token(i), Node(i % 7), At(60s), At(0s));
  size_t taken = 0;
  for (uint64_t i = 0; i < 1'000'000; ++i) taken += map.Find(Token(1'000'000 + i)) ? 1 : 0;
  EXPECT_LE(taken, 40U) << "27 / 2^21 of a million are 13";
}

// ---- Quotas ------------------------------------------------------------------------------------------------------------

TEST(AffinityMap, AFloodOfOneNodeLeavesTheOthersTokensAlone) {
  AffinityMap map({.capacity = 10'000, .key = kKey});
  for (uint64_t i = 0; i < 4000; ++i) ASSERT_EQ(map.Insert(Token(i), Node(i % 4), At(60s), At(0s)), Result::kInserted);
  for (uint64_t i = 0; i < 200'000; ++i) map.Insert(Token(1'000'000 + i), Node(9), At(90s), At(0s));
  EXPECT_GT(map.stats().evicted_over_share, 0U);
  for (uint64_t i = 0; i < 4000; ++i) EXPECT_EQ(map.Find(Token(i)), Node(i % 4)) << i;
}

TEST(AffinityMap, ANodeUnderItsShareStillGetsInAfterAFlood) {
  AffinityMap map({.capacity = 10'000, .key = kKey});
  for (uint64_t i = 0; i < 200'000; ++i) map.Insert(Token(1'000'000 + i), Node(9), At(90s), At(0s));
  size_t refused = 0;
  for (uint64_t i = 0; i < 4000; ++i) refused += map.Insert(Token(i), Node(i % 4), At(60s), At(0s)) == Result::kRejected;
  // Refused only where two buckets are full of other nodes that are under their share as well.
  EXPECT_LE(refused, 4U);
}

TEST(AffinityMap, AFullBucketGivesUpWhatHasExpiredFirst) {
  AffinityMap map({.capacity = 1000, .key = kKey});
  for (uint64_t i = 0; i < 20'000; ++i) map.Insert(Token(i), Node(0), At(10s), At(0s));
  for (uint64_t i = 0; i < 500; ++i) {
    EXPECT_EQ(map.Insert(Token(1'000'000 + i), Node(1), At(60s), At(20s)), Result::kEvictedExpired);
  }
  EXPECT_EQ(map.CountOf(Node(1)), 500U);
}

TEST(AffinityMap, TokensOfANodeWhoseSlotWasGivenAwayAreTheFirstToGo) {
  AffinityMap map({.capacity = 1000, .key = kKey});
  for (uint64_t i = 0; i < 20'000; ++i) map.Insert(Token(i), Node(0, 1), At(60s), At(0s));
  EXPECT_EQ(map.Insert(Token(1'000'000), Node(0, 2), At(60s), At(0s)), Result::kEvictedExpired);
  EXPECT_EQ(map.CountOf(Node(0, 1)), 0U);
  EXPECT_EQ(map.CountOf(Node(0, 2)), 1U);
  map.SweepExpired(At(0s), 1'000'000);
  EXPECT_EQ(map.stats().size, 1U);
}

// Each insert comes from another generation, and no sweep runs: all ids are taken by owners that are gone.
TEST(AffinityMap, WhenOwnersThatAreGoneHoldAllIdsTokensAreRefusedUntilASweep) {
  AffinityMap map({.capacity = 10'000, .key = kKey});
  uint64_t number = 0;
  const auto insert = [&] {
    const uint64_t i = number++;
    return map.Insert(Token(i), Node(i % limits::kMaxNodes, static_cast<uint16_t>(i / limits::kMaxNodes)), At(60s), At(0s));
  };
  size_t inserted = 0;
  while (insert() == Result::kInserted) ASSERT_LE(++inserted, 10'000U);
  EXPECT_GE(inserted, limits::kMaxNodes * 19 / 10);
  EXPECT_EQ(map.SweepExpired(At(0s), SIZE_MAX), inserted - limits::kMaxNodes + 1) << "what a slot's last node owns stays";
  EXPECT_EQ(insert(), Result::kInserted);
}

// ---- Against a reference -------------------------------------------------------------------------------------------------

struct Expected {
  NodeRef owner;
  Instant expiry;
};
struct RandomRow {
  const char* name;
  size_t capacity;
  uint64_t tokens;
  bool may_forget;  // more tokens than capacity: entries are evicted and rejected
};
class AffinityMapRandom : public testing::TestWithParam<RandomRow> {};

TEST_P(AffinityMapRandom, AgreesWithAReference) {
  const RandomRow& row = GetParam();
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    AffinityMap map({.capacity = row.capacity, .key = {seed, ~seed}});
    std::unordered_map<uint64_t, Expected> reference;
    std::array<uint16_t, 8> generation{};
    Instant now = At(1s);
    size_t wrong = 0, lost = 0, refused = 0;
    for (int step = 0; step < 100'000; ++step) {
      const uint64_t number = random() % row.tokens;
      const uint16_t index = random() % 8;
      const NodeRef node = Node(index, generation[index]);
      const auto expected = reference.find(number);
      switch (random() % 16) {
        default: {  // insert
          const Instant expiry = now + Duration(std::chrono::seconds(1 + random() % 100));
          switch (map.Insert(Token(number), node, expiry, now)) {
            case Result::kRejected:
              ++refused;
              EXPECT_EQ(map.Find(Token(number)), NodeRef{});
              reference.erase(number);
              break;
            case Result::kHeldByAnother:
              EXPECT_TRUE(expected != reference.end() && expected->second.owner != node &&
                          expected->second.expiry + 63ms > now);  // expiries are kept in ticks
              break;
            case Result::kRefreshed: EXPECT_TRUE(expected != reference.end() && expected->second.owner == node); [[fallthrough]];
            default: reference[number] = {node, expiry};
          }
          break;
        }
        case 10: {  // withdraw
          const bool was_there = map.Withdraw(Token(number), node);
          const bool known = expected != reference.end() && expected->second.owner == node;
          EXPECT_TRUE(known || !was_there);
          EXPECT_TRUE(was_there || row.may_forget || !known || expected->second.expiry <= now);
          if (known) reference.erase(number);
          break;
        }
        case 11: now += std::chrono::milliseconds(random() % 200); break;
        case 12: map.SweepExpired(now, 3); break;
        case 13: {
          if (random() % 500 != 0) break;
          map.WithdrawAll(node);
          std::erase_if(reference, [&](const auto& item) { return item.second.owner == node; });
          ++generation[index];
          break;
        }
        case 14:
        case 15: {
          const NodeRef found = map.Find(Token(number));
          const bool live = expected != reference.end() && expected->second.expiry > now;
          if (found && (expected == reference.end() || found != expected->second.owner)) ++wrong;
          if (!found && live) ++lost;
        }
      }
    }
    EXPECT_EQ(wrong, 0U);
    if (!row.may_forget) {
      EXPECT_EQ(lost + refused, 0U);
    }
    // The books: as many entries for each node as can be found, expired ones counted until they are swept.
    map.SweepExpired(now, SIZE_MAX);
    std::array<size_t, 8> found{};
    for (uint64_t number = 0; number < row.tokens; ++number) {
      if (const NodeRef owner = map.Find(Token(number))) ++found[Raw(owner.index)];
    }
    size_t all = 0;
    for (uint16_t index = 0; index < 8; ++index) {
      EXPECT_EQ(map.CountOf(Node(index, generation[index])), found[index]);
      all += found[index];
    }
    EXPECT_EQ(map.stats().size, all);
    EXPECT_GT(all, 0U);
  }
}
INSTANTIATE_TEST_SUITE_P(Loads, AffinityMapRandom,
                         testing::Values(RandomRow{"room_for_all", 8000, 2000, false},
                                         RandomRow{"twice_the_capacity", 1000, 2000, true},
                                         RandomRow{"two_buckets", 1, 80, true}),
                         [](const auto& row) { return row.param.name; });

// ---- One writer, several readers -------------------------------------------------------------------------------------------

// The generation of an owner is a function of its token and its index: an entry put together from two is recognised.
uint16_t GenerationFor(uint64_t number, uint16_t index) {
  return static_cast<uint16_t>((number * 0x9e3779b97f4a7c15 >> 40) + index * 977U);
}

TEST(AffinityMapThreads, AReaderNeverSeesAnOwnerThatTheTokenDidNotHave) {
  constexpr uint64_t kTokens = 64;
  constexpr int kReaders = 3;
  AffinityMap map({.capacity = 40, .key = kKey});  // 48 cells: full of evictions and of meetings
  std::atomic<bool> done{false};
  std::atomic<uint64_t> found{0}, wrong{0};
  std::vector<std::thread> readers;
  for (int r = 0; r < kReaders; ++r) {
    readers.emplace_back([&, r] {
      std::mt19937_64 random(100 + r);
      uint64_t my_found = 0, my_wrong = 0;
      while (!done.load(std::memory_order_relaxed)) {
        const uint64_t number = random() % kTokens;
        const NodeRef owner = map.Find(Token(number));
        if (!owner) continue;
        ++my_found;
        if (owner.generation != GenerationFor(number, Raw(owner.index))) ++my_wrong;
      }
      found += my_found;
      wrong += my_wrong;
    });
  }
  std::mt19937_64 random(7);
  for (int i = 0; i < 300'000; ++i) {
    const uint64_t number = random() % kTokens;
    const uint16_t index = random() % 16;
    const NodeRef node = Node(index, GenerationFor(number, index));
    if (random() % 8 == 0) {
      map.Withdraw(Token(number), node);
    } else {
      map.Insert(Token(number), node, At(100s + Duration(random() % 1'000'000'000)), At(1s));
    }
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong, 0U);
  EXPECT_GT(found, 1000U);
}

TEST(AffinityMapThreads, ATokenThatStaysIsFoundWhileItsBucketChanges) {
  AffinityMap map({.capacity = 8, .key = kKey});  // two buckets
  const Token resident(1);
  ASSERT_EQ(map.Insert(resident, Node(1), At(1000s), At(0s)), Result::kInserted);
  std::atomic<bool> done{false};
  uint64_t looked = 0, found = 0;
  std::thread reader([&] {
    while (!done.load(std::memory_order_relaxed)) {
      ++looked;
      found += map.Find(resident) == Node(1);
    }
  });
  for (uint64_t i = 0; i < 300'000; ++i) {
    const Token token(2 + i % 4);
    map.Insert(token, Node(2), At(100s), At(1s));
    map.Withdraw(token, Node(2));
  }
  done = true;
  reader.join();
  EXPECT_GT(looked, 0U);
  EXPECT_EQ(found, looked) << "what happens in other cells of the bucket is no business of a reader";
}

}  // namespace
}  // namespace hud
