// Ends connections in every way that a peer can, at random bytes, and compares what the other side saw with what TCP promises.
//
// Client and node are both here, in one thread, so that each knows what the other did, and when. Every script (all of it drawn
// from the seed and its number) is played twice at the same time: through the proxy, and over a direct connection. The direct
// one shows that what is demanded of the proxy is what the kernel itself keeps.
//
//   endings_peer --proxy ADDRESS --node ADDRESS [--unix-proxy ADDRESS --unix-node PATH] [--seed N] [--first N] [--endings N]
//                [--at-once N] [--case NAME] [--verbose]
// `--proxy` leads to `--node`, `--unix-proxy` to `--unix-node`; both nodes are served here. One line of JSON at the end.
//
// What is demanded of the side that did not end it (the peer):
// * Bytes: exactly those sent before the end, where they are sure to have left the ending side: it waited until all was
//   acknowledged, or (a linger-0 close at once) nothing was left unsent, or it ended with a FIN. A reset that overtakes unsent
//   bytes destroys them in the sender's own kernel: then a prefix.
// * Kind: a FIN is an end of stream and no error; a reset is ECONNRESET at one of the peer's calls, whichever asks first. A unix
//   socket cannot be told of its client's reset unless it has written what nobody read: there an end of stream will do.
// * Time: the end comes within 100 ms of the last byte. Time is that of the proxy's own work, see ProxyClock.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/random.h"

namespace {

using std::string;
using std::string_view;

constexpr int64_t kMicrosecond = 1000, kMillisecond = 1'000'000, kSecond = 1'000'000'000;
constexpr int64_t kLate = 100 * kMillisecond;
constexpr int64_t kGiveUp = 1 * kSecond;  // of the proxy's time: the end will not come
constexpr int64_t kStuck = 5 * kSecond;   // of the proxy's time, without a byte, before the end
constexpr size_t kChunk = 256 * 1024;

int64_t Now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

class Random {
 public:
  explicit Random(uint64_t seed) : numbers_(seed) {}
  uint64_t operator()() { return numbers_.Next(); }
  uint64_t Below(uint64_t n) { return (*this)() % n; }
  uint64_t Between(uint64_t low, uint64_t high) { return low + Below(high - low + 1); }
  bool Percent(unsigned p) { return Below(100) < p; }
  // Every order of magnitude alike.
  uint64_t Magnitude(uint64_t most) {
    const double exponent = std::log(static_cast<double>(most)) * (static_cast<double>(Below(1 << 20)) / (1 << 20));
    return std::clamp<uint64_t>(static_cast<uint64_t>(std::exp(exponent)), 1, most);
  }

 private:
  hud::SplitMix64 numbers_;
};

// Bytes that know their place: longer than any stream, and every stream begins elsewhere in it.
class Pattern {
 public:
  static constexpr size_t kSize = 8 << 20;
  Pattern() : bytes_(kSize + kChunk) {
    for (size_t i = 0; i < bytes_.size(); i += 8) {
      const uint64_t word = hud::Mix64((i % kSize + 1) * 0x9e3779b97f4a7c15u);
      std::memcpy(&bytes_[i], &word, 8);
    }
  }
  const uint8_t* At(uint64_t place) const { return &bytes_[place % kSize]; }  // kChunk bytes

 private:
  std::vector<uint8_t> bytes_;
};
const Pattern& TheBytes() {
  static const Pattern pattern;
  return pattern;
}

// ---- The scripts ---------------------------------------------------------------------------------------------------------

enum class Kind { kReset, kUnread, kHalfClose, kClose, kResetAfterFin, kResetAfterPeersFin };
constexpr std::array<const char*, 6> kKindNames = {"reset",           "close with unread bytes", "half-close",
                                                   "full close",      "reset after FIN",         "reset after the peer's FIN"};

struct Burst {
  uint32_t bytes;
  int64_t pause;  // before it
};

struct SidePlan {
  std::vector<Burst> bursts;
  uint64_t total = 0;
  size_t read_chunk = kChunk;
  int64_t read_pause = 0;   // after each read
  int64_t first_pause = 0;  // before the first read
  int receive_buffer = 0;

  void Add(uint32_t bytes, int64_t pause = 0) {
    bursts.push_back({bytes, pause});
    total += bytes;
  }
};

struct Script {
  uint64_t number = 0;
  Kind kind = Kind::kReset;
  bool client_ends = true;
  bool unix_node = false;
  bool acknowledged = false;  // the end waits until all that was sent is acknowledged
  bool early = false;         // a client that does not wait for the node to have its hello
  bool ticket = false;        // in the hello: the proxy then reads the node's first bytes
  uint64_t read_before = 0;   // bytes that the ending side reads before its end
  uint64_t read_after_fin = 0;
  std::array<SidePlan, 2> side;  // client, node

