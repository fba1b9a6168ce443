#include "control/health_checker.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace hud {
namespace {

uint32_t KeyOf(NodeRef node) { return static_cast<uint32_t>(Raw(node.index)) << 16 | node.generation; }

}  // namespace

HealthChecker::HealthChecker(EventLoop* loop, Verdict verdict) : loop_(loop), verdict_(std::move(verdict)) {}

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
  now_ = now;
  for (const Cluster::ProbeOrder& order : orders) {
    if (waiting_.size() >= kMaxWaiting || IsKnown(order.node)) continue;
    waiting_.push_back(Probe{order, now, Fd(), EventLoop::Id::kNone});
  }
  Tick(now);
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
  now_ = now;
  std::vector<uint32_t> late;
  for (const auto& [key, probe] : in_flight_) {
    if (probe.deadline <= now) late.push_back(key);
  }
  for (const uint32_t key : late) End(key, Outcome::kFailed);

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
  switch (OutcomeOf(error)) {
    case Outcome::kConnected: return verdict_(order.node, true);
    case Outcome::kFailed: return verdict_(order.node, false);
    case Outcome::kLocalError: return Retry(std::move(order), now);
    case Outcome::kPending: break;
  }
  const uint32_t key = KeyOf(order.node);
  const EventLoop::Id watch = loop_->Add(fd.get(), EPOLLOUT, [this, key](uint32_t) { Ready(key); });
  if (watch == EventLoop::Id::kNone) return Retry(std::move(order), now);
  in_flight_.emplace(key, Probe{std::move(order), now + timeout_, std::move(fd), watch});
}

void HealthChecker::Ready(uint32_t node_key) {
  int error = 0;
  socklen_t size = sizeof error;
  ::getsockopt(in_flight_.at(node_key).fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  End(node_key, OutcomeOf(error));
}

void HealthChecker::End(uint32_t node_key, Outcome outcome) {
  const auto it = in_flight_.find(node_key);
  Probe probe = std::move(it->second);
  in_flight_.erase(it);
  loop_->Remove(probe.watch);
  if (outcome == Outcome::kLocalError) return Retry(std::move(probe.order), now_);
  verdict_(probe.order.node, outcome == Outcome::kConnected);
}

void HealthChecker::Retry(Cluster::ProbeOrder order, Instant now) {
  ++local_errors_;
  waiting_.push_back(Probe{std::move(order), now + kLocalErrorDelay, Fd(), EventLoop::Id::kNone});
}

}  // namespace hud
