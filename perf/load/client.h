// hud-load's client: sets up the connections, lets the load warm up, measures for a while, and tells what it saw.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "perf/load/client_options.h"
#include "perf/load/cpu_sample.h"
#include "perf/load/histogram.h"

namespace hud::load {

struct ClientResult {
  double seconds = 0;  // between the samples at the window's two ends
  uint64_t operations = 0;
  uint64_t bytes = 0;
  uint64_t failures = 0;
  std::string trouble;      // a sentence on why the figures are not to be used; empty: they are
  std::string interrupted;  // a sentence on the signal that made the window shorter; empty: none came
  Histogram latencies;      // in nanoseconds
  bool realtime = false;    // what exchanged in a mixed load waited for no other thread of the client
  // Where used.own_ns comes near `seconds` for each thread, the client was the limit and not what it loads. That is for
  // the reader to judge: on a core shared with the server the sum of both is what counts.
  CpuSample used;
};

// An error is one of setting up: nothing was measured. Prints only the line {"ready":N} of an idle load, whose window
// then lasts until standard input ends. SIGINT and SIGTERM end it early, and so does a server that says nothing before
// the window; in the window silence is something to measure.
absl::StatusOr<ClientResult> RunClient(ClientOptions options);

// The result as one line of JSON.
std::string Report(const ClientOptions& options, const ClientResult& result);

}  // namespace hud::load
