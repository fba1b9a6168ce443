// The owners that entries of the affinity map name, as the writer keeps them: who has which id, and how many entries.
// A node in a generation is one owner. When the slot is given to another node, the owner before is stale: its entries are
// nobody's, and its id is free again once they are gone.
#pragma once

#include <array>
#include <atomic>
#include <vector>

#include "core/affinity/affinity_bucket.h"

namespace hud {

class AffinityOwners {
 public:
  using Row = AffinityOwnerRow<std::atomic>;

  AffinityOwners();

  // Any thread.
  const Row* rows() const { return rows_.data(); }

  // The writer only, from here on.

  // Gives the node an id and ties it to the node's slot. 0 if every id is taken by entries of stale owners that nobody has swept.
  OwnerId Admit(NodeRef node);

  void Count(OwnerId id);    // an entry more; an entry is counted while its cell is in place
  void Uncount(OwnerId id);  // its cell is gone

  NodeRef NodeOf(OwnerId id) const { return Row::NodeOf(rows_[id].Load(std::memory_order_relaxed)); }
  bool IsStale(OwnerId id) const { return books_[id].stale; }
  size_t EntriesOf(OwnerId id) const { return books_[id].entries; }
  size_t EntriesOf(NodeRef node) const;  // 0 for a stale one
  size_t owners_with_entries() const { return with_entries_; }  // stale ones left out

 private:
  struct Book {
    uint32_t entries = 0;
    bool stale = false;
  };

  OwnerId IdOf(NodeRef node) const;
  void Retire(OwnerId id);

  std::array<Row, kOwnerIds> rows_;
  std::array<Book, kOwnerIds> books_{};
  std::array<OwnerId, limits::kMaxNodes> current_{};  // 0: none yet
  std::vector<OwnerId> free_;
  size_t with_entries_ = 0;
};

}  // namespace hud
