// What hud-load's client sends and receives on a connection, once it is opened.
#include <sys/epoll.h>

#include <limits>

#include "perf/load/client_thread.h"

namespace hud::load {
namespace {

Instant Now() { return std::chrono::steady_clock::now(); }

}  // namespace

bool ClientThread::End(int error) {
  error_ = error;
  return false;
}

// The one place where a ready connection goes.
bool ClientThread::Move(Connection& connection, uint32_t events) {
  const bool readable = (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0;
  const bool writable = (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0;
  if (connection.stage == Stage::kHello && writable && !SendHello(connection)) return false;
  switch (connection.stage) {
    case Stage::kGreeting:
      if (connection.operation == Operation::kStall) return !readable || Greeted(connection);  // and it stays unread
      [[fallthrough]];
    case Stage::kResponse:
      return !readable || ReceiveMessage(connection);
    case Stage::kRequest:
      return !writable || SendRequest(connection);
    case Stage::kUpload:
      return !writable || Upload(connection);
    case Stage::kDownload:
      return !readable || Download(connection);
    case Stage::kPaused:
    case Stage::kHolding:
    case Stage::kHello:
    case Stage::kClosed:
      return true;
  }
  return true;
}

bool ClientThread::SendHello(Connection& connection) {
  const Bytes hello = hello_.For(OrderOf(connection), connection.seed).subspan(connection.sent);
  const Moved moved = SendSome(connection.fd.get(), hello.data(), hello.size());
  if (moved.ended) return End(moved.error);
  connection.sent += static_cast<uint32_t>(moved.bytes);
  if (static_cast<size_t>(moved.bytes) == hello.size()) connection.stage = Stage::kGreeting;
  return true;
}

uint64_t ClientThread::MessageBytes(const Connection& connection) const {
  const bool whole_response = connection.stage == Stage::kResponse || connection.operation == Operation::kConnect;
  return whole_response ? options_.response_bytes : 1;
}

bool ClientThread::ReceiveMessage(Connection& connection) {
  const uint64_t expected = MessageBytes(connection);
  for (;;) {
    const Moved moved = ReceiveSome(connection.fd.get(), received_.data(), received_.size());
    if (moved.ended) return End(moved.error);
    if (moved.bytes == 0) return true;
    const auto bytes = static_cast<size_t>(moved.bytes);
    if (connection.received == 0 && received_[0] != Pattern::At(0)) return End(0);
    connection.received += bytes;
    counters_.bytes.Add(bytes);
    if (connection.stage == Stage::kGreeting && connection.operation == Operation::kDownload)
      return Greeted(connection);
    if (connection.received > expected) return End(0);
    if (connection.received == expected) {
      if (received_[bytes - 1] != Pattern::At(expected - 1)) return End(0);
      if (connection.stage == Stage::kGreeting) return Greeted(connection);
      const Instant now = Now();
      Count(connection, now);
      return NextExchange(connection, now);
    }
    if (bytes < received_.size()) return true;
  }
}

// The connection reaches the server: its load begins.
bool ClientThread::Greeted(Connection& connection) {
  const int fd = connection.fd.get();
  --opening_;
  if (!connection.is_up) Return(connection);
  switch (connection.operation) {
    case Operation::kExchange:
    case Operation::kProbe:
      return NextExchange(connection, Now());
    case Operation::kUpload:
      connection.stage = Stage::kUpload;
      return lanes_.MoveToBulk(fd, IndexOf(connection), EPOLLOUT) || End(errno);
    case Operation::kDownload:
      connection.stage = Stage::kDownload;
      return lanes_.MoveToBulk(fd, IndexOf(connection), EPOLLIN) || End(errno);
    case Operation::kIdle:
    case Operation::kStall:
      connection.stage = Stage::kHolding;
      return true;
    case Operation::kConnect:
      connection.stage = Stage::kHolding;
      Count(connection, Now());
      if (options_.ends_by_reset) {
        const linger reset = {.l_onoff = 1, .l_linger = 0};
        ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
      }
      Finish(connection);
      return true;
  }
  return true;
}

void ClientThread::Count(Connection& connection, Instant now) {
  counters_.operations.Add(1);
  if (seen_phase_ == Phase::kMeasuring) latencies_.Add(static_cast<uint64_t>((now - connection.started).count()));
}

bool ClientThread::NextExchange(Connection& connection, Instant now) {
  return pace_ ? StartWhenDue(connection, now) : StartExchange(connection, now);
}

bool ClientThread::StartExchange(Connection& connection, Instant start) {
  connection.stage = Stage::kRequest;
  connection.started = start;
  connection.sent = 0;
  connection.received = 0;
  return SendRequest(connection);
}

bool ClientThread::SendRequest(Connection& connection) {
  while (connection.sent < options_.request_bytes) {
    const Bytes bytes = pattern_.From(connection.sent, options_.request_bytes - connection.sent);
    const Moved moved = SendSome(connection.fd.get(), bytes.data(), bytes.size());
    if (moved.ended) return End(moved.error);
    if (moved.bytes == 0) return true;
    connection.sent += static_cast<uint32_t>(moved.bytes);
    counters_.bytes.Add(static_cast<uint64_t>(moved.bytes));
  }
  connection.stage = Stage::kResponse;
  return true;
}

bool ClientThread::Upload(Connection& connection) {
  const Bytes bytes = pattern_.From(0, kSendBytes);
  const Moved moved = SendSome(connection.fd.get(), bytes.data(), bytes.size());
  if (moved.ended) return End(moved.error);
  counters_.bytes.Add(static_cast<uint64_t>(moved.bytes));
  return true;
}

bool ClientThread::Download(Connection& connection) {
  const Moved moved = ReceiveSome(connection.fd.get(), received_.data(), received_.size(), MSG_TRUNC);
  if (moved.ended) return End(moved.error);
  counters_.bytes.Add(static_cast<uint64_t>(moved.bytes));
  return true;
}

}  // namespace hud::load
