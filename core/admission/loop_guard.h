// Notices a connection that comes back to where it began: a node's address that leads here again, by NAT, over another proxy or
// a ring of them. Nothing in an address tells; but each time round the same ClientHello comes, whose 32 random bytes no two
// handshakes share (RFC 8446 section 4.1.2). So many connections at a time with one hello are one that goes in a circle.
// All workers share one of these.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <memory>

#include "core/base/siphash.h"
#include "core/base/types.h"

namespace hud {

class LoopGuard {
 public:
  // Of one hello. Programs that only ask whether somebody is there send a fixed one (HAProxy's ssl-hello-chk), and so do tools that
  // measure, some at a time.
  static constexpr uint32_t kMost = 64;
  static constexpr uint32_t kNone = 0;

  // A cell for each connection that there may be: that kMost strangers meet in one of them has no chance worth a name (1 in 65!),
  // the key keeps anybody from choosing, and the fewer there are the more of them the core's caches hold.
  LoopGuard(size_t connections, const SipKey& key)
      : key_(key),
        mask_(std::bit_ceil(std::clamp<size_t>(connections, 1024, size_t{1} << 24)) - 1),
        cells_(std::make_unique<std::atomic<uint32_t>[]>(mask_ + 1)) {}

  // Of a hello as it came, from its first record on. Never kNone.
  uint32_t CellOf(Bytes hello) const {
    const Bytes rest = hello.subspan(std::min(kRandomAt, hello.size()));
    return static_cast<uint32_t>(SipHash13(key_, rest.first(std::min(kRandomBytes, rest.size()))) & mask_) + 1;
  }
  // Returns how many there are then.
  uint32_t Enter(uint32_t cell) { return cells_[cell - 1].fetch_add(1, std::memory_order_relaxed) + 1; }
  void Leave(uint32_t cell) { cells_[cell - 1].fetch_sub(1, std::memory_order_relaxed); }

 private:
  // Behind the heads of a record (5) and a handshake message (4) and the version (2). Where a record ends before, its
  // successor's head is among the bytes: they come round again all the same.
  static constexpr size_t kRandomAt = 11;
  static constexpr size_t kRandomBytes = 32;

  const SipKey key_;
  const size_t mask_;
  std::unique_ptr<std::atomic<uint32_t>[]> cells_;
};

}  // namespace hud
