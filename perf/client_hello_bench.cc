// What it costs to read a ClientHello, and then to hash its token: paid once a connection.
#include <benchmark/benchmark.h>

#include "core/affinity/token_lookup.h"
#include "core/base/siphash.h"
#include "core/tls/client_hello.h"
#include "tests/unit/core/tls/hello_builder.h"

namespace hud {
namespace {

using namespace test;  // NOLINT: the builder's words are this file's language

// Shaped like a browser's: GREASE, 16 cipher suites, a key share, a ticket as PSK at the end, padded to `message_size`.
Buffer BrowserHello(size_t key_share_size, size_t record_size) {
  const auto extensions = [&](size_t padding) {
    return Extension(0x3a3a, {}) + ServerName("www.some-shop.example.com") + Extension(23, {}) +
           Extension(0xff01, {0}) + Extension(10, Vector16(Counting(8, 1))) + Extension(11, {1, 0}) + Ticket({}) +
           Alpn({"h2", "http/1.1"}) + Extension(5, {1, 0, 0, 0, 0}) + Extension(13, Vector16(Counting(16, 1))) +
           Extension(18, {}) + Extension(51, Filled(key_share_size + 6, 5)) + Extension(45, {1, 1}) +
           SupportedVersions({0x6a6a, 0x0304, 0x0303}) + Extension(27, {2, 0, 2}) +
           Extension(0x4469, {0, 3, 2, 'h', '2'}) + Extension(0xdada, {0}) + Extension(21, Filled(padding, 0)) +
           PreSharedKey({Counting(120, 1)});
  };
  const HelloBody body = {.session_id = Counting(32, 7), .cipher_suites = Counting(32, 1)};
  const size_t bare = Record(Hello(body, extensions(0))).size();
  return Record(Hello(body, extensions(record_size > bare ? record_size - bare : 0)));
}

void Parse(benchmark::State& state, const Buffer& input) {
  ClientHello hello;
  for (auto _ : state) {
    benchmark::DoNotOptimize(input.data());
    const HelloVerdict verdict = ParseClientHello(input, limits::kMaxHelloBytes, hello);
    if (verdict != HelloVerdict::kComplete) state.SkipWithError("not complete");
    benchmark::DoNotOptimize(hello);
  }
  state.counters["bytes"] = static_cast<double>(input.size());
}

void ClientHello517Bytes(benchmark::State& state) { Parse(state, BrowserHello(32, 517)); }
BENCHMARK(ClientHello517Bytes);

void ClientHelloMlKem(benchmark::State& state) { Parse(state, BrowserHello(1216 + 32, 1800)); }
BENCHMARK(ClientHelloMlKem);

void ClientHelloMlKemInTwoRecords(benchmark::State& state) {
  const Buffer one = BrowserHello(1216 + 32, 1800);
  Parse(state, SplitAt(Buffer(one.begin() + 5, one.end()), 700));
}
BENCHMARK(ClientHelloMlKemInTwoRecords);

void ClientHelloHalfThere(benchmark::State& state) {
  const Buffer input = BrowserHello(1216 + 32, 1800);
  ClientHello hello;
  for (auto _ : state) {
    benchmark::DoNotOptimize(ParseClientHello(Bytes(input).first(1400), limits::kMaxHelloBytes, hello));
  }
}
BENCHMARK(ClientHelloHalfThere);

// The dearest prefix that a stranger can make us read again and again, under the default cap.
void ClientHelloOneByteRecordsToTheCap(benchmark::State& state) {
  const Buffer input = Records(Hello({}, Extension(21, Filled(5300, 0))), 1);
  ClientHello hello;
  for (auto _ : state) {
    benchmark::DoNotOptimize(ParseClientHello(Bytes(input).first(input.size() - 1), limits::kMaxHelloBytes, hello));
  }
  state.counters["bytes"] = static_cast<double>(input.size());
}
BENCHMARK(ClientHelloOneByteRecordsToTheCap);

void SipHash13OfAToken(benchmark::State& state) {
  const Buffer token = Counting(32, 1);
  const SipKey key = {1, 2};
  for (auto _ : state) benchmark::DoNotOptimize(SipHash13(key, token));
}
BENCHMARK(SipHash13OfAToken);

}  // namespace
}  // namespace hud
