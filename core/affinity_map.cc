// Two buckets a key (two-choice hashing): a new token goes where there is more room. 24 bytes a token of capacity are
// two thirds full when `capacity` tokens are in; simulated and tested: 0.15 % of random tokens then met two full buckets.
//
// A token is known by 53 bits of its SipHash in two buckets picked by another 64: an unknown token is taken for a known one
// with a probability below 8 / 2^53 < 10^-15 a look-up (once in 3000 years at 10,000 unknown tokens a second), and would
// then cost what a wrong node always costs: a full handshake. The hash is keyed, so nobody can aim.
#include "core/affinity_map.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <new>
#include <utility>

#include "core/affinity_bucket.h"
#include "core/check.h"

namespace hud {

namespace {

using Bucket = AffinityBucket<std::atomic<uint64_t>>;

constexpr size_t kBytesPerToken = 24;
constexpr size_t kHugePage = 2 << 20;
constexpr size_t kNowhere = SIZE_MAX;

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

// The buckets, in huge pages where they fill some: a look-up at random otherwise misses the TLB at each bucket.
// madvise is the system call that core/ allows itself here; it happens once, in the constructor, and may fail in peace.
class BucketArray {
 public:
  explicit BucketArray(size_t count) : count_(count), alignment_(Bytes() < kHugePage ? alignof(Bucket) : kHugePage) {
    void* memory = ::operator new(Bytes(), std::align_val_t(alignment_));
    if (alignment_ == kHugePage) (void)::madvise(memory, Bytes(), MADV_HUGEPAGE);
    buckets_ = static_cast<Bucket*>(memory);
    std::uninitialized_value_construct_n(buckets_, count);  // touches all of it: no page fault later
  }
  ~BucketArray() { ::operator delete(buckets_, std::align_val_t(alignment_)); }
  BucketArray(const BucketArray&) = delete;
  BucketArray& operator=(const BucketArray&) = delete;

  Bucket& operator[](size_t i) const { return buckets_[i]; }
  size_t count() const { return count_; }
  size_t Bytes() const { return count_ * sizeof(Bucket); }

 private:
  size_t count_;
  size_t alignment_;
  Bucket* buckets_;
};

}  // namespace

struct AffinityMap::Impl {
  // Where a token may be.
  struct Place {
    uint64_t tag;
    size_t first, second;
  };
  struct Slot {
    size_t bucket = kNowhere;
    int slot = 0;
    explicit operator bool() const { return bucket != kNowhere; }
  };
  // Entries of one node. Those of an earlier generation of the slot are nobody's: not counted, first to be evicted.
  struct Owner {
    uint32_t entries = 0;
    uint16_t generation = 0;
  };

  explicit Impl(const Options& o)
      : options(o), buckets(std::max<size_t>(1, (o.capacity * kBytesPerToken + sizeof(Bucket) - 1) / sizeof(Bucket))) {
    HUD_CHECK(o.capacity > 0 && buckets.count() <= UINT32_MAX);
  }

  Place PlaceOf(Bytes token) const {
    const Hash128 hash = SipHash128(options.key, token);
    const size_t count = buckets.count();
    // `low` is known some rounds before `high`, so it says where to look: memory is on its way while the tag is made.
    return {hash.high >> AffinityEntry::kNodeBits, (hash.low >> 32) * count >> 32, (hash.low & 0xffffffff) * count >> 32};
  }

  Owner& OwnerOf(NodeRef owner) { return owners[Raw(owner.index)]; }
  bool IsStale(NodeRef owner) { return OwnerOf(owner).generation != owner.generation; }

  void BeginGeneration(NodeRef owner) {
    if (!IsStale(owner)) return;
    owners_in_use -= OwnerOf(owner).entries > 0 ? 1 : 0;
    OwnerOf(owner) = {0, owner.generation};
  }

  void Count(NodeRef owner) {
    size.Add();
    if (OwnerOf(owner).entries++ == 0) ++owners_in_use;
  }

  void Uncount(NodeRef owner) {
    size.Subtract();
    if (!IsStale(owner) && --OwnerOf(owner).entries == 0) --owners_in_use;
  }

