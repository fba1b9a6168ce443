#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/base/check.h"
#include "core/net/local_error.h"
#include "core/net/proxy_protocol.h"
#include "core/policy/dial_budget.h"
#include "ring/worker.h"

namespace hud {
namespace {

// A client that goes away during a quick connect is noticed right after it; only a slow connect is worth a poll.
constexpr Duration kWatchClientAfter = std::chrono::milliseconds(100);

// Between two rounds of attempts while something of ours is short: longer each time, up to the second of these.
constexpr Duration kShortagePause = std::chrono::milliseconds(10);
constexpr Duration kLongestShortagePause = std::chrono::milliseconds(160);

// Consistent for all workers, processes and proxies, so that Maglev sends a client to the same node everywhere.
uint64_t ClientHash(const SocketAddress& client) { return SipHash(SipKey{}, client.host_bytes()); }

}  // namespace

void Worker::BeginDial(Connection& c) {
  Enter(c, ConnectionState::kDialing);
  shared_.nodes->pool(c.route.pool).active.fetch_add(1, std::memory_order_relaxed);
  c.counted_in_pool = true;
  c.context->dial_began = now_;
  c.context->dial_deadline = now_ + table_->timeouts.connect;
  if (table_->pools[Raw(c.route.pool)].proxy_protocol == ProxyProtocol::kV2) PrependProxyHeader(c);
  DialNext(c);
}

void Worker::DialNext(Connection& c) {
  HelloContext& dial = *c.context;
  const PoolView& pool = table_->pools[Raw(c.route.pool)];
  const uint32_t allowed = std::min<uint32_t>(table_->dial_attempts, limits::kMaxDialAttempts);
  if (c.attempts >= allowed || now_ >= dial.dial_deadline) return NoMoreNodes(c);
  const uint64_t client_hash = pool.balance == Balance::kMaglev ? ClientHash(ClientAddress(c)) : 0;
  const ChoiceContext context{*table_, *shared_.affinity, *shared_.nodes, now_, Random(), client_hash};
  const NodeChoice choice = ChooseNode(context, c.route.pool, dial.parsed ? &dial.hello : nullptr, {dial.tried.data(), c.attempts});
  if (!choice.node) return NoMoreNodes(c);
  c.choice = choice;
  counters_.choices[static_cast<size_t>(choice.reason)].Add();
  if (choice.reason == ChoiceReason::kOwnerOverBound) {
    shared_.nodes->pool(c.route.pool).over_bound.fetch_add(1, std::memory_order_relaxed);
  }
  if (c.attempts > 0) counters_.connect_retries.Add();
  const NodeView& node = table_->nodes[Raw(choice.node.index)];
  if (c.log) c.log->node = LabelOf(choice.node.index, node);
  dial.tried[c.attempts++] = choice.node.index;
  if (!OpenNodeSocket(c, node.address)) {
    dial.shortage = dial.local_dial_error = true;
    return NoMoreNodes(c);
  }
  shared_.nodes->node(choice.node.index).active.fetch_add(1, std::memory_order_relaxed);
  c.counted_active = true;
  dial.attempt_timed_out = false;
  const auto members = static_cast<uint32_t>(pool.members.size());
  const uint32_t attempts_left = std::min(allowed, std::max<uint32_t>(members, c.attempts)) - c.attempts + 1;
  dial.attempt_deadline = now_ + DialAttemptLimit(dial.dial_deadline - now_, attempts_left);
  SetTimer(c, std::min(dial.attempt_deadline, now_ + kWatchClientAfter));
  dial.node_address = node.address;
  ConnectAndSendHello(c);
}

void Worker::ConnectAndSendHello(Connection& c) {
  HelloContext& dial = *c.context;
  const int fd = c.fd[Index(Side::kNode)].get();
  const SocketAddress& address = dial.node_address;
  ++dial.dials;
  if (address.IsUnix()) {  // at once or not at all; the ring would have a thread of the kernel wait for room in the backlog
    if (const int result = calls_.Connect(fd, address); result < 0) return DialFailed(c, -result);
    ring_->Send(fd, dial.bytes.rest(), c.DialTagOf(Op::kSend));
  } else {
    ring_->ConnectAndSend(fd, address.data(), address.size(), c.DialTagOf(Op::kConnect), dial.bytes.rest(), c.DialTagOf(Op::kSend));
  }
  Owe(c, Op::kConnect, Side::kNode);
  Owe(c, Op::kSend, Side::kNode);
  if (address.IsUnix()) AwaitSend(c, Side::kNode);
}

// One of the two completed, and the other will not; or it does so later, because the kernel could not even begin, and is then
// nobody's any more.
void Worker::OnDialed(Connection& c, Tag tag, const Completion& completion) {
  const bool awaited = c.IsPending(Side::kNode, Op::kConnect) && tag.number == c.DialNumber();
  if (!awaited || (tag.op == Op::kConnect && completion.result >= 0)) return;
  ++arrivals_;
  Paid(c, Op::kConnect, Side::kNode);
  Paid(c, Op::kSend, Side::kNode);
  if (c.state == ConnectionState::kTerminating) return JoinIfDone(c);
  const int result = completion.result;
  // Cancelled, and not by us (OnConnectFailed() knows): the send behind it could not even begin.
  if (tag.op == Op::kConnect) return OnConnectFailed(c, result == -ECANCELED ? ENOMEM : -result);
  const bool never_began = IsLocalError(-result) || result == -ECANCELED;
  if (never_began && result != -EAGAIN && !calls_.IsConnected(c.fd[Index(Side::kNode)].get())) return OnConnectFailed(c, ENOMEM);
  OnHelloSent(c, result);
}

std::shared_ptr<const NodeLabel> Worker::LabelOf(NodeIndex index, const NodeView& node) {
  if (node_labels_.size() <= Raw(index)) node_labels_.resize(Raw(index) + 1);
  std::shared_ptr<const NodeLabel>& label = node_labels_[Raw(index)];
  if (!label || label->name != node.name || !(label->address == node.address)) {
    label = std::make_shared<const NodeLabel>(NodeLabel{node.name, node.address, node.address.ToString()});
  }
  return label;
}

// The node's first bytes are then ours, not the client's: a PROXY v2 header in front of the hello.
void Worker::PrependProxyHeader(Connection& c) {
  SocketAddress local = c.context->proxied_local;
  if (local.family() == AF_UNSPEC) local = calls_.LocalOf(c.fd[Index(Side::kClient)].get());
  const ProxyV2Header header = WriteProxyV2(ClientAddress(c), local);
  PrivateBytes& hello = c.context->bytes;
  PrivateBytes both;
  both.capacity = both.size = static_cast<uint32_t>(header.size) + hello.size;
  both.data = std::make_unique_for_overwrite<uint8_t[]>(both.size);
  std::memcpy(both.data.get(), header.data.data(), header.size);
  std::memcpy(both.data.get() + header.size, hello.data.get(), hello.size);
  held_hello_bytes_ += header.size;
  counters_.private_bytes.Add(both.capacity);
  FreePrivate(hello);
  hello = std::move(both);
  c.context->header_bytes = static_cast<uint16_t>(header.size);
}

void Worker::NoMoreNodes(Connection& c) {
  if (c.context->shortage && WaitForShortage(c)) return;
  if (c.context->local_dial_error) return Terminate(c, CloseReason::kLocalError);
  if (c.attempts == 0) {
    shared_.nodes->pool(c.route.pool).no_usable_node.fetch_add(1, std::memory_order_relaxed);
    return Terminate(c, CloseReason::kNoUsableNode);
  }
  Terminate(c, c.context->attempt_timed_out ? CloseReason::kConnectTimeout : CloseReason::kConnectFailed);
}

// A shortage of ours passes: within the time to connect all nodes are tried anew. False: there is no time left.
bool Worker::WaitForShortage(Connection& c) {
  HelloContext& dial = *c.context;
  const Duration pause = std::min(kShortagePause * (1 << std::min<int>(dial.shortages++, 4)), kLongestShortagePause);
  if (now_ + pause >= dial.dial_deadline) return false;
  dial.shortage = false;
  dial.waits_to_dial = true;
  c.attempts = 0;
  WatchErrors(c, Side::kClient);
  SetTimer(c, now_ + pause);
  return true;
}

bool Worker::OpenNodeSocket(Connection& c, const SocketAddress& address) {
  const int fd = calls_.Open(address);
  if (fd < 0) return false;
  c.fd[Index(Side::kNode)] = Fd(fd);
  return true;
}

void Worker::OnConnectFailed(Connection& c, int error) { DialFailed(c, c.context->attempt_timed_out ? ETIMEDOUT : error); }

// The connect succeeded, and this is what became of the hello.
void Worker::OnHelloSent(Connection& c, int result) {
  if (result > c.context->header_bytes) CountBytes(c, Side::kClient, static_cast<uint32_t>(result) - c.context->header_bytes);
  shared_.nodes->node(c.choice.node.index).connect_failures.store(0, std::memory_order_relaxed);
  PrivateBytes& hello = c.context->bytes;
  hello.offset += static_cast<uint32_t>(std::max(result, 0));
  HeldBytes* left = hello.empty() ? nullptr : &c.direction[Index(Side::kClient)].Held();  // first what may find no memory
  held_hello_bytes_ -= hello.size;
  if (left != nullptr) left->rest = std::exchange(hello, PrivateBytes());
  else FreePrivate(hello);
  Joined(c);
  BeginRelay(c);
  if (result < 0 && result != -EAGAIN) return OnSinkError(c, Side::kNode, -result);
  SendHeld(c, Side::kClient);
}

// Only a failed connect leads here: once a connect has succeeded, the hello may be with the node, and with it early
// data, so no other node may ever see it.
void Worker::DialFailed(Connection& c, int error) {
  ReleaseNode(c);
  calls_.Close(std::move(c.fd[Index(Side::kNode)]));
  counters_.connect_failures.Add();
  c.context->local_dial_error = IsLocalError(error);
  if (c.context->local_dial_error) {
    c.context->shortage |= IsPassingShortage(error);
  } else {
    NodeCounters& node = shared_.nodes->node(c.choice.node.index);
    node.connect_failures.fetch_add(1, std::memory_order_relaxed);
    node.failed_connects.fetch_add(1, std::memory_order_relaxed);
  }
  DialNext(c);
}

void Worker::OnDialTimer(Connection& c) {
  if (std::exchange(c.context->waits_to_dial, false)) return DialNext(c);
  if (now_ < c.context->attempt_deadline) {
    WatchErrors(c, Side::kClient);
    return SetTimer(c, c.context->attempt_deadline);
  }
  // The attempt's time is over; its completion comes as -ECANCELED, or as a success that was on its way.
  c.context->attempt_timed_out = true;
  ring_->Cancel(c.DialTagOf(Op::kConnect));
}

void Worker::Joined(Connection& c) {
  Enter(c, ConnectionState::kRelaying);
  c.joined = true;
  c.connect_microseconds = Microseconds(now_ - c.context->dial_began);
  counters_.pools[Raw(c.route.pool)].connect_time.Add(c.connect_microseconds);
  c.last_activity = now_;
  NodeCounters& node = shared_.nodes->node(c.choice.node.index);
  PoolCounters& pool = shared_.nodes->pool(c.route.pool);
  node.total.fetch_add(1, std::memory_order_relaxed);
  pool.total.fetch_add(1, std::memory_order_relaxed);
  if (c.choice.offered != TokenKind::kNone) {
    node.offered.fetch_add(1, std::memory_order_relaxed);
    pool.offered.fetch_add(1, std::memory_order_relaxed);
    c.verdict_pending = true;
  } else {
    c.context.reset();
  }
}

void Worker::ReleaseNode(Connection& c) {
  if (!c.counted_active) return;
  c.counted_active = false;
  shared_.nodes->node(c.choice.node.index).active.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace hud