  SidePlan& ending() { return side[client_ends ? 0 : 1]; }
  SidePlan& other() { return side[client_ends ? 1 : 0]; }
  bool EndsInReset() const { return kind == Kind::kReset || kind == Kind::kUnread || kind == Kind::kResetAfterPeersFin; }
};

void DrawTraffic(Random& random, SidePlan& plan) {
  // The sizes of the proxy's buffers and limits, and one more or less.
  static constexpr std::array<uint32_t, 12> kEdges = {16383, 16384, 16385, 20000, 32767, 32768, 32769, 33000, 40000, 65000, 65536, 131072};
  const uint64_t draw = random.Below(100);
  if (draw < 10) {
    // Says nothing.
  } else if (draw < 42) {
    for (uint64_t n = random.Between(1, 12); n > 0; --n) plan.Add(static_cast<uint32_t>(random.Between(1, 2000)), random.Percent(30) ? static_cast<int64_t>(random.Below(2000)) * kMicrosecond : 0);
  } else if (draw < 80) {
    for (uint64_t n = random.Between(1, 5); n > 0; --n) plan.Add(static_cast<uint32_t>(random.Magnitude(200'000)), random.Percent(30) ? static_cast<int64_t>(random.Below(3000)) * kMicrosecond : 0);
  } else if (draw < 93) {
    plan.Add(kEdges[random.Below(kEdges.size())]);
  } else {
    const uint64_t total = random.Between(1 << 20, 5 << 20);
    while (plan.total < total) plan.Add(static_cast<uint32_t>(random.Between(32 << 10, 256 << 10)));
  }
}

void DrawReader(Random& random, SidePlan& plan) {
  const uint64_t draw = random.Below(100);
  if (draw >= 85) plan.first_pause = static_cast<int64_t>(random.Between(2, 40)) * kMillisecond;
  if (draw >= 60 && draw < 85) {
    plan.read_chunk = random.Magnitude(64 << 10) + 2048;
    plan.read_pause = static_cast<int64_t>(random.Below(2000)) * kMicrosecond;
  }
  // Not smaller: a window of less than loopback's segments of 64 KB moves by the kernel's timers only.
  if (random.Percent(20)) plan.receive_buffer = static_cast<int>(random.Between(96 << 10, 256 << 10));
}

Kind DrawKind(Random& random) {
  const uint64_t draw = random.Below(100);
  if (draw < 30) return Kind::kReset;
  if (draw < 50) return Kind::kUnread;
  if (draw < 65) return Kind::kHalfClose;
  if (draw < 80) return Kind::kClose;
  return draw < 92 ? Kind::kResetAfterFin : Kind::kResetAfterPeersFin;
}

// What follows from the kind of the end.
void Settle(Random& random, Script& s) {
  // A unix socket resets by leaving bytes unread, and in no other way.
  if (s.unix_node && !s.client_ends && (s.kind == Kind::kReset || s.kind == Kind::kResetAfterPeersFin)) s.kind = Kind::kUnread;
  SidePlan& other = s.other();
  if (s.kind == Kind::kUnread) {
    if (other.total == 0) other.Add(static_cast<uint32_t>(random.Between(1, 5000)));
    s.read_before = std::min(s.read_before, other.total - 1);
  }
  // A close with the peer's bytes still on their way would be a reset, or not, as luck has it.
  if (s.kind == Kind::kClose || s.kind == Kind::kResetAfterPeersFin) s.read_before = other.total;
  // A reader that pauses shall not take seconds over a long stream.
  for (size_t i = 0; i < 2; ++i) s.side[i].read_chunk = std::max<size_t>(s.side[i].read_chunk, s.side[1 - i].total / 25);
  s.read_after_fin = random.Percent(50) ? s.read_before : random.Between(s.read_before, other.total);
}

Script RandomScript(uint64_t seed, uint64_t number, bool with_unix) {
  Random random(hud::Mix64(seed * 0x9e3779b97f4a7c15u) + number);
  Script s;
  s.number = number;
  s.kind = DrawKind(random);
  s.client_ends = random.Percent(50);
  s.unix_node = random.Percent(25) && with_unix;
  s.acknowledged = random.Percent(50);
  s.early = s.client_ends && random.Percent(10);
  s.ticket = random.Percent(30);
  for (SidePlan& plan : s.side) {
    DrawTraffic(random, plan);
    DrawReader(random, plan);
  }
  s.read_before = random.Percent(30) || s.other().total == 0 ? s.other().total : random.Below(s.other().total);
  if (s.early) s.read_before = 0;
  Settle(random, s);
  return s;
}

// The cases that hurt people, again and again.
Script NamedScript(string_view name, uint64_t seed, uint64_t number, bool with_unix) {
  Random random(hud::Mix64(seed * 0x9e3779b97f4a7c15u) + number);
  Script s;
  s.number = number;
  s.unix_node = with_unix && number % 3 == 2;
  s.client_ends = number % 2 == 1 && !s.unix_node;
  if (name == "long-answer-then-reset") {  // both are there before the proxy has read all
    static constexpr std::array<uint32_t, 3> kSizes = {33'000, 40'000, 65'000};
    s.kind = s.unix_node ? Kind::kClose : Kind::kReset;
    s.ending().Add(kSizes[number / 6 % kSizes.size()]);
    s.other().Add(100);
    s.read_before = 100;
  } else if (name == "answer-then-reset") {
    s.kind = number / 6 % 2 == 0 ? Kind::kReset : Kind::kUnread;
    s.ending().Add(static_cast<uint32_t>(random.Percent(50) ? 20'000 : random.Between(17'000, 40'000)));
    s.other().Add(100);
    s.read_before = 100;
  } else if (name == "last-words") {  // the proxy learns of the reset by a send that fails
    s.kind = Kind::kUnread;
    s.client_ends = false;
    for (int i = 0; i < 40; ++i) s.other().Add(static_cast<uint32_t>(random.Between(500, 4000)), static_cast<int64_t>(random.Between(50, 700)) * kMicrosecond);
    s.ending().Add(static_cast<uint32_t>(random.Between(7, 500)), static_cast<int64_t>(random.Between(1000, 8000)) * kMicrosecond);
    s.read_before = random.Below(s.other().total / 3);
  } else if (name == "reset-beside-bulk") {
    s.kind = random.Percent(70) ? Kind::kReset : Kind::kUnread;
    s.acknowledged = random.Percent(20);
    SidePlan& bulk = s.side[random.Below(2)];
    SidePlan& small = &bulk == &s.side[0] ? s.side[1] : s.side[0];
    for (int i = 0; i < 30; ++i) bulk.Add(65'536);
    for (int i = 0; i < 60; ++i) small.Add(static_cast<uint32_t>(random.Between(1, 300)), static_cast<int64_t>(random.Below(100)) * kMicrosecond);
    s.read_before = random.Below(s.other().total);
    // So that the end comes in the middle, whichever side is in bulk.
    SidePlan& ending = s.ending();
    ending.bursts.resize(random.Between(1, ending.bursts.size()));
    ending.total = 0;
    for (const Burst& burst : ending.bursts) ending.total += burst.bytes;
  } else {
    std::fprintf(stderr, "endings_peer: no case is named %.*s\n", static_cast<int>(name.size()), name.data());
    std::exit(2);
  }
  Settle(random, s);
  return s;
}

// ---- Sockets -------------------------------------------------------------------------------------------------------------

constexpr size_t kIdAt = 11, kIdEnd = kIdAt + 8;  // in the hello: the client's random
constexpr uint64_t kCanaryId = uint64_t{1} << 63, kProxiedId = uint64_t{1} << 62;

string U16(size_t n) { return {static_cast<char>(n >> 8), static_cast<char>(n)}; }

string ClientHello(uint64_t id, bool ticket) {
  const string name = "www.example.com";
  const auto extension = [](int kind, const string& body) { return U16(static_cast<size_t>(kind)) + U16(body.size()) + body; };
  string extensions = extension(0, U16(name.size() + 3) + '\0' + U16(name.size()) + name) + extension(43, string("\x02\x03\x04", 3));
  if (ticket) extensions += extension(35, string(64, static_cast<char>(id)) + string(reinterpret_cast<const char*>(&id), 8));
  string body = string("\x03\x03", 2) + string(reinterpret_cast<const char*>(&id), 8) + string(24, 'r') + string("\0\0\x02\x13\x01\x01\0", 7);
  body += U16(extensions.size()) + extensions;
  const string message = string("\x01\0", 2) + U16(body.size()) + body;
  return string("\x16\x03\x01", 3) + U16(message.size()) + message;
}

sockaddr_in ParseAddress(const string& text) {
  const size_t colon = text.rfind(':');
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(std::atoi(text.c_str() + colon + 1)));
  inet_pton(AF_INET, text.substr(0, colon).c_str(), &address.sin_addr);
  return address;
}

[[noreturn]] void Die(const string& what) {
  std::fprintf(stderr, "endings_peer: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(2);
}

int ListenTcp(const string& text, sockaddr_in* bound) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  *bound = ParseAddress(text);
  if (bind(fd, reinterpret_cast<sockaddr*>(bound), sizeof *bound) != 0 || listen(fd, 4096) != 0) Die(text);
  socklen_t size = sizeof *bound;
  getsockname(fd, reinterpret_cast<sockaddr*>(bound), &size);
  return fd;
}

int ListenUnix(const string& path) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  unlink(path.c_str());
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || listen(fd, 4096) != 0) Die(path);
  return fd;
}

int ConnectTo(const sockaddr_in& address, int receive_buffer) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (receive_buffer > 0) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 && errno != EINPROGRESS) Die("connect");
  return fd;
}

int Queued(int fd, unsigned long what) {
  int bytes = 0;
  return ioctl(fd, what, &bytes) == 0 ? bytes : 0;
}

// What the kernel of this network namespace has thrown away of TCP streams for want of memory, in all: a receiver may drop what it had
// offered a window for, and only the sender's next try brings it.
uint64_t DroppedByReceivers() {
  std::ifstream file("/proc/net/netstat");
  uint64_t dropped = 0;
  for (string names, values; std::getline(file, names) && std::getline(file, values);) {
    std::istringstream name_of(names), value_of(values);
    for (string name, value; name_of >> name && value_of >> value;) {
      if (name == "TCPRcvQDrop" || name == "RcvPruned" || name == "TCPBacklogDrop" || name == "TCPZeroWindowDrop") dropped += std::stoull(value);
    }
  }
  return dropped;
}

// ---- The proxy's time ----------------------------------------------------------------------------------------------------

// Lateness is counted in the time in which the proxy demonstrably worked: a few connections, spread over its workers, are
// echoed through it all the time, and the clock moves by at most 5 ms each time all of them have come back. A stopped process
// or a machine busy with other things moves it as little as it moves the proxy; a proxy that works and forgets an end does not
// stop it. After an absence of more than 50 ms the proxy looks around for 100 ms before it judges anybody (its timers wait):
// so does the clock.
class ProxyClock {
 public:
  void AllCameBack(int64_t now) {
    const int64_t gap = now - last_;
    last_ = now;
    if (gap > 50 * kMillisecond) waits_until_ = now + 120 * kMillisecond;
    if (now >= waits_until_) time_ += std::min(gap, 5 * kMillisecond);
  }
  int64_t time() const { return time_; }

 private:
  int64_t last_ = Now(), time_ = 0, waits_until_ = 0;
};

// ---- One connection ------------------------------------------------------------------------------------------------------

struct Run;

// What epoll hands back.
struct Watched {
  enum What { kListener, kNewcomer, kEnd, kCanary } what;
  int fd = -1;
  bool is_unix = false;
  bool readable = false, writable = true, hung_up = false;
};

struct End : Watched {
  Run* run = nullptr;
  bool is_client = false;
  const SidePlan* plan = nullptr;
  string head;  // sent before the plan's bytes
  uint64_t sends_from = 0;  // in the pattern
  uint64_t sent = 0;
  size_t burst = 0;
  uint64_t burst_sent = 0;
  int64_t send_at = 0;
  bool fin_sent = false;
  int send_error = 0;
  uint64_t received = 0;
  int64_t read_at = 0;
  bool paused = false;
  int64_t progress = 0;  // the proxy's time when it last got bytes, or was ready to read again
  bool eof = false;
  int receive_error = 0;
  int64_t told = -1;     // the proxy's time when it learnt of the end
  int64_t wrong_at = -1;
  uint64_t total() const { return head.size() + plan->total; }
  bool SentAll() const { return sent == total(); }
  bool WasReset() const { return receive_error == ECONNRESET || send_error == ECONNRESET; }
};

struct Run {
  const Script* script = nullptr;
  bool proxied = false;
  End client, node;
  int64_t fin_at = -1;    // in the proxy's time: the ending side's FIN, where a reset follows it
  int64_t ended = -1;     // in the proxy's time
  bool exact = true;      // all that was sent must arrive
  bool unacknowledged = false;  // when it ended: all, unless a receiver has dropped something since the run began
  uint64_t dropped_before = DroppedByReceivers();
  bool done = false;
  string trouble;         // what was broken on the way, before any verdict
  int64_t lateness = 0;

  End& ending() { return script->client_ends ? client : node; }
  End& other() { return script->client_ends ? node : client; }
};

struct Pair {
  Script script;
  Run direct, proxied;
};

struct Violation {
  uint64_t number;
  string kind, text;
};

// ---- The play ------------------------------------------------------------------------------------------------------------

struct Options {
  string proxy, node, unix_proxy, unix_node, named;
  uint64_t seed = 1, first = 0, endings = 1000;
  size_t at_once = 48;
  bool verbose = false;
};

class Play {
 public:
  explicit Play(const Options& options) : options_(options), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    sockaddr_in node_address;
    AddListener(ListenTcp(options.node, &node_address), false);
    AddListener(ListenTcp("127.0.0.1:0", &direct_address_), false);
    proxy_address_ = ParseAddress(options.proxy);
    if (!options.unix_node.empty()) {
      AddListener(ListenUnix(options.unix_node), true);
      unix_proxy_address_ = ParseAddress(options.unix_proxy);
    }
  }

  void Perform() {
    for (Canary& canary : canaries_) Hatch(canary);
    const int64_t began = Now();
    uint64_t next = options_.first;
    const uint64_t last = options_.first + options_.endings;
    while (next < last || !pairs_.empty()) {
      while (next < last && pairs_.size() < options_.at_once) Start(next++);
      Turn();
      std::erase_if(pairs_, [this](const std::unique_ptr<Pair>& pair) {
        if (!pair->direct.done || !pair->proxied.done) return false;
        Judge(*pair);
        return true;
      });
    }
    seconds_ = static_cast<double>(Now() - began) / kSecond;
  }

  int Report() const;

 private:
  struct Canary : Watched {
    bool waiting = false;  // for its echo
    int64_t ping_at = 0;
    bool came_back = false;
    string to_send;
  };

  void Watch(Watched* watched) const {
    epoll_event event{.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data = {.ptr = watched}};
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, watched->fd, &event) != 0 && epoll_ctl(epoll_, EPOLL_CTL_MOD, watched->fd, &event) != 0) Die("epoll");
  }
  void AddListener(int fd, bool is_unix) {
    listeners_.push_back(std::make_unique<Watched>(Watched{.what = Watched::kListener, .fd = fd, .is_unix = is_unix}));
    Watch(listeners_.back().get());
  }

