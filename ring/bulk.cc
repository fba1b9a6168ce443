// The splice engine: socket → pipe → socket inside the kernel, in a loop with a quantum. splice(2) and not
// IORING_OP_SPLICE, which parks a kernel thread for each idle direction (FACTS 4). The sockets are non-blocking; readiness
// comes from one-shot polls in the ring.
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "core/base/check.h"
#include "ring/worker.h"

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

}  // namespace

void Worker::EnterBulk(Connection& c, Side source) {
  Direction& d = c.direction[Index(source)];
  d.bulk_wanted = false;
  d.policy.EngineChanged();
  d.engine = options_.relay_mode == RelayMode::kZeroCopy ? Engine::kZeroCopy : Engine::kSplice;
  counters_.splice_entered.Add(d.engine == Engine::kSplice);
}

void Worker::LeaveBulk(Connection& c, Side source) {
  Direction& d = c.direction[Index(source)];
  HUD_CHECK(d.pipe_bytes() == 0);
  GiveBackPipe(d);
  counters_.splice_left.Add(d.engine == Engine::kSplice);
  d.policy.EngineChanged();
  d.engine = Engine::kSmall;
}

// How much the sink can take now, so that little is left in the pipe when it stalls.
size_t Worker::SinkChunk(const Connection& c, Side sink, const Pipe& pipe) const {
  const bool cautious = counters_.private_bytes.Get() + bytes_in_pipes_ > kHeldForStalledSinks;
  const size_t most = cautious ? std::min<size_t>(pipe.capacity, kCautiousChunk) : pipe.capacity;
  const std::optional<SendMemory> memory = calls_.SendMemoryOf(c.fd[Index(sink)].get());
  return memory ? SpliceChunk(most, memory->limit, memory->used) : most;
}

// Precondition: no bytes are held but those in the pipe.
void Worker::PumpSplice(Connection& c, Side source) {
  Direction& d = c.direction[Index(source)];
  const Side sink = Other(source);
  const int source_fd = c.fd[Index(source)].get();
  const int sink_fd = c.fd[Index(sink)].get();
  HeldBytes& held = d.Held();
  bool source_is_empty = false;
  for (int transfer = 0; transfer < kTransfersPerTurn;) {
    if (held.pipe_bytes == 0) {
      if (d.stream != Stream::kOpen) return Advance(c, source);
      if (source_is_empty) {
        GiveBackPipe(d);
        return Read(c, source);
      }
      if (!held.pipe) {
        std::optional<Pipe> pipe = pipes_.Borrow();
        if (!pipe) return BulkWithoutPipe(c, source);
        held.pipe = std::move(*pipe);
      }
      const size_t chunk = SinkChunk(c, sink, held.pipe);
      const ssize_t n = calls_.Splice(source_fd, held.pipe.write_end.get(), chunk);
      if (n <= 0) {
        GiveBackPipe(d);
        if (n == 0) return OnDirectEnd(c, source);
        if (n == -EAGAIN) return OnNothingToRead(c, source);
        return OnSourceError(c, source, static_cast<int>(-n));
      }
      d.said_readable = false;
      held.pipe_bytes = static_cast<uint32_t>(n);
      bytes_in_pipes_ += n;
      c.last_activity = now_;
      if (d.policy.SawBulkTransfer(static_cast<size_t>(n))) d.small_again = options_.relay_mode == RelayMode::kAuto;
      source_is_empty = static_cast<size_t>(n) < chunk;
      bulk_bytes_ += static_cast<size_t>(n);
      ++transfer;
    }
    const ssize_t n = calls_.Splice(held.pipe.read_end.get(), sink_fd, held.pipe_bytes);
    if (n == -EAGAIN) return Stall(c, source);
    if (n < 0) return OnSinkError(c, sink, static_cast<int>(-n));
    // splice(2) that could give only a part to the socket keeps to itself what stopped it, a reset, too.
    if (static_cast<uint32_t>(n) < held.pipe_bytes) d.sink_error_hidden = true;
    held.pipe_bytes -= static_cast<uint32_t>(n);
    bytes_in_pipes_ -= n;
    CountBytes(c, source, static_cast<uint64_t>(n));
    held.vain_wakes = 0;
    c.last_activity = now_;
    if (held.pipe_bytes == 0 && d.small_again) {
      d.small_again = false;
      LeaveBulk(c, source);
      return Advance(c, source);
    }
  }
  if (held.pipe_bytes == 0) GiveBackPipe(d);
  TakeTurnLater(c, source);
}

