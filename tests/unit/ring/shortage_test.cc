// The kernel may answer anything, and memory may be short anywhere: a connection then ends visibly, or goes on as if nothing
// had been; never the process, nor the others. Faults are put in by rings around the kernel's, and by the allocator.
#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <new>

#include "tests/unit/ring/forwarding_ring.h"
#include "tests/unit/ring/test_bed.h"

namespace {

// Counts down at each allocation of this thread; the one that meets 1 finds no memory. 0: all find some.
thread_local int64_t allocations_until_failure = 0;
thread_local bool an_allocation_failed = false;

void* Allocate(std::size_t bytes, std::size_t alignment) {
  if (allocations_until_failure > 0 && --allocations_until_failure == 0) {
    an_allocation_failed = true;
    return nullptr;
  }
  if (alignment <= alignof(std::max_align_t)) return std::malloc(bytes > 0 ? bytes : 1);
  return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

void* AllocateOrThrow(std::size_t bytes, std::size_t alignment) {
  void* memory = Allocate(bytes, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

// Not in line: the compiler would take it for a mismatch.
[[gnu::noinline]] void Free(void* p) { std::free(p); }

}  // namespace

// In place of the library's, for this whole program.
void* operator new(std::size_t n) { return AllocateOrThrow(n, 1); }
void* operator new[](std::size_t n) { return AllocateOrThrow(n, 1); }
void* operator new(std::size_t n, std::align_val_t a) { return AllocateOrThrow(n, static_cast<std::size_t>(a)); }
void* operator new[](std::size_t n, std::align_val_t a) { return AllocateOrThrow(n, static_cast<std::size_t>(a)); }
void* operator new(std::size_t n, const std::nothrow_t&) noexcept { return Allocate(n, 1); }
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept { return Allocate(n, 1); }
void operator delete(void* p) noexcept { Free(p); }
void operator delete[](void* p) noexcept { Free(p); }
void operator delete(void* p, std::size_t) noexcept { Free(p); }
void operator delete[](void* p, std::size_t) noexcept { Free(p); }
void operator delete(void* p, std::align_val_t) noexcept { Free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { Free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { Free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { Free(p); }

namespace hud::testing {
namespace {

constexpr std::string_view kFirst = "GET / HTTP/1.1\r\n\r\n";

// Answers some requests itself: one completion a turn, so that what belongs together may find its connection gone.
class AnsweringRing : public ForwardingRing {
 public:
  using ForwardingRing::ForwardingRing;
  size_t Wait(std::span<Completion> out, Duration timeout, Batch batch) override {
    if (answers_.empty()) return inner_->Wait(out, timeout, batch);
    const size_t n = inner_->Wait(out.subspan(1), Duration::zero(), batch);
    out[0] = answers_.front();
    answers_.pop_front();
    return n + 1;
  }

 protected:
  void Answer(uint64_t user_data, int result) { answers_.push_back({.user_data = user_data, .result = result}); }

 private:
  std::deque<Completion> answers_;
};

// What the kernel does when it has no memory to begin a connect and the send behind it: both complete, in either order, with
// errors, and nothing was connected.
class NoMemoryRing final : public AnsweringRing {
 public:
  NoMemoryRing(std::unique_ptr<Ring> inner, int failures, bool send_first)
      : AnsweringRing(std::move(inner)), left_(failures), send_first_(send_first) {}

  void ConnectAndSend(int fd, const sockaddr* a, socklen_t n, uint64_t connect_tag, Bytes data, uint64_t send_tag) override {
    if (left_-- <= 0) return inner_->ConnectAndSend(fd, a, n, connect_tag, data, send_tag);
    if (send_first_) Answer(send_tag, -ENOMEM);
    Answer(connect_tag, -ECANCELED);
    if (!send_first_) Answer(send_tag, -ENOMEM);
  }

 private:
  int left_;
  const bool send_first_;
};

TEST(Shortage, AConnectAndASendThatBothFailForWantOfMemoryAreTriedAgain) {
  for (bool send_first : {true, false}) {
    TestBed bed({.wrap_ring = [&](std::unique_ptr<Ring> ring) {
      return std::make_unique<NoMemoryRing>(std::move(ring), 3, send_first);
    }});
    Peer client = bed.Client();
    client.Send(kFirst);
    Peer node = bed.Node();
    EXPECT_EQ(node.Receive(kFirst.size()), kFirst);
    node.Send("answer");
    EXPECT_EQ(client.Receive(6), "answer");
  }
}

TEST(Shortage, WithoutMemoryForAsLongAsAConnectMayTakeTheConnectionEndsAndNotTheProcess) {
  for (bool send_first : {true, false}) {
    TestBed bed({.wrap_ring = [&](std::unique_ptr<Ring> ring) {
                   return std::make_unique<NoMemoryRing>(std::move(ring), 1000, send_first);
                 },
                 .adjust = [](RouteTable& table) { table.timeouts.connect = 200ms; }});
    Peer client = bed.Client();
    client.Send(kFirst);
    client.SetTimeout(3s);
    EXPECT_NE(client.HowItEnds(), "nothing");
    EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kLocalError) == 1; }));
    EXPECT_EQ(bed.node().failed_connects.load(), 0u) << "not the node's fault";
  }
}

// A lost completion may have been that of a send which did not take all: every connection visibly ends, and the worker goes on.
class LosingRing final : public ForwardingRing {
 public:
  LosingRing(std::unique_ptr<Ring> inner, std::atomic<int>& losses) : ForwardingRing(std::move(inner)), losses_(losses) {}
  uint64_t losses() const override { return static_cast<uint64_t>(losses_.load()); }

 private:
  std::atomic<int>& losses_;
};

TEST(Shortage, AfterALossOfCompletionsEveryConnectionEndsAndNewOnesAreServed) {
  std::atomic<int> losses{0};
  TestBed bed({.wrap_ring = [&](std::unique_ptr<Ring> ring) { return std::make_unique<LosingRing>(std::move(ring), losses); }});
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  node.Receive(kFirst.size());
  losses = 1;
  bed.Wake();
  EXPECT_EQ(client.HowItEnds(), "reset");
  EXPECT_EQ(node.HowItEnds(), "reset");
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kLocalError) == 1; }));
  Peer next = bed.Client();
  next.Send(kFirst);
  Peer next_node = bed.Node();
  EXPECT_EQ(next_node.Receive(kFirst.size()), kFirst);
}

