// Interleavings that the kernel produces only now and then, made certain: rings around the kernel's that hold back,
// change or merely watch what passes.
#include <gtest/gtest.h>

#include <deque>

#include "tests/unit/ring/forwarding_ring.h"
#include "tests/unit/ring/test_bed.h"

namespace hud::testing {
namespace {

constexpr std::string_view kFirst = "GET / HTTP/1.1\r\n\r\n";

// Holds back the completions of one operation, for as long as it is told to or until a connection that reads is aborted.
class HoldingRing final : public ForwardingRing {
 public:
  HoldingRing(std::unique_ptr<Ring> inner, Op op, std::atomic<bool>& holding, std::atomic<int>& held)
      : ForwardingRing(std::move(inner)), op_(op), holding_(holding), held_count_(held) {}

  void Cancel(uint64_t target) override {
    if (Tag::Unpack(target).op == Op::kRecv) holding_ = false;
    inner_->Cancel(target);
  }
  size_t Wait(std::span<Completion> out, Duration timeout, Batch batch) override {
    if (!held_.empty() && !holding_) timeout = Duration::zero();
    const size_t n = inner_->Wait(out, std::min<Duration>(timeout, 5ms), batch);
    size_t kept = 0;
    for (size_t i = 0; i < n; ++i) {
      if (holding_ && Tag::Unpack(out[i].user_data).op == op_) {
        held_.push_back(out[i]);
        ++held_count_;
      } else {
        out[kept++] = out[i];
      }
    }
    while (!holding_ && !held_.empty() && kept < out.size()) {
      out[kept++] = held_.front();
      held_.pop_front();
    }
    return kept;
  }

 private:
  const Op op_;
  std::atomic<bool>& holding_;
  std::atomic<int>& held_count_;
  std::deque<Completion> held_;
};

// Hands out what a client sent as if all of it had come at once: receives wait until there are so many, and nobody is woken
// after that but by what the worker itself asks for.
class TogetherRing final : public ForwardingRing {
 public:
  TogetherRing(std::unique_ptr<Ring> inner, size_t together, std::atomic<size_t>& held)
      : ForwardingRing(std::move(inner)), together_(together), held_count_(held) {}

  size_t Wait(std::span<Completion> out, Duration timeout, Batch batch) override {
    const size_t n = inner_->Wait(out, timeout, batch);
    size_t kept = 0;
    for (size_t i = 0; i < n; ++i) {
      const Tag tag = Tag::Unpack(out[i].user_data);
      const bool holds = !done_ && tag.op == Op::kRecv && tag.side == Side::kClient && ++seen_ > kHello;
      holds ? held_.push_back(out[i]) : void(out[kept++] = out[i]);
    }
    held_count_ = held_.size();
    if (held_.size() < together_) return kept;
    done_ = true;
    for (const Completion& c : std::exchange(held_, {})) out[kept++] = c;
    return kept;
  }
  size_t buffers_free() const override {
    return inner_->buffers_free() + static_cast<size_t>(std::ranges::count_if(held_, &Completion::has_buffer));
  }

 private:
  static constexpr size_t kHello = 1;  // a receive
  const size_t together_;
  std::atomic<size_t>& held_count_;
  std::vector<Completion> held_;
  size_t seen_ = 0;
  bool done_ = false;
};

// A send that took all wakes nobody. What is to follow it must come nevertheless, and not with the next timer (5 s and more).
class BehindASend : public ::testing::Test {
 protected:
  static constexpr auto kSoon = 3s;

  void Begin(size_t together) {
    bed_ = std::make_unique<TestBed>(TestBedOptions{.wrap_ring = [this, together](std::unique_ptr<Ring> ring) {
      return std::make_unique<TogetherRing>(std::move(ring), together, held_);
    }});
    client_ = bed_->Client();
    client_.Send(kFirst);
    node_ = bed_->Node();
    ASSERT_EQ(node_.Receive(kFirst.size()), kFirst);
    node_.SetTimeout(kSoon);
  }
  void SendAndHold(std::string_view message, size_t held) {
    client_.Send(message);
    ASSERT_TRUE(bed_->Eventually([&] { return held_ == held; }));
  }

