// A descriptor and what the kernel owes for it. InFlightPinsMemory: while it owes anything, the descriptor, and what the requests
// point to, stay. RingLoop makes the requests and settles them.
#pragma once

#include <cstdint>

#include "core/os/fd.h"
#include "ring/io/operation.h"

namespace hud {

struct Endpoint {
  Fd fd;
  uint16_t owed = 0;           // bits of Op
  uint16_t notifications = 0;  // of zero-copy sends; they may come after the descriptor is closed

  bool Owes(Op op) const { return (owed >> static_cast<int>(op)) & 1; }
  bool IsSending() const { return Owes(Op::kSend) || Owes(Op::kZeroCopy); }
  // It owes nothing but notifications: the descriptor may close.
  bool IsQuiet() const { return owed == 0; }
};
static_assert(sizeof(Endpoint) == 8);

}  // namespace hud
