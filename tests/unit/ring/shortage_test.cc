// The kernel may answer anything, and memory may be short anywhere: a connection then ends visibly, or goes on as if nothing
// had been; never the process, nor the others. Faults are put in by a ring around the kernel's, and by the allocator.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>

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

// Which allocation of the worker's finds no memory, from the next turn on; the ring's own find some.
struct ShortMemory {
  std::atomic<int64_t> until{0};  // 0: all find some
  std::atomic<bool> is_short{true};
  std::atomic<bool> failed{false};
};

void Add(Script& script, ShortMemory& memory) {
  script.longest_wait = 5ms;
  script.interrupts = [&memory] {
    if (const int64_t left = std::exchange(allocations_until_failure, 0); left > 0 && memory.is_short) memory.until = left;
    if (std::exchange(an_allocation_failed, false)) memory.failed = true;
    return false;
  };
  script.after_wait = [&memory] { allocations_until_failure = memory.is_short ? memory.until.exchange(0) : 0; };
}

// What is left of the count, perhaps with the worker in the middle of a turn, is forgotten.
bool MemoryIsBack(TestBed& bed, ShortMemory& memory) {
  memory.is_short = false;
  const int64_t turns = bed.counters().loops.Get();
  const bool turned = bed.Eventually([&] { return bed.counters().loops.Get() >= turns + 2; });
  memory.until = 0;
  memory.is_short = true;
  return turned;
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

// What two threads share of a script: the test sets it, and the worker looks.
void Add(Script& script, Fault& fault) {
  script.takes_request = [&script, &fault](uint64_t user_data) {
    if (static_cast<int>(Tag::Unpack(user_data).op) != fault.op || --fault.number != 0) return false;
    script.Answer(user_data, -fault.error);
    ++fault.met;
    return true;
  };
}

class AnyMode : public ::testing::TestWithParam<ModeName> {};
INSTANTIATE_TEST_SUITE_P(Shortage, AnyMode, ::testing::ValuesIn(kModes), [](const auto& p) { return p.param.name; });

TEST_P(AnyMode, WhateverARequestIsAnsweredTheConnectionEndsVisiblyOrGoesOn) {
  Fault fault;
  Script script;
  Add(script, fault);
  TestBed bed({.mode = GetParam().mode,
               .script = &script,
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

// Every allocation that the worker makes for a connection, one after the other. A zero-copy send finds none to pin, too, so that its
// bytes look for another place.
TEST_P(AnyMode, WhicheverAllocationFindsNoMemoryTheConnectionEndsVisiblyOrGoesOn) {
  for (bool sources_are_watched : {false, true}) {
    ShortMemory memory;
    Fault fault;
    Script script;
    Add(script, fault);
    Add(script, memory);
    TestBed bed({.mode = GetParam().mode,
                 .max_connections_per_source = sources_are_watched ? size_t{100} : 0,
                 .script = &script,
                 .plain_features = GetParam().plain_features});
    int number = 0, vain = 0;
    while (vain < 3 && number < 500) {
      ++number;
      memory.failed = false;
      fault.error = ENOBUFS;
      fault.number = 1;
      fault.op = static_cast<int>(Op::kZeroCopy);
      memory.until = number;
      const Exchange::Outcome outcome = Exchange::Run(bed, 200'000);
      ASSERT_TRUE(Settles(bed)) << "outcome " << outcome << ", allocation " << number;
      ASSERT_TRUE(MemoryIsBack(bed, memory));
      ASSERT_TRUE(IsVisible(outcome)) << "outcome " << outcome << ", allocation " << number;
      vain = memory.failed ? 0 : vain + 1;
    }
    EXPECT_GT(number, 8);
    fault.op = -1;
    EXPECT_EQ(Exchange::Run(bed, 1000), Exchange::kWhole);
  }
}

// The memory for what is left of a hello is found before anything is counted anew.
TEST(Shortage, WithoutMemoryForTheRestOfAHelloNothingIsCountedWrong) {
  ShortMemory memory;
  Fault fault;
  Script script;
  Add(script, fault);
  Add(script, memory);
  TestBed bed({.script = &script});
  ASSERT_EQ(Exchange::Run(bed, 1000), Exchange::kWhole);  // what is asked for once a worker is there now
  for (int number = 1; number < 12; ++number) {
    fault.error = EAGAIN;  // the node took nothing of it
    fault.number = 1;
    fault.op = static_cast<int>(Op::kSend);
    memory.until = number;
    EXPECT_TRUE(IsVisible(Exchange::Run(bed, 1000)));
    EXPECT_TRUE(Settles(bed));
  }
  fault.op = -1;
  ASSERT_TRUE(MemoryIsBack(bed, memory));
  EXPECT_EQ(Exchange::Run(bed, 1000), Exchange::kWhole);
}

}  // namespace
}  // namespace hud::testing
