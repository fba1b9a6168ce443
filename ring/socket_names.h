// Who is at the other end of a socket, and which of our addresses it reached. AF_UNSPEC of a socket that is gone.
#pragma once

#include <sys/socket.h>

#include "core/address.h"

namespace hud {

inline SocketAddress NameOf(int fd, int (*ask)(int, sockaddr*, socklen_t*)) {
  sockaddr_storage address;
  socklen_t size = sizeof address;
  if (ask(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return SocketAddress();
  return SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&address), size);
}

inline SocketAddress PeerOf(int fd) {
  return NameOf(fd, [](int s, sockaddr* name, socklen_t* size) { return getpeername(s, name, size); });
}
inline SocketAddress LocalOf(int fd) {
  return NameOf(fd, [](int s, sockaddr* name, socklen_t* size) { return getsockname(s, name, size); });
}

}  // namespace hud
