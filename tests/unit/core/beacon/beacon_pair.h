// An agent's half and a proxy's half of the beacon protocol, for tests: who they are, and what passes between them.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/beacon/beacon_receiver.h"
#include "core/beacon/beacon_sender.h"

namespace hud::beacon_test {

using namespace std::chrono_literals;

inline constexpr Instant kStart{std::chrono::hours(1)};

inline BeaconSecret SecretOf(uint8_t fill) {
  BeaconSecret secret;
  secret.bytes.fill(fill);
  return secret;
}

inline SocketAddress Address(std::string_view text) { return *SocketAddress::Parse(text); }

inline NodeReport ReportOf(std::string_view address, std::vector<std::string> pools, size_t prefixes = 1) {
  NodeReport report;
  report.address = Address(address);
  report.pools = std::move(pools);
  for (size_t i = 0; i < prefixes; ++i) {
    TicketPrefix prefix;
    prefix.length = 16;
    prefix.bytes[0] = static_cast<uint8_t>(i + 1);
    report.prefixes.push_back(prefix);
  }
  return report;
}

inline BeaconKey KeyOf(std::string node, uint8_t fill) {
  BeaconKey key;
  key.node = std::move(node);
  key.secret = SecretOf(fill);
  key.pools = {"web", "api"};
  key.addresses = {*AddressRange::Parse("10.0.0.0/8")};
  return key;
}

inline Bytes AsBytes(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

// The proxy, and what it has been told.
struct Proxy {
  explicit Proxy(uint64_t nonce) : receiver(nonce) { receiver.SetKeys({KeyOf("n1", 1), KeyOf("n2", 2)}); }

  // The answer; the event is in `events` if there was one.
  std::vector<uint8_t> Handle(Bytes datagram, Instant now) {
    BeaconEvent event;
    BeaconAnswer answer;
    if (receiver.Handle(datagram, Address("10.0.0.1:5000"), now, &event, &answer)) events.push_back(event);
    EXPECT_LE(answer.datagram.size(), datagram.size()) << "an answer may not be larger than its question";
    return answer.datagram;
  }

  BeaconReceiver receiver;
  std::vector<BeaconEvent> events;
};

inline std::unique_ptr<BeaconSender> AgentOf(std::string node, uint8_t fill, uint64_t epoch,
                                             const TokenJournal* journal = nullptr, Duration every = 1s) {
  auto sender = std::make_unique<BeaconSender>(AgentKey{std::move(node), SecretOf(fill)}, epoch, journal, every);
  EXPECT_TRUE(sender->SetReport(ReportOf("10.0.0.1:443", {"web"})).ok());
  return sender;
}

// Everything that is due passes at once, both ways, for some turns. All that the agent sent.
inline std::vector<std::vector<uint8_t>> Exchange(BeaconSender& agent, Proxy& proxy, Instant now, int turns = 8) {
  std::vector<std::vector<uint8_t>> sent;
  for (int turn = 0; turn < turns; ++turn) {
    for (const auto& datagram : agent.Poll(now, 100)) {
      sent.push_back(datagram);
      const auto answer = proxy.Handle(datagram, now);
      if (!answer.empty()) agent.Handle(answer, now);
    }
  }
  return sent;
}

}  // namespace hud::beacon_test
