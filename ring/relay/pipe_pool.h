// Pipes for splice: a bounded number, lent to a direction while it has something in flight. Only empty pipes come back;
// one that is not empty is destroyed, so no stream can ever see another's bytes (BytesStayInOrder).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "ring/io/socket_calls.h"

namespace hud {

class PipePool {
 public:
  PipePool(SocketCalls& calls, size_t budget, size_t pipe_bytes) : calls_(calls), budget_(budget), pipe_bytes_(pipe_bytes) {}
  PipePool(const PipePool&) = delete;
  PipePool& operator=(const PipePool&) = delete;
  ~PipePool();  // of those that are not lent

  // None when the budget is used up, or the kernel grants none of a useful size (fs.pipe-user-pages-soft, EMFILE).
  std::optional<Pipe> Borrow();
  void Return(Pipe pipe) noexcept;  // must be empty
  void Destroy(Pipe pipe);  // may hold bytes

  size_t lent() const { return lent_; }
  size_t lent_bytes() const { return lent_bytes_; }

 private:
  std::optional<Pipe> Create();
  void Close(Pipe pipe);

  SocketCalls& calls_;
  const size_t budget_;
  const size_t pipe_bytes_;
  size_t lent_ = 0;
  size_t lent_bytes_ = 0;
  std::vector<Pipe> idle_;
};

}  // namespace hud
