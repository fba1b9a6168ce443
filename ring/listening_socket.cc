// Listeners, bound before privileges are dropped: one socket a worker and address, SO_REUSEPORT, so that the kernel
// spreads connections over workers and each worker accepts from a queue of its own.
#include "ring/listening_socket.h"

#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"

namespace hud {
namespace {

constexpr std::chrono::milliseconds kBetweenTries{10};
// How long the kernel keeps a client that says nothing to itself. It counts in repeated SYN-ACKs: one.
constexpr int kDeferSeconds = 1;

absl::Status BindError(const SocketAddress& address, const ListenerConfig& listener, int error) {
  std::string hint;
  if (error == EADDRINUSE) hint = ": another process, perhaps another hudsucker, listens there; stop it or change `bind`";
  if (error == EACCES) hint = ": ports below 1024 need root or CAP_NET_BIND_SERVICE";
  if (error == EADDRNOTAVAIL) hint = ": no interface of this machine has that address";
  const std::string text =
      absl::StrCat("listener ", listener.name, ": cannot bind ", address.ToString(), ": ", std::strerror(error), hint);
  return error == EACCES ? absl::PermissionDeniedError(text) : absl::UnavailableError(text);
}

bool SetOption(int fd, int level, int name, int value) { return setsockopt(fd, level, name, &value, sizeof value) == 0; }

// A second process's SO_REUSEPORT bind of the same address succeeds silently and takes half of the connections. A bind
// without the option fails while anybody else is bound, with it or not: ask that way first.
absl::Status CheckNobodyElseIsBound(const SocketAddress& address, const ListenerConfig& listener, Duration patience) {
  Fd probe(socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!probe) return absl::ResourceExhaustedError(absl::StrCat("cannot open a socket: ", std::strerror(errno)));
  SetOption(probe.get(), SOL_SOCKET, SO_REUSEADDR, 1);  // sockets in TIME_WAIT are nobody
  if (address.family() == AF_INET6) SetOption(probe.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
  // The kernel reaps the rings of a process that was killed a little after the process (10 ms measured on 6.18), and with
  // them the listeners: a supervisor that restarts at once must not be told that somebody else is there.
  for (int tries = 0; bind(probe.get(), address.data(), address.size()) != 0; ++tries) {
    if (errno != EADDRINUSE || tries >= patience / kBetweenTries) return BindError(address, listener, errno);
    std::this_thread::sleep_for(kBetweenTries);
  }
  return absl::OkStatus();
}

absl::StatusOr<Fd> Listen(const SocketAddress& address, const ListenerConfig& listener) {
  Fd fd(socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return absl::ResourceExhaustedError(absl::StrCat("cannot open a socket: ", std::strerror(errno)));
  SetOption(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  SetOption(fd.get(), SOL_SOCKET, SO_REUSEPORT, 1);
  // Inherited by accepted sockets (tcp(7)): no system call a connection for them.
  SetOption(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  if (!listener.quick_ack) SetOption(fd.get(), IPPROTO_TCP, TCP_QUICKACK, 0);
  if (listener.defer_accept) SetOption(fd.get(), IPPROTO_TCP, TCP_DEFER_ACCEPT, kDeferSeconds);
  SetOption(fd.get(), SOL_SOCKET, SO_KEEPALIVE, 1);
  if (address.family() == AF_INET6) SetOption(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);  // "[::]:443" serves IPv4 too
  if (bind(fd.get(), address.data(), address.size()) != 0) return BindError(address, listener, errno);
  if (listen(fd.get(), listener.backlog) != 0) return BindError(address, listener, errno);
  return fd;
}

}  // namespace

absl::StatusOr<std::vector<ListenerSockets>> BindListeners(const std::vector<ListenerConfig>& listeners, unsigned workers,
                                                           Duration patience) {
  for (const ListenerConfig& listener : listeners) {
    for (const SocketAddress& address : listener.bind) {
      if (address.IsUnix()) {
        return absl::InvalidArgumentError(absl::StrCat("listener ", listener.name, ": cannot listen on ",
                                                       address.ToString(), ": a listener needs an IP address and a port"));
      }
      if (address.port() == 0) {
        return absl::InvalidArgumentError(absl::StrCat("listener ", listener.name, ": cannot listen on ", address.ToString(),
                                                       ": each worker would get another port; name one"));
      }
      if (absl::Status status = CheckNobodyElseIsBound(address, listener, patience); !status.ok()) return status;
    }
  }
  std::vector<ListenerSockets> all;
  for (size_t i = 0; i < listeners.size(); ++i) {
    ListenerSockets& sockets = all.emplace_back();
    sockets.listener = ListenerIndex(static_cast<uint16_t>(i));
    for (const SocketAddress& address : listeners[i].bind) {
      std::vector<Fd>& of_address = sockets.sockets.emplace_back();
      for (unsigned worker = 0; worker < workers; ++worker) {
        absl::StatusOr<Fd> fd = Listen(address, listeners[i]);
        if (!fd.ok()) return fd.status();
        of_address.push_back(std::move(*fd));
      }
    }
  }
  return all;
}

// A SYN without ACK, by the byte of flags (RFC 9293, section 3.1): the kernel shows the filter of a TCP socket what begins with the TCP
// header.
void DropFirstPackets(int listening) {
  int listens = 0;
  socklen_t size = sizeof listens;
  if (getsockopt(listening, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens == 0) return;  // a worker had no memory for it
  constexpr uint32_t kFlags = 13, kSyn = 0x02, kAck = 0x10;
  sock_filter code[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, kFlags), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, kSyn | kAck),
                        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kSyn, 0, 1), BPF_STMT(BPF_RET | BPF_K, 0),
                        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX)};
  const sock_fprog program{std::size(code), code};
  // Without memory for it the sockets close under whoever comes in that moment, and the kernel resets him.
  (void)setsockopt(listening, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

}  // namespace hud
