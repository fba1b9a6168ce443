// A data plane of one worker on loopback, with nodes and clients that a test drives by hand: real kernel, real sockets.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/affinity/affinity_map.h"
#include "ring/io/kernel_ring.h"
#include "ring/io/kernel_sockets.h"
#include "ring/worker.h"
#include "tests/unit/ring/scripted_ring.h"

namespace hud::testing {

using namespace std::chrono_literals;

inline void Fail(const char* what) { ADD_FAILURE() << what << ": " << std::strerror(errno); }

inline Fd ListenOnLoopback(uint16_t& port) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) Fail("bind");
  if (::listen(fd.get(), 128) != 0) Fail("listen");
  socklen_t size = sizeof address;
  ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
  port = ntohs(address.sin_port);
  return fd;
}

// Sanitizers make everything ten times slower, and CI's machine has two cores: there the same cases run with less.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr size_t kMegabyte = 1 << 18;
#else
inline constexpr size_t kMegabyte = 1 << 20;
#endif

inline std::string RandomBytes(size_t n, uint32_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint64_t> words(n / 8 + 1);
  for (uint64_t& word : words) word = random();
  return std::string(reinterpret_cast<const char*>(words.data()), n);
}

// A blocking socket with a receive timeout, so that no test hangs.
struct Peer {
  Fd fd;

