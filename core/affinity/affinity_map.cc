// Two tables with a place for each entry. The buckets, four bytes an entry, are all that readers touch (affinity_bucket.h).
// The records, eight bytes an entry, are the writer's own: the rest of the token's hash, and the expiry. A look-up at random
// costs what memory costs, so what readers touch is kept small: a million tokens are 4.7 MB, which a share of an L3 cache
// holds. Measured on a virtual machine with 2 cores of an EPYC (Zen 4) and about 6 MB of its L3, dependent hits, hash included:
// 55 ns (18 million a second); tag, owner and expiry side by side in 24 bytes, under a seqlock, were 210 ns there. Of ten
// million (47 MB) a look-up takes 170 to 185 ns, where the bare read of a random line takes 139 to 149 (perf/affinity_bench.cc).
//
// A token may lie in two buckets of one page, and goes to its first unless the second has more room by kWorthTheWay. With
// `capacity` random tokens in, 0.07 % of them met two full buckets, and 88 % lay in their first.
//
// A token is known by 64 bits of SipHash (53 in the smallest maps): bucket, tag and record. Readers compare bucket and tag
// only. So:
//  - *OneTagAPair*: of all tokens with the same tag and the same two buckets, one can be in. The second bucket follows from
//    the first and the tag, so whoever has a token's tag in one of its buckets has both in common with it; the writer meets
//    it there, sees by the record that it is another one, and refuses the newcomer (one in 77,000 tokens in a full map).
//    Hence what a reader finds for a token that is in the map is that token's.
//  - A token that is not in the map is taken for one that is with a probability of 27 / 2^21 when the map is full. Nobody
//    knows such a client: the node it is sent to is as good as another. The hash is keyed, so nobody can aim.
#include "core/affinity/affinity_map.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <new>
#include <utility>

#include "core/affinity/affinity_bucket.h"
#include "core/affinity/affinity_owners.h"
#include "core/base/check.h"

namespace hud {

namespace {

using Bucket = AffinityBucket<std::atomic>;

constexpr size_t kHugePage = 2 << 20;
constexpr size_t kNowhere = SIZE_MAX;

// With `capacity` tokens in, this part of the cells is taken. Simulated: at 80 % 0.01 % of tokens met two full buckets, at 85 %
// 0.07 %, at 90 % 0.37 %.
constexpr size_t kPercentTaken = 85;

// So many more free cells must the second bucket have to get a token. Simulated at 85 %: with 1 two full buckets are met by
// 0.001 % of tokens and 67 % lie in their first, with 3 by 0.07 % and 88 %, with 5 by 0.32 % and 93 %. A look-up that ends in
// the first does not wait for the second to come from memory (to compare both at once: 62 ns for 50, in a million).
constexpr int kWorthTheWay = 3;

// The buckets of a page are the neighbourhood in which a token's two buckets lie: a power of two, so that the way from the
// second to the first is the way from the first to the second, and the number of buckets need not be one.
constexpr size_t kPage = 4096;
constexpr size_t kNeighbours = kPage / sizeof(Bucket);

// Expiries are kept in sixteenths of a second: 32 bits of them are eight years.
constexpr int64_t kTickNanos = 1'000'000'000 / 16;

uint32_t Tick(int64_t nanos) {
  return static_cast<uint32_t>(std::clamp<int64_t>(nanos / kTickNanos, 0, UINT32_MAX));
}
uint32_t NowTick(Instant now) { return Tick(now.time_since_epoch().count()); }
// Rounded up: an entry may live a tick too long, never too short.
uint32_t ExpiryTick(Instant expiry) {
  const int64_t nanos = expiry.time_since_epoch().count();
  return Tick(nanos > INT64_MAX - kTickNanos ? nanos : nanos + kTickNanos - 1);
}

// Written by the writer only, read by anybody.
class Tally {
 public:
  void Add(uint64_t n = 1) { value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed); }
  void Subtract(uint64_t n = 1) { Add(~n + 1); }
  uint64_t Get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// What the writer knows of the entries of a bucket, beside their tags and owners.
struct alignas(64) Records {
  uint32_t rest[Bucket::kCells];  // of the token's hash
  uint32_t expiry[Bucket::kCells];
};

// An array in huge pages where it fills some: a read at random otherwise misses the TLB as well (a random line of 47 MB in
// small pages took 160 ns instead of 149, of 240 MB 188 instead of 159).
// madvise is the system call that core/ allows itself here; it happens once, in the constructor, and may fail in peace.
template <typename Item>
class HugeArray {
 public:
  explicit HugeArray(size_t count) : count_(count), alignment_(Bytes() < kHugePage ? kPage : kHugePage) {
    void* memory = ::operator new(Bytes(), std::align_val_t(alignment_));
    if (alignment_ == kHugePage) (void)::madvise(memory, Bytes(), MADV_HUGEPAGE);
    items_ = static_cast<Item*>(memory);
    std::uninitialized_value_construct_n(items_, count);  // touches all of it: no page fault later
  }
  ~HugeArray() { ::operator delete(items_, std::align_val_t(alignment_)); }
  HugeArray(const HugeArray&) = delete;
  HugeArray& operator=(const HugeArray&) = delete;

