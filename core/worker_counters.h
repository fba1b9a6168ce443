// What a worker counts. Written by that worker only, read by control: relaxed atomics, so that both may.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "core/choice.h"
#include "core/client_hello.h"
#include "core/close_reason.h"

namespace hud {

// One writer: a load and a store, no locked instruction.
class Counter {
 public:
  void Add(int64_t n = 1) { value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed); }
  void Set(int64_t n) { value_.store(n, std::memory_order_relaxed); }
  int64_t Get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

struct WorkerCounters {
  Counter accepted;
  Counter active;            // gauge: connections in any state
  Counter in_hello;          // gauge
  Counter dialing;           // gauge
  Counter relaying;          // gauge
  Counter bytes_in;          // client → node
  Counter bytes_out;         // node → client
  Counter accept_backoffs;   // EMFILE, ENFILE, ENOMEM at accept
  Counter over_limit;        // connections accepted and closed at once, for want of a place
  Counter connection_limit;  // gauge: this worker's share of max_connections
  Counter limit_reached;     // times it stopped accepting because its share was in use; clients then wait in the backlog
  Counter connect_failures;
  Counter connect_retries;
  Counter hello_complete, hello_not_tls, hello_malformed, hello_too_large;
  std::array<Counter, 7> not_tls;  // by NotTlsKind
  std::array<Counter, kHelloFlawCount> hello_flaws;  // by HelloFlaw
  Counter hello_bytes_held;  // gauge: private memory of held hellos
  Counter private_bytes;     // gauge: residues of stalled directions
  Counter buffers_free;      // gauge: of the shared ring
  Counter buffers_exhausted; // times recv met ENOBUFS
  Counter pipes_held;        // gauge
  Counter pipe_bytes;        // gauge: capacity of pipes held
  Counter splice_entered;    // times a direction went to bulk
  Counter splice_left;
  Counter zerocopy_sends, zerocopy_copied;
  Counter cq_overflows;
  Counter loops;             // turns of the event loop; a watchdog sees it stand still
  Counter records_dropped;   // access-log records that found the queue full
  std::array<Counter, kCloseReasonCount> closes;
  std::array<Counter, 8> choices;  // by ChoiceReason
};

}  // namespace hud
