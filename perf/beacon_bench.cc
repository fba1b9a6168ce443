// What a datagram costs the control thread: refused ones of every kind, and good ones.
#include <benchmark/benchmark.h>

#include "core/beacon/beacon_receiver.h"
#include "core/beacon/beacon_sender.h"

namespace hud {
namespace {

constexpr Instant kStart{std::chrono::hours(1)};

BeaconSecret Secret() {
  BeaconSecret secret;
  secret.bytes.fill(7);
  return secret;
}

// A proxy with 1000 keys, and an envelope that it believes.
struct Bench {
  Bench() : mac(Secret()), receiver(1), from(*SocketAddress::Parse("10.0.0.1:5000")) {
    std::vector<BeaconKey> keys(1000);
    for (size_t i = 0; i < keys.size(); ++i) {
      keys[i].node = "node" + std::to_string(i);
      keys[i].secret.bytes[0] = static_cast<uint8_t>(i);
      keys[i].secret.bytes[1] = static_cast<uint8_t>(i >> 8);
    }
    keys[0].secret = Secret();
    receiver.SetKeys(std::move(keys));
    envelope.node = "node0";
    envelope.epoch = 5;
    Handle(Report(1));
    envelope.nonce = ReadBeaconEnvelope(answer.datagram)->nonce;
  }
  std::vector<uint8_t> Report(uint64_t sequence) {
    NodeReport report;
    report.address = *SocketAddress::Parse("10.0.0.1:443");
    report.pools = {"web"};
    TicketPrefix prefix;
    prefix.length = 16;
    report.prefixes.assign(4, prefix);
    std::vector<std::vector<uint8_t>> bodies;
    std::string why;
    WriteReportBodies(report, 1, &bodies, &why);
    envelope.type = BeaconType::kStillHere;
    envelope.sequence = sequence;
    return SealBeacon(mac, envelope, bodies[0]);
  }
  std::vector<uint8_t> Tokens(uint64_t sequence, uint64_t first) {
    TokenItem item;
    item.length = 32;
    item.ttl_seconds = 3600;
    std::vector<uint8_t> body;
    WriteTokensBody(first, first, std::vector<TokenItem>(34, item), &body);
    envelope.type = BeaconType::kTokens;
    envelope.sequence = sequence;
    return SealBeacon(mac, envelope, body);
  }
  bool Handle(Bytes datagram) { return receiver.Handle(datagram, from, now, &event, &answer); }

  BeaconMac mac;
  BeaconEnvelope envelope;
  BeaconReceiver receiver;
  SocketAddress from;
  Instant now = kStart;
  BeaconEvent event;
  BeaconAnswer answer;
};

void Repeat(benchmark::State& state, Bench& bench, const std::vector<uint8_t>& datagram) {
  for (auto _ : state) benchmark::DoNotOptimize(bench.Handle(datagram));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * datagram.size()));
}

void BM_BeaconNoise(benchmark::State& state) {
  Bench bench;
  Repeat(state, bench, std::vector<uint8_t>(1400, 0x55));
}
BENCHMARK(BM_BeaconNoise);

void BM_BeaconForgedReport(benchmark::State& state) {
  Bench bench;
  auto datagram = bench.Report(1);
  datagram.back() ^= 1;
  Repeat(state, bench, datagram);
}
BENCHMARK(BM_BeaconForgedReport);

void BM_BeaconForged1400Bytes(benchmark::State& state) {
  Bench bench;
  auto datagram = bench.Tokens(1, 1);
  datagram.back() ^= 1;
  Repeat(state, bench, datagram);
}
BENCHMARK(BM_BeaconForged1400Bytes);

void BM_BeaconReplayed(benchmark::State& state) {
  Bench bench;
  Repeat(state, bench, bench.Report(1));
}
BENCHMARK(BM_BeaconReplayed);

void BM_BeaconReportApplied(benchmark::State& state) {
  Bench bench;
  uint64_t sequence = 0;
  for (auto _ : state) {
    state.PauseTiming();
    const auto datagram = bench.Report(++sequence);
    bench.now += std::chrono::milliseconds(100);
    state.ResumeTiming();
    if (!bench.Handle(datagram)) state.SkipWithError("not applied");
  }
}
BENCHMARK(BM_BeaconReportApplied);

// 34 tokens each, with the answer.
void BM_BeaconTokensApplied(benchmark::State& state) {
  Bench bench;
  bench.Handle(bench.Report(1));
  uint64_t sequence = 1;
  for (auto _ : state) {
    state.PauseTiming();
    const auto datagram = bench.Tokens(sequence + 1, (sequence - 1) * 34 + 1);
    ++sequence;
    bench.now += std::chrono::milliseconds(1);
    state.ResumeTiming();
    if (!bench.Handle(datagram)) state.SkipWithError("not applied");
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * 34));
}
BENCHMARK(BM_BeaconTokensApplied);

}  // namespace
}  // namespace hud
