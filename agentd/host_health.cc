#include "agentd/host_health.h"

#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string>

#include "core/os/fd.h"

namespace hud {
namespace {

// A non-negative decimal number at the head of `text`; locale plays no part.
std::optional<double> ParseDecimal(std::string_view text) {
  double value = 0;
  double scale = 0;
  size_t i = 0;
  for (; i < text.size() && i < 16; ++i) {
    if (text[i] == '.' && scale == 0 && i > 0) {
      scale = 1;
    } else if (text[i] >= '0' && text[i] <= '9') {
      value = value * 10 + (text[i] - '0');
      scale *= 10;
    } else {
      break;
    }
  }
  if (i == 0) return std::nullopt;
  return scale > 0 ? value / scale : value;
}

uint16_t Permille(double share) { return static_cast<uint16_t>(std::clamp(share * 1000.0 + 0.5, 0.0, 65535.0)); }

std::string ReadSmallFile(const char* path) {
  const Fd fd(::open(path, O_RDONLY | O_CLOEXEC));
  std::array<char, 512> buffer;
  const ssize_t n = fd ? ::read(fd.get(), buffer.data(), buffer.size()) : -1;
  return n > 0 ? std::string(buffer.data(), static_cast<size_t>(n)) : std::string();
}

bool IsLocalHost(const SocketAddress& address) {
  const Fd fd(::socket(address.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const SocketAddress any_port = address.WithPort(0);
  return fd && ::bind(fd.get(), any_port.data(), any_port.size()) == 0;
}

struct DiagRequest {
  nlmsghdr header{};
  inet_diag_req_v2 query{};
};

bool Ask(int netlink, uint8_t family, uint16_t port) {
  DiagRequest request;
  request.header.nlmsg_len = sizeof(request);
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.query.sdiag_family = family;
  request.query.sdiag_protocol = IPPROTO_TCP;
  request.query.idiag_states = 1u << TCP_ESTABLISHED;
  request.query.id.idiag_sport = htons(port);
  return ::send(netlink, &request, sizeof(request), 0) == static_cast<ssize_t>(sizeof(request));
}

// An IPv4 peer of an IPv6 socket shows as ::ffff:a.b.c.d.
bool IsHost(const inet_diag_msg& socket, Bytes host) {
  const auto* local = reinterpret_cast<const uint8_t*>(socket.id.idiag_src);
  if (socket.idiag_family == AF_INET) return host.size() == 4 && std::equal(host.begin(), host.end(), local);
  if (host.size() == 16) return std::equal(host.begin(), host.end(), local);
  static constexpr std::array<uint8_t, 12> kMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  return std::equal(kMapped.begin(), kMapped.end(), local) && std::equal(host.begin(), host.end(), local + 12);
}

// Takes the messages of one read: the sockets that count are added to `count`. True at the end of the dump, nothing if
// the kernel reported an error or a message is not what it should be.
std::optional<bool> TakeReplies(std::span<const char> messages, uint16_t port, Bytes host, uint32_t& count) {
  while (messages.size() >= sizeof(nlmsghdr)) {
    nlmsghdr header;
    std::memcpy(&header, messages.data(), sizeof(header));
    if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > messages.size()) return std::nullopt;
    if (header.nlmsg_type == NLMSG_DONE) return true;
    inet_diag_msg socket;
    if (header.nlmsg_type == NLMSG_ERROR || header.nlmsg_len < NLMSG_HDRLEN + sizeof(socket)) return std::nullopt;
    std::memcpy(&socket, messages.data() + NLMSG_HDRLEN, sizeof(socket));
    if (ntohs(socket.id.idiag_sport) == port && (host.empty() || IsHost(socket, host))) ++count;
    messages = messages.subspan(std::min<size_t>(NLMSG_ALIGN(header.nlmsg_len), messages.size()));
  }
  return false;
}

// Reads one dump to its end. `host` empty: any.
std::optional<uint32_t> CountReplies(int netlink, uint16_t port, Bytes host) {
  std::array<char, 32768> buffer;
  uint32_t count = 0;
  while (count < ConnectionCounter::kMostCounted) {
    const ssize_t n = ::recv(netlink, buffer.data(), buffer.size(), 0);
    if (n <= 0) return std::nullopt;
    const auto end = TakeReplies(std::span(buffer).first(static_cast<size_t>(n)), port, host, count);
    if (!end) return std::nullopt;
    if (*end) return count;
  }
  return count;
}

}  // namespace

std::optional<uint16_t> ParseLoadPermille(std::string_view loadavg, unsigned cpus) {
  const std::optional<double> load = ParseDecimal(loadavg);
  if (!load || cpus == 0) return std::nullopt;
  return Permille(*load / cpus);
}

std::optional<uint16_t> ParsePressurePermille(std::string_view pressure) {
  constexpr std::string_view kHead = "some avg10=";
  if (!pressure.starts_with(kHead)) return std::nullopt;
  const std::optional<double> percent = ParseDecimal(pressure.substr(kHead.size()));
  if (!percent) return std::nullopt;
  return Permille(*percent / 100);
}

uint16_t ReadLoadPermille() {
  const long cpus = ::sysconf(_SC_NPROCESSORS_ONLN);
  return ParseLoadPermille(ReadSmallFile("/proc/loadavg"), cpus > 0 ? static_cast<unsigned>(cpus) : 1).value_or(0);
}

uint16_t ReadCpuPressurePermille() { return ParsePressurePermille(ReadSmallFile("/proc/pressure/cpu")).value_or(0); }

ConnectionCounter::ConnectionCounter(const SocketAddress& server)
    : server_(server), host_is_local_(!server.IsUnix() && IsLocalHost(server)) {}

std::optional<uint32_t> ConnectionCounter::Count() const {
  if (server_.IsUnix()) return 0;
  uint32_t total = 0;
  for (const uint8_t family : {uint8_t{AF_INET}, uint8_t{AF_INET6}}) {
    // A socket for each question: what an abandoned dump left unread cannot be taken for the next one's answer.
    const Fd netlink(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
    if (!netlink || !Ask(netlink.get(), family, server_.port())) return std::nullopt;
    const auto count = CountReplies(netlink.get(), server_.port(), host_is_local_ ? server_.host_bytes() : Bytes());
    if (!count) return std::nullopt;
    total += *count;
  }
  return std::min(total, kMostCounted);
}

}  // namespace hud
