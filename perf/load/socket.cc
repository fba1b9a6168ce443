#include "perf/load/socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace hud::load {

size_t RaiseDescriptorLimit() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  ::getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

absl::Status SocketError(std::string_view what, int error) {
  std::string text = absl::StrCat(absl::string_view(what.data(), what.size()), ": ", std::strerror(error));
  if (error == EMFILE || error == ENFILE) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    absl::StrAppend(&text, "; the hard limit is ", limit.rlim_max, ": raise it (ulimit -Hn) or use fewer connections");
  } else if (error == EADDRNOTAVAIL) {
    absl::StrAppend(&text, "; no port is free: use fewer connections, --end rst, or a target in 127.0.0.0/8");
  }
  return absl::UnavailableError(text);
}

namespace {

absl::Status ListenError(const SocketAddress& address, int error) {
  const std::string what = absl::StrCat("listen on ", address.ToString());
  const auto with_advice = [&](absl::string_view advice) {
    return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(error), "; ", advice));
  };
  if (error == EADDRNOTAVAIL) return with_advice("this machine has no such address (`ip address` lists those it has)");
  if (error != EADDRINUSE) return SocketError(what, error);
  if (address.IsUnix()) return with_advice("end the server that listens there, or remove what one has left behind");
  return with_advice("somebody listens there already (`ss -ltnp` shows who): end that, or take another port");
}

absl::StatusOr<Fd> Bind(const SocketAddress& address, bool shared) {
  Fd fd(::socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return ListenError(address, errno);
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (shared) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
  if (::bind(fd.get(), address.data(), address.size()) != 0) return ListenError(address, errno);
  return fd;
}

}  // namespace

absl::StatusOr<std::vector<Fd>> ListenOn(const SocketAddress& address, int count) {
  constexpr int kBacklog = 4096;
  if (address.IsUnix() && count > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("listen on ", address.ToString(), ": a unix socket serves one thread: leave --threads out"));
  }
  // Who shares an address shares it with every other program of the user that wants to. So one that does not share goes
  // first: it finds whoever is there, and the port where 0 was asked for.
  absl::StatusOr<Fd> first = Bind(address, false);
  if (!first.ok()) return first.status();
  std::vector<Fd> listeners;
  if (count == 1) {
    listeners.push_back(*std::move(first));
  } else {
    const SocketAddress bound = LocalAddress(first->get());
    first->Reset();
    for (int i = 0; i < count; ++i) {
      absl::StatusOr<Fd> listener = Bind(bound, true);
      if (!listener.ok()) return listener.status();
      listeners.push_back(*std::move(listener));
    }
  }
  for (const Fd& listener : listeners) {
    DisableNagle(listener.get());  // what is accepted inherits it
    if (::listen(listener.get(), kBacklog) != 0) return ListenError(address, errno);
  }
  return listeners;
}

SocketAddress LocalAddress(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof(storage);
  auto* address = reinterpret_cast<sockaddr*>(&storage);
  if (::getsockname(fd, address, &size) != 0) return {};
  return SocketAddress::FromSockaddr(address, size);
}

bool IsConnectedToItself(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof(storage);
  auto* peer = reinterpret_cast<sockaddr*>(&storage);
  if (::getpeername(fd, peer, &size) != 0 || peer->sa_family == AF_UNIX) return false;
  return LocalAddress(fd) == SocketAddress::FromSockaddr(peer, size);
}

absl::StatusOr<Fd> MakeEvent() {
  Fd fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!fd) return SocketError("eventfd", errno);
  return fd;
}

void Signal(const Fd& event) { ::eventfd_write(event.get(), 1); }

void DisableNagle(int fd) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

Moved ReceiveSome(int fd, void* buffer, size_t size, int flags) {
  const ssize_t bytes = ::recv(fd, buffer, size, flags);
  if (bytes > 0) return {.bytes = bytes};
  if (bytes == 0) return {.ended = true};
  if (errno == EAGAIN || errno == EINTR) return {};
  return {.ended = true, .error = errno};
}

Moved SendSome(int fd, const void* data, size_t size) {
  const ssize_t bytes = ::send(fd, data, size, MSG_NOSIGNAL);
  if (bytes >= 0) return {.bytes = bytes};
  if (errno == EAGAIN || errno == EINTR) return {};
  return {.ended = true, .error = errno};
}

}  // namespace hud::load
