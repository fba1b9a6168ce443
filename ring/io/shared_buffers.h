// The buffers that receives of one ring share: the kernel takes one when data is there, and it is the caller's until it is returned.
// Kernel 5.19.
#pragma once

#include <liburing.h>
#include <sys/mman.h>

#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/types.h"

namespace hud {

class SharedBuffers {
 public:
  static constexpr uint16_t kGroup = 0;

  SharedBuffers(unsigned count, size_t bytes) : count_(count), bytes_(bytes) {}
  SharedBuffers(const SharedBuffers&) = delete;
  SharedBuffers& operator=(const SharedBuffers&) = delete;
  ~SharedBuffers() {  // after its ring
    if (ring_ != nullptr) munmap(ring_, count_ * sizeof(io_uring_buf));
    if (memory_ != nullptr) munmap(memory_, count_ * bytes_);
  }

  absl::Status Register(io_uring& ring) {
    memory_ = static_cast<uint8_t*>(Map(count_ * bytes_));
    ring_ = static_cast<io_uring_buf_ring*>(Map(count_ * sizeof(io_uring_buf)));
    if (memory_ == nullptr || ring_ == nullptr) return absl::ResourceExhaustedError("no memory for receive buffers");
    io_uring_buf_reg registration{};
    registration.ring_addr = reinterpret_cast<uintptr_t>(ring_);
    registration.ring_entries = count_;
    registration.bgid = kGroup;
    if (int error = io_uring_register_buf_ring(&ring, &registration, 0); error < 0) {
      return absl::UnavailableError(
          absl::StrCat("cannot register receive buffers with io_uring (needs Linux 5.19): ", std::strerror(-error)));
    }
    io_uring_buf_ring_init(ring_);
    with_caller_ = count_;
    for (unsigned i = 0; i < count_; ++i) Return(static_cast<uint16_t>(i));
    return absl::OkStatus();
  }

  void Took() { ++with_caller_; }  // a completion has named one
  void Return(uint16_t buffer) {
    HUD_CHECK(buffer < count_ && with_caller_ > 0);
    io_uring_buf_ring_add(ring_, memory_ + buffer * bytes_, static_cast<unsigned>(bytes_), buffer, io_uring_buf_ring_mask(count_), 0);
    io_uring_buf_ring_advance(ring_, 1);
    --with_caller_;
  }
  Bytes At(uint16_t buffer) const { return {memory_ + buffer * bytes_, bytes_}; }

  size_t bytes() const { return bytes_; }
  size_t free() const { return count_ - with_caller_; }

 private:
  static void* Map(size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? nullptr : memory;
  }

  const unsigned count_;
  const size_t bytes_;
  uint8_t* memory_ = nullptr;
  io_uring_buf_ring* ring_ = nullptr;
  size_t with_caller_ = 0;
};

}  // namespace hud
