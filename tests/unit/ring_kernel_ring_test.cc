// The ring's promises that the worker builds on, against the real kernel.
#include <gtest/gtest.h>

#include "tests/unit/ring_test_bed.h"

namespace hud::testing {
namespace {

constexpr uint64_t kConnectTag = 7, kSendTag = 8, kRecvTag = 9;

struct RingAlone {
  KernelFeatures features = ProbeFeatures().value();
  std::unique_ptr<Ring> ring = CreateKernelRing({.features = features}).value();

  // What completes within a while: until nothing has for 50 ms.
  std::vector<Completion> Drain() {
    std::vector<Completion> all;
    std::array<Completion, 64> some;
    while (const size_t n = ring->Wait(some, 50ms)) all.insert(all.end(), some.begin(), some.begin() + n);
    return all;
  }
};

Fd NewSocket() { return Fd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)); }

Bytes AsBytes(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

TEST(KernelRing, AConnectThatSucceedsCompletesOnlyWithItsSend) {
  RingAlone r;
  uint16_t port;
  const Fd listener = ListenOnLoopback(port);
  const Fd fd = NewSocket();
  const SocketAddress address = SocketAddress::Parse("127.0.0.1:" + std::to_string(port)).value();
  r.ring->ConnectAndSend(fd.get(), address.data(), address.size(), kConnectTag, AsBytes("hello"), kSendTag);
  const auto completions = r.Drain();
  ASSERT_EQ(completions.size(), 1u);
  EXPECT_EQ(completions[0].user_data, kSendTag);
  EXPECT_EQ(completions[0].result, 5);
  EXPECT_EQ(Peer::Accept(listener).Receive(5), "hello");
}

TEST(KernelRing, AConnectThatIsRefusedCompletesAloneAndSendsNothing) {
  RingAlone r;
  uint16_t port;
  ListenOnLoopback(port);  // closed again
  const Fd fd = NewSocket();
  const SocketAddress address = SocketAddress::Parse("127.0.0.1:" + std::to_string(port)).value();
  r.ring->ConnectAndSend(fd.get(), address.data(), address.size(), kConnectTag, AsBytes("hello"), kSendTag);
  const auto completions = r.Drain();
  ASSERT_EQ(completions.size(), 1u);
  EXPECT_EQ(completions[0].user_data, kConnectTag);
  EXPECT_EQ(completions[0].result, -ECONNREFUSED);
}

TEST(KernelRing, AConnectThatIsCancelledCompletesAlone) {
  RingAlone r;
  uint16_t port;
  const Fd listener = ListenOnLoopback(port);
  ASSERT_EQ(::listen(listener.get(), 0), 0);
  std::vector<Fd> filling;  // the backlog is full: further connects hang
  const SocketAddress address = SocketAddress::Parse("127.0.0.1:" + std::to_string(port)).value();
  for (int i = 0; i < 8; ++i) {
    filling.push_back(NewSocket());
    (void)::connect(filling.back().get(), address.data(), address.size());
  }
  const Fd fd = NewSocket();
  r.ring->ConnectAndSend(fd.get(), address.data(), address.size(), kConnectTag, AsBytes("hello"), kSendTag);
  ASSERT_TRUE(r.Drain().empty());
  r.ring->Cancel(kConnectTag);
  const auto completions = r.Drain();
  ASSERT_EQ(completions.size(), 1u);
  EXPECT_EQ(completions[0].user_data, kConnectTag);
  EXPECT_EQ(completions[0].result, -ECANCELED);
}

struct SocketPair {
  Fd a, b;
  SocketPair() {
    int pair[2] = {-1, -1};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) Fail("socketpair");
    a = Fd(pair[0]), b = Fd(pair[1]);
  }
};

TEST(KernelRing, ASendThatTakesAllCompletesWithTheNextWaitAndDoesNotEndIt) {
  RingAlone r;
  if (!r.features.silent_sends) GTEST_SKIP() << "needs Linux 6.1";
  SocketPair sockets;
  r.ring->Send(sockets.a.get(), AsBytes("hello"), kSendTag);
  std::array<Completion, 4> completions;
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(r.ring->Wait(completions, 50ms), 1u);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 50ms);
  EXPECT_EQ(completions[0].user_data, kSendTag);
  EXPECT_EQ(completions[0].result, 5);
  EXPECT_TRUE(r.Drain().empty());
}

TEST(KernelRing, AShortSendEndsTheWaitAndSaysHowMuchWasSent) {
  RingAlone r;
  SocketPair sockets;
  const std::string much(4 << 20, 'x');
  r.ring->Send(sockets.a.get(), AsBytes(much), kSendTag);
  std::array<Completion, 4> completions;
  ASSERT_EQ(r.ring->Wait(completions, Duration::max()), 1u);
  EXPECT_EQ(completions[0].user_data, kSendTag);
  size_t arrived = 0;
  std::string some(1 << 20, 0);
  for (ssize_t n; (n = ::read(sockets.b.get(), some.data(), some.size())) > 0;) arrived += static_cast<size_t>(n);
  EXPECT_GT(completions[0].result, 0);
  EXPECT_LT(completions[0].result, 4 << 20);
  EXPECT_EQ(static_cast<size_t>(completions[0].result), arrived);
  EXPECT_TRUE(r.Drain().empty());
}

