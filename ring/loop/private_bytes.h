// Memory of one connection, outside the shared ring: held hellos and what a stalled sink left behind. Counted.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "core/base/counter.h"
#include "core/base/types.h"

namespace hud {

struct PrivateBytes {
  std::unique_ptr<uint8_t[]> data;
  uint32_t capacity = 0;
  uint32_t size = 0;
  uint32_t offset = 0;  // sent already
  bool empty() const { return offset == size; }
  Bytes unsent() const { return {data.get() + offset, size - offset}; }
};

// All of it of one worker.
class PrivateMemory {
 public:
  explicit PrivateMemory(Counter& bytes) : bytes_(bytes) {}

  int64_t bytes() const { return bytes_.Get(); }

  // Room for `capacity` in a place that has none. False: no memory, and nothing has changed; here and below.
  bool Reserve(PrivateBytes& place, uint32_t capacity) {
    place.data.reset(new (std::nothrow) uint8_t[capacity]);
    if (!place.data) return false;
    bytes_.Add(place.capacity = capacity);
    return true;
  }

  bool Append(PrivateBytes& place, Bytes bytes) {
    const size_t needed = place.size + bytes.size();
    if (needed > place.capacity) {
      PrivateBytes grown;
      if (!Reserve(grown, static_cast<uint32_t>(std::max<size_t>(needed, size_t{place.capacity} * 2)))) return false;
      if (place.size > 0) std::memcpy(grown.data.get(), place.data.get(), place.size);
      grown.size = place.size;
      grown.offset = place.offset;
      Free(std::exchange(place, std::move(grown)));
    }
    std::memcpy(place.data.get() + place.size, bytes.data(), bytes.size());
    place.size = static_cast<uint32_t>(needed);
    return true;
  }

  void Free(PrivateBytes&& place) {
    bytes_.Add(-int64_t{place.capacity});
    place = PrivateBytes();
  }

 private:
  Counter& bytes_;
};

}  // namespace hud
