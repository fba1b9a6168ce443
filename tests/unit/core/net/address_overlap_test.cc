#include "core/net/address_overlap.h"

#include <gtest/gtest.h>

namespace hud {
namespace {

SocketAddress Address(const char* text) { return SocketAddress::Parse(text).value(); }

// A node that is this proxy itself: each connection would make another one.
TEST(WouldReach, KnowsWildcardsAndLoopback) {
  const struct {
    const char* to;
    const char* bound;
    bool reaches;
  } rows[] = {
      {"127.0.0.1:443", "127.0.0.1:443", true},   {"127.0.0.1:443", "0.0.0.0:443", true},
      {"127.0.0.1:443", "[::]:443", true},        {"127.9.9.9:443", "[::]:443", true},
      {"[::1]:443", "[::]:443", true},            {"0.0.0.0:443", "[::]:443", true},
      {"0.0.0.0:443", "0.0.0.0:443", true},       {"0.0.0.0:443", "127.0.0.1:443", true},
      {"[::]:443", "[::1]:443", true},            {"[::ffff:127.0.0.1]:443", "0.0.0.0:443", true},
      {"127.0.0.1:444", "0.0.0.0:443", false},    {"10.0.0.1:443", "[::]:443", false},
      {"127.0.0.2:443", "127.0.0.1:443", false},  {"[::1]:443", "0.0.0.0:443", false},
      {"0.0.0.0:443", "127.0.0.2:443", false},    {"0.0.0.0:443", "10.0.0.1:443", false},
      {"unix:/a", "unix:/a", true},               {"unix:/a", "[::]:443", false},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(WouldReach(Address(row.to), Address(row.bound)), row.reaches) << row.to << " at " << row.bound;
  }
}

}  // namespace
}  // namespace hud
