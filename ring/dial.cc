#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/check.h"
#include "core/dial_budget.h"
#include "core/proxy_protocol.h"
#include "ring/worker.h"

namespace hud {
namespace {

// A node that loses its power says nothing. An idle relay to it is found out by keep-alive after 10 + 3 × 5 s (tcp(7)),
// one with unacknowledged bytes by OnRelayTimer().
constexpr int kKeepAliveIdleSeconds = 10;
constexpr int kKeepAliveIntervalSeconds = 5;
constexpr int kKeepAliveProbes = 3;

// A client that goes away during a quick connect is noticed right after it; only a slow connect is worth a poll.
constexpr Duration kWatchClientAfter = std::chrono::milliseconds(100);

void SetOption(int fd, int level, int name, int value) { (void)setsockopt(fd, level, name, &value, sizeof value); }

// Ours: no port, no memory, no descriptor, a full backlog of a unix socket, a local rule. Never the node's fault.
bool IsLocalError(int error) {
  switch (error) {
    case EADDRNOTAVAIL:
    case EADDRINUSE:
    case EAGAIN:
    case ENOBUFS:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case EPERM:
    case EACCES: return true;
    default: return false;
  }
}

// Consistent for all workers, processes and proxies, so that Maglev sends a client to the same node everywhere.
uint64_t ClientHash(const SocketAddress& client) { return SipHash(SipKey{}, client.host_bytes()); }

}  // namespace

void Worker::BeginDial(Connection& c) {
  Enter(c, ConnectionState::kDialing);
  c.dial_began = now_;
  c.dial_deadline = now_ + table_->timeouts.connect;
  if (table_->pools[Raw(c.route.pool)].proxy_protocol == ProxyProtocol::kV2) PrependProxyHeader(c);
  DialNext(c);
}

void Worker::DialNext(Connection& c) {
  const uint32_t allowed = std::min<uint32_t>(table_->dial_attempts, limits::kMaxDialAttempts);
  if (c.attempts >= allowed || now_ >= c.dial_deadline) return NoMoreNodes(c);
  const ChoiceContext context{*table_, *shared_.affinity, *shared_.nodes, now_, Random(), ClientHash(c.client_address)};
  const NodeChoice choice = ChooseNode(context, c.route.pool, c.context->parsed ? &c.context->hello : nullptr,
                                       {c.tried.data(), c.attempts});
  if (!choice.node) return NoMoreNodes(c);
  c.choice = choice;
  counters_.choices[static_cast<size_t>(choice.reason)].Add();
  if (choice.reason == ChoiceReason::kOwnerOverBound) {
    shared_.nodes->pool(c.route.pool).over_bound.fetch_add(1, std::memory_order_relaxed);
  }
  if (c.attempts > 0) counters_.connect_retries.Add();
  const NodeView& node = table_->nodes[Raw(choice.node.index)];
  c.node_name = node.name;
  c.tried[c.attempts++] = choice.node.index;
  if (!OpenNodeSocket(c, node.address)) {
    c.local_dial_error = true;
    return NoMoreNodes(c);
  }
  shared_.nodes->node(choice.node.index).active.fetch_add(1, std::memory_order_relaxed);
  c.counted_active = true;
  c.attempt_timed_out = false;
  const SocketAddress& address = c.context->node_address = node.address;
  ring_->Connect(c.fd[Index(Side::kNode)].get(), address.data(), address.size(), c.TagOf(Op::kConnect, Side::kNode));
  Owe(c, Op::kConnect, Side::kNode);
  const auto members = static_cast<uint32_t>(table_->pools[Raw(c.route.pool)].members.size());
  const uint32_t attempts_left = std::min(allowed, std::max<uint32_t>(members, c.attempts)) - c.attempts + 1;
  c.state_deadline = now_ + DialAttemptLimit(c.dial_deadline - now_, attempts_left);
  SetTimer(c, std::min(c.state_deadline, now_ + kWatchClientAfter));
}

// The node's first bytes are then ours, not the client's: a PROXY v2 header in front of the hello.
void Worker::PrependProxyHeader(Connection& c) {
  if (c.local_address.family() == AF_UNSPEC) {
    sockaddr_storage local;
    socklen_t size = sizeof local;
    if (getsockname(c.fd[Index(Side::kClient)].get(), reinterpret_cast<sockaddr*>(&local), &size) == 0) {
      c.local_address = SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&local), size);
    }
  }
  const ProxyV2Header header = WriteProxyV2(c.client_address, c.local_address);
  PrivateBytes& hello = c.direction[Index(Side::kClient)].residue[0];
  PrivateBytes both;
  both.capacity = both.size = static_cast<uint32_t>(header.size) + hello.size;
  both.data = std::make_unique_for_overwrite<uint8_t[]>(both.size);
  std::memcpy(both.data.get(), header.data.data(), header.size);
  std::memcpy(both.data.get() + header.size, hello.data.get(), hello.size);
  held_hello_bytes_ += header.size;
  counters_.private_bytes.Add(both.capacity);
  FreeResidue(hello);
  hello = std::move(both);
}