  void Hatch(Canary& canary);
  void PlayCanaries(int64_t now);
  void Start(uint64_t number);
  void StartRun(Pair& pair, Run& run, bool proxied);
  void Turn();
  void Accept(const Watched& listener);
  void Greet(Watched* newcomer);
  bool Step(Run& run, int64_t now);
  bool SendSome(End& end, int64_t now);
  bool ReceiveSome(End& end, int64_t now);
  bool StopsReading(const End& end) const;
  void PlayEndingSide(Run& run);
  void PlayOtherSide(Run& run);
  void EndIt(Run& run, End& end);
  void CheckPatience(Run& run);
  static void CloseEnd(End& end, bool with_reset);
  void Finish(Run& run);
  string Verdict(Run& run) const;
  void Judge(Pair& pair);

  const Options options_;
  const int epoll_;
  sockaddr_in proxy_address_{}, direct_address_{}, unix_proxy_address_{};
  std::vector<std::unique_ptr<Watched>> listeners_;
  std::vector<std::unique_ptr<Watched>> newcomers_, echoes_, forgotten_;
  std::array<Canary, 6> canaries_;
  ProxyClock clock_;
  std::vector<std::unique_ptr<Pair>> pairs_;
  std::map<uint64_t, Run*> awaited_;  // by the id in their hello, until the node has it
  std::array<uint8_t, kChunk> buffer_;
  bool busy_ = false;

