// One client's connection through the proxy: its state, its two directions, and what the kernel still owes it.
//
//   kHello → kDialing → kRelaying → kTerminating → free          kHello → kRejecting → kTerminating (TLS alert sent)
//
// A connection is a plain record; the Worker acts on it (ring/hello.cc, dial.cc, relay.cc, bulk.cc, terminate.cc).
// InFlightPinsMemory: while `pending` has a bit, the connection, its descriptors and what the request points to stay.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/choice.h"
#include "core/address.h"
#include "core/client_hello.h"
#include "core/close_reason.h"
#include "core/fd.h"
#include "core/relay_policy.h"
#include "core/server_hello.h"
#include "core/timer_wheel.h"
#include "core/types.h"
#include "ring/operation.h"
#include "ring/pipe_pool.h"

namespace hud {

// Memory of one connection, outside the shared ring: held hellos and what a stalled sink left behind. Counted.
struct PrivateBytes {
  std::unique_ptr<uint8_t[]> data;
  uint32_t capacity = 0;
  uint32_t size = 0;
  uint32_t offset = 0;  // sent already
  bool empty() const { return offset == size; }
  Bytes rest() const { return {data.get() + offset, size - offset}; }
};

// A large buffer that SEND_ZC may still be reading: not reused before every notification has come.
struct ZeroCopyBuffer {
  uint8_t* data = nullptr;
  uint8_t number = 0;          // in the tags of its sends
  uint32_t size = 0;           // bytes received into it
  uint32_t offset = 0;         // of those, accepted by the socket
  uint32_t notifications = 0;  // the kernel still owes
};

enum class Engine : uint8_t { kSmall, kSplice, kZeroCopy };

enum class Stream : uint8_t {
  kOpen,      // the source may send more
  kEnded,     // its FIN was read; what is held still goes to the sink
  kFinished,  // the sink has been given the FIN
  kDiscard,   // the sink is gone after its own stream ended: read and throw away until the source ends
};

// From `Side` s to the other. Held bytes are sent in this order: buffer, residue[0], residue[1], pipe.
struct Direction {
  Engine engine = Engine::kSmall;
  Stream stream = Stream::kOpen;
  bool has_buffer = false;    // `buffer` of the shared ring is being sent
  bool bulk_wanted = false;   // when all that is held has been sent
  bool in_ready_list = false;
  bool starved = false;       // waits for a buffer of the shared ring
  bool fin_seen = false;      // a poll saw the source's FIN before it was read
  bool small_again = false;   // leave the splice engine when the pipe is empty
  bool zero_copy_copied = false;   // the kernel copied after all: no use here
  bool zero_copy_refused = false;  // this socket cannot: not even when zero copy is forced
  RelayPolicy policy;
  uint16_t buffer = 0;
  uint32_t buffer_length = 0;
  uint32_t pipe_bytes = 0;
  std::array<PrivateBytes, 2> residue;
  Pipe pipe;
  Instant stalled_since{};    // meaningful while the sink's POLLOUT is pending
  uint64_t bytes = 0;         // read from the source
  uint64_t discarded = 0;     // bytes thrown away in kDiscard
  uint8_t next_number = 0;    // of the next zero-copy buffer
  std::vector<ZeroCopyBuffer> zero_copy;  // oldest first; only the last may have bytes that are not sent

  bool HoldsBytes() const {
    return has_buffer || !residue[0].empty() || !residue[1].empty() || pipe_bytes > 0 ||
           (!zero_copy.empty() && zero_copy.back().offset < zero_copy.back().size);
  }
};

enum class ConnectionState : uint8_t { kFree, kHello, kDialing, kRelaying, kRejecting, kTerminating };

// What is needed only until the resumption verdict has been read; freed then.
struct HelloContext {
  ClientHello hello;
  SocketAddress node_address;        // the kernel reads it when the connect is submitted; the table may be gone by then
  bool parsed = false;               // `hello` holds a complete ClientHello
  bool proxy_header_taken = false;
  std::vector<uint8_t> server_bytes; // the node's first bytes, while they are too few for a verdict
};

// A connection has one timer, its base: whatever deadline comes first.
struct Connection : TimerEntry {
  ConnectionState state = ConnectionState::kFree;
  uint32_t slot = 0;
  uint16_t generation = 0;
  std::array<Fd, 2> fd;                  // by Side
  std::array<uint16_t, 2> pending{};     // by Side: bits of Op
  uint16_t zero_copy_owed = 0;           // notifications of SEND_ZC; they may come after the descriptor is closed
  std::array<Direction, 2> direction;    // by the source's Side

  Instant last_activity{};
  Instant state_deadline{};              // of this attempt to connect
  Instant dial_deadline{};               // of all attempts

  // What was decided, and what the log will say.
  ListenerIndex listener{};
  RouteChoice route;
  NodeChoice choice;
  std::array<NodeIndex, limits::kMaxDialAttempts> tried{};
  uint8_t attempts = 0;
  bool counted_active = false;           // in NodeCounters::active of choice.node
  bool joined = false;                   // relaying with choice.node has begun
  bool attempt_timed_out = false;
  bool local_dial_error = false;
  CloseReason close_reason = CloseReason::kDone;
  HelloVerdict hello_verdict = HelloVerdict::kNeedMore;
  NotTlsKind not_tls = NotTlsKind::kNone;
  ResumptionVerdict resumption = ResumptionVerdict::kUnknown;
  bool verdict_pending = false;
  bool tls13 = false, early_data = false, ech = false;
  uint32_t token_digest = 0;
  Instant accepted_at{};
  Duration hello_time{};
  Duration connect_time{};
  Instant dial_began{};
  std::string server_name;
  std::string node_name;
  SocketAddress client_address;  // of the socket, or as a PROXY header says
  SocketAddress local_address;   // known only from a PROXY header
  std::unique_ptr<HelloContext> context;

  bool IsPending(Side side, Op op) const { return (pending[Index(side)] >> static_cast<int>(op)) & 1; }
  bool AnythingPending() const { return pending[0] != 0 || pending[1] != 0 || zero_copy_owed != 0; }
  uint64_t TagOf(Op op, Side side) const { return Tag{slot, generation, op, side}.Pack(); }
};

// The memory of an idle relay is this and nothing else of ours; a worker's slab is this times its share of max_connections.
static_assert(sizeof(Connection) <= 832);

}  // namespace hud
