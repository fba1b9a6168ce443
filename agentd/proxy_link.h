// The way to one proxy: a connected UDP socket, and a BeaconSender for each node. What the network refuses is counted
// and otherwise ignored: beacons come again.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "core/beacon/beacon_sender.h"
#include "core/net/address.h"
#include "core/os/fd.h"

namespace hud {

class ProxyLink {
 public:
  struct Stats {
    uint64_t sent = 0, refused = 0, dropped = 0, received = 0, strange = 0, reopened = 0;
  };

  explicit ProxyLink(const SocketAddress& proxy) : proxy_(proxy) {}

  void AddNode(const AgentKey& key, uint64_t epoch, const TokenJournal* journal, Duration every);
  // The node's key from now on; true if it is another one.
  bool SetKey(const AgentKey& key);
  void SetReport(std::string_view node, const NodeReport& report);
  // Nodes that were never announced have nothing to take back.
  void Die(std::string_view node, Instant now);
  bool DoneDying(std::string_view node) const;

  // -1 while there is no socket (no network yet): Send tries again.
  int fd() const { return socket_.get(); }
  void Receive(Instant now);
  // Sends what is due, a bounded number of datagrams.
  void Send(Instant now);
  Instant NextDeadline() const;
  // Has a valid answer for this node come since then?
  bool HeardSince(std::string_view node, Instant since) const;
  // Does the proxy know this node?
  bool Confirmed(std::string_view node) const;

  const SocketAddress& proxy() const { return proxy_; }
  const Stats& stats() const { return stats_; }

 private:
  bool Open(Instant now);
  void SendOne(const std::vector<uint8_t>& datagram, Instant now);

  SocketAddress proxy_;
  Fd socket_;
  Instant open_again_{};  // not before this
  std::map<std::string, std::unique_ptr<BeaconSender>, std::less<>> senders_;
  Stats stats_;
};

}  // namespace hud