  // What is told at the end.
  std::map<string, std::array<uint64_t, 2>> kinds_;  // by client, by node
  std::map<string, uint64_t> seen_, violation_counts_;
  uint64_t exact_ = 0, reference_deviations_ = 0, on_unix_ = 0;
  std::vector<int64_t> direct_lateness_, proxied_lateness_;
  std::vector<Violation> violations_;
  string reference_example_;
  double seconds_ = 0;
};

void Play::Hatch(Canary& canary) {
  canary.what = Watched::kCanary;
  canary.fd = ConnectTo(proxy_address_, 0);
  canary.to_send = ClientHello(kCanaryId, false);
  canary.waiting = true;
  Watch(&canary);
}

void Play::PlayCanaries(int64_t now) {
  bool all = true;
  for (Canary& canary : canaries_) {
    if (canary.waiting) {
      if (!canary.to_send.empty() && canary.writable) {
        const ssize_t n = send(canary.fd, canary.to_send.data(), canary.to_send.size(), MSG_NOSIGNAL);
        if (n > 0) canary.to_send.erase(0, static_cast<size_t>(n));
        if (n < 0 && errno != EAGAIN) Die("an echo through the proxy");
        canary.writable = n > 0;
      }
      all &= canary.came_back;
      if (!std::exchange(canary.readable, false)) continue;
      std::array<char, 1024> some;
      const ssize_t n = recv(canary.fd, some.data(), some.size(), 0);
      if (n == 0 || (n < 0 && errno != EAGAIN)) Die("an echo through the proxy ended");
      if (n > 0) {
        canary.waiting = false;
        canary.came_back = true;
        canary.ping_at = now + 4 * kMillisecond;
      }
    } else if (now >= canary.ping_at) {
      canary.to_send = "?";
      canary.waiting = true;
      busy_ = true;
    }
    all &= canary.came_back;
  }
  if (!all) return;
  clock_.AllCameBack(now);
  for (Canary& canary : canaries_) canary.came_back = false;
}

