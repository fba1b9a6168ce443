// The two text formats by which servers and applications on this machine tell the agent whose a session is.
// Pure parsers: a line comes in, a verdict comes out. Grammar:
//
//   syslog   = anything, then the last field  "hud_session=" ID, where the field begins the line or follows a space, a
//              quote or a comma, and ends at one of these or at the line's end; or, in a line without such a field,
//              [header ": "] ID  where nothing but the id follows the last ": " of the line.
//   ID       = HEX | "-" | ""                              no id: the request had no TLS session; skipped, not an error
//   tokens   = "add" SP HEX [SP TTL] | "remove" SP HEX      one a line, several lines a datagram
//   HEX      = 8 to 64 digits of either case, an even number
//   TTL      = digits [ "s" | "m" | "h" ]                   1 second to 7 days
//
// Ids of up to 3 bytes are refused: no server hands out such ids, but text that went astray looks like them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "core/base/limits.h"
#include "core/base/types.h"

namespace hud {

inline constexpr size_t kShortestTokenBytes = 4;
inline constexpr Duration kLongestTokenTtl = std::chrono::hours(7 * 24);

struct FeedToken {
  std::array<uint8_t, limits::kMaxTokenBytes> bytes{};
  uint8_t length = 0;
  bool remove = false;
  std::optional<Duration> ttl;  // only the token feed says one
  Bytes span() const { return {bytes.data(), length}; }
};

enum class FeedVerdict : uint8_t {
  kToken,      // `token` is filled in
  kNoSession,  // well-formed, but there is nothing in it
  kRejected,   // not in the format
};

// True if the field's name stands there twice: a client wrote one into its request, or the log format has two.
bool HasSeveralFields(std::string_view line);
FeedVerdict ParseSyslogLine(std::string_view line, FeedToken& token);
FeedVerdict ParseTokenLine(std::string_view line, FeedToken& token);

}  // namespace hud
