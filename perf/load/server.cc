#include "perf/load/server.h"

#include <sched.h>
#include <sys/eventfd.h>

#include <csignal>
#include <cstdio>
#include <limits>
#include <thread>

#include "core/tls/tls_record.h"
#include "perf/load/priority.h"

namespace hud::load {
namespace {

constexpr uint64_t kListenerTag = uint64_t{1} << 32;  // other tags are descriptors
constexpr uint64_t kStopTag = kListenerTag + 1;
constexpr uint64_t kGivenTag = kListenerTag + 2;
constexpr size_t kReceiveBytes = 1024 * 1024;
constexpr uint32_t kEnded = EPOLLRDHUP | EPOLLHUP | EPOLLERR;

}  // namespace

absl::StatusOr<std::unique_ptr<ServerThread>> ServerThread::Create(Fd listener, int stop, ServerThread& urgent) {
  std::unique_ptr<ServerThread> thread(new ServerThread);
  thread->urgent_ = &urgent;
  thread->listener_ = std::move(listener);
  if (absl::Status status = thread->Open(stop); !status.ok()) return status;
  if (!thread->lanes_.AddWaker(thread->listener_.get(), kListenerTag)) return SocketError("epoll_ctl", errno);
  return thread;
}

absl::StatusOr<std::unique_ptr<ServerThread>> ServerThread::CreateUrgent(int stop) {
  std::unique_ptr<ServerThread> thread(new ServerThread);
  absl::StatusOr<Fd> given = MakeEvent();
  if (!given.ok()) return given.status();
  thread->given_event_ = *std::move(given);
  if (absl::Status status = thread->Open(stop); !status.ok()) return status;
  if (!thread->lanes_.AddWaker(thread->given_event_.get(), kGivenTag)) return SocketError("epoll_ctl", errno);
  return thread;
}

absl::Status ServerThread::Open(int stop) {
  if (absl::Status status = lanes_.Open(); !status.ok()) return status;
  if (!lanes_.AddWaker(stop, kStopTag)) return SocketError("epoll_ctl", errno);
  received_.resize(kReceiveBytes);
  return absl::OkStatus();
}

absl::Status ServerThread::Run() {
  if (urgent_ == nullptr) GoAheadOfOthers();
  while (!stopping_) {
    lanes_.Wait(nullptr, [this](uint64_t tag, uint32_t events) {
      if (tag == kListenerTag) {
        Accept();
      } else if (tag == kStopTag) {
        stopping_ = true;
      } else if (tag == kGivenTag) {
        TakeGiven();
      } else {
        Handle(static_cast<int>(tag), events);
      }
    });
  }
  return failure_;
}

ServerThread::Connection& ServerThread::At(int fd) {
  const auto index = static_cast<size_t>(fd);
  if (index >= connections_.size()) connections_.resize(2 * index + 64);
  return connections_[index];
}

bool ServerThread::IsForUrgent(const Connection& connection) const {
  return urgent_ != nullptr && connection.order.operation == Operation::kProbe;
}

void ServerThread::GiveToUrgent(Connection& connection) {
  lanes_.RemoveQuick(connection.fd.get());  // it may have been waited for while its hello was not whole
  {
    const std::lock_guard lock(urgent_->given_mutex_);
    urgent_->given_.push_back(std::move(connection));
  }
  Signal(urgent_->given_event_);
}

// What is due to them goes out with their first event: they are writable.
void ServerThread::TakeGiven() {
  eventfd_t count;
  ::eventfd_read(given_event_.get(), &count);
  std::vector<Connection> given;
  {
    const std::lock_guard lock(given_mutex_);
    given.swap(given_);
  }
  for (Connection& connection : given) {
    const int fd = connection.fd.get();
    At(fd) = std::move(connection);
    lanes_.AddQuick(fd, static_cast<uint64_t>(fd));
  }
}

void ServerThread::Accept() {
  constexpr int kTurn = 64;  // so that a crowd at the door does not starve those inside
  for (int i = 0; i < kTurn; ++i) {
    Fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) {
      if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) return;
      failure_ = SocketError("accept", errno);
      stopping_ = true;
      return;
    }
    const int number = fd.get();
    Connection& connection = At(number);
    connection = Connection{.fd = std::move(fd)};
    // The hello is mostly there already: reading it first saves an event.
    if (!Receive(connection, false)) {
      connection.fd.Reset();
    } else if (connection.stage != Stage::kUpload && connection.stage != Stage::kDownload) {
      lanes_.AddQuick(number, static_cast<uint64_t>(number));
    }
  }
}

