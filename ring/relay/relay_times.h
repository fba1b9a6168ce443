// What a relay waits for by the clock, because no completion tells it. Relay::OnTimer() acts on these, and
// relay_invariants.cc finds a timer that would come later.
#pragma once

#include <chrono>

#include "core/base/types.h"

namespace hud {

// What a stalled sink leaves in a pipe moves to private memory after this time, and the pipe goes to somebody else.
inline constexpr Duration kPipeStall = std::chrono::milliseconds(100);
// A node whose sink is gone is asked this often whether it has acknowledged all.
inline constexpr Duration kDiscardCheck = std::chrono::milliseconds(20);
// How soon a sink whose source was reset is asked again whether it has acknowledged all: the longer it has acknowledged
// nothing, the later, up to the second of these.
inline constexpr Duration kAcknowledgedCheck = std::chrono::milliseconds(10);
inline constexpr Duration kLatestAcknowledgedCheck = std::chrono::milliseconds(80);
// A side that has ended its stream is no longer read. If it does not go altogether within this time from when its sink has all of it,
// it is watched.
inline constexpr Duration kHalfClosedWatch = std::chrono::milliseconds(30);
// A socket can say that it has room and take nothing, while the machine is short of socket memory: it is asked again by the
// clock then, for such a poll would complete at once, again and again.
inline constexpr Duration kVainPause = std::chrono::milliseconds(10);

}  // namespace hud
