#include "control/nodes/health_checker.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>

namespace hud {
namespace {

using namespace std::chrono_literals;

struct Listener {
  Fd fd;
  SocketAddress address;
  explicit Listener(bool listen) : fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const SocketAddress any = *SocketAddress::Parse("127.0.0.1:0");
    EXPECT_EQ(::bind(fd.get(), any.data(), any.size()), 0);
    if (listen) { EXPECT_EQ(::listen(fd.get(), 256), 0); }
    sockaddr_storage bound{};
    socklen_t length = sizeof bound;
    ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &length);
    address = SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&bound), length);
  }
};

class HealthCheckerTest : public ::testing::Test {
 protected:
  HealthCheckerTest()
      : loop_(*EventLoop::Create()),
        checker_(loop_.get(), [this] { return now_; },
                 [this](NodeRef node, ProbeEnd end) {
                   ends_.push_back(end);
                   verdicts_.push_back({node, end == ProbeEnd::kConnected});
                 }) {}

  void RunUntilVerdicts(size_t count) {
    for (int i = 0; i < 500 && verdicts_.size() < count; ++i) loop_->RunOnce(10ms);
  }

  static NodeRef Node(uint16_t i) { return {NodeIndex{i}, 1}; }

  std::unique_ptr<EventLoop> loop_;
  std::vector<std::pair<NodeRef, bool>> verdicts_;
  std::vector<ProbeEnd> ends_;
  HealthChecker checker_;
  Instant now_{1000s};
};

TEST_F(HealthCheckerTest, AListenerIsUpAndABoundSocketThatDoesNotListenIsDown) {
  const Listener up(true), down(false);
  checker_.Start({{Node(1), up.address}, {Node(2), down.address}}, now_);
  RunUntilVerdicts(2);
  ASSERT_EQ(verdicts_.size(), 2u);
  for (const auto& [node, connected] : verdicts_) EXPECT_EQ(connected, node == Node(1));
  EXPECT_EQ(checker_.in_flight(), 0u);
  EXPECT_EQ(loop_->size(), 0u);
}

TEST_F(HealthCheckerTest, AUnixSocketThatIsNotThereIsDown) {
  checker_.Start({{Node(1), *SocketAddress::Parse("unix:/nonexistent/hud.sock")}}, now_);
  ASSERT_EQ(verdicts_.size(), 1u);
  EXPECT_FALSE(verdicts_[0].second);
}

TEST_F(HealthCheckerTest, ANodeThatIsBeingProbedIsNotProbedTwice) {
  const Listener up(true);
  checker_.Start({{Node(1), up.address}, {Node(1), up.address}}, now_);
  checker_.Start({{Node(1), up.address}}, now_);
  RunUntilVerdicts(1);
  loop_->RunOnce(50ms);
  EXPECT_EQ(verdicts_.size(), 1u);
}

// It accepts and says nothing: what is tried behind the connect is not to hold up the next check.
TEST_F(HealthCheckerTest, ANodeThatSaysNothingIsCheckedAgainAsSoonAsThatIsDue) {
  const Listener mute(true);
  const Cluster::ProbeOrder order{.node = Node(1), .address = mute.address, .check = NodeCheck::kAuto};
  for (size_t i = 1; i <= 3; ++i) {
    checker_.Start({order}, now_);
    RunUntilVerdicts(i);
    ASSERT_EQ(ends_.size(), i);
    EXPECT_EQ(ends_.back(), ProbeEnd::kConnected);
  }
  EXPECT_EQ(checker_.in_flight(), 1u);
  checker_.Tick(now_ + HealthChecker::kLearningTime);
  EXPECT_EQ(checker_.in_flight(), 0u);
  EXPECT_EQ(ends_.size(), 3u) << "that no TLS came is no news of a node that only has to take connects";
}

