// What the process takes of the machine, as every Prometheus client library tells it (process_*).
#pragma once

#include <cstdint>

#include "core/os/fd.h"

namespace hud {

struct ProcessStats {
  double cpu_seconds = 0;      // user and system, of all threads
  int64_t resident_bytes = 0;
  int64_t virtual_bytes = 0;
  int64_t threads = 0;
  int64_t open_fds = 0;
  int64_t max_fds = 0;         // the limit in force
};

class ProcessStatsReader {
 public:
  // Keeps /proc/self/stat open, so that it can be read when no descriptor is left.
  ProcessStatsReader();
  ProcessStats Read() const;

 private:
  Fd stat_;
};

}  // namespace hud
