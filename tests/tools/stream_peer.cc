// One end of a byte stream that knows what every byte must be. Sends and receives at once, in random chunk sizes, checks
// each received byte against the generator, and prints one line of JSON. Fast enough for gigabytes.
//
//   stream_peer listen  ADDRESS [options]      serves --count connections (default 1), a line of JSON each
//   stream_peer connect ADDRESS [options]
// Options: --send BYTES --expect BYTES --send-seed N --expect-seed N --first FILE (sent before, checked by the listener
//   with --expect-first FILE) --chunk MAX (of one write or read; sizes are random up to it) --read-pause-us N (now and then)
//   --after-eof (the sending begins when the other side has ended its stream) --fin-late (end our stream when all is sent
//   and the other side has ended; otherwise it ends as soon as all is sent)
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "core/base/random.h"

namespace {

struct Options {
  std::string address;
  uint64_t send = 0, expect = 0, send_seed = 1, expect_seed = 2;
  size_t chunk = 256 * 1024;
  std::string first, expect_first;
  unsigned read_pause_us = 0;
  unsigned count = 1;
  bool after_eof = false, fin_late = false;
};

// The bytes of a stream: eight at a time from a mixed counter (splitmix64), so that any offset can be made by itself.
uint64_t Word(uint64_t seed, uint64_t index) {
  return hud::Mix64(seed * 0x9e3779b97f4a7c15u + (index + 1) * 0xbf58476d1ce4e5b9u);
}

void Generate(uint64_t seed, uint64_t offset, uint8_t* out, size_t size) {
  size_t done = 0;
  while (done < size) {
    const uint64_t word = Word(seed, (offset + done) / 8);
    const size_t skip = (offset + done) % 8;
    const size_t take = std::min(size - done, 8 - skip);
    std::memcpy(out + done, reinterpret_cast<const char*>(&word) + skip, take);
    done += take;
  }
}

struct Outcome {
  uint64_t sent = 0, received = 0;
  int64_t first_bad = -1;       // offset of the first byte that is not what it must be
  std::string end = "none";     // how the other side's stream ended: fin, reset, error text
  std::string send_error;
};

// Sends `first`, then the stream.
void Send(int fd, const Options& options, const std::string& first, Outcome* outcome) {
  std::mt19937_64 random(options.send_seed + 77);
  std::vector<uint8_t> buffer(options.chunk);
  const auto put = [&](const uint8_t* data, size_t size) {
    while (size > 0) {
      const ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) {
        outcome->send_error = std::strerror(errno);
        return false;
      }
      data += n;
      size -= static_cast<size_t>(n);
    }
    return true;
  };
  if (!put(reinterpret_cast<const uint8_t*>(first.data()), first.size())) return;
  while (outcome->sent < options.send) {
    // Sizes of every order of magnitude, not just large ones.
    const size_t limit = size_t{1} << (random() % 19);
    const size_t size = std::min<uint64_t>(1 + random() % std::min(limit, options.chunk), options.send - outcome->sent);
    Generate(options.send_seed, outcome->sent, buffer.data(), size);
    if (!put(buffer.data(), size)) return;
    outcome->sent += size;
  }
}

void Check(const Options& options, const std::string& first, const uint8_t* data, size_t size, Outcome* outcome,
           uint64_t* position) {
  std::vector<uint8_t> wanted(size);
  size_t done = 0;
  if (*position < first.size()) {
    done = std::min<size_t>(size, first.size() - *position);
    std::memcpy(wanted.data(), first.data() + *position, done);
  }
  if (done < size) Generate(options.expect_seed, *position + done - first.size(), wanted.data() + done, size - done);
  if (outcome->first_bad < 0 && std::memcmp(wanted.data(), data, size) != 0) {
    const auto [mine, theirs] = std::mismatch(wanted.begin(), wanted.end(), data);
    outcome->first_bad = static_cast<int64_t>(*position) + (mine - wanted.begin());
  }
  *position += size;
}

