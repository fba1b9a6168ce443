// Why an engine stopped, and what it had moved by then. What follows is for Relay to decide (relay_bulk.cc).
#pragma once

#include <cstddef>
#include <cstdint>

namespace hud {

enum class Stop : uint8_t {
  kSourceEmpty,     // all that was there has been read
  kNothingToRead,   // not a byte was there
  kSourceEnded,     // a read said 0
  kSourceError,
  kSinkFull,
  kSinkError,
  kAllSent,         // nothing is held any more, and the source's stream is over
  kTurnOver,        // there is more to move: others have their turn first
  kSmallAgain,      // what came of late was too little for this engine
  kNoPipe,
  kNoBuffer,        // for zero copy, or it is of no use here
  kAllOnTheirWay,   // all zero-copy buffers of the direction await their notifications
  kReceived,        // into a zero-copy buffer, which is to be sent
};

struct Pumped {
  Stop stop;
  int error = 0;   // errno, of kSourceError and kSinkError
  size_t in = 0;   // bytes that the source gave
  size_t out = 0;  // bytes that the sink's socket took
};

}  // namespace hud
