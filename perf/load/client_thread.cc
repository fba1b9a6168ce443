#include "perf/load/client_thread.h"

#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "perf/load/priority.h"

namespace hud::load {
namespace {

constexpr uint32_t kEnded = EPOLLRDHUP | EPOLLHUP | EPOLLERR;

Instant Now() { return std::chrono::steady_clock::now(); }

}  // namespace

ClientThread::ClientThread(const ClientOptions& options, uint32_t first, uint32_t count, HelloTemplate hello)
    : options_(options), first_(first), hello_(std::move(hello)), received_(kReceiveBytes), connections_(count) {
  closed_.reserve(count);
  for (uint32_t i = count; i > 0; --i) closed_.push_back(i - 1);
  uint32_t exchanging = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const bool exchanges = options.one_exchanges && first + i == 0;
    connections_[i].operation = exchanges ? Operation::kProbe : options.operation;
    if (IsExchange(connections_[i].operation)) ++exchanging;
  }
  if (options.rate > 0 && exchanging > 0) {
    const uint32_t all_exchanging = options.one_exchanges ? 1 : options.connections;
    pace_.emplace(options.rate * exchanging / all_exchanging);
    paused_.resize(count);
  }
}

absl::StatusOr<std::unique_ptr<ClientThread>> ClientThread::Create(const ClientOptions& options, uint32_t first,
                                                                   uint32_t count, HelloTemplate hello) {
  std::unique_ptr<ClientThread> thread(new ClientThread(options, first, count, std::move(hello)));
  if (absl::Status status = thread->lanes_.Open(); !status.ok()) return status;
  absl::StatusOr<Fd> wake = MakeEvent();
  if (!wake.ok()) return wake.status();
  thread->wake_ = *std::move(wake);
  if (!thread->lanes_.AddWaker(thread->wake_.get(), kWakeTag)) return SocketError("epoll_ctl", errno);
  return thread;
}

void ClientThread::Enter(Phase phase) {
  phase_.store(phase, std::memory_order_relaxed);
  Signal(wake_);
}

void ClientThread::Run() {
  ::prctl(PR_SET_TIMERSLACK, 1);  // a paced load wants its timeouts on the spot
  if (options_.one_exchanges && first_ == 0) realtime_ = GoAheadOfOthers();
  while (seen_phase_ != Phase::kStopping && failure_.ok()) {
    if (!failed_.empty()) TakeBackFailed();
    OpenClosed();
    if (pace_) StartDue();
    timespec timeout;
    lanes_.Wait(Patience(timeout), [this](uint64_t tag, uint32_t events) {
      if (tag == kWakeTag) {
        FollowPhase();
      } else {
        Handle(static_cast<uint32_t>(tag), events);
      }
    });
  }
  const Instant now = Now();
  if (failure_.ok()) CountStalled(now);
  if (pace_) CountOverdue(now);
  ended_.store(true, std::memory_order_release);
}

// How long to wait for events: null is for ever.
const timespec* ClientThread::Patience(timespec& timeout) const {
  Duration wait = Duration::max();
  if (!failed_.empty()) wait = retry_at_ - Now();
  if (paused_count_ > 0 && seen_phase_ != Phase::kSettingUp) wait = std::min(wait, pace_->Next() - Now());
  if (wait == Duration::max()) return nullptr;
  wait = std::max(wait, Duration::zero());
  const auto seconds = std::chrono::floor<std::chrono::seconds>(wait);
  timeout = {.tv_sec = seconds.count(), .tv_nsec = (wait - seconds).count()};
  return &timeout;
}

void ClientThread::FollowPhase() {
  eventfd_t count;
  ::eventfd_read(wake_.get(), &count);
  const Phase left = std::exchange(seen_phase_, phase_.load(std::memory_order_relaxed));
  // Whatever comes next: without a warm-up the thread may wake up when its phase has passed.
  if (pace_ && left == Phase::kSettingUp && seen_phase_ != Phase::kSettingUp) pace_->Begin(Now());
}

// Where a server went away, trying at once and again would only heat the processor, and fill its ports.
void ClientThread::TakeBackFailed() {
  if (Now() < retry_at_) return;
  closed_.insert(closed_.end(), failed_.begin(), failed_.end());
  failed_.clear();
}

// Each of those that are closed now is tried once.
void ClientThread::OpenClosed() {
  const bool all_at_once = options_.operation == Operation::kConnect;
  for (size_t tries = closed_.size(); tries > 0 && failure_.ok(); --tries) {
    if (!all_at_once && opening_ >= kOpeningAtOnce) return;
    const uint32_t index = closed_.back();
    closed_.pop_back();
    Open(index);
  }
}

