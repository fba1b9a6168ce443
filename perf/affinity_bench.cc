// Look-ups in the affinity map: random hits, hashing included, items_per_second by the reading thread's CPU time.
//   dependent: each look-up's token depends on what the one before found, so nothing overlaps (a worker between system calls)
//   writer:    another thread refreshes and moves random tokens as fast as it can meanwhile
//
//   build/release/bin/core_bench --benchmark_filter=Affinity --benchmark_repetitions=9 --benchmark_report_aggregates_only=true
#include <atomic>
#include <cstring>
#include <memory>
#include <thread>

#include "benchmark/benchmark.h"
#include "core/affinity_map.h"

namespace hud {
namespace {

using namespace std::chrono_literals;

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// 32 bytes, as a session id. Made, not stored: a stored one would cost a cache miss that is not the map's.
struct Token {
  explicit Token(uint64_t number) {
    for (uint64_t i = 0; i < 4; ++i) words[i] = number * (2 * i + 1) + i;
  }
  operator Bytes() const { return {reinterpret_cast<const uint8_t*>(words), sizeof words}; }
  uint64_t words[4];
};

NodeRef OwnerOf(uint64_t number) { return {static_cast<NodeIndex>(number % 8), 1}; }

// One map at a time is kept: filling ten million takes seconds.
AffinityMap& Filled(size_t capacity) {
  static std::unique_ptr<AffinityMap> map;
  if (map == nullptr || map->stats().capacity != capacity) {
    map.reset();
    map = std::make_unique<AffinityMap>(AffinityMap::Options{.capacity = capacity, .key = {1, 2}});
    for (uint64_t i = 0; i < capacity; ++i) map->Insert(Token(i), OwnerOf(i), Instant{1h}, Instant{});
  }
  return *map;
}

class Writer {
 public:
  Writer(AffinityMap& map, size_t tokens) : thread_([this, &map, tokens] {
    for (uint64_t i = 1; !stop_.load(std::memory_order_relaxed); ++i) {
      const uint64_t number = Mix(i) % tokens;
      map.Insert(Token(number), OwnerOf(number + i % 2), Instant{1h}, Instant{});
      written_.store(i, std::memory_order_relaxed);
    }
  }) {}
  ~Writer() { stop_ = true, thread_.join(); }
  uint64_t written() const { return written_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> written_{0};
  std::thread thread_;
};

void AffinityFind(benchmark::State& state) {
  const size_t tokens = static_cast<size_t>(state.range(0));
  const bool dependent = state.range(1) != 0;
  AffinityMap& map = Filled(tokens);
  const std::unique_ptr<Writer> writer = state.range(2) != 0 ? std::make_unique<Writer>(map, tokens) : nullptr;
  uint64_t at = 1, step = 0, misses = 0;
  for (auto _ : state) {
    at = Mix(at + ++step);
    const auto owner = map.Find(Token((at >> 32) * tokens >> 32), Instant{});
    misses += !owner;
    // A value that the processor cannot guess, and that is always 0 or 1 apart.
    if (dependent) {
      at += owner ? Raw(owner->index) & 1 : 0;
    } else {
      at = step;
    }
  }
  state.SetItemsProcessed(state.iterations());
  state.counters["miss"] = static_cast<double>(misses) / static_cast<double>(state.iterations());
  state.counters["bytes_per_token"] = static_cast<double>(map.stats().bytes) / static_cast<double>(tokens);
  if (writer) state.counters["writes"] = benchmark::Counter(static_cast<double>(writer->written()), benchmark::Counter::kIsRate);
}
BENCHMARK(AffinityFind)
    ->ArgNames({"tokens", "dependent", "writer"})
    ->ArgsProduct({{1'000, 100'000, 1'000'000, 10'000'000}, {1, 0}, {1, 0}});

// What of the above is hashing and making tokens.
void AffinityHashOnly(benchmark::State& state) {
  uint64_t at = 1, step = 0;
  for (auto _ : state) {
    at = Mix(at + ++step);
    at += SipHash128({1, 2}, Token((at >> 32) * 1'000'000 >> 32)).low & 1;
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(AffinityHashOnly);

void AffinityInsert(benchmark::State& state) {
  const size_t tokens = static_cast<size_t>(state.range(0));
  AffinityMap map({.capacity = tokens, .key = {1, 2}});
  uint64_t i = 0;
  for (auto _ : state) {
    map.Insert(Token(i), OwnerOf(i), Instant{1h}, Instant{});
    if (++i == tokens) i = 0;
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(AffinityInsert)->ArgNames({"tokens"})->Arg(1'000'000);

}  // namespace
}  // namespace hud
