#include "perf/load/priority.h"

#include <sched.h>

namespace hud::load {

bool GoAheadOfOthers() {
  const sched_param lowest_realtime{.sched_priority = 1};
  if (::sched_setscheduler(0, SCHED_FIFO, &lowest_realtime) == 0) return true;
  const sched_param no_priority{};
  ::sched_setscheduler(0, SCHED_OTHER, &no_priority);  // the others of a server are SCHED_BATCH
  return false;
}

}  // namespace hud::load
