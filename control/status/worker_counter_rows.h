// One table for a worker's plain numbers: /status and /metrics are both made from it, so that neither lacks what the other
// has. A new Counter in core/report/worker_counters.h gets one row here, and one in deploy/reference.md (a test says which).
#pragma once

#include <span>

#include "core/report/worker_counters.h"

namespace hud {

struct WorkerCounterRow {
  const char* name;    // in /status, under "workers"
  const char* metric;  // in /metrics, with the label "worker"; null: shown there in another shape, added up over the workers
  enum class Kind : uint8_t { kCounter, kGauge } kind;
  const char* help;    // one whole sentence
  Counter WorkerCounters::*counter;
};

std::span<const WorkerCounterRow> WorkerCounterRows();

}  // namespace hud
