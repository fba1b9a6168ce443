#include "agentd/proxy_link.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "core/base/check.h"

namespace hud {
namespace {

constexpr size_t kDatagramsPerTurn = 64;
constexpr Duration kBetweenOpens = std::chrono::seconds(1);

// Errors that say something about this datagram or its receiver, and nothing about the socket.
bool IsPassing(int error) {
  return error == EAGAIN || error == ENOBUFS || error == ENOMEM || error == EPERM || error == EINTR;
}

}  // namespace

void ProxyLink::AddNode(const AgentKey& key, uint64_t epoch, const TokenJournal* journal, Duration every) {
  senders_[key.node] = std::make_unique<BeaconSender>(key, epoch, journal, every);
}

bool ProxyLink::SetKey(const AgentKey& key) { return senders_.find(key.node)->second->SetKey(key); }

void ProxyLink::SetReport(std::string_view node, const NodeReport& report) {
  HUD_CHECK(senders_.find(node)->second->SetReport(report).ok());  // ParseAgentConfig refuses what cannot be sent
}

void ProxyLink::Die(std::string_view node, Instant now) { senders_.find(node)->second->Die(now); }

bool ProxyLink::DoneDying(std::string_view node) const { return senders_.find(node)->second->DoneDying(); }

bool ProxyLink::Open(Instant now) {
  if (socket_) return true;
  if (now < open_again_) return false;
  open_again_ = now + kBetweenOpens;
  Fd fd(::socket(proxy_.family(), SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd || ::connect(fd.get(), proxy_.data(), proxy_.size()) != 0) return false;
  socket_ = std::move(fd);
  ++stats_.reopened;
  return true;
}

void ProxyLink::SendOne(const std::vector<uint8_t>& datagram, Instant now) {
  if (!Open(now)) {
    ++stats_.dropped;
    return;
  }
  // The first try may only bring the news that the datagram before was refused (ICMP): then it was not sent.
  for (int attempt = 0; attempt < 2; ++attempt) {
    if (::send(socket_.get(), datagram.data(), datagram.size(), 0) >= 0) {
      ++stats_.sent;
      return;
    }
    if (errno != ECONNREFUSED) break;
    ++stats_.refused;
  }
  if (errno == ECONNREFUSED) return;
  ++stats_.dropped;
  // The address that the socket is bound to may be gone (a new lease, another interface): begin afresh.
  if (!IsPassing(errno)) socket_.Reset();
}

void ProxyLink::Send(Instant now) {
  for (auto& [node, sender] : senders_) {
    for (const std::vector<uint8_t>& datagram : sender->Poll(now, kDatagramsPerTurn)) SendOne(datagram, now);
  }
}

void ProxyLink::Receive(Instant now) {
  std::array<uint8_t, limits::kMaxDatagramBytes> buffer;
  for (size_t count = 0; socket_ && count < kDatagramsPerTurn; ++count) {
    const ssize_t n = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
    if (n < 0 && errno == ECONNREFUSED) {
      ++stats_.refused;
      continue;
    }
    if (n < 0) return;
    ++stats_.received;
    const Bytes datagram(buffer.data(), static_cast<size_t>(n));
    const std::optional<BeaconEnvelope> envelope = ReadBeaconEnvelope(datagram);
    const auto sender = envelope ? senders_.find(envelope->node) : senders_.end();
    if (sender == senders_.end()) {
      ++stats_.strange;
      continue;
    }
    sender->second->Handle(datagram, now);
  }
}

Instant ProxyLink::NextDeadline() const {
  Instant next = Instant::max();
  for (const auto& [node, sender] : senders_) next = std::min(next, sender->NextDeadline());
  // Without a socket what is due cannot be sent: it is dropped once in each interval, not in a busy loop.
  return socket_ ? next : std::max(next, open_again_);
}

bool ProxyLink::HeardSince(std::string_view node, Instant since) const {
  return senders_.find(node)->second->HeardSince(since);
}

bool ProxyLink::Confirmed(std::string_view node) const { return senders_.find(node)->second->Confirmed(); }

}  // namespace hud
