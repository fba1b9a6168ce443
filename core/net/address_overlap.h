#pragma once

#include "core/net/address.h"

namespace hud {

// Does a socket on `a` take what one on `b` is for? "[::]:443" serves IPv4, too.
bool Overlap(const SocketAddress& a, const SocketAddress& b);

// Would a connect to `to` from this machine arrive at a socket bound to `bound`? A wildcard takes what goes to loopback, and
// a connect to a wildcard goes to loopback. The addresses of interfaces are not known here.
bool WouldReach(const SocketAddress& to, const SocketAddress& bound);

// Is `bound` a wildcard that takes what goes to `to`, if that is an address of this machine?
bool WildcardTakes(const SocketAddress& bound, const SocketAddress& to);

}  // namespace hud
