// What is true of every connection, and of a worker's sums, at the end of each turn of its loop. Looked at in builds for
// debugging and for sanitizers, and by the unit tests (PassThrough::Options::check_invariants); never in a release that serves.
//
//   SomethingAlwaysFollows  each direction that is not over has an event to come that moves it on, and each connection a timer
//   TimersAreInTime         what is waited for by the clock is looked at no later than it is due
//   WhoIsNotReadIsWatched   a source that may still send, and is not read because its sink has stalled, has a poll for its end
//   OneReader               a receive and a direct read of the same source are never under way together
//   BytesStayInOrder        one send in flight a direction, and what is held goes out in the order in which it came
//   InFlightPinsMemory      what the kernel owes has its descriptor and its memory; a free slot owes nothing
//   IdleIsFree              a direction with nothing to hold has no memory for it
//   WhoAwaitsASendSaysSo    a send that something is to follow is announced (RingLoop::AwaitSend)
//   SumsAreRight            counters and gauges are what a recount finds
//   OneCloseReason          who was accepted and has left has left for one counted reason
#pragma once

#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/base/limits.h"
#include "ring/pass_through/connection.h"

namespace hud {

// The first of them that this connection breaks, as "Name: what is wrong"; null if there is none.
const char* BrokenInvariant(const Connection& c, Instant now);

// Is something to follow its send to `sink`, which is on its way?
bool FollowsASend(const Connection& c, Side sink);

// Its state in one line, for whoever reads the core dump.
std::string Describe(const Connection& c, Instant now);

// What the connections of a worker add up to.
struct Recount {
  int64_t used = 0, in_hello = 0, dialing = 0, relaying = 0;
  int64_t open = 0;  // with a client's descriptor; the others wait for notifications of zero-copy sends only
  int64_t timers = 0;
  int64_t private_bytes = 0, hello_bytes = 0;
  int64_t pipes = 0, pipe_bytes = 0;
  int64_t shared_buffers = 0;
  int64_t in_ready_list = 0, starved = 0, in_heard_list = 0;  // directions
  std::array<int64_t, limits::kMaxListenerSlots> of_listener{};  // open ones
  std::array<int32_t, limits::kMaxNodes> of_node{};
  std::array<int32_t, limits::kMaxPoolSlots> of_pool{};

  void Add(const Connection& c);
};

// What a worker keeps for these checks. Made once: a check asks for no memory, for tests let any request for it fail.
struct InvariantChecks {
  // All connections are looked at and added up in every turn of a worker that has few. With more it takes turns: as many as this
  // a turn on the average, so that tests with thousands of them stay quick, and in each turn those that completions were for.
  static constexpr size_t kPerTurn = 128;

  size_t buffers = 0;  // of the shared ring
  size_t turns = 0;    // since all connections were looked at
  // By slot and sink: a send was pending at the end of the turn before. Its completion is overdue then, and a ring that keeps one
  // back (a test's, or one whose queues are full) does not wait with it. Kept only while all are looked at in every turn.
  std::bitset<2 * kPerTurn> sends_seen;
  Recount recount;
};

}  // namespace hud
