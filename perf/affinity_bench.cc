// The affinity map: look-ups, inserts, refreshes and sweeps, and the floor that this machine's memory sets for a look-up.
//
// Look-ups are random hits, the hash included; items_per_second is by the reading thread's own CPU time.
//   dependent: each look-up's token depends on what the one before found, so nothing overlaps (a worker between system calls)
//   writes:    tokens a second that a second thread refreshes or moves meanwhile, 34 at a time (a datagram). 100,000 is what
//              a busy fleet issues (ten nodes with 10,000 new sessions a second each); 1,000,000,000 is as fast as it can.
//   readers:   threads that look up, the measured one among them
// PointerChase is one dependent read of a random cache line: no look-up in a table of that size can be faster. Readers of a
// map of 10^6 (10^7) tokens touch 4,700 (47,000) kilobytes; with 24 bytes a token in one table it would be 24,000 (240,000).
//
//   build/release/bin/core_bench --benchmark_filter='Affinity|PointerChase' --benchmark_repetitions=7 --benchmark_report_aggregates_only=true
#include <malloc.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "benchmark/benchmark.h"
#include "core/affinity/affinity_map.h"

namespace hud {
namespace {

using namespace std::chrono_literals;

// A random walk whose next step nobody can foresee without `learnt`: one multiplication, as little as is possible.
uint64_t Step(uint64_t at, uint64_t learnt = 0) { return at * 0x5851f42d4c957f2d + 0x14057b7ef767814f + learnt; }
uint64_t Below(uint64_t at, uint64_t count) { return (at >> 32) * count >> 32; }

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
  // Fresh memory for each map, as at the start of the proxy: what the heap hands out again is not in huge pages.
  ::mallopt(M_MMAP_THRESHOLD, 1 << 20);
  if (map == nullptr || map->stats().capacity != capacity) {
    map.reset();
    map = std::make_unique<AffinityMap>(AffinityMap::Options{.capacity = capacity, .key = {1, 2}});
    for (uint64_t i = 0; i < capacity; ++i) map->Insert(Token(i), OwnerOf(i), Instant{1h}, Instant{});
  }
  return *map;
}

// Runs `work(i)`, i = 1, 2, 3…, in a thread of its own until it is destroyed, in batches, at most `per_second`.
template <typename Work>
class Beside {
 public:
  Beside(double per_second, Work work)
      : thread_([this, per_second, work]() mutable {
          const auto start = std::chrono::steady_clock::now();
          for (uint64_t i = 0; !stop_.load(std::memory_order_relaxed);) {
            for (size_t left = kBatch; left > 0; --left) work(++i);
            done_.store(i, std::memory_order_relaxed);
            const std::chrono::duration<double> due(static_cast<double>(i) / per_second);
            if (due > std::chrono::steady_clock::now() - start) std::this_thread::sleep_until(start + due);
          }
        }) {}
  ~Beside() { stop_ = true, thread_.join(); }
  double done() const { return static_cast<double>(done_.load(std::memory_order_relaxed)); }

