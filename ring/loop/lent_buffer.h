// A buffer of the shared ring that goes back at the end of the scope, unless it is kept.
#pragma once

#include "ring/io/ring.h"

namespace hud {

class LentBuffer {
 public:
  LentBuffer(Ring& ring, uint16_t buffer) : ring_(&ring), buffer_(buffer) {}
  LentBuffer(const LentBuffer&) = delete;
  LentBuffer& operator=(const LentBuffer&) = delete;
  ~LentBuffer() {
    if (ring_ != nullptr) ring_->ReturnBuffer(buffer_);
  }
  void Keep() { ring_ = nullptr; }

 private:
  Ring* ring_;
  const uint16_t buffer_;
};

}  // namespace hud
