// The texts that GET /status and GET /metrics answer with: the newest snapshot and the counters of this moment.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "control/status_snapshot.h"
#include "core/affinity_map.h"
#include "core/node_table.h"
#include "core/worker_counters.h"

namespace hud {

class LogWriter;

// Everything outlives whoever holds this.
struct StatusSources {
  std::string version;
  pid_t pid = 0;
  Instant started{};
  std::string kernel;  // what ProbeKernel found
  const StatusBoard* board = nullptr;
  const NodeTable* nodes = nullptr;
  const AffinityMap* affinity = nullptr;
  std::vector<const WorkerCounters*> workers;
  const LogWriter* log = nullptr;
};

std::string StatusJson(const StatusSources& sources, Instant now);
std::string MetricsText(const StatusSources& sources, Instant now);

std::string_view BalanceName(Balance balance);

}  // namespace hud
