// A model check of the bucket's protocol: the very code of AffinityBucket runs over words that behave as C++20's memory
// model allows release/acquire and relaxed accesses to behave, and a reader tries every value that each load may return.
//
// The model (the usual operational one with views, one writer): a location is the list of all values ever stored to it. A
// thread has a view: for each location, the oldest value that it may still read. A release store attaches the writer's view;
// an acquire load that reads it joins that view to the reader's; a relaxed access moves only the view of its own location.
// Since the writer never reads what the reader does, all its stores may be made first: any interleaving of the two threads
// is one choice of values by the reader.
#include "core/affinity/affinity_bucket.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <set>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hud {
namespace {

constexpr size_t kOwners = 4;
constexpr size_t kLocations = 2 * 16 + kOwners;  // two buckets and a small owner table
using View = std::array<size_t, kLocations>;

class Model {
 public:
  static Model* current;

  bool release_is_relaxed = false;  // weakened on purpose, to see that the check can fail
  bool acquire_is_relaxed = false;

  size_t NewLocation() {
    stores_.at(location_count_).push_back({0, View{}});
    return location_count_++;
  }

  uint64_t WriterLoad(size_t location) const { return stores_[location].back().value; }

  void Store(size_t location, uint64_t value, std::memory_order order) {
    writer_view_[location] = stores_[location].size();
    View view{};
    view[location] = writer_view_[location];
    if (order == std::memory_order_release && !release_is_relaxed) view = writer_view_;
    stores_[location].push_back({value, view});
  }

  uint64_t ReaderLoad(size_t location, std::memory_order order) {
    const size_t oldest = reader_view_[location];
    const size_t chosen = oldest + Choose(stores_[location].size() - oldest);
    const Store_& store = stores_[location][chosen];
    reader_view_[location] = chosen;
    if (order == std::memory_order_acquire && !acquire_is_relaxed) {
      for (size_t i = 0; i < kLocations; ++i) reader_view_[i] = std::max(reader_view_[i], store.view[i]);
    }
    return store.value;
  }

  // Runs `read` once for every sequence of choices.
  size_t Explore(const std::function<void()>& read) {
    reading_ = true;
    script_.clear();
    size_t runs = 0;
    do {
      reader_view_ = {};
      step_ = 0;
      read();
      ++runs;
    } while (NextScript());
    reading_ = false;
    return runs;
  }

  // The reader has already seen everything up to now (it comes later than all of the set-up).
  void PublishAll() {
    for (size_t i = 0; i < kLocations; ++i) stores_[i].erase(stores_[i].begin(), stores_[i].end() - 1);
    writer_view_ = {};
    for (auto& stores : stores_) stores.back().view = {};
  }

  bool reading() const { return reading_; }

 private:
  struct Store_ {
    uint64_t value;
    View view;
  };
  struct Choice {
    size_t taken, count;
  };

  size_t Choose(size_t count) {
    if (step_ == script_.size()) script_.push_back({0, count});
    EXPECT_EQ(script_[step_].count, count);
    return script_[step_++].taken;
  }

  bool NextScript() {
    while (!script_.empty() && script_.back().taken + 1 == script_.back().count) script_.pop_back();
    if (script_.empty()) return false;
    ++script_.back().taken;
    return true;
  }

  std::array<std::vector<Store_>, kLocations> stores_;
  size_t location_count_ = 0;
  View writer_view_{};
  View reader_view_{};
  bool reading_ = false;
  std::vector<Choice> script_;
  size_t step_ = 0;
};
Model* Model::current = nullptr;

template <typename Value>
class ModelAtomic {
 public:
  Value load(std::memory_order order) const {
    Model& model = *Model::current;
    return static_cast<Value>(model.reading() ? model.ReaderLoad(location_, order) : model.WriterLoad(location_));
  }
  void store(Value value, std::memory_order order) { Model::current->Store(location_, value, order); }

