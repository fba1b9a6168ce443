#include "core/affinity/affinity_owners.h"

namespace hud {

AffinityOwners::AffinityOwners() {
  free_.reserve(kOwnerIds);
  for (OwnerId id = kOwnerIds - 1; id > 0; --id) free_.push_back(id);
}

OwnerId AffinityOwners::IdOf(NodeRef node) const {
  const OwnerId id = current_[Raw(node.index)];
  return id != 0 && NodeOf(id) == node ? id : 0;
}

OwnerId AffinityOwners::Admit(NodeRef node) {
  if (const OwnerId known = IdOf(node)) return known;
  OwnerId& current = current_[Raw(node.index)];
  if (current != 0) Retire(current);
  current = 0;
  if (free_.empty()) return 0;
  current = free_.back();
  free_.pop_back();
  rows_[current].Give(node);
  return current;
}

void AffinityOwners::Retire(OwnerId id) {
  if (books_[id].entries == 0) {
    free_.push_back(id);
    return;
  }
  books_[id].stale = true;
  --with_entries_;
}

void AffinityOwners::Count(OwnerId id) {
  if (books_[id].entries++ == 0) ++with_entries_;
}

void AffinityOwners::Uncount(OwnerId id) {
  Book& book = books_[id];
  if (--book.entries > 0) return;
  if (book.stale) {
    book.stale = false;
    free_.push_back(id);
  } else {
    --with_entries_;
  }
}

size_t AffinityOwners::EntriesOf(NodeRef node) const { return books_[IdOf(node)].entries; }

}  // namespace hud
