#include "core/net/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"

namespace hud {
namespace {

constexpr std::string_view kUnixPrefix = "unix:";
constexpr size_t kUnixPathOffset = offsetof(sockaddr_un, sun_path);
constexpr size_t kMaxUnixPathBytes = sizeof(sockaddr_un::sun_path) - 1;  // a zero byte ends it
constexpr uint8_t kIpv4MappedPrefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
constexpr int kIpv4MappedBits = 96;

// What the user wrote, safe to print in a log line.
std::string Quoted(std::string_view text) {
  return absl::StrCat("'", absl::CHexEscape(absl::string_view(text.data(), text.size())), "'");
}

template <typename... Parts>
absl::Status Error(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// Decimal digits only: no sign, no blank, nothing behind.
template <typename Number>
std::optional<Number> ParseDecimal(std::string_view text) {
  Number number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// inet_pton wants a zero-terminated string.
template <typename Raw>
bool ParseHost(int family, std::string_view host, Raw* raw) {
  char text[INET6_ADDRSTRLEN];
  if (host.size() >= sizeof(text) || host.find('\0') != std::string_view::npos) return false;
  std::memcpy(text, host.data(), host.size());
  text[host.size()] = '\0';
  return inet_pton(family, text, raw) == 1;
}

std::string FormatHost(int family, const void* raw) {
  char text[INET6_ADDRSTRLEN];
  HUD_CHECK(inet_ntop(family, raw, text, sizeof(text)) != nullptr);
  return text;
}

bool IsDigits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// What is often written where one address is meant, and what to write instead; none if it is nothing of that kind.
std::optional<absl::Status> NotOneAddress(std::string_view text) {
  if (const size_t scheme = text.find("://"); scheme != std::string_view::npos) {
    const std::string_view behind = text.substr(scheme + 3);
    return Error(Quoted(text), " is a URL; write the address and the port alone, like ",
                 Quoted(behind.substr(0, behind.find('/'))), " (numeric, nothing asks a resolver)");
  }
  if (text.find(',') != std::string_view::npos) {
    return Error(Quoted(text), " is not one address; write each by itself, like '10.0.0.1:443'");
  }
  if (IsDigits(text)) {
    const std::string port(text);
    return Error(Quoted(text), " has no port, or is one without an address; write '127.0.0.1:", port, "', or '[::]:", port,
                 "' for all of this machine's addresses");
  }
  return std::nullopt;
}

// Is it ::ffff:a.b.c.d? Then that, as IPv4.
bool ReadMappedIpv4(const sockaddr* address, sockaddr_in& plain) {
  sockaddr_in6 v6;
  std::memcpy(&v6, address, sizeof v6);
  if (std::memcmp(&v6.sin6_addr, kIpv4MappedPrefix, sizeof kIpv4MappedPrefix) != 0) return false;
  plain = {};
  plain.sin_family = AF_INET;
  plain.sin_port = v6.sin6_port;
  std::memcpy(&plain.sin_addr, v6.sin6_addr.s6_addr + sizeof kIpv4MappedPrefix, sizeof plain.sin_addr);
  return true;
}

// A sensible sentence for what is neither IPv4 nor IPv6 in front of a port.
absl::Status NotNumeric(std::string_view text, std::string_view host, std::string_view port) {
  const std::string port_text(port);
  if (host.empty() || host == "*") {
    return Error(Quoted(text), " names no address; for all of them write '0.0.0.0:", port_text,
                 "' or '[::]:", port_text, "'");
  }
  if (host.find(':') != std::string_view::npos) {
    return Error(Quoted(text),
                 ": an IPv6 address is written in brackets with its port behind, like '[2001:db8::1]:443'");
  }
  if (host.find_first_not_of("0123456789.") == std::string_view::npos) {
    return Error(Quoted(text), ": ", Quoted(host), " is not an IPv4 address; write four numbers from 0 to 255, like ",
                 "'10.0.0.1:443'");
  }
  return Error(Quoted(text), ": ", Quoted(host), " is a name; addresses are numeric here, nothing asks a resolver; ",
               "look it up and write its address, like '10.0.0.1:443'");
}

}  // namespace

absl::StatusOr<SocketAddress> SocketAddress::Parse(std::string_view text) {
  if (text.empty())
    return Error("an empty address; write one like '10.0.0.1:443', '[2001:db8::1]:443' or 'unix:/run/x.sock'");
  if (text.starts_with(kUnixPrefix)) return ParseUnix(text);
  if (text.front() == '/' || text.front() == '@') {
    return Error(Quoted(text), " looks like a unix socket; write ", Quoted(absl::StrCat("unix:", std::string(text))));
  }
  if (std::optional<absl::Status> error = NotOneAddress(text)) return *std::move(error);
  return ParseInternet(text);
}

absl::StatusOr<SocketAddress> SocketAddress::ParseUnix(std::string_view text) {
  const std::string_view path = text.substr(kUnixPrefix.size());
  if (path.empty() || path == "@") {
    return Error(Quoted(text), " names no socket; write 'unix:/run/x.sock', or 'unix:@name' for an abstract one");
  }
  if (path.front() != '/' && path.front() != '@') {
    return Error(Quoted(text), ": the path of a unix socket begins with '/', or with '@' for an abstract one");
  }
  if (path.size() > kMaxUnixPathBytes) {
    return Error(Quoted(text), " is too long: the kernel takes ", kMaxUnixPathBytes, " bytes of path, this one has ",
                 path.size());
  }
  if (path.find('\0') != std::string_view::npos) return Error(Quoted(text), " holds a zero byte");
  sockaddr_un raw{};
  raw.sun_family = AF_UNIX;
  std::memcpy(raw.sun_path, path.data(), path.size());
  const bool abstract = path.front() == '@';
  if (abstract) raw.sun_path[0] = '\0';
  // The name of an abstract socket is exactly as long as its length says; a path has its zero byte counted.
  const size_t size = kUnixPathOffset + path.size() + (abstract ? 0 : 1);
  return FromSockaddr(reinterpret_cast<const sockaddr*>(&raw), static_cast<socklen_t>(size));
}

absl::StatusOr<SocketAddress> SocketAddress::ParseInternet(std::string_view text) {
  const bool bracketed = text.front() == '[';
  const size_t colon = bracketed ? text.find("]:") : text.rfind(':');
  if (colon == std::string_view::npos) {
    return Error(Quoted(text), " has no port; write ", bracketed ? "'[2001:db8::1]:443'" : "'10.0.0.1:443'");
  }
  std::string_view host = bracketed ? text.substr(1, colon - 1) : text.substr(0, colon);
  const std::string_view port_text = text.substr(colon + (bracketed ? 2 : 1));

  sockaddr_in v4{};
  sockaddr_in6 v6{};
  if (bracketed) {
    if (const size_t percent = host.find('%'); percent != std::string_view::npos) {
      const auto zone = ParseDecimal<uint32_t>(host.substr(percent + 1));
      if (!zone)
        return Error(Quoted(text), ": the zone behind '%' is the interface's number (see 'ip link'), not its name");
      v6.sin6_scope_id = *zone;
      host = host.substr(0, percent);
    }
    if (!ParseHost(AF_INET6, host, &v6.sin6_addr)) {
      return Error(Quoted(text), ": ", Quoted(host), " is not an IPv6 address; brackets are for IPv6 only");
    }
  } else if (!ParseHost(AF_INET, host, &v4.sin_addr)) {
    return NotNumeric(text, host, port_text);
  }

  const auto port = ParseDecimal<uint16_t>(port_text);
  if (!port) return Error(Quoted(text), ": ", Quoted(port_text), " is not a port; a port is a number from 0 to 65535");
  v4.sin_family = AF_INET;
  v6.sin6_family = AF_INET6;
  v4.sin_port = v6.sin6_port = htons(*port);
  return bracketed ? FromSockaddr(reinterpret_cast<const sockaddr*>(&v6), sizeof(v6))
                   : FromSockaddr(reinterpret_cast<const sockaddr*>(&v4), sizeof(v4));
}

SocketAddress SocketAddress::FromSockaddr(const sockaddr* address, socklen_t length) {
  SocketAddress result;
  if (address == nullptr || length < sizeof(sa_family_t)) return result;
  size_t size = 0;
  switch (address->sa_family) {
    case AF_INET:
      size = sizeof(sockaddr_in);
      break;
    case AF_INET6:
      size = sizeof(sockaddr_in6);
      break;
    case AF_UNIX:
      size = std::min<size_t>(length, sizeof(sockaddr_un));
      break;
    default:
      return result;
  }
  if (length < size) return result;
  sockaddr_in plain;
  if (address->sa_family == AF_INET6 && ReadMappedIpv4(address, plain)) {
    address = reinterpret_cast<const sockaddr*>(&plain);
    size = sizeof plain;
  }
  std::memcpy(&result.storage_, address, size);
  result.size_ = static_cast<socklen_t>(size);
  return result;
}

uint16_t SocketAddress::port() const {
  if (family() == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in*>(&storage_)->sin_port);
  if (family() == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6*>(&storage_)->sin6_port);
  return 0;
}

Bytes SocketAddress::host_bytes() const {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&storage_);
  switch (family()) {
    case AF_INET:
      return {bytes + offsetof(sockaddr_in, sin_addr), 4};
    case AF_INET6:
      return {bytes + offsetof(sockaddr_in6, sin6_addr), 16};
    case AF_UNIX:
      break;
    default:
      return {};
  }
  Bytes path{bytes + kUnixPathOffset, size_ - kUnixPathOffset};
  if (!path.empty() && path.front() == 0) return path;  // abstract: every byte counts
  return path.first(static_cast<size_t>(std::find(path.begin(), path.end(), 0) - path.begin()));
}

bool SocketAddress::IsOneHost() const {
  const Bytes host = host_bytes();
  if (IsUnix() || host.empty()) return IsUnix();
  const bool is_group = family() == AF_INET ? host[0] >= 224 && host[0] < 240 : host[0] == 0xff;
  return !is_group && std::any_of(host.begin(), host.end(), [](uint8_t byte) { return byte != 0; });
}

std::string SocketAddress::ToString() const {
  const Bytes host = host_bytes();
  switch (family()) {
    case AF_INET:
      return absl::StrCat(FormatHost(AF_INET, host.data()), ":", port());
    case AF_INET6: {
      const uint32_t zone = reinterpret_cast<const sockaddr_in6*>(&storage_)->sin6_scope_id;
      const std::string suffix = zone == 0 ? "" : absl::StrCat("%", zone);
      return absl::StrCat("[", FormatHost(AF_INET6, host.data()), suffix, "]:", port());
    }
    case AF_UNIX: {
      std::string path(reinterpret_cast<const char*>(host.data()), host.size());
      if (!path.empty() && path.front() == '\0') path.front() = '@';
      return absl::StrCat("unix:", absl::CHexEscape(path));
    }
    default:
      return "none";
  }
}

SocketAddress SocketAddress::WithPort(uint16_t port) const {
  SocketAddress result = *this;
  if (family() == AF_INET) reinterpret_cast<sockaddr_in*>(&result.storage_)->sin_port = htons(port);
  if (family() == AF_INET6) reinterpret_cast<sockaddr_in6*>(&result.storage_)->sin6_port = htons(port);
  return result;
}

bool SocketAddress::operator==(const SocketAddress& other) const {
  if (family() != other.family() || port() != other.port()) return false;
  const Bytes mine = host_bytes();
  const Bytes theirs = other.host_bytes();
  if (!std::equal(mine.begin(), mine.end(), theirs.begin(), theirs.end())) return false;
  return family() != AF_INET6 || reinterpret_cast<const sockaddr_in6*>(&storage_)->sin6_scope_id ==
                                     reinterpret_cast<const sockaddr_in6*>(&other.storage_)->sin6_scope_id;
}

InternetEndpoint::InternetEndpoint(const SocketAddress& address) {
  if (address.family() != AF_INET && address.family() != AF_INET6) return;
  const Bytes host = address.host_bytes();
  std::memcpy(host_, host.data(), host.size());
  if (address.family() == AF_INET6) scope_ = reinterpret_cast<const sockaddr_in6*>(address.data())->sin6_scope_id;
  port_ = htons(address.port());
  family_ = static_cast<uint8_t>(address.family());
}

SocketAddress InternetEndpoint::ToSocketAddress() const {
  sockaddr_in v4{};
  sockaddr_in6 v6{};
  v4.sin_family = v6.sin6_family = family_;
  v4.sin_port = v6.sin6_port = port_;
  std::memcpy(&v4.sin_addr, host_, sizeof(v4.sin_addr));
  std::memcpy(&v6.sin6_addr, host_, sizeof(v6.sin6_addr));
  v6.sin6_scope_id = scope_;
  return family_ == AF_INET ? SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&v4), sizeof(v4))
                            : SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&v6), sizeof(v6));
}

