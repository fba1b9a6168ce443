// What the worker builds on of a ring and of the calls beside it, held against both kernels: the real one, and the simulated one,
// which is worth only as much as the two agree. What cannot be simulated says so.
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ring/io/kernel_ring.h"
#include "ring/io/kernel_sockets.h"
#include "tests/simulation/simulated_ring.h"
#include "tests/unit/ring/test_bed.h"

namespace hud::simulation {
namespace {

using namespace std::chrono_literals;

constexpr uint64_t kConnectTag = 7, kSendTag = 8, kRecvTag = 9;

struct RingSize {
  unsigned submissions = 256, completions = 4096;
};

struct Pair {
  Fd a, b;
};

// A kernel with what a test needs beside it: peers' sockets, which are of the same kernel.
class KernelUnderTest {
 public:
  virtual ~KernelUnderTest() = default;
  virtual SocketCalls& calls() = 0;
  virtual std::unique_ptr<Ring> NewRing(RingSize size = {}) = 0;
  virtual bool silent_sends() const = 0;
  virtual bool multishot_recv() const = 0;
  virtual Pair UnixPair() = 0;
  virtual Pair TcpPair() = 0;
  virtual Fd Listen(SocketAddress& address) = 0;
  virtual SocketAddress NobodyListens() = 0;
  virtual SocketAddress NeverAnswers() = 0;
  virtual Fd SignalledEvent() = 0;
  // Nothing from it is acknowledged any more, and its kernel gives up soon. False: not here.
  [[nodiscard]] virtual bool LoseThePeerOf(Pair& sockets) = 0;
};

class RealKernel final : public KernelUnderTest {
 public:
  SocketCalls& calls() override { return calls_; }
  std::unique_ptr<Ring> NewRing(RingSize size) override {
    return CreateKernelRing({.submission_entries = size.submissions, .completion_entries = size.completions, .features = features_}).value();
  }
  bool silent_sends() const override { return features_.silent_sends; }
  bool multishot_recv() const override { return features_.bounded_multishot_recv; }
  Pair UnixPair() override {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    return {Fd(ends[0]), Fd(ends[1])};
  }
  Pair TcpPair() override {
    SocketAddress address;
    const Fd listener = Listen(address);
    Pair pair;
    pair.a = Fd(calls_.Open(address));
    (void)calls_.Connect(pair.a.get(), address);
    pollfd p{listener.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&p, 1, 10'000), 1);
    pair.b = Fd(calls_.Accept(listener.get()));
    return pair;
  }
  Fd Listen(SocketAddress& address) override {
    uint16_t port;
    Fd listener = testing::ListenOnLoopback(port);
    ::fcntl(listener.get(), F_SETFL, O_NONBLOCK);
    address = SocketAddress::Parse("127.0.0.1:" + std::to_string(port)).value();
    return listener;
  }
  SocketAddress NobodyListens() override {
    SocketAddress address;
    (void)Listen(address);  // closed again
    return address;
  }
  SocketAddress NeverAnswers() override { return silent_.address(); }
  Fd SignalledEvent() override { return Fd(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)); }
  bool LoseThePeerOf(Pair& sockets) override {
    sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
    const sock_fprog deaf{1, &drop};
    const unsigned soon = 200;  // ms
    return ::setsockopt(sockets.a.get(), SOL_SOCKET, SO_ATTACH_FILTER, &deaf, sizeof deaf) == 0 &&
           ::setsockopt(sockets.b.get(), IPPROTO_TCP, TCP_USER_TIMEOUT, &soon, sizeof soon) == 0;
  }