// One client's connection, driven from both ends without waiting for either: a request, then bytes each way, and an end.
class Exchange {
 public:
  enum Outcome { kWhole, kReset, kClosedBeforeAnything, kTruncated, kStuck };

  // A whole exchange, or what became of it.
  static Outcome Run(TestBed& bed, size_t bytes) {
    Exchange e(bed, bytes);
    const auto until = std::chrono::steady_clock::now() + 8s;
    while (!e.over_) {
      if (std::chrono::steady_clock::now() > until) return kStuck;
      e.Turn(bed);
    }
    return e.outcome_;
  }

 private:
  Exchange(TestBed& bed, size_t bytes) : client_(bed.Client()), bytes_(RandomBytes(bytes, 11)) {
    request_ = std::string(kFirst) + bytes_;
    NonBlocking(client_);
  }
  static void NonBlocking(Peer& peer) { ::fcntl(peer.fd.get(), F_SETFL, O_NONBLOCK); }

  void Turn(TestBed& bed) {
    if (!node_.fd) node_.fd = bed.TryNode();
    pollfd wait[2] = {{client_.fd.get(), static_cast<short>(POLLIN | (sent_ < request_.size() ? POLLOUT : 0)), 0},
                      {node_.fd.get(), static_cast<short>(POLLIN | (answered_ < bytes_.size() ? POLLOUT : 0)), 0}};
    ::poll(wait, 2, node_.fd ? 20 : 1);
    Push(client_, request_, sent_);
    if (node_.fd) {
      TakeRequest();
    }
    if (node_.fd) {
      if (taken_ >= kFirst.size()) Push(node_, bytes_, answered_);
      if (answered_ == bytes_.size() && !std::exchange(finished_, true)) node_.FinishSending();
    }
    TakeAnswer();
  }
  static void Push(Peer& peer, std::string_view bytes, size_t& done) {
    if (done == bytes.size()) return;
    const ssize_t n = ::send(peer.fd.get(), bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (n > 0) done += static_cast<size_t>(n);
  }
  void TakeRequest() {
    char some[64 * 1024];
    const ssize_t n = ::recv(node_.fd.get(), some, sizeof some, 0);
    const bool gone = n == 0 || (n < 0 && errno != EAGAIN);
    if (gone && taken_ == 0) return node_.Close();  // an attempt that was given up: another may come
    if (n <= 0) return;
    const bool right = taken_ + static_cast<size_t>(n) <= request_.size() &&
                       std::memcmp(some, request_.data() + taken_, static_cast<size_t>(n)) == 0;
    EXPECT_TRUE(right) << "the node got other bytes, at " << taken_;
    taken_ += static_cast<size_t>(n);
  }
  void TakeAnswer() {
    char some[64 * 1024];
    const ssize_t n = ::recv(client_.fd.get(), some, sizeof some, 0);
    if (n > 0) {
      const bool right = got_ + static_cast<size_t>(n) <= bytes_.size() &&
                         std::memcmp(some, bytes_.data() + got_, static_cast<size_t>(n)) == 0;
      EXPECT_TRUE(right) << "the client got other bytes, at " << got_;
      got_ += static_cast<size_t>(n);
      return;
    }
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) return End(kReset);
    if (got_ == 0) return End(kClosedBeforeAnything);
    if (got_ < bytes_.size()) return End(kTruncated);
    if (taken_ == request_.size()) End(kWhole);
  }
  void End(Outcome outcome) {
    outcome_ = outcome;
    over_ = true;
  }

