// Which ticket prefixes a node advertises: those that its sources (probes, key files) see now, and those they saw until
// a ticket's lifetime ago, because clients still hold such tickets. Pure; time is passed in.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/affinity/prefix_store.h"
#include "core/base/types.h"

namespace hud {

class PrefixLedger {
 public:
  // All that `source` sees now. What it saw before and nobody sees any more stays advertised for `lifetime` from now.
  // True if the set that is advertised changed.
  bool Replace(const std::string& source, std::span<const TicketPrefix> current, Duration lifetime, Instant now);

  // Advertised until then, unless a source sees it again: what an earlier run of the agent knew.
  void Restore(const TicketPrefix& prefix, Instant until);
  // Until when a prefix that is advertised is of use; a current one as if its source lost it now.
  Instant UsefulUntil(const TicketPrefix& prefix, Duration lifetime, Instant now) const;

  // At most kMaxPrefixesPerNode: the current ones in the order of their sources, then the retired that live longest.
  std::vector<TicketPrefix> Advertised(Instant now) const;
  bool IsCurrent(const TicketPrefix& prefix) const;

 private:
  struct Retired {
    TicketPrefix prefix;
    Instant until;
  };
  std::map<std::string, std::vector<TicketPrefix>> current_;
  std::vector<Retired> retired_;  // unique, none of them current; the longest-lived first
};

}  // namespace hud