 private:
  const KernelFeatures features_ = ProbeFeatures().value();
  KernelSockets calls_;
  testing::SilentNode silent_;
};

class FakeKernel final : public KernelUnderTest {
 public:
  FakeKernel() { world_.faults.ForbidAll(); }
  ~FakeKernel() override {
    for (const std::string& violation : world_.violations) ADD_FAILURE() << violation;
  }
  SocketCalls& calls() override { return kernel_; }
  std::unique_ptr<Ring> NewRing(RingSize size) override {
    return std::make_unique<SimulatedRing>(kernel_, RingFeatures{.submission_entries = size.submissions, .completion_entries = size.completions});
  }
  bool silent_sends() const override { return true; }
  bool multishot_recv() const override { return true; }
  Pair UnixPair() override { return NewPair(true); }
  Pair TcpPair() override { return NewPair(false); }
  Fd Listen(SocketAddress& address) override {
    address = NewAddress();
    const auto listener = kernel_.Listen(address, 128);
    Put(address, {Answer::Kind::kAccepted, 10us}, listener);
    return Fd(kernel_.Give(listener));
  }
  SocketAddress NobodyListens() override { return NewAddress(); }
  SocketAddress NeverAnswers() override {
    const SocketAddress address = NewAddress();
    Put(address, {Answer::Kind::kNever, {}}, nullptr);
    return address;
  }
  Fd SignalledEvent() override {
    const auto event = std::make_shared<EventCounter>();
    event->Signal();
    return Fd(kernel_.Give(event));
  }
  bool LoseThePeerOf(Pair& sockets) override {
    const auto b = kernel_.As<Endpoint>(sockets.b.get());
    world_.events.After(10ms, [b] { b->peer->CutOff(ETIMEDOUT); });
    return true;
  }

 private:
  struct Place final : Destination {
    Place(Answer its_answer, std::shared_ptr<Listener> of) : answer(its_answer), listener(std::move(of)) {}
    Answer Decide() override { return answer; }
    void Connected(const std::shared_ptr<Endpoint>& end) override { listener->queue.push_back(end); }
    Answer answer;
    std::shared_ptr<Listener> listener;
  };

  SocketAddress NewAddress() { return SocketAddress::Parse("10.0.0.1:" + std::to_string(++port_)).value(); }
  void Put(const SocketAddress& address, Answer answer, std::shared_ptr<Listener> listener) {
    places_.push_back(std::make_unique<Place>(answer, std::move(listener)));
    kernel_.SetDestination(address, places_.back().get());
  }
  Pair NewPair(bool is_unix) {
    const auto a = std::make_shared<Endpoint>(world_, "a", is_unix), b = std::make_shared<Endpoint>(world_, "b", is_unix);
    Endpoint::Connect(a, b);
    return {Fd(kernel_.Give(a)), Fd(kernel_.Give(b))};
  }

