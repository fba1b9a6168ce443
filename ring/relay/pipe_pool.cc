#include "ring/relay/pipe_pool.h"

#include "core/base/check.h"

namespace hud {
namespace {

// A pipe smaller than this makes splice dearer than a copy (64 KiB pipes reach 3.2 times the cost at 256
// connections); unprivileged users are given 8 KiB ones once fs.pipe-user-pages-soft is used up.
constexpr uint32_t kSmallestUsefulPipe = 64 * 1024;

}  // namespace

PipePool::~PipePool() {
  for (Pipe& pipe : idle_) Close(std::move(pipe));
}

std::optional<Pipe> PipePool::Create() {
  std::optional<Pipe> pipe = calls_.MakePipe(pipe_bytes_);
  if (!pipe || pipe->capacity >= kSmallestUsefulPipe) return pipe;
  Close(*std::move(pipe));
  return std::nullopt;
}

void PipePool::Close(Pipe pipe) {
  calls_.Close(std::move(pipe.read_end));
  calls_.Close(std::move(pipe.write_end));
}

std::optional<Pipe> PipePool::Borrow() {
  std::optional<Pipe> pipe;
  if (!idle_.empty()) {
    pipe = std::move(idle_.back());
    idle_.pop_back();
  } else if (lent_ < budget_) {
    idle_.reserve(lent_ + 1);  // Return() asks for no memory
    pipe = Create();
  }
  if (pipe) {
    ++lent_;
    lent_bytes_ += pipe->capacity;
  }
  return pipe;
}

void PipePool::Return(Pipe pipe) noexcept {
  HUD_CHECK(lent_ > 0);
  --lent_;
  lent_bytes_ -= pipe.capacity;
  idle_.push_back(std::move(pipe));
}

void PipePool::Destroy(Pipe pipe) {
  HUD_CHECK(lent_ > 0);
  --lent_;
  lent_bytes_ -= pipe.capacity;
  Close(std::move(pipe));
}

}  // namespace hud
