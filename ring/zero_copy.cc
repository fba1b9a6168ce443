// The zero-copy engine: for bulk that must pass user space, on devices that can send from our memory. Receives into a
// large private buffer and sends it with SEND_ZC; the buffer rests until the last notification for it has come, and the
// direction goes on with the next one meanwhile. Waiting for each notification before the next send would be ruinous.
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/base/check.h"
#include "ring/worker.h"

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

// Loopback, veth and tunnels copy after all, and unix sockets refuse; the kernel says so, and then a plain send is cheaper.
bool Worker::ZeroCopyIsUseful(const Direction& d) const { return options_.zero_copy_send && !d.zero_copy_copied; }

// Precondition: every byte received has been accepted by the sink.
void Worker::PumpZeroCopy(Connection& c, Side source) {
  Direction& d = c.direction[Index(source)];
  if (d.Held().zero_copy.size() >= ZeroCopyPool::kPerDirection) return WatchErrors(c, source);  // WaitsForNotification()
  const bool forced = options_.relay_mode == RelayMode::kZeroCopy && options_.zero_copy_send && !d.zero_copy_refused;
  uint8_t* memory = forced || ZeroCopyIsUseful(d) ? zero_copy_pool_.Borrow() : nullptr;
  if (memory == nullptr) {
    LeaveBulk(c, source);
    return Read(c, source);
  }
  const ssize_t n = calls_.Receive(c.fd[Index(source)].get(), {memory, ZeroCopyPool::kBufferBytes});
  if (n <= 0) {
    zero_copy_pool_.Return(memory);
    if (n == 0) return OnDirectEnd(c, source);
    if (n == -EAGAIN) return OnNothingToRead(c, source);
    return OnSourceError(c, source, static_cast<int>(-n));
  }
  d.said_readable = false;
  c.last_activity = now_;
  HeldBytes& held = d.Held();
  held.zero_copy.push_back({.data = memory, .number = NextNumber(held), .size = static_cast<uint32_t>(n)});
  SendZeroCopy(c, source);
}

void Worker::SendZeroCopy(Connection& c, Side source) {
  const Side sink = Other(source);
  const ZeroCopyBuffer& buffer = c.direction[Index(source)].held->zero_copy.back();
  Tag tag{c.slot, c.generation, Op::kZeroCopy, sink, buffer.number};
  ring_->SendZeroCopy(c.fd[Index(sink)].get(), {buffer.data + buffer.offset, buffer.size - buffer.offset}, tag.Pack());
  Owe(c, Op::kZeroCopy, sink);
  counters_.zerocopy_sends.Add();
}

void Worker::OnZeroCopy(Connection& c, Tag tag, const Completion& completion) {
  const Side source = Other(tag.side);
  Direction& d = c.direction[Index(source)];
  HUD_CHECK(d.held != nullptr);
  std::vector<ZeroCopyBuffer>& buffers = d.held->zero_copy;
  const auto buffer = std::find_if(buffers.begin(), buffers.end(), [&](const ZeroCopyBuffer& b) { return b.number == tag.number; });
  HUD_CHECK(buffer != buffers.end());
  const bool result_was_lost = completion.notification && buffer->notifications == 0;
  if (result_was_lost) [[unlikely]] {
    HUD_CHECK(losses_ > 0);
    return;  // what ends the connection is on its way
  }
  if (!completion.notification) {
    HUD_CHECK(c.IsPending(tag.side, Op::kZeroCopy));
    Paid(c, Op::kZeroCopy, tag.side);
    if (completion.more) {
      ++buffer->notifications;
      ++c.zero_copy_owed;
    }
    if (completion.result > 0) {
      buffer->offset += static_cast<uint32_t>(completion.result);
      CountBytes(c, source, static_cast<uint32_t>(completion.result));
      d.held->vain_wakes = 0;
    }
    if (c.state == ConnectionState::kTerminating) return JoinIfDone(c);
    return OnZeroCopyResult(c, tag.side, completion.result);
  }
  HUD_CHECK(c.zero_copy_owed > 0);
  --buffer->notifications;
  --c.zero_copy_owed;
  if ((static_cast<uint32_t>(completion.result) & kZeroCopyCopied) != 0) {
    counters_.zerocopy_copied.Add();
    d.zero_copy_copied = true;
  }
  if (c.state == ConnectionState::kTerminating) return JoinIfDone(c);
  const bool waited = WaitsForNotification(c, source);
  FreeZeroCopyBuffers(d);
  if (waited && buffers.size() < ZeroCopyPool::kPerDirection) return Advance(c, source);
  FreeHeldIfUnused(d);
}

// All buffers are on their way, so nothing is read.
bool Worker::WaitsForNotification(const Connection& c, Side source) const {
  const Direction& d = c.direction[Index(source)];
  return d.engine == Engine::kZeroCopy && d.stream == Stream::kOpen && d.held && d.held->zero_copy.size() >= ZeroCopyPool::kPerDirection &&
         !d.HoldsBytes() && !c.IsPending(source, Op::kPollIn);
}

void Worker::OnZeroCopyResult(Connection& c, Side sink, int result) {
  const Side source = Other(sink);
  Direction& d = c.direction[Index(source)];
  if (d.stream == Stream::kDiscard || d.stream == Stream::kFinished) {
    DropHeld(c, source);
    return d.stream == Stream::kDiscard ? Read(c, source) : void();
  }
  if (result == -EAGAIN) return Stall(c, source);
  const bool refused = result == -EOPNOTSUPP || result == -EINVAL;  // on this socket, or with the usage report
  const bool no_room = result == -ENOMEM || result == -ENOBUFS;     // RLIMIT_MEMLOCK counts what sends in flight pin
  if (refused || no_room) {  // what is left goes by plain send
    if (refused) d.zero_copy_copied = d.zero_copy_refused = true;
    ZeroCopyBuffer& buffer = d.held->zero_copy.back();
    if (!KeepRest(d, {buffer.data + buffer.offset, buffer.size - buffer.offset})) return Abort(c, CloseReason::kLocalError);
    buffer.size = buffer.offset;
    FreeZeroCopyBuffers(d);
    return SendHeld(c, source);
  }
  if (result < 0) return OnSinkError(c, sink, -result);
  c.last_activity = now_;
  if (d.HoldsBytes()) {  // a short send: the sink is full
    d.sink_error_hidden = true;
    return Stall(c, source);
  }
  FreeZeroCopyBuffers(d);
  Advance(c, source);
}

// Gives back the buffers of which every byte is sent and every notification has come.
void Worker::FreeZeroCopyBuffers(Direction& d) {
  std::erase_if(d.held->zero_copy, [this](const ZeroCopyBuffer& b) {
    const bool done = b.offset == b.size && b.notifications == 0;
    if (done) zero_copy_pool_.Return(b.data);
    return done;
  });
}

}  // namespace hud
