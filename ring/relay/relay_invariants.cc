#include "ring/relay/relay_invariants.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "ring/relay/relay_times.h"
#include "ring/relay/zero_copy_pool.h"

namespace hud {
namespace {

// Will an event come that reads on? A POLLIN that was cancelled counts, too: its completion asks anew.
bool SourceIsAsked(const RelayState& r, Side source) {
  const Direction& d = r.from(source);
  return r.Owes(source, Op::kRecv) || r.Owes(source, Op::kPollIn) || d.starved || d.in_ready_list;
}

bool SinkIsAwaited(const RelayState& r, Side source) {
  const Direction& d = r.from(source);
  const Side sink = Other(source);
  return r.Owes(sink, Op::kSend) || r.Owes(sink, Op::kZeroCopy) || r.Owes(sink, Op::kPollOut) || d.in_ready_list ||
         (d.held && d.held->wait_by_timer);
}

// PumpZeroCopy() reads no further while all buffers of the direction are on their way.
bool AwaitsNotification(const Direction& d) {
  return d.engine == Engine::kZeroCopy && d.held && d.held->zero_copy.size() >= ZeroCopyPool::kPerDirection && NotificationsOwed(d) > 0;
}

bool DirectionGoesOn(const RelayState& r, Side source) {
  const Direction& d = r.from(source);
  const Side sink = Other(source);
  switch (d.stream) {
    case Stream::kOpen:
      return d.HoldsBytes() ? SinkIsAwaited(r, source) : SourceIsAsked(r, source) || AwaitsNotification(d);
    case Stream::kEnded: return d.HoldsBytes() && SinkIsAwaited(r, source);
    case Stream::kDiscard:
      // A send that is on its way when the sink is given up: what becomes of it reads on.
      return SourceIsAsked(r, source) || r.Owes(sink, Op::kSend) || r.Owes(sink, Op::kZeroCopy);
    case Stream::kFlushing:  // by the relay's timer (TimersAreInTime)
    case Stream::kFinished: return true;
  }
  return false;
}

// When the relay's timer has something to do for this direction, at the latest.
Instant DueBy(const RelayState& r, Side source, Instant now) {
  const Direction& d = r.from(source);
  Instant due = Instant::max();
  if (d.stream == Stream::kFlushing) due = std::min(due, now + kLatestAcknowledgedCheck);
  if (d.stream == Stream::kDiscard && source == Side::kNode) due = std::min(due, now + kDiscardCheck);
  const bool is_half_closed = d.stream == Stream::kFinished && r.from(Other(source)).stream == Stream::kOpen;
  if (is_half_closed && !r.Owes(source, Op::kPollError)) due = std::min(due, now + kHalfClosedWatch);
  if (d.held && d.held->wait_by_timer) due = std::min(due, now + kVainPause);
  const bool stalled = r.Owes(Other(source), Op::kPollOut) || (d.held && d.held->wait_by_timer);
  if (d.pipe_bytes() > 0 && stalled) due = std::min(due, d.held->stalled_since + kPipeStall);
  return due;
}

const char* TimersAreInTime(const RelayState& r, Instant now) {
  if (!r.active) return nullptr;
  const Instant due = std::min(DueBy(r, Side::kClient, now), DueBy(r, Side::kNode, now));
  return r.deadline() <= due ? nullptr : "TimersAreInTime: the relay's timer comes after what it is for";
}

// While a send is on its way its end decides. A source whose end was seen already has nothing more to tell.
const char* WhoIsNotReadIsWatched(const RelayState& r, Side source) {
  const Direction& d = r.from(source);
  const Side sink = Other(source);
  if (d.stream != Stream::kOpen || d.polls_at_once || SourceIsAsked(r, source)) return nullptr;
  if (r.Owes(sink, Op::kSend) || r.Owes(sink, Op::kZeroCopy) || r.Owes(source, Op::kPollError)) return nullptr;
  return "WhoIsNotReadIsWatched: a source that is not read could end unseen";
}

// A poll takes no bytes, so it may stand beside a receive: one that was cancelled when its direction was dropped, or one that was
// armed in place of a cancelled receive while a send was on its way, whose end asked for a receive again.
const char* OneReader(const RelayState& r, Side source) {
  const Direction& d = r.from(source);
  if (!r.Owes(source, Op::kRecv)) return nullptr;
  if (d.starved) return "OneReader: a receive of a source that waits for a buffer";
  if (d.pipe_bytes() > 0) return "OneReader: a receive beside bytes in a pipe";
  if (d.engine != Engine::kSmall) return "OneReader: a receive beside another engine";
  if (d.stream == Stream::kOpen && d.held && d.held->HasUnsentZeroCopy()) return "OneReader: a receive beside an unsent zero-copy buffer";
  return nullptr;
}

const char* BytesStayInOrder(const RelayState& r, Side source) {
  const Direction& d = r.from(source);
  const Side sink = Other(source);
  const bool sends = r.Owes(sink, Op::kSend);
  if (sends && r.Owes(sink, Op::kZeroCopy)) return "BytesStayInOrder: two sends of one direction in flight";
  if (!r.active) return nullptr;
  if (d.has_buffer && !sends) return "BytesStayInOrder: a shared buffer that nobody sends";
  if (!d.held) return nullptr;
  const HeldBytes& held = *d.held;
  if (!held.behind.empty() && !d.has_buffer && held.rest.empty()) return "BytesStayInOrder: bytes behind nothing";
  if (d.has_buffer && !held.rest.empty()) return "BytesStayInOrder: a shared buffer has overtaken private bytes";
  const bool before_the_pipe = d.has_buffer || sends || !held.rest.empty() || !held.behind.empty();
  if (held.pipe_bytes > 0 && before_the_pipe) return "BytesStayInOrder: bytes in a pipe beside others";
  if (held.HasUnsentZeroCopy() && d.stream == Stream::kOpen && before_the_pipe) return "BytesStayInOrder: an unsent zero-copy buffer beside others";
  for (size_t i = 1; i < held.zero_copy.size(); ++i) {
    if (held.zero_copy[i - 1].offset < held.zero_copy[i - 1].size) return "BytesStayInOrder: a zero-copy buffer has been overtaken";
  }
  return nullptr;
}

// A direction that is in the list of those that are ready has its turn at once, and may keep what it works with.
bool IdleIsFree(const Direction& d) { return !d.held || d.held->InUse() || d.in_ready_list; }

std::string PendingNames(const RelayState& r, Side side) {
  static constexpr std::array<const char*, 10> kNames = {"",          "accept",  "wake",   "recv",    "send",
                                                         "zero-copy", "connect", "pollin", "pollout", "pollerror"};
  std::string names;
  for (size_t op = 0; op < kNames.size(); ++op) {
    if (r.Owes(side, static_cast<Op>(op))) absl::StrAppend(&names, " ", kNames[op]);
  }
  return names.empty() ? " nothing" : names;
}

std::string DirectionText(const Direction& d) {
  static constexpr std::array<const char*, 3> kEngines = {"small", "splice", "zero-copy"};
  static constexpr std::array<const char*, 5> kStreams = {"open", "ended", "flushing", "finished", "discard"};
  std::string text = absl::StrCat(kStreams[static_cast<size_t>(d.stream)], " ", kEngines[static_cast<size_t>(d.engine)]);
  const auto add = [&](bool is, const char* what) {
    if (is) absl::StrAppend(&text, " ", what);
  };
  add(d.has_buffer, "has_buffer"), add(d.bulk_wanted, "bulk_wanted"), add(d.in_ready_list, "in_ready_list");
  add(d.starved, "starved"), add(d.source_reset, "source_reset"), add(d.said_readable, "said_readable");
  if (!d.held) return text;
  absl::StrAppend(&text, " rest ", d.held->rest.size - d.held->rest.offset, " behind ", d.held->behind.size, " pipe ", d.held->pipe_bytes,
                  " vain ", static_cast<int>(d.held->vain_wakes), d.held->wait_by_timer ? " by timer" : "");
  for (const ZeroCopyBuffer& b : d.held->zero_copy) absl::StrAppend(&text, " zc ", b.offset, "/", b.size, " owes ", b.notifications);
  return text;
}

}  // namespace

uint32_t NotificationsOwed(const Direction& d) {
  uint32_t owed = 0;
  if (d.held) {
    for (const ZeroCopyBuffer& b : d.held->zero_copy) owed += b.notifications;
  }
  return owed;
}

const char* BrokenInvariant(const RelayState& r, Instant now) {
  for (Side source : {Side::kClient, Side::kNode}) {
    if (const char* broken = BytesStayInOrder(r, source)) return broken;
  }
  if (!r.active) return nullptr;
  if (!r.IsSet()) return "SomethingAlwaysFollows: a relay without a timer";
  if (!DirectionGoesOn(r, Side::kClient)) return "SomethingAlwaysFollows: nothing moves client to node on";
  if (!DirectionGoesOn(r, Side::kNode)) return "SomethingAlwaysFollows: nothing moves node to client on";
  const bool is_over = r.direction[0].stream == Stream::kFinished && r.direction[1].stream == Stream::kFinished;
  if (is_over) return "SomethingAlwaysFollows: both streams are over, and the relay is not";
  if (const char* broken = TimersAreInTime(r, now)) return broken;
  for (Side source : {Side::kClient, Side::kNode}) {
    if (!IdleIsFree(r.from(source))) return "IdleIsFree: memory for held bytes, and none are held";
    if (const char* broken = OneReader(r, source)) return broken;
    if (const char* broken = WhoIsNotReadIsWatched(r, source)) return broken;
  }
  return nullptr;
}

bool FollowsASend(const RelayState& r, Side sink) {
  if (!r.active || !r.Owes(sink, Op::kSend)) return false;
  const Side source = Other(sink);
  const Direction& d = r.from(source);
  if (d.stream == Stream::kEnded) return true;
  if (d.stream == Stream::kFinished) return false;
  const bool source_is_asked = r.Owes(source, Op::kRecv) || r.Owes(source, Op::kPollIn);
  return !source_is_asked || (d.held && d.stream != Stream::kDiscard && (!d.held->rest.empty() || !d.held->behind.empty()));
}

std::string Describe(const RelayState& r) {
  return absl::StrCat("client fd ", r.fd(Side::kClient), " owes", PendingNames(r, Side::kClient), "; node fd ", r.fd(Side::kNode), " owes",
                      PendingNames(r, Side::kNode), "; client to node ", DirectionText(r.direction[0]), "; node to client ",
                      DirectionText(r.direction[1]), "; notifications owed ", r.notifications());
}

}  // namespace hud
