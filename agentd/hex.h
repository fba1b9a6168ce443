// Tokens as text: pairs of hexadecimal digits, upper or lower case.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace hud {

// The number of bytes written to `out`; nothing if `text` is empty, odd, too long for `out`, or not hexadecimal.
inline std::optional<size_t> ParseHex(std::string_view text, std::span<uint8_t> out) {
  const auto digit = [](char c) -> int {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  if (text.empty() || text.size() % 2 != 0 || text.size() / 2 > out.size()) return std::nullopt;
  for (size_t i = 0; i < text.size(); i += 2) {
    const int high = digit(text[i]);
    const int low = digit(text[i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    out[i / 2] = static_cast<uint8_t>(high * 16 + low);
  }
  return text.size() / 2;
}

}  // namespace hud
