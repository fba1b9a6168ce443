// How many connections and pipes the limit on descriptors has room for, when control keeps enough for itself to receive
// beacons, probe nodes, read a configuration and answer on the status address however many clients there are.
#pragma once

#include <cstddef>
#include <optional>

#include "absl/status/statusor.h"

namespace hud {

struct DescriptorBudget {
  unsigned max_connections = 0;
  unsigned pipes_per_worker = 0;
};

// `open_now`: descriptors already open (listeners and all). `wanted`: max_connections as configured, if it is. Pipes get
// at most a quarter of what is left. An error if not even a handful of connections fits, or not the number wanted.
absl::StatusOr<DescriptorBudget> PlanDescriptors(size_t limit, size_t open_now, unsigned workers,
                                                 std::optional<unsigned> wanted);

// What to ask the kernel for, so that PlanDescriptors has no complaint.
size_t DescriptorsFor(unsigned max_connections, unsigned workers, size_t open_now);

// Raises the soft limit as far as the hard one allows, and the hard one too if `wanted` needs it and we may. Returns the
// limit now in force.
size_t RaiseDescriptorLimit(size_t wanted);

size_t CountOpenDescriptors();

}  // namespace hud
