#include <cerrno>
#include <new>
#include <utility>

#include "ring/worker.h"

namespace hud {
namespace {

// Multishot accept takes whatever the backlog holds in one go; near the limit connections are taken one by one instead,
// so that what does not fit waits in the backlog and is not refused.
constexpr size_t kMultishotHeadroom = 4096;  // the default backlog
constexpr int kAcceptsPerTurn = 32;
// After EMFILE and its like. An immediate re-arm spins: 1.3 million times in two seconds (FACTS 4).
constexpr Duration kAcceptBackoff = std::chrono::milliseconds(75);

bool IsTransient(int error) {  // of one connection, not of the listener
  return error == ECONNABORTED || error == EAGAIN || error == EINTR || error == EPROTO || error == ECANCELED ||
         error == ENETDOWN || error == EHOSTUNREACH || error == ENETUNREACH || error == EPERM;
}

}  // namespace

void Worker::ArmAcceptors() {
  if (!accepting_) return;
  const size_t used = places_.used(), limit = places_.limits().connections;
  const bool was_at_limit = std::exchange(at_limit_, used >= limit);
  if (at_limit_ && !was_at_limit) counters_.limit_reached.Add();
  // All of them may be accepting: what one of them could take at once, each of them could.
  const size_t headroom = (at_limit_ ? 0 : limit - used) / places_.limits().workers;
  over_limit_ = used > limit + places_.spare();
  for (Acceptor& a : acceptors_) {
    const Tag tag = TagOf(a);
    if (a.armed) {
      if (!a.cancelling && (over_limit_ || (a.multishot && headroom < kMultishotHeadroom))) {
        ring_->Cancel(tag.Pack());
        a.cancelling = true;
      }
      continue;
    }
    if (over_limit_ || calls_.Now() < a.retry_at) continue;
    a.multishot = headroom >= kMultishotHeadroom;
    if (a.multishot) {
      ring_->AcceptMultishot(a.socket.fd.get(), tag.Pack());
    } else {
      ring_->AcceptOne(a.socket.fd.get(), tag.Pack());
    }
    a.armed = true;
    a.cancelling = false;
  }
}

Tag Worker::TagOf(const Acceptor& acceptor) const {
  return {.slot = static_cast<uint32_t>(&acceptor - acceptors_.data()), .op = Op::kAccept, .number = acceptor.round};
}

void Worker::OnAccept(Tag tag, const Completion& completion) {
  Acceptor& a = acceptors_[tag.slot];
  if (!completion.more && tag.number == a.round) a.armed = false;
  if (completion.result >= 0) {
    Admit(Fd(completion.result), a.socket.listener);
    if (!a.multishot && accepting_) TakeMore(a);
    return;
  }
  if (!IsTransient(-completion.result)) BackOff(a);
}

// One-by-one mode: what else is in the backlog, as long as there is room.
void Worker::TakeMore(Acceptor& a) {
  for (int i = 0; i < kAcceptsPerTurn && places_.used() < places_.limits().connections; ++i) {
    const int client = calls_.Accept(a.socket.fd.get());
    if (client < 0) {
      if (!IsTransient(-client)) BackOff(a);
      return;
    }
    Admit(Fd(client), a.socket.listener);
  }
}

void Worker::BackOff(Acceptor& a) {
  a.retry_at = now_ + kAcceptBackoff;
  counters_.accept_backoffs.Add();
}

void Worker::StopAccepting() {
  if (!accepting_) return;
  accepting_ = false;
  for (const Acceptor& a : acceptors_) {
    if (a.armed) ring_->Cancel(TagOf(a).Pack());
  }
}

// Clients that have finished the TCP handshake are served, not reset, when a drain begins. Then the listener closes, by the ring:
// the cancelled accept may not even have been submitted; once it has been, it holds the file.
void Worker::TakeBacklog() {
  for (Acceptor& a : acceptors_) {
    while (places_.used() < places_.limits().connections) {
      const int client = calls_.Accept(a.socket.fd.get());
      if (client < 0) break;
      Admit(Fd(client), a.socket.listener);
    }
    ring_->Close(std::move(a.socket.fd));
  }
}

void Worker::Admit(Fd client, ListenerIndex listener) {
  counters_.accepted.Add();
  counters_.listeners[Raw(listener)].accepted.Add();
  const size_t used = places_.Take();
  Connection* c = nullptr;
  try {
    c = connections_.Allocate();
  } catch (const std::bad_alloc&) {
    places_.GiveBack();
    calls_.Close(std::move(client));
    return CountClose(listener, CloseReason::kLocalError);
  }
  c->fd[Index(Side::kClient)] = std::move(client);
  c->listener = listener;
  c->accepted_at = c->last_activity = now_;
  Guarded(*c, [&] { BeginHello(*c, used); });
}

}  // namespace hud
