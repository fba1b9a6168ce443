// Large buffers for zero-copy sends: a bounded number, allocated as needed, reused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/base/check.h"

namespace hud {

class ZeroCopyPool {
 public:
  static constexpr size_t kBufferBytes = 64 * 1024;
  static constexpr size_t kBudget = 256;  // buffers of a worker: 16 MiB
  static constexpr size_t kPerDirection = 4;

  // Null when the budget is used up.
  uint8_t* Borrow() {
    if (!idle_.empty()) {
      uint8_t* buffer = idle_.back();
      idle_.pop_back();
      return buffer;
    }
    if (all_.size() == kBudget) return nullptr;
    idle_.reserve(all_.size() + 1);  // Return() asks for no memory
    all_.push_back(std::make_unique_for_overwrite<uint8_t[]>(kBufferBytes));
    return all_.back().get();
  }
  void Return(uint8_t* buffer) noexcept { idle_.push_back(buffer); }

 private:
  std::vector<std::unique_ptr<uint8_t[]>> all_;
  std::vector<uint8_t*> idle_;
};

}  // namespace hud
