// Goes to a node of the chosen pool, and hands the connection to the relay once it is there.
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "core/base/check.h"
#include "core/net/proxy_protocol.h"
#include "ring/pass_through/pass_through.h"

namespace hud {
namespace {

// Consistent for all workers, processes and proxies, so that Maglev sends a client to the same node everywhere.
uint64_t ClientHash(const SocketAddress& client) { return SipHash(SipKey{}, client.host_bytes()); }

}  // namespace

void PassThrough::BeginDial(Connection& c) {
  Enter(c, ConnectionState::kDialing);
  PoolCountersOf(c).active.fetch_add(1, std::memory_order_relaxed);
  c.counted_in_pool = true;
  if (PoolOf(c).proxy_protocol == ProxyProtocol::kV2) PrependProxyHeader(c);
  OnDialed(c, dialer_.Begin(c.context->dial, c.end(Side::kNode), c.TagOf(Op::kIgnored, Side::kNode), WishOf(c)));
}

Dialer::Wish PassThrough::WishOf(Connection& c) {
  return {.pool = c.route.pool,
          .hello = c.context->parsed ? &c.context->hello : nullptr,
          .client_hash = PoolOf(c).balance == Balance::kMaglev ? ClientHash(ClientAddress(c)) : 0,
          .first_bytes = c.context->bytes.unsent()};
}

void PassThrough::OnDialed(Connection& c, Dialer::Outcome outcome) {
  DialState& dial = c.context->dial;
  c.attempts = dial.attempts;
  if (dial.choice.node) c.choice = dial.choice;
  switch (outcome.step) {
    case Dialer::Step::kNothing: return;
    case Dialer::Step::kConnected: return Join(c, outcome.sent);
    case Dialer::Step::kLasting:
    case Dialer::Step::kPausing: relay_.WatchErrors(c, Side::kClient); break;
    case Dialer::Step::kConnecting:
    case Dialer::Step::kFailed: break;
  }
  if (c.log && std::exchange(dial.chosen_anew, false)) c.log->node = LabelOf(dial.choice);
  if (outcome.step == Dialer::Step::kFailed) return Terminate(c, outcome.why);
  timers_.Set(c, outcome.look_at);
}

// The only thing that it can say now is that it has gone.
void PassThrough::OnClientWhileDialing(Connection& c, Tag tag, const Completion& completion) {
  HUD_CHECK(tag.side == Side::kClient && tag.op == Op::kPollError);
  loop_.Settle(c.end(Side::kClient), tag, completion);
  const int events = completion.result;
  if (events < 0 && events != -ECANCELED) return relay_.Abort(c, CloseReason::kLocalError);
  Direction& client = c.from(Side::kClient);
  // By a reset. The connect may have succeeded all the same, and the hello may be with the node.
  if (events > 0 && (events & (POLLERR | POLLHUP)) != 0) return relay_.Abort(c, CloseReason::kClientGoneInDial);
  if (events > 0 && (events & POLLRDHUP) != 0) client.polls_at_once = true;  // its FIN, which will be read in its place
  if (events > 0 || !client.polls_at_once) relay_.WatchErrors(c, Side::kClient);
}

std::shared_ptr<const NodeLabel> PassThrough::LabelOf(const NodeChoice& choice) {
  const auto index = Raw(choice.node.index);
  const NodeView& node = table_->nodes[index];
  if (node_labels_.size() <= index) node_labels_.resize(index + 1);
  std::shared_ptr<const NodeLabel>& label = node_labels_[index];
  if (!label || label->name != node.name || !(label->address == node.address)) {
    label = std::make_shared<const NodeLabel>(NodeLabel{node.name, node.address, node.address.ToString()});
  }
  return label;
}

// The node's first bytes are then ours, not the client's: a PROXY v2 header in front of the hello.
void PassThrough::PrependProxyHeader(Connection& c) {
  SocketAddress local = c.context->proxied_local;
  if (local.family() == AF_UNSPEC) local = loop_.calls().LocalOf(c.fd(Side::kClient));
  const ProxyV2Header header = WriteProxyV2(ClientAddress(c), local);
  PrivateBytes& hello = c.context->bytes;
  PrivateBytes both;
  const bool fits = memory_.Append(both, {header.data.data(), header.size}) && memory_.Append(both, hello.unsent());
  if (!fits) {
    memory_.Free(std::move(both));
    throw std::bad_alloc();
  }
  memory_.Free(std::exchange(hello, std::move(both)));
  admission_.CountHelloBytes(header.size);
  c.context->header_bytes = static_cast<uint16_t>(header.size);
}

// The connect succeeded, and `sent` is what became of the hello.
void PassThrough::Join(Connection& c, int sent) {
  HelloContext& context = *c.context;
  if (sent > context.header_bytes) relay_.CountSent(c, Side::kClient, static_cast<uint32_t>(sent) - context.header_bytes);
  PrivateBytes& hello = context.bytes;
  hello.offset += static_cast<uint32_t>(std::max(sent, 0));
  HeldBytes* left = hello.empty() ? nullptr : &c.from(Side::kClient).EnsureHeld();  // first what may find no memory
  admission_.GiveBackHelloBytes(hello.size);
  if (left != nullptr) {
    left->rest = std::exchange(hello, PrivateBytes());
  } else {
    memory_.Free(std::move(hello));
  }
  CountJoined(c);
  relay_.Begin(c);
  Watch(c);
  if (sent < 0 && sent != -EAGAIN) return relay_.OnSinkError(c, Side::kNode, -sent);
  relay_.GoOn(c, Side::kClient);
}

void PassThrough::CountJoined(Connection& c) {
  DialState& dial = c.context->dial;
  Enter(c, ConnectionState::kRelaying);
  c.joined = true;
  c.counted_active = std::exchange(dial.counted_active, false);
  c.connect_microseconds = Microseconds(loop_.now() - dial.began);
  counters_.pools[Raw(c.route.pool)].connect_time.Add(c.connect_microseconds);
  c.last_activity = loop_.now();
  NodeOf(c).total.fetch_add(1, std::memory_order_relaxed);
  PoolCountersOf(c).total.fetch_add(1, std::memory_order_relaxed);
  c.verdict_pending = c.choice.offered != TokenKind::kNone;
  if (!c.verdict_pending) return c.context.reset();
  NodeOf(c).offered.fetch_add(1, std::memory_order_relaxed);
  PoolCountersOf(c).offered.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace hud