void Worker::NoMoreNodes(Connection& c) {
  if (c.local_dial_error) return Terminate(c, CloseReason::kLocalError);
  if (c.attempts == 0) {
    shared_.nodes->pool(c.route.pool).no_usable_node.fetch_add(1, std::memory_order_relaxed);
    return Terminate(c, CloseReason::kNoUsableNode);
  }
  Terminate(c, c.attempt_timed_out ? CloseReason::kConnectTimeout : CloseReason::kConnectFailed);
}

bool Worker::OpenNodeSocket(Connection& c, const SocketAddress& address) {
  Fd fd(socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return false;
  if (!address.IsUnix()) {
    SetOption(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
    // The node's answer carries the acknowledgement: three segments a connection fewer (FACTS 4).
    SetOption(fd.get(), IPPROTO_TCP, TCP_QUICKACK, 0);
    SetOption(fd.get(), SOL_SOCKET, SO_KEEPALIVE, 1);
    SetOption(fd.get(), IPPROTO_TCP, TCP_KEEPIDLE, kKeepAliveIdleSeconds);
    SetOption(fd.get(), IPPROTO_TCP, TCP_KEEPINTVL, kKeepAliveIntervalSeconds);
    SetOption(fd.get(), IPPROTO_TCP, TCP_KEEPCNT, kKeepAliveProbes);
  }
  c.fd[Index(Side::kNode)] = std::move(fd);
  return true;
}

void Worker::OnConnect(Connection& c, int result) {
  if (result < 0) return DialFailed(c, c.attempt_timed_out ? ETIMEDOUT : -result);
  shared_.nodes->node(c.choice.node.index).connect_failures.store(0, std::memory_order_relaxed);
  Joined(c);
}

// Only a failed connect leads here: once a connect has succeeded, the hello may be with the node, and with it early
// data, so no other node may ever see it.
void Worker::DialFailed(Connection& c, int error) {
  ReleaseNode(c);
  c.fd[Index(Side::kNode)].Reset();
  counters_.connect_failures.Add();
  if (IsLocalError(error)) {
    c.local_dial_error = true;
  } else {
    c.local_dial_error = false;
    NodeCounters& node = shared_.nodes->node(c.choice.node.index);
    node.connect_failures.fetch_add(1, std::memory_order_relaxed);
    node.failed_connects.fetch_add(1, std::memory_order_relaxed);
  }
  DialNext(c);
}

void Worker::OnDialTimer(Connection& c) {
  if (now_ < c.state_deadline) {
    WatchErrors(c, Side::kClient);
    return SetTimer(c, c.state_deadline);
  }
  // The attempt's time is over; its completion comes as -ECANCELED, or as a success that was on its way.
  c.attempt_timed_out = true;
  ring_->Cancel(c.TagOf(Op::kConnect, Side::kNode));
}

void Worker::Joined(Connection& c) {
  Enter(c, ConnectionState::kRelaying);
  c.joined = true;
  c.connect_time = now_ - c.dial_began;
  c.last_activity = now_;
  held_hello_bytes_ -= c.direction[Index(Side::kClient)].residue[0].size;
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
  BeginRelay(c);
}

void Worker::ReleaseNode(Connection& c) {
  if (!c.counted_active) return;
  c.counted_active = false;
  shared_.nodes->node(c.choice.node.index).active.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace hud
