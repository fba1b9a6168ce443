#include "ring/relay/zero_copy_pump.h"

#include <algorithm>
#include <cerrno>

#include "core/base/check.h"

namespace hud {
namespace {

// Of no buffer that still waits for a notification, however long that takes: 256 others may come and go meanwhile.
uint8_t NextNumber(HeldBytes& held) {
  const auto is_taken = [&held](uint8_t number) {
    return std::any_of(held.zero_copy.begin(), held.zero_copy.end(), [number](const ZeroCopyBuffer& b) { return b.number == number; });
  };
  while (is_taken(held.next_number)) ++held.next_number;
  return held.next_number++;
}

}  // namespace

Pumped ZeroCopyPump::Receive(int source, Direction& d, bool useful) {
  HeldBytes& held = d.EnsureHeld();
  if (AllOnTheirWay(d)) return {Stop::kAllOnTheirWay};
  held.zero_copy.reserve(ZeroCopyPool::kPerDirection);  // before a buffer is lent that could be lost
  uint8_t* memory = useful ? pool_.Borrow() : nullptr;
  if (memory == nullptr) return {Stop::kNoBuffer};
  const ssize_t n = calls_.Receive(source, {memory, ZeroCopyPool::kBufferBytes});
  if (n <= 0) {
    pool_.Return(memory);
    if (n == 0) return {Stop::kSourceEnded};
    if (n == -EAGAIN) return {Stop::kNothingToRead};
    return {Stop::kSourceError, static_cast<int>(-n)};
  }
  d.said_readable = false;
  held.zero_copy.push_back({.data = memory, .number = NextNumber(held), .size = static_cast<uint32_t>(n)});
  return {.stop = Stop::kReceived, .in = static_cast<size_t>(n)};
}

ZeroCopyBuffer& ZeroCopyPump::Find(Direction& d, uint8_t number) {
  HUD_CHECK(d.held != nullptr);
  const auto is_it = [number](const ZeroCopyBuffer& b) { return b.number == number; };
  const auto buffer = std::find_if(d.held->zero_copy.begin(), d.held->zero_copy.end(), is_it);
  HUD_CHECK(buffer != d.held->zero_copy.end());
  return *buffer;
}

void ZeroCopyPump::FreeSent(Direction& d) {
  std::erase_if(d.held->zero_copy, [this](const ZeroCopyBuffer& b) {
    const bool done = b.offset == b.size && b.notifications == 0;
    if (done) pool_.Return(b.data);
    return done;
  });
}

void ZeroCopyPump::GiveUpUnsent(Direction& d) {
  if (d.held && d.held->HasUnsentZeroCopy()) d.held->zero_copy.back().size = d.held->zero_copy.back().offset;
}

}  // namespace hud
