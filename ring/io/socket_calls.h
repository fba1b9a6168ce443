// The second half of the narrow waist between a worker and the kernel: the calls that it makes beside its Ring, because
// io_uring would need a kernel thread for them, or because they must not wait for a turn. KernelSockets makes them.
// None of them waits. A result is what the call returns, or -errno. Descriptors are those of the same kernel as the Ring's.
#pragma once

#include <poll.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <span>

#include "core/base/types.h"
#include "core/net/address.h"
#include "core/os/fd.h"

namespace hud {

struct Pipe {
  Fd read_end;
  Fd write_end;
  uint32_t capacity = 0;  // as granted by the kernel
  explicit operator bool() const { return static_cast<bool>(read_end); }
};

// What a socket's unsent bytes occupy, by the kernel's own account: up to twice the payload.
struct SendMemory {
  uint32_t limit = 0;
  uint32_t used = 0;
};

// What TCP knows of a peer that may be gone.
struct PeerSilence {
  Duration since_heard{};
  uint32_t unanswered = 0;  // retransmissions, or probes of a closed window, since then
};

struct KeepAliveTimes {
  int idle_seconds = 0;
  int interval_seconds = 0;
  int probes = 0;
};

class SocketCalls {
 public:
  virtual ~SocketCalls() = default;

  virtual Instant Now() = 0;  // of the steady clock

  // Non-blocking and close-on-exec. -EAGAIN when nobody waits.
  virtual int Accept(int listener) = 0;
  // A stream socket for connecting to `address`: non-blocking; of TCP, small segments go at once, and the first
  // acknowledgement waits for the answer that carries it.
  virtual int Open(const SocketAddress& address) = 0;
  virtual int Connect(int fd, const SocketAddress& address) = 0;
  virtual bool IsConnected(int fd) = 0;
  virtual SocketAddress PeerOf(int fd) = 0;   // AF_UNSPEC of a socket that is gone
  virtual SocketAddress LocalOf(int fd) = 0;  // likewise
  virtual void Close(Fd fd) = 0;              // at once, where Ring::Close() would come too late

  virtual ssize_t Receive(int fd, std::span<uint8_t> into) = 0;
  virtual ssize_t Send(int fd, Bytes data) = 0;
  // Moves up to `bytes` between a socket and a pipe, in either direction. Never sets SPLICE_F_MORE: it makes the tail of a
  // stream wait 200 ms.
  virtual ssize_t Splice(int from, int to, size_t bytes) = 0;
  virtual ssize_t ReadPipe(const Pipe& pipe, std::span<uint8_t> into) = 0;
  // Of `bytes`, or of what the kernel grants.
  virtual std::optional<Pipe> MakePipe(size_t bytes) = 0;

  virtual void EndStream(int fd) = 0;     // the FIN, behind what was sent
  virtual void ResetOnClose(int fd) = 0;  // a close then sends RST and throws away what is queued
  virtual int TakeError(int fd) = 0;      // errno, or 0; the socket forgets it
  // After a read to the end: had a FIN come? False when there was nothing but a reset, whoever was told of it. None of a unix
  // socket, which does not tell.
  virtual std::optional<bool> FinCame(int fd) = 0;
  virtual int Poll(std::span<pollfd> sockets) = 0;

  virtual std::optional<SendMemory> SendMemoryOf(int fd) = 0;
  virtual uint32_t Unacknowledged(int fd) = 0;                    // bytes sent, the FIN included, that a reset could still destroy
  virtual std::optional<PeerSilence> SilenceOf(int fd) = 0;       // none of a unix socket
  virtual void KeepAlive(int fd, const KeepAliveTimes& times) = 0;  // a unix socket refuses, and does not need it

  virtual void TakeEvents(int eventfd) = 0;  // those that were signalled so far
};

}  // namespace hud