 private:
  static constexpr size_t kBatch = 34;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> done_{0};
  std::thread thread_;
};

constexpr double kFlatOut = 1e9;

auto Writing(AffinityMap& map, size_t tokens) {
  return [&map, tokens](uint64_t i) {
    const uint64_t number = Below(i * 0x9e3779b97f4a7c15, tokens);
    map.Insert(Token(number), OwnerOf(number + i % 2), Instant{1h}, Instant{});
  };
}

auto Reading(const AffinityMap& map, size_t tokens) {
  return [&map, tokens, at = uint64_t{7}](uint64_t) mutable {
    const NodeRef owner = map.Find(Token(Below(at, tokens)));
    at = Step(at, owner ? Raw(owner.index) & 1 : 0);
  };
}

template <typename Work>
std::vector<std::unique_ptr<Beside<Work>>> StartBeside(size_t threads, double per_second, Work work) {
  std::vector<std::unique_ptr<Beside<Work>>> all;
  while (all.size() < threads) all.push_back(std::make_unique<Beside<Work>>(per_second, work));
  return all;
}

// Of this process's memory, what is in huge pages.
double HugeMegabytes() {
  std::ifstream rollup("/proc/self/smaps_rollup");
  for (std::string line; std::getline(rollup, line);) {
    double kilobytes = 0;
    if (std::sscanf(line.c_str(), "AnonHugePages: %lf kB", &kilobytes) == 1) return kilobytes / 1024;
  }
  return 0;
}

template <bool kDependent>
void Find(benchmark::State& state, size_t tokens, double writes, size_t readers) {
  AffinityMap& map = Filled(tokens);
  const auto others = StartBeside(readers - 1, kFlatOut, Reading(map, tokens));
  const auto writers = StartBeside(writes > 0 ? 1 : 0, writes, Writing(map, tokens));
  uint64_t at = 1, misses = 0;
  for (auto _ : state) {
    const NodeRef owner = map.Find(Token(Below(at, tokens)));
    misses += !owner;
    // A value that the processor cannot guess, and that is always 0 or 1 apart.
    at = Step(at, kDependent && owner ? Raw(owner.index) & 1 : 0);
  }
  state.SetItemsProcessed(state.iterations());
  state.counters["miss"] = static_cast<double>(misses) / static_cast<double>(state.iterations());
  state.counters["bytes_per_token"] = static_cast<double>(map.stats().bytes) / static_cast<double>(tokens);
  state.counters["huge_MB"] = HugeMegabytes();
  if (writes > 0) state.counters["writes"] = benchmark::Counter(writers[0]->done(), benchmark::Counter::kIsRate);
}

void AffinityFind(benchmark::State& state) {
  const auto find = state.range(1) != 0 ? Find<true> : Find<false>;
  find(state, static_cast<size_t>(state.range(0)), static_cast<double>(state.range(2)), 1);
}
BENCHMARK(AffinityFind)
    ->ArgNames({"tokens", "dependent", "writes"})
    ->ArgsProduct({{10'000, 1'000'000, 10'000'000}, {1, 0}, {0, 100'000, 1'000'000'000}});

void AffinityFindBesideReaders(benchmark::State& state) {
  Find<true>(state, static_cast<size_t>(state.range(0)), 100'000, static_cast<size_t>(state.range(1)));
}
BENCHMARK(AffinityFindBesideReaders)
    ->ArgNames({"tokens", "readers"})
    ->ArgsProduct({{10'000, 1'000'000, 10'000'000}, {1, 2}});

void AffinityFindUnknown(benchmark::State& state) {
  const size_t tokens = static_cast<size_t>(state.range(0));
  AffinityMap& map = Filled(tokens);
  uint64_t at = 1, found = 0;
  for (auto _ : state) {
    const bool known = static_cast<bool>(map.Find(Token(tokens + Below(at, tokens))));
    found += known;
    at = Step(at, known);
  }
  state.SetItemsProcessed(state.iterations());
  state.counters["taken_for_known"] = static_cast<double>(found) / static_cast<double>(state.iterations());
}
BENCHMARK(AffinityFindUnknown)->ArgNames({"tokens"})->Arg(1'000'000)->Arg(10'000'000);

// What of the look-ups is making tokens and hashing them.
void AffinityHashOnly(benchmark::State& state) {
  uint64_t at = 1;
  for (auto _ : state) at = Step(at, SipHash13({1, 2}, Token(Below(at, 1'000'000))) & 1);
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(AffinityHashOnly);

// New tokens, from an empty map to a full one.
void AffinityInsert(benchmark::State& state) {
  const size_t tokens = static_cast<size_t>(state.range(0));
  const auto empty = [&] { return std::make_unique<AffinityMap>(AffinityMap::Options{.capacity = tokens, .key = {1, 2}}); };
  std::unique_ptr<AffinityMap> map = empty();
  auto readers = StartBeside(static_cast<size_t>(state.range(1)), kFlatOut, Reading(*map, tokens));
  uint64_t i = 0;
  for (auto _ : state) {
    map->Insert(Token(i), OwnerOf(i), Instant{1h}, Instant{});
    if (++i < tokens) continue;
    state.PauseTiming();
    i = 0;
    readers.clear();
    map = empty();
    readers = StartBeside(static_cast<size_t>(state.range(1)), kFlatOut, Reading(*map, tokens));
    state.ResumeTiming();
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(AffinityInsert)->ArgNames({"tokens", "readers"})->ArgsProduct({{10'000, 1'000'000, 10'000'000}, {0, 1, 2}});

// Tokens that are there: half of them refreshed, half of them given to another node.
void AffinityRewrite(benchmark::State& state) {
  const size_t tokens = static_cast<size_t>(state.range(0));
  AffinityMap& map = Filled(tokens);
  const auto readers = StartBeside(static_cast<size_t>(state.range(1)), kFlatOut, Reading(map, tokens));
  const auto write = Writing(map, tokens);
  uint64_t i = 0;
  for (auto _ : state) write(++i);
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(AffinityRewrite)->ArgNames({"tokens", "readers"})->ArgsProduct({{10'000, 1'000'000, 10'000'000}, {0, 1, 2}});

// One of the control thread's steps.
void AffinitySweep(benchmark::State& state) {
  AffinityMap& map = Filled(static_cast<size_t>(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(map.SweepExpired(Instant{}, 4096));
}
BENCHMARK(AffinitySweep)->ArgNames({"tokens"})->Arg(1'000'000)->Arg(10'000'000)->Unit(benchmark::kMicrosecond);

void PointerChase(benchmark::State& state) {
  struct Line {
    uint64_t value;
    uint64_t rest[7];
  };
  constexpr size_t kHugePage = 2 << 20;
  const size_t count = static_cast<size_t>(state.range(0)) * 1000 / sizeof(Line);
  // A whole number of huge pages, and one more to find an aligned start in.
  const size_t bytes = (count * sizeof(Line) / kHugePage + 2) * kHugePage;
  void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return state.SkipWithError("no memory");
  (void)::madvise(memory, bytes, state.range(1) != 0 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  const double huge_before = HugeMegabytes();
  void* start = memory;
  size_t room = bytes;
  auto* const lines = static_cast<Line*>(std::align(kHugePage, count * sizeof(Line), start, room));
  std::uninitialized_fill_n(lines, count, Line{});
  uint64_t at = 1;
  for (auto _ : state) at = Step(at, lines[Below(at, count)].value);
  benchmark::DoNotOptimize(at);
  state.SetItemsProcessed(state.iterations());
  state.counters["huge_MB"] = HugeMegabytes() - huge_before;
  ::munmap(memory, bytes);
}
BENCHMARK(PointerChase)->ArgNames({"kilobytes", "huge"})->ArgsProduct({{500, 4700, 24'000, 47'000, 240'000}, {1, 0}});

}  // namespace
}  // namespace hud
