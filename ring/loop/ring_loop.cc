#include "ring/loop/ring_loop.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"

namespace hud {
namespace {

// A wait that ended so much later than it should have was no wait: the process was away.
constexpr Duration kAbsenceNoticed = std::chrono::milliseconds(50);
// A machine so busy that every wait ends late must not put the timers off for ever: after each delay they do advance.
constexpr Duration kCatchUp = std::chrono::milliseconds(100);

}  // namespace

RingLoop::RingLoop(std::unique_ptr<Ring> ring, SocketCalls& calls)
    : ring_(std::move(ring)), calls_(calls), now_(calls.Now()), before_(now_) {}

std::span<const Completion> RingLoop::Wait(Instant wake_at) {
  Instant due = Instant::max() - kAbsenceNoticed;
  Duration timeout = Duration::max();
  if (sends_awaited_ || wake_at != Instant::max()) {
    const Instant asked_at = calls_.Now();
    const bool at_once = sends_awaited_ || wake_at == Instant::min();
    timeout = at_once ? Duration::zero() : std::max(wake_at - asked_at, Duration(1));
    due = asked_at + timeout;
  }
  const size_t n = ring_->Wait(completions_, timeout, gather_.Next());
  sends_awaited_ = false;
  batch_was_full_ = n == completions_.size();
  before_ = std::exchange(now_, calls_.Now());
  if (now_ > due + kAbsenceNoticed && !catching_up_) {
    catching_up_ = true;
    caught_up_at_ = now_ + kCatchUp;
  }
  if (now_ >= caught_up_at_) catching_up_ = false;
  return std::span(completions_).first(n);
}

void RingLoop::EndTurn() {
  gather_.SawTurn(std::exchange(arrivals_, 0), now_ - before_, std::exchange(bulk_bytes_, 0) > 0, std::exchange(moved_messages_, false));
}

bool RingLoop::LostSome() { return ring_->losses() != std::exchange(losses_, ring_->losses()); }

void RingLoop::Owe(Endpoint& endpoint, Op op) {
  HUD_CHECK(!endpoint.Owes(op));
  endpoint.owed |= static_cast<uint16_t>(1u << static_cast<int>(op));
}

void RingLoop::Settle(Endpoint& endpoint, Tag tag, const Completion& completion) {
  HUD_CHECK(endpoint.Owes(tag.op));
  if (tag.op != Op::kSend) ++arrivals_;
  if (!completion.more) Forgive(endpoint, tag.op);
}

// The ring may find no memory: it owes nothing then.
void RingLoop::Recv(Endpoint& source, Tag tag, Expected expected) {
  ring_->Recv(source.fd.get(), expected, tag.Pack());
  Owe(source, tag.op);
}

void RingLoop::RecvMultishot(Endpoint& source, Tag tag, Expected expected, uint32_t limit) {
  ring_->RecvMultishot(source.fd.get(), expected, limit, tag.Pack());
  Owe(source, tag.op);
}

void RingLoop::Send(Endpoint& sink, Tag tag, Bytes bytes) {
  ring_->Send(sink.fd.get(), bytes, tag.Pack());
  Owe(sink, tag.op);
}

void RingLoop::SendZeroCopy(Endpoint& sink, Tag tag, Bytes bytes) {
  ring_->SendZeroCopy(sink.fd.get(), bytes, tag.Pack());
  Owe(sink, tag.op);
}

void RingLoop::Poll(Endpoint& endpoint, Tag tag, uint32_t events, bool changes) {
  if (endpoint.Owes(tag.op)) return;
  const int fd = endpoint.fd.get();
  changes ? ring_->PollChanges(fd, events, tag.Pack()) : ring_->Poll(fd, events, tag.Pack());
  Owe(endpoint, tag.op);
}

void RingLoop::Cancel(const Endpoint& endpoint, Tag tag) {
  if (endpoint.Owes(tag.op)) ring_->Cancel(tag.Pack());
}

void RingLoop::Close(Endpoint& endpoint) {
  HUD_CHECK(endpoint.IsQuiet());
  if (endpoint.fd) ring_->Close(std::move(endpoint.fd));
}

}  // namespace hud