  Item& operator[](size_t i) const { return items_[i]; }
  size_t count() const { return count_; }
  size_t Bytes() const { return count_ * sizeof(Item); }

 private:
  size_t count_;
  size_t alignment_;
  Item* items_;
};

constexpr size_t RoundedUp(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// At least two, and a whole number of neighbourhoods; of a small map all buckets are one neighbourhood, a power of two.
size_t BucketsFor(size_t capacity) {
  const size_t cells = capacity * 100 / kPercentTaken + 1;
  const size_t buckets = std::max<size_t>(2, RoundedUp(cells, Bucket::kCells) / Bucket::kCells);
  return RoundedUp(buckets, std::min(kNeighbours, std::bit_ceil(buckets)));
}

}  // namespace

struct AffinityMap::Impl {
  // Where a token may be, and what tells it from others there.
  struct Place {
    size_t first, second;
    Tag tag;
    uint32_t rest;
  };
  struct Slot {
    size_t bucket = kNowhere;
    int cell = 0;
    explicit operator bool() const { return bucket != kNowhere; }
  };

  explicit Impl(const Options& o)
      : options(o), buckets(BucketsFor(o.capacity)), records(buckets.count()), last_neighbour(std::min(kNeighbours, buckets.count()) - 1) {
    HUD_CHECK(o.capacity > 0 && buckets.count() <= UINT32_MAX);
  }

  // The first bucket is made of the hash's upper bits, the tag of its lower ones. The second bucket is the tag's way from the
  // first, and the first is the same way from the second.
  Place PlaceOf(Bytes token) const {
    const uint64_t hash = SipHash13(options.key, token);
    const Tag tag = static_cast<Tag>(hash) & ((1 << kTagBits) - 1);
    const size_t first = (hash >> 32) * buckets.count() >> 32;
    const size_t way = (tag * last_neighbour >> kTagBits) + 1;
    return {first, first ^ way, tag, static_cast<uint32_t>(hash >> kTagBits)};
  }

  uint32_t& RestOf(Slot at) const { return records[at.bucket].rest[at.cell]; }
  uint32_t& ExpiryOf(Slot at) const { return records[at.bucket].expiry[at.cell]; }
  OwnerId OwnerOf(Slot at) const { return buckets[at.bucket].Owner(at.cell); }
  bool IsDead(Slot at, uint32_t now) const { return ExpiryOf(at) <= now || owners.IsStale(OwnerOf(at)); }

  // All that a write may touch travels at the same time. Records by loads, since a prefetch instruction seems to give up where
  // the page is not at hand: an insert into ten million took 376 ns with it, 256 with loads.
  void Prefetch(const Place& place) const {
    __builtin_prefetch(&buckets[place.second]);
    for (const size_t bucket : {place.first, place.second}) {
      Touch(records[bucket].rest[0]);
      Touch(records[bucket].expiry[0]);
    }
  }
  static void Touch(const uint32_t& word) { (void)*static_cast<const volatile uint32_t*>(&word); }

  // The one entry with the place's tag (OneTagAPair): this token's if its record says so.
  Slot FindTag(const Place& place) const {
    for (const size_t bucket : {place.first, place.second}) {
      if (const unsigned matches = buckets[bucket].Matches(place.tag)) return {bucket, std::countr_zero(matches)};
    }
    return {};
  }