  Slot FindTag(const Place& place) const {
    for (size_t bucket : {place.first, place.second}) {
      const int slot = buckets[bucket].FindSlot(place.tag);
      if (slot >= 0) return {bucket, slot};
    }
    return {};
  }

  // The free slot in the emptier of the two buckets.
  Slot FindFree(const Place& place) const {
    Slot best;
    int best_free = 0;
    for (size_t bucket : {place.first, place.second}) {
      int free = 0;
      int last = 0;
      AffinityEntry entry;
      for (int slot = 0; slot < Bucket::kSlots; ++slot) {
        if (!buckets[bucket].Get(slot, entry)) ++free, last = slot;
      }
      if (free > best_free) best_free = free, best = {bucket, last};
    }
    return best;
  }

  template <typename Visit>
  void ForEachAt(const Place& place, Visit visit) const {
    for (size_t bucket : {place.first, place.second}) {
      for (int slot = 0; slot < Bucket::kSlots; ++slot) {
        AffinityEntry entry;
        if (buckets[bucket].Get(slot, entry)) visit(Slot{bucket, slot}, entry);
      }
    }
  }

  Slot FindExpired(const Place& place, uint32_t now) {
    Slot found;
    ForEachAt(place, [&](Slot slot, const AffinityEntry& entry) {
      if (!found && (entry.expiry <= now || IsStale(entry.owner))) found = slot;
    });
    return found;
  }

  // Of the node that is furthest over its share, the entry that would have gone first. Not the entry of a node that has
  // fewer than `inserter`: who is over its share pays with its own.
  Slot FindOverShare(const Place& place, NodeRef inserter) {
    const uint32_t inserter_entries = OwnerOf(inserter).entries;
    const size_t share = options.capacity / (owners_in_use + (inserter_entries == 0 ? 1 : 0));
    Slot found;
    std::pair<uint32_t, uint32_t> worst{0, 0};  // entries of its node; time left, the less the worse
    ForEachAt(place, [&](Slot slot, const AffinityEntry& entry) {
      const uint32_t entries = OwnerOf(entry.owner).entries;
      const std::pair<uint32_t, uint32_t> badness{entries, ~entry.expiry};
      if (entries <= share || entries < inserter_entries || badness <= worst) return;
      worst = badness;
      found = slot;
    });
    return found;
  }

  void Put(Slot at, const AffinityEntry& entry) {
    AffinityEntry old;
    if (buckets[at.bucket].Get(at.slot, old)) Uncount(old.owner);
    buckets[at.bucket].Set(at.slot, entry);
    Count(entry.owner);
  }

  void Remove(Slot at, const AffinityEntry& entry) {
    buckets[at.bucket].Clear(at.slot);
    Uncount(entry.owner);
  }

  InsertResult Insert(Bytes token, NodeRef owner, uint32_t expiry, uint32_t now);

  // Removes the entries of bucket `i` for which `gone(entry)`; returns how many.
  template <typename Gone>
  size_t RemoveIf(size_t i, Gone gone) {
    size_t removed = 0;
    for (int slot = 0; slot < Bucket::kSlots; ++slot) {
      AffinityEntry entry;
      if (!buckets[i].Get(slot, entry) || !gone(entry)) continue;
      Remove({i, slot}, entry);
      ++removed;
    }
    return removed;
  }

