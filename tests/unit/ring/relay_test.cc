// What a relay promises (README, promise 2), in every relay mode: bytes arrive whole, once, in order, or the connection
// visibly ends; half-close and reset travel through. And once as on the oldest kernel: single receives, a completion for each
// send, no gathering, no zero copy, no deferred task work.
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>
#include <random>

#include "tests/unit/ring/test_bed.h"

namespace hud::testing {
namespace {

class Relay : public ::testing::TestWithParam<ModeName> {
 protected:
  TestBedOptions Options() { return {.mode = GetParam().mode, .plain_features = GetParam().plain_features}; }
};

INSTANTIATE_TEST_SUITE_P(Modes, Relay,
                         ::testing::ValuesIn(kModes),
                         [](const auto& p) { return p.param.name; });

// Not TLS at all, so the fallback choice is made at the first byte and the bytes go through untouched.
constexpr std::string_view kFirst = "GET / HTTP/1.1\r\n\r\n";

TEST_P(Relay, AMessageGoesThroughAndIsAnswered) {
  TestBed bed(Options());
  Peer client = bed.Client();
  ASSERT_TRUE(client.Send(kFirst));
  Peer node = bed.Node();
  EXPECT_EQ(node.Receive(kFirst.size()), kFirst);
  for (int i = 0; i < 100; ++i) {
    const std::string message = RandomBytes(1 + static_cast<size_t>(i) * 97, static_cast<uint32_t>(i));
    ASSERT_TRUE(node.Send(message));
    ASSERT_EQ(client.Receive(message.size()), message);
    ASSERT_TRUE(client.Send(message));
    ASSERT_EQ(node.Receive(message.size()), message);
  }
}

TEST_P(Relay, MegabytesGoBothWaysAtOnceInChunksOfAllSizes) {
  TestBed bed(Options());
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  node.Receive(kFirst.size());
  const std::string up = RandomBytes(32 * kMegabyte, 1), down = RandomBytes(32 * kMegabyte, 2);
  auto send = [](Peer& peer, const std::string& bytes, uint32_t seed) {
    std::mt19937 random(seed);
    for (size_t at = 0; at < bytes.size();) {
      const size_t n = std::min<size_t>(bytes.size() - at, 1 + random() % (size_t{1} << (random() % 19)));
      if (!peer.Send(std::string_view(bytes).substr(at, n))) break;
      at += n;
    }
    peer.FinishSending();
  };
  std::thread a(send, std::ref(client), std::cref(up), 3u), b(send, std::ref(node), std::cref(down), 4u);
  std::string got_up;
  std::thread reader([&] { got_up = node.Receive(up.size() + 1); });
  const std::string got_down = client.Receive(down.size() + 1);
  reader.join();
  a.join();
  b.join();
  EXPECT_TRUE(got_up == up);
  EXPECT_TRUE(got_down == down);
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kDone) == 1; }));
}

// A connection may last for days: what is counted must not wait for its end.
TEST_P(Relay, BytesAreCountedWhileTheConnectionLasts) {
  TestBed bed(Options());
  Peer client = bed.Client();
  ASSERT_TRUE(client.Send(kFirst));
  Peer node = bed.Node();
  ASSERT_EQ(node.Receive(kFirst.size()), kFirst);
  const std::string up = RandomBytes(3 * kMegabyte, 1), down = RandomBytes(kMegabyte + 7, 2);
  std::thread sender([&] { EXPECT_TRUE(client.Send(up)); });
  EXPECT_EQ(node.Receive(up.size()), up);
  sender.join();
  std::thread answerer([&] { EXPECT_TRUE(node.Send(down)); });
  EXPECT_EQ(client.Receive(down.size()), down);
  answerer.join();

  const auto in = static_cast<int64_t>(kFirst.size() + up.size()), out = static_cast<int64_t>(down.size());
  const WorkerCounters& counted = bed.counters();
  EXPECT_TRUE(bed.Eventually([&] { return counted.bytes_in.Get() == in && counted.bytes_out.Get() == out; }, 2s));
  EXPECT_EQ(counted.bytes_in.Get(), in);
  EXPECT_EQ(counted.bytes_out.Get(), out);
  EXPECT_EQ(counted.listeners[0].bytes_in.Get(), in);
  EXPECT_EQ(counted.listeners[0].bytes_out.Get(), out);
  EXPECT_EQ(counted.pools[0].bytes_in.Get(), in);
  EXPECT_EQ(counted.pools[0].bytes_out.Get(), out);
  EXPECT_EQ(counted.nodes[0].BytesIn(0), in);
  EXPECT_EQ(counted.nodes[0].BytesOut(0), out);
  EXPECT_EQ(counted.nodes[0].BytesIn(1), 0) << "of another node that has the slot";
  EXPECT_EQ(counted.listeners[0].accepted.Get(), 1);
  EXPECT_EQ(counted.active.Get(), 1) << "and it is still there";

  client.Close();
  node.Close();
  EXPECT_TRUE(bed.Eventually([&] { return counted.active.Get() == 0; }));
  EXPECT_EQ(counted.bytes_in.Get(), in) << "counted once";
  int64_t ended = 0;
  for (const Counter& closes : counted.listeners[0].closes) ended += closes.Get();
  EXPECT_EQ(ended, 1);
}