// A direct read said 0. That is the source's FIN, or a reset that was told to a send whose completion we have not seen yet.
void Worker::OnDirectEnd(Connection& c, Side source) {
  if (!c.IsPending(source, Op::kSend) && !c.IsPending(source, Op::kZeroCopy)) {
    c.direction[Index(Other(source))].sink_error_hidden = true;
    return OnSourceEnd(c, source);
  }
  AwaitSend(c, source);
  TakeTurnLater(c, source);
}

// Although a poll said that there was something: splice(2) does not go past urgent data, a receive does.
void Worker::OnNothingToRead(Connection& c, Side source) {
  if (c.direction[Index(source)].said_readable) LeaveBulk(c, source);
  Read(c, source);
}

// The pool is empty, or the kernel grants no pipe: the bytes pass through user space until one is there.
void Worker::BulkWithoutPipe(Connection& c, Side source) {
  Direction& d = c.direction[Index(source)];
  if (options_.relay_mode == RelayMode::kAuto && ZeroCopyIsUseful(d)) {
    d.engine = Engine::kZeroCopy;
    return PumpZeroCopy(c, source);
  }
  LeaveBulk(c, source);
  Read(c, source);
}

void Worker::TakeTurnLater(Connection& c, Side source) {
  Direction& d = c.direction[Index(source)];
  if (d.in_ready_list) return;
  ready_.push_back({c.slot, c.generation, source});
  d.in_ready_list = true;
}

void Worker::OnPollIn(Connection& c, Side source, int events) {
  if (events < 0 && events != -ECANCELED) return Abort(c, CloseReason::kLocalError);
  Direction& d = c.direction[Index(source)];
  d.said_readable = events > 0;
  if (d.stream == Stream::kOpen && !d.HoldsBytes()) return d.engine == Engine::kSplice ? TakeTurnLater(c, source) : Advance(c, source);
  if (d.stream == Stream::kOpen) return HoldSource(c, source);
  if (d.stream == Stream::kDiscard) Read(c, source);
}

void Worker::GiveBackPipe(Direction& d) {
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

// The sink has been stalled for a while: its bytes go to private memory, and the pipe to another direction.
void Worker::EmptyPipeToMemory(Connection& c, Side source) {
  Direction& d = c.direction[Index(source)];
  HeldBytes& held = *d.held;
  PrivateBytes& place = held.rest;
  HUD_CHECK(place.empty());
  place.data.reset(new (std::nothrow) uint8_t[held.pipe_bytes]);
  if (!place.data) {  // then they stay in the pipe
    held.stalled_since = now_;
    return;
  }
  place.capacity = held.pipe_bytes;
  counters_.private_bytes.Add(place.capacity);
  while (place.size < place.capacity) {
    const ssize_t n = calls_.ReadPipe(held.pipe, {place.data.get() + place.size, place.capacity - place.size});
    // The pipe holds what was counted into it, and nobody else reads it; but what the kernel refuses is not ours to judge.
    if (n <= 0) return Abort(c, CloseReason::kLocalError);
    place.size += static_cast<uint32_t>(n);
  }
  bytes_in_pipes_ -= held.pipe_bytes;
  held.pipe_bytes = 0;
  GiveBackPipe(d);
}

}  // namespace hud
