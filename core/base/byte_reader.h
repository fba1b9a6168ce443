// Reads big-endian numbers and length-prefixed vectors from bytes that a stranger sent.
// Every bounds check of the parsers is here: a read that does not fit returns false and takes nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/types.h"

namespace hud {

class ByteReader {
 public:
  ByteReader() = default;
  explicit ByteReader(Bytes bytes) : at_(bytes.data()), left_(bytes.size()) {}

  size_t remaining() const { return left_; }
  bool empty() const { return left_ == 0; }
  Bytes rest() const { return {at_, left_}; }

  [[nodiscard]] bool U8(uint8_t& value) { return Number<1>(value); }
  [[nodiscard]] bool U16(uint16_t& value) { return Number<2>(value); }
  [[nodiscard]] bool U24(uint32_t& value) { return Number<3>(value); }
  [[nodiscard]] bool U32(uint32_t& value) { return Number<4>(value); }
  [[nodiscard]] bool U64(uint64_t& value) { return Number<8>(value); }

  [[nodiscard]] bool Take(size_t count, Bytes& bytes) {
    if (count > left_) return false;
    bytes = {at_, count};
    Advance(count);
    return true;
  }

  [[nodiscard]] bool Skip(size_t count) {
    if (count > left_) return false;
    Advance(count);
    return true;
  }

  // A vector with its length in bytes in front: 8 or 16 bits.
  [[nodiscard]] bool Vector8(Bytes& bytes) { return Vector<1>(bytes); }
  [[nodiscard]] bool Vector16(Bytes& bytes) { return Vector<2>(bytes); }

  // The same, when it must be all that is left.
  [[nodiscard]] bool LastVector8(Bytes& bytes) { return Vector8(bytes) && empty(); }
  [[nodiscard]] bool LastVector16(Bytes& bytes) { return Vector16(bytes) && empty(); }

 private:
  template <size_t kSize, typename Value>
  bool Number(Value& value) {
    static_assert(kSize <= sizeof(Value));
    if (kSize > left_) return false;
    uint64_t number = 0;
    for (size_t i = 0; i < kSize; ++i) number = number << 8 | at_[i];
    value = static_cast<Value>(number);
    Advance(kSize);
    return true;
  }

  template <size_t kLengthSize>
  bool Vector(Bytes& bytes) {
    ByteReader behind = *this;
    uint32_t length = 0;
    if (!behind.Number<kLengthSize>(length) || !behind.Take(length, bytes)) return false;
    *this = behind;
    return true;
  }

  void Advance(size_t count) {
    at_ += count;
    left_ -= count;
  }

  const uint8_t* at_ = nullptr;
  size_t left_ = 0;
};

}  // namespace hud
