// What the agent keeps on disk: the ticket prefixes that it advertises, so that a restart does not forget those of keys that
// its server no longer issues tickets with, while clients still hold such tickets. Names of keys, no secrets; mode 0600.
//
//   line = HEX SP SECONDS      the prefix, and until when (wall clock, since 1970) tickets with it are of use
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/affinity/prefix_store.h"

namespace hud {

struct KeptPrefix {
  TicketPrefix prefix;
  int64_t until_seconds = 0;
  bool operator==(const KeptPrefix&) const = default;
};

// Pure. Lines that cannot be read are left out: what is lost is a full handshake of some clients.
std::vector<KeptPrefix> ParseKeptPrefixes(std::string_view text);
std::string FormatKeptPrefixes(std::span<const KeptPrefix> prefixes);

// No file: nothing was kept.
absl::StatusOr<std::vector<KeptPrefix>> ReadKeptPrefixes(const std::string& path);
// Whole or not at all, for whoever reads it.
absl::Status WriteKeptPrefixes(const std::string& path, std::span<const KeptPrefix> prefixes);

}  // namespace hud
