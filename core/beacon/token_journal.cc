#include "core/beacon/token_journal.h"

#include <algorithm>
#include <deque>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "core/base/check.h"

namespace hud {
namespace {

struct Slot {
  std::array<uint8_t, limits::kMaxTokenBytes> bytes{};
  uint8_t length = 0;  // 0: replaced by a later item
  bool withdraw = false;
  Instant added{};
  Instant expiry{};
  bool HoldsAt(Instant now) const { return length != 0 && now < expiry; }
  std::string Name() const { return {reinterpret_cast<const char*>(bytes.data()), length}; }
};

// A withdrawal of a token that the journal does not know is worth saying to a proxy that may: as long as tokens live.
constexpr Duration kUnknownWithdrawalLife = std::chrono::hours(24);

}  // namespace

struct TokenJournal::Impl {
  explicit Impl(size_t items) : capacity(items) { HUD_CHECK(capacity > 0); }

  uint64_t last() const { return first + slots.size() - 1; }
  Slot* Find(const std::string& name) {
    auto found = newest.find(name);
    return found == newest.end() ? nullptr : &slots[found->second - first];
  }

  void ForgetOldest() {
    Slot& oldest = slots.front();
    if (oldest.length != 0) newest.erase(oldest.Name());
    slots.pop_front();
    ++first;
  }

  uint64_t Append(const Slot& slot, Instant now) {
    std::string name = slot.Name();
    if (Slot* before = Find(name)) before->length = 0;
    slots.push_back(slot);
    newest[std::move(name)] = last();
    while (slots.size() > capacity || !slots.front().HoldsAt(now)) ForgetOldest();
    return last();
  }

  const size_t capacity;
  uint64_t first = 1;                                // number of slots[0]
  std::deque<Slot> slots;
  absl::flat_hash_map<std::string, uint64_t> newest;  // the one slot of each token that still counts
};

TokenJournal::TokenJournal(size_t capacity) : impl_(std::make_unique<Impl>(capacity)) {}
TokenJournal::~TokenJournal() = default;

uint64_t TokenJournal::last() const { return impl_->last(); }
uint64_t TokenJournal::first() const { return impl_->first; }
size_t TokenJournal::size() const { return impl_->slots.size(); }

uint64_t TokenJournal::Add(Bytes token, Duration ttl, Instant now) {
  if (token.empty() || token.size() > limits::kMaxTokenBytes || ttl <= Duration::zero()) return 0;
  Slot slot;
  std::copy(token.begin(), token.end(), slot.bytes.begin());
  slot.length = static_cast<uint8_t>(token.size());
  slot.added = now;
  slot.expiry = now + ttl;
  const std::string name = slot.Name();
  const Slot* before = impl_->Find(name);
  if (before != nullptr && !before->withdraw && before->HoldsAt(now) && now - before->added < ttl / 4) {
    return impl_->newest.at(name);
  }
  return impl_->Append(slot, now);
}

uint64_t TokenJournal::Withdraw(Bytes token, Instant now) {
  if (token.empty() || token.size() > limits::kMaxTokenBytes) return 0;
  Slot slot;
  std::copy(token.begin(), token.end(), slot.bytes.begin());
  slot.length = static_cast<uint8_t>(token.size());
  slot.withdraw = true;
  slot.added = now;
  slot.expiry = now + kUnknownWithdrawalLife;
  const std::string name = slot.Name();
  if (const Slot* before = impl_->Find(name); before != nullptr && before->HoldsAt(now)) {
    if (before->withdraw) return impl_->newest.at(name);
    slot.expiry = before->expiry;
  }
  return impl_->Append(slot, now);
}

std::vector<TokenItem> TokenJournal::Read(uint64_t number, size_t max, Instant now) const {
  std::vector<TokenItem> items;
  if (number < impl_->first) number = impl_->first;
  for (uint64_t n = number; n <= last() && items.size() < max; ++n) {
    const Slot& slot = impl_->slots[n - impl_->first];
    TokenItem& item = items.emplace_back();
    if (!slot.HoldsAt(now)) continue;
    item.bytes = slot.bytes;
    item.length = slot.length;
    item.withdraw = slot.withdraw;
    if (!slot.withdraw) {
      const auto seconds = std::chrono::ceil<std::chrono::seconds>(slot.expiry - now).count();
      item.ttl_seconds = static_cast<uint32_t>(std::min<int64_t>(seconds, UINT32_MAX));
    }
  }
  return items;
}

}  // namespace hud
