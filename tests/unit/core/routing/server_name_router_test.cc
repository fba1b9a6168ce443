#include "core/routing/server_name_router.h"
#include "tests/unit/core/tls/hello_builder.h"

#include <array>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

// Every allocation of this test program is counted, to see that a look-up makes none; the sanitizers count for themselves.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kCountsAllocations = false;
#else
constexpr bool kCountsAllocations = true;
#endif
static thread_local size_t t_allocations = 0;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
[[gnu::noinline]] void* operator new(size_t size) {
  ++t_allocations;
  if (void* memory = std::malloc(size)) return memory;
  std::abort();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }
#endif

namespace hud {
namespace {

using test::operator+;

using testing::HasSubstr;

// A hello that says this, with the bytes that it is read from.
struct Sent {
  test::Buffer bytes;
  ClientHello hello;
};
Sent Hello(std::string_view name, const std::vector<std::string>& alpn = {}) {
  test::Buffer protocols;
  for (const std::string& protocol : alpn) protocols = protocols + test::Vector8(test::Text(protocol));
  Sent sent;
  sent.bytes = test::Record(test::Hello({}, alpn.empty() ? test::Buffer() : test::Extension(16, test::Vector16(protocols))));
  EXPECT_EQ(ParseClientHello(sent.bytes, limits::kMaxHelloBytes, sent.hello), HelloVerdict::kComplete);
  // Names as no client may send them are to be found all the same.
  std::copy(name.begin(), name.end(), sent.hello.server_name_bytes.begin());
  sent.hello.server_name_length = static_cast<uint8_t>(name.size());
  return sent;
}
ServerNameRouter::Match Find(const ServerNameRouter& router, const Sent& sent) { return router.Find(sent.hello, sent.bytes); }

struct Route {
  const char* pattern;
  std::vector<std::string> alpn = {};
};
// Route i leads to pool i.
ServerNameRouter RouterOf(const std::vector<Route>& routes) {
  ServerNameRouter router;
  for (uint16_t i = 0; i < routes.size(); ++i) {
    const absl::Status status = router.Add(routes[i].pattern, routes[i].alpn, static_cast<PoolIndex>(i), i);
    EXPECT_TRUE(status.ok()) << status;
  }
  return router;
}

constexpr int kNone = -1;
struct Row {
  const char* name;
  std::string server_name;
  std::vector<std::string> alpn;
  int route;
};

TEST(ServerNameRouter, FindsTheRoute) {
  const ServerNameRouter router = RouterOf({{"www.example.com"},          // 0
                                            {"*.example.com"},            // 1
                                            {"*.shop.example.com"},       // 2
                                            {"Mixed.Example.ORG."},       // 3
                                            {"alpn.example.net", {"h2", "http/1.1"}},  // 4
                                            {"alpn.example.net", {"acme-tls/1"}},      // 5
                                            {"only.example.net", {"h2"}},              // 6
                                            {"*.example.net"},                         // 7
                                            {"both.example.net"},                      // 8
                                            {"both.example.net", {"h2"}},              // 9
                                            {"single"},                                // 10
                                            {"192.0.2.1"},                             // 11
                                            {"2001:DB8::1"}});                         // 12
  const Row rows[] = {
      {"an exact name", "www.example.com", {}, 0},
      {"an exact name before the wildcard that fits too", "www.example.com", {"h2"}, 0},
      {"one label for the star", "api.example.com", {}, 1},
      {"no label for the star", "example.com", {}, kNone},
      {"an empty label for the star", ".example.com", {}, kNone},
      {"two labels for the star", "a.b.example.com", {}, kNone},
      {"the longer wildcard", "a.shop.example.com", {}, 2},
      {"the name that the longer wildcard stands on fits the shorter", "shop.example.com", {}, 1},
      {"capitals in the hello", "WWW.Example.COM", {}, 0},
      {"capitals in the hello under a wildcard", "API.eXample.com", {}, 1},
      {"capitals and a root dot in the pattern", "mixed.example.org", {}, 3},
      {"a root dot in the hello", "www.example.com.", {}, 0},
      {"a root dot in the hello under a wildcard", "api.example.com.", {}, 1},
      {"two dots at the end", "www.example.com..", {}, kNone},
      {"a name that only ends like one", "notexample.com", {}, kNone},
      {"ALPN that the first of two routes wants", "alpn.example.net", {"http/1.1"}, 4},
      {"ALPN that the second wants", "alpn.example.net", {"acme-tls/1"}, 5},
      {"ALPN that both want: the first", "alpn.example.net", {"acme-tls/1", "h2"}, 4},
      {"ALPN that neither wants goes on to the wildcard", "alpn.example.net", {"imap"}, 7},
      {"no ALPN at all goes on to the wildcard", "only.example.net", {}, 7},
      {"a route with ALPN before the one without, in any order", "both.example.net", {"h2"}, 9},
      {"the one without ALPN takes the rest", "both.example.net", {"h3"}, 8},
      {"a name of one label", "single", {}, 10},
      {"a literal star in the hello is a label like any other", "*.example.com", {}, 1},
      {"an IPv4 address as a name", "192.0.2.1", {}, 11},
      {"an IPv6 address as a name", "2001:db8::1", {}, 12},
      {"only a dot", ".", {}, kNone},
      {"no server name", "", {}, kNone},
      {"the longest name there is", std::string(255, 'a'), {}, kNone},
  };
  for (const Row& row : rows) {
    const ServerNameRouter::Match match = Find(router, Hello(row.server_name, row.alpn));
    EXPECT_EQ(match.route, row.route == kNone ? 0xffff : row.route) << row.name;
    EXPECT_EQ(Raw(match.pool), row.route == kNone ? 0xffff : row.route) << row.name;
  }
}

TEST(ServerNameRouter, ALookUpAllocatesNothing) {
  if (!kCountsAllocations) GTEST_SKIP() << "a sanitizer owns operator new";
  const ServerNameRouter router = RouterOf({{"www.a-name-too-long-for-a-small-string.example.com", {"h2"}},
                                            {"*.a-name-too-long-for-a-small-string.example.com"}});
  const Sent hellos[] = {Hello("www.a-name-too-long-for-a-small-string.example.com", {"h2"}),
                                Hello("WWW.A-NAME-TOO-LONG-FOR-A-SMALL-STRING.EXAMPLE.COM.", {"imap"}),
                                Hello("www.another-name-too-long-for-a-small-string.example.com")};
  std::array<uint16_t, 3> routes{};
  const size_t before = t_allocations;
  for (size_t i = 0; i < 3; ++i) routes[i] = Find(router, hellos[i]).route;
  const size_t made = t_allocations - before;
  EXPECT_EQ(made, 0U);
  EXPECT_GT(before, 0U) << "the counter does not count";
  EXPECT_THAT(routes, testing::ElementsAre(0, 1, 0xffff));
}

struct DuplicateRow {
  const char* name;
  Route first, second;
  const char* error;  // null: none
};

TEST(ServerNameRouter, RefusesWhatTwoRoutesClaim) {
  const DuplicateRow rows[] = {
      {"the same name", {"a.example"}, {"a.example"}, "\"a.example\" with ALPN \"any\" is in route 2 and in route 1"},
      {"the same name in capitals and with a root dot", {"a.example"}, {"A.Example."}, "\"a.example\""},
      {"the same wildcard", {"*.a.example"}, {"*.A.example"}, "\"*.a.example\""},
      {"one protocol of several", {"a.example", {"h2", "h3"}}, {"a.example", {"imap", "h3"}}, "ALPN \"h3\""},
      {"different protocols", {"a.example", {"h2"}}, {"a.example", {"h3"}}, nullptr},
      {"a protocol, and any", {"a.example", {"h2"}}, {"a.example"}, nullptr},
      {"a name and the wildcard over it", {"a.b.example"}, {"*.b.example"}, nullptr},
  };
  for (const DuplicateRow& row : rows) {
    ServerNameRouter router = RouterOf({row.first});
    const absl::Status status = router.Add(row.second.pattern, row.second.alpn, static_cast<PoolIndex>(1), 1);
    EXPECT_EQ(status.ok(), row.error == nullptr) << row.name;
    if (row.error != nullptr) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(row.error)) << row.name;
      EXPECT_EQ(Find(router, Hello("a.example", row.first.alpn)).route,
                Find(RouterOf({row.first}), Hello("a.example", row.first.alpn)).route)
          << row.name << ": the error changed something";
    }
  }
}