  Slot FindToken(const Place& place) const {
    const Slot there = FindTag(place);
    return there && RestOf(there) == place.rest ? there : Slot{};
  }

  Slot FindFree(const Place& place) const {
    const unsigned first = buckets[place.first].Free();
    const unsigned second = buckets[place.second].Free();
    const bool to_second = first == 0 || std::popcount(second) >= std::popcount(first) + kWorthTheWay;
    const unsigned free = to_second ? second : first;
    if (free == 0) return {};
    return {to_second ? place.second : place.first, std::countr_zero(free)};
  }

  // Both buckets are full: whose entry makes room?
  template <typename Visit>
  void ForEachAt(const Place& place, Visit visit) const {
    for (const size_t bucket : {place.first, place.second}) {
      for (int cell = 0; cell < Bucket::kCells; ++cell) visit(Slot{bucket, cell});
    }
  }

  Slot FindDead(const Place& place, uint32_t now) const {
    Slot found;
    ForEachAt(place, [&](Slot slot) {
      if (!found && IsDead(slot, now)) found = slot;
    });
    return found;
  }

  // Of the node that is furthest over its share, the entry that would have gone first. Not the entry of a node that has
  // fewer than `inserter`: who is over its share pays with its own.
  Slot FindOverShare(const Place& place, OwnerId inserter) const {
    const size_t inserter_entries = owners.EntriesOf(inserter);
    const size_t share = options.capacity / (owners.owners_with_entries() + (inserter_entries == 0 ? 1 : 0));
    Slot found;
    std::pair<size_t, uint32_t> worst{0, 0};  // entries of its node; time left, the less the worse
    ForEachAt(place, [&](Slot slot) {
      const size_t entries = owners.EntriesOf(OwnerOf(slot));
      const std::pair<size_t, uint32_t> badness{entries, ~ExpiryOf(slot)};
      if (entries <= share || entries < inserter_entries || badness <= worst) return;
      worst = badness;
      found = slot;
    });
    return found;
  }

  void Put(Slot at, const Place& place, OwnerId owner, uint32_t expiry) {
    const OwnerId before = OwnerOf(at);
    RestOf(at) = place.rest;
    ExpiryOf(at) = expiry;
    buckets[at.bucket].Set(at.cell, place.tag, owner);
    Count(owner);
    if (before != 0) Uncount(before);
  }

  void Remove(Slot at) {
    const OwnerId owner = OwnerOf(at);
    buckets[at.bucket].Clear(at.cell);
    Uncount(owner);
  }

  void Count(OwnerId owner) { owners.Count(owner), size.Add(); }
  void Uncount(OwnerId owner) { owners.Uncount(owner), size.Subtract(); }

  InsertResult Insert(Bytes token, NodeRef node, uint32_t expiry, uint32_t now);

  // Removes the entries of bucket `i` for which `gone(slot)`; returns how many.
  template <typename Gone>
  size_t RemoveIf(size_t i, Gone gone) {
    size_t removed = 0;
    for (unsigned taken = ~buckets[i].Free() & Bucket::kAllCells; taken != 0; taken &= taken - 1) {
      const Slot slot{i, std::countr_zero(taken)};
      if (!gone(slot)) continue;
      Remove(slot);
      ++removed;
    }
    return removed;
  }

