// A thread whose waiting for a core would count as the latency of what is measured.
#pragma once

namespace hud::load {

// Puts the calling thread ahead of all ordinary ones on its core. False when that is not permitted (it takes root, or
// CAP_SYS_NICE): then it takes turns like any other.
bool GoAheadOfOthers();

}  // namespace hud::load