  std::atomic<size_t> held_{0};
  std::unique_ptr<TestBed> bed_;
  Peer client_, node_;
};

TEST_F(BehindASend, TheEndOfTheStreamFollows) {
  Begin(2);
  SendAndHold("message", 1);
  client_.FinishSending();
  EXPECT_EQ(node_.Receive(7), "message");
  EXPECT_EQ(node_.HowItEnds(), "end");
}

TEST_F(BehindASend, AResetFollows) {
  Begin(2);
  SendAndHold("message", 1);
  client_.Reset();
  node_.Receive(7);  // may have been thrown away with the reset
  EXPECT_EQ(node_.HowItEnds(), "reset");
  EXPECT_TRUE(bed_->Eventually([&] { return bed_->counters().active.Get() == 0; }));
}

TEST_F(BehindASend, TheNextMessageFollows) {
  Begin(2);
  SendAndHold("message 1, ", 1);
  client_.Send("message 2");
  EXPECT_EQ(node_.Receive(20), "message 1, message 2");
}

TEST_F(BehindASend, ALongMessageGoesOnInBulk) {
  Begin(0);
  const std::string message = RandomBytes(40'000, 1);
  client_.Send(message);
  EXPECT_EQ(node_.Receive(message.size()), message);
}

// The direction towards a sink is given up while a zero-copy send to it is on its way: the buffer, whose result has not
// come yet, looked as if the kernel had let go of it.
TEST(Races, ASinkThatGoesDuringAZeroCopySendLeavesItItsBuffer) {
  std::atomic<bool> holding{false};
  std::atomic<int> held{0};
  TestBed bed({.mode = RelayMode::kZeroCopy, .wrap_ring = [&](std::unique_ptr<Ring> ring) {
                 return std::make_unique<HoldingRing>(std::move(ring), Op::kZeroCopy, holding, held);
               }});
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  node.Receive(kFirst.size());
  node.Send("first through the small engine");
  client.Receive(30);
  // The node does not read, so at last the client's side is not read either, but watched. Not more than that: its FIN
  // must still find room in the proxy, so that its reset is that of a stream which had ended.
  const std::string chunk = RandomBytes(64 << 10, 1);
  for (int64_t sends = -1; bed.counters().zerocopy_sends.Get() != sends;) {
    sends = bed.counters().zerocopy_sends.Get();
    client.Send(chunk);
    std::this_thread::sleep_for(20ms);
  }
  client.FinishSending();
  std::this_thread::sleep_for(20ms);
  holding = true;
  node.Send("zero copy");
  ASSERT_TRUE(bed.Eventually([&] { return held == 1; }));
  client.Reset();
  std::this_thread::sleep_for(50ms);
  holding = false;
  node.Close();
  EXPECT_TRUE(bed.Eventually([&] { return bed.counters().active.Get() == 0; }));
}

// Control publishes right after a dial, and again when the worker has taken the next table but not yet submitted the
// connect: the table that held the address is gone then.
class PublishingRing final : public ForwardingRing {
 public:
  PublishingRing(std::unique_ptr<Ring> inner, const std::function<void()>& publish, std::atomic<int>& changed)
      : ForwardingRing(std::move(inner)), publish_(publish), changed_(changed) {}

  void ConnectAndSend(int fd, const sockaddr* address, socklen_t size, uint64_t u, Bytes data, uint64_t v) override {
    publish_();
    address_ = address;
    copy_.assign(reinterpret_cast<const char*>(address), size);
    inner_->ConnectAndSend(fd, address, size, u, data, v);
  }
  size_t Wait(std::span<Completion> out, Duration timeout, Batch batch) override {
    if (address_ != nullptr) {
      publish_();
      if (std::memcmp(address_, copy_.data(), copy_.size()) != 0) ++changed_;
      address_ = nullptr;
    }
    return inner_->Wait(out, timeout, batch);
  }

 private:
  const std::function<void()>& publish_;
  std::atomic<int>& changed_;
  const sockaddr* address_ = nullptr;
  std::string copy_;
};

TEST(Races, AConnectOutlivesTheTableThatNamedItsAddress) {
  std::atomic<TestBed*> control{nullptr};
  std::vector<std::string> overwriting;
  const std::function<void()> publish = [&] {
    control.load()->PublishCopy();
    // Whoever allocates next is given the memory.
    for (int i = 0; i < 1000; ++i) overwriting.push_back(std::string(sizeof(NodeView) - 1, '\xee'));
  };
  std::atomic<int> changed{0};
  TestBed bed({.wrap_ring = [&](std::unique_ptr<Ring> ring) {
    return std::make_unique<PublishingRing>(std::move(ring), publish, changed);
  }});
  control = &bed;
  for (int i = 0; i < 5; ++i) {
    Peer client = bed.Client();
    client.Send(kFirst);
    Peer node = bed.Node();
    EXPECT_EQ(node.Receive(kFirst.size()), kFirst);
    client.Close();
    node.Close();
    ASSERT_TRUE(bed.Eventually([&] { return bed.counters().active.Get() == 0; }));
  }
  EXPECT_EQ(changed, 0) << "the kernel was given an address in memory that had been freed";
}

// A client that was accepted while the order to stop was on its way must not keep the worker.
TEST(Races, AClientAcceptedAfterTheStopDoesNotHoldItUp) {
  std::atomic<bool> holding{false};
  std::atomic<int> held{0};
  TestBed bed({.wrap_ring =
                   [&](std::unique_ptr<Ring> ring) {
                     return std::make_unique<HoldingRing>(std::move(ring), Op::kAccept, holding, held);
                   },
               .adjust = [](RouteTable& table) { table.listeners[0].hello_deadline = 5s; }});
  Peer keeps_it_busy = bed.Client();
  keeps_it_busy.Send(kFirst);
  Peer node = bed.Node();
  ASSERT_TRUE(bed.Eventually([&] { return bed.counters().relaying.Get() == 1; }));
  holding = true;
  Peer late = bed.Client();
  ASSERT_TRUE(bed.Eventually([&] { return held >= 1; }));
  const auto began = std::chrono::steady_clock::now();
  bed.Stop();
  EXPECT_LT(std::chrono::steady_clock::now() - began, 3s);
}

// One place is left, and each listening socket has an accept on its way.
TEST(Races, ClientsAcceptedAtOnceForTheLastPlaceAreAllServed) {
  std::atomic<bool> holding{true};
  std::atomic<int> held{0};
  TestBed bed({.max_connections = 1, .wrap_ring = [&](std::unique_ptr<Ring> ring) {
    return std::make_unique<HoldingRing>(std::move(ring), Op::kAccept, holding, held);
  }});
  Peer one = bed.Client(), two = Peer::Connect(bed.second_port());
  one.Send(kFirst);
  two.Send(kFirst);
  ASSERT_TRUE(bed.Eventually([&] { return held == 2; }));
  holding = false;
  for (int i = 0; i < 2; ++i) EXPECT_EQ(bed.Node().Receive(kFirst.size()), kFirst);
  EXPECT_EQ(bed.counters().over_limit.Get(), 0);
}

// The client was accepted before the drain; that its completion comes after it is no reason to forget the client.
TEST(Races, AClientAcceptedBeforeTheDrainIsServedWhenItsCompletionComesAfter) {
  std::atomic<bool> holding{true};
  std::atomic<int> held{0};
  TestBed bed({.wrap_ring = [&](std::unique_ptr<Ring> ring) {
    return std::make_unique<HoldingRing>(std::move(ring), Op::kAccept, holding, held);
  }});
  Peer client = bed.Client();
  client.Send(kFirst);
  ASSERT_TRUE(bed.Eventually([&] { return held >= 1; }));
  bed.orders().Drain(std::chrono::time_point_cast<Duration>(std::chrono::steady_clock::now() + 10s));
  bed.Wake();
  std::this_thread::sleep_for(50ms);
  holding = false;
  Peer node = bed.Node();
  EXPECT_EQ(node.Receive(kFirst.size()), kFirst);
  client.Close();
  node.Close();
  bed.JoinThread();
  EXPECT_EQ(bed.Closes(CloseReason::kDone), 1);
}

// SIGSTOP and SIGCONT as a worker sees them: the wait ends late and without a completion (-EINTR), though much has come.
class SleepingRing final : public ForwardingRing {
 public:
  SleepingRing(std::unique_ptr<Ring> inner, std::atomic<bool>& sleep, Duration length)
      : ForwardingRing(std::move(inner)), sleep_(sleep), length_(length) {}

  size_t Wait(std::span<Completion> out, Duration timeout, Batch batch) override {
    if (sleep_.exchange(false)) {
      std::this_thread::sleep_for(length_);
      return 0;
    }
    return inner_->Wait(out, std::min<Duration>(timeout, 2ms), batch);
  }

 private:
  std::atomic<bool>& sleep_;
  const Duration length_;
};

TEST(Races, AStoppedProcessDoesNotBlameItsClientsForTheTimeItSlept) {
  std::atomic<bool> sleep{false};
  TestBed bed({.wrap_ring = [&](std::unique_ptr<Ring> ring) {
                 return std::make_unique<SleepingRing>(std::move(ring), sleep, 1500ms);
               },
               .adjust = [](RouteTable& table) { table.listeners[0].hello_deadline = 800ms; }});
  Peer client = bed.Client();
  ASSERT_TRUE(bed.Eventually([&] { return bed.counters().in_hello.Get() == 1; }));
  sleep = true;
  ASSERT_TRUE(bed.Eventually([&] { return !sleep; }));
  client.Send(kFirst);
  client.SetTimeout(3s);
  EXPECT_TRUE(bed.Eventually([&] { return bed.counters().relaying.Get() == 1; }, 3s));
  EXPECT_EQ(bed.Closes(CloseReason::kHelloTimeout), 0);
}

// Counts what each side waits with.
class WatchingRing final : public ForwardingRing {
 public:
  WatchingRing(std::unique_ptr<Ring> inner, std::atomic<int>& receives, std::atomic<int>& polls)
      : ForwardingRing(std::move(inner)), receives_(receives), polls_(polls) {}
  void RecvMultishot(int fd, Expected e, uint32_t limit, uint64_t u) override {
    ++receives_;
    inner_->RecvMultishot(fd, e, limit, u);
  }
  void Poll(int fd, uint32_t events, uint64_t u) override {
    polls_ += Tag::Unpack(u).op == Op::kPollIn;
    inner_->Poll(fd, events, u);
  }

 private:
  std::atomic<int>& receives_;
  std::atomic<int>& polls_;
};

TEST(QuietRelay, WaitsWithPollsAndGoesOnWithTheNextMessage) {
  std::atomic<int> receives{0}, polls{0};
  TestBed bed({.wrap_ring =
                   [&](std::unique_ptr<Ring> ring) {
                     return std::make_unique<WatchingRing>(std::move(ring), receives, polls);
                   },
               .node_silence = 400ms,
               .quiet_after = 100ms});
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  EXPECT_EQ(node.Receive(kFirst.size()), kFirst);
  ASSERT_TRUE(bed.Eventually([&] { return polls == 2; })) << "both sides";
  const int before = receives;
  for (int i = 0; i < 3; ++i) {
    node.Send("from the node");
    EXPECT_EQ(client.Receive(13), "from the node");
    client.Send("from the client");
    EXPECT_EQ(node.Receive(15), "from the client");
  }
  EXPECT_GE(receives, before + 2) << "it receives again";
  ASSERT_TRUE(bed.Eventually([&] { return polls == 4; })) << "and goes quiet again";
  node.Close();
  EXPECT_EQ(client.HowItEnds(), "end");
  client.Close();
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kDone) == 1; }));
}

