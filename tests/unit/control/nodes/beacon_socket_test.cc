#include "control/nodes/beacon_socket.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <optional>
#include <string>

namespace hud {
namespace {

SocketAddress Address(std::string_view text) { return *SocketAddress::Parse(text); }

Bytes BytesOf(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

// An agent: not connected, so that it sees from where answers come.
struct Agent {
  Fd fd;
  explicit Agent(const SocketAddress& from) : fd(::socket(from.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    EXPECT_EQ(::bind(fd.get(), from.data(), from.size()), 0) << from.ToString();
  }
  void Send(const SocketAddress& to, std::string_view text) {
    EXPECT_EQ(::sendto(fd.get(), text.data(), text.size(), 0, to.data(), to.size()), static_cast<ssize_t>(text.size()));
  }
  struct Heard {
    std::string text;
    std::string from;
  };
  Heard Hear() {
    pollfd ready{fd.get(), POLLIN, 0};
    if (::poll(&ready, 1, 5000) != 1) return {"nothing", ""};
    char buffer[2048];
    sockaddr_storage from{};
    socklen_t length = sizeof from;
    const ssize_t n = ::recvfrom(fd.get(), buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&from), &length);
    return {std::string(buffer, static_cast<size_t>(n)),
            SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&from), length).ToString()};
  }
};

bool HasIpv6() {
  Fd fd(::socket(AF_INET6, SOCK_DGRAM, 0));
  const SocketAddress loopback = Address("[::1]:0");
  return fd && ::bind(fd.get(), loopback.data(), loopback.size()) == 0;
}

TEST(BeaconSocket, AnswersLeaveFromTheAddressThatWasAddressed) {
  struct Row {
    const char* name;
    const char* bind;
    const char* agent;
    const char* addressed;
    bool ipv6;
  };
  const Row rows[] = {
      {"one address", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", false},
      {"a wildcard, addressed at the usual loopback", "0.0.0.0:0", "127.0.0.1:0", "127.0.0.1:0", false},
      {"a wildcard, addressed at another loopback", "0.0.0.0:0", "127.0.0.1:0", "127.9.8.7:0", false},
      {"the IPv6 loopback of a wildcard", "[::]:0", "[::1]:0", "[::1]:0", true},
      {"IPv4 to an IPv6 wildcard", "[::]:0", "127.0.0.1:0", "127.9.8.7:0", true},
  };
  for (const Row& row : rows) {
    if (row.ipv6 && !HasIpv6()) continue;
    auto socket = BeaconSocket::Bind(Address(row.bind));
    ASSERT_TRUE(socket.ok()) << row.name << ": " << socket.status();
    const SocketAddress to = Address(row.addressed).WithPort((*socket)->address().port());
    Agent agent(Address(row.agent));
    agent.Send(to, "question");
    pollfd ready{(*socket)->fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&ready, 1, 5000), 1) << row.name;
    const size_t n = (*socket)->Receive([&](const BeaconSocket::Datagram& datagram) {
      EXPECT_EQ(std::string(datagram.bytes.begin(), datagram.bytes.end()), "question") << row.name;
      (*socket)->Answer(datagram, BytesOf("answer"));
    });
    EXPECT_EQ(n, 1u) << row.name;
    const Agent::Heard heard = agent.Hear();
    EXPECT_EQ(heard.text, "answer") << row.name;
    EXPECT_EQ(heard.from, to.ToString()) << row.name;
    EXPECT_EQ((*socket)->answers_failed(), 0u) << row.name;
  }
}

TEST(BeaconSocket, ReadsInBatchesAndSaysWhenItIsDrained) {
  auto socket = BeaconSocket::Bind(Address("127.0.0.1:0"));
  ASSERT_TRUE(socket.ok()) << socket.status();
  Agent agent(Address("127.0.0.1:0"));
  const size_t sent = BeaconSocket::kBatch + 3;
  for (size_t i = 0; i < sent; ++i) agent.Send((*socket)->address(), std::to_string(i));
  size_t next = 0;
  const auto check = [&](const BeaconSocket::Datagram& datagram) {
    EXPECT_EQ(std::string(datagram.bytes.begin(), datagram.bytes.end()), std::to_string(next++));
  };
  EXPECT_EQ((*socket)->Receive(check), BeaconSocket::kBatch);
  EXPECT_EQ((*socket)->Receive(check), 3u);
  EXPECT_EQ((*socket)->Receive(check), 0u);
  EXPECT_EQ(next, sent);
}

TEST(BeaconSocket, ADatagramThatIsTooLongIsSeenToBe) {
  auto socket = BeaconSocket::Bind(Address("127.0.0.1:0"));
  ASSERT_TRUE(socket.ok()) << socket.status();
  Agent agent(Address("127.0.0.1:0"));
  agent.Send((*socket)->address(), std::string(9000, 'x'));
  agent.Send((*socket)->address(), "");
  size_t longest = 0;
  EXPECT_EQ((*socket)->Receive([&](const BeaconSocket::Datagram& d) { longest = std::max(longest, d.bytes.size()); }), 2u);
  EXPECT_GT(longest, limits::kMaxDatagramBytes);
}

TEST(BeaconSocket, WhatTheKernelDropsIsCounted) {
  auto socket = BeaconSocket::Bind(Address("127.0.0.1:0"));
  ASSERT_TRUE(socket.ok()) << socket.status();
  const int small = 1;  // the kernel makes of it the least it has
  ASSERT_EQ(::setsockopt((*socket)->fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
  Agent agent(Address("127.0.0.1:0"));
  constexpr size_t kSent = 1000;
  size_t received = 0;
  for (size_t i = 0; i < kSent; ++i) agent.Send((*socket)->address(), std::string(1000, 'x'));
  while (const size_t n = (*socket)->Receive([](const BeaconSocket::Datagram&) {})) received += n;
  // The count rides on a datagram that comes after the loss.
  agent.Send((*socket)->address(), "after");
  (*socket)->Receive([](const BeaconSocket::Datagram&) {});
  EXPECT_LT(received, kSent);
  EXPECT_EQ((*socket)->dropped(), kSent - received);
}

TEST(BeaconSocket, AnAddressInUseIsNamed) {
  auto first = BeaconSocket::Bind(Address("127.0.0.1:0"));
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = BeaconSocket::Bind((*first)->address());
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find((*first)->address().ToString()), std::string::npos) << second.status();
}

}  // namespace
}  // namespace hud
