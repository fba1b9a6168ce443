#include "ring/invariants.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "ring/relay_times.h"
#include "ring/worker.h"

namespace hud {
namespace {

constexpr std::array kSides = {Side::kClient, Side::kNode};

bool HasUnsentZeroCopy(const HeldBytes& held) {
  return !held.zero_copy.empty() && held.zero_copy.back().offset < held.zero_copy.back().size;
}

uint32_t NotificationsOwed(const Direction& d) {
  uint32_t owed = 0;
  if (d.held) {
    for (const ZeroCopyBuffer& b : d.held->zero_copy) owed += b.notifications;
  }
  return owed;
}

// Will an event come that reads on? A POLLIN that was cancelled counts, too: its completion asks anew.
bool SourceIsAsked(const Connection& c, Side source) {
  const Direction& d = c.direction[Index(source)];
  return c.IsPending(source, Op::kRecv) || c.IsPending(source, Op::kPollIn) || d.starved || d.in_ready_list;
}

bool SinkIsAwaited(const Connection& c, Side source) {
  const Direction& d = c.direction[Index(source)];
  const Side sink = Other(source);
  return c.IsPending(sink, Op::kSend) || c.IsPending(sink, Op::kZeroCopy) || c.IsPending(sink, Op::kPollOut) || d.in_ready_list ||
         (d.held && d.held->wait_by_timer);
}

// PumpZeroCopy() reads no further while all buffers of the direction are on their way.
bool AwaitsNotification(const Direction& d) {
  return d.engine == Engine::kZeroCopy && d.held && d.held->zero_copy.size() >= ZeroCopyPool::kPerDirection && NotificationsOwed(d) > 0;
}

bool DirectionGoesOn(const Connection& c, Side source) {
  const Direction& d = c.direction[Index(source)];
  const Side sink = Other(source);
  switch (d.stream) {
    case Stream::kOpen:
      return d.HoldsBytes() ? SinkIsAwaited(c, source) : SourceIsAsked(c, source) || AwaitsNotification(d);
    case Stream::kEnded: return d.HoldsBytes() && SinkIsAwaited(c, source);
    case Stream::kDiscard:
      // A send that is on its way when the sink is given up: what becomes of it reads on.
      return SourceIsAsked(c, source) || c.IsPending(sink, Op::kSend) || c.IsPending(sink, Op::kZeroCopy);
    case Stream::kFlushing:  // by the relay's timer (TimersAreInTime)
    case Stream::kFinished: return true;
  }
  return false;
}

const char* SomethingAlwaysFollows(const Connection& c) {
  switch (c.state) {
    case ConnectionState::kFree: return nullptr;
    case ConnectionState::kHello:
    case ConnectionState::kRejecting: {
      const bool is_asked = c.IsPending(Side::kClient, Op::kRecv) || c.direction[Index(Side::kClient)].starved;
      return is_asked && c.IsSet() ? nullptr : "SomethingAlwaysFollows: no receive or no timer before the relay";
    }
    case ConnectionState::kDialing: {
      if (c.context == nullptr) return "SomethingAlwaysFollows: it dials without a hello";
      if (!c.IsPending(Side::kNode, Op::kConnect)) {
        return c.context->waits_to_dial && c.IsSet() ? nullptr : "SomethingAlwaysFollows: neither a connect nor a timer that leads to one";
      }
      // After the attempt's time its cancelled connect is all that is waited for.
      return c.IsSet() || c.context->attempt_timed_out ? nullptr : "SomethingAlwaysFollows: a connect without a timer";
    }
    case ConnectionState::kRelaying: {
      if (!c.IsSet()) return "SomethingAlwaysFollows: a relay without a timer";
      if (!DirectionGoesOn(c, Side::kClient)) return "SomethingAlwaysFollows: nothing moves client to node on";
      if (!DirectionGoesOn(c, Side::kNode)) return "SomethingAlwaysFollows: nothing moves node to client on";
      const bool is_over = c.direction[0].stream == Stream::kFinished && c.direction[1].stream == Stream::kFinished;
      return is_over ? "SomethingAlwaysFollows: both streams are over, and the relay is not" : nullptr;
    }
    case ConnectionState::kTerminating:
      return c.AnythingPending() ? nullptr : "SomethingAlwaysFollows: nothing is owed, and it is not freed";
  }
  return nullptr;
}

// When the relay's timer has something to do for this direction, at the latest.
Instant DueBy(const Connection& c, Side source, Instant now) {
  const Direction& d = c.direction[Index(source)];
  Instant due = Instant::max();
  if (d.stream == Stream::kFlushing) due = std::min(due, now + kLatestAcknowledgedCheck);
  if (d.stream == Stream::kDiscard && source == Side::kNode) due = std::min(due, now + kDiscardCheck);
  if (d.held && d.held->wait_by_timer) due = std::min(due, now + kVainPause);
  const bool stalled = c.IsPending(Other(source), Op::kPollOut) || (d.held && d.held->wait_by_timer);
  if (d.pipe_bytes() > 0 && stalled) due = std::min(due, d.held->stalled_since + kPipeStall);
  return due;
}

const char* TimersAreInTime(const Connection& c, Instant now) {
  if (c.state != ConnectionState::kRelaying) return nullptr;
  const Instant due = std::min(DueBy(c, Side::kClient, now), DueBy(c, Side::kNode, now));
  return c.deadline() <= due ? nullptr : "TimersAreInTime: the relay's timer comes after what it is for";
}

// While a send is on its way its end decides. A source whose end was seen already has nothing more to tell.
const char* WhoIsNotReadIsWatched(const Connection& c, Side source) {
  const Direction& d = c.direction[Index(source)];
  const Side sink = Other(source);
  if (d.stream != Stream::kOpen || d.polls_at_once || SourceIsAsked(c, source)) return nullptr;
  if (c.IsPending(sink, Op::kSend) || c.IsPending(sink, Op::kZeroCopy) || c.IsPending(source, Op::kPollError)) return nullptr;
  return "WhoIsNotReadIsWatched: a source that is not read could end unseen";
}

// A poll takes no bytes, so it may stand beside a receive: one that was cancelled when its direction was dropped, or one that was
// armed in place of a cancelled receive while a send was on its way, whose end asked for a receive again.
const char* OneReader(const Connection& c, Side source) {
  const Direction& d = c.direction[Index(source)];
  if (!c.IsPending(source, Op::kRecv)) return nullptr;
  if (d.starved) return "OneReader: a receive of a source that waits for a buffer";
  if (d.pipe_bytes() > 0) return "OneReader: a receive beside bytes in a pipe";
  if (d.engine != Engine::kSmall) return "OneReader: a receive beside another engine";
  if (d.stream == Stream::kOpen && d.held && HasUnsentZeroCopy(*d.held)) return "OneReader: a receive beside an unsent zero-copy buffer";
  return nullptr;
}

const char* BytesStayInOrder(const Connection& c, Side source) {
  const Direction& d = c.direction[Index(source)];
  const Side sink = Other(source);
  const bool sends = c.IsPending(sink, Op::kSend);
  if (sends && c.IsPending(sink, Op::kZeroCopy)) return "BytesStayInOrder: two sends of one direction in flight";
  if (c.state != ConnectionState::kRelaying) return nullptr;
  if (d.has_buffer && !sends) return "BytesStayInOrder: a shared buffer that nobody sends";
  if (!d.held) return nullptr;
  const HeldBytes& held = *d.held;
  if (!held.behind.empty() && !d.has_buffer && held.rest.empty()) return "BytesStayInOrder: bytes behind nothing";
  if (d.has_buffer && !held.rest.empty()) return "BytesStayInOrder: a shared buffer has overtaken private bytes";
  const bool before_the_pipe = d.has_buffer || sends || !held.rest.empty() || !held.behind.empty();
  if (held.pipe_bytes > 0 && before_the_pipe) return "BytesStayInOrder: bytes in a pipe beside others";
  if (HasUnsentZeroCopy(held) && d.stream == Stream::kOpen && before_the_pipe) return "BytesStayInOrder: an unsent zero-copy buffer beside others";
  for (size_t i = 1; i < held.zero_copy.size(); ++i) {
    if (held.zero_copy[i - 1].offset < held.zero_copy[i - 1].size) return "BytesStayInOrder: a zero-copy buffer has been overtaken";
  }
  return nullptr;
}

bool NothingIsLeft(const Connection& c) {
  const auto holds = [](const Direction& d) {
    return d.has_buffer || (d.held && (d.held->rest.data || d.held->behind.data || d.held->pipe));
  };
  return !c.fd[0] && !c.fd[1] && c.pending[0] == 0 && c.pending[1] == 0 && c.context == nullptr && !c.counted_active &&
         !c.counted_in_pool && !holds(c.direction[0]) && !holds(c.direction[1]);
}

const char* InFlightPinsMemory(const Connection& c) {
  if (c.state == ConnectionState::kFree) {
    const bool is_free = NothingIsLeft(c) && c.zero_copy_owed == 0 && !c.direction[0].held && !c.direction[1].held && !c.IsSet();
    return is_free ? nullptr : "InFlightPinsMemory: a free slot is not free";
  }
  for (Side side : kSides) {
    if (c.pending[Index(side)] != 0 && !c.fd[Index(side)]) return "InFlightPinsMemory: a request whose descriptor is closed";
  }
  if (c.zero_copy_owed != NotificationsOwed(c.direction[0]) + NotificationsOwed(c.direction[1])) {
    return "InFlightPinsMemory: notifications and the buffers they are for differ";
  }
  // Without the client's descriptor it waits for notifications only (JoinIfDone), of which a peer that stalls can make it wait long.
  if (!c.fd[Index(Side::kClient)]) return NothingIsLeft(c) ? nullptr : "InFlightPinsMemory: closed, and not all given back";
  const bool dials = c.IsPending(Side::kNode, Op::kConnect);
  if (dials) {  // the hello's send is behind the connect, and of the two one completes
    const bool has_hello = c.context != nullptr && c.context->bytes.data != nullptr;
    return c.IsPending(Side::kNode, Op::kSend) && has_hello ? nullptr : "InFlightPinsMemory: a connect without the hello behind it";
  }
  for (Side source : kSides) {
    const Direction& d = c.direction[Index(source)];
    const Side sink = Other(source);
    const bool has_private = d.held && !d.held->rest.empty() && d.held->rest.data != nullptr;
    if (c.IsPending(sink, Op::kSend) && !d.has_buffer && !has_private) return "InFlightPinsMemory: a send of memory that is gone";
    if (c.IsPending(sink, Op::kZeroCopy) && !(d.held && HasUnsentZeroCopy(*d.held))) {
      return "InFlightPinsMemory: a zero-copy send of a buffer that is gone";
    }
  }
  return nullptr;
}

// A direction that is in the list of those that are ready has its turn at once, and may keep what it works with.
const char* IdleIsFree(const Connection& c) {
  if (c.state != ConnectionState::kRelaying) return nullptr;
  for (const Direction& d : c.direction) {
    if (d.held && !d.held->InUse() && !d.in_ready_list) return "IdleIsFree: memory for held bytes, and none are held";
  }
  return (c.context != nullptr) == c.verdict_pending ? nullptr : "IdleIsFree: a hello that nobody needs, or the verdict lacks it";
}

std::string PendingNames(const Connection& c, Side side) {
  static constexpr std::array<const char*, 10> kNames = {"",          "accept",  "wake",   "recv",    "send",
                                                         "zero-copy", "connect", "pollin", "pollout", "pollerror"};
  std::string names;
  for (size_t op = 0; op < kNames.size(); ++op) {
    if (c.IsPending(side, static_cast<Op>(op))) absl::StrAppend(&names, " ", kNames[op]);
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

[[noreturn]] void Broken(const std::string& what, const std::string& where) {
  std::fprintf(stderr, "broken invariant: %s; %s\n", what.c_str(), where.c_str());
  std::abort();
}

void CheckSum(const char* of, int64_t kept, int64_t counted) {
  if (kept == counted) [[likely]] return;
  Broken(absl::StrCat("SumsAreRight: ", of), absl::StrCat("kept ", kept, ", counted ", counted));
}

}  // namespace

const char* BrokenInvariant(const Connection& c, Instant now) {
  if (const char* broken = InFlightPinsMemory(c)) return broken;
  if (const char* broken = SomethingAlwaysFollows(c)) return broken;
  if (const char* broken = TimersAreInTime(c, now)) return broken;
  if (const char* broken = IdleIsFree(c)) return broken;
  for (Side source : kSides) {
    if (const char* broken = BytesStayInOrder(c, source)) return broken;
    if (c.state != ConnectionState::kRelaying) continue;
    if (const char* broken = OneReader(c, source)) return broken;
    if (const char* broken = WhoIsNotReadIsWatched(c, source)) return broken;
  }
  return nullptr;
}

// The return of a shared buffer alone is worth no announcement: it can wait until something else happens.
bool FollowsASend(const Connection& c, Side sink) {
  if (!c.IsPending(sink, Op::kSend)) return false;
  if (c.state == ConnectionState::kTerminating) return true;
  if (c.state != ConnectionState::kRelaying) return false;  // the hello's, behind a connect: it completes whatever becomes of it
  const Side source = Other(sink);
  const Direction& d = c.direction[Index(source)];
  if (d.stream == Stream::kEnded) return true;
  if (d.stream == Stream::kFinished) return false;
  const bool source_is_asked = c.IsPending(source, Op::kRecv) || c.IsPending(source, Op::kPollIn);
  return !source_is_asked || (d.held && d.stream != Stream::kDiscard && (!d.held->rest.empty() || !d.held->behind.empty()));
}

std::string Describe(const Connection& c, Instant now) {
  static constexpr std::array<const char*, 6> kStates = {"free", "hello", "dialing", "relaying", "rejecting", "terminating"};
  std::string text = absl::StrCat("connection ", c.slot, ".", c.generation, " ", kStates[static_cast<size_t>(c.state)]);
  if (c.state == ConnectionState::kTerminating) absl::StrAppend(&text, " (", std::string(CloseReasonName(c.close_reason)), ")");
  absl::StrAppend(&text, "; client fd ", c.fd[0].get(), " owes", PendingNames(c, Side::kClient), "; node fd ", c.fd[1].get(), " owes",
                  PendingNames(c, Side::kNode), "; client to node ", DirectionText(c.direction[0]), "; node to client ",
                  DirectionText(c.direction[1]), "; notifications owed ", c.zero_copy_owed, "; timer ");
  if (!c.IsSet()) return text + "none";
  return absl::StrCat(text, "in ", (c.deadline() - now) / std::chrono::milliseconds(1), " ms");
}

void Recount::Add(const Connection& c) {
  if (c.state == ConnectionState::kFree) return;
  ++used;
  in_hello += c.state == ConnectionState::kHello;
  dialing += c.state == ConnectionState::kDialing;
  relaying += c.state == ConnectionState::kRelaying;
  timers += c.IsSet();
  if (c.fd[Index(Side::kClient)]) {
    ++open;
    ++of_listener[Raw(c.listener)];
  }
  if (c.counted_active) ++of_node[Raw(c.choice.node.index)];
  if (c.counted_in_pool) ++of_pool[Raw(c.route.pool)];
  if (c.context) {
    private_bytes += c.context->bytes.capacity;
    if (!c.joined && c.state != ConnectionState::kTerminating) hello_bytes += c.context->bytes.size;
  }
  for (const Direction& d : c.direction) {
    shared_buffers += d.has_buffer;
    in_ready_list += d.in_ready_list;
    starved += d.starved;
    in_heard_list += d.in_heard_list;
    if (!d.held) continue;
    private_bytes += int64_t{d.held->rest.capacity} + d.held->behind.capacity;
    pipes += static_cast<bool>(d.held->pipe);
    pipe_bytes += d.held->pipe_bytes;
  }
}

void Worker::CheckInvariants(size_t completions) {
  InvariantChecks& checks = *checks_;
  for (const Completion& completion : std::span(completions_).first(completions)) {
    const Tag tag = Tag::Unpack(completion.user_data);
    const bool is_connections = tag.op != Op::kIgnored && tag.op != Op::kAccept && tag.op != Op::kWake;
    if (is_connections) CheckConnection(connections_.At(tag.slot));
  }
  if (++checks.turns * InvariantChecks::kPerTurn < connections_.slots() && !stopping_) return;
  checks.turns = 0;
  checks.recount = Recount();
  const bool in_every_turn = connections_.slots() <= InvariantChecks::kPerTurn;
  // A wait that does not last is announcement enough; after a full batch the ring has more to say.
  const bool must_announce = !sends_awaited_ && ready_.empty() && starved_.empty() && completions < completions_.size();
  for (uint32_t slot = 0; slot < connections_.slots(); ++slot) {
    const Connection& c = connections_.At(slot);
    CheckConnection(c);
    checks.recount.Add(c);
    if (!in_every_turn) continue;
    for (Side sink : kSides) {
      auto seen = checks.sends_seen[2 * slot + Index(sink)];
      if (must_announce && !seen && FollowsASend(c, sink)) {
        Broken("WhoAwaitsASendSaysSo: something is to follow a send, and the next wait may last", Describe(c, now_));
      }
      seen = c.IsPending(sink, Op::kSend);
    }
  }
  CheckSums();
}

void Worker::CheckConnection(const Connection& c) const {
  if (const char* broken = BrokenInvariant(c, now_)) [[unlikely]] Broken(broken, Describe(c, now_));
}

void Worker::CheckSums() {
  const Recount& counted = checks_->recount;
  CheckSum("connections in use", static_cast<int64_t>(connections_.used()), counted.used);
  CheckSum("active", counters_.active.Get(), counted.used);
  CheckSum("in_hello", counters_.in_hello.Get(), counted.in_hello);
  CheckSum("dialing", counters_.dialing.Get(), counted.dialing);
  CheckSum("relaying", counters_.relaying.Get(), counted.relaying);
  CheckSum("timers", static_cast<int64_t>(timers_.size()), counted.timers);
  CheckSum("private bytes", counters_.private_bytes.Get(), counted.private_bytes);
  CheckSum("bytes of hellos", static_cast<int64_t>(held_hello_bytes_), counted.hello_bytes);
  CheckSum("pipes lent", static_cast<int64_t>(pipes_.lent()), counted.pipes);
  CheckSum("bytes in pipes", bytes_in_pipes_, counted.pipe_bytes);
  CheckSum("shared buffers with the worker", static_cast<int64_t>(checks_->buffers - ring_->buffers_free()), counted.shared_buffers);
  const auto entries = [this](const auto& list) {
    return std::ranges::count_if(list, [this](const Turn& t) { return connections_.At(t.slot).generation == t.generation; });
  };
  CheckSum("directions that are ready", entries(ready_), counted.in_ready_list);
  CheckSum("directions that wait for a buffer", entries(starved_), counted.starved);
  CheckSum("directions that were heard", entries(heard_), counted.in_heard_list);
  const auto sum = [](const auto& counters) {
    int64_t n = 0;
    for (const Counter& counter : counters) n += counter.Get();
    return n;
  };
  // One is counted when its descriptors close, which may be before its slot is free.
  const auto check_closes = [&](const std::string& of, int64_t accepted, int64_t closed, int64_t open) {
    if (accepted - open == closed) [[likely]] return;
    Broken("OneCloseReason: accepted are not those that are open and those that were closed",
           absl::StrCat(of, ": ", accepted, " accepted, ", open, " open, ", closed, " closed"));
  };
  check_closes("all", counters_.accepted.Get(), sum(counters_.closes), counted.open);
  for (size_t i = 0; i < table_->listeners.size(); ++i) {
    const ListenerCounters& listener = counters_.listeners[i];
    check_closes(table_->listeners[i].name, listener.accepted.Get(), sum(listener.closes), counted.of_listener[i]);
  }
  if (places_.limits().workers > 1) return;  // what follows is kept for all workers together
  CheckSum("places", static_cast<int64_t>(places_.used()), counted.open);
  for (size_t i = 0; i < table_->nodes.size(); ++i) {
    const NodeCounters& node = shared_.nodes->node(NodeIndex(static_cast<uint16_t>(i)));
    CheckSum("active of a node", node.active.load(std::memory_order_relaxed), counted.of_node[i]);
  }
  for (size_t i = 0; i < table_->pools.size(); ++i) {
    const PoolCounters& pool = shared_.nodes->pool(PoolIndex(static_cast<uint16_t>(i)));
    CheckSum("active of a pool", pool.active.load(std::memory_order_relaxed), counted.of_pool[i]);
  }
}

}  // namespace hud