  // From an address of 127.0.0.0/8, if one is given.
  static Peer Connect(uint16_t port, const char* from = nullptr) {
    Peer peer{Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))};
    peer.SetTimeout(60s);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    if (from != nullptr) {
      ::inet_pton(AF_INET, from, &address.sin_addr);
      if (::bind(peer.fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) Fail("bind");
    }
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(peer.fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 && !peer.ConnectsAfterAll()) Fail("connect");
    return peer;
  }
  // What is left of a ring of this thread interrupts system calls of the thread. A connect goes on then, and cannot be asked for again.
  bool ConnectsAfterAll() const {
    if (errno != EINTR) return false;
    pollfd p{fd.get(), POLLOUT, 0};
    Uninterrupted([&] { return ::poll(&p, 1, 60'000); });
    socklen_t size = sizeof errno;
    return ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &errno, &size) == 0 && errno == 0;
  }
  static ssize_t Uninterrupted(const std::function<ssize_t()>& call) {
    ssize_t result;
    do result = call();
    while (result < 0 && errno == EINTR);
    return result;
  }
  static Peer Accept(const Fd& listener) {
    pollfd p{listener.get(), POLLIN, 0};
    if (Uninterrupted([&] { return ::poll(&p, 1, 60'000); }) != 1) ADD_FAILURE() << "nobody connected";
    Peer peer{Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC))};
    if (!peer.fd) Fail("accept");
    peer.SetTimeout(60s);
    return peer;
  }
  void SetTimeout(Duration d) {
    timeval tv{d / 1s, static_cast<suseconds_t>((d % 1s) / 1us)};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
  }
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = Uninterrupted([&] { return ::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL); });
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  // Exactly n bytes, fewer at an end or error.
  std::string Receive(size_t n) {
    std::string bytes(n, 0);
    size_t got = 0;
    while (got < n) {
      const ssize_t r = Uninterrupted([&] { return ::recv(fd.get(), bytes.data() + got, n - got, 0); });
      if (r <= 0) break;
      got += static_cast<size_t>(r);
    }
    bytes.resize(got);
    return bytes;
  }
  // "end", "reset", or "bytes"/"nothing" if the stream goes on.
  std::string HowItEnds() {
    char c;
    const ssize_t r = Uninterrupted([&] { return ::recv(fd.get(), &c, 1, 0); });
    if (r == 0) return "end";
    if (r > 0) return "bytes";
    return errno == ECONNRESET ? "reset" : errno == EAGAIN ? "nothing" : std::strerror(errno);
  }
  void FinishSending() { ::shutdown(fd.get(), SHUT_WR); }
  void Reset() {
    linger now{1, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    fd.Reset();
  }
  void Close() { fd.Reset(); }
};

// Nobody listens there.
inline bool IsRefused(uint16_t port) {
  const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 && errno == ECONNREFUSED;
}

// Never answers a connect. 192.0.2.0/24 would leave the machine; a full backlog is silent on loopback too.
class SilentNode {
 public:
  SilentNode() {
    listener_ = ListenOnLoopback(port_);
    ::listen(listener_.get(), 0);
    for (int i = 0; i < 4; ++i) {
      fillers_.push_back(Fd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)));
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(port_);
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      (void)::connect(fillers_.back().get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
    }
  }
  SocketAddress address() const { return SocketAddress::Parse("127.0.0.1:" + std::to_string(port_)).value(); }

 private:
  uint16_t port_;
  Fd listener_;
  std::vector<Fd> fillers_;
};

// Every relay mode, and once as on the oldest kernel that is served.
struct ModeName {
  RelayMode mode;
  const char* name;
  bool plain_features = false;
};
inline constexpr ModeName kModes[] = {{RelayMode::kAuto, "auto"},
                                      {RelayMode::kSplice, "splice"},
                                      {RelayMode::kCopy, "copy"},
                                      {RelayMode::kZeroCopy, "zerocopy"},
                                      {RelayMode::kAuto, "oldest", true}};

struct TestBedOptions {
  RelayMode mode = RelayMode::kAuto;
  size_t max_connections = 5000;  // enough for multishot accept
  size_t max_connections_per_source = 0;
  size_t hello_budget = 64 << 20;
  unsigned pipes = 16;
  Script* script = nullptr;  // what the ring does otherwise than the kernel's
  std::function<void(RouteTable&)> adjust;
  std::function<void(Worker&)> with_worker;  // before it runs, in its thread
  int nodes = 1;
  Duration node_silence = 30s;
  Duration quiet_after = 5s;
  Duration reset_patience = 10s;
  Duration lost_after = 10s;
  bool plain_features = false;  // as on the oldest kernel that is served
};

// One listener "test" with default pool "pool", whose nodes are there.
inline std::unique_ptr<RouteTable> TableFor(const TestBedOptions& options, const std::vector<SocketAddress>& nodes) {
  auto table = std::make_unique<RouteTable>();
  PoolView pool;
  pool.name = "pool";
  for (size_t i = 0; i < nodes.size(); ++i) {
    NodeView node;
    node.name = "n" + std::to_string(i);
    node.address = nodes[i];
    table->nodes.push_back(node);
    pool.members.push_back({NodeIndex(static_cast<uint16_t>(i)), 100});
  }
  table->pools.push_back(pool);
  ListenerView listener;
  listener.name = "test";
  listener.hello_deadline = 5s;
  listener.hello_max_bytes = limits::kMaxHelloBytes;
  listener.default_pool = PoolIndex(0);
  table->listeners.push_back(std::move(listener));
  if (options.adjust) options.adjust(*table);
  return table;
}

inline PassThrough::Options WorkerOptions(const TestBedOptions& options, bool zero_copy_send) {
  return {.relay = {.mode = options.mode,
                    .pipes = options.pipes,
                    .zero_copy_send = zero_copy_send,
                    .quiet_after = options.quiet_after,
                    .node_silence = options.node_silence,
                    .reset_patience = options.reset_patience},
          .lost_after = options.lost_after,
          .check_invariants = true};
}

inline PlaceLimits LimitsOf(const TestBedOptions& options) {
  return {.connections = options.max_connections,
          .per_source = options.max_connections_per_source,
          .hello_bytes = options.hello_budget,
          .accepts = 2};
}

// The one place where a test waits for what another thread, or the kernel, does in its own time.
inline bool WaitUntil(const std::function<bool()>& condition, Duration limit = 20s) {
  const auto until = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

// One worker, its nodes are listening sockets of the test.
class TestBed {
 public:
  explicit TestBed(TestBedOptions options = {}) {
    std::vector<SocketAddress> nodes;
    for (int i = 0; i < options.nodes; ++i) {
      uint16_t port;
      node_listeners_.push_back(ListenOnLoopback(port));
      nodes.push_back(SocketAddress::Parse("127.0.0.1:" + std::to_string(port)).value());
    }
    routes_ = std::make_unique<SnapshotChannel<RouteTable>>(1, TableFor(options, nodes));

    Fd accepting = ListenOnLoopback(port_);
    ::fcntl(accepting.get(), F_SETFL, O_NONBLOCK);  // as BindListeners makes them
    Fd second = ListenOnLoopback(second_port_);
    ::fcntl(second.get(), F_SETFL, O_NONBLOCK);
    wake_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    std::atomic<bool> ready{false};
    thread_ = std::thread([&, options] {
      sigset_t all;
      sigfillset(&all);
      pthread_sigmask(SIG_BLOCK, &all, nullptr);
      KernelFeatures features = ProbeFeatures().value();
      if (options.plain_features) features = {.setup_flags = IORING_SETUP_COOP_TASKRUN};
      std::unique_ptr<Ring> ring = CreateKernelRing({.features = features}).value();
      if (options.script != nullptr) ring = std::make_unique<ScriptedRing>(std::move(ring), *options.script);
      std::vector<ListeningSocket> sockets;
      sockets.push_back({ListenerIndex(0), std::move(accepting)});
      sockets.push_back({ListenerIndex(0), std::move(second)});
      Places places(LimitsOf(options), SipKey{1, 2});
      KernelSockets calls;
      Worker worker(WorkerOptions(options, features.zero_copy_send), {routes_.get(), &affinity_, &nodes_}, places, std::move(ring), calls,
                    std::move(sockets), Fd(::dup(wake_.get())), orders_, counters_, records_);
      if (options.with_worker) options.with_worker(worker);
      ready = true;
      ready.notify_one();
      worker.Run();
    });
    ready.wait(false);
  }

  ~TestBed() { Stop(); }

  void Stop() {
    if (!thread_.joinable()) return;
    orders_.Stop();
    Wake();
    thread_.join();
    EXPECT_EQ(counters_.active.Get(), 0);
    EXPECT_EQ(counters_.private_bytes.Get(), 0) << "private memory leaked or was counted wrong";
    EXPECT_EQ(counters_.pipes_held.Get(), 0);
    EXPECT_EQ(counters_.hello_bytes_held.Get(), 0);
    EXPECT_EQ(counters_.in_hello.Get() + counters_.dialing.Get() + counters_.relaying.Get(), 0);
    for (int i = 0; i < static_cast<int>(node_listeners_.size()); ++i) EXPECT_EQ(node(i).active.load(), 0);
    EXPECT_EQ(nodes_.pool(PoolIndex(0)).active.load(), 0);
  }

  Peer Client(const char* from = nullptr) { return Peer::Connect(port_, from); }
  Peer Node(int i = 0) { return Peer::Accept(node_listeners_[static_cast<size_t>(i)]); }
  // Without waiting: closed where nobody has connected yet. Never blocks when used.
  Fd TryNode(int i = 0) {
    const int listener = node_listeners_[static_cast<size_t>(i)].get();
    pollfd p{listener, POLLIN, 0};
    return Fd(::poll(&p, 1, 0) == 1 ? ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK) : -1);
  }
  void CloseNodeListener(int i) { node_listeners_[static_cast<size_t>(i)].Reset(); }
  WorkerCounters& counters() { return counters_; }
  NodeCounters& node(int i = 0) { return nodes_.node(NodeIndex(static_cast<uint16_t>(i))); }
  uint16_t port() const { return port_; }
  uint16_t second_port() const { return second_port_; }  // of the same listener
  WorkerOrders& orders() { return orders_; }
  void Wake() {
    const uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);
  }
  void JoinThread() { thread_.join(); }
  bool Eventually(const std::function<bool()>& condition, Duration limit = 20s) { return WaitUntil(condition, limit); }
  // Nothing moves any more: there is a while in which the worker turns so seldom. One that spins never comes to it.
  bool ComesToRest(Duration lasting = 50ms, int64_t most_turns = 0) {
    int64_t turns = counters_.loops.Get();
    auto since = std::chrono::steady_clock::now();
    return WaitUntil([&] {
      const auto now = std::chrono::steady_clock::now();
      if (counters_.loops.Get() - turns > most_turns) turns = counters_.loops.Get(), since = now;
      return now - since >= lasting;
    });
  }
  int64_t Closes(CloseReason reason) { return counters_.closes[static_cast<size_t>(reason)].Get(); }

 private:
  NodeTable nodes_;
  AffinityMap affinity_{AffinityMap::Options{.capacity = 1000, .key = {1, 2}}};
  std::unique_ptr<SnapshotChannel<RouteTable>> routes_;
  std::vector<Fd> node_listeners_;
  WorkerCounters counters_;
  SpscQueue<ConnectionRecord> records_{1024};
  WorkerOrders orders_;
  Fd wake_;
  uint16_t port_ = 0;
  uint16_t second_port_ = 0;
  std::thread thread_;
};

}  // namespace hud::testing