TEST_F(HealthCheckerTest, AHandshakeHasItsTimeFromItsBeginningOn) {
  const Listener mute(true);
  checker_.SetTimeout(60s);
  checker_.Start({{.node = Node(1), .address = mute.address, .check = NodeCheck::kTls, .answer_within = 300ms}}, now_);
  now_ += 10s;  // no Tick: the loop had nothing to wake for
  loop_->RunOnce(1s);
  EXPECT_EQ(checker_.NextDeadline(), now_ + 300ms);
  checker_.Tick(now_ + 299ms);
  EXPECT_TRUE(ends_.empty());
  checker_.Tick(now_ + 300ms);
  ASSERT_EQ(ends_.size(), 1u);
  EXPECT_EQ(ends_[0], ProbeEnd::kNoAnswer);
  EXPECT_EQ(loop_->size(), 0u);
}

TEST_F(HealthCheckerTest, AnotherAddressEndsTheCheckOfTheOldOne) {
  const Listener mute(true), down(false);
  checker_.Start({{.node = Node(1), .address = mute.address, .check = NodeCheck::kTls}}, now_);
  loop_->RunOnce(1s);
  checker_.Start({{.node = Node(1), .address = down.address, .check = NodeCheck::kTls}}, now_);
  RunUntilVerdicts(1);
  ASSERT_EQ(ends_.size(), 1u);
  EXPECT_EQ(ends_[0], ProbeEnd::kNoConnect);
  EXPECT_EQ(checker_.in_flight(), 0u);
}

TEST_F(HealthCheckerTest, MoreThanMayFlyAtOnceWait) {
  const Listener up(true);
  std::vector<Cluster::ProbeOrder> orders;
  for (uint16_t i = 0; i < 3 * HealthChecker::kMaxInFlight; ++i) orders.push_back({Node(i), up.address});
  checker_.Start(orders, now_);
  EXPECT_LE(checker_.in_flight(), HealthChecker::kMaxInFlight);
  for (int i = 0; i < 500 && verdicts_.size() < orders.size(); ++i) {
    loop_->RunOnce(10ms);
    checker_.Tick(now_);
  }
  EXPECT_EQ(verdicts_.size(), orders.size());
}

TEST_F(HealthCheckerTest, WithoutADescriptorNobodyIsDownAndTheProbeIsMadeLater) {
  const Listener up(true);
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  checker_.Start({{Node(1), up.address}}, now_);
  checker_.Tick(now_ + HealthChecker::kLocalErrorDelay);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(verdicts_.empty());
  EXPECT_EQ(checker_.local_errors(), 2u);
  EXPECT_EQ(checker_.NextDeadline(), now_ + 2 * HealthChecker::kLocalErrorDelay);
  checker_.Tick(now_ + 2 * HealthChecker::kLocalErrorDelay);
  RunUntilVerdicts(1);
  ASSERT_EQ(verdicts_.size(), 1u);
  EXPECT_TRUE(verdicts_[0].second);
}

TEST_F(HealthCheckerTest, AConnectThatIsNotAnsweredFailsWhenItsTimeIsOver) {
  // A listener whose backlog is full answers no more connects.
  Listener full(false);
  ASSERT_EQ(::listen(full.fd.get(), 0), 0);
  std::vector<Fd> fillers;
  for (int i = 0; i < 4; ++i) {
    fillers.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    ::connect(fillers.back().get(), full.address.data(), full.address.size());
  }
  checker_.SetTimeout(2s);
  checker_.Start({{Node(1), full.address}}, now_);
  loop_->RunOnce(50ms);
  checker_.Tick(now_ + 1999ms);
  EXPECT_TRUE(verdicts_.empty());
  EXPECT_EQ(checker_.NextDeadline(), now_ + 2s);
  checker_.Tick(now_ + 2s);
  ASSERT_EQ(verdicts_.size(), 1u);
  EXPECT_FALSE(verdicts_[0].second);
  EXPECT_EQ(loop_->size(), 0u);
}

TEST_F(HealthCheckerTest, ANodeThatIsGoneGetsNoVerdict) {
  const Listener up(true);
  checker_.Start({{Node(1), up.address}}, now_);
  checker_.Forget(Node(1));
  loop_->RunOnce(50ms);
  EXPECT_TRUE(verdicts_.empty());
  EXPECT_EQ(loop_->size(), 0u);
}

}  // namespace
}  // namespace hud
