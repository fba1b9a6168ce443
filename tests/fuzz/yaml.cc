// The whole of hudsucker.yaml's reading, and the reader alone, on any bytes. What must hold: no crash, no hang, and an
// error for what is refused: never a silent nothing. What is accepted once is accepted again.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "control/config/configuration.h"
#include "core/base/check.h"
#include "core/yaml/yaml_reader.h"

namespace {

// Reads every value in every way that fits its kind.
void ReadAll(const hud::YamlValue& value, int depth) {
  HUD_CHECK(depth <= hud::kMaxYamlDepth + 1);
  HUD_CHECK(!value || value.place().line >= 1);
  for (const auto& [key, child] : value.IsMap() ? value.Entries() : decltype(value.Entries())()) {
    HUD_CHECK(value.Get(key));
    ReadAll(child, depth + 1);
  }
  for (const hud::YamlValue& item : value.IsList() ? value.Items() : std::vector<hud::YamlValue>())
    ReadAll(item, depth + 1);
  if (!value.IsScalar()) return;
  std::string text;
  std::string_view scalar;
  bool truth;
  int number;
  double real;
  size_t size;
  hud::Duration duration;
  hud::SocketAddress address;
  HUD_CHECK(value.ReadScalar(&scalar));
  value.ReadString(&text);
  value.ReadBool(&truth);
  value.ReadInteger(&number, 0, 100);
  value.ReadNumber(&real, 0, 1);
  if (value.ReadDuration(&duration, hud::Duration(0), hud::Duration::max())) {
    hud::Duration again;
    HUD_CHECK(hud::ParseDuration(hud::FormatDuration(duration), &again) && again == duration);
  }
  if (value.ReadByteSize(&size, 0, SIZE_MAX)) {
    size_t again;
    HUD_CHECK(hud::ParseByteSize(hud::FormatByteSize(size), &again) && again == size);
  }
  value.ReadAddress(&address);
  value.ReadEnum(&number, {{"one", 1}, {"two", 2}});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  hud::YamlDocument document = hud::YamlDocument::Parse(text, "fuzz");
  const bool is_refused = document.HasErrors();
  ReadAll(document.root(), 0);
  const absl::Status status = document.Finish();
  HUD_CHECK(!is_refused || (!status.ok() && !status.message().empty()));

  const auto configuration = hud::ParseConfiguration(text, "fuzz");
  HUD_CHECK(!(is_refused && configuration.ok()));
  HUD_CHECK(configuration.ok() || !configuration.status().message().empty());
  return 0;
}
