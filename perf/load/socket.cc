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

absl::StatusOr<Fd> ListenOn(const SocketAddress& address) {
  constexpr int kBacklog = 4096;
  const std::string what = absl::StrCat("listen on ", address.ToString());
  Fd fd(::socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return SocketError(what, errno);
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
  DisableNagle(fd.get());  // what is accepted inherits it
  if (::bind(fd.get(), address.data(), address.size()) != 0 || ::listen(fd.get(), kBacklog) != 0) {
    return SocketError(what, errno);
  }
  return fd;
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
