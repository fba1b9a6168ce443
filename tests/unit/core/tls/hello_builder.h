// Builds ClientHellos, ServerHellos and their records byte by byte, right ones and wrong ones.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/tls/client_hello.h"

namespace hud::test {

using Buffer = std::vector<uint8_t>;

inline Buffer Filled(size_t count, uint8_t value) { return Buffer(count, value); }
inline Buffer Text(std::string_view text) { return Buffer(text.begin(), text.end()); }
// Bytes that differ from each other and from those of another seed.
inline Buffer Counting(size_t count, uint8_t seed) {
  Buffer bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(seed + i);
  return bytes;
}

inline Buffer operator+(Buffer a, const Buffer& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline Buffer Number(size_t value, int bytes) {
  Buffer out;
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) out.push_back(static_cast<uint8_t>(value >> shift));
  return out;
}
inline Buffer U16(size_t value) { return Number(value, 2); }
inline Buffer Vector8(const Buffer& content) { return Number(content.size(), 1) + content; }
inline Buffer Vector16(const Buffer& content) { return Number(content.size(), 2) + content; }

inline Buffer Extension(uint16_t type, const Buffer& data) { return U16(type) + Vector16(data); }

inline Buffer HostName(const Buffer& name) { return Buffer{0} + Vector16(name); }
inline Buffer ServerName(std::string_view name) { return Extension(0, Vector16(HostName(Text(name)))); }

inline Buffer Alpn(std::initializer_list<std::string_view> protocols) {
  Buffer list;
  for (auto protocol : protocols) list = list + Vector8(Text(protocol));
  return Extension(16, Vector16(list));
}

inline Buffer SupportedVersions(std::initializer_list<uint16_t> versions) {
  Buffer list;
  for (auto version : versions) list = list + U16(version);
  return Extension(43, Vector8(list));
}

inline Buffer Ticket(const Buffer& ticket) { return Extension(35, ticket); }
inline Buffer EarlyData() { return Extension(42, {}); }

inline Buffer PreSharedKey(const std::vector<Buffer>& identities, int binders_more = 0, size_t binder_size = 32) {
  Buffer list, binders;
  for (const auto& identity : identities) list = list + Vector16(identity) + Number(0x01020304, 4);
  for (size_t i = 0; i < identities.size() + static_cast<size_t>(binders_more); ++i) {
    binders = binders + Vector8(Filled(binder_size, 0xb1));
  }
  return Extension(41, Vector16(list) + Vector16(binders));
}

// Everything of a ClientHello's body but its extensions, which come ready made.
struct HelloBody {
  uint16_t legacy_version = 0x0303;
  Buffer random = Counting(32, 0xa0);
  Buffer session_id = {};
  Buffer cipher_suites = {0x13, 0x01, 0xc0, 0x2f};
  Buffer compression_methods = {0};
};

// The handshake message, header and all.
inline Buffer Handshake(uint8_t type, const Buffer& body) { return Buffer{type} + Number(body.size(), 3) + body; }
inline Buffer HelloWithoutExtensions(const HelloBody& body) {
  return Handshake(1, U16(body.legacy_version) + body.random + Vector8(body.session_id) + Vector16(body.cipher_suites) +
                          Vector8(body.compression_methods));
}
inline Buffer Hello(const HelloBody& body, const Buffer& extensions) {
  Buffer message = HelloWithoutExtensions(body) + Vector16(extensions);
  const Buffer length = Number(message.size() - 4, 3);
  std::copy(length.begin(), length.end(), message.begin() + 1);
  return message;
}

inline Buffer Record(const Buffer& payload, uint8_t type = 22, uint8_t minor = 1) {
  return Buffer{type, 3, minor} + Vector16(payload);
}

// `message` in records of at most `size` bytes.
inline Buffer Records(const Buffer& message, size_t size = 16384) {
  Buffer out;
  for (size_t at = 0; at < message.size(); at += size) {
    const size_t end = std::min(at + size, message.size());
    out = std::move(out) + Record(Buffer(message.begin() + static_cast<long>(at), message.begin() + static_cast<long>(end)));
  }
  return out;
}

// `message` in two records.
inline Buffer SplitAt(const Buffer& message, size_t cut) {
  const auto middle = message.begin() + static_cast<long>(cut);
  return Record(Buffer(message.begin(), middle)) + Record(Buffer(middle, message.end()));
}

struct ServerHelloBody {
  uint16_t legacy_version = 0x0303;
  Buffer random = Counting(32, 0x50);
  Buffer session_id = {};
};
inline Buffer ServerHello(const ServerHelloBody& body, const Buffer& extensions) {
  return Handshake(2, U16(body.legacy_version) + body.random + Vector8(body.session_id) + Buffer{0x13, 0x01, 0} +
                          Vector16(extensions));
}

inline std::string Hex(Bytes bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (uint8_t byte : bytes) (out += kDigits[byte >> 4]) += kDigits[byte & 15];
  return out;
}

inline std::string Describe(const OfferedToken& token) {
  return Hex(token.head_bytes()) + "/" + std::to_string(token.full_length);
}

// All that a hello says (of ALPN its place), so that two can be compared and a difference be read. bytes_used is not what it says.
inline std::string Describe(const ClientHello& hello) {
  std::string out = "name=" + std::string(hello.server_name());
  out += " alpn=" + (hello.alpn_length == 0 ? "" : std::to_string(hello.alpn_at) + "+" + std::to_string(hello.alpn_length));
  out += " version=" + std::to_string(hello.legacy_version);
  out += hello.offers_tls13 ? " tls13" : "";
  out += hello.early_data ? " early_data" : "";
  out += hello.ech ? " ech" : "";
  out += hello.has_ticket ? " has_ticket" : "";
  out += hello.has_psk ? " has_psk" : "";
  out += " session_id=" + Describe(hello.session_id) + " ticket=" + Describe(hello.ticket);
  for (size_t i = 0; i < hello.psk_identity_count; ++i) out += " psk=" + Describe(hello.psk_identities[i]);
  return out;
}

}  // namespace hud::test