// RLIMIT_MEMLOCK: the kernel counts what zero-copy sends pin, and refuses with -ENOMEM.
class RefusingRing final : public ForwardingRing {
 public:
  using ForwardingRing::ForwardingRing;
  void SendZeroCopy(int fd, Bytes data, uint64_t u) override {
    if (++sends_ % 2 == 0) {
      refused_.push_back({.user_data = u, .result = -ENOMEM});
    } else {
      inner_->SendZeroCopy(fd, data, u);
    }
  }
  size_t Wait(std::span<Completion> out, Duration timeout, Batch batch) override {
    const size_t n = inner_->Wait(out.first(out.size() / 2), refused_.empty() ? timeout : Duration::zero(), batch);
    const size_t more = std::min(refused_.size(), out.size() - n);
    std::copy_n(refused_.begin(), more, out.begin() + static_cast<std::ptrdiff_t>(n));
    refused_.erase(refused_.begin(), refused_.begin() + static_cast<std::ptrdiff_t>(more));
    return n + more;
  }

 private:
  int sends_ = 0;
  std::vector<Completion> refused_;
};

TEST(Races, NoMemoryToPinForAZeroCopySendCostsACopyNotTheConnection) {
  TestBed bed({.mode = RelayMode::kZeroCopy, .wrap_ring = [&](std::unique_ptr<Ring> ring) {
                 return std::make_unique<RefusingRing>(std::move(ring));
               }});
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  node.Receive(kFirst.size());
  const std::string up = RandomBytes(4 * kMegabyte, 1);
  std::thread sender([&] {
    client.Send(up);
    client.FinishSending();
  });
  EXPECT_TRUE(node.Receive(up.size() + 1) == up);
  sender.join();
}

