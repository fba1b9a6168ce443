#include "ring/listeners.h"

#include <algorithm>
#include <new>
#include <optional>
#include <utility>

namespace hud {
namespace {

constexpr int kAcceptsPerTurn = 32;
// Those who make room are gone within a turn or two, here or on another worker.
constexpr Duration kRoomWithin = std::chrono::milliseconds(2);

}  // namespace

Listeners::Listeners(RingLoop& loop, Places& places, PassThrough& pass_through, WorkerCounters& counters,
                     std::vector<ListeningSocket> sockets)
    : loop_(loop), places_(places), pass_through_(pass_through), counters_(counters) {
  for (ListeningSocket& socket : sockets) Add(std::move(socket));
}

void Listeners::Arm() {
  if (!accepting_) return;
  const size_t used = places_.used(), limit = places_.limits().connections;
  const bool was_at_limit = std::exchange(at_limit_, used >= limit);
  if (at_limit_ && !was_at_limit) counters_.limit_reached.Add();
  over_limit_ = used > limit + places_.spare();
  // All of them may be accepting: what one of them could take at once, each of them could.
  std::optional<size_t> headroom;
  if (!over_limit_) headroom = (at_limit_ ? 0 : limit - used) / places_.limits().workers;
  for (auto& [number, a] : acceptors_) a.Arm(headroom);
}

Instant Listeners::ArmsAt() const {
  if (!accepting_) return Instant::max();
  if (over_limit_) return loop_.now() + kRoomWithin;
  Instant at = Instant::max();
  for (const auto& [number, a] : acceptors_) at = std::min(at, a.ArmsAt());
  return at;
}

void Listeners::OnCompletion(Tag tag, const Completion& completion) {
  const auto found = acceptors_.find(tag.slot);
  if (found == acceptors_.end()) {  // after a loss: it was given up
    if (completion.result >= 0) loop_.calls().Close(Fd(completion.result));
    return;
  }
  Acceptor& a = found->second;
  Fd client = a.OnCompletion(tag, completion);
  if (client) pass_through_.Admit(std::move(client), a.listener());
  if (a.IsClosed()) {
    if (a.IsQuiet()) acceptors_.erase(found);
    return;
  }
  if (completion.result < 0 || !a.TakesOneByOne() || !accepting_) return;
  for (int i = 0; i < kAcceptsPerTurn && places_.used() < places_.limits().connections; ++i) {
    client = a.TakeOne();
    if (!client) return;
    pass_through_.Admit(std::move(client), a.listener());
  }
}

void Listeners::Remove(ListenerIndex listener) {
  for (auto& [number, a] : acceptors_) {
    if (a.listener() != listener) continue;
    a.Stop();
    Close(a);
  }
  ForgetClosed();
}

void Listeners::Pause(ListenerIndex listener, bool paused) {
  for (auto& [number, a] : acceptors_) {
    if (a.listener() == listener) a.Pause(paused);
  }
}

void Listeners::StopAll() {
  if (!std::exchange(accepting_, false)) return;
  for (auto& [number, a] : acceptors_) a.Stop();
}

void Listeners::CloseAll() {
  for (auto& [number, a] : acceptors_) Close(a);
}

void Listeners::AfterALoss() {
  for (auto& [number, a] : acceptors_) a.AfterALoss();
  ForgetClosed();
}

bool Listeners::AreQuiet() const {
  return std::ranges::all_of(acceptors_, [](const auto& entry) { return entry.second.IsQuiet(); });
}

// Without memory for it the other workers have the listener, and the kernel gives this one none of its clients.
void Listeners::Add(ListeningSocket socket) {
  if (!accepting_) return loop_.calls().Close(std::move(socket.fd));
  constexpr uint32_t kNumbers = 1 << 24;  // as many as fit a tag
  while (acceptors_.contains(next_number_)) next_number_ = (next_number_ + 1) % kNumbers;
  try {
    acceptors_.try_emplace(next_number_, loop_, counters_, next_number_, std::move(socket));
  } catch (const std::bad_alloc&) {
    counters_.accept_backoffs.Add();
    return loop_.calls().Close(std::move(socket.fd));
  }
  next_number_ = (next_number_ + 1) % kNumbers;
}

void Listeners::ForgetClosed() {
  std::erase_if(acceptors_, [](const auto& entry) { return entry.second.IsClosed() && entry.second.IsQuiet(); });
}

// Clients that have finished the TCP handshake are served, not reset, when a listener ends, as long as there are places. Then it closes.
void Listeners::Close(Acceptor& a) {
  if (a.IsClosed()) return;
  while (places_.used() < places_.limits().connections) {
    Fd client = a.TakeOne();
    if (!client) break;
    pass_through_.Admit(std::move(client), a.listener());
  }
  a.Close();
}

}  // namespace hud
