#include "control/nodes/health_checker.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

namespace hud {
namespace {

uint32_t KeyOf(NodeRef node) { return static_cast<uint32_t>(Raw(node.index)) << 16 | node.generation; }

}  // namespace

HealthChecker::HealthChecker(EventLoop* loop, Clock clock, Verdict verdict)
    : loop_(loop), clock_(std::move(clock)), verdict_(std::move(verdict)) {}

HealthChecker::~HealthChecker() {
  for (auto& [key, probe] : in_flight_) loop_->Remove(probe.watch);
}

HealthChecker::Outcome HealthChecker::OutcomeOf(int error) {
  switch (error) {
    case 0:
    case EISCONN: return Outcome::kConnected;
    case EINPROGRESS: return Outcome::kPending;
    case EAGAIN:         // no free port; of a unix socket: its backlog is full, which a live server's can be
    case EADDRNOTAVAIL:  // no free port, or no address of this family here
    case EAFNOSUPPORT:
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case EPERM:  // a rule of this machine's firewall
    case EINTR: return Outcome::kLocalError;
    default: return Outcome::kFailed;
  }
}

bool HealthChecker::IsKnown(NodeRef node) const {
  if (in_flight_.contains(KeyOf(node))) return true;
  return std::any_of(waiting_.begin(), waiting_.end(), [&](const Probe& probe) { return probe.order.node == node; });
}

void HealthChecker::Start(const std::vector<Cluster::ProbeOrder>& orders, Instant now) {
  for (const Cluster::ProbeOrder& order : orders) {
    EndOutdated(order);
    if (waiting_.size() >= kMaxWaiting || IsKnown(order.node)) continue;
    waiting_.push_back(Probe{.order = order, .deadline = now});
  }
  Tick(now);
}

// One whose verdict has been said, and that goes on to learn or to say goodbye, is in nobody's way; neither is one that
// goes to an address that the node had before.
void HealthChecker::EndOutdated(const Cluster::ProbeOrder& order) {
  std::erase_if(waiting_, [&](const Probe& probe) {
    return probe.order.node == order.node && !(probe.order.address == order.address);
  });
  const auto it = in_flight_.find(KeyOf(order.node));
  if (it == in_flight_.end()) return;
  const Probe& probe = it->second;
  const bool is_reported = probe.closing || (probe.handshake && probe.order.check == NodeCheck::kAuto);
  if (is_reported || !(probe.order.address == order.address)) Take(KeyOf(order.node));
}

void HealthChecker::Forget(NodeRef node) {
  const auto it = in_flight_.find(KeyOf(node));
  if (it != in_flight_.end()) {
    loop_->Remove(it->second.watch);
    in_flight_.erase(it);
  }
  std::erase_if(waiting_, [&](const Probe& probe) { return probe.order.node == node; });
}

void HealthChecker::Tick(Instant now) {
  std::vector<uint32_t> late;
  for (const auto& [key, probe] : in_flight_) {
    if (probe.deadline <= now) late.push_back(key);
  }
  for (const uint32_t key : late) {
    if (in_flight_.at(key).handshake) {
      EndHandshake(key, false);
    } else {
      End(key, Outcome::kFailed);
    }
  }

  for (size_t turns = waiting_.size(); turns > 0 && in_flight_.size() < kMaxInFlight; --turns) {
    Probe probe = std::move(waiting_.front());
    waiting_.pop_front();
    if (probe.deadline > now) {
      waiting_.push_back(std::move(probe));
    } else {
      Begin(std::move(probe.order), now);
    }
  }
}

Instant HealthChecker::NextDeadline() const {
  Instant next = Instant::max();
  for (const auto& [key, probe] : in_flight_) next = std::min(next, probe.deadline);
  if (in_flight_.size() < kMaxInFlight) {
    for (const Probe& probe : waiting_) next = std::min(next, probe.deadline);
  }
  return next;
}

void HealthChecker::Begin(Cluster::ProbeOrder order, Instant now) {
  Fd fd(::socket(order.address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return Retry(std::move(order), now);
  // Closed with a reset: a check every few seconds leaves no TIME_WAIT behind, here or there.
  const linger reset{1, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);

  const int error = ::connect(fd.get(), order.address.data(), order.address.size()) == 0 ? 0 : errno;
  const Outcome outcome = OutcomeOf(error);
  switch (outcome) {
    case Outcome::kConnected:
      if (order.check != NodeCheck::kConnect) break;
      return verdict_(order.node, ProbeEnd::kConnected);
    case Outcome::kFailed: return verdict_(order.node, ProbeEnd::kNoConnect);
    case Outcome::kLocalError: return Retry(std::move(order), now);
    case Outcome::kPending: break;
  }
  const uint32_t key = KeyOf(order.node);
  const EventLoop::Id watch = loop_->Add(fd.get(), EPOLLOUT, [this, key](uint32_t) { Ready(key); });
  if (watch == EventLoop::Id::kNone) return Retry(std::move(order), now);
  in_flight_.emplace(key, Probe{.order = std::move(order), .deadline = now + timeout_, .fd = std::move(fd), .watch = watch});
  if (outcome == Outcome::kConnected) Connected(key);
}

void HealthChecker::Ready(uint32_t node_key) {
  if (in_flight_.at(node_key).handshake) return Shake(node_key);
  int error = 0;
  socklen_t size = sizeof error;
  ::getsockopt(in_flight_.at(node_key).fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  if (OutcomeOf(error) == Outcome::kConnected) return Connected(node_key);
  End(node_key, OutcomeOf(error));
}

void HealthChecker::Connected(uint32_t node_key) {
  Probe& probe = in_flight_.at(node_key);
  if (probe.order.check == NodeCheck::kConnect) return End(node_key, Outcome::kConnected);
  if (!BeginHandshake(probe)) return End(node_key, Outcome::kLocalError);
  const bool learns = probe.order.check == NodeCheck::kAuto;
  const Duration answer_within = probe.order.answer_within > Duration(0) ? probe.order.answer_within : kHandshakeTime;
  probe.deadline = clock_() + (learns ? kLearningTime : answer_within);
  if (learns) verdict_(probe.order.node, ProbeEnd::kConnected);
  if (in_flight_.contains(node_key)) Shake(node_key);
}

// The header says that the connection is our own, and goes in one segment with nothing else: the socket is fresh.
bool HealthChecker::BeginHandshake(Probe& probe) {
  static constexpr std::string_view kProxyLocal("\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", 16);
  if (probe.order.proxy_header &&
      ::send(probe.fd.get(), kProxyLocal.data(), kProxyLocal.size(), MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EPIPE &&
      errno != ECONNRESET) {
    return false;
  }
  probe.handshake = tls_.Begin(probe.fd.get(), probe.order.server_name);
  return probe.handshake != nullptr;
}

void HealthChecker::Shake(uint32_t node_key) {
  Probe& probe = in_flight_.at(node_key);
  const TlsHandshake::Step step = probe.closing ? probe.handshake->Close() : probe.handshake->Continue();
  switch (step) {
    case TlsHandshake::Step::kWantsToRead: return Watch(node_key, EPOLLIN);
    case TlsHandshake::Step::kWantsToWrite: return Watch(node_key, EPOLLOUT);
    case TlsHandshake::Step::kAlert: return EndHandshake(node_key, true);
    case TlsHandshake::Step::kNoTls: return EndHandshake(node_key, false);
    case TlsHandshake::Step::kDone: break;
  }
  if (probe.closing) {
    Take(node_key);
    return;
  }
  probe.closing = true;
  probe.deadline = clock_() + kClosingTime;
  verdict_(probe.order.node, ProbeEnd::kTls);
  if (in_flight_.contains(node_key)) Shake(node_key);
}

void HealthChecker::Watch(uint32_t node_key, uint32_t events) {
  loop_->Change(in_flight_.at(node_key).watch, events);
}

HealthChecker::Probe HealthChecker::Take(uint32_t node_key) {
  const auto it = in_flight_.find(node_key);
  Probe probe = std::move(it->second);
  in_flight_.erase(it);
  if (probe.watch != EventLoop::Id::kNone) loop_->Remove(probe.watch);
  return probe;
}

void HealthChecker::End(uint32_t node_key, Outcome outcome) {
  Probe probe = Take(node_key);
  if (outcome == Outcome::kLocalError) return Retry(std::move(probe.order), clock_());
  verdict_(probe.order.node, outcome == Outcome::kConnected ? ProbeEnd::kConnected : ProbeEnd::kNoConnect);
}

// Of one that only learns, the connect has been reported: that no TLS came is no news.
void HealthChecker::EndHandshake(uint32_t node_key, bool answered) {
  const Probe probe = Take(node_key);
  if (probe.closing) return;
  if (answered) return verdict_(probe.order.node, ProbeEnd::kTls);
  if (probe.order.check == NodeCheck::kTls) verdict_(probe.order.node, ProbeEnd::kNoAnswer);
}

void HealthChecker::Retry(Cluster::ProbeOrder order, Instant now) {
  ++local_errors_;
  waiting_.push_back(Probe{.order = std::move(order), .deadline = now + kLocalErrorDelay});
}

}  // namespace hud
