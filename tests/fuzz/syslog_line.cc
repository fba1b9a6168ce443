// Input: a line that a server logged, or that an application sent. Whatever is taken from it stands in it, whole.
#include <algorithm>
#include <cctype>
#include <string>

#include "agentd/feed_line.h"
#include "core/base/check.h"

namespace hud {
namespace {

std::string Hex(Bytes bytes) {
  std::string text;
  for (const uint8_t byte : bytes) {
    text.push_back("0123456789abcdef"[byte >> 4]);
    text.push_back("0123456789abcdef"[byte & 15]);
  }
  return text;
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower;
}

void CheckToken(const FeedToken& token, std::string_view line) {
  HUD_CHECK(token.length >= kShortestTokenBytes && token.length <= limits::kMaxTokenBytes);
  const std::string text = Lower(line), id = Hex(token.span());
  const size_t at = text.find(id);
  HUD_CHECK(at != std::string::npos);
  HUD_CHECK(!token.ttl || (*token.ttl > Duration::zero() && *token.ttl <= kLongestTokenTtl));
  // The same id in each of the documented forms is the same token.
  FeedToken again;
  for (const std::string& form : {"<190>Nov 21 06:21:22 nginx: hud_session=" + id, "nginx: " + id, id}) {
    HUD_CHECK(ParseSyslogLine(form, again) == FeedVerdict::kToken);
    HUD_CHECK(std::equal(again.bytes.begin(), again.bytes.end(), token.bytes.begin()) && again.length == token.length);
  }
}

}  // namespace
}  // namespace hud

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  hud::FeedToken token;
  if (hud::ParseSyslogLine(line, token) == hud::FeedVerdict::kToken) hud::CheckToken(token, line);
  if (hud::ParseTokenLine(line, token) == hud::FeedVerdict::kToken) hud::CheckToken(token, line);
  return 0;
}
