// What a worker counts. Written by that worker only, read by control. No other core writes to this memory, so counting
// costs an addition: bytes are counted as they move, not when their connection ends.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "core/base/counter.h"
#include "core/base/limits.h"
#include "core/report/close_reason.h"
#include "core/routing/choice.h"
#include "core/tls/client_hello.h"

namespace hud {

// By listener. Those that are open: what was accepted less what was closed.
struct ListenerCounters {
  Counter accepted;
  Counter bytes_in, bytes_out;
  std::array<Counter, kCloseReasonCount> closes;
  DurationHistogram<6, 20> hello_time;  // accept → hello complete or judged; 64 µs to 34 s

  // Those that are open. What has ended is read first, so that they are never fewer than none.
  int64_t active() const {
    int64_t ended = 0;
    for (const Counter& reason : closes) ended += reason.Get();
    return accepted.Get() - ended;
  }
  // By control, when the slot is free: no worker has a connection of it, or will count anything here before it is given to
  // another listener.
  void Reset() {
    for (Counter* counter : {&accepted, &bytes_in, &bytes_out}) counter->Set(0);
    for (Counter& reason : closes) reason.Set(0);
    hello_time.Reset();
  }
};

struct PoolTraffic {
  Counter bytes_in, bytes_out;
  DurationHistogram<6, 20> connect_time;      // first attempt → connected; 64 µs to 34 s
  DurationHistogram<10, 28> connection_time;  // accept → end, of those that were joined to a node; 1 ms to 38 h

  // As for a listener.
  void Reset() {
    bytes_in.Set(0);
    bytes_out.Set(0);
    connect_time.Reset();
    connection_time.Reset();
  }
};

// A slot of the NodeTable is given to another node in time; what was counted for the one before is then no longer shown.
class NodeTraffic {
 public:
  void Add(uint16_t generation, int64_t in, int64_t out) {
    if (generation_.load(std::memory_order_relaxed) != generation) {
      bytes_in_.Set(0);
      bytes_out_.Set(0);
      generation_.store(generation, std::memory_order_release);
    }
    bytes_in_.Add(in);
    bytes_out_.Add(out);
  }
  int64_t BytesIn(uint16_t generation) const { return Holds(generation) ? bytes_in_.Get() : 0; }
  int64_t BytesOut(uint16_t generation) const { return Holds(generation) ? bytes_out_.Get() : 0; }

 private:
  bool Holds(uint16_t generation) const { return generation_.load(std::memory_order_acquire) == generation; }

  std::atomic<uint16_t> generation_{0};
  Counter bytes_in_, bytes_out_;
};

// A new one of its plain numbers has a row in control/status/worker_counter_rows.h, and is shown by that.
struct alignas(128) WorkerCounters {
  Counter accepted;
  Counter active;            // gauge: connections in any state
  Counter in_hello;          // gauge
  Counter dialing;           // gauge
  Counter relaying;          // gauge
  Counter bytes_in;          // client → node, as they move
  Counter bytes_out;         // node → client
  Counter accept_backoffs;   // EMFILE, ENFILE, ENOMEM at accept
  Counter over_limit;        // connections accepted and closed at once, for want of a place
  Counter connection_limit;  // gauge: max_connections, of all workers together
  Counter limit_reached;     // times it found all places in use
  Counter evicted_for_places, evicted_for_hellos;  // connections that made room
  Counter hello_budget_refused;  // clients closed for want of memory for their hello
  Counter connect_failures;
  Counter connect_retries;
  Counter hello_complete, hello_not_tls, hello_malformed, hello_too_large;
  std::array<Counter, kNotTlsKindCount> not_tls;  // by NotTlsKind
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
  Counter last_turn_ns;      // gauge, of the steady clock: when the last turn began
  Counter records_dropped;   // access-log records that found the queue full
  std::array<Counter, kCloseReasonCount> closes;
  std::array<Counter, kChoiceReasonCount> choices;  // by ChoiceReason
  std::array<ListenerCounters, limits::kMaxListenerSlots> listeners;  // by ListenerIndex
  std::array<PoolTraffic, limits::kMaxPoolSlots> pools;           // by PoolIndex
  std::array<NodeTraffic, limits::kMaxNodes> nodes;               // by NodeIndex
};

}  // namespace hud
