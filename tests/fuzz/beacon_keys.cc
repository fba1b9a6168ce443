// Key files of any content: no crash, an error names path and line, and never repeats what could be a secret, 32 or more
// hexadecimal digits in a row.
#include <cctype>
#include <string>

#include "core/base/check.h"
#include "core/beacon/beacon.h"

namespace {

bool IsHex(char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; }

// A run of 32 digits and more in the message that stands in the file as well.
void CheckKeepsSecrets(std::string_view message, std::string_view text) {
  for (size_t i = 0; i + 32 <= message.size(); ++i) {
    const std::string_view run = message.substr(i, 32);
    bool is_hex = true;
    for (char c : run) is_hex = is_hex && IsHex(c);
    HUD_CHECK(!is_hex || text.find(run) == std::string_view::npos);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto keys = hud::ParseBeaconKeys(text, "file");
  if (!keys.ok()) {
    const std::string message(keys.status().message());
    HUD_CHECK(message.rfind("file:", 0) == 0);
    CheckKeepsSecrets(message, text);
  } else {
    for (const hud::BeaconKey& key : *keys) HUD_CHECK(hud::IsBeaconName(key.node));
  }
  const auto key = hud::ParseAgentKey(text, "file");
  if (!key.ok()) {
    const std::string message(key.status().message());
    HUD_CHECK(message.rfind("file:", 0) == 0);
    CheckKeepsSecrets(message, text);
  } else {
    const auto again = hud::ParseAgentKey(hud::FormatAgentKey(*key), "file");
    HUD_CHECK(again.ok() && again->secret == key->secret && again->node == key->node);
    HUD_CHECK(hud::ParseBeaconKeys(hud::FormatBeaconKeyLine(*key, {}, {}), "file").ok());
  }
  return 0;
}
