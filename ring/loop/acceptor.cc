#include "ring/loop/acceptor.h"

#include <cerrno>
#include <utility>

namespace hud {
namespace {

// Multishot accept takes whatever the backlog holds in one go; near the limit connections are taken one by one instead,
// so that what does not fit waits in the backlog and is not refused.
constexpr size_t kMultishotHeadroom = 4096;  // the default backlog
// After EMFILE and its like. An immediate re-arm spins: 1.3 million times in two seconds.
constexpr Duration kAcceptBackoff = std::chrono::milliseconds(75);

bool IsTransient(int error) {  // of one connection, not of the listener
  return error == ECONNABORTED || error == EAGAIN || error == EINTR || error == EPROTO || error == ECANCELED ||
         error == ENETDOWN || error == EHOSTUNREACH || error == ENETUNREACH || error == EPERM;
}

}  // namespace

Acceptor::Acceptor(RingLoop& loop, WorkerCounters& counters, uint32_t number, ListeningSocket socket)
    : loop_(loop), counters_(counters), number_(number), socket_(std::move(socket)) {}

Acceptor::~Acceptor() { loop_.calls().Close(std::move(socket_.fd)); }

Tag Acceptor::MyTag() const { return {.slot = number_, .op = Op::kAccept, .number = round_, .room = Room::kWorker}; }

void Acceptor::Arm(std::optional<size_t> headroom) {
  if (IsClosed()) return;
  if (paused_) headroom.reset();
  if (armed_) {
    const bool takes_too_many = !headroom || (multishot_ && *headroom < kMultishotHeadroom);
    if (takes_too_many && !std::exchange(cancelling_, true)) loop_.ring().Cancel(MyTag().Pack());
    return;
  }
  if (!headroom || loop_.calls().Now() < retry_at_) return;
  multishot_ = *headroom >= kMultishotHeadroom;
  if (multishot_) {
    loop_.ring().AcceptMultishot(socket_.fd.get(), MyTag().Pack());
  } else {
    loop_.ring().AcceptOne(socket_.fd.get(), MyTag().Pack());
  }
  armed_ = true;
  cancelling_ = false;
}

Fd Acceptor::OnCompletion(Tag tag, const Completion& completion) {
  if (!completion.more && tag.number == round_) armed_ = false;
  if (completion.result >= 0) return Fd(completion.result);
  if (!IsTransient(-completion.result)) BackOff();
  return Fd();
}

Fd Acceptor::TakeOne() {
  const int fd = loop_.calls().Accept(socket_.fd.get());
  if (fd >= 0) return Fd(fd);
  if (!IsTransient(-fd)) BackOff();
  return Fd();
}

void Acceptor::BackOff() {
  retry_at_ = loop_.now() + kAcceptBackoff;
  counters_.accept_backoffs.Add();
}

void Acceptor::Stop() {
  if (armed_) loop_.ring().Cancel(MyTag().Pack());
}

// By the ring, behind the accept that may still be queued: a descriptor's number could be somebody else's by then.
void Acceptor::Close() { loop_.ring().Close(std::move(socket_.fd)); }

void Acceptor::AfterALoss() {
  if (std::exchange(armed_, false)) loop_.ring().Cancel(MyTag().Pack());
  ++round_;
}

}  // namespace hud
