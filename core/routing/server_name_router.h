// SNI (and ALPN) → pool. Case-insensitive; exact before the longest wildcard; "*" is exactly one label, leftmost.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "core/base/types.h"
#include "core/tls/client_hello.h"

namespace hud {

class ServerNameRouter {
 public:
  // `alpn` empty: any. Several routes may name the same host with different ALPN; the first that fits wins, one without
  // ALPN last. The same name with the same protocol (or twice without) is an error that names both routes.
  // An error changes nothing.
  absl::Status Add(std::string_view pattern, const std::vector<std::string>& alpn, PoolIndex pool, uint16_t route);

  struct Match {
    PoolIndex pool = PoolIndex::kNone;
    uint16_t route = 0xffff;  // number of the route in its listener's configuration, from 0; 0xffff: none
  };
  // `hello_bytes`: those that `hello` was read from. Allocates nothing. A name whose exact routes all want another ALPN goes
  // on to its wildcard.
  Match Find(const ClientHello& hello, Bytes hello_bytes) const;

 private:
  struct Target {
    std::vector<std::string> alpn;
    Match match;
  };
  // Looked up by string_view: no std::string is made for it.
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view name) const { return std::hash<std::string_view>{}(name); }
  };
  using Targets = std::unordered_map<std::string, std::vector<Target>, Hash, std::equal_to<>>;

  static const Match* FindIn(const Targets& targets, std::string_view name, const ClientHello& hello, Bytes hello_bytes);

  Targets exact_;
  Targets wildcard_;  // by the part behind "*."
  size_t count_ = 0;
};

// "www.example.com", "*.example.com", with or without the dot of the root at the end, or an address as clients write it
// ("192.0.2.1", "2001:db8::1": RFC 6066 forbids it, and some clients send it); an error says what is wrong with anything
// else.
absl::Status CheckServerNamePattern(std::string_view pattern);

}  // namespace hud
