// What a relay waits for by the clock (relay_times.h), and for how long it may be idle.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "ring/relay/relay.h"
#include "ring/relay/relay_times.h"

namespace hud {
namespace {

// A node that loses its power says nothing. An idle relay to it is found out by keep-alive after 10 + 3 × 5 s (tcp(7)),
// one with unacknowledged bytes by IsSilent(). Only relays that last are worth the four system calls.
constexpr KeepAliveTimes kKeepAlive{.idle_seconds = 10, .interval_seconds = 5, .probes = 3};

// Nothing was heard of that peer for so long, though it was asked several times over: its power is gone, or its network.
// Keep-alive rests while bytes are unacknowledged, and the kernel alone would go on asking for a quarter of an hour.
// TCP_USER_TIMEOUT is no help: since Linux 5.11 it also ends a connection to a peer that lives, answers every window
// probe, and only does not read for that long (measured on 6.18), which is nothing but back-pressure.
bool IsSilent(const std::optional<PeerSilence>& peer, Duration limit) {
  constexpr uint32_t kUnanswered = 3;
  return peer && peer->since_heard >= limit && peer->unanswered >= kUnanswered;
}

}  // namespace

void Relay::OnTimer(RelayState& r) {
  Instant next = loop_.now() + options_.node_silence / 2;
  for (Side source : {Side::kClient, Side::kNode}) {
    if (!OnDirectionTimer(r, source, next)) return;
  }
  if (r.watched) next = std::min(next, owner_.OnWatchTimer(r));
  if (loop_.now() - r.last_activity >= options_.quiet_after) GoQuiet(r);
  if (!NodeLives(r)) return Abort(r, ResetReason(Side::kNode));
  const auto [idle_until, reason] = IdleUntil(r);
  if (loop_.now() < idle_until) return SetTimerAtMost(r, std::min(next, idle_until));  // what was sent above may have set it for sooner
  Abort(r, reason);
}

// False: the relay is over. Else `next` is no later than this direction wants to be looked at again.
bool Relay::OnDirectionTimer(RelayState& r, Side source, Instant& next) {
  Direction& d = r.from(source);
  const Instant now = loop_.now();
  if (ResetDiscardedSource(r, source) || ResetFlushedSink(r, source)) return false;
  if (d.stream == Stream::kDiscard && source == Side::kNode) next = std::min(next, now + kDiscardCheck);
  if (d.stream == Stream::kFlushing) {
    next = std::min(next, now + std::clamp((now - r.last_activity) / 4, kAcknowledgedCheck, kLatestAcknowledgedCheck));
  }
  if (d.stream == Stream::kFinished && r.from(Other(source)).stream == Stream::kOpen) WatchErrors(r, source);
  if (d.held && std::exchange(d.held->wait_by_timer, false)) SendHeld(r, source);
  if (!r.active) return false;
  const bool stalled = r.Owes(Other(source), Op::kPollOut) || (d.held && d.held->wait_by_timer);
  if (d.pipe_bytes() == 0 || !stalled) return true;
  if (now - d.held->stalled_since >= kPipeStall) {
    const int error = splice_.EmptyToMemory(d);
    if (error == ENOMEM) d.held->stalled_since = now;
    if (error != 0 && error != ENOMEM) {
      Abort(r, CloseReason::kLocalError);
      return false;
    }
  }
  if (d.pipe_bytes() > 0) next = std::min(next, d.held->stalled_since + kPipeStall);
  return true;
}

// Until when nothing may be heard, and what it ends for then.
std::pair<Instant, CloseReason> Relay::IdleUntil(const RelayState& r) const {
  const bool client_reset = r.from(Side::kClient).source_reset;
  const bool reset = client_reset || r.from(Side::kNode).source_reset;
  const bool half_closed = r.from(Side::kClient).stream != Stream::kOpen || r.from(Side::kNode).stream != Stream::kOpen;
  const Duration limit = half_closed ? timeouts_->half_closed : timeouts_->idle;
  if (reset) return {r.last_activity + std::min(limit, options_.reset_patience), ResetReason(client_reset ? Side::kClient : Side::kNode)};
  return {r.last_activity + limit, half_closed ? CloseReason::kHalfClosedTimeout : CloseReason::kIdleTimeout};
}

// Asked of relays that last.
bool Relay::NodeLives(RelayState& r) {
  if (loop_.now() - owner_.BeganAt(r) < options_.quiet_after) return true;
  if (!r.keep_alive) loop_.calls().KeepAlive(r.fd(Side::kNode), kKeepAlive);
  r.keep_alive = true;
  return !IsSilent(loop_.calls().SilenceOf(r.fd(Side::kNode)), options_.node_silence);
}

// A receive that waits pins 860 bytes in the kernel, a poll 256: an idle relay waits with polls, and receives again with its next
// message.
void Relay::GoQuiet(RelayState& r) {
  for (Side source : {Side::kClient, Side::kNode}) {
    const Direction& d = r.from(source);
    if (d.stream == Stream::kOpen && !d.HoldsBytes()) loop_.Cancel(r.end(source), r.TagOf(Op::kRecv, source));
  }
}

}  // namespace hud
