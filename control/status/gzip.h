// Answers of the status address, made smaller for those who ask for it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace hud {

// Does this value of Accept-Encoding name gzip, and not with q=0? (RFC 9110, 12.5.3)
bool AcceptsGzip(std::string_view accept_encoding);

// None if there is no memory for it.
std::optional<std::string> Gzip(std::string_view text);

}  // namespace hud
