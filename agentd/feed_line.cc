#include "agentd/feed_line.h"

#include <algorithm>
#include <charconv>

#include "agentd/hex.h"

namespace hud {
namespace {

constexpr std::string_view kField = "hud_session=";

bool IsBoundary(char c) { return std::string_view(" \t\"',\r\n\0", 8).find(c) != std::string_view::npos; }

// The value of the last field of that name: what stands before it may be a client's own words, like a name or a path. The
// field's name must not be the tail of a longer word.
std::optional<std::string_view> FindField(std::string_view line) {
  for (size_t at = line.rfind(kField); at != std::string_view::npos;
       at = at == 0 ? std::string_view::npos : line.rfind(kField, at - 1)) {
    if (at > 0 && !IsBoundary(line[at - 1])) continue;
    const std::string_view rest = line.substr(at + kField.size());
    return rest.substr(0, static_cast<size_t>(std::find_if(rest.begin(), rest.end(), IsBoundary) - rest.begin()));
  }
  return std::nullopt;
}

// What follows the header: "<190>Nov 21 06:21:22 host nginx: " or none at all. Line ends are not part of it.
std::string_view BodyOf(std::string_view line) {
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r' || line.back() == '\0')) line.remove_suffix(1);
  const size_t tag = line.rfind(": ");
  return tag == std::string_view::npos ? line : line.substr(tag + 2);
}

bool ParseToken(std::string_view hex, FeedToken& token) {
  const std::optional<size_t> length = ParseHex(hex, token.bytes);
  if (!length || *length < kShortestTokenBytes) return false;
  token.length = static_cast<uint8_t>(*length);
  return true;
}

std::optional<Duration> ParseTtl(std::string_view text) {
  int64_t unit = 1;
  if (!text.empty() && (text.back() == 's' || text.back() == 'm' || text.back() == 'h')) {
    unit = text.back() == 's' ? 1 : text.back() == 'm' ? 60 : 3600;
    text.remove_suffix(1);
  }
  uint32_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() || number == 0) return std::nullopt;
  // Compared as seconds: in nanoseconds a large number of hours would overflow.
  const std::chrono::seconds ttl(number * unit);
  if (ttl > std::chrono::duration_cast<std::chrono::seconds>(kLongestTokenTtl)) return std::nullopt;
  return ttl;
}

std::string_view TakeWord(std::string_view& rest) {
  const size_t end = std::min(rest.find(' '), rest.size());
  const std::string_view word = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return word;
}

}  // namespace

bool HasSeveralFields(std::string_view line) {
  const size_t first = line.find(kField);
  return first != std::string_view::npos && line.find(kField, first + 1) != std::string_view::npos;
}

FeedVerdict ParseSyslogLine(std::string_view line, FeedToken& token) {
  token = {};
  const std::string_view id = FindField(line).value_or(BodyOf(line));
  if (id.empty() || id == "-") return FeedVerdict::kNoSession;
  return ParseToken(id, token) ? FeedVerdict::kToken : FeedVerdict::kRejected;
}

FeedVerdict ParseTokenLine(std::string_view line, FeedToken& token) {
  token = {};
  while (!line.empty() && (line.back() == '\r' || line.back() == '\n' || line.back() == ' ')) line.remove_suffix(1);
  if (line.empty()) return FeedVerdict::kNoSession;
  const std::string_view verb = TakeWord(line);
  token.remove = verb == "remove";
  if (!token.remove && verb != "add") return FeedVerdict::kRejected;
  if (!ParseToken(TakeWord(line), token)) return FeedVerdict::kRejected;
  if (line.empty()) return FeedVerdict::kToken;
  if (token.remove) return FeedVerdict::kRejected;
  token.ttl = ParseTtl(line);
  return token.ttl ? FeedVerdict::kToken : FeedVerdict::kRejected;
}

}  // namespace hud
