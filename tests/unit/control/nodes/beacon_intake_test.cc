#include "control/nodes/beacon_intake.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include "control/process/pause_meter.h"
#include "core/beacon/beacon_sender.h"
#include "core/beacon/token_journal.h"

namespace hud {
namespace {

using namespace std::chrono_literals;

TEST(PauseMeter, OnlyTimeThatWasNotAskedForIsAPause) {
  struct Row {
    const char* name;
    Duration asked;
    Duration took;
    Duration paused;
  };
  const Row rows[] = {
      {"woken early", 500ms, 3ms, 0ms},
      {"slept as long as asked", 500ms, 500ms, 0ms},
      {"a little late", 500ms, 700ms, 0ms},
      {"a busy turn", 0ms, 200ms, 0ms},
      {"stopped for ten seconds in its sleep", 500ms, 10s, 9500ms},
      {"stopped in a turn", 0ms, 4s, 4s},
  };
  for (const Row& row : rows) {
    PauseMeter meter(Instant(100s));
    EXPECT_EQ(meter.OnTurn(Instant(100s) + row.took, row.asked), row.paused) << row.name;
    EXPECT_EQ(meter.OnTurn(Instant(100s) + row.took + 1ms, 500ms), Duration(0)) << row.name << ", and the next turn";
  }
}

// A real agent's sender, a real socket, a real receiver, cluster and map; only the time is made up.
class BeaconIntakeTest : public ::testing::Test {
 protected:
  BeaconIntakeTest() : agent_fd_(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) {
    auto socket = BeaconSocket::Bind(*SocketAddress::Parse("127.0.0.1:0"));
    EXPECT_TRUE(socket.ok()) << socket.status();
    to_ = (*socket)->address();
    fd_ = (*socket)->fd();
    std::vector<std::unique_ptr<BeaconSocket>> sockets;
    sockets.push_back(*std::move(socket));
    intake_ = std::make_unique<BeaconIntake>(std::move(sockets), &receiver_, &cluster_, &affinity_, &log_);
    intake_->SetTokenTtl(10s);
    BeaconKey key;
    key.node = "n1";
    key.secret.bytes.fill(7);
    key.addresses = {*AddressRange::Parse("127.0.0.0/8")};
    receiver_.SetKeys({key});
    Configure("web");
  }

  void Configure(const std::string& pool_name) {
    ClusterConfig config;
    ListenerConfig listener;
    listener.name = "tls";
    listener.default_pool = pool_name;
    PoolConfig pool;
    pool.name = pool_name;
    config.listeners = {listener};
    config.pools = {pool};
    const absl::Status status = cluster_.Apply(config, now_);
    EXPECT_TRUE(status.ok()) << status;
  }

  std::unique_ptr<BeaconSender> NewSender() {
    AgentKey key;
    key.node = "n1";
    key.secret.bytes.fill(7);
    auto sender = std::make_unique<BeaconSender>(key, 1'000'000, &journal_, 100ms);
    NodeReport report;
    report.address = *SocketAddress::Parse("127.0.0.1:4433");
    report.pools = {"web"};
    EXPECT_TRUE(sender->SetReport(report).ok());
    return sender;
  }

  // A while of both sides, with datagrams over the real socket.
  void Exchange(BeaconSender& sender, Duration time) {
    for (const Instant end = now_ + time; now_ < end; now_ += 20ms) {
      for (const auto& datagram : sender.Poll(now_, 64)) {
        ASSERT_EQ(::sendto(agent_fd_.get(), datagram.data(), datagram.size(), 0, to_.data(), to_.size()),
                  static_cast<ssize_t>(datagram.size()));
      }
      intake_->Read(now_);
      uint8_t buffer[2048];
      for (ssize_t n; (n = ::recv(agent_fd_.get(), buffer, sizeof buffer, 0)) >= 0;) {
        sender.Handle({buffer, static_cast<size_t>(n)}, now_);
      }
    }
  }

  static std::array<uint8_t, 32> Token(uint8_t i) {
    std::array<uint8_t, 32> token;
    token.fill(i);
    return token;
  }