// Two shared buffers, and a worker that can be stopped, so that it finds all at once that was sent meanwhile. Its sockets to
// the node hold little, those to the client much.
class FewBuffersRing final : public ForwardingRing {
 public:
  FewBuffersRing(std::atomic<bool>& stop, std::atomic<bool>& stopped, std::function<void()> other_speaks)
      : ForwardingRing(CreateKernelRing({.buffers = 2, .features = ProbeFeatures().value()}).value()),
        stop_(stop),
        stopped_(stopped),
        other_speaks_(std::move(other_speaks)) {}

  void RecvMultishot(int fd, Expected e, uint32_t limit, uint64_t u) override {
    inner_->RecvMultishot(fd, e, limit, u);
    const Tag tag = Tag::Unpack(u);
    if (tag.slot == 1 && tag.side == Side::kClient && ++receives_ == 2) other_speaks_();
  }

  void ConnectAndSend(int fd, const sockaddr* address, socklen_t size, uint64_t u, Bytes data, uint64_t v) override {
    SetBuffer(fd, SO_SNDBUF, 16 << 10);
    inner_->ConnectAndSend(fd, address, size, u, data, v);
  }
  size_t Wait(std::span<Completion> out, Duration timeout, Batch batch) override {
    for (; stop_; std::this_thread::sleep_for(1ms)) stopped_ = true;
    const size_t n = inner_->Wait(out, timeout, batch);
    for (const Completion& c : out.first(n)) {
      if (Tag::Unpack(c.user_data).op == Op::kAccept && c.result >= 0) SetBuffer(c.result, SO_RCVBUF, 200 << 10);
    }
    return n;
  }