  Peer client_, node_;
  const std::string bytes_;
  std::string request_;
  size_t sent_ = 0, taken_ = 0, answered_ = 0, got_ = 0;
  bool finished_ = false, over_ = false;
  Outcome outcome_ = kStuck;
};

// Everybody has left, and no attempt to connect that was given up waits to be taken for the next client's.
bool Settles(TestBed& bed) {
  const bool left = bed.Eventually([&] { return bed.counters().active.Get() == 0; });
  while (bed.TryNode()) {
  }
  return left;
}

bool IsVisible(Exchange::Outcome outcome) {
  return outcome == Exchange::kWhole || outcome == Exchange::kReset || outcome == Exchange::kClosedBeforeAnything;
}

// The n-th request of one kind fails as it begins, with an errno that the test chooses; nothing of it reaches the kernel.
struct Fault {
  std::atomic<int> op{-1};
  std::atomic<int> number{0};  // which one, from 1
  std::atomic<int> error{0};
  std::atomic<int> met{0};
};

class FaultyRing final : public AnsweringRing {
 public:
  FaultyRing(std::unique_ptr<Ring> inner, Fault& fault) : AnsweringRing(std::move(inner)), fault_(fault) {}

  void AcceptMultishot(int fd, uint64_t u) override { Fails(u) || (inner_->AcceptMultishot(fd, u), true); }
  void AcceptOne(int fd, uint64_t u) override { Fails(u) || (inner_->AcceptOne(fd, u), true); }
  void Recv(int fd, Expected e, uint64_t u) override { Fails(u) || (inner_->Recv(fd, e, u), true); }
  void RecvMultishot(int fd, Expected e, uint32_t limit, uint64_t u) override { Fails(u) || (inner_->RecvMultishot(fd, e, limit, u), true); }
  void Send(int fd, Bytes data, uint64_t u) override { Fails(u) || (inner_->Send(fd, data, u), true); }
  void SendZeroCopy(int fd, Bytes data, uint64_t u) override { Fails(u) || (inner_->SendZeroCopy(fd, data, u), true); }
  void Poll(int fd, uint32_t events, uint64_t u) override { Fails(u) || (inner_->Poll(fd, events, u), true); }
  void PollChanges(int fd, uint32_t events, uint64_t u) override { Fails(u) || (inner_->PollChanges(fd, events, u), true); }
  void ConnectAndSend(int fd, const sockaddr* a, socklen_t n, uint64_t connect_tag, Bytes data, uint64_t send_tag) override {
    if (!Fails(connect_tag) && !Fails(send_tag)) inner_->ConnectAndSend(fd, a, n, connect_tag, data, send_tag);
  }

