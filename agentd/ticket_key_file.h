// Files that hold TLS ticket keys, as nginx, Apache and HAProxy read them. Of a key only its first 16 bytes, the name
// that stands in clear at the head of every ticket, leave this file: the secret bytes are wiped where they were read.
//
//   nginx    ssl_session_ticket_key      48 or 80 bytes, one key a file
//   Apache   SSLSessionTicketKeyFile     48 bytes, one key a file
//   HAProxy  tls-ticket-keys             lines of base64 of 48 or 80 bytes, all of one size, at least 3;
//                                        the last 3 are used, and of those the penultimate issues
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/affinity/prefix_store.h"

namespace hud {

enum class TicketKeyFormat : uint8_t { kAuto, kNginx, kApache, kHaproxy };

inline constexpr size_t kMaxTicketKeyFileBytes = 64 * 1024;

// The names of the keys, the issuing one first. Pure: `path` is for the messages only.
absl::StatusOr<std::vector<TicketPrefix>> ParseTicketKeys(std::span<const uint8_t> content, TicketKeyFormat format,
                                                          std::string_view path);

// Reads and parses; the buffer is wiped before this returns.
absl::StatusOr<std::vector<TicketPrefix>> ReadTicketKeyNames(const std::string& path, TicketKeyFormat format);

}  // namespace hud
