#include "ring/pipe_pool.h"

#include <fcntl.h>
#include <unistd.h>

#include "core/check.h"

namespace hud {
namespace {

// A pipe smaller than this makes splice dearer than a copy (64 KiB pipes reach 3.2 times the cost at 256
// connections); unprivileged users are given 8 KiB ones once fs.pipe-user-pages-soft is used up.
constexpr uint32_t kSmallestUsefulPipe = 64 * 1024;

}  // namespace

std::optional<Pipe> PipePool::Create() {
  int ends[2];
  if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) return std::nullopt;
  Pipe pipe{Fd(ends[0]), Fd(ends[1]), 0};
  // Refusal (EPERM over the user's budget) leaves the pipe as it is; what counts is the size it has now.
  (void)fcntl(ends[1], F_SETPIPE_SZ, static_cast<int>(pipe_bytes_));
  const int granted = fcntl(ends[1], F_GETPIPE_SZ);
  if (granted < static_cast<int>(kSmallestUsefulPipe)) return std::nullopt;
  pipe.capacity = static_cast<uint32_t>(granted);
  return pipe;
}

std::optional<Pipe> PipePool::Borrow() {
  std::optional<Pipe> pipe;
  if (!idle_.empty()) {
    pipe = std::move(idle_.back());
    idle_.pop_back();
  } else if (lent_ < budget_) {
    pipe = Create();
  }
  if (pipe) {
    ++lent_;
    lent_bytes_ += pipe->capacity;
  }
  return pipe;
}

void PipePool::Return(Pipe pipe) {
  HUD_CHECK(lent_ > 0);
  --lent_;
  lent_bytes_ -= pipe.capacity;
  idle_.push_back(std::move(pipe));
}

void PipePool::Destroy(Pipe pipe) {
  HUD_CHECK(lent_ > 0);
  --lent_;
  lent_bytes_ -= pipe.capacity;
}

}  // namespace hud