TEST(KernelRing, ASendToAFullSocketEndsTheWait) {
  RingAlone r;
  SocketPair sockets;
  const std::string some(1000, 'x');
  while (::write(sockets.a.get(), some.data(), some.size()) > 0) {
  }
  r.ring->Send(sockets.a.get(), AsBytes("more"), kSendTag);
  std::array<Completion, 4> completions;
  ASSERT_EQ(r.ring->Wait(completions, Duration::max()), 1u);
  EXPECT_EQ(completions[0].result, -EAGAIN);
  EXPECT_TRUE(r.Drain().empty());
}

// More at once than either queue of the ring holds, and every third one fails.
TEST(KernelRing, OfManySendsEachCompletesOnceWithItsOwnResult) {
  constexpr size_t kSends = 500;
  RingAlone r;
  r.ring = CreateKernelRing({.submission_entries = 8, .completion_entries = 16, .features = r.features}).value();
  std::vector<SocketPair> sockets(kSends);
  const std::string data(kSends, 'x');
  for (size_t i = 0; i < kSends; ++i) {
    if (i % 3 == 0) sockets[i].b.Reset();
    r.ring->Send(sockets[i].a.get(), AsBytes(data).first(i + 1), i);
  }
  std::vector<int> results(kSends, 0);
  for (const Completion& c : r.Drain()) {
    ASSERT_LT(c.user_data, kSends);
    EXPECT_EQ(std::exchange(results[c.user_data], c.result), 0) << c.user_data;
  }
  for (size_t i = 0; i < kSends; ++i) EXPECT_EQ(results[i], i % 3 == 0 ? -EPIPE : static_cast<int>(i + 1)) << i;
  EXPECT_TRUE(r.Drain().empty());
}

// What the kernel refuses to take ends its submission. What is behind that was asked for as well: whoever waits for it must
// not sleep.
TEST(KernelRing, ASendThatOneWaitCouldNotSubmitComesWithTheNextAtOnce) {
  RingAlone r;
  SocketPair sockets;
  const Bytes nobodys{reinterpret_cast<const uint8_t*>(~uint64_t{0xfff}), 10};  // the kernel's half of the addresses
  r.ring->Send(sockets.a.get(), nobodys, kConnectTag);
  r.ring->Send(sockets.a.get(), AsBytes("hello"), kSendTag);
  std::array<Completion, 4> completions;
  ASSERT_EQ(r.ring->Wait(completions, Duration::zero()), 1u);
  EXPECT_EQ(completions[0].user_data, kConnectTag);
  EXPECT_EQ(completions[0].result, -EFAULT);
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(r.ring->Wait(completions, 2s), 1u);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 1s);
  EXPECT_EQ(completions[0].user_data, kSendTag);
  EXPECT_EQ(completions[0].result, 5);
}

TEST(KernelRing, AMultishotReceiveEndsAtItsLimit) {
  RingAlone r;
  if (!r.features.bounded_multishot_recv) GTEST_SKIP() << "needs Linux 6.17";
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
  const Fd a(pair[0]), b(pair[1]);
  r.ring->RecvMultishot(b.get(), Expected::kLater, 4096, kRecvTag);
  size_t received = 0, completions = 0;
  bool ended = false;
  for (int i = 0; i < 100 && !ended; ++i) {
    ASSERT_EQ(::write(a.get(), std::string(1000, 'x').data(), 1000), 1000);
    for (const Completion& c : r.Drain()) {
      ASSERT_GT(c.result, 0);
      ++completions;
      received += static_cast<size_t>(c.result);
      r.ring->ReturnBuffer(c.buffer);
      ended |= !c.more;
    }
  }
  EXPECT_TRUE(ended);
  EXPECT_GE(completions, 4u);
  EXPECT_GE(received, 4096u);
  EXPECT_LT(received, 4096u + r.ring->buffer_size());
}

TEST(KernelRing, ClosesWhatItWasGivenEvenIfItEndsFirst) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  const Fd a(pair[0]);
  {
    RingAlone r;
    r.ring->Close(Fd(pair[1]));
  }
  char c;
  EXPECT_EQ(::read(a.get(), &c, 1), 0);
}

TEST(KernelRing, AWaitThatGathersEndsWithFewerOnceItsPatienceIsOver) {
  RingAlone r;
  const Fd event(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
  r.ring->Poll(event.get(), POLLIN, kRecvTag);
  std::array<Completion, 4> completions;
  EXPECT_EQ(r.ring->Wait(completions, 10s, {.completions = 64, .patience = 200us}), 1u);
}

}  // namespace
}  // namespace hud::testing
