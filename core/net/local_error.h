// Whose fault is an errno of a socket operation? Local: no port, no memory, no descriptor, a full backlog of a unix socket, a
// local rule. Never the peer's: it marks no node down.
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

// Says of an established connection that it is over: the peer's word, or the network's (the kernel makes the latter of ICMP
// messages, icmp_err_convert[]). Any other errno is no end of anybody's stream.
constexpr bool EndsAConnection(int error) {
  switch (error) {
    case ECONNRESET:
    case EPIPE:
    case ETIMEDOUT:
    case ECONNABORTED:
    case ECONNREFUSED:
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case ENETUNREACH:
    case ENETDOWN:
    case ENONET:
    case ENOPROTOOPT:
    case EPROTO: return true;
    default: return false;
  }
}

}  // namespace hud
