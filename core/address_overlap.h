#pragma once

#include "core/address.h"

namespace hud {

// Does a socket on `a` take what one on `b` is for? "[::]:443" serves IPv4, too.
bool Overlap(const SocketAddress& a, const SocketAddress& b);

}  // namespace hud
