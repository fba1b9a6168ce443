// One structured line, logfmt or JSON, without its time and level. Values may be hostile (an SNI is whatever a client
// sent): nothing in them can end the line, forge a key, or reach a terminal as a control sequence.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "core/base/types.h"

namespace hud {

enum class LogFormat : uint8_t { kLogfmt, kJson };
inline constexpr std::pair<std::string_view, LogFormat> kLogFormatNames[] = {{"logfmt", LogFormat::kLogfmt}, {"json", LogFormat::kJson}};

class LogLine {
 public:
  // `message` becomes the field `msg`.
  LogLine(LogFormat format, std::string_view message);

  LogLine& Text(std::string_view key, std::string_view value);
  LogLine& Number(std::string_view key, int64_t value);
  LogLine& Seconds(std::string_view key, Duration value);  // with microseconds
  LogLine& Hex8(std::string_view key, uint32_t value);
  LogLine& Hex16(std::string_view key, uint64_t value);
  LogLine& Flag(std::string_view key, bool value);

  // "msg=… key=…", or the inside of a JSON object.
  const std::string& text() const { return text_; }
  LogFormat format() const { return format_; }

 private:
  void Key(std::string_view key);
  void Escape(std::string_view value);

  LogFormat format_;
  std::string text_;
};

}  // namespace hud
