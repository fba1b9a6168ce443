// Listeners that are made, paused and removed while the worker runs.
#include <fcntl.h>
#include <gtest/gtest.h>

#include "tests/unit/ring/test_bed.h"

namespace hud::testing {
namespace {

constexpr std::string_view kFirst = "GET / HTTP/1.1\r\n\r\n";

class Listeners : public ::testing::Test {
 protected:
  void Tell(WorkerOrder order) {
    ASSERT_TRUE(bed_.orders().Push(std::move(order)));
    bed_.Wake();
  }
  uint16_t Add() {
    uint16_t port;
    Fd fd = ListenOnLoopback(port);
    ::fcntl(fd.get(), F_SETFL, O_NONBLOCK);
    Tell(AddListenerOrder{{ListenerIndex(0), std::move(fd)}});
    return port;
  }
  std::pair<Peer, Peer> RelayFrom(uint16_t port) {
    Peer client = Peer::Connect(port);
    client.Send(kFirst);
    Peer node = bed_.Node();
    EXPECT_EQ(node.Receive(kFirst.size()), kFirst);
    return {std::move(client), std::move(node)};
  }
  void Talks(std::pair<Peer, Peer>& relay) {
    relay.second.Send("still here");
    EXPECT_EQ(relay.first.Receive(10), "still here");
  }

  TestBed bed_;
};

TEST_F(Listeners, OneThatIsAddedServes) {
  const uint16_t port = Add();
  auto relay = RelayFrom(port);
  Talks(relay);
}

TEST_F(Listeners, OneThatIsRemovedServesWhoIsThereAndRefusesTheNext) {
  auto before = RelayFrom(bed_.port());
  Tell(RemoveListenerOrder{ListenerIndex(0)});
  EXPECT_TRUE(bed_.Eventually([&] { return IsRefused(bed_.port()) && IsRefused(bed_.second_port()); }));
  Talks(before);
  const uint16_t port = Add();  // takes the number of one that is gone
  auto after = RelayFrom(port);
  Talks(after);
  Talks(before);
}

TEST_F(Listeners, WhoComesToOneThatIsPausedWaits) {
  Tell(PauseListenerOrder{ListenerIndex(0), true});
  const int64_t turns = bed_.counters().loops.Get();
  ASSERT_TRUE(bed_.Eventually([&] {
    bed_.Wake();
    return bed_.counters().loops.Get() >= turns + 4;  // the accept that the kernel had is taken back
  }));
  Peer one = Peer::Connect(bed_.port()), other = Peer::Connect(bed_.port());
  one.Send(kFirst), other.Send(kFirst);
  EXPECT_FALSE(bed_.Eventually([&] { return bed_.counters().accepted.Get() > 0; }, 200ms));
  Tell(PauseListenerOrder{ListenerIndex(0), false});
  EXPECT_TRUE(bed_.Eventually([&] { return bed_.counters().accepted.Get() == 2; }));
  EXPECT_EQ(bed_.Node().Receive(kFirst.size()), kFirst);
  EXPECT_EQ(bed_.Node().Receive(kFirst.size()), kFirst);
}

TEST_F(Listeners, OneThatComesToADrainIsClosed) {
  auto relay = RelayFrom(bed_.port());
  bed_.orders().Drain(std::chrono::time_point_cast<Duration>(std::chrono::steady_clock::now() + 10s));
  bed_.Wake();
  ASSERT_TRUE(bed_.Eventually([&] { return IsRefused(bed_.port()); }));
  const uint16_t port = Add();
  EXPECT_TRUE(bed_.Eventually([&] { return IsRefused(port); }));
  Talks(relay);
}

TEST(WorkerOrders, AFullQueueRefusesAndLosesNothing) {
  WorkerOrders orders;
  for (size_t i = 0; i < WorkerOrders::kMost; ++i) ASSERT_TRUE(orders.Push(RemoveListenerOrder{ListenerIndex(static_cast<uint16_t>(i))}));
  EXPECT_EQ(orders.room(), 0u);
  EXPECT_FALSE(orders.Push(RemoveListenerOrder{ListenerIndex(0)}));
  orders.Stop();
  EXPECT_TRUE(orders.stopped()) << "which needs no room";
  for (size_t i = 0; i < WorkerOrders::kMost; ++i) {
    const std::optional<WorkerOrder> order = orders.Pop();
    ASSERT_TRUE(order);
    EXPECT_EQ(Raw(std::get<RemoveListenerOrder>(*order).listener), i);
  }
  EXPECT_FALSE(orders.Pop());
}

}  // namespace
}  // namespace hud::testing