  World world_{1};
  SimulatedKernel kernel_{world_};
  std::vector<std::unique_ptr<Place>> places_;
  int port_ = 0;
};

enum class Which { kReal, kSimulated };

class RingContract : public ::testing::TestWithParam<Which> {
 protected:
  // What completes within a while: until nothing has for 50 ms.
  std::vector<Completion> Drain(Ring& ring) {
    std::vector<Completion> all;
    std::array<Completion, 64> some;
    while (const size_t n = ring.Wait(some, 50ms)) all.insert(all.end(), some.begin(), some.begin() + static_cast<std::ptrdiff_t>(n));
    return all;
  }
  // Exactly once, with that result.
  void ExpectOne(const std::vector<Completion>& completions, uint64_t tag, int result) {
    ASSERT_EQ(completions.size(), 1u);
    EXPECT_EQ(completions[0].user_data, tag);
    EXPECT_EQ(completions[0].result, result);
  }
  std::string ReceiveAll(int fd) {
    std::string all;
    std::array<uint8_t, 65536> some;
    for (ssize_t n; (n = calls_.Receive(fd, some)) > 0;) all.append(reinterpret_cast<const char*>(some.data()), static_cast<size_t>(n));
    return all;
  }
  // Lets time pass for what is on its way.
  void Settle() { (void)Drain(*ring_); }
  // Until neither it nor its peer takes any more.
  void FillUp(const Fd& fd) {
    const std::string much(65536, 'x');
    while (calls_.Send(fd.get(), AsBytes(much)) > 0) {
      while (calls_.Send(fd.get(), AsBytes(much)) > 0) {
      }
      Settle();
    }
  }
  void LosePeerOf(Pair& sockets);
  void Close(Fd& fd) { calls_.Close(std::move(fd)); }
  void Reset(Fd& fd) {
    calls_.ResetOnClose(fd.get());
    Close(fd);
  }
  static Bytes AsBytes(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

  std::unique_ptr<KernelUnderTest> kernel_ =
      GetParam() == Which::kReal ? std::unique_ptr<KernelUnderTest>(std::make_unique<RealKernel>()) : std::make_unique<FakeKernel>();
  SocketCalls& calls_ = kernel_->calls();
  std::unique_ptr<Ring> ring_ = kernel_->NewRing();
  std::array<Completion, 4> few_;
};

// ---- Connects

TEST_P(RingContract, AConnectThatSucceedsCompletesOnlyWithItsSend) {
  SocketAddress address;
  const Fd listener = kernel_->Listen(address);
  Fd fd(calls_.Open(address));
  ring_->ConnectAndSend(fd.get(), address.data(), address.size(), kConnectTag, AsBytes("hello"), kSendTag);
  ExpectOne(Drain(*ring_), kSendTag, 5);
  Fd accepted(calls_.Accept(listener.get()));
  EXPECT_EQ(ReceiveAll(accepted.get()), "hello");
}

TEST_P(RingContract, AConnectThatIsRefusedCompletesAloneAndSendsNothing) {
  const SocketAddress address = kernel_->NobodyListens();
  Fd fd(calls_.Open(address));
  ring_->ConnectAndSend(fd.get(), address.data(), address.size(), kConnectTag, AsBytes("hello"), kSendTag);
  ExpectOne(Drain(*ring_), kConnectTag, -ECONNREFUSED);
}

TEST_P(RingContract, AConnectThatIsCancelledCompletesAlone) {
  const SocketAddress address = kernel_->NeverAnswers();
  Fd fd(calls_.Open(address));
  ring_->ConnectAndSend(fd.get(), address.data(), address.size(), kConnectTag, AsBytes("hello"), kSendTag);
  ASSERT_TRUE(Drain(*ring_).empty());
  EXPECT_FALSE(calls_.IsConnected(fd.get()));
  ring_->Cancel(kConnectTag);
  ExpectOne(Drain(*ring_), kConnectTag, -ECANCELED);
}

// ---- Sends

TEST_P(RingContract, ASendThatTakesAllCompletesWithTheNextWaitAndDoesNotEndIt) {
  if (!kernel_->silent_sends()) GTEST_SKIP() << "needs Linux 6.1";
  Pair sockets = kernel_->UnixPair();
  ring_->Send(sockets.a.get(), AsBytes("hello"), kSendTag);
  const Instant begin = calls_.Now();
  ASSERT_EQ(ring_->Wait(few_, 50ms), 1u);
  EXPECT_GE(calls_.Now() - begin, 50ms);
  EXPECT_EQ(few_[0].user_data, kSendTag);
  EXPECT_EQ(few_[0].result, 5);
  EXPECT_TRUE(Drain(*ring_).empty());
}

TEST_P(RingContract, AShortSendEndsTheWaitAndSaysHowMuchWasSent) {
  Pair sockets = kernel_->UnixPair();
  const std::string much(4 << 20, 'x');
  ring_->Send(sockets.a.get(), AsBytes(much), kSendTag);
  ASSERT_EQ(ring_->Wait(few_, Duration::max()), 1u);
  EXPECT_EQ(few_[0].user_data, kSendTag);
  EXPECT_GT(few_[0].result, 0);
  EXPECT_LT(few_[0].result, 4 << 20);
  EXPECT_EQ(static_cast<size_t>(few_[0].result), ReceiveAll(sockets.b.get()).size());
  EXPECT_TRUE(Drain(*ring_).empty());
}

TEST_P(RingContract, ASendToAFullSocketEndsTheWait) {
  Pair sockets = kernel_->UnixPair();
  while (calls_.Send(sockets.a.get(), AsBytes(std::string(1000, 'x'))) > 0) {
  }
  ring_->Send(sockets.a.get(), AsBytes("more"), kSendTag);
  ASSERT_EQ(ring_->Wait(few_, Duration::max()), 1u);
  EXPECT_EQ(few_[0].result, -EAGAIN);
  EXPECT_TRUE(Drain(*ring_).empty());
}

// More at once than either queue of the ring holds, and every third one fails.
TEST_P(RingContract, OfManySendsEachCompletesOnceWithItsOwnResult) {
  constexpr size_t kSends = 500;
  ring_ = kernel_->NewRing({8, 16});
  std::vector<Pair> sockets;
  const std::string data(kSends, 'x');
  for (size_t i = 0; i < kSends; ++i) {
    sockets.push_back(kernel_->UnixPair());
    if (i % 3 == 0) Close(sockets[i].b);
    ring_->Send(sockets[i].a.get(), AsBytes(data).first(i + 1), i);
  }
  std::vector<int> results(kSends, 0);
  for (const Completion& c : Drain(*ring_)) {
    ASSERT_LT(c.user_data, kSends);
    EXPECT_EQ(std::exchange(results[c.user_data], c.result), 0) << c.user_data;
  }
  for (size_t i = 0; i < kSends; ++i) EXPECT_EQ(results[i], i % 3 == 0 ? -EPIPE : static_cast<int>(i + 1)) << i;
  EXPECT_TRUE(Drain(*ring_).empty());
}

// What the kernel refuses to take ends its submission. What is behind that was asked for as well: whoever waits for it must
// not sleep.
TEST_P(RingContract, ASendThatOneWaitCouldNotSubmitComesWithTheNextAtOnce) {
  if (GetParam() == Which::kSimulated) GTEST_SKIP() << "the simulated kernel reads what it is given: no address is out of its reach";
  Pair sockets = kernel_->UnixPair();
  const Bytes nobodys{reinterpret_cast<const uint8_t*>(~uint64_t{0xfff}), 10};  // the kernel's half of the addresses
  ring_->Send(sockets.a.get(), nobodys, kConnectTag);
  ring_->Send(sockets.a.get(), AsBytes("hello"), kSendTag);
  ASSERT_EQ(ring_->Wait(few_, Duration::zero()), 1u);
  EXPECT_EQ(few_[0].user_data, kConnectTag);
  EXPECT_EQ(few_[0].result, -EFAULT);
  const Instant begin = calls_.Now();
  ASSERT_EQ(ring_->Wait(few_, 2s), 1u);
  EXPECT_LT(calls_.Now() - begin, 1s);
  EXPECT_EQ(few_[0].user_data, kSendTag);
  EXPECT_EQ(few_[0].result, 5);
}

// ---- Receives

TEST_P(RingContract, AMultishotReceiveEndsAtItsLimit) {
  if (!kernel_->multishot_recv()) GTEST_SKIP() << "needs Linux 6.17";
  Pair sockets = kernel_->UnixPair();
  ring_->RecvMultishot(sockets.b.get(), Expected::kLater, 4096, kRecvTag);
  size_t received = 0, completions = 0;
  bool ended = false;
  for (int i = 0; i < 100 && !ended; ++i) {
    ASSERT_EQ(calls_.Send(sockets.a.get(), AsBytes(std::string(1000, 'x'))), 1000);
    for (const Completion& c : Drain(*ring_)) {
      ASSERT_GT(c.result, 0);
      ++completions;
      received += static_cast<size_t>(c.result);
      ring_->ReturnBuffer(c.buffer);
      ended |= !c.more;
    }
  }
  EXPECT_TRUE(ended);
  EXPECT_GE(completions, 4u);
  EXPECT_GE(received, 4096u);
  EXPECT_LT(received, 4096u + ring_->buffer_size());
}

// ring/relay/hidden_ends.cc is there for this.
TEST_P(RingContract, AMultishotReceiveMissesAResetThatCameWithTheBytes) {
  if (!kernel_->multishot_recv()) GTEST_SKIP() << "needs Linux 6.17";
  Pair sockets = kernel_->TcpPair();
  ASSERT_EQ(calls_.Send(sockets.a.get(), AsBytes("last words")), 10);
  Settle();
  Reset(sockets.a);
  Settle();
  ring_->RecvMultishot(sockets.b.get(), Expected::kLater, 4096, kRecvTag);
  const auto completions = Drain(*ring_);
  ASSERT_GE(completions.size(), 1u);
  EXPECT_EQ(completions[0].result, 10);
  EXPECT_EQ(completions.size(), 1u) << "this kernel tells of it: the look at hidden ends could go";
  pollfd look{sockets.b.get(), POLLRDHUP, 0};
  EXPECT_EQ(calls_.Poll({&look, 1}), 1);
  EXPECT_NE(look.revents & (POLLERR | POLLHUP), 0);
}

TEST_P(RingContract, AMultishotReceiveTellsOfAFinThatCameWithTheBytes) {
  Pair sockets = kernel_->TcpPair();
  ASSERT_EQ(calls_.Send(sockets.a.get(), AsBytes("last words")), 10);
  calls_.EndStream(sockets.a.get());
  Settle();
  ring_->RecvMultishot(sockets.b.get(), Expected::kLater, 4096, kRecvTag);
  auto completions = Drain(*ring_);
  ASSERT_GE(completions.size(), 1u);
  EXPECT_EQ(completions[0].result, 10);
  if (!completions[0].more) return;  // it was a single one
  ASSERT_EQ(completions.size(), 2u);
  EXPECT_EQ(completions[1].result, 0);
}

// ---- Polls

// IO_POLL_UNMASK.
TEST_P(RingContract, EveryPollWakesForThePeersFin) {
  Pair sockets = kernel_->TcpPair();
  FillUp(sockets.b);
  ring_->Poll(sockets.b.get(), POLLOUT, kRecvTag);
  EXPECT_TRUE(Drain(*ring_).empty());
  calls_.EndStream(sockets.a.get());
  const auto completions = Drain(*ring_);
  ASSERT_EQ(completions.size(), 1u);
  EXPECT_EQ(completions[0].result & (POLLOUT | POLLRDHUP), POLLRDHUP);
}

TEST_P(RingContract, APollForChangesTellsOfEachOnce) {
  Pair sockets = kernel_->TcpPair();
  calls_.EndStream(sockets.a.get());
  Settle();
  ring_->PollChanges(sockets.b.get(), POLLRDHUP, kRecvTag);
  const auto completions = Drain(*ring_);
  ASSERT_EQ(completions.size(), 1u);
  EXPECT_TRUE(completions[0].more);
  EXPECT_NE(completions[0].result & POLLRDHUP, 0);
  ring_->Cancel(kRecvTag);
  ExpectOne(Drain(*ring_), kRecvTag, -ECANCELED);
}

TEST_P(RingContract, AWaitThatGathersEndsWithFewerOnceItsPatienceIsOver) {
  const Fd event = kernel_->SignalledEvent();
  ring_->Poll(event.get(), POLLIN, kRecvTag);
  EXPECT_EQ(ring_->Wait(few_, 10s, {.completions = 64, .patience = 200us}), 1u);
}

// ---- Ends

TEST_P(RingContract, ClosesWhatItWasGivenEvenIfItEndsFirst) {
  Pair sockets = kernel_->UnixPair();
  ring_->Close(std::move(sockets.b));
  ring_.reset();
  std::array<uint8_t, 1> byte;
  EXPECT_EQ(calls_.Receive(sockets.a.get(), byte), 0);
}

TEST_P(RingContract, AResetIsToldOnceBehindTheBytesAndIsNoFin) {
  Pair sockets = kernel_->TcpPair();
  ASSERT_EQ(calls_.Send(sockets.a.get(), AsBytes("last words")), 10);
  Settle();
  Reset(sockets.a);
  Settle();
  EXPECT_EQ(ReceiveAll(sockets.b.get()), "last words");  // whose last read was told
  std::array<uint8_t, 1> byte;
  EXPECT_EQ(calls_.Receive(sockets.b.get(), byte), 0);
  EXPECT_EQ(calls_.Send(sockets.b.get(), AsBytes("x")), -EPIPE);
  EXPECT_EQ(calls_.TakeError(sockets.b.get()), 0);
  EXPECT_EQ(calls_.FinCame(sockets.b.get()), std::optional(false));
}

TEST_P(RingContract, ASendThatIsToldOfAResetLeavesTheReadWithAnEnd) {
  Pair sockets = kernel_->TcpPair();
  Reset(sockets.a);
  Settle();
  EXPECT_EQ(calls_.Send(sockets.b.get(), AsBytes("x")), -ECONNRESET);
  std::array<uint8_t, 1> byte;
  EXPECT_EQ(calls_.Receive(sockets.b.get(), byte), 0);
  EXPECT_EQ(calls_.FinCame(sockets.b.get()), std::optional(false));
}

TEST_P(RingContract, AFinIsReadAgainAndAgainAlsoBehindAReset) {
  Pair sockets = kernel_->TcpPair();
  calls_.EndStream(sockets.a.get());
  Settle();
  std::array<uint8_t, 1> byte;
  EXPECT_EQ(calls_.Receive(sockets.b.get(), byte), 0);
  EXPECT_EQ(calls_.FinCame(sockets.b.get()), std::optional(true));
  Reset(sockets.a);
  Settle();
  EXPECT_EQ(calls_.Receive(sockets.b.get(), byte), 0);
  EXPECT_EQ(calls_.Send(sockets.b.get(), AsBytes("x")), -EPIPE);
  EXPECT_EQ(calls_.FinCame(sockets.b.get()), std::optional(true));
}

// Where our own FIN waits behind bytes that nobody reads, the error is that of a mere reset.
TEST_P(RingContract, WhetherAFinCameIsKnownWhateverErrorCameBehindIt) {
  Pair sockets = kernel_->TcpPair();
  FillUp(sockets.b);
  calls_.EndStream(sockets.b.get());
  calls_.EndStream(sockets.a.get());
  Settle();
  Reset(sockets.a);
  Settle();
  EXPECT_EQ(calls_.TakeError(sockets.b.get()), ECONNRESET);
  std::array<uint8_t, 1> byte;
  EXPECT_EQ(calls_.Receive(sockets.b.get(), byte), 0);
  EXPECT_EQ(calls_.FinCame(sockets.b.get()), std::optional(true));
}

// `b` has an error of its own, which no reset from its peer caused.
void RingContract::LosePeerOf(Pair& sockets) {
  if (!kernel_->LoseThePeerOf(sockets)) GTEST_SKIP() << "no socket filters for this user";
  ASSERT_EQ(calls_.Send(sockets.b.get(), AsBytes("never acknowledged")), 18);
  pollfd look{sockets.b.get(), POLLRDHUP, 0};
  for (int i = 0; i < 200 && (look.revents & POLLERR) == 0; ++i) {
    Settle();
    (void)calls_.Poll({&look, 1});
  }
  ASSERT_NE(look.revents & POLLERR, 0);
}

TEST_P(RingContract, APeerThatDoesNotAnswerIsAnErrorThatIsToldOnce) {
  Pair sockets = kernel_->TcpPair();
  LosePeerOf(sockets);
  if (IsSkipped() || HasFatalFailure()) return;
  std::array<uint8_t, 1> byte;
  EXPECT_EQ(calls_.Receive(sockets.b.get(), byte), -ETIMEDOUT);
  EXPECT_EQ(calls_.Receive(sockets.b.get(), byte), 0);
  EXPECT_EQ(calls_.FinCame(sockets.b.get()), std::optional(false));
}

// Unlike a reset (EPIPE), this error does not say that a FIN had come.
TEST_P(RingContract, AFinBeforeAnErrorOfTheNetworkIsKnown) {
  Pair sockets = kernel_->TcpPair();
  calls_.EndStream(sockets.a.get());
  Settle();
  LosePeerOf(sockets);
  if (IsSkipped() || HasFatalFailure()) return;
  std::array<uint8_t, 1> byte;
  EXPECT_EQ(calls_.Receive(sockets.b.get(), byte), 0);
  EXPECT_EQ(calls_.TakeError(sockets.b.get()), ETIMEDOUT);
  EXPECT_EQ(calls_.FinCame(sockets.b.get()), std::optional(true));
  EXPECT_EQ(calls_.Send(sockets.b.get(), AsBytes("x")), -EPIPE);
}

TEST_P(RingContract, ACloseWithUnreadBytesIsAReset) {
  Pair sockets = kernel_->TcpPair();
  ASSERT_EQ(calls_.Send(sockets.b.get(), AsBytes("unread")), 6);
  Settle();
  Close(sockets.a);
  Settle();
  std::array<uint8_t, 1> byte;
  EXPECT_EQ(calls_.Receive(sockets.b.get(), byte), -ECONNRESET);
}

TEST_P(RingContract, AUnixSocketTellsOfUnreadBytesBehindWhatItSent) {
  Pair sockets = kernel_->UnixPair();
  ASSERT_EQ(calls_.Send(sockets.b.get(), AsBytes("unread")), 6);
  ASSERT_EQ(calls_.Send(sockets.a.get(), AsBytes("x")), 1);
  Close(sockets.a);
  std::array<uint8_t, 8> bytes;
  EXPECT_EQ(calls_.Receive(sockets.b.get(), bytes), 1);
  EXPECT_EQ(calls_.Receive(sockets.b.get(), bytes), -ECONNRESET);
  EXPECT_EQ(calls_.Receive(sockets.b.get(), bytes), 0);
  EXPECT_EQ(calls_.Send(sockets.b.get(), AsBytes("x")), -EPIPE);
}

// What wakes a waiting request (accepts, orders, most receives) must get its turn although requests that complete at once
// leave completions behind in every turn.
TEST_P(RingContract, RequestsThatCompleteAtOnceDoNotStarveThoseThatWait) {
  const Pair awaited = kernel_->UnixPair(), busy = kernel_->UnixPair();
  ring_->Poll(awaited.b.get(), POLLIN, kRecvTag);
  ASSERT_EQ(ring_->Wait(few_, Duration::zero()), 0u);
  ASSERT_EQ(calls_.Send(awaited.a.get(), AsBytes("x")), 1);
  bool seen = false;
  for (int turn = 0; turn < 50 && !seen; ++turn) {
    ring_->Send(busy.a.get(), AsBytes("x"), kSendTag);
    const size_t n = ring_->Wait(few_, Duration::zero());
    for (size_t i = 0; i < n; ++i) seen |= few_[i].user_data == kRecvTag;
  }
  EXPECT_TRUE(seen);
}

// ---- Pipes

TEST_P(RingContract, ASpliceMovesWhatIsThereAndSaysWhyItCannot) {
  Pair from = kernel_->TcpPair(), to = kernel_->TcpPair();
  std::optional<Pipe> pipe = calls_.MakePipe(65536);
  ASSERT_TRUE(pipe.has_value());
  EXPECT_EQ(calls_.Splice(from.b.get(), pipe->write_end.get(), 65536), -EAGAIN);
  ASSERT_EQ(calls_.Send(from.a.get(), AsBytes("bytes")), 5);
  calls_.EndStream(from.a.get());
  Settle();
  EXPECT_EQ(calls_.Splice(from.b.get(), pipe->write_end.get(), 65536), 5);
  EXPECT_EQ(calls_.Splice(from.b.get(), pipe->write_end.get(), 65536), 0);
  EXPECT_EQ(calls_.Splice(pipe->read_end.get(), to.a.get(), 5), 5);
  Settle();
  EXPECT_EQ(ReceiveAll(to.b.get()), "bytes");
  calls_.Close(std::move(pipe->read_end));
  calls_.Close(std::move(pipe->write_end));
}

TEST_P(RingContract, WhatIsUnacknowledgedIsToldUntilItIs) {
  Pair sockets = kernel_->TcpPair();
  ASSERT_EQ(calls_.Send(sockets.a.get(), AsBytes("bytes")), 5);
  for (int i = 0; i < 20 && calls_.Unacknowledged(sockets.a.get()) > 0; ++i) Settle();
  EXPECT_EQ(calls_.Unacknowledged(sockets.a.get()), 0u);
  FillUp(sockets.a);
  EXPECT_GT(calls_.Unacknowledged(sockets.a.get()), 0u);
}

INSTANTIATE_TEST_SUITE_P(Kernels, RingContract, ::testing::Values(Which::kReal, Which::kSimulated),
                         [](const auto& which) { return which.param == Which::kReal ? "Real" : "Simulated"; });

}  // namespace
}  // namespace hud::simulation
