// What the client of hud-load is asked to do.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/net/address.h"
#include "perf/load/hello.h"
#include "perf/load/order.h"

namespace hud::load {

struct ClientOptions {
  SocketAddress target;
  std::string load;                            // as on the command line, for the report
  Operation operation = Operation::kExchange;  // of all connections
  bool one_exchanges = false;                  // but the first one, in a mixed or stalled load, is a kProbe
  uint32_t connections = 1;
  uint32_t request_bytes = 64;
  uint32_t response_bytes = 64;
  bool ends_by_reset = false;  // kConnect
  double rate = 0;             // exchanges a second over all connections; 0: as fast as they go
  double warmup_seconds = 0.3;
  double seconds = 2;
  int threads = 1;
  HelloShape hello;
  std::vector<pid_t> pids;
};

}  // namespace hud::load
