// What readers see of the affinity map, and the protocol by which one writer changes it under readers that take no lock.
// Templates over the atomic, so that the model check in the tests explores this very code.
//
// A bucket is a cache line of sixteen cells; a cell is one word: the token's tag and the id of its owner. An id is a row of
// the owner table, which says the node and its generation. So a look-up on a hit touches one line of a table of four bytes
// a cell, and a row that is always near.
//
// What must hold (*a read never returns an owner that its token did not have*): a cell is one word and is never torn, but its
// id may be given to another node while a reader is on its way from the cell to the row. What the writer does:
//  - W1. It stores a row (with one more giving counted in it) only while no cell holds its id.
//  - W2. It stores a row, and a token's word, with release.
// What the reader does: the cell, its row (acquire), the cell again (acquire), the row again. Anything changed: torn.
//  Proof. Let both loads of the row give its g-th giving, and both loads of the cell the same word, the second one from a
//  store made during giving h of that id. (1) h is not before g: when row g was stored, no cell held the id (W1), so what the
//  cell held during an earlier giving was overwritten before; the reader acquired row g, so its second load of the cell
//  cannot be older than that. (2) h is not after g: the second load of the cell acquired the word, and with it row h,
//  so the second load of the row would have given h or later. So h = g: the token had this owner when that word was stored.
//  None of these orders can be left out (the model check then fails). There is no fence, which ThreadSanitizer of g++ 12 does
//  not understand. On x86-64 all of these are plain moves.
//  - Not to find a tag needs no order: a tag is one word and stays in its cell from its insertion to its end.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>

#include "core/base/limits.h"
#include "core/base/types.h"

namespace hud {

static_assert(sizeof(NodeRef) == 4);

// A row of the owner table. 0 is nobody.
using OwnerId = uint16_t;
inline constexpr int kOwnerIdBits = 11;
inline constexpr OwnerId kOwnerIds = 1 << kOwnerIdBits;
static_assert(limits::kMaxNodes <= kOwnerIds / 2, "half of the ids are for owners that are gone and not yet swept out");

inline constexpr int kTagBits = 32 - kOwnerIdBits;
using Tag = uint32_t;

template <template <typename> typename Atomic>
class AffinityOwnerRow {
 public:
  // ---- Any thread ----

  // The node, and how often the row has been given: 2^32 or more once it has been.
  uint64_t Load(std::memory_order order) const { return word_.load(order); }
  // Taken out in one piece: a NodeRef stored in two halves and read back whole would wait for both.
  static NodeRef NodeOf(uint64_t row) { return std::bit_cast<NodeRef>(static_cast<uint32_t>(row)); }

  // ---- The writer only, while no cell holds this row's id ----

  void Give(NodeRef node) {
    const uint64_t givings = (word_.load(std::memory_order_relaxed) >> 32) + 1;
    word_.store(givings << 32 | std::bit_cast<uint32_t>(node), std::memory_order_release);
  }

 private:
  Atomic<uint64_t> word_{};
};

template <template <typename> typename Atomic>
class alignas(64) AffinityBucket {
 public:
  static constexpr int kCells = 16;
  static constexpr unsigned kAllCells = (1U << kCells) - 1;
  using OwnerRow = AffinityOwnerRow<Atomic>;

  // ---- Any thread ----

  // A token is in one of its two buckets, mostly in the first. `owners` has kOwnerIds rows. Returns the owner's row, or one of
  // these, which no row that has been given is. (A struct with a verdict in it goes through memory in g++ 12: 9 to 15 ns.)
  static constexpr uint64_t kAbsent = 0;
  static constexpr uint64_t kTorn = 1;
  static uint64_t TryRead(const AffinityBucket& first, const AffinityBucket& second, const OwnerRow* owners, Tag tag) {
    const AffinityBucket* bucket = &first;
    unsigned matches = first.Matches(tag);
    if (matches == 0) {
      bucket = &second;
      matches = second.Matches(tag);
      if (matches == 0) return kAbsent;
    }
    const Atomic<uint32_t>& cell = bucket->cells_[std::countr_zero(matches)];
    const uint32_t word = cell.load(std::memory_order_relaxed);
    const OwnerRow& row = owners[IdIn(word)];
    const uint64_t given = row.Load(std::memory_order_acquire);
    const bool whole = IsOf(LeastOf(tag), word) && cell.load(std::memory_order_acquire) == word &&
                       row.Load(std::memory_order_relaxed) == given;
    return whole ? given : kTorn;
  }

  // Two tries, then a miss: never waits for a writer.
  static NodeRef Read(const AffinityBucket& first, const AffinityBucket& second, const OwnerRow* owners, Tag tag) {
    uint64_t row = TryRead(first, second, owners, tag);
    if (row == kTorn) [[unlikely]] row = TryAgain(first, second, owners, tag);
    return row == kAbsent || row == kTorn ? NodeRef{} : OwnerRow::NodeOf(row);
  }

  // A bit for each cell that holds `tag`.
  unsigned Matches(Tag tag) const {
    const uint32_t least = LeastOf(tag);
    return MaskOf([least](uint32_t word) { return IsOf(least, word); });
  }

  // ---- The writer only ----

  unsigned Free() const {
    return MaskOf([](uint32_t word) { return word == 0; });
  }
  OwnerId Owner(int cell) const { return IdIn(cells_[cell].load(std::memory_order_relaxed)); }  // 0: the cell is free
  void Set(int cell, Tag tag, OwnerId owner) { cells_[cell].store(tag << kOwnerIdBits | owner, std::memory_order_release); }
  void Clear(int cell) { cells_[cell].store(0, std::memory_order_relaxed); }

 private:
  // Apart, for the compiler otherwise keeps registers free for both tries.
  [[gnu::noinline]] static uint64_t TryAgain(const AffinityBucket& first, const AffinityBucket& second,
                                            const OwnerRow* owners, Tag tag) {
    return TryRead(first, second, owners, tag);
  }

  static OwnerId IdIn(uint32_t word) { return static_cast<OwnerId>(word & (kOwnerIds - 1)); }

  // The words that hold a tag are its least one, with owner 1, and those that follow: one comparison tells, and that the cell
  // is not empty.
  static uint32_t LeastOf(Tag tag) { return tag << kOwnerIdBits | 1; }
  static bool IsOf(uint32_t least, uint32_t word) { return word - least < kOwnerIds - 1U; }

  // All cells are compared without a branch: which one holds a token is random, and a wrong guess of the processor would
  // cost as much as the comparisons.
  template <typename Condition>
  unsigned MaskOf(Condition condition) const {
    unsigned mask = 0;
#pragma GCC unroll 16
    for (int cell = 0; cell < kCells; ++cell) {
      mask |= unsigned{condition(cells_[cell].load(std::memory_order_relaxed))} << cell;
    }
    return mask;
  }

  Atomic<uint32_t> cells_[kCells]{};
};

static_assert(sizeof(AffinityBucket<std::atomic>) == 64);

}  // namespace hud