TEST_P(Relay, AClientThatEndsItsStreamStillReceivesEverything) {
  TestBed bed(Options());
  Peer client = bed.Client();
  client.Send(kFirst);
  client.FinishSending();
  Peer node = bed.Node();
  EXPECT_EQ(node.Receive(kFirst.size() + 1), kFirst) << "the node sees the end";
  const std::string down = RandomBytes(10 * kMegabyte, 5);
  std::thread sender([&] {
    node.Send(down);
    node.Close();
  });
  EXPECT_TRUE(client.Receive(down.size() + 1) == down);
  sender.join();
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kDone) == 1; }));
}

TEST_P(Relay, ANodeThatEndsItsStreamStillReceivesEverything) {
  TestBed bed(Options());
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  node.Receive(kFirst.size());
  node.FinishSending();
  EXPECT_EQ(client.HowItEnds(), "end");
  const std::string up = RandomBytes(10 * kMegabyte, 6);
  std::thread sender([&] {
    client.Send(up);
    client.Close();
  });
  EXPECT_TRUE(node.Receive(up.size() + 1) == up);
  sender.join();
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kDone) == 1; }));
}

TEST_P(Relay, AResetOfTheClientReachesTheNodeAsAReset) {
  TestBed bed(Options());
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  node.Receive(kFirst.size());
  client.Reset();
  EXPECT_EQ(node.HowItEnds(), "reset");
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kClientReset) == 1; }));
}

TEST_P(Relay, AResetOfTheNodeReachesTheClientAsAReset) {
  TestBed bed(Options());
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  node.Receive(kFirst.size());
  node.Reset();
  EXPECT_EQ(client.HowItEnds(), "reset");
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kNodeReset) == 1; }));
}

// A side that takes nothing of what came before the other's reset is not waited for without a bound.
TEST_P(Relay, AResetReachesTheOtherSideEvenWhenThatSideDoesNotRead) {
  for (bool by_client : {true, false}) {
    TestBedOptions options = Options();
    options.reset_patience = 300ms;
    TestBed bed(options);
    Peer client = bed.Client();
    client.Send(kFirst);
    Peer node = bed.Node();
    node.Receive(kFirst.size());
    Peer& source = by_client ? client : node;
    Peer& sink = by_client ? node : client;
    source.SetTimeout(300ms);
    const std::string flood = RandomBytes(64 << 20, 7);
    EXPECT_FALSE(source.Send(flood)) << "somebody buffers without a bound";
    source.Reset();
    EXPECT_TRUE(bed.Eventually([&] {
      return bed.Closes(by_client ? CloseReason::kClientReset : CloseReason::kNodeReset) == 1;
    })) << "a paused direction did not notice";
    while (sink.Receive(kMegabyte).size() == kMegabyte) {
    }
    EXPECT_EQ(errno, ECONNRESET);
  }
}

