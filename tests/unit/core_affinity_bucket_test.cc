// A model check of the bucket's protocol: the very code of AffinityBucket runs over words that behave as C++20's memory
// model allows release/acquire and relaxed accesses to behave, and a reader tries every value that each load may return.
//
// The model (the usual operational one with views, one writer): a location is the list of all values ever stored to it. A
// thread has a view: for each location, the oldest value that it may still read. A release store attaches the writer's view;
// an acquire load that reads it joins that view to the reader's; a relaxed access moves only the view of its own location.
// Since the writer never reads what the reader does, all its stores may be made first: any interleaving of the two threads
// is one choice of values by the reader.
#include "core/affinity_bucket.h"

#include <algorithm>
#include <array>
#include <functional>
#include <set>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hud {
namespace {

constexpr size_t kLocations = 16;  // two buckets of eight words
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

class ModelWord {
 public:
  uint64_t load(std::memory_order order) const {
    return Model::current->reading() ? Model::current->ReaderLoad(location_, order) : Model::current->WriterLoad(location_);
  }
  void store(uint64_t value, std::memory_order order) { Model::current->Store(location_, value, order); }

 private:
  size_t location_ = Model::current->NewLocation();
};

using Bucket = AffinityBucket<ModelWord>;
using Seen = std::tuple<uint64_t, uint16_t, uint16_t, uint32_t>;  // tag, node, generation, expiry

AffinityEntry Entry(uint64_t tag, uint16_t node, uint16_t generation, uint32_t expiry) {
  return {tag, {static_cast<NodeIndex>(node), generation}, expiry};
}
Seen Of(const AffinityEntry& entry) {
  return {entry.tag, Raw(entry.owner.index), entry.owner.generation, entry.expiry};
}

constexpr uint64_t kX = 0x1234;
constexpr uint64_t kY = 0x5678;
constexpr uint64_t kZ = 0x9abc;

struct Scenario {
  const char* name;
  std::function<void(Bucket&)> before;  // what the reader finds in place
  std::function<void(Bucket&)> during;  // what the writer does meanwhile
  std::set<Seen> whole;                 // all that a reader of kX may find, and is to find in some execution
};

std::vector<Scenario> Scenarios() {
  return {
      {"a token appears in an empty slot",
       [](Bucket&) {},
       [](Bucket& b) { b.Set(0, Entry(kX, 1, 10, 100)); },
       {{kX, 1, 10, 100}}},
      {"a token changes its owner twice",
       [](Bucket& b) { b.Set(0, Entry(kX, 1, 10, 100)); },
       [](Bucket& b) { b.Set(0, Entry(kX, 2, 20, 200)), b.Set(0, Entry(kX, 3, 30, 300)); },
       {{kX, 1, 10, 100}, {kX, 2, 20, 200}, {kX, 3, 30, 300}}},
      {"another token takes its slot, and it comes back to the same slot with another owner",
       [](Bucket& b) { b.Set(0, Entry(kX, 1, 10, 100)); },
       [](Bucket& b) { b.Set(0, Entry(kY, 2, 20, 200)), b.Set(0, Entry(kX, 3, 30, 300)); },
       {{kX, 1, 10, 100}, {kX, 3, 30, 300}}},
      {"it is withdrawn, the slot is used again, and it comes back in another slot",
       [](Bucket& b) { b.Set(0, Entry(kX, 1, 10, 100)); },
       [](Bucket& b) { b.Clear(0), b.Set(0, Entry(kY, 2, 20, 200)), b.Set(1, Entry(kX, 3, 30, 300)); },
       {{kX, 1, 10, 100}, {kX, 3, 30, 300}}},
      {"it is refreshed while its neighbours, which share its words, come and go",
       [](Bucket& b) { b.Set(0, Entry(kX, 1, 10, 100)), b.Set(1, Entry(kY, 2, 20, 200)); },
       [](Bucket& b) { b.Set(1, Entry(kZ, 3, 30, 300)), b.SetExpiry(0, 101), b.Clear(1); },
       {{kX, 1, 10, 100}, {kX, 1, 10, 101}}},
      {"it is refreshed and then replaced",
       [](Bucket& b) { b.Set(0, Entry(kX, 1, 10, 100)); },
       [](Bucket& b) { b.SetExpiry(0, 101), b.Set(0, Entry(kX, 2, 20, 200)); },
       {{kX, 1, 10, 100}, {kX, 1, 10, 101}, {kX, 2, 20, 200}}},
  };
}

struct Found {
  std::set<Seen> entries;
  size_t torn = 0, absent = 0;
};

Found Explore(const Scenario& scenario, Model& model) {
  Model::current = &model;
  Bucket other;  // the token's other bucket, in which it never is
  Bucket bucket;
  scenario.before(bucket);
  model.PublishAll();
  scenario.during(bucket);
  Found found;
  model.Explore([&] {
    AffinityEntry entry;
    switch (Bucket::TryRead(other, bucket, kX, entry)) {
      case Bucket::Outcome::kFound: found.entries.insert(Of(entry)); break;
      case Bucket::Outcome::kAbsent: ++found.absent; break;
      case Bucket::Outcome::kTorn: ++found.torn; break;
    }
  });
  return found;
}

TEST(AffinityBucketModel, EveryExecutionReadsAWholeEntryOrNone) {
  for (const Scenario& scenario : Scenarios()) {
    Model model;
    const Found found = Explore(scenario, model);
    EXPECT_EQ(found.entries, scenario.whole) << scenario.name;
    EXPECT_GT(found.torn, 0U) << scenario.name << ": no execution met the writer, so nothing was checked";
  }
}

TEST(AffinityBucketModel, TheCheckFailsWhenReleaseOrAcquireIsLeftOut) {
  for (const bool weaken_release : {false, true}) {
    Model model;
    model.release_is_relaxed = weaken_release;
    model.acquire_is_relaxed = !weaken_release;
    const Scenario scenario = Scenarios()[1];
    EXPECT_THAT(Explore(scenario, model).entries.size(), testing::Gt(scenario.whole.size()))
        << (weaken_release ? "relaxed stores" : "relaxed loads");
  }
}

TEST(AffinityBucketModel, TwoTriesAreStillWhole) {
  Model model;
  Model::current = &model;
  Bucket other;  // the token's other bucket, in which it never is
  Bucket bucket;
  bucket.Set(0, Entry(kX, 1, 10, 100));
  model.PublishAll();
  bucket.Set(0, Entry(kX, 2, 20, 200));
  std::set<Seen> seen;
  size_t missed = 0;
  model.Explore([&] {
    AffinityEntry entry;
    if (Bucket::Read(other, bucket, kX, entry)) {
      seen.insert(Of(entry));
    } else {
      ++missed;
    }
  });
  EXPECT_EQ(seen, (std::set<Seen>{{kX, 1, 10, 100}, {kX, 2, 20, 200}}));
  EXPECT_GT(missed, 0U) << "a writer put to sleep in the middle must make the reader miss, not wait";
}

TEST(AffinityBucket, EverySlotKeepsItsOwnParts) {
  AffinityBucket<std::atomic<uint64_t>> bucket;
  const uint64_t max_tag = (1ULL << 53) - 1;
  for (int slot = 0; slot < bucket.kSlots; ++slot) {
    bucket.Set(slot, Entry(max_tag - slot, static_cast<uint16_t>(limits::kMaxNodes - 1 - slot),
                           static_cast<uint16_t>(0xffff - slot), 0xffffffff - slot));
  }
  bucket.SetExpiry(2, 7);
  bucket.Clear(3);
  AffinityEntry entry;
  for (int slot = 0; slot < 3; ++slot) {
    ASSERT_TRUE(bucket.Read(bucket, bucket, max_tag - slot, entry));
    EXPECT_EQ(Of(entry), (Seen{max_tag - slot, limits::kMaxNodes - 1 - slot, 0xffff - slot, slot == 2 ? 7 : 0xffffffff - slot}));
    EXPECT_EQ(bucket.FindSlot(max_tag - slot), slot);
  }
  EXPECT_FALSE(bucket.Read(bucket, bucket, max_tag - 3, entry));
  EXPECT_FALSE(bucket.Get(3, entry));
  EXPECT_FALSE(bucket.Read(bucket, bucket, 0, entry)) << "an empty slot is not the tag 0";
}

}  // namespace
}  // namespace hud