void Play::Start(uint64_t number) {
  auto pair = std::make_unique<Pair>();
  const bool with_unix = !options_.unix_node.empty();
  pair->script = options_.named.empty() ? RandomScript(options_.seed, number, with_unix) : NamedScript(options_.named, options_.seed, number, with_unix);
  StartRun(*pair, pair->proxied, true);
  StartRun(*pair, pair->direct, false);
  pairs_.push_back(std::move(pair));
}

void Play::StartRun(Pair& pair, Run& run, bool proxied) {
  const Script& s = pair.script;
  run.script = &s;
  run.proxied = proxied;
  const uint64_t id = s.number | (proxied ? kProxiedId : 0);
  for (End* end : {&run.client, &run.node}) {
    end->what = Watched::kEnd;
    end->run = &run;
    end->is_client = end == &run.client;
    end->plan = &s.side[end->is_client ? 0 : 1];
    end->sends_from = hud::Mix64(options_.seed ^ (id * 2 + end->is_client));
    end->progress = clock_.time();
  }
  run.client.head = ClientHello(id, s.ticket);
  run.client.fd = ConnectTo(!proxied ? direct_address_ : s.unix_node ? unix_proxy_address_ : proxy_address_, run.client.plan->receive_buffer);
  run.client.read_at = Now() + run.client.plan->first_pause;
  run.client.paused = run.client.plan->first_pause > 0;
  Watch(&run.client);
  awaited_[id] = &run;
}