 private:
  static void SetBuffer(int fd, int which, int bytes) { ::setsockopt(fd, SOL_SOCKET, which, &bytes, sizeof bytes); }

  std::atomic<bool>& stop_;
  std::atomic<bool>& stopped_;
  const std::function<void()> other_speaks_;  // when the second connection's client is received from again
  int receives_ = 0;
};

// The receive that told a direction to go on in bulk ends for want of a shared buffer. When one is there the direction is in
// bulk, has bytes in its pipe, and must not receive beside that.
TEST(Races, ADirectionThatFoundNoSharedBufferAndWentToBulkKeepsItsOrder) {
  if (!ProbeFeatures()->bounded_multishot_recv) GTEST_SKIP() << "needs Linux 6.17";
  std::atomic<bool> stop{false}, stopped{false};
  Peer other;
  TestBed bed({.wrap_ring = [&](std::unique_ptr<Ring>) {
    return std::make_unique<FewBuffersRing>(stop, stopped, [&] { other.Send("takes a buffer"); });
  }});
  other = bed.Client();
  other.Send(kFirst);
  Peer others_node = bed.Node();
  ASSERT_EQ(others_node.Receive(kFirst.size()), kFirst);
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  ASSERT_EQ(node.Receive(kFirst.size()), kFirst);
  std::this_thread::sleep_for(20ms);
  const std::string message = RandomBytes(2'000'000, 1);
  stop = true;
  bed.Wake();
  ASSERT_TRUE(bed.Eventually([&] { return stopped.load(); }));
  std::thread sender([&] {
    client.Send(message);
    client.FinishSending();
  });
  std::this_thread::sleep_for(50ms);
  stop = false;
  std::this_thread::sleep_for(50ms);
  const std::string arrived = node.Receive(message.size() + 1);
  sender.join();
  EXPECT_GE(bed.counters().buffers_exhausted.Get(), 1);
  EXPECT_TRUE(arrived == message);
}

