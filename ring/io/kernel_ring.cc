#include "ring/io/kernel_ring.h"

#include <liburing.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "ring/io/shared_buffers.h"

namespace hud {
namespace {

constexpr uint64_t kNoTag = 0;  // Op::kIgnored: only failures complete, and say nothing new

std::string ErrnoText(int error) { return std::strerror(error); }

class KernelRing final : public Ring {
 public:
  explicit KernelRing(const KernelRingOptions& options) : options_(options), buffers_(options.buffers, options.buffer_bytes) {}

  ~KernelRing() override {
    if (!created_) return;
    io_uring_submit(&ring_);  // descriptors that wait to be closed
    io_uring_queue_exit(&ring_);
  }

  absl::Status Create() {
    io_uring_params params{};
    params.flags = options_.features.setup_flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    params.cq_entries = options_.completion_entries;
    int error = io_uring_queue_init_params(options_.submission_entries, &ring_, &params);
    if (error < 0) {
      return absl::UnavailableError(absl::StrCat("cannot set up an io_uring: ", ErrnoText(-error),
                                                 error == -ENOMEM ? "; raise the locked-memory limit (ulimit -l, LimitMEMLOCK=)" : ""));
    }
    created_ = true;
    return buffers_.Register(ring_);
  }

  void AcceptMultishot(int fd, uint64_t user_data) override {
    io_uring_sqe* sqe = NextSqe();
    io_uring_prep_multishot_accept(sqe, fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    sqe->user_data = user_data;
  }

  void AcceptOne(int fd, uint64_t user_data) override {
    io_uring_sqe* sqe = NextSqe();
    io_uring_prep_accept(sqe, fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    sqe->user_data = user_data;
  }

  void Recv(int fd, Expected expected, uint64_t user_data) override {
    io_uring_sqe* sqe = NextSqe();
    io_uring_prep_recv(sqe, fd, nullptr, options_.buffer_bytes, 0);
    if (expected == Expected::kLater) sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = SharedBuffers::kGroup;
    sqe->user_data = user_data;
  }

  void RecvMultishot(int fd, Expected expected, uint32_t limit, uint64_t user_data) override {
    Recv(fd, expected, user_data);
    if (!options_.features.bounded_multishot_recv) return;
    io_uring_sqe* sqe = LastSqe();
    sqe->ioprio |= IORING_RECV_MULTISHOT;
    sqe->len = 0;              // each time as much as a buffer takes
    sqe->file_index = limit;   // where newer headers have optlen
  }

  // A send that takes all posts no completion: it would end the wait at once, for what the submission itself has done, and
  // each message would cost two system calls instead of one. MSG_WAITALL makes a short send a failure, which does post one
  // (io_uring/net.c: with what was sent, since nothing may wait here). What posts nothing by the end of the submission was
  // sent whole: Harvest() says so.
  void Send(int fd, Bytes data, uint64_t user_data) override {
    if (!options_.features.silent_sends) return QueueSend(fd, data, user_data);
    // First what may find no memory: a request that is in the queue is in flight.
    if (silent_.size() == silent_.capacity()) silent_.reserve(std::max<size_t>(64, silent_.size() * 2));
    QueueSend(fd, data, user_data);
    io_uring_sqe* sqe = LastSqe();
    sqe->msg_flags |= MSG_WAITALL;
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data |= kRingsOwn;
    silent_.push_back({user_data, static_cast<int32_t>(data.size()), ring_.sq.sqe_tail});
  }

  void SendZeroCopy(int fd, Bytes data, uint64_t user_data) override {
    io_uring_sqe* sqe = NextSqe();
    io_uring_prep_send_zc(sqe, fd, data.data(), data.size(), MSG_DONTWAIT | MSG_NOSIGNAL,
                          options_.features.zero_copy_usage ? IORING_SEND_ZC_REPORT_USAGE : 0);
    sqe->user_data = user_data;
  }

  void ConnectAndSend(int fd, const sockaddr* address, socklen_t size, uint64_t connect_tag, Bytes data, uint64_t send_tag) override {
    MakeRoom(2);  // a link does not reach over two submissions
    io_uring_sqe* sqe = NextSqe();
    io_uring_prep_connect(sqe, fd, address, size);
    // When the connect fails, the flag also keeps the send that is cancelled with it from completing.
    sqe->flags |= IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = connect_tag;
    QueueSend(fd, data, send_tag);
  }

  void Poll(int fd, uint32_t events, uint64_t user_data) override {
    io_uring_sqe* sqe = NextSqe();
    io_uring_prep_poll_add(sqe, fd, events);
    sqe->user_data = user_data;
  }

  void PollChanges(int fd, uint32_t events, uint64_t user_data) override {
    Poll(fd, events, user_data);
    LastSqe()->len |= IORING_POLL_ADD_MULTI;  // which is edge-triggered unless it is told not to be
  }

  void Cancel(uint64_t target) override {
    io_uring_sqe* sqe = NextSqe();
    io_uring_prep_cancel64(sqe, target, 0);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = kNoTag;
  }

  void Close(Fd fd) override {
    io_uring_sqe* sqe = NextSqe();
    io_uring_prep_close(sqe, fd.Release());
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = kNoTag;
  }

  void Submit() override { TakeAnswer(io_uring_submit(&ring_)); }

  size_t Wait(std::span<Completion> completions, Duration timeout, Batch batch) override {
    if (io_uring_cq_ready(&ring_) > 0 || left_over_ || timeout == Duration::zero()) {
      // Not a mere submit: with deferred task work only a call that asks for events lets requests that waited complete
      // (accepts, the worker's orders), and completions made by the submission itself could be there in every turn.
      TakeAnswer(io_uring_submit_and_get_events(&ring_));
    } else {
      SubmitAndWait(timeout, options_.features.minimum_wait ? batch : Batch());
    }
    const size_t n = Harvest(completions);
    left_over_ = !silent_.empty() || !set_aside_.empty();
    return n;
  }

  Bytes BufferBytes(uint16_t buffer) const override { return buffers_.At(buffer); }
  void ReturnBuffer(uint16_t buffer) override { buffers_.Return(buffer); }
  size_t buffer_size() const override { return buffers_.bytes(); }
  size_t buffers_free() const override {
    const auto set_aside = std::ranges::count_if(set_aside_, &Completion::has_buffer);
    return buffers_.free() + static_cast<size_t>(set_aside);
  }
  uint64_t overflows() const override { return *ring_.cq.koverflow; }
  uint64_t losses() const override { return losses_; }

 private:
  void QueueSend(int fd, Bytes data, uint64_t user_data) {
    io_uring_sqe* sqe = NextSqe();
    io_uring_prep_send(sqe, fd, data.data(), data.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    sqe->user_data = user_data;
  }

  // Submits until that many submission entries are free. -EBUSY and -EAGAIN are the kernel's back-pressure:
  // it takes requests again once completions have been moved out, which Submit() does through the overflow flush. It also
  // says so while memory is short, for as long as that lasts: a worker that waits here is the watchdog's to judge.
  void MakeRoom(unsigned entries) {
    for (int tries = 0; io_uring_sq_space_left(&ring_) < entries; ++tries) {
      if (tries >= 10) Pause();
      Submit();
      if (io_uring_sq_space_left(&ring_) < entries) SetAsideCompletions();
    }
  }

  io_uring_sqe* NextSqe() {
    MakeRoom(1);
    return io_uring_get_sqe(&ring_);
  }

  io_uring_sqe* LastSqe() { return &ring_.sq.sqes[(ring_.sq.sqe_tail - 1) & ring_.sq.ring_mask]; }

  static void Pause() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }

  // Of io_uring_enter(2). What was not taken stays in the queue, and goes with the next call. Only what says that this is no
  // ring, or that we ask for nonsense, is a bug; whatever else the kernel may say (-ENOMEM in a full memory cgroup) passes.
  void TakeAnswer(int result) {
    if (result >= 0) return;
    switch (-result) {
      case EBUSY:
      case EINTR:
      case ETIME: return;
      case EBADR: ++losses_; return;
      case EBADF:
      case EBADFD:
      case EFAULT:
      case EINVAL:
      case ENXIO:
      case EOPNOTSUPP: HUD_CHECK(false);
      default: Pause();
    }
  }

  // liburing 2.3 knows no minimum wait: the system call is made here.
  void SubmitAndWait(Duration timeout, Batch batch) {
    const __kernel_timespec when{timeout.count() / 1'000'000'000, timeout.count() % 1'000'000'000};
    io_uring_getevents_arg argument{};
    argument.sigmask_sz = _NSIG / 8;
    if (timeout != Duration::max()) argument.ts = reinterpret_cast<uintptr_t>(&when);
    if (batch.completions > 1) argument.pad = static_cast<uint32_t>(batch.patience / std::chrono::microseconds(1));  // min_wait_usec
    const int result = io_uring_enter2(ring_.enter_ring_fd, TakeSubmissions(), batch.completions,
                                       IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, reinterpret_cast<sigset_t*>(&argument), sizeof argument);
    TakeAnswer(result);
  }

  // Shows the kernel all entries that were filled, and says how many it has not taken yet.
  unsigned TakeSubmissions() {
    io_uring_sq& queue = ring_.sq;
    unsigned tail = *queue.ktail;
    for (; queue.sqe_head != queue.sqe_tail; ++queue.sqe_head) queue.array[tail++ & queue.ring_mask] = queue.sqe_head & queue.ring_mask;
    io_uring_smp_store_release(queue.ktail, tail);
    return tail - *queue.khead;
  }

  // When the submission queue stays full because the completion queue is: make room without handing anything out yet.
  void SetAsideCompletions() {
    const size_t held = set_aside_.size();
    try {
      set_aside_.resize(held + 256);
    } catch (const std::bad_alloc&) {
      return Pause();  // what asks for an entry may be what ends a connection for want of memory: it waits
    }
    set_aside_.resize(held + HarvestQueue(std::span(set_aside_).subspan(held)));
    io_uring_get_events(&ring_);
  }

  size_t Harvest(std::span<Completion> completions) {
    size_t n = HarvestSilent(completions);
    if (!set_aside_.empty()) [[unlikely]] {
      const size_t taken = std::min(set_aside_.size(), completions.size() - n);
      std::copy_n(set_aside_.begin(), taken, completions.begin() + static_cast<std::ptrdiff_t>(n));
      set_aside_.erase(set_aside_.begin(), set_aside_.begin() + static_cast<std::ptrdiff_t>(taken));
      n += taken;
      if (!set_aside_.empty()) return n;
    }
    return n + HarvestQueue(completions.subspan(n));
  }

  // The sends that succeeded: the kernel posts a completion only for those that did not.
  size_t HarvestSilent(std::span<Completion> completions) {
    if (silent_.empty() || io_uring_cq_has_overflow(&ring_)) return 0;  // a failure may be among what did not fit the queue
    unsigned head;
    io_uring_cqe* cqe;
    io_uring_for_each_cqe(&ring_, head, cqe) ForgetSilent(cqe->user_data);
    const unsigned taken_by_kernel = io_uring_smp_load_acquire(ring_.sq.khead);
    size_t n = 0;
    while (n < completions.size() && n < silent_.size() && static_cast<int>(taken_by_kernel - silent_[n].place) >= 0) {
      completions[n] = {.user_data = silent_[n].user_data, .result = silent_[n].bytes};
      ++n;
    }
    silent_.erase(silent_.begin(), silent_.begin() + static_cast<std::ptrdiff_t>(n));
    return n;
  }

  // A send that failed completes by itself.
  void ForgetSilent(uint64_t user_data) {
    if ((user_data & kRingsOwn) == 0) [[likely]] return;
    std::erase_if(silent_, [user_data](const SilentSend& send) { return send.user_data == (user_data & ~kRingsOwn); });
  }

  size_t HarvestQueue(std::span<Completion> completions) {
    unsigned head;
    io_uring_cqe* cqe;
    size_t n = 0;
    io_uring_for_each_cqe(&ring_, head, cqe) {
      if (n == completions.size()) break;
      ForgetSilent(cqe->user_data);
      Completion& c = completions[n++];
      c.user_data = cqe->user_data & ~kRingsOwn;
      c.result = cqe->res;
      c.more = (cqe->flags & IORING_CQE_F_MORE) != 0;
      c.notification = (cqe->flags & IORING_CQE_F_NOTIF) != 0;
      c.more_to_read = (cqe->flags & IORING_CQE_F_SOCK_NONEMPTY) != 0;
      c.has_buffer = (cqe->flags & IORING_CQE_F_BUFFER) != 0;
      if (c.has_buffer) {
        c.buffer = static_cast<uint16_t>(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
        buffers_.Took();
      }
    }
    io_uring_cq_advance(&ring_, static_cast<unsigned>(n));
    return n;
  }

  struct SilentSend {
    uint64_t user_data;
    int32_t bytes;
    unsigned place;  // how many entries the kernel has taken once it has this one
  };

  const KernelRingOptions options_;
  SharedBuffers buffers_;  // gone after the ring
  io_uring ring_{};
  bool created_ = false;
  uint64_t losses_ = 0;
  std::vector<SilentSend> silent_;  // in the order of their submission
  std::vector<Completion> set_aside_;
  bool left_over_ = false;  // the last Wait() left requests or completions behind: the next one must not sleep
};

}  // namespace

absl::StatusOr<std::unique_ptr<Ring>> CreateKernelRing(const KernelRingOptions& options) {
  auto ring = std::make_unique<KernelRing>(options);
  if (absl::Status status = ring->Create(); !status.ok()) return status;
  return ring;
}

}  // namespace hud