TEST_P(Relay, AStalledReaderStopsTheSenderAndLosesNothing) {
  TestBed bed(Options());
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  node.Receive(kFirst.size());
  const std::string down = RandomBytes(48 << 20, 9);
  std::atomic<bool> sent{false};
  std::thread sender([&] {
    node.Send(down);
    node.FinishSending();
    sent = true;
  });
  ASSERT_TRUE(bed.ComesToRest(150ms));  // longer than a stalled direction keeps a pipe
  EXPECT_FALSE(sent) << "back-pressure did not reach the node";
  EXPECT_EQ(bed.counters().buffers_free.Get(), 256) << "a stalled direction keeps a shared buffer";
  if (GetParam().mode != RelayMode::kZeroCopy) {
    EXPECT_LE(bed.counters().private_bytes.Get() + bed.counters().pipe_bytes.Get(), 1 << 20) << "more than a pipe";
  }
  EXPECT_TRUE(client.Receive(down.size() + 1) == down);
  sender.join();
}

TEST_P(Relay, ManyConnectionsAtOnceWithFewPipes) {
  TestBedOptions options = Options();
  options.pipes = 2;
  TestBed bed(options);
  constexpr int kCount = 12;
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < kCount; ++i) {
    threads.emplace_back([&, i] {
      Peer client = bed.Client();
      client.Send(kFirst);
      const std::string up = RandomBytes(3 * kMegabyte, static_cast<uint32_t>(i));
      std::thread sender([&] {
        client.Send(up);
        client.FinishSending();
      });
      good += client.Receive(up.size() + 1) == up;
      sender.join();
    });
  }
  std::vector<std::thread> nodes;
  for (int i = 0; i < kCount; ++i) {
    nodes.emplace_back([node = std::make_shared<Peer>(bed.Node())] {
      node->Receive(kFirst.size());
      std::string chunk;
      while (!(chunk = node->Receive(70'000)).empty()) node->Send(chunk);
      node->FinishSending();
    });
  }
  for (auto& t : threads) t.join();
  for (auto& t : nodes) t.join();
  EXPECT_EQ(good, kCount);
}

// The worker's end of a connection, which is this process's, too.
int WorkersEndOf(const Peer& peer) {
  const auto port_of = [](int fd, auto get) {
    sockaddr_in address{};
    socklen_t size = sizeof address;
    return get(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0 && address.sin_family == AF_INET ? address.sin_port : 0;
  };
  const int mine = port_of(peer.fd.get(), ::getsockname), its = port_of(peer.fd.get(), ::getpeername);
  int fd = 0;
  while (fd < 4096 && !(port_of(fd, ::getsockname) == its && port_of(fd, ::getpeername) == mine)) ++fd;
  return fd;
}

// TCP_USER_TIMEOUT would end it: a node may well take its time, as long as it answers the kernel's window probes.
TEST(NodeSilence, ANodeThatDoesNotReadForLongLosesNothing) {
  TestBed bed({.node_silence = 1s});
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  node.Receive(kFirst.size());
  const std::string up = RandomBytes(16 << 20, 10);  // more than the sockets hold, so that the window closes
  std::thread sender([&] {
    client.Send(up);
    client.FinishSending();
  });
  // Each probe that is answered makes the next one wait twice as long: after the fourth it has not read for three seconds.
  const int to_node = WorkersEndOf(node);
  EXPECT_TRUE(bed.Eventually([&] {
    tcp_info info{};
    socklen_t size = sizeof info;
    return ::getsockopt(to_node, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 && info.tcpi_backoff >= 4;
  }));
  EXPECT_EQ(bed.counters().active.Get(), 1);
  EXPECT_TRUE(node.Receive(up.size() + 1) == up);
  sender.join();
}

TEST(NodeSilence, ANodeWithoutPowerIsGivenUpAlthoughBytesAreUnacknowledged) {
  TestBed bed({.node_silence = 1s});
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  node.Receive(kFirst.size());
  sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
  const sock_fprog deaf{1, &drop};
  if (::setsockopt(node.fd.get(), SOL_SOCKET, SO_ATTACH_FILTER, &deaf, sizeof deaf) != 0) {
    GTEST_SKIP() << "no socket filters for this user: " << std::strerror(errno);
  }
  client.Send("never acknowledged");
  EXPECT_EQ(client.HowItEnds(), "reset");
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kNodeReset) == 1; }));
}

}  // namespace
}  // namespace hud::testing
