// How many cores this process may use: those it may run on, and how much of their time its cgroup gives it.
#pragma once

#include <optional>
#include <string>

namespace hud {

// At least 1.
unsigned UsableCores();

// The cores that a CPU quota of the cgroup, or of one above it, is worth, rounded up; none without a quota. cgroup v2
// (cpu.max) and v1 (cpu.cfs_quota_us). `root` is "/"; a test has a tree of its own.
std::optional<unsigned> CpuQuota(const std::string& root);

}  // namespace hud
