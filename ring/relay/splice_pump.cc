#include "ring/relay/splice_pump.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/base/check.h"

namespace hud {
namespace {

// Full transfers of one direction before the others have their turn. One that is not full has emptied the source: to go
// on at once would move less and less at a time (16 / 64 / 256 downloads: 0.98 / 0.85 / 0.91 of HAProxy's CPU when the
// turn ends there, 0.99 / 1.01 / 1.02 when it does not).
constexpr int kTransfersPerTurn = 4;

// When a worker holds this much for sinks that have stalled, it takes in little at a time: hundreds of them stalling at
// once, as when the kernel runs short of socket memory and takes less than it has room for, must stay within 64 KiB each.
constexpr int64_t kHeldForStalledSinks = 4 * 1024 * 1024;
constexpr size_t kCautiousChunk = 24 * 1024;

bool StopsWith(Pumped& pumped, Stop stop, ssize_t result = 0) {
  pumped.stop = stop;
  pumped.error = static_cast<int>(-result);
  return false;
}

}  // namespace

Pumped SplicePump::Pump(int source, int sink, Direction& d, bool may_return) {
  HeldBytes& held = d.EnsureHeld();
  Pumped pumped{Stop::kTurnOver};
  bool source_is_empty = false;
  for (int transfer = 0; transfer < kTransfersPerTurn;) {
    if (held.pipe_bytes == 0) {
      if (!FillPipe(source, sink, d, may_return, pumped, source_is_empty)) return pumped;
      ++transfer;
    }
    if (!EmptyPipe(sink, d, pumped)) return pumped;
  }
  if (held.pipe_bytes == 0) GiveBackPipe(d);
  return pumped;
}

// False: it stops. So below.
bool SplicePump::FillPipe(int source, int sink, Direction& d, bool may_return, Pumped& pumped, bool& source_is_empty) {
  HeldBytes& held = *d.held;
  if (d.stream != Stream::kOpen) return StopsWith(pumped, Stop::kAllSent);
  if (source_is_empty) {
    GiveBackPipe(d);
    return StopsWith(pumped, Stop::kSourceEmpty);
  }
  if (!held.pipe) {
    std::optional<Pipe> pipe = pipes_.Borrow();
    if (!pipe) return StopsWith(pumped, Stop::kNoPipe);
    held.pipe = std::move(*pipe);
  }
  const size_t chunk = ChunkFor(sink, held.pipe);
  const ssize_t n = calls_.Splice(source, held.pipe.write_end.get(), chunk);
  if (n <= 0) {
    GiveBackPipe(d);
    return StopsWith(pumped, n == 0 ? Stop::kSourceEnded : n == -EAGAIN ? Stop::kNothingToRead : Stop::kSourceError, n);
  }
  d.said_readable = false;
  held.pipe_bytes = static_cast<uint32_t>(n);
  bytes_in_pipes_ += n;
  pumped.in += static_cast<size_t>(n);
  if (d.policy.SawBulkTransfer(static_cast<size_t>(n))) d.small_again = may_return;
  source_is_empty = static_cast<size_t>(n) < chunk;
  return true;
}

bool SplicePump::EmptyPipe(int sink, Direction& d, Pumped& pumped) {
  HeldBytes& held = *d.held;
  const ssize_t n = calls_.Splice(held.pipe.read_end.get(), sink, held.pipe_bytes);
  if (n < 0) return StopsWith(pumped, n == -EAGAIN ? Stop::kSinkFull : Stop::kSinkError, n);
  // splice(2) that could give only a part to the socket keeps to itself what stopped it, a reset, too.
  if (static_cast<uint32_t>(n) < held.pipe_bytes) d.sink_error_hidden = true;
  held.pipe_bytes -= static_cast<uint32_t>(n);
  bytes_in_pipes_ -= n;
  pumped.out += static_cast<size_t>(n);
  held.vain_wakes = 0;
  if (held.pipe_bytes > 0 || !d.small_again) return true;
  d.small_again = false;
  return StopsWith(pumped, Stop::kSmallAgain);
}

// How much the sink can take now, so that little is left in the pipe when it stalls. By the kernel's own account
// (SO_MEMINFO): it counts what its buffers occupy, which can be twice the payload that SIOCOUTQ tells.
size_t SplicePump::ChunkFor(int sink, const Pipe& pipe) const {
  const bool cautious = memory_.bytes() + bytes_in_pipes_ > kHeldForStalledSinks;
  const size_t most = cautious ? std::min<size_t>(pipe.capacity, kCautiousChunk) : pipe.capacity;
  const std::optional<SendMemory> memory = calls_.SendMemoryOf(sink);
  return memory ? SpliceChunk(most, memory->limit, memory->used) : most;
}

void SplicePump::GiveBackPipe(Direction& d) {
  if (!d.held || !d.held->pipe) return;
  HeldBytes& held = *d.held;
  if (held.pipe_bytes == 0) {
    pipes_.Return(std::move(held.pipe));
  } else {
    pipes_.Destroy(std::move(held.pipe));
    bytes_in_pipes_ -= held.pipe_bytes;
  }
  held.pipe = Pipe();
  held.pipe_bytes = 0;
}

int SplicePump::EmptyToMemory(Direction& d) {
  HeldBytes& held = *d.held;
  PrivateBytes& place = held.rest;
  HUD_CHECK(place.empty());
  if (!memory_.Reserve(place, held.pipe_bytes)) return ENOMEM;
  while (place.size < place.capacity) {
    const ssize_t n = calls_.ReadPipe(held.pipe, {place.data.get() + place.size, place.capacity - place.size});
    // The pipe holds what was counted into it, and nobody else reads it; but what the kernel refuses is not ours to judge.
    if (n <= 0) return EIO;
    place.size += static_cast<uint32_t>(n);
  }
  bytes_in_pipes_ -= held.pipe_bytes;
  held.pipe_bytes = 0;
  GiveBackPipe(d);
  return 0;
}

}  // namespace hud