void ClientThread::Open(uint32_t index) {
  Connection& connection = connections_[index];
  connection.started = Now();
  connection.fd = Fd(::socket(options_.target.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!connection.fd) {
    failure_ = SocketError("socket", errno);
    return;
  }
  const int fd = connection.fd.get();
  connection.stage = Stage::kHello;
  connection.sent = 0;
  connection.received = 0;
  connection.seed = (uint64_t{first_} << 40) + ++opened_;
  ++opening_;
  // A hello goes in one piece, and so would wait for nothing; the tail of a long request would.
  if (IsExchange(connection.operation)) DisableNagle(fd);
  if (connection.operation == Operation::kStall) {
    constexpr int kLittle = 64 * 1024;  // what the proxy cannot get rid of is to be with the proxy
    ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &kLittle, sizeof(kLittle));
  }
  if (!BindToNextSource(fd)) return;
  if (::connect(fd, options_.target.data(), options_.target.size()) != 0 && errno != EINPROGRESS) {
    const int error = errno;
    if (error == EADDRNOTAVAIL) failure_ = SocketError(absl::StrCat("connect to ", options_.target.ToString()), error);
    Fail(connection, error);
    return;
  }
  // On loopback the connection is mostly there already, and the hello can go.
  if (!SendHello(connection)) {
    Fail(connection, error_);
  } else if (!lanes_.AddQuick(fd, index)) {
    failure_ = SocketError("epoll_ctl", errno);
  }
}

// A client that closes first leaves its port unusable for a while, and one address has some 28,000 ports; all of
// 127.0.0.0/8 is ours, though. The port is chosen by connect, which knows that ports may be shared between targets.
bool ClientThread::BindToNextSource(int fd) {
  constexpr uint32_t kPortsOfAnAddress = 4096;  // used in a row, so that the search for a free one stays short
  constexpr uint64_t kAddresses = 1 << 22;
  constexpr uint32_t kFewConnections = 16384;
  const Bytes target = options_.target.host_bytes();
  if (options_.target.family() != AF_INET || target[0] != 127) return true;
  const bool leaves_ports = options_.operation == Operation::kConnect && !options_.ends_by_reset;
  if (!leaves_ports && options_.connections < kFewConnections) return true;
  const uint64_t block = opened_ / kPortsOfAnAddress * static_cast<uint64_t>(options_.threads) + first_;
  sockaddr_in source{};
  source.sin_family = AF_INET;
  source.sin_addr.s_addr = htonl((127u << 24) + static_cast<uint32_t>(1 + block % kAddresses));
  const int on = 1;
  ::setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&source), sizeof(source)) == 0) return true;
  failure_ = SocketError("bind to an address of 127.0.0.0/8", errno);
  return false;
}

void ClientThread::Handle(uint32_t index, uint32_t events) {
  Connection& connection = connections_[index];
  error_ = 0;
  const bool lives = Move(connection, events);
  if (connection.stage == Stage::kClosed) return;
  // The server ends no connection first, so that an end is a failure even when all answers have come.
  if (!lives || (events & kEnded) != 0) Fail(connection, error_);
}

void ClientThread::Close(Connection& connection) {
  if (connection.stage == Stage::kHello || connection.stage == Stage::kGreeting) --opening_;
  connection.stage = Stage::kClosed;
  connection.fd.Reset();
}

void ClientThread::Finish(Connection& connection) {
  Close(connection);
  closed_.push_back(IndexOf(connection));
}

void ClientThread::Fail(Connection& connection, int error) {
  constexpr Duration kPause = std::chrono::milliseconds(10);
  // It may be its own hello that it has read. It ends by a reset: a port that waits out its time would be what the next try meets.
  if (connection.stage == Stage::kGreeting && IsConnectedToItself(connection.fd.get())) {
    constexpr linger kReset = {1, 0};
    ::setsockopt(connection.fd.get(), SOL_SOCKET, SO_LINGER, &kReset, sizeof(kReset));
    error = ECONNREFUSED;
  }
  counters_.failures.Add(1);
  last_error_.store(error, std::memory_order_relaxed);
  Close(connection);
  const Instant now = Now();
  if (std::exchange(connection.is_up, false)) connection.down_since = now;
  if (failed_.empty()) retry_at_ = now + kPause;
  failed_.push_back(IndexOf(connection));
}

// It reaches the server for the first time, or again.
void ClientThread::Return(Connection& connection) {
  connection.is_up = true;
  if (connection.down_since == Instant{}) {
    counters_.connections_up.Add(1);
  } else {
    CountDown(connection, Now());
  }
}

void ClientThread::CountDown(const Connection& connection, Instant now) {
  counters_.down_ns.Add(static_cast<uint64_t>((now - connection.down_since).count()));
}

// What has not been answered for so long will hardly be: a proxy that lost bytes shows here. And those that are down.
void ClientThread::CountStalled(Instant now) {
  constexpr Duration kLong = std::chrono::seconds(1);
  for (const Connection& connection : connections_) {
    if (!connection.is_up && connection.down_since != Instant{}) CountDown(connection, now);
    const bool awaits = connection.stage == Stage::kHello || connection.stage == Stage::kGreeting ||
                        connection.stage == Stage::kRequest || connection.stage == Stage::kResponse;
    if (!awaits || now - connection.started <= kLong) continue;
    counters_.failures.Add(1);
    counters_.stalled.Add(1);
  }
}

Order ClientThread::OrderOf(const Connection& connection) const {
  const uint32_t request = IsExchange(connection.operation) ? options_.request_bytes : 0;
  return {connection.operation, request,
          connection.operation == Operation::kStall ? kStallBytes : options_.response_bytes};
}

uint32_t ClientThread::IndexOf(const Connection& connection) const {
  return static_cast<uint32_t>(&connection - connections_.data());
}

}  // namespace hud::load
