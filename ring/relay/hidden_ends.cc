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

#include "ring/relay/relay.h"

namespace hud {
namespace {

// An end is noticed within twice this time. Short enough that nobody waits for it, long enough that connections that exchange
// messages all the time, a thousand of them through one worker, are not silent in between.
constexpr Duration kLookEvery = std::chrono::milliseconds(20);
constexpr size_t kLooksPerCall = 128;

}  // namespace

void Relay::NoteHeard(RelayState& r, Side source) {
  if (!r.Owes(source, Op::kRecv)) return;
  Direction& d = r.from(source);
  d.heard = true;
  if (d.in_heard_list) return;
  if (heard_.empty()) look_at_ = loop_.now() + kLookEvery;
  heard_.push_back({&r, r.generation, source});
  d.in_heard_list = true;
}

void Relay::LookForHiddenEnds() {
  if (heard_.empty() || loop_.now() < look_at_) return;
  look_at_ = loop_.now() + kLookEvery;
  std::array<pollfd, kLooksPerCall> looks;
  std::array<Waiting, kLooksPerCall> whose;
  size_t n = 0;
  const auto look = [&] {
    if (n == 0 || loop_.calls().Poll({looks.data(), n}) <= 0) return;
    for (size_t i = 0; i < n; ++i) {
      if ((looks[i].revents & (POLLERR | POLLHUP | POLLRDHUP)) != 0) LookAgain(*whose[i].relay, whose[i].source);
    }
  };
  std::erase_if(heard_, [&](const Waiting& w) {
    RelayState& r = *w.relay;
    if (!w.IsOf(r)) return true;
    Direction& d = r.from(w.source);
    const bool still_talks = r.active && d.heard;
    d.heard = false;
    if (still_talks) return false;
    d.in_heard_list = false;
    if (!r.active || !r.Owes(w.source, Op::kRecv)) return true;
    looks[n] = {r.fd(w.source), POLLRDHUP, 0};
    whose[n] = w;
    if (++n == kLooksPerCall) {
      look();
      n = 0;
    }
    return true;
  });
  look();
}

// The receive completes, as cancelled or as it would have, and is asked for anew once a poll says that there is something.
void Relay::LookAgain(RelayState& r, Side source) { loop_.Cancel(r.end(source), r.TagOf(Op::kRecv, source)); }

}  // namespace hud