namespace {

// The first `bits` bits of both are the same.
bool SharePrefix(const uint8_t* a, const uint8_t* b, int bits) {
  const int whole = bits / 8;
  if (std::memcmp(a, b, static_cast<size_t>(whole)) != 0) return false;
  const int rest = bits % 8;
  return rest == 0 || ((a[whole] ^ b[whole]) >> (8 - rest)) == 0;
}

}  // namespace

absl::StatusOr<AddressRange> AddressRange::Parse(std::string_view text) {
  const size_t slash = text.find('/');
  const std::string_view host = text.substr(0, slash);
  AddressRange range;
  if (ParseHost(AF_INET, host, range.bytes_ + sizeof(kIpv4MappedPrefix))) {
    std::memcpy(range.bytes_, kIpv4MappedPrefix, sizeof(kIpv4MappedPrefix));
    range.ipv4_ = true;
  } else if (!ParseHost(AF_INET6, host, range.bytes_)) {
    return Error(Quoted(text), " is not an address range; write one like '10.0.0.0/8', '2001:db8::/32' or '127.0.0.1'");
  }

  const int most = range.ipv4_ ? 32 : 128;
  int bits = most;
  if (slash != std::string_view::npos) {
    const auto parsed = ParseDecimal<uint8_t>(text.substr(slash + 1));
    if (!parsed || *parsed > most) {
      return Error(Quoted(text), ": behind the '/' belongs the number of fixed bits, from 0 to ", most);
    }
    bits = *parsed;
  }
  range.prefix_bits_ = static_cast<uint8_t>(range.ipv4_ ? kIpv4MappedBits + bits : bits);

  // "10.0.0.1/8" may be meant as one host or as ten million: the writer has to say which.
  AddressRange masked = range;
  for (int bit = range.prefix_bits_; bit < 128; ++bit)
    masked.bytes_[bit / 8] &= static_cast<uint8_t>(~(0x80 >> (bit % 8)));
  if (!SharePrefix(range.bytes_, masked.bytes_, 128)) {
    return Error(Quoted(text), " has bits set behind its first ", bits, "; write '", masked.ToString(),
                 "' for the range");
  }
  // The mapped notation of an IPv4 range is that IPv4 range.
  range.ipv4_ = range.prefix_bits_ >= kIpv4MappedBits && SharePrefix(range.bytes_, kIpv4MappedPrefix, kIpv4MappedBits);
  return range;
}

bool AddressRange::Contains(const SocketAddress& address) const {
  const Bytes host = address.host_bytes();
  if (address.family() == AF_INET) {
    return ipv4_ && SharePrefix(bytes_ + sizeof(kIpv4MappedPrefix), host.data(), prefix_bits_ - kIpv4MappedBits);
  }
  return address.family() == AF_INET6 && !ipv4_ && SharePrefix(bytes_, host.data(), prefix_bits_);
}

bool AddressRange::Contains(const AddressRange& other) const {
  return ipv4_ == other.ipv4_ && prefix_bits_ <= other.prefix_bits_ && SharePrefix(bytes_, other.bytes_, prefix_bits_);
}

bool AnyContains(std::span<const AddressRange> ranges, const SocketAddress& address) {
  return std::any_of(ranges.begin(), ranges.end(), [&](const AddressRange& range) { return range.Contains(address); });
}

std::string AddressRange::ToString() const {
  if (!ipv4_) return absl::StrCat(FormatHost(AF_INET6, bytes_), "/", prefix_bits_);
  return absl::StrCat(FormatHost(AF_INET, bytes_ + sizeof(kIpv4MappedPrefix)), "/", prefix_bits_ - kIpv4MappedBits);
}

}  // namespace hud