 private:
  size_t location_ = Model::current->NewLocation();
};

using Bucket = AffinityBucket<ModelAtomic>;
using Node = std::pair<uint16_t, uint16_t>;  // index, generation

NodeRef Ref(uint16_t index, uint16_t generation) { return {static_cast<NodeIndex>(index), generation}; }

// Tokens' tags, and ids of owners.
constexpr Tag kX = 0x1234;
constexpr Tag kY = 0x1235;
constexpr OwnerId kA = 1;
constexpr OwnerId kB = 2;

// What the model explores: a token's two buckets, and the owners.
struct World {
  Bucket first, second;
  std::array<Bucket::OwnerRow, kOwners> owners;
};

struct Scenario {
  const char* name;
  std::function<void(World&)> before;  // what the reader finds in place
  std::function<void(World&)> during;  // what the writer does meanwhile
  std::set<Node> whole;                // all that a reader of kX may find, and is to find in some execution
};

std::vector<Scenario> Scenarios() {
  const auto owned_by_node_1 = [](World& w) { w.owners[kA].Give(Ref(1, 10)), w.first.Set(3, kX, kA); };
  return {
      {"a token appears in an empty cell",
       [](World& w) { w.owners[kA].Give(Ref(1, 10)); },
       [](World& w) { w.first.Set(0, kX, kA); },
       {{1, 10}}},
      {"a token appears with an owner that nobody has seen before",
       [](World&) {},
       [](World& w) { w.owners[kA].Give(Ref(1, 10)), w.second.Set(0, kX, kA); },
       {{1, 10}}},
      {"a token changes its owner twice", owned_by_node_1,
       [](World& w) {
         w.owners[kB].Give(Ref(2, 20));
         w.first.Set(3, kX, kB);
         w.owners[kA].Give(Ref(3, 30));
         w.first.Set(3, kX, kA);
       },
       {{1, 10}, {2, 20}, {3, 30}}},
      {"another token takes its cell, and it comes back to the same cell with another owner", owned_by_node_1,
       [](World& w) {
         w.owners[kB].Give(Ref(2, 20));
         w.first.Set(3, kY, kB);
         w.first.Set(3, kX, kB);
       },
       {{1, 10}, {2, 20}}},
      {"it is withdrawn and comes back in its other bucket", owned_by_node_1,
       [](World& w) {
         w.owners[kB].Give(Ref(2, 20));
         w.first.Clear(3);
         w.first.Set(3, kY, kA);
         w.second.Set(0, kX, kB);
       },
       {{1, 10}, {2, 20}}},
      {"its owner goes, and the id is given to the owner of another token in the same cell", owned_by_node_1,
       [](World& w) {
         w.first.Clear(3);
         w.owners[kA].Give(Ref(2, 20));
         w.first.Set(3, kY, kA);
       },
       {{1, 10}}},
      {"the id is given away, and the token comes back with the new owner: the word is what it was", owned_by_node_1,
       [](World& w) {
         w.first.Clear(3);
         w.owners[kA].Give(Ref(2, 20));
         w.first.Set(3, kX, kA);
       },
       {{1, 10}, {2, 20}}},
      {"the id is given away twice, and only the third owner has the token again", owned_by_node_1,
       [](World& w) {
         w.first.Clear(3);
         w.owners[kA].Give(Ref(2, 20));
         w.owners[kA].Give(Ref(3, 30));
         w.first.Set(3, kX, kA);
       },
       {{1, 10}, {3, 30}}},
      {"the same, and the node in between gets the id back afterwards", owned_by_node_1,
       [](World& w) {
         w.first.Clear(3);
         w.owners[kA].Give(Ref(2, 20));
         w.owners[kA].Give(Ref(3, 30));
         w.first.Set(3, kX, kA);
         w.first.Clear(3);
         w.owners[kA].Give(Ref(2, 20));
       },
       {{1, 10}, {3, 30}}},
  };
}

struct Found {
  std::set<Node> owners;
  size_t torn = 0, absent = 0;
};

Found Explore(const Scenario& scenario, Model& model) {
  Model::current = &model;
  World world;
  scenario.before(world);
  model.PublishAll();
  scenario.during(world);
  Found found;
  model.Explore([&] {
    const uint64_t row = Bucket::TryRead(world.first, world.second, world.owners.data(), kX);
    if (row == Bucket::kAbsent) {
      ++found.absent;
    } else if (row == Bucket::kTorn) {
      ++found.torn;
    } else {
      const NodeRef owner = Bucket::OwnerRow::NodeOf(row);
      found.owners.insert({Raw(owner.index), owner.generation});
    }
  });
  return found;
}

TEST(AffinityBucketModel, EveryExecutionFindsAnOwnerThatTheTokenHadOrNone) {
  size_t torn = 0;
  for (const Scenario& scenario : Scenarios()) {
    Model model;
    const Found found = Explore(scenario, model);
    EXPECT_EQ(found.owners, scenario.whole) << scenario.name;
    torn += found.torn;
  }
  EXPECT_GT(torn, 0U) << "no execution met the writer, so nothing was checked";
}

TEST(AffinityBucketModel, TheCheckFailsWhenReleaseOrAcquireIsLeftOut) {
  for (const bool weaken_release : {false, true}) {
    size_t wrong = 0;
    for (const Scenario& scenario : Scenarios()) {
      Model model;
      model.release_is_relaxed = weaken_release;
      model.acquire_is_relaxed = !weaken_release;
      for (const Node& owner : Explore(scenario, model).owners) wrong += !scenario.whole.contains(owner);
    }
    EXPECT_GT(wrong, 0U) << (weaken_release ? "relaxed stores" : "relaxed loads");
  }
}

TEST(AffinityBucketModel, TwoTriesThenAMiss) {
  const Scenario scenario = Scenarios()[6];
  Model model;
  Model::current = &model;
  World world;
  scenario.before(world);
  model.PublishAll();
  scenario.during(world);
  std::set<Node> seen;
  size_t missed = 0;
  model.Explore([&] {
    const NodeRef owner = Bucket::Read(world.first, world.second, world.owners.data(), kX);
    if (owner) seen.insert({Raw(owner.index), owner.generation});
    missed += !owner;
  });
  EXPECT_EQ(seen, scenario.whole);
  EXPECT_GT(missed, 0U) << "a writer put to sleep in the middle must make the reader miss, not wait";
}

TEST(AffinityBucket, EveryCellKeepsItsOwnTagAndOwner) {
  using RealBucket = AffinityBucket<std::atomic>;
  RealBucket bucket;
  std::vector<RealBucket::OwnerRow> owners(kOwnerIds);
  const auto owner_of = [](int cell) { return static_cast<OwnerId>(kOwnerIds - 1 - cell); };
  const Tag max_tag = (1 << kTagBits) - 1;
  for (int cell = 0; cell < bucket.kCells; ++cell) {
    EXPECT_EQ(bucket.Free(), bucket.kAllCells << cell & bucket.kAllCells);
    owners[owner_of(cell)].Give(Ref(static_cast<uint16_t>(cell), static_cast<uint16_t>(0xffff - cell)));
    bucket.Set(cell, max_tag - cell, owner_of(cell));
  }
  bucket.Clear(3);
  EXPECT_EQ(bucket.Free(), 1U << 3);
  EXPECT_EQ(bucket.Owner(3), 0);
  for (int cell = 0; cell < bucket.kCells; ++cell) {
    const Tag tag = max_tag - cell;
    const NodeRef expected = cell == 3 ? NodeRef{} : Ref(static_cast<uint16_t>(cell), static_cast<uint16_t>(0xffff - cell));
    EXPECT_EQ(RealBucket::Read(bucket, bucket, owners.data(), tag), expected) << cell;
    EXPECT_EQ(bucket.Matches(tag), cell == 3 ? 0U : 1U << cell);
  }
  EXPECT_EQ(bucket.Matches(0), 0U) << "an empty cell is not the tag 0";
  bucket.Set(3, 0, 1);
  EXPECT_EQ(bucket.Matches(0), 1U << 3);
}

}  // namespace
}  // namespace hud