void Play::Accept(const Watched& listener) {
  for (int fd; (fd = accept4(listener.fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
    newcomers_.push_back(std::make_unique<Watched>(Watched{.what = Watched::kNewcomer, .fd = fd, .is_unix = listener.is_unix}));
    Watch(newcomers_.back().get());
  }
}

// Whose connection it is stands in its hello.
void Play::Greet(Watched* newcomer) {
  std::array<uint8_t, kIdEnd> first;
  const ssize_t n = recv(newcomer->fd, first.data(), first.size(), MSG_PEEK);
  if (n < 0 && errno == EAGAIN) return;
  if (n > 0 && static_cast<size_t>(n) < first.size()) return;
  uint64_t id = 0;
  if (n > 0) std::memcpy(&id, &first[kIdAt], 8);
  const auto mine = std::find_if(newcomers_.begin(), newcomers_.end(), [&](const auto& w) { return w.get() == newcomer; });
  const auto found = awaited_.find(id);
  if (n > 0 && id == kCanaryId) {
    echoes_.push_back(std::make_unique<Watched>(Watched{.what = Watched::kCanary, .fd = newcomer->fd, .readable = true}));
    Watch(echoes_.back().get());
  } else if (n > 0 && found != awaited_.end()) {
    End& node = found->second->node;
    awaited_.erase(found);
    node.fd = newcomer->fd;
    node.is_unix = newcomer->is_unix;
    node.readable = true;
    node.progress = clock_.time();
    const int on = 1;
    if (!node.is_unix) setsockopt(node.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (node.plan->receive_buffer > 0) setsockopt(node.fd, SOL_SOCKET, SO_RCVBUF, &node.plan->receive_buffer, sizeof node.plan->receive_buffer);
    node.read_at = Now() + node.plan->first_pause;
    node.paused = node.plan->first_pause > 0;
    Watch(&node);
  } else {  // ended before it said who it was, or of a script that is over
    close(newcomer->fd);
  }
  forgotten_.push_back(std::move(*mine));
  newcomers_.erase(mine);
}

void Play::Turn() {
  std::array<epoll_event, 512> events;
  const int n = epoll_wait(epoll_, events.data(), events.size(), std::exchange(busy_, false) ? 0 : 1);
  for (int i = 0; i < n; ++i) {
    auto* watched = static_cast<Watched*>(events[static_cast<size_t>(i)].data.ptr);
    const uint32_t what = events[static_cast<size_t>(i)].events;
    switch (watched->what) {
      case Watched::kListener: Accept(*watched); break;
      case Watched::kNewcomer: Greet(watched); break;
      case Watched::kCanary:
      case Watched::kEnd:
        watched->readable |= (what & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
        watched->writable |= (what & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0;
        watched->hung_up |= (what & (EPOLLHUP | EPOLLERR)) != 0;
        break;
    }
  }
  forgotten_.clear();
  const int64_t now = Now();
  for (const auto& echo : echoes_) {
    std::array<char, 1024> some;
    if (!std::exchange(echo->readable, false)) continue;
    if (const ssize_t got = recv(echo->fd, some.data(), some.size(), 0); got > 0) {
      (void)!send(echo->fd, some.data(), 1, MSG_NOSIGNAL);
      busy_ = true;
    }
  }
  for (const auto& pair : pairs_) {
    if (!pair->proxied.done) busy_ |= Step(pair->proxied, now);
    if (!pair->direct.done) busy_ |= Step(pair->direct, now);
  }
  // Last: what was there to be seen when the echoes came has been seen.
  PlayCanaries(now);
}

// True: it moved.
bool Play::Step(Run& run, int64_t now) {
  bool moved = false;
  for (End* end : {&run.client, &run.node}) {
    if (end->fd < 0) continue;
    moved |= SendSome(*end, now);
    moved |= ReceiveSome(*end, now);
  }
  PlayEndingSide(run);
  PlayOtherSide(run);
  CheckPatience(run);
  return moved;
}

bool Play::SendSome(End& end, int64_t now) {
  bool moved = false;
  for (int i = 0; i < 4 && end.writable && !end.fin_sent && end.send_error == 0 && !end.SentAll() && now >= end.send_at; ++i) {
    ssize_t n;
    if (end.sent < end.head.size()) {
      n = send(end.fd, end.head.data() + end.sent, end.head.size() - end.sent, MSG_NOSIGNAL);
    } else {
      const uint64_t left = end.plan->bursts[end.burst].bytes - end.burst_sent;
      n = send(end.fd, TheBytes().At(end.sends_from + end.sent - end.head.size()), std::min<uint64_t>(left, kChunk), MSG_NOSIGNAL);
      if (n > 0) end.burst_sent += static_cast<uint64_t>(n);
    }
    if (n < 0) {
      end.writable = false;
      if (errno != EAGAIN) {
        end.send_error = errno;
        if (errno == ECONNRESET && end.told < 0) end.told = clock_.time();
        return true;
      }
      break;
    }
    end.sent += static_cast<uint64_t>(n);
    moved = true;
    if (end.sent >= end.head.size() && end.burst < end.plan->bursts.size() && end.burst_sent == end.plan->bursts[end.burst].bytes) {
      ++end.burst;
      end.burst_sent = 0;
    }
    if (end.burst_sent == 0 && !end.SentAll()) end.send_at = now + end.plan->bursts[end.burst].pause;
  }
  return moved;
}

bool Play::StopsReading(const End& end) const {
  const Script& s = *end.run->script;
  const uint64_t hello = end.is_client ? 0 : end.run->client.head.size();
  return s.kind == Kind::kUnread && end.is_client == s.client_ends && end.received >= s.read_before + hello;
}

bool Play::ReceiveSome(End& end, int64_t now) {
  bool moved = false;
  const End& sender = end.is_client ? end.run->node : end.run->client;
  const uint64_t hello = end.is_client ? 0 : end.run->client.head.size();
  for (int i = 0; i < 4 && end.readable && !end.eof && end.receive_error == 0 && now >= end.read_at && !StopsReading(end); ++i) {
    if (std::exchange(end.paused, false)) end.progress = clock_.time();
    size_t most = std::min(end.plan->read_chunk, kChunk);
    const Script& s = *end.run->script;
    // Not a byte too many is read: one must be left.
    if (s.kind == Kind::kUnread && end.is_client == s.client_ends) most = std::min<size_t>(most, s.read_before + hello - end.received);
    if (end.received < hello) most = std::min<size_t>(most, hello - end.received);
    const ssize_t n = recv(end.fd, buffer_.data(), most, 0);
    if (n > 0) {
      const auto* wanted = end.received < hello ? reinterpret_cast<const uint8_t*>(sender.head.data()) + end.received
                                                : TheBytes().At(sender.sends_from + end.received - hello);
      if (end.wrong_at < 0 && std::memcmp(wanted, buffer_.data(), static_cast<size_t>(n)) != 0) {
        end.wrong_at = static_cast<int64_t>(end.received) + (std::mismatch(buffer_.begin(), buffer_.begin() + n, wanted).first - buffer_.begin());
      }
      end.received += static_cast<uint64_t>(n);
      end.progress = clock_.time();
      moved = true;
      if (end.plan->read_pause > 0) {
        end.read_at = now + end.plan->read_pause;
        end.paused = true;
      }
      continue;
    }
    if (n < 0 && errno == EAGAIN) {
      end.readable = false;
      break;
    }
    if (n == 0) end.eof = true;
    else end.receive_error = errno;
    if (end.told < 0) end.told = clock_.time();
    return true;
  }
  return moved;
}

void Play::CloseEnd(End& end, bool with_reset) {
  if (end.fd < 0) return;
  const linger now{1, 0};
  if (with_reset) setsockopt(end.fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  close(end.fd);
  end.fd = -1;
}

void Play::PlayEndingSide(Run& run) {
  End& end = run.ending();
  const Script& s = *run.script;
  if (end.fd < 0 || run.done) return;
  const uint64_t hello = end.is_client ? 0 : run.client.head.size();
  if (run.ended >= 0) {  // half-closed, reading on
    if (end.eof || end.receive_error != 0) {
      run.lateness = std::max(run.lateness, end.told - std::max({end.progress, run.ended, run.other().told}));
      Finish(run);
    }
    return;
  }
  const bool peer_may_end = s.kind == Kind::kResetAfterPeersFin;
  if (end.receive_error != 0 || end.send_error != 0 || (end.eof && !peer_may_end)) {
    run.trouble = end.receive_error != 0 ? string("before it ended, a call failed with ") + std::strerror(end.receive_error)
                  : end.send_error != 0  ? string("before it ended, a send failed with ") + std::strerror(end.send_error)
                                         : "the ending side met an end of stream that nobody sent";
    return Finish(run);
  }
  if (!end.SentAll() || end.received < s.read_before + hello) return;
  if (!s.early && run.node.fd < 0) return;
  if (!s.early && run.node.received < run.client.head.size()) return;
  if (peer_may_end && !end.eof) return;
  if (s.kind == Kind::kUnread && Queued(end.fd, SIOCINQ) == 0) return;
  if (s.kind == Kind::kResetAfterFin) {
    if (run.fin_at < 0) {
      shutdown(end.fd, SHUT_WR);
      end.fin_sent = true;
      run.fin_at = clock_.time();
    }
    if (end.received < s.read_after_fin + hello) return;
    if (!end.is_unix && Queued(end.fd, SIOCOUTQ) > 0) return;  // else the reset would destroy the FIN
  }
  if (s.acknowledged && !end.is_unix && Queued(end.fd, SIOCOUTQ) > 0) return;
  EndIt(run, end);
}

void Play::EndIt(Run& run, End& end) {
  const Script& s = *run.script;
  run.ended = clock_.time();
  // Over loopback what has left the sender is in the receiver's hands, so long as nothing of it had to be sent again.
  if (s.EndsInReset()) {
    run.unacknowledged = !end.is_unix && Queued(end.fd, SIOCOUTQ) > 0;
    run.exact = !run.unacknowledged || (Queued(end.fd, SIOCOUTQNSD) == 0 && end.sent <= 66'000);
  }
  switch (s.kind) {
    case Kind::kHalfClose:
      shutdown(end.fd, SHUT_WR);
      end.fin_sent = true;
      return;
    case Kind::kUnread:
    case Kind::kClose: return CloseEnd(end, false);
    case Kind::kReset:
    case Kind::kResetAfterFin:
    case Kind::kResetAfterPeersFin: return CloseEnd(end, true);
  }
}

void Play::PlayOtherSide(Run& run) {
  End& end = run.other();
  const Script& s = *run.script;
  if (end.fd < 0 || run.done) return;
  if (s.kind == Kind::kResetAfterPeersFin && end.SentAll() && !end.fin_sent) {
    shutdown(end.fd, SHUT_WR);
    end.fin_sent = true;
  }
  if (!end.eof && end.receive_error == 0) return;
  if (run.ended < 0 && run.fin_at < 0) {
    run.trouble = "the other side met an end before there was one";
    return Finish(run);
  }
  const int64_t cause = std::max({end.progress, run.fin_at >= 0 ? run.fin_at : run.ended});
  if (end.told >= 0) run.lateness = std::max(run.lateness, end.told - cause);
  if (end.receive_error != 0 || s.EndsInReset()) return Finish(run);
  // After an end of stream it says what it still has to say.
  if (!end.SentAll() && end.send_error == 0) return;
  if (s.kind == Kind::kResetAfterFin) {
    if (run.ended < 0) return;
    // A node is told at once that its client is gone; a client only if it goes on sending.
    if (!end.is_client && !end.hung_up && end.send_error == 0) return;
    if (!end.is_client) run.lateness = std::max(run.lateness, clock_.time() - std::max(run.ended, end.progress));
  }
  if (s.kind == Kind::kHalfClose) {
    end.told = clock_.time();
    return CloseEnd(end, false);  // the ending side reads on until it meets this end
  }
  Finish(run);
}

// Nothing waits for ever.
void Play::CheckPatience(Run& run) {
  if (run.done) return;
  const int64_t since = std::max({run.client.progress, run.node.progress, run.ended, run.fin_at, run.other().told});
  const int64_t waited = clock_.time() - since;
  if (run.ended < 0) {
    if (waited > kStuck) {
      run.trouble = "nothing moves any more, before the end";
      Finish(run);
    }
    return;
  }
  // A client that was gone before the node had its hello: perhaps nobody ever dialed.
  if (run.script->early && run.node.fd < 0 && run.script->EndsInReset() && waited > 2 * kLate) return Finish(run);
  if (waited <= kGiveUp) return;
  run.trouble = run.script->kind == Kind::kResetAfterFin && run.other().eof ? "the node was not told of its client's reset within 1 s"
                                                                            : "no end within 1 s";
  Finish(run);
}

void Play::Finish(Run& run) {
  run.done = true;
  const bool clean = run.trouble.empty() && run.script->kind == Kind::kClose;
  CloseEnd(run.client, !clean);
  CloseEnd(run.node, !clean);
  awaited_.erase(run.script->number | (run.proxied ? kProxiedId : 0));
}

// Empty: as it must be.
string Play::Verdict(Run& run) const {
  const Script& s = *run.script;
  End& ending = run.ending();
  End& other = run.other();
  for (const End* end : {&run.client, &run.node}) {
    if (end->wrong_at >= 0) return "wrong bytes";
  }
  if (!run.trouble.empty()) return run.trouble;
  const bool never_dialed = run.node.told < 0 && run.node.received == 0;
  if (s.early && s.EndsInReset() && never_dialed) return "";
  if (s.EndsInReset()) {
    if (!other.WasReset() && !(other.is_unix && other.eof)) return "a reset arrived as a clean end";
  } else {
    // Over a unix socket a reset that follows an end of stream is told in its place, if the end has not been read yet.
    const bool either = s.kind == Kind::kResetAfterFin && s.unix_node && run.proxied;
    if (!other.eof && !(either && other.WasReset())) return "a clean end arrived as a reset";
    if (s.kind != Kind::kResetAfterFin && other.send_error != 0) return "a send failed although the ending side read on";
  }
  if (s.early && s.EndsInReset()) return other.received <= ending.sent ? "" : "more bytes than were sent";
  if (other.received > ending.sent) return "more bytes than were sent";
  const bool dropped = run.unacknowledged && DroppedByReceivers() != run.dropped_before;
  if (run.exact && other.received != ending.sent && !dropped) return "bytes lost before the end";
  if (s.kind == Kind::kHalfClose) {
    if (!ending.eof) return "a clean end arrived as a reset";
    if (ending.received != other.total()) return "bytes lost before the end";
  }
  return "";
}

void Play::Judge(Pair& pair) {
  const Script& s = pair.script;
  const string kind = kKindNames[static_cast<size_t>(s.kind)];
  ++kinds_[kind][s.client_ends ? 0 : 1];
  on_unix_ += s.unix_node;
  Run& run = pair.proxied;
  exact_ += run.exact;
  const End& other = run.other();
  ++seen_[other.WasReset() ? "reset" : other.eof ? "end of stream" : "nothing"];
  direct_lateness_.push_back(pair.direct.lateness);
  proxied_lateness_.push_back(run.lateness);
  const string reference = Verdict(pair.direct);
  if (!reference.empty()) {
    ++reference_deviations_;
    reference_example_ = std::to_string(s.number) + ": " + kind + ": " + reference;
  }
  string verdict = Verdict(run);
  if (verdict.empty() && run.lateness > kLate + pair.direct.lateness) verdict = "late";
  if (verdict.empty() || verdict == reference) return;
  ++violation_counts_[verdict];
  const auto side = [](const End& end) {
    return "sent " + std::to_string(end.sent) + " received " + std::to_string(end.received) + (end.eof ? " eof" : "") +
           (end.receive_error ? string(" recv: ") + strerrorname_np(end.receive_error) : "") +
           (end.send_error ? string(" send: ") + strerrorname_np(end.send_error) : "") +
           (end.wrong_at >= 0 ? " wrong at " + std::to_string(end.wrong_at) : "");
  };
  const string text = verdict + (s.client_ends ? " (client ends" : " (node ends") + (s.unix_node ? ", unix" : "") + (s.early ? ", early" : "") +
                      (s.acknowledged ? ", acknowledged" : "") + (run.exact ? ", exact" : "") + "): client " + side(run.client) + "; node " +
                      side(run.node) + "; late by " + std::to_string(run.lateness / kMillisecond) + " ms, direct " +
                      std::to_string(pair.direct.lateness / kMillisecond) + " ms";
  if (violations_.size() < 20) violations_.push_back({s.number, kind, text});
  if (options_.verbose) std::fprintf(stderr, "%llu %s: %s\n", static_cast<unsigned long long>(s.number), kind.c_str(), text.c_str());
}

int Play::Report() const {
  const auto milliseconds = [](std::vector<int64_t> all, double quantile) {
    if (all.empty()) return 0.0;
    std::sort(all.begin(), all.end());
    const auto at = std::min(all.size() - 1, static_cast<size_t>(quantile * static_cast<double>(all.size())));
    return static_cast<double>(all[at]) / kMillisecond;
  };
  string out = "{\"seed\": " + std::to_string(options_.seed) + ", \"endings\": " + std::to_string(options_.endings) + ", \"kinds\": {";
  const char* comma = "";
  for (const auto& [name, counts] : kinds_) {
    out += comma + ("\"" + name + "\": {\"client\": " + std::to_string(counts[0]) + ", \"node\": " + std::to_string(counts[1]) + "}");
    comma = ", ";
  }
  const auto object = [](const char* name, const std::map<string, uint64_t>& counts) {
    string text = string(", \"") + name + "\": {";
    const char* separator = "";
    for (const auto& [key, count] : counts) {
      text += separator + ("\"" + key + "\": " + std::to_string(count));
      separator = ", ";
    }
    return text + "}";
  };
  out += "}" + object("seen", seen_) + object("violations", violation_counts_) + ", \"examples\": [";
  comma = "";
  for (const Violation& v : violations_) {
    out += comma + ("\"" + std::to_string(v.number) + ": " + v.kind + ": " + v.text + "\"");
    comma = ", ";
  }
  out += "], \"exact\": " + std::to_string(exact_) + ", \"unix\": " + std::to_string(on_unix_) +
         ", \"reference_deviations\": " + std::to_string(reference_deviations_) + ", \"reference_example\": \"" + reference_example_ + "\"";
  char figures[300];
  std::snprintf(figures, sizeof figures, ", \"late_ms\": {\"p99\": %.1f, \"max\": %.1f}, \"direct_late_ms\": {\"p99\": %.1f, \"max\": %.1f}, \"seconds\": %.1f}",
                milliseconds(proxied_lateness_, 0.99), milliseconds(proxied_lateness_, 1), milliseconds(direct_lateness_, 0.99),
                milliseconds(direct_lateness_, 1), seconds_);
  std::printf("%s%s\n", out.c_str(), figures);
  return violation_counts_.empty() ? 0 : 1;
}

bool ReadOptions(int argc, char** argv, Options* options) {
  const std::map<string_view, string*> texts = {{"--proxy", &options->proxy},           {"--node", &options->node},
                                                {"--unix-proxy", &options->unix_proxy}, {"--unix-node", &options->unix_node},
                                                {"--case", &options->named}};
  const std::map<string_view, uint64_t*> numbers = {{"--seed", &options->seed}, {"--first", &options->first}, {"--endings", &options->endings}};
  for (int i = 1; i < argc; ++i) {
    const string_view name = argv[i];
    if (name == "--verbose") {
      options->verbose = true;
      continue;
    }
    if (++i >= argc) return false;
    if (const auto text = texts.find(name); text != texts.end()) *text->second = argv[i];
    else if (const auto number = numbers.find(name); number != numbers.end()) *number->second = std::strtoull(argv[i], nullptr, 10);
    else if (name == "--at-once") options->at_once = std::strtoull(argv[i], nullptr, 10);
    else return false;
  }
  return !options->proxy.empty() && !options->node.empty() && options->unix_proxy.empty() == options->unix_node.empty();
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!ReadOptions(argc, argv, &options)) {
    std::fprintf(stderr, "usage: endings_peer --proxy ADDRESS --node ADDRESS [--unix-proxy ADDRESS --unix-node PATH] [--seed N] ...\n");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  auto play = std::make_unique<Play>(options);
  play->Perform();
  return play->Report();
}
