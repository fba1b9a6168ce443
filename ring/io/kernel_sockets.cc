#include "ring/io/kernel_sockets.h"

#include <fcntl.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

// After netinet/tcp.h: both name SIOCOUTQ's family of constants.
#include <linux/sockios.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

namespace hud {
namespace {

template <typename Result>
Result OrError(Result result) {
  return result < 0 ? static_cast<Result>(-errno) : result;
}

void Set(int fd, int level, int name, int value) { (void)::setsockopt(fd, level, name, &value, sizeof value); }

template <typename Ask>
SocketAddress NameOf(int fd, Ask ask) {
  sockaddr_storage address;
  socklen_t size = sizeof address;
  if (ask(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return SocketAddress();
  return SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&address), size);
}

}  // namespace

Instant KernelSockets::Now() { return std::chrono::time_point_cast<Duration>(std::chrono::steady_clock::now()); }

int KernelSockets::Accept(int listener) { return OrError(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)); }

int KernelSockets::Open(const SocketAddress& address) {
  const int fd = ::socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  if (!address.IsUnix()) {
    Set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    Set(fd, IPPROTO_TCP, TCP_QUICKACK, 0);  // three segments a connection fewer
  }
  return fd;
}

int KernelSockets::Connect(int fd, const SocketAddress& address) { return OrError(::connect(fd, address.data(), address.size())); }

bool KernelSockets::IsConnected(int fd) {
  sockaddr_storage address;
  socklen_t size = sizeof address;
  return ::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0;
}

SocketAddress KernelSockets::PeerOf(int fd) { return NameOf(fd, ::getpeername); }
SocketAddress KernelSockets::LocalOf(int fd) { return NameOf(fd, ::getsockname); }

void KernelSockets::Close(Fd fd) { fd.Reset(); }

ssize_t KernelSockets::Receive(int fd, std::span<uint8_t> into) { return OrError(::recv(fd, into.data(), into.size(), MSG_DONTWAIT)); }

ssize_t KernelSockets::Send(int fd, Bytes data) { return OrError(::send(fd, data.data(), data.size(), MSG_DONTWAIT | MSG_NOSIGNAL)); }

ssize_t KernelSockets::Splice(int from, int to, size_t bytes) {
  return OrError(::splice(from, nullptr, to, nullptr, bytes, SPLICE_F_NONBLOCK | SPLICE_F_MOVE));
}

ssize_t KernelSockets::ReadPipe(const Pipe& pipe, std::span<uint8_t> into) {
  return OrError(::read(pipe.read_end.get(), into.data(), into.size()));
}

std::optional<Pipe> KernelSockets::MakePipe(size_t bytes) {
  int ends[2];
  if (::pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) return std::nullopt;
  Pipe pipe{Fd(ends[0]), Fd(ends[1]), 0};
  // Refusal (EPERM over the user's budget) leaves the pipe as it is; what counts is the size it has now.
  (void)::fcntl(ends[1], F_SETPIPE_SZ, static_cast<int>(bytes));
  pipe.capacity = static_cast<uint32_t>(std::max(0, ::fcntl(ends[1], F_GETPIPE_SZ)));
  return pipe;
}

void KernelSockets::EndStream(int fd) { (void)::shutdown(fd, SHUT_WR); }

void KernelSockets::ResetOnClose(int fd) {
  const linger now{1, 0};
  (void)::setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

int KernelSockets::TakeError(int fd) {
  int error = 0;
  socklen_t size = sizeof error;
  (void)::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
  return error;
}

// Once a FIN has come the kernel says that "one byte more" is to be read, so that the end is asked for (tcp_inq_hint(), TCP_INQ,
// kernel 4.18); never after a mere reset.
std::optional<bool> KernelSockets::FinCame(int fd) {
  const int on = 1;
  if (::setsockopt(fd, IPPROTO_TCP, TCP_INQ, &on, sizeof on) != 0) return std::nullopt;
  char byte;
  iovec place{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control;
  msghdr message{.msg_iov = &place, .msg_iovlen = 1, .msg_control = control.data(), .msg_controllen = control.size()};
  if (::recvmsg(fd, &message, MSG_DONTWAIT | MSG_PEEK) != 0) return std::nullopt;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  int more = 1;
  if (header != nullptr && header->cmsg_level == SOL_TCP && header->cmsg_type == TCP_CM_INQ) {
    std::memcpy(&more, CMSG_DATA(header), sizeof more);
  }
  return more > 0;
}

int KernelSockets::Poll(std::span<pollfd> sockets) { return OrError(::poll(sockets.data(), sockets.size(), 0)); }

std::optional<SendMemory> KernelSockets::SendMemoryOf(int fd) {
  std::array<uint32_t, SK_MEMINFO_VARS> memory{};
  socklen_t size = sizeof memory;
  if (::getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory.data(), &size) != 0) return std::nullopt;
  return SendMemory{memory[SK_MEMINFO_SNDBUF], std::max(memory[SK_MEMINFO_WMEM_QUEUED], memory[SK_MEMINFO_WMEM_ALLOC])};
}

uint32_t KernelSockets::Unacknowledged(int fd) {
  int queued = 0;
  return ::ioctl(fd, SIOCOUTQ, &queued) == 0 ? static_cast<uint32_t>(queued) : 0;
}

std::optional<PeerSilence> KernelSockets::SilenceOf(int fd) {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return std::nullopt;
  return PeerSilence{std::chrono::milliseconds(info.tcpi_last_ack_recv), std::max<uint32_t>(info.tcpi_retransmits, info.tcpi_probes)};
}

void KernelSockets::KeepAlive(int fd, const KeepAliveTimes& times) {
  Set(fd, IPPROTO_TCP, TCP_KEEPIDLE, times.idle_seconds);
  Set(fd, IPPROTO_TCP, TCP_KEEPINTVL, times.interval_seconds);
  Set(fd, IPPROTO_TCP, TCP_KEEPCNT, times.probes);
  Set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
}

void KernelSockets::TakeEvents(int eventfd) {
  uint64_t count;
  (void)!::read(eventfd, &count, sizeof count);
}

}  // namespace hud