  const Options options;
  const HugeArray<Bucket> buckets;
  const HugeArray<Records> records;
  const size_t last_neighbour;
  AffinityOwners owners;
  size_t sweep_next = 0;
  Tally size, inserted, refreshed, held_by_another, evicted_expired, evicted_over_share, rejected, withdrawn, expired;
};

AffinityMap::AffinityMap(const Options& options) : impl_(std::make_unique<Impl>(options)) {}
AffinityMap::~AffinityMap() = default;

NodeRef AffinityMap::Find(Bytes token) const {
  const Impl::Place place = impl_->PlaceOf(token);
  const Bucket& first = impl_->buckets[place.first];
  const Bucket& second = impl_->buckets[place.second];
  // Both lines travel at the same time: a token in its second bucket costs no second trip to memory (of ten million: 167 ns
  // instead of 190).
  __builtin_prefetch(&second);
  return Bucket::Read(first, second, impl_->owners.rows(), place.tag);
}

AffinityMap::InsertResult AffinityMap::Impl::Insert(Bytes token, NodeRef node, uint32_t expiry, uint32_t now) {
  const OwnerId owner = owners.Admit(node);
  if (owner == 0 || expiry <= now) return InsertResult::kRejected;
  const Place place = PlaceOf(token);
  Prefetch(place);
  if (const Slot there = FindTag(place)) {
    if (RestOf(there) != place.rest) {
      if (!IsDead(there, now)) return InsertResult::kRejected;
      Put(there, place, owner, expiry);
      return InsertResult::kEvictedExpired;
    }
    if (OwnerOf(there) == owner) {
      ExpiryOf(there) = expiry;
      return InsertResult::kRefreshed;
    }
    if (!IsDead(there, now)) return InsertResult::kHeldByAnother;
    Put(there, place, owner, expiry);
    return InsertResult::kEvictedExpired;
  }
  InsertResult result = InsertResult::kInserted;
  Slot at = FindFree(place);
  if (!at) at = FindDead(place, now), result = InsertResult::kEvictedExpired;
  if (!at) at = FindOverShare(place, owner), result = InsertResult::kEvictedOverShare;
  if (!at) return InsertResult::kRejected;
  Put(at, place, owner, expiry);
  return result;
}

AffinityMap::InsertResult AffinityMap::Insert(Bytes token, NodeRef owner, Instant expiry, Instant now) {
  HUD_CHECK(Raw(owner.index) < limits::kMaxNodes);
  const InsertResult result = impl_->Insert(token, owner, ExpiryTick(expiry), NowTick(now));
  switch (result) {
    case InsertResult::kInserted: impl_->inserted.Add(); break;
    case InsertResult::kRefreshed: impl_->refreshed.Add(); break;
    case InsertResult::kHeldByAnother: impl_->held_by_another.Add(); break;
    case InsertResult::kEvictedExpired: impl_->evicted_expired.Add(); break;
    case InsertResult::kEvictedOverShare: impl_->evicted_over_share.Add(); break;
    case InsertResult::kRejected: impl_->rejected.Add(); break;
  }
  return result;
}

bool AffinityMap::Withdraw(Bytes token, NodeRef owner) {
  const Impl::Slot there = impl_->FindToken(impl_->PlaceOf(token));
  if (!there || impl_->owners.NodeOf(impl_->OwnerOf(there)) != owner) return false;
  impl_->Remove(there);
  impl_->withdrawn.Add();
  return true;
}

size_t AffinityMap::WithdrawAll(NodeRef owner) {
  size_t removed = 0;
  for (size_t i = 0; i < impl_->buckets.count(); ++i) {
    removed += impl_->RemoveIf(i, [&](Impl::Slot slot) { return impl_->owners.NodeOf(impl_->OwnerOf(slot)) == owner; });
  }
  impl_->withdrawn.Add(removed);
  return removed;
}

size_t AffinityMap::SweepExpired(Instant now, size_t max_buckets) {
  const uint32_t tick = NowTick(now);
  size_t removed = 0;
  for (size_t i = 0; i < std::min(max_buckets, impl_->buckets.count()); ++i) {
    removed += impl_->RemoveIf(impl_->sweep_next, [&](Impl::Slot slot) { return impl_->IsDead(slot, tick); });
    if (++impl_->sweep_next == impl_->buckets.count()) impl_->sweep_next = 0;
  }
  impl_->expired.Add(removed);
  return removed;
}

AffinityMap::Stats AffinityMap::stats() const {
  return {.capacity = impl_->options.capacity,
          .size = impl_->size.Get(),
          .bytes = impl_->buckets.Bytes() + impl_->records.Bytes(),
          .inserted = impl_->inserted.Get(),
          .refreshed = impl_->refreshed.Get(),
          .held_by_another = impl_->held_by_another.Get(),
          .evicted_expired = impl_->evicted_expired.Get(),
          .evicted_over_share = impl_->evicted_over_share.Get(),
          .rejected = impl_->rejected.Get(),
          .withdrawn = impl_->withdrawn.Get(),
          .expired = impl_->expired.Get()};
}

size_t AffinityMap::CountOf(NodeRef owner) const { return impl_->owners.EntriesOf(owner); }

const SipKey& AffinityMap::key() const { return impl_->options.key; }

}  // namespace hud
