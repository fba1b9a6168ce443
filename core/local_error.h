// Whose fault is an errno of a socket operation? Ours: no port, no memory, no descriptor, a full backlog of a unix socket, a
// local rule. Never the peer's: it marks no node down, and is no end of anybody's stream.
#pragma once

#include <cerrno>

namespace hud {

// Passes by itself: worth another try a little later.
constexpr bool IsPassingShortage(int error) {
  switch (error) {
    case EADDRNOTAVAIL:
    case EADDRINUSE:
    case EAGAIN:
    case ENOBUFS:
    case ENOMEM:
    case EMFILE:
    case ENFILE: return true;
    default: return false;
  }
}

constexpr bool IsLocalError(int error) { return IsPassingShortage(error) || error == EPERM || error == EACCES; }

}  // namespace hud
