// The texts that GET /status and GET /metrics answer with: the newest snapshot and the counters of this moment.
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <string>
#include <vector>

#include "control/status/status_snapshot.h"
#include "core/affinity/affinity_map.h"
#include "core/report/worker_counters.h"
#include "core/routing/node_table.h"

namespace hud {

class LogWriter;
class ProcessStatsReader;
struct StatusServerCounters;

// The same moment on both clocks.
struct StatusTime {
  Instant steady{};
  std::chrono::system_clock::time_point wall{};
};

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
  const ProcessStatsReader* process = nullptr;
  const StatusServerCounters* server = nullptr;
};

std::string StatusJson(const StatusSources& sources, Instant now);
std::string MetricsText(const StatusSources& sources, const StatusTime& time);

// Over all workers.
struct ListenerTotals {
  int64_t accepted = 0;
  int64_t active = 0;
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
  std::array<int64_t, kCloseReasonCount> closes{};
};
ListenerTotals TotalsOf(const StatusSources& sources, size_t listener);
int64_t BytesToNode(const StatusSources& sources, NodeRef node);
int64_t BytesFromNode(const StatusSources& sources, NodeRef node);


}  // namespace hud
