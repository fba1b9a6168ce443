// InFlightPinsMemory, where it is hardest to see: a zero-copy send reads our memory after it has "completed". A ring
// around the kernel's holds the notifications back, as a real card does until the peer has acknowledged, and checks at
// each that nobody has written to the memory meanwhile.
#include <gtest/gtest.h>

#include <deque>

#include "core/base/siphash.h"
#include "tests/unit/ring/forwarding_ring.h"
#include "tests/unit/ring/test_bed.h"

namespace hud::testing {
namespace {

struct Observations {
  std::atomic<int> sends{0};
  std::atomic<int> held_back{0};
  std::atomic<int> most_in_flight{0};
  std::atomic<int> overwritten{0};
};

class DelayingRing final : public ForwardingRing {
 public:
  DelayingRing(std::unique_ptr<Ring> inner, Duration delay, Observations& seen)
      : ForwardingRing(std::move(inner)), delay_(delay), seen_(seen) {}

  void SendZeroCopy(int fd, Bytes data, uint64_t u) override {
    ++seen_.sends;
    sent_.push_back({u, data, 0, false});
    inner_->SendZeroCopy(fd, data, u);
  }
  size_t Wait(std::span<Completion> out, Duration timeout, Batch batch) override {
    if (!held_.empty()) timeout = std::min(timeout, Duration(std::max(held_.front().due - Now(), Duration(0))));
    size_t n = inner_->Wait(out, timeout, batch);
    size_t kept = 0;
    for (size_t i = 0; i < n; ++i) {
      if (Tag::Unpack(out[i].user_data).op == Op::kZeroCopy) {
        if (out[i].notification) {
          held_.push_back({out[i], Now() + delay_});
          ++seen_.held_back;
          continue;
        }
        TakeResult(out[i]);
      }
      out[kept++] = out[i];
    }
    while (!held_.empty() && held_.front().due <= Now() && kept < out.size()) {
      out[kept++] = held_.front().completion;
      CheckUntouched(held_.front().completion.user_data);
      held_.pop_front();
    }
    return kept;
  }

 private:
  struct Held {
    Completion completion;
    Instant due;
  };
  struct Sent {
    uint64_t user_data;
    Bytes accepted;
    uint64_t hash;
    bool waits;  // the result has come, the notification has not
  };
  static Instant Now() { return std::chrono::time_point_cast<Duration>(std::chrono::steady_clock::now()); }

  void TakeResult(const Completion& c) {
    auto sent = std::find_if(sent_.begin(), sent_.end(), [&](const Sent& s) { return s.user_data == c.user_data && !s.waits; });
    ASSERT_NE(sent, sent_.end());
    if (!c.more) {
      sent_.erase(sent);
      return;
    }
    sent->accepted = sent->accepted.first(static_cast<size_t>(std::max(c.result, 0)));
    sent->hash = SipHash({1, 2}, sent->accepted);
    sent->waits = true;
    seen_.most_in_flight = std::max(seen_.most_in_flight.load(), static_cast<int>(sent_.size()));
  }

  void CheckUntouched(uint64_t user_data) {
    auto sent = std::find_if(sent_.begin(), sent_.end(), [&](const Sent& s) { return s.user_data == user_data && s.waits; });
    ASSERT_NE(sent, sent_.end());
    if (SipHash({1, 2}, sent->accepted) != sent->hash) ++seen_.overwritten;
    sent_.erase(sent);
  }

  const Duration delay_;
  Observations& seen_;
  std::deque<Held> held_;
  std::vector<Sent> sent_;
};

TestBedOptions Delayed(Duration delay, Observations& seen) {
  return {.mode = RelayMode::kZeroCopy, .wrap_ring = [delay, &seen](std::unique_ptr<Ring> ring) {
            return std::make_unique<DelayingRing>(std::move(ring), delay, seen);
          }};
}

TEST(ZeroCopy, NoBufferIsReusedBeforeItsNotification) {
  Observations seen;
  {
    TestBed bed(Delayed(3ms, seen));
    Peer client = bed.Client();
    client.Send("x");
    Peer node = bed.Node();
    node.Receive(1);
    const std::string up = RandomBytes(8 * kMegabyte, 1), down = RandomBytes(8 * kMegabyte, 2);
    std::thread a([&] { client.Send(up); client.FinishSending(); });
    std::thread b([&] { node.Send(down); node.FinishSending(); });
    std::string got_up;
    std::thread c([&] { got_up = node.Receive(up.size() + 1); });
    EXPECT_TRUE(client.Receive(down.size() + 1) == down);
    a.join();
    b.join();
    c.join();
    EXPECT_TRUE(got_up == up);
  }
  EXPECT_GT(seen.sends, 20);
  EXPECT_GT(seen.held_back, 20);
  EXPECT_GT(seen.most_in_flight, 1) << "each send waited for the notification of the one before";
  EXPECT_EQ(seen.overwritten, 0);
}

TEST(ZeroCopy, AConnectionThatEndsWithNotificationsOutstandingWaitsForThemBeforeItsMemoryGoes) {
  Observations seen;
  {
    TestBed bed(Delayed(150ms, seen));
    Peer client = bed.Client();
    client.Send("x");
    Peer node = bed.Node();
    node.Receive(1);
    client.Send(RandomBytes(200'000, 3));
    node.Receive(200'000);
    client.Reset();
    EXPECT_EQ(node.HowItEnds(), "reset") << "the descriptors must not wait for the notifications";
    EXPECT_EQ(bed.counters().active.Get(), 1) << "the slot must";
    EXPECT_TRUE(bed.Eventually([&] { return bed.counters().active.Get() == 0; }));
    // The buffers serve the next connection, whole.
    Peer second = bed.Client();
    second.Send("y");
    Peer second_node = bed.Node();
    second_node.Receive(1);
    const std::string up = RandomBytes(300'000, 4);
    second.Send(up);
    EXPECT_TRUE(second_node.Receive(up.size()) == up);
  }
  EXPECT_EQ(seen.overwritten, 0);
}

TEST(ZeroCopy, ASlowReaderGetsEveryByte) {
  Observations seen;
  TestBed bed(Delayed(1ms, seen));
  Peer client = bed.Client();
  client.Send("x");
  Peer node = bed.Node();
  node.Receive(1);
  const std::string down = RandomBytes(12 * kMegabyte, 5);
  std::thread sender([&] { node.Send(down); node.Close(); });
  std::string got;
  for (int i = 0; got.size() < down.size(); ++i) {
    if (i % 20 == 0) std::this_thread::sleep_for(20ms);
    const std::string more = client.Receive(std::min<size_t>(150'001, down.size() - got.size()));
    if (more.empty()) break;
    got += more;
  }
  sender.join();
  EXPECT_TRUE(got == down);
}

}  // namespace
}  // namespace hud::testing