 private:
  bool Fails(uint64_t user_data) {
    if (static_cast<int>(Tag::Unpack(user_data).op) != fault_.op || --fault_.number != 0) return false;
    Answer(user_data, -fault_.error);
    ++fault_.met;
    return true;
  }

  Fault& fault_;
};

class AnyMode : public ::testing::TestWithParam<ModeName> {};
INSTANTIATE_TEST_SUITE_P(Shortage, AnyMode, ::testing::ValuesIn(kModes), [](const auto& p) { return p.param.name; });

TEST_P(AnyMode, WhateverARequestIsAnsweredTheConnectionEndsVisiblyOrGoesOn) {
  Fault fault;
  TestBed bed({.mode = GetParam().mode,
               .wrap_ring = [&](std::unique_ptr<Ring> ring) { return std::make_unique<FaultyRing>(std::move(ring), fault); },
               .adjust = [](RouteTable& table) { table.timeouts.connect = 500ms; },
               .plain_features = GetParam().plain_features});
  constexpr Op kOps[] = {Op::kAccept, Op::kWake, Op::kRecv, Op::kSend, Op::kZeroCopy, Op::kConnect, Op::kPollIn, Op::kPollOut, Op::kPollError};
  constexpr int kErrors[] = {ENOMEM, ENOBUFS, ECANCELED, EINTR, EINVAL, EPERM, EIO, EMFILE, ENOSYS, ENOTCONN, EAGAIN};
  int met = 0;
  for (Op op : kOps) {
    for (int error : kErrors) {
      for (int number : {1, 2, 4}) {
        fault.error = error;
        fault.number = number;
        fault.met = 0;
        fault.op = static_cast<int>(op);
        const Exchange::Outcome outcome = Exchange::Run(bed, 200'000);
        fault.op = -1;
        met += fault.met;
        ASSERT_TRUE(IsVisible(outcome)) << "outcome " << outcome << ", operation " << static_cast<int>(op) << ", " << std::strerror(error)
                                        << ", number " << number;
        ASSERT_TRUE(Settles(bed)) << "operation " << static_cast<int>(op) << ", " << std::strerror(error) << ", number " << number;
        if (fault.met == 0) continue;
        ASSERT_EQ(Exchange::Run(bed, 1000), Exchange::kWhole) << "the next client, after operation " << static_cast<int>(op);
        ASSERT_TRUE(Settles(bed));
      }
    }
  }
  EXPECT_GT(met, 50);
}

// Every allocation that the worker makes for a connection, one after the other, finds no memory. A zero-copy send finds none
// to pin, too, so that its bytes look for another place.
class ForgetfulRing final : public ForwardingRing {
 public:
  ForgetfulRing(std::unique_ptr<Ring> inner, std::atomic<int64_t>& until, std::atomic<bool>& failed)
      : ForwardingRing(std::move(inner)), until_(until), failed_(failed) {}
  size_t Wait(std::span<Completion> out, Duration timeout, Batch batch) override {
    if (const int64_t left = std::exchange(allocations_until_failure, 0); left > 0) until_ = left;
    if (std::exchange(an_allocation_failed, false)) failed_ = true;
    const size_t n = inner_->Wait(out, std::min<Duration>(timeout, 5ms), batch);
    allocations_until_failure = until_.exchange(0);
    return n;
  }

 private:
  std::atomic<int64_t>& until_;
  std::atomic<bool>& failed_;
};

TEST_P(AnyMode, WhicheverAllocationFindsNoMemoryTheConnectionEndsVisiblyOrGoesOn) {
  for (bool sources_are_watched : {false, true}) {
    std::atomic<int64_t> until{0};
    std::atomic<bool> failed{false};
    Fault fault;
    const auto wrap = [&](std::unique_ptr<Ring> ring) -> std::unique_ptr<Ring> {
      return std::make_unique<ForgetfulRing>(std::make_unique<FaultyRing>(std::move(ring), fault), until, failed);
    };
    TestBed bed({.mode = GetParam().mode,
                 .max_connections_per_source = sources_are_watched ? size_t{100} : 0,
                 .wrap_ring = wrap,
                 .plain_features = GetParam().plain_features});
    int number = 0, vain = 0;
    while (vain < 3 && number < 500) {
      ++number;
      failed = false;
      fault.error = ENOBUFS;
      fault.number = 1;
      fault.op = static_cast<int>(Op::kZeroCopy);
      until = number;
      const Exchange::Outcome outcome = Exchange::Run(bed, 200'000);
      bed.Wake();
      ASSERT_TRUE(Settles(bed)) << "outcome " << outcome << ", allocation " << number;
      for (int i = 0; i < 5; ++i) {  // a worker in the middle of a turn puts back what is left
        until = 0;
        bed.Wake();
        std::this_thread::sleep_for(1ms);
      }
      ASSERT_TRUE(IsVisible(outcome)) << "outcome " << outcome << ", allocation " << number;
      vain = failed ? 0 : vain + 1;
    }
    EXPECT_GT(number, 8);
    fault.op = -1;
    EXPECT_EQ(Exchange::Run(bed, 1000), Exchange::kWhole);
  }
}

// A completion is gone for good, and what waits for it is given up after a while.
class SwallowingRing final : public ForwardingRing {
 public:
  SwallowingRing(std::unique_ptr<Ring> inner, std::atomic<bool>& swallow, std::atomic<int>& losses)
      : ForwardingRing(std::move(inner)), swallow_(swallow), losses_(losses) {}
  uint64_t losses() const override { return static_cast<uint64_t>(losses_.load()); }
  size_t Wait(std::span<Completion> out, Duration timeout, Batch batch) override {
    const size_t n = inner_->Wait(out, timeout, batch);
    size_t kept = 0;
    for (size_t i = 0; i < n; ++i) {
      const bool goes = Tag::Unpack(out[i].user_data).op == Op::kSend && swallow_.exchange(false);
      goes ? void(++losses_) : void(out[kept++] = out[i]);
    }
    return kept;
  }

 private:
  std::atomic<bool>& swallow_;
  std::atomic<int>& losses_;
};

TEST(Shortage, WhoWaitsForACompletionThatWasLostIsGivenUp) {
  std::atomic<bool> swallow{false};
  std::atomic<int> losses{0};
  TestBed bed({.wrap_ring = [&](std::unique_ptr<Ring> ring) { return std::make_unique<SwallowingRing>(std::move(ring), swallow, losses); },
               .lost_after = 300ms});
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  node.Receive(kFirst.size());
  swallow = true;
  node.Send("answer");  // is sent, but nobody hears of it
  ASSERT_TRUE(bed.Eventually([&] { return losses == 1; }));
  EXPECT_TRUE(bed.Eventually([&] { return bed.counters().active.Get() == 0; }, 5s));
  EXPECT_EQ(bed.Closes(CloseReason::kLocalError), 1);
  EXPECT_EQ(Exchange::Run(bed, 1000), Exchange::kWhole);
}

// A socket that says that it has room and takes nothing, as when the kernel is short of memory for sockets.
class FullRing final : public AnsweringRing {
 public:
  FullRing(std::unique_ptr<Ring> inner, std::atomic<bool>& full) : AnsweringRing(std::move(inner)), full_(full) {}
  void Send(int fd, Bytes data, uint64_t u) override {
    if (!full_ || Tag::Unpack(u).side != Side::kClient) return inner_->Send(fd, data, u);
    Answer(u, -EAGAIN);
  }

 private:
  std::atomic<bool>& full_;
};

TEST(Shortage, ASocketThatSaysItHasRoomAndTakesNothingIsAskedByTheClock) {
  std::atomic<bool> full{false};
  TestBed bed({.mode = RelayMode::kCopy,
               .wrap_ring = [&](std::unique_ptr<Ring> ring) { return std::make_unique<FullRing>(std::move(ring), full); }});
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  node.Receive(kFirst.size());
  full = true;
  node.Send("answer");
  std::this_thread::sleep_for(100ms);
  const int64_t before = bed.counters().loops.Get();
  std::this_thread::sleep_for(500ms);
  EXPECT_LE(bed.counters().loops.Get() - before, 250);  // two turns each 10 ms, and not one after the other
  full = false;
  EXPECT_EQ(client.Receive(6), "answer");
}

// The client takes nothing, and what is received from the node ends just then, as it does to look for a hidden end.
class PausingRing final : public AnsweringRing {
 public:
  using AnsweringRing::AnsweringRing;
  void Send(int fd, Bytes data, uint64_t u) override {
    if (Tag::Unpack(u).side != Side::kClient) return inner_->Send(fd, data, u);
    Answer(u, -EAGAIN);
  }
  void Poll(int fd, uint32_t events, uint64_t u) override {
    Tag tag = Tag::Unpack(u);
    if (tag.op != Op::kPollOut) return inner_->Poll(fd, events, u);
    tag.op = Op::kRecv;
    tag.side = Side::kNode;
    inner_->Cancel(tag.Pack());
  }
  void Cancel(uint64_t target) override {
    Tag::Unpack(target).op == Op::kPollOut ? Answer(target, -ECANCELED) : inner_->Cancel(target);
  }
};

TEST(Shortage, AResetBehindBytesThatNobodyTakesIsSeen) {
  TestBed bed({.mode = RelayMode::kCopy,
               .wrap_ring = [](std::unique_ptr<Ring> ring) { return std::make_unique<PausingRing>(std::move(ring)); },
               .reset_patience = 300ms});
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  node.Receive(kFirst.size());
  node.Send("answer");
  std::this_thread::sleep_for(50ms);
  node.Send("more");  // ends the poll for it, and is not read
  std::this_thread::sleep_for(50ms);
  node.Reset();
  EXPECT_TRUE(bed.Eventually([&] { return bed.Closes(CloseReason::kNodeReset) == 1; }, 3s));
}

// A poll that says there is room, while the client's socket is full.
class RoomyRing final : public AnsweringRing {
 public:
  using AnsweringRing::AnsweringRing;
  void Poll(int fd, uint32_t events, uint64_t u) override {
    const Tag tag = Tag::Unpack(u);
    const bool lies = tag.op == Op::kPollOut && tag.side == Side::kClient;
    lies ? Answer(u, POLLOUT) : inner_->Poll(fd, events, u);
  }
};

// With bytes in a pipe the second try is made by the relay's timer itself, which then set itself for 15 seconds later.
TEST(Shortage, APipeForASocketThatGoesOnTakingNothingIsTriedAgainAndAgainAndLetGo) {
  TestBed bed({.mode = RelayMode::kSplice, .wrap_ring = [](std::unique_ptr<Ring> ring) {
    return std::make_unique<RoomyRing>(std::move(ring));
  }});
  Peer client = bed.Client();
  client.Send(kFirst);
  Peer node = bed.Node();
  node.Receive(kFirst.size());
  const std::string answer = RandomBytes(16'000'000, 3);
  std::thread sender([&] { node.Send(answer); });
  ASSERT_TRUE(bed.Eventually([&] { return bed.counters().pipes_held.Get() == 1; }));
  EXPECT_TRUE(bed.Eventually([&] { return bed.counters().private_bytes.Get() > 0 && bed.counters().pipes_held.Get() == 0; }, 2s));
  client.SetTimeout(3s);
  EXPECT_TRUE(client.Receive(answer.size()) == answer);
  sender.join();
}

// The memory for what is left of a hello is found before anything is counted anew.
TEST(Shortage, WithoutMemoryForTheRestOfAHelloNothingIsCountedWrong) {
  std::atomic<int64_t> until{0};
  std::atomic<bool> failed{false};
  Fault fault;
  TestBed bed({.wrap_ring = [&](std::unique_ptr<Ring> ring) {
    return std::make_unique<ForgetfulRing>(std::make_unique<FaultyRing>(std::move(ring), fault), until, failed);
  }});
  ASSERT_EQ(Exchange::Run(bed, 1000), Exchange::kWhole);  // what is asked for once a worker is there now
  for (int number = 1; number < 12; ++number) {
    fault.error = EAGAIN;  // the node took nothing of it
    fault.number = 1;
    fault.op = static_cast<int>(Op::kSend);
    until = number;
    EXPECT_TRUE(IsVisible(Exchange::Run(bed, 1000)));
    bed.Wake();
    EXPECT_TRUE(Settles(bed));
  }
  fault.op = -1;
  until = 0;
  EXPECT_EQ(Exchange::Run(bed, 1000), Exchange::kWhole);
}

}  // namespace
}  // namespace hud::testing
