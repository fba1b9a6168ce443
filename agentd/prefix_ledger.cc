#include "agentd/prefix_ledger.h"

#include <algorithm>

namespace hud {

bool PrefixLedger::IsCurrent(const TicketPrefix& prefix) const {
  return std::any_of(current_.begin(), current_.end(), [&](const auto& source) {
    return std::find(source.second.begin(), source.second.end(), prefix) != source.second.end();
  });
}

bool PrefixLedger::Replace(const std::string& source, std::span<const TicketPrefix> current, Duration lifetime,
                           Instant now) {
  const std::vector<TicketPrefix> before = Advertised(now);
  std::vector<TicketPrefix> seen_before;
  seen_before.swap(current_[source]);
  current_[source].assign(current.begin(), current.end());

  std::erase_if(retired_, [&](const Retired& old) { return old.until <= now || IsCurrent(old.prefix); });
  for (const TicketPrefix& prefix : seen_before) {
    if (IsCurrent(prefix)) continue;
    std::erase_if(retired_, [&](const Retired& old) { return old.prefix == prefix; });
    retired_.push_back({prefix, now + lifetime});
  }
  std::stable_sort(retired_.begin(), retired_.end(),
                   [](const Retired& a, const Retired& b) { return a.until > b.until; });
  if (retired_.size() > limits::kMaxPrefixesPerNode) retired_.resize(limits::kMaxPrefixesPerNode);
  return Advertised(now) != before;
}

void PrefixLedger::Restore(const TicketPrefix& prefix, Instant until) {
  const bool known = std::any_of(retired_.begin(), retired_.end(), [&](const Retired& old) { return old.prefix == prefix; });
  if (known || IsCurrent(prefix) || retired_.size() >= limits::kMaxPrefixesPerNode) return;
  retired_.push_back({prefix, until});
}

Instant PrefixLedger::UsefulUntil(const TicketPrefix& prefix, Duration lifetime, Instant now) const {
  if (IsCurrent(prefix)) return now + lifetime;
  const auto old = std::find_if(retired_.begin(), retired_.end(), [&](const Retired& r) { return r.prefix == prefix; });
  return old != retired_.end() ? old->until : now;
}

std::vector<TicketPrefix> PrefixLedger::Advertised(Instant now) const {
  std::vector<TicketPrefix> all;
  const auto add = [&](const TicketPrefix& prefix) {
    if (all.size() < limits::kMaxPrefixesPerNode && std::find(all.begin(), all.end(), prefix) == all.end()) {
      all.push_back(prefix);
    }
  };
  for (const auto& [source, prefixes] : current_) std::for_each(prefixes.begin(), prefixes.end(), add);
  for (const Retired& old : retired_) {
    if (old.until > now) add(old.prefix);
  }
  return all;
}

}  // namespace hud
