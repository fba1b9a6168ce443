#include "core/affinity/prefix_store.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <tuple>

#include "core/base/check.h"

namespace hud {

namespace {

// Not keyed: clients only look up, and what is stored comes from authenticated agents, at most kMaxPrefixesPerNode each.
uint64_t HashOf(Bytes prefix) {
  uint64_t hash = prefix.size();
  while (!prefix.empty()) {
    uint64_t word = 0;
    const size_t taken = std::min<size_t>(8, prefix.size());
    std::memcpy(&word, prefix.data(), taken);
    hash = (hash ^ word) * 0x9e3779b97f4a7c15;
    hash ^= hash >> 29;
    prefix = prefix.subspan(taken);
  }
  return hash * 0xbf58476d1ce4e5b9 >> 32;
}

bool Less(const PrefixStore::Entry& a, const PrefixStore::Entry& b) {
  return std::tie(a.prefix.length, a.prefix.bytes, a.node) < std::tie(b.prefix.length, b.prefix.bytes, b.node);
}

}  // namespace

TicketPrefix TicketPrefix::Of(Bytes prefix) {
  HUD_CHECK(prefix.size() <= limits::kMaxTokenBytes);
  TicketPrefix result;
  std::copy(prefix.begin(), prefix.end(), result.bytes.begin());
  result.length = static_cast<uint8_t>(prefix.size());
  return result;
}

PrefixStore::PrefixStore(std::span<const Entry> entries) {
  std::vector<Entry> sorted(entries.begin(), entries.end());
  std::erase_if(sorted, [](const Entry& entry) { return entry.prefix.length < limits::kMinPrefixBytes; });
  std::sort(sorted.begin(), sorted.end(), Less);
  for (const Entry& entry : sorted) {
    if (known_.empty() || known_.back().prefix != entry.prefix) {
      known_.push_back({entry.prefix, static_cast<uint32_t>(owners_.size()), 0});
      lengths_in_use_.set(entry.prefix.length);
    } else if (owners_.back() == entry.node) {
      continue;
    }
    owners_.push_back(entry.node);
    ++known_.back().owner_count;
  }
  slots_.resize(std::bit_ceil(2 * known_.size() + 1));
  for (size_t i = 0; i < known_.size(); ++i) {
    size_t slot = HashOf(known_[i].prefix.span()) & (slots_.size() - 1);
    while (slots_[slot] != 0) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = static_cast<uint32_t>(i + 1);
  }
}

const PrefixStore::Known* PrefixStore::Lookup(Bytes prefix) const {
  for (size_t slot = HashOf(prefix) & (slots_.size() - 1); slots_[slot] != 0; slot = (slot + 1) & (slots_.size() - 1)) {
    const Known& known = known_[slots_[slot] - 1];
    if (std::ranges::equal(known.prefix.span(), prefix)) return &known;
  }
  return nullptr;
}

std::span<const NodeIndex> PrefixStore::Find(Bytes token_head) const {
  size_t matched = 0;
  return FindShorterThan(token_head, limits::kMaxTokenBytes + 1, &matched);
}

std::span<const NodeIndex> PrefixStore::FindShorterThan(Bytes token_head, size_t length, size_t* matched_length) const {
  // A head of kMaxTokenBytes may be that of a longer token.
  const size_t longest = token_head.size() < limits::kMaxTokenBytes ? token_head.size() : limits::kMaxTokenBytes + 1;
  for (size_t l = std::min(length, longest); l-- > limits::kMinPrefixBytes;) {
    if (!lengths_in_use_[l]) continue;
    if (const Known* known = Lookup(token_head.first(l))) {
      *matched_length = l;
      return {owners_.data() + known->first_owner, known->owner_count};
    }
  }
  *matched_length = 0;
  return {};
}

}  // namespace hud
