#include "ring/io/kernel_ring.h"

#include <liburing.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"

namespace hud {
namespace {

constexpr uint16_t kBufferGroup = 0;
constexpr uint64_t kNoTag = 0;  // Op::kIgnored: only failures complete, and say nothing new

std::string ErrnoText(int error) { return std::strerror(error); }

class KernelRing final : public Ring {
 public:
  explicit KernelRing(const KernelRingOptions& options) : options_(options) {}

  ~KernelRing() override {
    if (created_) {
      io_uring_submit(&ring_);  // descriptors that wait to be closed
      io_uring_queue_exit(&ring_);
    }
    if (buffer_ring_ != nullptr) munmap(buffer_ring_, BufferRingBytes());
    if (buffers_ != nullptr) munmap(buffers_, BuffersBytes());
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
    return CreateBuffers();
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
    sqe->buf_group = kBufferGroup;
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

  Bytes BufferBytes(uint16_t buffer) const override {
    return {buffers_ + buffer * options_.buffer_bytes, options_.buffer_bytes};
  }

  void ReturnBuffer(uint16_t buffer) override {
    HUD_CHECK(buffer < options_.buffers && with_caller_ > 0);
    io_uring_buf_ring_add(buffer_ring_, buffers_ + buffer * options_.buffer_bytes,
                          static_cast<unsigned>(options_.buffer_bytes), buffer,
                          io_uring_buf_ring_mask(options_.buffers), 0);
    io_uring_buf_ring_advance(buffer_ring_, 1);
    --with_caller_;
  }

  size_t buffer_size() const override { return options_.buffer_bytes; }
  size_t buffers_free() const override {
    const auto set_aside = std::ranges::count_if(set_aside_, &Completion::has_buffer);
    return options_.buffers - with_caller_ + static_cast<size_t>(set_aside);
  }
  uint64_t overflows() const override { return *ring_.cq.koverflow; }
  uint64_t losses() const override { return losses_; }

 private:
  size_t BuffersBytes() const { return options_.buffers * options_.buffer_bytes; }
  size_t BufferRingBytes() const { return options_.buffers * sizeof(io_uring_buf); }

  static void* Map(size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? nullptr : memory;
  }

  absl::Status CreateBuffers() {
    buffers_ = static_cast<uint8_t*>(Map(BuffersBytes()));
    buffer_ring_ = static_cast<io_uring_buf_ring*>(Map(BufferRingBytes()));
    if (buffers_ == nullptr || buffer_ring_ == nullptr) return absl::ResourceExhaustedError("no memory for receive buffers");
    io_uring_buf_reg registration{};
    registration.ring_addr = reinterpret_cast<uintptr_t>(buffer_ring_);
    registration.ring_entries = options_.buffers;
    registration.bgid = kBufferGroup;
    if (int error = io_uring_register_buf_ring(&ring_, &registration, 0); error < 0) {
      return absl::UnavailableError(absl::StrCat("cannot register receive buffers with io_uring (needs Linux 5.19): ", ErrnoText(-error)));
    }
    io_uring_buf_ring_init(buffer_ring_);
    with_caller_ = options_.buffers;
    for (unsigned i = 0; i < options_.buffers; ++i) ReturnBuffer(static_cast<uint16_t>(i));
    return absl::OkStatus();
  }

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

  // The sends that were submitted and of which the kernel said nothing.
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
        ++with_caller_;
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
  io_uring ring_{};
  bool created_ = false;
  uint8_t* buffers_ = nullptr;
  io_uring_buf_ring* buffer_ring_ = nullptr;
  size_t with_caller_ = 0;
  uint64_t losses_ = 0;
  std::vector<SilentSend> silent_;  // in the order of their submission
  std::vector<Completion> set_aside_;
  bool left_over_ = false;  // by the last Wait(), of what it owed: not submitted, or more than fitted. The next one must not sleep
};

// Setup flags from best to plain. Each rung needs a newer kernel; without any of the first two every completion
// interrupts the thread, which costs a third more (FACTS 4).
constexpr unsigned kRungs[] = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,  // 6.1
    IORING_SETUP_COOP_TASKRUN,                                // 5.19
};

// For what no probe tells: a flag of an operation that exists.
bool KernelIsAtLeast(int major, int minor) {
  utsname name{};
  int found_major = 0, found_minor = 0;
  if (uname(&name) != 0 || std::sscanf(name.release, "%d.%d", &found_major, &found_minor) != 2) return false;
  return found_major > major || (found_major == major && found_minor >= minor);
}

absl::Status CannotSetUp(int error) {
  switch (error) {
    case ENOSYS:
      return absl::UnavailableError(
          "there is no io_uring here, which hudsucker is built on: use Linux 5.19 or newer, or, in a container (Podman answers "
          "like a kernel without it), allow it in the seccomp profile");
    case EPERM:
    case EACCES:
      return absl::UnavailableError(
          "io_uring is forbidden here: set the sysctl kernel.io_uring_disabled to 0, or allow it in the container's seccomp profile");
    case ENOMEM:
      return absl::UnavailableError("no locked memory for an io_uring: raise the limit (ulimit -l, LimitMEMLOCK=)");
    default:
      return absl::UnavailableError(absl::StrCat("cannot set up an io_uring: ", ErrnoText(error)));
  }
}

}  // namespace

std::string KernelFeatures::Describe() const {
  return absl::StrCat("io_uring: ", (setup_flags & IORING_SETUP_DEFER_TASKRUN) ? "deferred task work" : "cooperative task work (Linux 6.1 would be better)",
                      zero_copy_send ? ", zero-copy send" : ", no zero-copy send (needs Linux 6.0)",
                      zero_copy_send && !zero_copy_usage ? " without usage report (needs Linux 6.2)" : "",
                      bounded_multishot_recv ? ", bounded multishot receive" : ", single receives (multishot needs Linux 6.17)",
                      silent_sends ? ", silent sends" : ", a completion for each send (needs Linux 6.1)",
                      minimum_wait ? ", batched waits" : ", no batched waits (needs Linux 6.12)");
}

absl::StatusOr<KernelFeatures> ProbeFeatures() {
  KernelFeatures features;
  io_uring ring{};
  int error = -EINVAL;
  for (unsigned flags : kRungs) {
    error = io_uring_queue_init(8, &ring, flags);
    if (error == 0) {
      features.setup_flags = flags;
      break;
    }
    if (error != -EINVAL) break;
  }
  if (error == -EINVAL) {
    return absl::UnavailableError("this kernel's io_uring is too old for hudsucker: use Linux 5.19 or newer");
  }
  if (error < 0) return CannotSetUp(-error);
  features.bounded_multishot_recv = KernelIsAtLeast(6, 17);
  features.silent_sends = KernelIsAtLeast(6, 1);
  features.minimum_wait = (ring.features & IORING_FEAT_MIN_TIMEOUT) != 0;
  if (io_uring_probe* probe = io_uring_get_probe_ring(&ring); probe != nullptr) {
    features.zero_copy_send = io_uring_opcode_supported(probe, IORING_OP_SEND_ZC) != 0;
    features.zero_copy_usage = features.zero_copy_send && KernelIsAtLeast(6, 2);
    io_uring_free_probe(probe);
  }
  io_uring_queue_exit(&ring);
  return features;
}

absl::StatusOr<std::unique_ptr<Ring>> CreateKernelRing(const KernelRingOptions& options) {
  auto ring = std::make_unique<KernelRing>(options);
  if (absl::Status status = ring->Create(); !status.ok()) return status;
  return ring;
}

}  // namespace hud
