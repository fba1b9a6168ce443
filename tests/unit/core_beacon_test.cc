// The two halves of the protocol against each other, without a network between them, and each rule of the receiver.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/beacon_receiver.h"
#include "core/beacon_sender.h"

namespace hud {
namespace {

using namespace std::chrono_literals;

constexpr Instant kStart{std::chrono::hours(1)};

BeaconSecret SecretOf(uint8_t fill) {
  BeaconSecret secret;
  secret.bytes.fill(fill);
  return secret;
}

SocketAddress Address(const char* text) { return *SocketAddress::Parse(text); }

NodeReport ReportOf(const char* address, std::vector<std::string> pools) {
  NodeReport report;
  report.address = Address(address);
  report.pools = std::move(pools);
  report.prefixes.push_back(TicketPrefix{{1, 2, 3, 4}, 4});
  return report;
}

// One agent and one proxy; every datagram arrives at once.
struct Pair {
  explicit Pair(uint64_t epoch = 100, uint64_t nonce = 7)
      : receiver(std::make_unique<BeaconReceiver>(nonce)), journal(1000), sender(NewSender(epoch)) {
    receiver->SetKeys({Key()});
    EXPECT_TRUE(sender->SetReport(ReportOf("10.0.0.1:443", {"web"})).ok());
  }
  static BeaconKey Key() {
    BeaconKey key;
    key.node = "n1";
    key.secret = SecretOf(1);
    key.pools = {"web"};
    key.addresses = {*AddressRange::Parse("10.0.0.0/8")};
    return key;
  }
  std::unique_ptr<BeaconSender> NewSender(uint64_t epoch) {
    return std::make_unique<BeaconSender>(AgentKey{"n1", SecretOf(1)}, epoch, &journal, 1s);
  }
  // Lets `agent` say what it has to say now; returns the events.
  std::vector<BeaconEvent> Exchange(BeaconSender& agent) {
    std::vector<BeaconEvent> events;
    for (int turn = 0; turn < 8; ++turn) {
      for (const auto& datagram : agent.Poll(now, 100)) {
        recorded.push_back(datagram);
        BeaconEvent event;
        BeaconAnswer answer;
        if (receiver->Handle(datagram, from, now, &event, &answer)) events.push_back(event);
        EXPECT_LE(answer.datagram.size(), datagram.size());
        if (!answer.datagram.empty()) agent.Handle(answer.datagram, now);
      }
    }
    return events;
  }
  std::vector<BeaconEvent> Exchange() { return Exchange(*sender); }

  Instant now = kStart;
  SocketAddress from = Address("10.0.0.1:5000");
  std::unique_ptr<BeaconReceiver> receiver;
  TokenJournal journal;
  std::unique_ptr<BeaconSender> sender;
  std::vector<std::vector<uint8_t>> recorded;
};

TEST(Beacon, AnAgentIsChallengedOnceAndThenBelieved) {
  Pair pair;
  const auto events = pair.Exchange();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, BeaconEvent::Kind::kAlive);
  EXPECT_EQ(events[0].node, "n1");
  EXPECT_EQ(events[0].report.prefixes.size(), 1u);
  EXPECT_EQ(pair.receiver->stats().challenges_sent, 1u);
  EXPECT_TRUE(pair.sender->Confirmed());
}

}  // namespace
}  // namespace hud
