// One client's connection through the proxy: its state, its two directions, and what the kernel still owes it.
//
//   kHello → kDialing → kRelaying → kTerminating → free          kHello → kRejecting → kTerminating (TLS alert sent)
//
// A connection is a plain record; the Worker acts on it (ring/hello.cc, dial.cc, relay.cc, bulk.cc, terminate.cc).
// InFlightPinsMemory: while `pending` has a bit, the connection, its descriptors and what the request points to stay.
// What only some of its life needs is apart and freed again, because an idle relay is what a worker has most of:
// HelloContext until the resumption verdict has been read, HeldBytes while a direction is in bulk or its sink is slow.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/admission/loop_guard.h"
#include "core/base/timer_wheel.h"
#include "core/base/types.h"
#include "core/net/address.h"
#include "core/os/fd.h"
#include "core/policy/relay_policy.h"
#include "core/report/close_reason.h"
#include "core/routing/choice.h"
#include "core/tls/client_hello.h"
#include "core/tls/server_hello.h"
#include "ring/io/operation.h"
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

// What a direction has outside the shared ring.
struct HeldBytes {
  PrivateBytes rest;    // of what was sent before; the kernel may be reading it
  PrivateBytes behind;  // what came after that
  Pipe pipe;
  uint32_t pipe_bytes = 0;
  uint8_t next_number = 0;                // of the next zero-copy buffer
  Instant stalled_since{};                // meaningful while the sink's POLLOUT is pending
  uint8_t vain_wakes = 0;                 // in a row: the sink said it had room, and took nothing
  bool wait_by_timer = false;             // after too many of them: the relay's timer tries again
  std::vector<ZeroCopyBuffer> zero_copy;  // oldest first; only the last may have bytes that are not sent

  bool AnythingToSend() const {
    return !rest.empty() || !behind.empty() || pipe_bytes > 0 ||
           (!zero_copy.empty() && zero_copy.back().offset < zero_copy.back().size);
  }
  bool InUse() const { return AnythingToSend() || rest.data != nullptr || pipe || !zero_copy.empty(); }
};

enum class Engine : uint8_t { kSmall, kSplice, kZeroCopy };

enum class Stream : uint8_t {
  kOpen,      // the source may send more
  kEnded,     // its stream was read to the end; what is held still goes to the sink
  kFlushing,  // it ended with a reset, and the sink has been given all: once that is acknowledged, the sink is reset, too
  kFinished,  // the sink has been given the FIN
  kDiscard,   // the sink is gone: read and throw away until the source ends
};

// From `Side` s to the other. Held bytes are sent in this order: buffer, rest, behind, pipe.
struct Direction {
  Engine engine = Engine::kSmall;
  Stream stream = Stream::kOpen;
  bool has_buffer : 1 = false;         // `buffer` of the shared ring is being sent
  bool bulk_wanted : 1 = false;        // when all that is held has been sent
  bool in_ready_list : 1 = false;
  bool starved : 1 = false;            // waits for a buffer of the shared ring
  bool polls_at_once : 1 = false;      // the source's FIN is there: one-shot polls of it would complete at once
  bool small_again : 1 = false;        // leave the splice engine when the pipe is empty
  bool zero_copy_copied : 1 = false;   // the kernel copied after all: no use here
  bool zero_copy_refused : 1 = false;  // this socket cannot: not even when zero copy is forced
  RelayPolicy policy;
  uint16_t buffer = 0;
  // A socket tells its error once, to whichever operation asks first, and says 0 and EPIPE from then on. So it is kept here:
  // the source was reset, and its stream ends with that when all that came before has been read, whatever the read says.
  bool source_reset : 1 = false;
  bool told_reset : 1 = false;      // a read of the source said ECONNRESET: the kernel has closed it, and our close says nothing to it
  bool heard : 1 = false;           // received since LookForHiddenEnds() last looked
  bool in_heard_list : 1 = false;
  bool said_readable : 1 = false;   // a poll did, and nothing has been read since
  bool sink_error_hidden : 1 = false;  // perhaps: a transfer to the sink stopped short, and what stopped it told nobody else
  uint32_t buffer_length = 0;
  uint32_t discarded = 0;           // bytes thrown away in kDiscard (it is reset long before they overflow); in kFlushing,
                                    // bytes that the sink owed acknowledgements for when it was last asked
  uint64_t bytes = 0;               // of the source, that the sink's socket took
  std::unique_ptr<HeldBytes> held;  // null: nothing

  bool HoldsBytes() const { return has_buffer || (held && held->AnythingToSend()); }
  uint32_t pipe_bytes() const { return held ? held->pipe_bytes : 0; }
  HeldBytes& Held() {
    if (!held) held = std::make_unique<HeldBytes>();
    return *held;
  }
};
static_assert(sizeof(Direction) == 32);

enum class ConnectionState : uint8_t { kFree, kHello, kDialing, kRelaying, kRejecting, kTerminating };

