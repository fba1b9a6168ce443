#include "core/admission/source_table.h"

#include <new>

#include "core/base/check.h"

namespace hud {

// What may fail for want of memory comes first: then nothing has changed.
void SourceTable::Enter(uint32_t slot, const SourceKey& source, uint64_t hash) {
  if (slot >= links_.size()) links_.resize(std::max<size_t>(slot + 1, links_.size() * 2));
  HUD_CHECK(links_[slot].source == kNone);
  uint32_t number;
  if (const auto found = by_hash_.find(hash); found != by_hash_.end()) {
    number = found->second;
    SetCount(number, sources_[number].count + 1);
  } else {
    if (free_.empty()) {
      free_.reserve(sources_.size() + 1);
      sources_.emplace_back();
      free_.push_back(static_cast<uint32_t>(sources_.size() - 1));
    }
    number = free_.back();
    const auto entry = by_hash_.emplace(hash, number).first;
    try {
      by_count_.insert({1, changes_ + 1, number});
    } catch (const std::bad_alloc&) {
      by_hash_.erase(entry);
      throw;
    }
    free_.pop_back();
    sources_[number] = Source{.key = source, .hash = hash, .count = 1, .rank = ++changes_};
  }
  links_[slot].source = number;
  links_[slot].in_hello = true;
  Append(slot);
  AppendHello(slot);
}

void SourceTable::HelloDone(uint32_t slot) {
  if (!Contains(slot) || !links_[slot].in_hello) return;
  Unlink(slot);
  UnlinkHello(slot);
  links_[slot].in_hello = false;
  Append(slot);
}

void SourceTable::Leave(uint32_t slot) {
  if (!Contains(slot)) return;
  const uint32_t source = links_[slot].source;
  Unlink(slot);
  if (links_[slot].in_hello) UnlinkHello(slot);
  links_[slot] = Link();
  SetCount(source, sources_[source].count - 1);
  if (sources_[source].count > 0) return;
  by_hash_.erase(sources_[source].hash);
  if (idle_of_ == source) idle_of_ = kNone;
  free_.push_back(source);
}

uint32_t SourceTable::CountOf(uint64_t hash) const {
  const auto found = by_hash_.find(hash);
  return found == by_hash_.end() ? 0 : sources_[found->second].count;
}

absl::InlinedVector<SourceTable::Holder, 8> SourceTable::Largest(size_t most) const {
  absl::InlinedVector<Holder, 8> holders;
  for (auto i = by_count_.begin(); i != by_count_.end() && holders.size() < most; ++i) {
    holders.push_back({sources_[i->source].hash, i->count});
  }
  return holders;
}

void SourceTable::Append(uint32_t slot) {
  Link& link = links_[slot];
  List& list = ListOf(link);
  link.previous = list.last;
  link.next = kNone;
  (list.last == kNone ? list.first : links_[list.last].next) = slot;
  list.last = slot;
}

void SourceTable::Unlink(uint32_t slot) {
  const Link& link = links_[slot];
  List& list = ListOf(link);
  (link.previous == kNone ? list.first : links_[link.previous].next) = link.next;
  (link.next == kNone ? list.last : links_[link.next].previous) = link.previous;
}

void SourceTable::AppendHello(uint32_t slot) {
  links_[slot].older = hellos_.last;
  links_[slot].newer = kNone;
  (hellos_.last == kNone ? hellos_.first : links_[hellos_.last].newer) = slot;
  hellos_.last = slot;
}

void SourceTable::UnlinkHello(uint32_t slot) {
  const Link& link = links_[slot];
  (link.older == kNone ? hellos_.first : links_[link.older].newer) = link.newer;
  (link.newer == kNone ? hellos_.last : links_[link.newer].older) = link.older;
}

void SourceTable::SetCount(uint32_t source, uint32_t count) {
  Source& s = sources_[source];
  auto place = by_count_.extract({s.count, s.rank, source});
  s.count = count;
  s.rank = ++changes_;
  if (count == 0) return;
  place.value() = {count, s.rank, source};
  by_count_.insert(std::move(place));
}

}  // namespace hud