// A send is announced where nothing else goes on. This one was not, for a receive was under way, and in the same turn that ended for
// want of a shared buffer: the worker slept, 20 ms or until something else happened, beside what it could have received. No clock
// is looked at here: the worker says itself whether it sleeps so (WhoAwaitsASendSaysSo).
TEST(Races, ASendWhoseReceiveThenFoundNoSharedBufferIsHeardOfAtOnce) {
  if (!ProbeFeatures()->bounded_multishot_recv) GTEST_SKIP() << "needs Linux 6.17";
  std::atomic<bool> stop{false}, stopped{false};
  TestBed bed({.wrap_ring = [&](std::unique_ptr<Ring>) { return std::make_unique<FewBuffersRing>(stop, stopped, [] {}); }});
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  ASSERT_EQ(node.Receive(kFirst.size()), kFirst);
  Peer other = bed.Client();
  ASSERT_TRUE(bed.Eventually([&] { return bed.counters().in_hello.Get() == 1; }));
  std::this_thread::sleep_for(20ms);
  stop = true;
  bed.Wake();
  ASSERT_TRUE(bed.Eventually([&] { return stopped.load(); }));
  other.Send("\x16\x03\x01");  // takes a buffer, and gives it back in the same turn
  const std::string message = RandomBytes(20'000, 1);  // a buffer and a part of one
  client.Send(message);
  stop = false;
  node.SetTimeout(3s);
  EXPECT_TRUE(node.Receive(message.size()) == message);
  EXPECT_GE(bed.counters().buffers_exhausted.Get(), 1);
}

// What wakes a waiting request (accepts, orders, most receives) must get its turn although requests that complete at once
// leave completions behind in every turn.
TEST(Races, RequestsThatCompleteAtOnceDoNotStarveThoseThatWait) {
  std::unique_ptr<Ring> ring = CreateKernelRing({.features = ProbeFeatures().value()}).value();
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  const Fd a(pair[0]), b(pair[1]), event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  std::array<Completion, 8> completions;
  ring->Poll(event.get(), POLLIN, 1);
  ring->Wait(completions, Duration::zero());
  const uint64_t one = 1;
  ASSERT_EQ(::write(event.get(), &one, sizeof one), 8);
  bool seen = false;
  const uint8_t byte = 0;
  for (int turn = 0; turn < 50 && !seen; ++turn) {
    ring->Send(a.get(), {&byte, 1}, 2);
    const size_t n = ring->Wait(completions, Duration::zero());
    for (size_t i = 0; i < n; ++i) seen |= completions[i].user_data == 1;
  }
  EXPECT_TRUE(seen);
}

}  // namespace
}  // namespace hud::testing