void ServerThread::Handle(int fd, uint32_t events) {
  Connection& connection = At(fd);
  bool lives = true;
  if (connection.stage == Stage::kUpload) {
    lives = Discard(connection);
  } else if (connection.stage == Stage::kAnswered && (events & kEnded) != 0) {
    lives = false;
  } else if ((events & (EPOLLIN | kEnded)) != 0) {
    lives = Receive(connection, (events & kEnded) != 0);
  }
  if (lives && (events & EPOLLOUT) != 0 && connection.response_left > 0) lives = Answer(connection);
  if (!lives) connection.fd.Reset();
}

// A read that was not full has emptied the socket; only an end may lie behind it.
bool ServerThread::Receive(Connection& connection, bool to_the_end) {
  for (;;) {
    const int flags = connection.stage == Stage::kHello ? 0 : MSG_TRUNC;  // which counts the bytes without copying them
    const Moved moved = ReceiveSome(connection.fd.get(), received_.data(), received_.size(), flags);
    if (moved.ended) return false;
    if (moved.bytes == 0) return true;
    if (!Take(connection, {received_.data(), static_cast<size_t>(moved.bytes)})) return false;
    if (!to_the_end && static_cast<size_t>(moved.bytes) < received_.size()) return true;
  }
}

bool ServerThread::Take(Connection& connection, Bytes bytes) {
  if (connection.stage == Stage::kHello && !TakeHello(connection, bytes)) return false;
  if (connection.stage != Stage::kExchange) return true;
  connection.request_received += bytes.size();
  if (IsForUrgent(connection)) {
    GiveToUrgent(connection);
    return false;
  }
  return connection.response_left > 0 || Answer(connection);
}

// Takes what belongs to the hello off the front of `bytes`, and once the hello is whole does what it asks.
bool ServerThread::TakeHello(Connection& connection, Bytes& bytes) {
  const size_t for_head = std::min(kHelloHeadBytes - connection.head_filled, bytes.size());
  std::copy_n(bytes.begin(), for_head, connection.head.begin() + connection.head_filled);
  bytes = bytes.subspan(for_head);
  connection.head_filled = static_cast<uint8_t>(connection.head_filled + for_head);
  if (connection.head_filled < kHelloHeadBytes) return true;
  if (for_head > 0) {
    const uint32_t length = uint32_t{connection.head[3]} << 8 | connection.head[4];
    if (connection.head[0] != tls::kHandshake || length + tls::kRecordHeaderBytes < kHelloHeadBytes) return false;
    connection.hello_left = length + static_cast<uint32_t>(tls::kRecordHeaderBytes - kHelloHeadBytes);
  }
  const size_t of_hello = std::min<size_t>(connection.hello_left, bytes.size());
  bytes = bytes.subspan(of_hello);
  connection.hello_left -= static_cast<uint32_t>(of_hello);
  return connection.hello_left > 0 || Obey(connection);
}

