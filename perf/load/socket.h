// Sockets that do not block, and what their calls answer.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "core/net/address.h"
#include "core/os/fd.h"

namespace hud::load {

// The soft limit on descriptors becomes the hard one, which is the answer.
size_t RaiseDescriptorLimit();

// So many listening sockets on one address, among which the kernel spreads the connections. An error when somebody else
// listens there.
absl::StatusOr<std::vector<Fd>> ListenOn(const SocketAddress& address, int count);
SocketAddress LocalAddress(int fd);

// Where nobody listens on a port that the kernel also gives to clients, loopback may connect a socket to itself.
bool IsConnectedToItself(int fd);
absl::StatusOr<Fd> MakeEvent();  // an eventfd, for waking a thread
void Signal(const Fd& event);

// Small messages leave at once.
void DisableNagle(int fd);

// What a call on a socket that does not block came to: bytes moved, "not now", or the end with its errno (0: the other
// side has finished).
struct Moved {
  ssize_t bytes = 0;
  bool ended = false;
  int error = 0;
};
Moved ReceiveSome(int fd, void* buffer, size_t size, int flags = 0);
Moved SendSome(int fd, const void* data, size_t size);

// "connect to 127.0.0.1:1: Connection refused", with advice where there is some.
absl::Status SocketError(std::string_view what, int error);

}  // namespace hud::load
