// Whose unfinished ClientHellos make room when the memory for them is used up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/base/types.h"

namespace hud {

struct HeldHello {
  uint64_t source;  // a hash
  size_t bytes;
  Instant since;
  uint32_t slot;
};

// The one for whose bytes room is to be made. It is none of the held ones, and does not go itself.
struct HelloNewcomer {
  uint64_t source = 0;
  size_t bytes = 0;  // that are held of it already
};

// The slots of the hellos to end, until `wanted` bytes are free: always the oldest one of the source that holds most by then,
// and of two that hold the same, of the one whose hello is older. Fewer if that is the newcomer's source and it has no other. Takes time as
// sorting does: ask for more than one hello's bytes at once.
std::vector<uint32_t> HellosToEnd(std::vector<HeldHello> held, const HelloNewcomer& newcomer, size_t wanted);

}  // namespace hud
