// The narrow interface between a worker and the kernel's io_uring. KernelRing is the real one; a test can put a ring of
// its own around it that delays or changes completions, which no tool can do to the kernel's.
// Every request completes exactly once, except where noted. Requests take effect at the next Wait() (or when the queue is full).
// `user_data` is the caller's but for kRingsOwn, which must be 0.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <span>

#include "core/base/types.h"
#include "core/os/fd.h"
#include "core/policy/gather_policy.h"

namespace hud {

struct Completion {
  uint64_t user_data = 0;
  int32_t result = 0;        // ≥ 0, or -errno
  bool more = false;         // the request goes on: more completions will come
  bool notification = false; // SEND_ZC: the kernel has let go of the memory; result then has kZeroCopyCopied or not
  bool has_buffer = false;
  bool more_to_read = false; // recv: bytes were left in the socket (kernel 5.19)
  uint16_t buffer = 0;       // of the shared ring; belongs to the caller until ReturnBuffer()
};

inline constexpr uint64_t kRingsOwn = uint64_t{1} << 62;

inline constexpr uint32_t kZeroCopyCopied = 1u << 31;  // IORING_NOTIF_USAGE_ZC_COPIED, kernel 6.2

enum class Expected : uint8_t { kNow, kLater };

class Ring {
 public:
  virtual ~Ring() = default;

  // Completes once for each connection, with `more` while it stays armed. Sockets are non-blocking and close-on-exec.
  virtual void AcceptMultishot(int fd, uint64_t user_data) = 0;
  virtual void AcceptOne(int fd, uint64_t user_data) = 0;
  // Into a buffer of the shared ring, chosen when data is there. -ENOBUFS if none is free then. `expected` says whether
  // data is likely to be there already; a vain try costs a system call's worth of work, and not trying when it is, too.
  virtual void Recv(int fd, Expected expected, uint64_t user_data) = 0;
  // As Recv, again and again, a buffer and a completion each, with `more` while it goes on: until an error or the end, or
  // until `limit` bytes have come (less than a buffer more), so that back-pressure is structural. Kernel 6.17; before, the
  // first completion is the last.
  virtual void RecvMultishot(int fd, Expected expected, uint32_t limit, uint64_t user_data) = 0;
  // Never waits: sends what the socket takes now, -EAGAIN if nothing. `data` must stay until the completion, which comes with
  // the next Wait(), but does not end it when all was sent: whoever must know soon lets that Wait() not wait.
  virtual void Send(int fd, Bytes data, uint64_t user_data) = 0;
  // As Send, without a copy where the device can. Completes twice if the first completion has `more`.
  virtual void SendZeroCopy(int fd, Bytes data, uint64_t user_data) = 0;
  // Connects and then sends, in one submission. One of the two completes: with `connect_tag` and the error if the connect
  // failed or was cancelled (nothing was sent then), else with `send_tag` and the result of Send(). When the kernel cannot
  // even begin (no memory), both complete, in either order, with errors: the tags must tell such a straggler from what the
  // caller asked for since. `address` is read at submission, `data` must stay until the first completion.
  virtual void ConnectAndSend(int fd, const sockaddr* address, socklen_t size, uint64_t connect_tag, Bytes data, uint64_t send_tag) = 0;
  // One-shot. Errors and hang-ups are reported whatever `events` says.
  virtual void Poll(int fd, uint32_t events, uint64_t user_data) = 0;
  // As Poll, but edge-triggered: completes with `more` once for what is true already, and then at each change, until it is
  // cancelled. For a socket whose peer has sent its FIN: every poll of io_uring also wakes for POLLRDHUP (6.18,
  // IO_POLL_UNMASK), so that a one-shot poll for anything else would complete at once, again and again.
  virtual void PollChanges(int fd, uint32_t events, uint64_t user_data) = 0;
  // Ends the request with that user_data: it completes with -ECANCELED, or as it would have.
  virtual void Cancel(uint64_t target_user_data) = 0;
  // Never completes. The descriptor is the ring's from now on, and closed at the next Wait() at the latest.
  virtual void Close(Fd fd) = 0;

  // Hands the kernel what was requested, without waiting.
  virtual void Submit() = 0;
  // Submits, waits until something has completed or `timeout` is over (zero: no wait; max: for ever), and fills
  // `completions`, sends first; what does not fit comes with the next call. Returns how many. `batch` needs kernel 6.12, and
  // is ignored before.
  virtual size_t Wait(std::span<Completion> completions, Duration timeout, Batch batch = {}) = 0;

  virtual Bytes BufferBytes(uint16_t buffer) const = 0;  // the whole buffer
  virtual void ReturnBuffer(uint16_t buffer) = 0;
  virtual size_t buffer_size() const = 0;
  virtual size_t buffers_free() const = 0;  // those not with the caller
  virtual uint64_t overflows() const = 0;   // completions that did not fit the queue; none is lost but those counted below
  // Times that the kernel said it had no memory to keep a completion (-EBADR): the requests behind them never complete.
  virtual uint64_t losses() const = 0;
};

}  // namespace hud