  const Options options;
  const BucketArray buckets;
  std::array<Owner, limits::kMaxNodes> owners{};
  size_t owners_in_use = 0;  // with at least one entry
  size_t sweep_next = 0;
  Tally size, inserted, refreshed, replaced, evicted_expired, evicted_over_share, rejected, withdrawn, expired;
};

AffinityMap::AffinityMap(const Options& options) : impl_(std::make_unique<Impl>(options)) {}
AffinityMap::~AffinityMap() = default;

std::optional<NodeRef> AffinityMap::Find(Bytes token, Instant now) const {
  const Impl::Place place = impl_->PlaceOf(token);
  const Bucket& first = impl_->buckets[place.first];
  const Bucket& second = impl_->buckets[place.second];
  // Both lines travel at the same time: a token in its second bucket costs no second trip to memory.
  __builtin_prefetch(&first);
  __builtin_prefetch(&second);
  AffinityEntry entry;
  if (!Bucket::Read(first, second, place.tag, entry) || entry.expiry <= NowTick(now)) return std::nullopt;
  return entry.owner;
}

AffinityMap::InsertResult AffinityMap::Impl::Insert(Bytes token, NodeRef owner, uint32_t expiry, uint32_t now) {
  BeginGeneration(owner);
  if (expiry <= now) return InsertResult::kRejected;
  const Place place = PlaceOf(token);
  const AffinityEntry entry{place.tag, owner, expiry};
  if (const Slot there = FindTag(place)) {
    AffinityEntry old;
    buckets[there.bucket].Get(there.slot, old);
    if (old.owner == owner) {
      buckets[there.bucket].SetExpiry(there.slot, expiry);
      return InsertResult::kRefreshed;
    }
    Put(there, entry);
    return InsertResult::kReplaced;
  }
  InsertResult result = InsertResult::kInserted;
  Slot at = FindFree(place);
  if (!at) at = FindExpired(place, now), result = InsertResult::kEvictedExpired;
  if (!at) at = FindOverShare(place, owner), result = InsertResult::kEvictedOverShare;
  if (!at) return InsertResult::kRejected;
  Put(at, entry);
  return result;
}

AffinityMap::InsertResult AffinityMap::Insert(Bytes token, NodeRef owner, Instant expiry, Instant now) {
  HUD_CHECK(Raw(owner.index) < limits::kMaxNodes);
  const InsertResult result = impl_->Insert(token, owner, ExpiryTick(expiry), NowTick(now));
  switch (result) {
    case InsertResult::kInserted: impl_->inserted.Add(); break;
    case InsertResult::kRefreshed: impl_->refreshed.Add(); break;
    case InsertResult::kReplaced: impl_->replaced.Add(); break;
    case InsertResult::kEvictedExpired: impl_->evicted_expired.Add(); break;
    case InsertResult::kEvictedOverShare: impl_->evicted_over_share.Add(); break;
    case InsertResult::kRejected: impl_->rejected.Add(); break;
  }
  return result;
}

bool AffinityMap::Withdraw(Bytes token, NodeRef owner) {
  const Impl::Slot there = impl_->FindTag(impl_->PlaceOf(token));
  AffinityEntry entry;
  if (!there || !impl_->buckets[there.bucket].Get(there.slot, entry) || entry.owner != owner) return false;
  impl_->Remove(there, entry);
  impl_->withdrawn.Add();
  return true;
}

size_t AffinityMap::WithdrawAll(NodeRef owner) {
  size_t removed = 0;
  for (size_t i = 0; i < impl_->buckets.count(); ++i) {
    removed += impl_->RemoveIf(i, [&](const AffinityEntry& entry) { return entry.owner == owner; });
  }
  impl_->withdrawn.Add(removed);
  return removed;
}

size_t AffinityMap::SweepExpired(Instant now, size_t max_buckets) {
  const uint32_t tick = NowTick(now);
  size_t removed = 0;
  for (size_t i = 0; i < std::min(max_buckets, impl_->buckets.count()); ++i) {
    removed += impl_->RemoveIf(impl_->sweep_next, [&](const AffinityEntry& entry) {
      return entry.expiry <= tick || impl_->IsStale(entry.owner);
    });
    if (++impl_->sweep_next == impl_->buckets.count()) impl_->sweep_next = 0;
  }
  impl_->expired.Add(removed);
  return removed;
}

AffinityMap::Stats AffinityMap::stats() const {
  return {.capacity = impl_->options.capacity,
          .size = impl_->size.Get(),
          .bytes = impl_->buckets.Bytes(),
          .inserted = impl_->inserted.Get(),
          .refreshed = impl_->refreshed.Get(),
          .replaced = impl_->replaced.Get(),
          .evicted_expired = impl_->evicted_expired.Get(),
          .evicted_over_share = impl_->evicted_over_share.Get(),
          .rejected = impl_->rejected.Get(),
          .withdrawn = impl_->withdrawn.Get(),
          .expired = impl_->expired.Get()};
}

size_t AffinityMap::CountOf(NodeRef owner) const {
  return impl_->IsStale(owner) ? 0 : impl_->OwnerOf(owner).entries;
}

const SipKey& AffinityMap::key() const { return impl_->options.key; }

}  // namespace hud
