// What is true of every relay at the end of each turn (pass_through/invariants.h has the list, and looks).
#pragma once

#include <string>

#include "ring/relay/relay_state.h"

namespace hud {

// The first of them that this relay breaks, as "Name: what is wrong"; null if there is none. Of one that is over, only what must still
// hold.
const char* BrokenInvariant(const RelayState& r, Instant now);

// Is something to follow its send to `sink`, which is on its way? The return of a shared buffer alone is worth no announcement: it can
// wait until something else happens.
bool FollowsASend(const RelayState& r, Side sink);

uint32_t NotificationsOwed(const Direction& d);

std::string Describe(const RelayState& r);

}  // namespace hud
