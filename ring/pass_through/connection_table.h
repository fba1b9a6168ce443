// The slab of a worker's connections: slots in chunks that are allocated as load grows and then reused.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "core/base/check.h"
#include "ring/pass_through/connection.h"

namespace hud {

class ConnectionTable {
 public:
  // How many there may be is for Places to say. Throws std::bad_alloc, and then nothing has changed.
  Connection* Allocate() {
    if (free_.empty()) Grow();
    Connection* c = &At(free_.back());
    free_.pop_back();
    ++used_;
    return c;
  }

  // Forgets everything about the connection but its slot; the next one there has another generation.
  void Free(Connection& c) {
    HUD_CHECK(!c.AnythingOwed() && !c.IsSet());
    const uint32_t slot = c.slot;
    const auto generation = static_cast<uint16_t>(c.generation + 1);
    c = Connection();
    c.slot = slot;
    c.generation = generation;
    free_.push_back(slot);
    --used_;
  }

  Connection& At(uint32_t slot) { return (*chunks_[slot / kChunk])[slot % kChunk]; }
  const Connection& At(uint32_t slot) const { return (*chunks_[slot / kChunk])[slot % kChunk]; }
  size_t used() const { return used_; }
  size_t slots() const { return chunks_.size() * kChunk; }  // free ones, too

  template <typename Visit>
  void ForEach(Visit&& visit) {
    for (auto& chunk : chunks_) {
      for (Connection& c : *chunk) {
        if (c.state != ConnectionState::kFree) visit(c);
      }
    }
  }

 private:
  static constexpr uint32_t kChunk = 64;

  // Room in `free_` for all slots: Free() never asks for memory. What may throw comes first.
  void Grow() {
    const auto first = static_cast<uint32_t>(chunks_.size()) * kChunk;
    if (free_.capacity() < first + kChunk) free_.reserve(std::max<size_t>(first + kChunk, free_.capacity() * 2));
    chunks_.push_back(std::make_unique<std::array<Connection, kChunk>>());
    for (uint32_t i = kChunk; i-- > 0;) {
      (*chunks_.back())[i].slot = first + i;
      free_.push_back(first + i);
    }
  }

  std::vector<std::unique_ptr<std::array<Connection, kChunk>>> chunks_;
  std::vector<uint32_t> free_;
  size_t used_ = 0;
};

}  // namespace hud