// What is needed only until the resumption verdict has been read; freed then.
struct HelloContext {
  ClientHello hello;
  PrivateBytes bytes;                // received and not yet sent to a node
  bool parsed = false;               // `hello` holds a complete ClientHello
  bool proxy_header_taken = false;
  uint16_t header_bytes = 0;         // of `bytes`, the PROXY header for the node in front of what the client sent
  SocketAddress proxied_client;      // as a PROXY header says; AF_UNSPEC without one
  SocketAddress proxied_local;       // what that client connected to
  SocketAddress node_address;        // the kernel reads it when the connect is submitted; the table may be gone by then
  Instant dial_began{};
  Instant dial_deadline{};           // of all attempts to connect
  Instant attempt_deadline{};        // of this one
  bool attempt_timed_out = false;
  bool local_dial_error = false;
  bool shortage = false;             // of something that comes back, met in this round of attempts
  bool waits_to_dial = false;        // for it to pass
  uint8_t shortages = 0;             // rounds that met one
  uint8_t dials = 0;                 // connects so far; in the tags of the last one
  std::array<NodeIndex, limits::kMaxDialAttempts> tried{};
  std::vector<uint8_t> server_bytes; // the node's first bytes, while they are too few for a verdict
};

// A node as the log names it. Its connections share it: the configuration may give the name another address, and the slot
// another node, while they live.
struct NodeLabel {
  std::string name;
  SocketAddress address;
  std::string address_text;
};

// What nothing but a connection's line in the log wants to know.
struct LogContext {
  uint64_t id = 0;
  InternetEndpoint balancer;              // that spoke for the client in a PROXY header
  std::shared_ptr<const NodeLabel> node;  // dialed last
  std::unique_ptr<char[]> server_name;    // ends with a zero byte
};

// As a record keeps them: up to 71 minutes.
inline uint32_t Microseconds(Duration d) {
  return static_cast<uint32_t>(std::min<int64_t>(d / std::chrono::microseconds(1), UINT32_MAX));
}

// A connection has one timer, its base: whatever deadline comes first.
struct Connection : TimerEntry {
  ConnectionState state = ConnectionState::kFree;
  CloseReason close_reason = CloseReason::kDone;
  uint16_t generation = 0;
  uint32_t slot = 0;
  std::array<Fd, 2> fd;                  // by Side
  std::array<uint16_t, 2> pending{};     // by Side: bits of Op
  uint16_t zero_copy_owed = 0;           // notifications of SEND_ZC; they may come after the descriptor is closed
  uint8_t attempts = 0;
  bool counted_active : 1 = false;       // in NodeCounters::active of choice.node
  bool joined : 1 = false;               // relaying with choice.node has begun
  bool verdict_pending : 1 = false;
  bool answer_judged : 1 = false;        // the node has said something, or is known not to answer
  bool keep_alive : 1 = false;           // the node's socket has its keep-alive
  bool counted_in_pool : 1 = false;      // in PoolCounters::active of route.pool
  std::array<Direction, 2> direction;    // by the source's Side
  Instant last_activity{};
  std::unique_ptr<HelloContext> context;

  // What was decided, and what the log will say.
  ListenerIndex listener{};
  RouteChoice route;
  NodeChoice choice;
  HelloVerdict hello_verdict = HelloVerdict::kNeedMore;
  NotTlsKind not_tls = NotTlsKind::kNone;
  HelloFlaw hello_flaw = HelloFlaw::kNone;
  ResumptionVerdict resumption = ResumptionVerdict::kUnknown;
  bool tls13 : 1 = false, early_data : 1 = false, ech : 1 = false;
  InternetEndpoint client_address;        // of the socket, or as a PROXY header says
  uint32_t token_digest = 0;
  uint32_t loop_cell = LoopGuard::kNone;  // that it is counted in
  uint32_t hello_microseconds = 0;
  uint32_t connect_microseconds = 0;
  Instant accepted_at{};
  std::unique_ptr<LogContext> log;       // null when connections are not logged

  bool IsPending(Side side, Op op) const { return (pending[Index(side)] >> static_cast<int>(op)) & 1; }
  bool AnythingPending() const { return pending[0] != 0 || pending[1] != 0 || zero_copy_owed != 0; }
  uint64_t TagOf(Op op, Side side) const { return Tag{slot, generation, op, side}.Pack(); }
  // Of a connect and the hello's send behind it. Never 0, so that neither is taken for another send.
  uint8_t DialNumber() const { return static_cast<uint8_t>(context->dials % 255 + 1); }
  uint64_t DialTagOf(Op op) const { return Tag{slot, generation, op, Side::kNode, DialNumber()}.Pack(); }
};

// The memory of an idle relay is this and its LogContext, and nothing else of ours.
static_assert(sizeof(Connection) <= 208);

}  // namespace hud
