// Ends that a multishot receive does not tell. When bytes and what ends the stream behind them are there together before the
// receive looks, it delivers the bytes and then waits for a wake-up that has been (io_uring's io_poll_check_events() takes
// several wake-ups for one, and so does a receive that was armed when all was there already; measured on 6.18). The kernel
// looks again only where a socket says that more is to be read, which TCP does for a FIN, but not for a reset, and a unix
// socket for neither. A single receive looks each time that it is asked for.
//
// So a direction that fell silent after it had received something is looked at once by poll(2), many in one call, and if that
// sees an end, the receive is taken back and asked for anew. While messages go on coming nothing is hidden, and nothing is asked.
#include <poll.h>

#include <algorithm>
#include <array>

#include "ring/worker.h"

namespace hud {
namespace {

// An end is noticed within twice this time. Short enough that nobody waits for it, long enough that connections that exchange
// messages all the time, a thousand of them through one worker, are not silent in between.
constexpr Duration kLookEvery = std::chrono::milliseconds(20);
constexpr size_t kLooksPerCall = 128;

}  // namespace

void Worker::NoteHeard(const Connection& c, Direction& d, Side source) {
  if (!c.IsPending(source, Op::kRecv)) return;
  d.heard = true;
  if (d.in_heard_list) return;
  if (heard_.empty()) look_at_ = now_ + kLookEvery;
  heard_.push_back({c.slot, c.generation, source});
  d.in_heard_list = true;
}

void Worker::LookForHiddenEnds() {
  if (heard_.empty() || now_ < look_at_) return;
  look_at_ = now_ + kLookEvery;
  std::array<pollfd, kLooksPerCall> looks;
  std::array<Turn, kLooksPerCall> whose;
  size_t n = 0;
  const auto look = [&] {
    if (n == 0 || calls_.Poll({looks.data(), n}) <= 0) return;
    for (size_t i = 0; i < n; ++i) {
      if ((looks[i].revents & (POLLERR | POLLHUP | POLLRDHUP)) != 0) LookAgain(connections_.At(whose[i].slot), whose[i].source);
    }
  };
  std::erase_if(heard_, [&](const Turn& turn) {
    Connection& c = connections_.At(turn.slot);
    if (c.generation != turn.generation) return true;
    Direction& d = c.direction[Index(turn.source)];
    const bool relaying = c.state == ConnectionState::kRelaying;
    const bool still_talks = relaying && d.heard;
    d.heard = false;
    if (still_talks) return false;
    d.in_heard_list = false;
    if (!relaying || !c.IsPending(turn.source, Op::kRecv)) return true;
    looks[n] = {c.fd[Index(turn.source)].get(), POLLRDHUP, 0};
    whose[n] = turn;
    if (++n == kLooksPerCall) {
      look();
      n = 0;
    }
    return true;
  });
  look();
}

// The receive completes, as cancelled or as it would have, and is asked for anew once a poll says that there is something.
void Worker::LookAgain(Connection& c, Side source) {
  if (c.IsPending(source, Op::kRecv)) ring_->Cancel(c.TagOf(Op::kRecv, source));
}

}  // namespace hud
