// What a completion belongs to, packed into the 64 bits of user_data: the room of the worker that asked, connection slot, its
// generation, operation, side, and a number: of the buffer for zero-copy sends, of the attempt for a connect and the hello's send
// behind it.
// Generations catch a completion that would outlive its connection, which InFlightPinsMemory forbids.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hud {

enum class Room : uint8_t {
  kWorker,       // its listening sockets and its eventfd
  kPassThrough,
};

enum class Side : uint8_t { kClient = 0, kNode = 1 };
constexpr Side Other(Side side) { return side == Side::kClient ? Side::kNode : Side::kClient; }
constexpr size_t Index(Side side) { return static_cast<size_t>(side); }

enum class Op : uint8_t {
  kIgnored,     // a cancel request: its own result says nothing that its target's does not
  kAccept,      // slot = number of the listening socket
  kWake,        // the worker's eventfd
  kRecv,        // into a buffer of the shared ring
  kSend,        // never waits
  kZeroCopy,    // SEND_ZC; two completions: result, then notification
  kConnect,     // with the kSend of the hello linked behind it: one of the two completes, seldom both (ring.h)
  kPollIn,      // readable, for a side that is read with splice or into a zero-copy buffer
  kPollOut,     // writable, for a sink that did not take all
  kPollError,   // a paused or waiting side: reset or end of the peer
};

struct Tag {  // bit 62 of it is the ring's (kRingsOwn)
  uint32_t slot = 0;  // 24 bits: 16 million connections of a worker
  uint16_t generation = 0;
  Op op = Op::kIgnored;
  Side side = Side::kClient;
  uint8_t number = 0;
  Room room = Room::kPassThrough;

  uint64_t Pack() const {
    return uint64_t{slot & 0xffffff} | (uint64_t{static_cast<uint8_t>(room)} << 24) | (uint64_t{generation} << 32) |
           (uint64_t{number} << 48) | (uint64_t{static_cast<uint8_t>(op)} << 56) | (uint64_t{static_cast<uint8_t>(side)} << 63);
  }
  static Tag Unpack(uint64_t user_data) {
    return {.slot = static_cast<uint32_t>(user_data) & 0xffffff,
            .generation = static_cast<uint16_t>(user_data >> 32),
            .op = static_cast<Op>((user_data >> 56) & 0x3f),
            .side = static_cast<Side>(user_data >> 63),
            .number = static_cast<uint8_t>(user_data >> 48),
            .room = static_cast<Room>(static_cast<uint8_t>(user_data >> 24))};
  }
};

}  // namespace hud
