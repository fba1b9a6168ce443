// One cache line of the affinity map: four tokens, and the protocol by which one writer changes them under readers that
// take no lock. A template over the word, so that the model check in the tests explores this very code.
//
// Layout (64 bytes):  version | tag+node ×4 | expiry ×4 in two words | generation ×4 in one word
//
// What must hold (*a read never returns an owner that its token did not have*): the four parts of an entry lie in three
// words, so a reader could put together the tag of one token and the generation of another. The version forbids it:
//  - The writer makes it odd, stores the words with release, and makes it even with release.
//  - The reader loads the version with acquire, the words with acquire, and the version again; odd or changed: torn.
//  Proof. Let both loads have given the even version m. (1) No word is older than m: the first load read a release store
//  that came after every store of update m, so all of them happened before the reader's loads. (2) No word is newer than m:
//  a word stored in a later update k was stored with release after version k's odd value; the reader's acquire of that
//  word would order that odd value before its second load of the version, which would then be k's or later, not m.
//  So every word is the one of version m, and the entry is whole. (2) is why data stores are release and data loads acquire:
//  it needs no fence, which ThreadSanitizer of g++ 12 does not understand. On x86-64 all of these are plain moves.
//  - Two changes need no version because they are one word: a cleared tag (the reader sees the entry, whole, or nothing), and
//    a new expiry (old and new are both this token's: its owner is not touched).
//  - Not to find a tag needs no version either: a tag is one word and stays in its slot from its insertion to its end.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <type_traits>

#include "core/limits.h"
#include "core/types.h"

namespace hud {

struct AffinityEntry {
  static constexpr int kNodeBits = 11;  // index + 1; 0 marks an empty slot
  static constexpr uint64_t kNodeMask = (1 << kNodeBits) - 1;
  static_assert(limits::kMaxNodes < kNodeMask);

  uint64_t tag = 0;  // 53 bits
  NodeRef owner;
  uint32_t expiry = 0;

  uint64_t TagWord() const { return tag << kNodeBits | (Raw(owner.index) + 1U); }
};

template <typename Word>
class alignas(64) AffinityBucket {
 public:
  static constexpr int kSlots = 4;

  // ---- Any thread ----

  // A token is in one of its two buckets (which may be the same one). Both are compared without a branch: which slot holds
  // a token is random, and a wrong guess of the processor would cost as much as the comparisons.
  enum class Outcome : uint8_t { kFound, kAbsent, kTorn };
  static Outcome TryRead(const AffinityBucket& first, const AffinityBucket& second, uint64_t tag, AffinityEntry& entry) {
    const AffinityBucket* const buckets[] = {&first, &second};
    const uint64_t versions[] = {first.version_.load(std::memory_order_acquire),
                                 second.version_.load(std::memory_order_acquire)};
    const unsigned matches = first.Matches(tag) | second.Matches(tag) << kSlots;
    if (matches == 0) return Outcome::kAbsent;
    const int place = std::countr_zero(matches);
    const AffinityBucket& bucket = *buckets[place / kSlots];
    const uint64_t version = versions[place / kSlots];
    const bool whole = bucket.Load(place % kSlots, entry) && entry.tag == tag;
    if (!whole || version % 2 == 1 || bucket.version_.load(std::memory_order_relaxed) != version) [[unlikely]] {
      return Outcome::kTorn;
    }
    return Outcome::kFound;
  }

  // Two tries, then a miss: never waits for a writer that was put to sleep in the middle.
  static bool Read(const AffinityBucket& first, const AffinityBucket& second, uint64_t tag, AffinityEntry& entry) {
    Outcome outcome = TryRead(first, second, tag, entry);
    if (outcome == Outcome::kTorn) [[unlikely]] outcome = TryRead(first, second, tag, entry);
    return outcome == Outcome::kFound;
  }

  // ---- The writer only ----

  // False if the slot is empty.
  bool Get(int slot, AffinityEntry& entry) const { return Load(slot, entry); }

  int FindSlot(uint64_t tag) const {  // -1: not there
    AffinityEntry entry;
    for (int slot = 0; slot < kSlots; ++slot) {
      if (Get(slot, entry) && entry.tag == tag) return slot;
    }
    return -1;
  }

  void Set(int slot, const AffinityEntry& entry) {
    const uint64_t version = version_.load(std::memory_order_relaxed);
    version_.store(version + 1, std::memory_order_relaxed);
    StorePart(generations_, 16 * slot, 0xffff, entry.owner.generation);
    SetExpiry(slot, entry.expiry);
    tags_[slot].store(entry.TagWord(), std::memory_order_release);
    version_.store(version + 2, std::memory_order_release);
  }

  void SetExpiry(int slot, uint32_t expiry) { StorePart(expiries_[slot / 2], 32 * (slot % 2), 0xffffffff, expiry); }
  void Clear(int slot) { tags_[slot].store(0, std::memory_order_release); }

 private:
  // A bit for each slot that holds `tag`: at most one is set.
  unsigned Matches(uint64_t tag) const {
    const uint64_t wanted = tag << AffinityEntry::kNodeBits;
    // Written out, since g++ -O2 leaves the loop a loop.
    return Match(0, wanted) | Match(1, wanted) << 1 | Match(2, wanted) << 2 | Match(3, wanted) << 3;
  }

  // The tags are equal and the node is not 0, in one comparison.
  unsigned Match(int slot, uint64_t wanted) const {
    const uint64_t node = tags_[slot].load(std::memory_order_acquire) ^ wanted;
    return node - 1 < AffinityEntry::kNodeMask ? 1 : 0;
  }

  bool Load(int slot, AffinityEntry& entry) const {
    const uint64_t word = tags_[slot].load(std::memory_order_acquire);
    const uint64_t generations = generations_.load(std::memory_order_acquire);
    const uint64_t expiries = expiries_[slot / 2].load(std::memory_order_acquire);
    entry.tag = word >> AffinityEntry::kNodeBits;
    const auto index = static_cast<uint16_t>((word & AffinityEntry::kNodeMask) - 1);
    const auto generation = static_cast<uint16_t>(generations >> (16 * slot));
    // Stored in one piece: read back as one piece, two halves would wait for each other (5 % of a look-up).
    entry.owner = std::bit_cast<NodeRef>(index | uint32_t{generation} << 16);
    entry.expiry = static_cast<uint32_t>(expiries >> (32 * (slot % 2)));
    return (word & AffinityEntry::kNodeMask) != 0;
  }

  static void StorePart(Word& word, int shift, uint64_t mask, uint64_t part) {
    const uint64_t rest = word.load(std::memory_order_relaxed) & ~(mask << shift);
    word.store(rest | part << shift, std::memory_order_release);
  }

  Word version_{};
  Word tags_[kSlots]{};
  Word expiries_[kSlots / 2]{};
  Word generations_{};
};

static_assert(std::endian::native == std::endian::little, "Load() builds a NodeRef from its bytes; swap its halves");
static_assert(sizeof(NodeRef) == 4);
static_assert(sizeof(AffinityBucket<std::atomic<uint64_t>>) == 64);

}  // namespace hud