bool ServerThread::Obey(Connection& connection) {
  const auto order = DecodeOrder(std::span(connection.head).subspan<kOrderOffset, kOrderBytes>());
  if (!order) return false;
  connection.order = *order;
  connection.response_left = 1;
  const int fd = connection.fd.get();
  const auto tag = static_cast<uint64_t>(fd);
  switch (order->operation) {
    case Operation::kExchange:
    case Operation::kProbe:
      if (order->request_bytes == 0 || order->response_bytes == 0) return false;
      connection.stage = Stage::kExchange;
      if (IsForUrgent(connection)) return true;  // which greets it
      break;
    case Operation::kUpload:
      connection.stage = Stage::kUpload;
      if (!lanes_.MoveToBulk(fd, tag, EPOLLIN)) return false;
      break;
    case Operation::kDownload:
      connection.stage = Stage::kDownload;
      connection.response_left = std::numeric_limits<uint64_t>::max();
      return lanes_.MoveToBulk(fd, tag, EPOLLOUT);
    case Operation::kConnect:
      connection.stage = Stage::kAnswered;
      connection.response_left = order->response_bytes;
      break;
    case Operation::kIdle:
      connection.stage = Stage::kAnswered;
      break;
    case Operation::kStall:
      connection.stage = Stage::kFinishing;
      connection.response_left = order->response_bytes;
      break;
  }
  return Answer(connection);
}

bool ServerThread::Discard(Connection& connection) {
  return !ReceiveSome(connection.fd.get(), received_.data(), received_.size(), MSG_TRUNC).ended;
}

// Sends what is due until the socket takes no more; of a download one call's worth, as its lane will call again.
bool ServerThread::Answer(Connection& connection) {
  for (;;) {
    if (connection.response_left == 0) {
      if (connection.stage == Stage::kFinishing) {
        connection.stage = Stage::kAnswered;
        return ::shutdown(connection.fd.get(), SHUT_WR) == 0;
      }
      if (connection.stage != Stage::kExchange) return true;
      if (connection.request_received < connection.order.request_bytes) return true;
      connection.request_received -= connection.order.request_bytes;
      connection.response_left = connection.order.response_bytes;
      connection.response_sent = 0;
    }
    const Bytes bytes = pattern_.From(connection.response_sent, connection.response_left);
    const Moved moved = SendSome(connection.fd.get(), bytes.data(), bytes.size());
    if (moved.ended) return false;
    connection.response_sent += static_cast<uint64_t>(moved.bytes);
    connection.response_left -= static_cast<uint64_t>(moved.bytes);
    if (static_cast<size_t>(moved.bytes) < bytes.size() || connection.stage == Stage::kDownload) return true;
  }
}

absl::Status Serve(const SocketAddress& address, int count) {
  // Every thread leaves the signals to the one that waits for them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  // Woken by others it lets them finish their turn, and then finds more to do at once: on a core shared with the client
  // that is 14 % more connections a second, and as many exchanges.
  const sched_param no_priority{};
  ::sched_setscheduler(0, SCHED_BATCH, &no_priority);

  absl::StatusOr<std::vector<Fd>> listeners = ListenOn(address, count);
  if (!listeners.ok()) return listeners.status();
  const std::string bound = LocalAddress(listeners->front().get()).ToString();
  absl::StatusOr<Fd> stop = MakeEvent();
  if (!stop.ok()) return stop.status();
  auto urgent = ServerThread::CreateUrgent(stop->get());
  if (!urgent.ok()) return urgent.status();
  ServerThread& ahead = **urgent;
  std::vector<std::unique_ptr<ServerThread>> servers;
  servers.push_back(*std::move(urgent));
  for (Fd& listener : *listeners) {
    auto server = ServerThread::Create(std::move(listener), stop->get(), ahead);
    if (!server.ok()) return server.status();
    servers.push_back(*std::move(server));
  }
  std::mutex mutex;
  absl::Status failure;
  std::vector<std::thread> threads;
  for (auto& server : servers) {
    threads.emplace_back([&failure, &mutex, server = server.get()] {
      const absl::Status status = server->Run();
      if (status.ok()) return;
      const std::lock_guard lock(mutex);
      failure = status;
      ::kill(::getpid(), SIGTERM);
    });
  }
  std::printf("ready on %s\n", bound.c_str());
  std::fflush(stdout);
  int signal = 0;
  ::sigwait(&signals, &signal);
  Signal(*stop);
  for (auto& thread : threads) thread.join();
  return failure;
}

}  // namespace hud::load