void Receive(int fd, const Options& options, const std::string& first, Outcome* outcome) {
  std::mt19937_64 random(options.expect_seed + 99);
  std::vector<uint8_t> buffer(options.chunk);
  uint64_t position = 0;
  for (;;) {
    const size_t limit = size_t{1} << (random() % 19);
    const ssize_t n = recv(fd, buffer.data(), std::min(limit, options.chunk), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) outcome->end = "fin";
    if (n < 0) outcome->end = errno == ECONNRESET ? "reset" : std::strerror(errno);
    if (n <= 0) break;
    Check(options, first, buffer.data(), static_cast<size_t>(n), outcome, &position);
    if (options.read_pause_us > 0 && random() % 64 == 0) usleep(options.read_pause_us);
  }
  outcome->received = position - std::min<uint64_t>(position, first.size());
}

std::string ReadFile(const std::string& path) {
  if (path.empty()) return {};
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// True if both directions were whole.
bool Serve(int fd, const Options& options) {
  Outcome outcome;
  const std::string first = ReadFile(options.first), expect_first = ReadFile(options.expect_first);
  if (options.after_eof) {
    Receive(fd, options, expect_first, &outcome);
    Send(fd, options, first, &outcome);
    shutdown(fd, SHUT_WR);
  } else {
    std::thread sender([&] {
      Send(fd, options, first, &outcome);
      if (!options.fin_late) shutdown(fd, SHUT_WR);
    });
    Receive(fd, options, expect_first, &outcome);
    sender.join();
  }
  close(fd);
  const bool whole = outcome.sent == options.send && outcome.received == options.expect && outcome.first_bad < 0 &&
                     outcome.end == "fin" && outcome.send_error.empty();
  std::printf("{\"whole\": %s, \"sent\": %llu, \"received\": %llu, \"first_bad\": %lld, \"end\": \"%s\", \"send_error\": \"%s\"}\n",
              whole ? "true" : "false", static_cast<unsigned long long>(outcome.sent),
              static_cast<unsigned long long>(outcome.received), static_cast<long long>(outcome.first_bad),
              outcome.end.c_str(), outcome.send_error.c_str());
  std::fflush(stdout);
  return whole;
}

sockaddr_in ParseAddress(const std::string& text) {
  const size_t colon = text.rfind(':');
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(std::atoi(text.c_str() + colon + 1)));
  inet_pton(AF_INET, text.substr(0, colon).c_str(), &address.sin_addr);
  return address;
}

int Listen(const Options& options) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const sockaddr_in address = ParseAddress(options.address);
  if (bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || listen(listener, 128) != 0) {
    std::fprintf(stderr, "stream_peer: %s: %s\n", options.address.c_str(), std::strerror(errno));
    return 2;
  }
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < options.count; ++i) {
    const int fd = accept(listener, nullptr, nullptr);
    if (fd < 0) return 2;
    threads.emplace_back([fd, options] { Serve(fd, options); });
  }
  return 0;
}

int Connect(const Options& options) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = ParseAddress(options.address);
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    std::fprintf(stderr, "stream_peer: %s: %s\n", options.address.c_str(), std::strerror(errno));
    return 2;
  }
  return Serve(fd, options) ? 0 : 1;
}

bool ReadOptions(int argc, char** argv, Options* options) {
  const std::map<std::string, uint64_t*> longs = {{"--send", &options->send},
                                                  {"--expect", &options->expect},
                                                  {"--send-seed", &options->send_seed},
                                                  {"--expect-seed", &options->expect_seed}};
  const std::map<std::string, std::string*> texts = {{"--first", &options->first}, {"--expect-first", &options->expect_first}};
  for (int i = 3; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--after-eof") {
      options->after_eof = true;
      continue;
    }
    if (name == "--fin-late") {
      options->fin_late = true;
      continue;
    }
    if (++i >= argc) return false;
    if (auto found = longs.find(name); found != longs.end()) *found->second = std::strtoull(argv[i], nullptr, 10);
    else if (auto text = texts.find(name); text != texts.end()) *text->second = argv[i];
    else if (name == "--chunk") options->chunk = std::strtoull(argv[i], nullptr, 10);
    else if (name == "--read-pause-us") options->read_pause_us = static_cast<unsigned>(std::atoi(argv[i]));
    else if (name == "--count") options->count = static_cast<unsigned>(std::atoi(argv[i]));
    else return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (argc < 3 || !ReadOptions(argc, argv, &options)) {
    std::fprintf(stderr, "usage: stream_peer listen|connect ADDRESS [--send BYTES] [--expect BYTES] ...\n");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  options.address = argv[2];
  return std::string_view(argv[1]) == "listen" ? Listen(options) : Connect(options);
}
