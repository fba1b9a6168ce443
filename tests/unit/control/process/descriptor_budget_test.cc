#include "control/process/descriptor_budget.h"

#include <gtest/gtest.h>

namespace hud {
namespace {

TEST(DescriptorBudget, ControlAlwaysHasRoom) {
  struct Row {
    const char* name;
    size_t limit;
    size_t open;
    unsigned workers;
    std::optional<unsigned> wanted;
    bool good;
  };
  const Row rows[] = {
      {"a usual limit", 20'000, 20, 2, {}, true},
      {"the limit of a shell", 1024, 20, 4, {}, true},
      {"the smallest that is tested", 200, 20, 2, {}, true},
      {"a wanted number that fits", 20'000, 20, 2, 5000, true},
      {"a wanted number that takes all", 20'000, 20, 2, 9900, true},
      {"a wanted number that does not fit is cut", 1024, 20, 2, 20'000, true},
      {"a few connections, wanted so", 200, 20, 2, 4, true},
      {"a limit without end", 1'000'000'000, 20, 64, {}, true},
      {"no room at all", 64, 20, 2, {}, false},
      {"no room, though wanted", 64, 20, 2, 100, false},
      {"more open than allowed", 64, 100, 2, {}, false},
  };
  for (const Row& row : rows) {
    const auto budget = PlanDescriptors(row.limit, row.open, row.workers, row.wanted);
    ASSERT_EQ(budget.ok(), row.good) << row.name << ": " << budget.status();
    if (!budget.ok()) {
      EXPECT_NE(budget.status().message().find("raise it"), std::string::npos) << row.name;
      continue;
    }
    const size_t used = 2 * budget->max_connections + 2 * budget->pipes_per_worker * row.workers;
    // What control needs at most at once: probes, status clients and their reserve, and its own.
    EXPECT_LE(used + row.open + 32 + 16 + 4, row.limit) << row.name;
    EXPECT_GT(budget->max_connections, 0u) << row.name;
    EXPECT_LE(budget->max_connections, row.wanted.value_or(budget->max_connections)) << row.name;
  }
}

TEST(DescriptorBudget, WhatIsAskedForIsEnough) {
  for (const unsigned wanted : {10u, 1000u, 20'000u}) {
    for (const unsigned workers : {1u, 2u, 64u}) {
      const auto budget = PlanDescriptors(DescriptorsFor(wanted, workers, 30), 30, workers, wanted);
      ASSERT_TRUE(budget.ok()) << budget.status();
      EXPECT_EQ(budget->max_connections, wanted);
    }
  }
}

TEST(DescriptorBudget, PipesGetAQuarterAtMost) {
  const auto budget = PlanDescriptors(2000, 20, 2, {});
  ASSERT_TRUE(budget.ok());
  EXPECT_GT(budget->pipes_per_worker, 0u);
  EXPECT_LE(2 * 2 * budget->pipes_per_worker, 2000u / 4);
}

}  // namespace
}  // namespace hud
