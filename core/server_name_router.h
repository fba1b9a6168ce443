// SNI (and ALPN) → pool. Case-insensitive; exact before the longest wildcard; "*" is exactly one label, leftmost.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "core/client_hello.h"
#include "core/types.h"

namespace hud {

class ServerNameRouter {
 public:
  // `alpn` empty: any. Several routes may name the same host with different ALPN; the first that fits wins, one without
  // ALPN last. The same name and ALPN twice is an error that names both.
  absl::Status Add(std::string_view pattern, const std::vector<std::string>& alpn, PoolIndex pool, uint16_t route);

  struct Match {
    PoolIndex pool = PoolIndex::kNone;
    uint16_t route = 0xffff;  // number of the route in its listener's configuration; 0xffff: none
  };
  Match Find(const ClientHello& hello) const;

 private:
  struct Target {
    std::vector<std::string> alpn;
    Match match;
  };
  std::unordered_map<std::string, std::vector<Target>> exact_;
  std::unordered_map<std::string, std::vector<Target>> wildcard_;  // by the part behind "*."
};

// "www.example.com", "*.example.com"; an error says what is wrong with anything else.
absl::Status CheckServerNamePattern(std::string_view pattern);

}  // namespace hud
