#include "ring/pass_through/invariants.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "ring/pass_through/pass_through.h"
#include "ring/relay/relay_invariants.h"

namespace hud {
namespace {

constexpr std::array kSides = {Side::kClient, Side::kNode};

const char* SomethingAlwaysFollows(const Connection& c) {
  switch (c.state) {
    case ConnectionState::kFree: return nullptr;
    case ConnectionState::kHello:
    case ConnectionState::kRejecting: {
      const bool is_asked = c.Owes(Side::kClient, Op::kRecv) || c.from(Side::kClient).starved;
      return is_asked && c.IsSet() ? nullptr : "SomethingAlwaysFollows: no receive or no timer before the relay";
    }
    case ConnectionState::kDialing: {
      if (c.context == nullptr) return "SomethingAlwaysFollows: it dials without a hello";
      if (!c.Owes(Side::kNode, Op::kConnect)) {
        return c.context->dial.waits && c.IsSet() ? nullptr : "SomethingAlwaysFollows: neither a connect nor a timer that leads to one";
      }
      // After the attempt's time its cancelled connect is all that is waited for.
      return c.IsSet() || c.context->dial.attempt_timed_out ? nullptr : "SomethingAlwaysFollows: a connect without a timer";
    }
    case ConnectionState::kRelaying:
      return c.active ? nullptr : "SomethingAlwaysFollows: a relay that has not begun, or is over";
    case ConnectionState::kTerminating:
      return c.AnythingOwed() ? nullptr : "SomethingAlwaysFollows: nothing is owed, and it is not freed";
  }
  return nullptr;
}

bool NothingIsLeft(const Connection& c) {
  const auto holds = [](const Direction& d) {
    return d.has_buffer || (d.held && (d.held->rest.data || d.held->behind.data || d.held->pipe));
  };
  return !c.ends[0].fd && !c.ends[1].fd && c.ends[0].IsQuiet() && c.ends[1].IsQuiet() && c.context == nullptr && !c.counted_active &&
         !c.counted_in_pool && !holds(c.direction[0]) && !holds(c.direction[1]);
}

const char* InFlightPinsMemory(const Connection& c) {
  if (c.state == ConnectionState::kFree) {
    const bool is_free = NothingIsLeft(c) && c.notifications() == 0 && !c.direction[0].held && !c.direction[1].held && !c.IsSet();
    return is_free ? nullptr : "InFlightPinsMemory: a free slot is not free";
  }
  for (Side side : kSides) {
    if (!c.end(side).IsQuiet() && !c.end(side).fd) return "InFlightPinsMemory: a request whose descriptor is closed";
  }
  for (Side source : kSides) {
    if (c.end(Other(source)).notifications != NotificationsOwed(c.from(source))) {
      return "InFlightPinsMemory: notifications and the buffers they are for differ";
    }
  }
  // Without the client's descriptor it waits for notifications only (JoinIfDone), of which a peer that stalls can make it wait long.
  if (!c.end(Side::kClient).fd) return NothingIsLeft(c) ? nullptr : "InFlightPinsMemory: closed, and not all given back";
  const bool dials = c.Owes(Side::kNode, Op::kConnect);
  if (dials) {  // the hello's send is behind the connect, and of the two one completes
    const bool has_hello = c.context != nullptr && c.context->bytes.data != nullptr;
    return c.Owes(Side::kNode, Op::kSend) && has_hello ? nullptr : "InFlightPinsMemory: a connect without the hello behind it";
  }
  for (Side source : kSides) {
    const Direction& d = c.from(source);
    const Side sink = Other(source);
    const bool has_private = d.held && !d.held->rest.empty() && d.held->rest.data != nullptr;
    if (c.Owes(sink, Op::kSend) && !d.has_buffer && !has_private) return "InFlightPinsMemory: a send of memory that is gone";
    if (c.Owes(sink, Op::kZeroCopy) && !(d.held && d.held->HasUnsentZeroCopy())) {
      return "InFlightPinsMemory: a zero-copy send of a buffer that is gone";
    }
  }
  return nullptr;
}

const char* IdleIsFree(const Connection& c) {
  if (c.state != ConnectionState::kRelaying) return nullptr;
  return (c.context != nullptr) == c.verdict_pending ? nullptr : "IdleIsFree: a hello that nobody needs, or the verdict lacks it";
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
  if (c.active != (c.state == ConnectionState::kRelaying)) return "OneCloseReason: a relay goes on beside its connection";
  if (const char* broken = BrokenInvariant(static_cast<const RelayState&>(c), now)) return broken;
  return IdleIsFree(c);
}

bool FollowsASend(const Connection& c, Side sink) {
  if (c.state != ConnectionState::kTerminating) return FollowsASend(static_cast<const RelayState&>(c), sink);
  return c.Owes(sink, Op::kSend);
}

std::string Describe(const Connection& c, Instant now) {
  static constexpr std::array<const char*, 6> kStates = {"free", "hello", "dialing", "relaying", "rejecting", "terminating"};
  std::string text = absl::StrCat("connection ", c.slot, ".", c.generation, " ", kStates[static_cast<size_t>(c.state)]);
  if (c.state == ConnectionState::kTerminating) absl::StrAppend(&text, " (", std::string(CloseReasonName(c.close_reason)), ")");
  absl::StrAppend(&text, "; ", Describe(static_cast<const RelayState&>(c)), "; timer ");
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
  if (c.end(Side::kClient).fd) {
    ++open;
    ++of_listener[Raw(c.listener)];
  }
  const bool dials_one = c.context && c.context->dial.counted_active;
  if (c.counted_active) ++of_node[Raw(c.choice.node.index)];
  if (dials_one) ++of_node[Raw(c.context->dial.choice.node.index)];
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

void PassThrough::CheckInvariants(std::span<const Completion> completions, bool all) {
  InvariantChecks& checks = *checks_;
  for (const Completion& completion : completions) {
    const Tag tag = Tag::Unpack(completion.user_data);
    if (tag.op != Op::kIgnored && tag.room == Room::kPassThrough) CheckConnection(connections_.At(tag.slot));
  }
  if (++checks.turns * InvariantChecks::kPerTurn < connections_.slots() && !all) return;
  checks.turns = 0;
  checks.recount = Recount();
  const bool in_every_turn = connections_.slots() <= InvariantChecks::kPerTurn;
  // A wait that does not last is announcement enough; after a full batch the ring has more to say.
  const bool must_announce = !loop_.sends_awaited() && !relay_.HasMoreNow() && !relay_.HasStarved() && starved_.empty() && !loop_.batch_was_full();
  for (uint32_t slot = 0; slot < connections_.slots(); ++slot) {
    const Connection& c = connections_.At(slot);
    CheckConnection(c);
    checks.recount.Add(c);
    if (!in_every_turn) continue;
    for (Side sink : kSides) {
      auto seen = checks.sends_seen[2 * slot + Index(sink)];
      if (must_announce && !seen && FollowsASend(c, sink)) {
        Broken("WhoAwaitsASendSaysSo: something is to follow a send, and the next wait may last", Describe(c, loop_.now()));
      }
      seen = c.Owes(sink, Op::kSend);
    }
  }
  CheckSums();
}

void PassThrough::CheckConnection(const Connection& c) const {
  if (const char* broken = BrokenInvariant(c, loop_.now())) [[unlikely]] Broken(broken, Describe(c, loop_.now()));
}

void PassThrough::CheckSums() const {
  const Recount& counted = checks_->recount;
  CheckSum("connections in use", static_cast<int64_t>(connections_.used()), counted.used);
  CheckSum("active", counters_.active.Get(), counted.used);
  CheckSum("in_hello", counters_.in_hello.Get(), counted.in_hello);
  CheckSum("dialing", counters_.dialing.Get(), counted.dialing);
  CheckSum("relaying", counters_.relaying.Get(), counted.relaying);
  CheckSum("timers", static_cast<int64_t>(timers_.size()), counted.timers);
  CheckSum("private bytes", memory_.bytes(), counted.private_bytes);
  CheckSum("bytes of hellos", static_cast<int64_t>(admission_.held_hello_bytes()), counted.hello_bytes);
  CheckSum("pipes lent", static_cast<int64_t>(relay_.pipes().lent()), counted.pipes);
  CheckSum("bytes in pipes", relay_.bytes_in_pipes(), counted.pipe_bytes);
  CheckSum("shared buffers with the worker", static_cast<int64_t>(checks_->buffers - loop_.ring().buffers_free()), counted.shared_buffers);
  CheckLists();
  CheckCloses();
  CheckWhatAllWorkersCount();
}

// Who waits stands in one list, once.
void PassThrough::CheckLists() const {
  const Recount& counted = checks_->recount;
  int64_t ready = 0, heard = 0;
  int64_t starved = std::ranges::count_if(starved_, [this](uint64_t packed) {
    const Tag tag = Tag::Unpack(packed);
    return connections_.At(tag.slot).generation == tag.generation;
  });
  relay_.ForEachWaiting([&](Relay::List list) {
    switch (list) {
      case Relay::List::kReady: ++ready; break;
      case Relay::List::kStarved: ++starved; break;
      case Relay::List::kHeard: ++heard; break;
    }
  });
  CheckSum("directions that are ready", ready, counted.in_ready_list);
  CheckSum("directions that wait for a buffer", starved, counted.starved);
  CheckSum("directions that were heard", heard, counted.in_heard_list);
}

// One is counted when its descriptors close, which may be before its slot is free.
void PassThrough::CheckCloses() const {
  const auto sum = [](const auto& counters) {
    int64_t n = 0;
    for (const Counter& counter : counters) n += counter.Get();
    return n;
  };
  const auto check = [](const std::string& of, int64_t accepted, int64_t closed, int64_t open) {
    if (accepted - open == closed) [[likely]] return;
    Broken("OneCloseReason: accepted are not those that are open and those that were closed",
           absl::StrCat(of, ": ", accepted, " accepted, ", open, " open, ", closed, " closed"));
  };
  const Recount& counted = checks_->recount;
  check("all", counters_.accepted.Get(), sum(counters_.closes), counted.open);
  for (size_t i = 0; i < table_->listeners.size(); ++i) {
    const ListenerCounters& listener = counters_.listeners[i];
    check(table_->listeners[i].name, listener.accepted.Get(), sum(listener.closes), counted.of_listener[i]);
  }
}

void PassThrough::CheckWhatAllWorkersCount() const {
  if (places_.limits().workers > 1) return;
  const Recount& counted = checks_->recount;
  CheckSum("places", static_cast<int64_t>(places_.used()), counted.open);
  for (size_t i = 0; i < table_->nodes.size(); ++i) {
    const NodeCounters& node = routing_.nodes->node(NodeIndex(static_cast<uint16_t>(i)));
    CheckSum("active of a node", node.active.load(std::memory_order_relaxed), counted.of_node[i]);
  }
  for (size_t i = 0; i < table_->pools.size(); ++i) {
    const PoolCounters& pool = routing_.nodes->pool(PoolIndex(static_cast<uint16_t>(i)));
    CheckSum("active of a pool", pool.active.load(std::memory_order_relaxed), counted.of_pool[i]);
  }
}

}  // namespace hud
