// Input: a file that is said to hold ticket keys. Names come out, and nothing of the keys behind them.
#include <algorithm>

#include "agentd/ticket_classifier.h"
#include "agentd/ticket_key_file.h"
#include "core/base/check.h"

namespace {

void CheckNames(std::span<const uint8_t> content, hud::TicketKeyFormat format) {
  const auto names = hud::ParseTicketKeys(content, format, "file");
  if (!names.ok()) {
    HUD_CHECK(!names.status().message().empty());
    return;
  }
  HUD_CHECK(names->size() == 1 || names->size() == 3);
  for (const hud::TicketPrefix& name : *names) {
    HUD_CHECK(name.length == hud::kKeyNameBytes);
    HUD_CHECK(std::all_of(name.bytes.begin() + name.length, name.bytes.end(), [](uint8_t byte) { return byte == 0; }));
  }
  if (names->size() == 1) HUD_CHECK(std::equal(content.begin(), content.begin() + hud::kKeyNameBytes, (*names)[0].bytes.begin()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using enum hud::TicketKeyFormat;
  for (const hud::TicketKeyFormat format : {kAuto, kNginx, kApache, kHaproxy}) CheckNames({data, size}, format);
  return 0;
}
