// One line for each finished connection. A thread of its own empties the workers' queues, formats and samples, so that
// neither the workers nor the beacons ever wait for it; what a full queue refuses is counted by the worker.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

#include "core/base/spsc_queue.h"
#include "core/os/log.h"
#include "core/report/connection_record.h"

namespace hud {

// "error" as an operator means it: something of ours or of a node's went wrong, or somebody sent what nobody should.
bool IsUnusualClose(CloseReason reason);

LogLine FormatConnection(const ConnectionRecord& record, LogFormat format);

class AccessLog {
 public:
  // Everything outlives the access log. `sample`: the share, 0 to 1, of the connections that ended as usual that is logged;
  // the others always are. The queues have no other consumer.
  AccessLog(std::vector<SpscQueue<ConnectionRecord>*> queues, const Log* log, double sample);
  ~AccessLog();  // logs what is still queued

 private:
  void Run();
  size_t Drain(SpscQueue<ConnectionRecord>& queue);

  std::vector<SpscQueue<ConnectionRecord>*> queues_;
  const Log* log_;
  const double sample_;
  double owed_ = 0;  // lines that the share has earned so far
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace hud
