#include "ring/pass_through/dialer.h"

#include <algorithm>
#include <cerrno>

#include "core/net/local_error.h"
#include "core/policy/dial_budget.h"

namespace hud {
namespace {

// A client that goes away during a quick connect is noticed right after it; only a slow connect is worth a poll.
constexpr Duration kWatchClientAfter = std::chrono::milliseconds(100);

// Between two rounds of attempts while something of ours is short: longer each time, up to the second of these.
constexpr Duration kShortagePause = std::chrono::milliseconds(10);
constexpr Duration kLongestShortagePause = std::chrono::milliseconds(160);

Tag With(Tag base, Op op, uint8_t number) {
  base.op = op;
  base.number = number;
  return base;
}

}  // namespace

Dialer::Outcome Dialer::Begin(DialState& dial, Endpoint& node, Tag base, const Wish& wish) {
  dial.began = loop_.now();
  dial.deadline = loop_.now() + table_->timeouts.connect;
  return Next(dial, node, base, wish);
}

// One node after the other, until a connect is under way or there is none left.
Dialer::Outcome Dialer::Next(DialState& dial, Endpoint& node, Tag base, const Wish& wish) {
  const uint32_t allowed = std::min<uint32_t>(table_->dial_attempts, limits::kMaxDialAttempts);
  while (dial.attempts < allowed && loop_.now() < dial.deadline) {
    if (!Choose(dial, wish)) break;
    const int fd = loop_.calls().Open(dial.address);
    if (fd < 0) {
      dial.shortage = dial.local_error = true;
      break;
    }
    node.fd = Fd(fd);
    const Outcome outcome = Connect(dial, node, base, wish, allowed);
    if (outcome.step == Step::kConnecting) return outcome;
  }
  return NoMoreNodes(dial, wish);
}

// False: there is none to try.
bool Dialer::Choose(DialState& dial, const Wish& wish) {
  const ChoiceContext context{*table_, *routing_.affinity, *routing_.nodes, loop_.now(), random_.Next(), wish.client_hash};
  const NodeChoice choice = ChooseNode(context, wish.pool, wish.hello, {dial.tried.data(), dial.attempts});
  if (!choice.node) return false;
  dial.choice = choice;
  dial.chosen_anew = true;
  dial.address = table_->nodes[Raw(choice.node.index)].address;
  counters_.choices[static_cast<size_t>(choice.reason)].Add();
  if (choice.reason == ChoiceReason::kOwnerOverBound) routing_.nodes->pool(wish.pool).over_bound.fetch_add(1, std::memory_order_relaxed);
  if (dial.attempts > 0) counters_.connect_retries.Add();
  dial.tried[dial.attempts++] = choice.node.index;
  return true;
}

Dialer::Outcome Dialer::Connect(DialState& dial, Endpoint& node, Tag base, const Wish& wish, uint32_t allowed) {
  routing_.nodes->node(dial.choice.node.index).active.fetch_add(1, std::memory_order_relaxed);
  dial.counted_active = true;
  dial.attempt_timed_out = false;
  const auto members = static_cast<uint32_t>(table_->pools[Raw(wish.pool)].members.size());
  const uint32_t attempts_left = std::min(allowed, std::max<uint32_t>(members, dial.attempts)) - dial.attempts + 1;
  dial.attempt_deadline = loop_.now() + DialAttemptLimit(dial.deadline - loop_.now(), attempts_left);
  ++dial.dials;
  const SocketAddress& address = dial.address;
  const Tag send = With(base, Op::kSend, dial.number());
  if (address.IsUnix()) {  // at once or not at all; the ring would have a thread of the kernel wait for room in the backlog
    if (const int result = loop_.calls().Connect(node.fd.get(), address); result < 0) {
      Failed(dial, node, -result);
      return {Step::kNothing};
    }
    loop_.ring().Send(node.fd.get(), wish.first_bytes, send.Pack());
  } else {
    const Tag connect = With(base, Op::kConnect, dial.number());
    loop_.ring().ConnectAndSend(node.fd.get(), address.data(), address.size(), connect.Pack(), wish.first_bytes, send.Pack());
  }
  loop_.Owe(node, Op::kConnect);
  loop_.Owe(node, Op::kSend);
  if (address.IsUnix()) loop_.AwaitSend(node);
  return {Step::kConnecting, std::min(dial.attempt_deadline, loop_.now() + kWatchClientAfter)};
}

// One of the two completed, and the other will not; or it does so later, because the kernel could not even begin, and is then
// nobody's any more.
bool Dialer::Settle(const DialState& dial, Endpoint& node, Tag tag, const Completion& completion) {
  const bool awaited = node.Owes(Op::kConnect) && tag.number == dial.number();
  if (!awaited || (tag.op == Op::kConnect && completion.result >= 0)) return false;
  loop_.SawArrival();
  loop_.Forgive(node, Op::kConnect);
  loop_.Forgive(node, Op::kSend);
  return true;
}

Dialer::Outcome Dialer::OnCompletion(DialState& dial, Endpoint& node, Tag tag, const Completion& completion, const Wish& wish) {
  if (!Settle(dial, node, tag, completion)) return {Step::kNothing};
  const int result = completion.result;
  int error = 0;
  if (tag.op == Op::kConnect) {
    error = result == -ECANCELED ? ENOMEM : -result;  // not cancelled by us (see below): the send behind it could not even begin
  } else {
    const bool never_began = IsLocalError(-result) || result == -ECANCELED;
    if (never_began && result != -EAGAIN && !loop_.calls().IsConnected(node.fd.get())) error = ENOMEM;
  }
  if (error == 0) {
    routing_.nodes->node(dial.choice.node.index).connect_failures.store(0, std::memory_order_relaxed);
    return {.step = Step::kConnected, .sent = result};
  }
  Failed(dial, node, dial.attempt_timed_out ? ETIMEDOUT : error);
  return Next(dial, node, With(tag, Op::kIgnored, 0), wish);
}

void Dialer::Failed(DialState& dial, Endpoint& node, int error) {
  Release(dial);
  loop_.calls().Close(std::move(node.fd));
  counters_.connect_failures.Add();
  dial.local_error = IsLocalError(error);
  if (dial.local_error) {
    dial.shortage |= IsPassingShortage(error);
    return;
  }
  NodeCounters& counters = routing_.nodes->node(dial.choice.node.index);
  counters.connect_failures.fetch_add(1, std::memory_order_relaxed);
  counters.failed_connects.fetch_add(1, std::memory_order_relaxed);
}

// A shortage of ours passes: within the time to connect all nodes are tried anew.
Dialer::Outcome Dialer::NoMoreNodes(DialState& dial, const Wish& wish) {
  if (dial.shortage) {
    const Duration pause = std::min(kShortagePause * (1 << std::min<int>(dial.shortages++, 4)), kLongestShortagePause);
    if (loop_.now() + pause < dial.deadline) {
      dial.shortage = false;
      dial.waits = true;
      dial.attempts = 0;
      return {Step::kPausing, loop_.now() + pause};
    }
  }
  CloseReason why = dial.attempt_timed_out ? CloseReason::kConnectTimeout : CloseReason::kConnectFailed;
  if (dial.local_error) {
    why = CloseReason::kLocalError;
  } else if (dial.attempts == 0) {
    routing_.nodes->pool(wish.pool).no_usable_node.fetch_add(1, std::memory_order_relaxed);
    why = CloseReason::kNoUsableNode;
  }
  return {.step = Step::kFailed, .why = why};
}

Dialer::Outcome Dialer::OnTimer(DialState& dial, Endpoint& node, Tag base, const Wish& wish) {
  if (std::exchange(dial.waits, false)) return Next(dial, node, base, wish);
  if (loop_.now() < dial.attempt_deadline) return {Step::kLasting, dial.attempt_deadline};
  // The attempt's time is over; its completion comes as -ECANCELED, or as a success that was on its way.
  dial.attempt_timed_out = true;
  Cancel(dial, node, base);
  return {Step::kNothing};
}

void Dialer::Cancel(const DialState& dial, const Endpoint& node, Tag base) {
  loop_.Cancel(node, With(base, Op::kConnect, dial.number()));
}

}  // namespace hud
