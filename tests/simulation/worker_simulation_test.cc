// The whole worker in a simulated kernel, seed by seed: tests/simulation/scene.h says what happens and what must hold.
//   HUD_SIM_SEED=N    only that seed, with a trace of what happened at its end
//   HUD_SIM_TRACE_AT_ONCE=1  beside it, where the process does not live to its end
//   HUD_SIM_SEEDS=N   how many
//   HUD_SIM_FROM=N    the first of them
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "tests/simulation/scene.h"

namespace hud::simulation {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kSeeds = 300;
#else
constexpr uint64_t kSeeds = 12000;
#endif

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? std::strtoull(value, nullptr, 10) : otherwise;
}

std::string Replay(uint64_t seed) {
  return absl::StrCat("replay it: HUD_SIM_SEED=", seed, " build/release/bin/simulation_tests --gtest_filter=WorkerSimulation.*");
}

// A broken invariant of the worker ends the process: it, too, says which seed that was.
std::array<char, 200> g_replay;
void SayWhichSeed(int) {
  (void)!::write(STDERR_FILENO, g_replay.data(), std::strlen(g_replay.data()));
  ::signal(SIGABRT, SIG_DFL);
}

struct Sums {
  std::array<uint64_t, kFaultCount> faults{};
  uint64_t turns = 0, clients = 0, bytes = 0, overflows = 0, exhausted = 0;
};

// False: it failed, and has said why.
bool RunSeed(uint64_t seed, bool tracing, Sums& sums) {
  std::snprintf(g_replay.data(), g_replay.size(), "%s\n", Replay(seed).c_str());
  Scene scene(seed, tracing);
  scene.world().at_once = std::getenv("HUD_SIM_TRACE_AT_ONCE") != nullptr;
  scene.Run();
  for (size_t i = 0; i < kFaultCount; ++i) sums.faults[i] += scene.world().faults.count(Fault(i));
  sums.turns += scene.turns();
  sums.clients += scene.clients();
  sums.bytes += scene.bytes();
  sums.overflows += scene.overflows();
  sums.exhausted += scene.exhausted();
  if (scene.world().violations.empty()) return true;
  if (!tracing) return false;
  for (const std::string& line : scene.world().trace) std::fprintf(stderr, "%s\n", line.c_str());
  std::fprintf(stderr, "%s", scene.Story().c_str());
  ADD_FAILURE() << scene.world().violations.front() << "\n" << Replay(seed);
  return false;
}

void PrintCount(std::string_view what, uint64_t count) {
  std::printf("  %-24s %llu\n", std::string(what).c_str(), static_cast<unsigned long long>(count));
}

void Print(uint64_t seeds, const Sums& sums) {
  PrintCount("seeds", seeds);
  PrintCount("clients", sums.clients);
  PrintCount("turns of the worker", sums.turns);
  PrintCount("megabytes", sums.bytes >> 20);
  for (size_t i = 0; i < kFaultCount; ++i) PrintCount(kFaultKinds[i].name, sums.faults[i]);
  PrintCount("no buffer", sums.exhausted);
  PrintCount("completion queue full", sums.overflows);
}

TEST(WorkerSimulation, EverySeedHoldsWhatIsPromised) {
  ::signal(SIGABRT, SayWhichSeed);
  Sums sums;
  const uint64_t only = FromEnvironment("HUD_SIM_SEED", 0);
  const uint64_t first = only != 0 ? only : FromEnvironment("HUD_SIM_FROM", 1);
  const uint64_t seeds = only != 0 ? 1 : FromEnvironment("HUD_SIM_SEEDS", kSeeds);
  const bool tracing = only != 0;
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    if (RunSeed(seed, tracing, sums)) continue;
    if (!tracing) (void)RunSeed(seed, true, sums);  // once more, to tell what happened
    break;
  }
  Print(seeds, sums);
}

}  // namespace
}  // namespace hud::simulation
