// What is wrong with a PEM file, in words: OpenSSL says "no start line" and "bad end line", without a number. Pure: the file's text
// comes in, and nothing of it goes out but labels ("PRIVATE KEY"), for it may be a key.
#pragma once

#include <string>
#include <string_view>

namespace hud {

enum class PemKind : uint8_t { kCertificate, kPrivateKey };

// "line 3: …", or without a line what is wrong with the whole; empty if the first block that is wanted looks well.
std::string ExplainPem(std::string_view text, PemKind wanted);

}  // namespace hud
