// Two ends and two directions, as Relay moves bytes between them. A plain record: whoever derives from it has the memory, and Relay
// acts on it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/base/timer_wheel.h"
#include "core/base/types.h"
#include "core/policy/relay_policy.h"
#include "core/policy/stream_ends.h"
#include "ring/io/socket_calls.h"
#include "ring/loop/endpoint.h"
#include "ring/loop/private_bytes.h"

namespace hud {

// A large buffer that SEND_ZC may still be reading: not reused before every notification has come.
struct ZeroCopyBuffer {
  uint8_t* data = nullptr;
  uint8_t number = 0;          // in the tags of its sends
  uint32_t size = 0;           // bytes received into it
  uint32_t offset = 0;         // of those, accepted by the socket
  uint32_t notifications = 0;  // the kernel still owes

  Bytes unsent() const { return {data + offset, size - offset}; }
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

  bool HasUnsentZeroCopy() const { return !zero_copy.empty() && zero_copy.back().offset < zero_copy.back().size; }
  bool AnythingToSend() const { return !rest.empty() || !behind.empty() || pipe_bytes > 0 || HasUnsentZeroCopy(); }
  bool InUse() const { return AnythingToSend() || rest.data != nullptr || pipe || !zero_copy.empty(); }
};

enum class Engine : uint8_t { kSmall, kSplice, kZeroCopy };

// From `Side` s to the other. Held bytes are sent in this order: buffer, rest, behind, pipe or the last zero-copy buffer.
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
  bool heard : 1 = false;           // received since hidden ends were last looked for
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
  HeldBytes& EnsureHeld() {
    if (!held) held = std::make_unique<HeldBytes>();
    return *held;
  }
};
static_assert(sizeof(Direction) == 32);

// One timer, its base: whatever deadline comes first.
struct RelayState : TimerEntry {
  std::array<Endpoint, 2> ends;        // by Side
  std::array<Direction, 2> direction;  // by the source's Side
  Instant last_activity{};
  uint32_t slot = 0;
  uint16_t generation = 0;
  bool active : 1 = false;      // between Relay::Begin() and RelayOwner::OnRelayOver()
  bool watched : 1 = false;     // the owner is told of the node's bytes, and of its end
  bool keep_bulk_off : 1 = false;  // what the node says is still to be read: no bulk from it
  bool keep_alive : 1 = false;  // the node's socket has its keep-alive

  Endpoint& end(Side side) { return ends[Index(side)]; }
  const Endpoint& end(Side side) const { return ends[Index(side)]; }
  int fd(Side side) const { return ends[Index(side)].fd.get(); }
  bool Owes(Side side, Op op) const { return ends[Index(side)].Owes(op); }
  bool AnythingOwed() const { return !ends[0].IsQuiet() || !ends[1].IsQuiet() || notifications() != 0; }
  uint32_t notifications() const { return uint32_t{ends[0].notifications} + ends[1].notifications; }

  Direction& from(Side source) { return direction[Index(source)]; }
  const Direction& from(Side source) const { return direction[Index(source)]; }

  StreamEnds Ends() const {
    return {{direction[0].stream, direction[0].source_reset}, {direction[1].stream, direction[1].source_reset}};
  }
  void SetEnds(const StreamEnds& streams) {
    for (size_t i = 0; i < 2; ++i) {
      direction[i].stream = streams.of(i).stream;
      direction[i].source_reset = streams.of(i).reset;
    }
  }

  Tag TagOf(Op op, Side side, uint8_t number = 0) const { return {slot, generation, op, side, number, Room::kPassThrough}; }
};

}  // namespace hud
