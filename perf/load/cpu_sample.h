// Who has used how much of the processors.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace hud::load {

struct CpuSample {
  std::vector<uint64_t> process_ns;  // in the order of the pids; threads that have ended are in it
  uint64_t own_ns = 0;               // of this process
  uint64_t machine_busy_ns = 0;      // user, nice, system, irq, softirq; in steps of a tick
  uint64_t machine_idle_ns = 0;
  uint64_t machine_steal_ns = 0;  // what the hypervisor gave to others
};

// An error names the process that is not there.
absl::StatusOr<CpuSample> SampleCpu(const std::vector<pid_t>& pids);

// What was used between two samples of the same pids.
CpuSample Between(const CpuSample& opening, const CpuSample& closing);

}  // namespace hud::load
