// How streams end (README, promise 2): what came before a reset is delivered, then the reset; an end is noticed at once, and
// costs nothing while it waits. Real sockets, every relay mode, and once as on the oldest kernel.
#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

#include "tests/unit/ring/test_bed.h"

namespace hud::testing {
namespace {

class Endings : public ::testing::TestWithParam<ModeName> {
 protected:
  void Begin(TestBedOptions options = {}) {
    options.mode = GetParam().mode;
    options.plain_features = GetParam().plain_features;
    bed_ = std::make_unique<TestBed>(options);
  }
  void Connect() {
    client_ = bed_->Client();
    client_.Send(kFirst);
    node_ = bed_->Node();
    ASSERT_EQ(node_.Receive(kFirst.size()), kFirst);
  }
  // Until the peer's kernel has acknowledged all, so that a reset cannot destroy anything in our own queue.
  void Drain(Peer& peer) {
    int unsent = 1;
    ASSERT_TRUE(bed_->Eventually([&] { return ::ioctl(peer.fd.get(), SIOCOUTQ, &unsent) == 0 && unsent == 0; }));
  }
  // Not TLS at all, so the fallback choice is made at the first byte and the bytes go through untouched.
  static constexpr std::string_view kFirst = "GET / HTTP/1.1\r\n\r\n";
  std::unique_ptr<TestBed> bed_;
  Peer client_, node_;
};

INSTANTIATE_TEST_SUITE_P(Modes, Endings,
                         ::testing::ValuesIn(kModes),
                         [](const auto& p) { return p.param.name; });

TEST_P(Endings, WhatCameBeforeAResetIsDeliveredAndThenTheReset) {
  Begin();
  for (bool by_client : {true, false}) {
    for (size_t size : {1, 1000, 16'384, 20'000, 33'000, 40'000, 65'000, 100'000}) {
      for (int round = 0; round < 5; ++round) {
        Connect();
        Peer& source = by_client ? client_ : node_;
        Peer& sink = by_client ? node_ : client_;
        const std::string bytes = RandomBytes(size, static_cast<uint32_t>(size));
        ASSERT_TRUE(source.Send(bytes));
        Drain(source);
        source.Reset();
        sink.SetTimeout(3s);
        ASSERT_TRUE(sink.Receive(size) == bytes) << size;
        ASSERT_EQ(sink.HowItEnds(), "reset") << size;
      }
    }
  }
}

TEST_P(Endings, AServersLastWordsReachAClientThatGoesOnSending) {
  Begin();
  for (int round = 0; round < 20; ++round) {
    Connect();
    const std::string upload = RandomBytes(200'000, 4), page = RandomBytes(60'000, 5);
    client_.SetTimeout(2s);
    std::atomic<int> error{0};
    std::thread sender([&] {
      if (!client_.Send(upload)) error = errno;
    });
    ASSERT_TRUE(node_.Send(page));
    Drain(node_);
    int unread = 0;
    ASSERT_TRUE(bed_->Eventually([&] { return ::ioctl(node_.fd.get(), SIOCINQ, &unread) == 0 && unread > 0; }));
    node_.Close();  // with bytes unread: a reset
    sender.join();
    ASSERT_TRUE(client_.Receive(page.size()) == page);
    ASSERT_EQ(error == ECONNRESET ? "reset" : client_.HowItEnds(), "reset") << round;  // told once, to whoever asks first
  }
}

TEST_P(Endings, AClientThatResetsAfterItsFinIsNoticedThoughNobodySends) {
  Begin();
  Connect();
  client_.FinishSending();
  EXPECT_EQ(node_.HowItEnds(), "end");
  ASSERT_TRUE(bed_->ComesToRest());
  client_.Reset();
  EXPECT_TRUE(bed_->Eventually([&] { return bed_->counters().active.Get() == 0; }, 2s));
}

TEST_P(Endings, UrgentBytesStopNobody) {
  Begin();
  Connect();
  const std::string bytes = RandomBytes(1 << 20, 8);
  std::thread reader([&] { EXPECT_EQ(node_.Receive(2 * bytes.size()).size(), 2 * bytes.size()); });
  client_.Send(bytes);
  EXPECT_EQ(::send(client_.fd.get(), "!", 1, MSG_OOB | MSG_NOSIGNAL), 1);
  client_.Send(bytes);
  reader.join();
}

}  // namespace
}  // namespace hud::testing
