#include "core/os/log_line.h"

#include <algorithm>
#include <cstdio>

namespace hud {
namespace {

bool IsPlain(char c) {
  return c > ' ' && c <= '~' && c != '"' && c != '=' && c != '\\';
}

}  // namespace

LogLine::LogLine(LogFormat format, std::string_view message) : format_(format) { Text("msg", message); }

// Keys are ours: never escaped.
void LogLine::Key(std::string_view key) {
  if (!text_.empty()) text_ += format_ == LogFormat::kJson ? ',' : ' ';
  if (format_ == LogFormat::kJson) {
    text_ += '"';
    text_ += key;
    text_ += "\":";
  } else {
    text_ += key;
    text_ += '=';
  }
}

// What is not printable ASCII is written byte by byte: as \xNN, or in JSON, which has no such escape, as \u00NN.
void LogLine::Escape(std::string_view value) {
  text_ += '"';
  for (const char c : value) {
    if (c == '"' || c == '\\') {
      text_ += '\\';
      text_ += c;
    } else if (c >= ' ' && c <= '~') {
      text_ += c;
    } else {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, format_ == LogFormat::kJson ? "\\u%04x" : "\\x%02x",
                    static_cast<unsigned>(static_cast<unsigned char>(c)));
      text_ += escaped;
    }
  }
  text_ += '"';
}

LogLine& LogLine::Text(std::string_view key, std::string_view value) {
  Key(key);
  const bool bare = format_ == LogFormat::kLogfmt && !value.empty() && std::all_of(value.begin(), value.end(), IsPlain);
  if (bare) {
    text_ += value;
  } else {
    Escape(value);
  }
  return *this;
}

LogLine& LogLine::Number(std::string_view key, int64_t value) {
  Key(key);
  text_ += std::to_string(value);
  return *this;
}

LogLine& LogLine::Seconds(std::string_view key, Duration value) {
  Key(key);
  const int64_t micros = std::max<int64_t>(0, std::chrono::duration_cast<std::chrono::microseconds>(value).count());
  char text[40];
  std::snprintf(text, sizeof text, "%lld.%06lld", static_cast<long long>(micros / 1'000'000),
                static_cast<long long>(micros % 1'000'000));
  text_ += text;
  return *this;
}

LogLine& LogLine::Hex8(std::string_view key, uint32_t value) {
  Key(key);
  char text[16];
  std::snprintf(text, sizeof text, format_ == LogFormat::kJson ? "\"%08x\"" : "%08x", value);
  text_ += text;
  return *this;
}

LogLine& LogLine::Hex16(std::string_view key, uint64_t value) {
  Key(key);
  char text[24];
  std::snprintf(text, sizeof text, format_ == LogFormat::kJson ? "\"%016llx\"" : "%016llx", static_cast<unsigned long long>(value));
  text_ += text;
  return *this;
}

LogLine& LogLine::Flag(std::string_view key, bool value) {
  Key(key);
  text_ += value ? "true" : "false";
  return *this;
}

}  // namespace hud