  Instant now_{1000s};
  LogWriter writer_{Fd(::open("/dev/null", O_WRONLY | O_CLOEXEC))};
  Log log_{&writer_, LogFormat::kLogfmt, LogLevel::kInfo};
  std::unique_ptr<NodeTable> nodes_ = std::make_unique<NodeTable>();
  Cluster cluster_{nodes_.get()};
  AffinityMap affinity_{{1000, {1, 2}}};
  BeaconReceiver receiver_{77};
  TokenJournal journal_{1000};
  std::unique_ptr<BeaconIntake> intake_;
  SocketAddress to_;
  int fd_ = -1;
  Fd agent_fd_;
};

TEST_F(BeaconIntakeTest, AnAgentIsHeardAndItsTokensFindIt) {
  const auto sender = NewSender();
  journal_.Add(Token(1), 1h, now_);
  Exchange(*sender, 2s);
  const NodeRef node = cluster_.Find("n1");
  ASSERT_TRUE(node);
  EXPECT_EQ(affinity_.Find(Token(1)), node);
  EXPECT_EQ(intake_->tokens_unowned(), 0u);
}

TEST_F(BeaconIntakeTest, ATokenLivesNoLongerThanTheProxyAllows) {
  const auto sender = NewSender();
  journal_.Add(Token(1), 1h, now_);
  Exchange(*sender, 2s);
  EXPECT_TRUE(affinity_.Find(Token(1)));
  affinity_.SweepExpired(now_ + 10s, SIZE_MAX);
  EXPECT_FALSE(affinity_.Find(Token(1))) << "affinity.token_ttl";
}

TEST_F(BeaconIntakeTest, TokensOfANodeWithoutAPoolAreAskedForAgainOnceItHasOne) {
  Configure("other");
  const auto sender = NewSender();
  journal_.Add(Token(1), 1h, now_);
  Exchange(*sender, 2s);
  EXPECT_FALSE(cluster_.Find("n1"));
  EXPECT_GT(intake_->refused(), 0u);
  EXPECT_FALSE(affinity_.Find(Token(1)));
  Configure("web");
  Exchange(*sender, 2s);
  EXPECT_TRUE(affinity_.Find(Token(1)));
}

TEST_F(BeaconIntakeTest, DyingIsBadNews) {
  const auto sender = NewSender();
  Exchange(*sender, 1s);
  sender->Die(now_);
  for (const auto& datagram : sender->Poll(now_, 64)) {
    ::sendto(agent_fd_.get(), datagram.data(), datagram.size(), 0, to_.data(), to_.size());
  }
  EXPECT_TRUE(intake_->Read(now_).bad_news);
  EXPECT_FALSE(intake_->Read(now_).bad_news);
}

TEST_F(BeaconIntakeTest, UnderAFloodSilenceIsJudgedLaterButStillJudged) {
  // The socket is never drained: before each turn there is more in it than a turn reads.
  const std::string noise(64, 'x');
  const size_t turn = BeaconIntake::kBatchesATurn * BeaconSocket::kBatch;
  EXPECT_EQ(intake_->Read(now_).more, false);
  EXPECT_EQ(intake_->drained_at(), now_);
  const Instant begin = now_;
  const auto flood = [&](size_t count) {
    for (size_t i = 0; i < count; ++i) ::sendto(agent_fd_.get(), noise.data(), noise.size(), 0, to_.data(), to_.size());
  };
  flood(turn);
  size_t turns = 0;
  Instant first_flooded{};
  while (intake_->drained_at() == begin && turns < 2000) {
    flood(turn);
    now_ += 1ms;
    if (turns++ == 0) first_flooded = now_;
    ASSERT_TRUE(intake_->Read(now_).more) << "turn " << turns;
  }
  EXPECT_EQ(intake_->drained_at(), first_flooded) << "what had arrived by the first turn has been read";
  EXPECT_LT(intake_->drained_at(), now_);
}

TEST_F(BeaconIntakeTest, DropsAreToldOnce) {
  const int small = 1;
  ASSERT_EQ(::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
  const std::string noise(1000, 'x');
  for (int i = 0; i < 100; ++i) ::sendto(agent_fd_.get(), noise.data(), noise.size(), 0, to_.data(), to_.size());
  intake_->Read(now_);
  ::sendto(agent_fd_.get(), noise.data(), noise.size(), 0, to_.data(), to_.size());
  intake_->Read(now_);
  EXPECT_TRUE(intake_->TookDrops());
  EXPECT_FALSE(intake_->TookDrops());
}

}  // namespace
}  // namespace hud
