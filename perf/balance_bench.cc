// What it costs to choose a node: a whole ChooseNode, for pools of a few and of very many members, by balance and by token.
//
//   build/release/bin/core_bench --benchmark_filter='Choose|Maglev' --benchmark_repetitions=9 --benchmark_report_aggregates_only=true
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "core/routing/balance.h"
#include "core/routing/choice.h"

namespace hud {
namespace {

using namespace std::chrono_literals;

const Instant kNow{1h};
constexpr uint8_t kKeyName[] = "key-name-sixteen, and the rest..";

enum Offer : int64_t { kNothing, kKnownId, kKnownPrefix, kSharedPrefix };

struct World {
  World(size_t members, Balance balance) {
    table.nodes.resize(members);
    table.pools.resize(1);
    PoolView& pool = table.pools[0];
    pool.balance = balance;
    std::vector<MaglevMember> maglev;
    for (uint16_t i = 0; i < members; ++i) {
      table.nodes[i].name = "node-" + std::to_string(i);
      pool.members.push_back({static_cast<NodeIndex>(i), static_cast<uint16_t>(i % 3 == 0 ? 200 : 100)});
      maglev.push_back({table.nodes[i].name, pool.members[i].weight});
      counters->node(static_cast<NodeIndex>(i)).active = i % 3 == 0 ? 200 : 100;
    }
    if (balance == Balance::kMaglev) pool.maglev = BuildMaglev(maglev);
  }

  ClientHello Hello(Offer offer) {
    ClientHello hello{};
    if (offer == kNothing) return hello;
    hello.has_psk = true;
    hello.psk_identity_count = 1;
    OfferedToken& token = hello.psk_identities[0];
    std::memcpy(token.head.data(), kKeyName, 32);
    token.head_length = 32;
    token.full_length = offer == kKnownId ? 32 : 200;
    if (offer == kKnownId) affinity.Insert(token.head_bytes(), {NodeIndex{0}, 0}, kNow + 1h, kNow);
    std::vector<PrefixStore::Entry> entries;
    const size_t owners = offer == kSharedPrefix ? table.nodes.size() : 1;
    for (uint16_t i = 0; i < owners; ++i) entries.push_back({TicketPrefix::Of({kKeyName, 16}), static_cast<NodeIndex>(i)});
    table.prefixes = PrefixStore(entries);
    return hello;
  }

  RouteTable table;
  AffinityMap affinity{{.capacity = 1000, .key = {1, 2}}};
  std::unique_ptr<NodeTable> counters = std::make_unique<NodeTable>();
};

void ChooseNodeBench(benchmark::State& state) {
  World world(static_cast<size_t>(state.range(0)), static_cast<Balance>(state.range(1)));
  const ClientHello hello = world.Hello(static_cast<Offer>(state.range(2)));
  uint64_t random = 1;
  for (auto _ : state) {
    random = random * 0x5851f42d4c957f2d + 0x14057b7ef767814f;
    benchmark::DoNotOptimize(ChooseNode({.table = world.table, .affinity = world.affinity, .counters = *world.counters,
                                         .now = kNow, .random = random, .client_hash = random},
                                        PoolIndex{0}, &hello, {}));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(ChooseNodeBench)
    ->Name("ChooseNode")
    ->ArgNames({"members", "balance", "offer"})
    ->ArgsProduct({{3, 32, 1024}, {0, 1, 2, 3}, {kNothing}})
    ->ArgsProduct({{3, 32, 1024}, {0}, {kKnownId, kKnownPrefix, kSharedPrefix}});

void MaglevBuild(benchmark::State& state) {
  std::vector<std::string> names;
  std::vector<MaglevMember> members;
  for (int64_t i = 0; i < state.range(0); ++i) names.push_back("node-" + std::to_string(i));
  for (size_t i = 0; i < names.size(); ++i) members.push_back({names[i], static_cast<uint16_t>(100 + i % 3)});
  for (auto _ : state) benchmark::DoNotOptimize(BuildMaglev(members));
}
BENCHMARK(MaglevBuild)->ArgNames({"members"})->Arg(3)->Arg(32)->Arg(1024)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace hud