TEST(ServerNameRouter, HasABound) {
  ServerNameRouter router;
  for (size_t i = 0; i < limits::kMaxRoutes; ++i) {
    ASSERT_TRUE(router.Add("n" + std::to_string(i) + ".example", {}, static_cast<PoolIndex>(0), 0).ok());
  }
  EXPECT_THAT(std::string(router.Add("one-more.example", {}, static_cast<PoolIndex>(0), 0).message()), HasSubstr("4096"));
}

struct PatternRow {
  const char* name;
  std::string pattern;
  const char* error;  // null: none
};

TEST(ServerNamePattern, SaysWhatIsWrong) {
  const PatternRow rows[] = {
      {"a name", "www.example.com", nullptr},
      {"a wildcard", "*.example.com", nullptr},
      {"a root dot", "www.example.com.", nullptr},
      {"capitals", "WWW.Example.Com", nullptr},
      {"an underscore", "_sip.example.com", nullptr},
      {"an xn-- form", "xn--bcher-kva.example", nullptr},
      {"one label", "localhost", nullptr},
      {"digits in front", "1.2.example", nullptr},
      {"empty", "", "is empty"},
      {"only the root", ".", "is empty"},
      {"everything", "*", "default_pool"},
      {"a star in the middle", "www.*.com", "whole first label"},
      {"part of a label", "w*.example.com", "whole first label"},
      {"two stars", "*.*.example.com", "whole first label"},
      {"an empty label", "www..example.com", "empty label"},
      {"a leading dot", ".example.com", "empty label"},
      {"two root dots", "example.com..", "empty label"},
      {"a label of 64 bytes", std::string(64, 'a') + ".example", "63"},
      {"254 bytes", std::string(60, 'a') + "." + std::string(60, 'a') + "." + std::string(60, 'a') + "." +
                        std::string(60, 'a') + "." + std::string(10, 'a'), "253"},
      {"an IPv4 address", "192.0.2.1", nullptr},
      {"an IPv6 address", "2001:db8::1", nullptr},
      {"an IPv6 address in brackets", "[2001:db8::1]", "no host name has"},
      {"part of an IPv4 address", "192.0.2", "a part missing"},
      {"an IPv4 address with a number too large", "192.0.2.256", "ends with a number"},
      {"an address with a star", "*.0.2.1", "ends with a number"},
      {"a port", "example.com:443", "no host name has"},
      {"a space", "example .com", "no host name has"},
      {"not ASCII", "b\xc3\xbc" "cher.example", "xn--"},
  };
  for (const PatternRow& row : rows) {
    const absl::Status status = CheckServerNamePattern(row.pattern);
    EXPECT_EQ(status.ok(), row.error == nullptr) << row.name << ": " << status;
    if (row.error == nullptr) continue;
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.error)) << row.name;
    EXPECT_THAT(std::string(status.message()), HasSubstr("\"" + row.pattern + "\"")) << row.name;
  }
}

}  // namespace
}  // namespace hud
