#include "core/net/proxy_protocol.h"

#include <netinet/in.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string>
#include <string_view>

#include "core/base/byte_reader.h"
#include "core/base/check.h"
#include "core/base/limits.h"

namespace hud {
namespace {

constexpr std::string_view kV1Start = "PROXY ";
constexpr size_t kMaxV1Bytes = 107;
constexpr std::string_view kV2Signature("\r\n\r\n\0\r\nQUIT\n", 12);
constexpr size_t kV2HeadBytes = 16;
constexpr uint8_t kV2Local = 0x20;
constexpr uint8_t kV2Proxy = 0x21;
constexpr uint8_t kV2Unspecified = 0x00;
constexpr uint8_t kV2Tcp4 = 0x11;
constexpr uint8_t kV2Tcp6 = 0x21;
constexpr uint8_t kV2Unix = 0x31;
constexpr size_t kUnixPathBytes = 108;
constexpr size_t kTcp4Bytes = 2 * (4 + 2), kTcp6Bytes = 2 * (16 + 2), kUnixBytes = 2 * kUnixPathBytes;
constexpr uint8_t kTlvCrc32c = 0x03;
static_assert(sizeof(sockaddr_un::sun_path) == kUnixPathBytes);

std::string_view AsText(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

// As far as `prefix` goes, it begins with `start`.
bool MayBegin(Bytes prefix, std::string_view start) {
  return start.starts_with(AsText(prefix.first(std::min(prefix.size(), start.size()))));
}

SocketAddress InternetAddress(int family, Bytes host, uint16_t port) {
  sockaddr_in v4{};
  sockaddr_in6 v6{};
  if (family == AF_INET) {
    HUD_CHECK(host.size() == sizeof(v4.sin_addr));
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    std::memcpy(&v4.sin_addr, host.data(), sizeof(v4.sin_addr));
    return SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&v4), sizeof(v4));
  }
  HUD_CHECK(host.size() == sizeof(v6.sin6_addr));
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(port);
  std::memcpy(&v6.sin6_addr, host.data(), sizeof(v6.sin6_addr));
  return SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&v6), sizeof(v6));
}

SocketAddress UnixAddress(Bytes path) {
  sockaddr_un raw{};
  raw.sun_family = AF_UNIX;
  std::memcpy(raw.sun_path, path.data(), path.size());
  // The header pads with zero bytes and does not say how long a name is: up to the last byte that is not one.
  while (!path.empty() && path.back() == 0) path = path.first(path.size() - 1);
  return SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&raw),
                                     static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size()));
}

// Takes up to the next blank, or what is left.
std::string_view TakeWord(std::string_view& line) {
  const size_t blank = line.find(' ');
  const std::string_view word = line.substr(0, blank);
  line.remove_prefix(blank == std::string_view::npos ? line.size() : blank + 1);
  return word;
}

// An address and a port that stand apart, in the notation of `family`. A zone ("fe80::1%2") is no part of the protocol:
// it numbers an interface of the sender's, which means nothing here, and version 2 could not carry it on.
bool ReadV1Address(int family, std::string_view host, std::string_view port, SocketAddress& address) {
  if (host.find('%') != std::string_view::npos) return false;
  const std::string h(host), p(port);
  const auto parsed = SocketAddress::Parse(family == AF_INET6 ? "[" + h + "]:" + p : h + ":" + p);
  // "::ffff:10.0.0.1" is an IPv6 notation of an IPv4 address.
  if (!parsed.ok() || parsed->IsUnix() || (family == AF_INET && parsed->family() != AF_INET)) return false;
  address = *parsed;
  return true;
}

// `line` is what stands between "PROXY " and CRLF.
bool ReadV1Line(std::string_view line, ProxyHeader& header) {
  const std::string_view protocol = TakeWord(line);
  if (protocol == "UNKNOWN") return true;  // whatever follows is to be ignored
  if (protocol != "TCP4" && protocol != "TCP6") return false;
  const int family = protocol == "TCP4" ? AF_INET : AF_INET6;
  if (std::count(line.begin(), line.end(), ' ') != 3) return false;
  const std::string_view source = TakeWord(line);
  const std::string_view destination = TakeWord(line);
  const std::string_view source_port = TakeWord(line);
  return ReadV1Address(family, source, source_port, header.source) &&
         ReadV1Address(family, destination, line, header.destination);
}

ProxyHeaderVerdict ParseV1(Bytes prefix, ProxyHeader& header) {
  const std::string_view text = AsText(prefix.first(std::min(prefix.size(), kMaxV1Bytes)));
  const size_t end = text.find_first_of("\r\n");
  if (end == std::string_view::npos || end + 1 == text.size()) {
    const bool may_end = text.size() < kMaxV1Bytes && (end == std::string_view::npos || text[end] == '\r');
    return may_end ? ProxyHeaderVerdict::kNeedMore : ProxyHeaderVerdict::kMalformed;
  }
  if (text.substr(end, 2) != "\r\n" || !ReadV1Line(text.substr(kV1Start.size(), end - kV1Start.size()), header)) {
    return ProxyHeaderVerdict::kMalformed;
  }
  header.bytes_used = end + 2;
  return ProxyHeaderVerdict::kComplete;
}

bool ReadInternetPair(int family, ByteReader reader, ProxyHeader& header) {
  const size_t size = family == AF_INET ? 4 : 16;
  Bytes source, destination;
  uint16_t source_port, destination_port;
  if (!reader.Take(size, source) || !reader.Take(size, destination)) return false;
  if (!reader.U16(source_port) || !reader.U16(destination_port)) return false;
  header.source = InternetAddress(family, source, source_port);
  header.destination = InternetAddress(family, destination, destination_port);
  return true;
}

bool ReadUnixPair(ByteReader reader, ProxyHeader& header) {
  Bytes source, destination;
  if (!reader.Take(kUnixPathBytes, source) || !reader.Take(kUnixPathBytes, destination)) return false;
  header.source = UnixAddress(source);
  header.destination = UnixAddress(destination);
  return true;
}

// CRC-32C (Castagnoli), bit by bit: a header is short, and few have one.
uint32_t Crc32c(Bytes bytes, uint32_t crc) {
  for (const uint8_t byte : bytes) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0x82f63b78 & (0 - (crc & 1)));
  }
  return crc;
}

// Behind the addresses, up to the end of `header`: types, lengths and values, and nothing else. A checksum among them,
// made of the whole header with its own place as zero, must be right.
bool TlvsAreRight(Bytes header, size_t begin) {
  ByteReader reader(header.subspan(begin));
  while (reader.remaining() > 0) {
    uint8_t type;
    uint16_t length;
    Bytes value;
    if (!reader.U8(type) || !reader.U16(length) || !reader.Take(length, value)) return false;
    if (type != kTlvCrc32c) continue;
    if (length != sizeof(uint32_t)) return false;
    const auto at = static_cast<size_t>(value.data() - header.data());
    constexpr uint8_t kZero[sizeof(uint32_t)] = {};
    const uint32_t crc = ~Crc32c(header.subspan(at + length), Crc32c(kZero, Crc32c(header.first(at), 0xffffffff)));
    const uint32_t said = uint32_t{value[0]} << 24 | uint32_t{value[1]} << 16 | uint32_t{value[2]} << 8 | value[3];
    if (crc != said) return false;
  }
  return true;
}

// Families and protocols that exist, for version 2: unspecified, IPv4, IPv6, unix; unspecified, stream, datagram.
bool Exists(uint8_t family_and_protocol) { return family_and_protocol >> 4 <= 3 && (family_and_protocol & 15) <= 2; }

ProxyHeaderVerdict ParseV2(Bytes prefix, ProxyHeader& header) {
  ByteReader reader(prefix);
  uint8_t command, family;
  uint16_t length;
  Bytes payload;
  if (!reader.Skip(kV2Signature.size()) || !reader.U8(command)) return ProxyHeaderVerdict::kNeedMore;
  if (command != kV2Local && command != kV2Proxy) return ProxyHeaderVerdict::kMalformed;
  if (!reader.U8(family)) return ProxyHeaderVerdict::kNeedMore;
  if (!Exists(family)) return ProxyHeaderVerdict::kMalformed;
  if (!reader.U16(length)) return ProxyHeaderVerdict::kNeedMore;
  if (kV2HeadBytes + length > limits::kMaxProxyHeaderBytes) return ProxyHeaderVerdict::kMalformed;
  if (!reader.Take(length, payload)) return ProxyHeaderVerdict::kNeedMore;

  bool valid = true;
  if (command == kV2Proxy) {
    const Bytes whole = prefix.first(kV2HeadBytes + length);
    if (family == kV2Tcp4) {
      valid = ReadInternetPair(AF_INET, ByteReader(payload), header) && TlvsAreRight(whole, kV2HeadBytes + kTcp4Bytes);
    } else if (family == kV2Tcp6) {
      valid = ReadInternetPair(AF_INET6, ByteReader(payload), header) && TlvsAreRight(whole, kV2HeadBytes + kTcp6Bytes);
    } else if (family == kV2Unix) {
      valid = ReadUnixPair(ByteReader(payload), header) && TlvsAreRight(whole, kV2HeadBytes + kUnixBytes);
    }
  }
  header.bytes_used = kV2HeadBytes + length;
  return valid ? ProxyHeaderVerdict::kComplete : ProxyHeaderVerdict::kMalformed;
}

class V2Writer {
 public:
  V2Writer(ProxyV2Header& header, uint8_t command, uint8_t family, size_t length) : header_(header) {
    Append({reinterpret_cast<const uint8_t*>(kV2Signature.data()), kV2Signature.size()});
    const uint8_t head[] = {command, family, static_cast<uint8_t>(length >> 8), static_cast<uint8_t>(length)};
    Append(head);
  }
  void Append(Bytes bytes) {
    HUD_CHECK(bytes.size() <= header_.data.size() - header_.size);
    std::copy(bytes.begin(), bytes.end(), header_.data.begin() + header_.size);
    header_.size += bytes.size();
  }
  void AppendPort(uint16_t port) {
    const uint8_t bytes[] = {static_cast<uint8_t>(port >> 8), static_cast<uint8_t>(port)};
    Append(bytes);
  }
  void AppendPath(Bytes path) {
    std::array<uint8_t, kUnixPathBytes> padded{};
    std::copy(path.begin(), path.end(), padded.begin());
    Append(padded);
  }

 private:
  ProxyV2Header& header_;
};

bool IsInternet(const SocketAddress& address) { return address.family() == AF_INET || address.family() == AF_INET6; }

// An internet address in the 16 bytes of IPv6.
std::array<uint8_t, 16> AsIpv6(const SocketAddress& address) {
  std::array<uint8_t, 16> bytes{};
  const Bytes host = address.host_bytes();
  if (address.family() == AF_INET) bytes[10] = bytes[11] = 0xff;
  std::copy(host.begin(), host.end(), bytes.end() - static_cast<long>(host.size()));
  return bytes;
}

}  // namespace

ProxyHeaderVerdict ParseProxyHeader(Bytes prefix, ProxyHeader& header) {
  header = {};
  if (prefix.empty()) return ProxyHeaderVerdict::kNeedMore;
  if (MayBegin(prefix, kV1Start)) return ParseV1(prefix, header);
  if (MayBegin(prefix, kV2Signature)) return ParseV2(prefix, header);
  return ProxyHeaderVerdict::kMalformed;
}

ProxyV2Header WriteProxyV2(const SocketAddress& client, const SocketAddress& local) {
  const SocketAddress &source = client, &destination = local;
  ProxyV2Header header;
  if (source.family() == AF_INET && destination.family() == AF_INET) {
    V2Writer writer(header, kV2Proxy, kV2Tcp4, kTcp4Bytes);
    writer.Append(source.host_bytes());
    writer.Append(destination.host_bytes());
    writer.AppendPort(source.port());
    writer.AppendPort(destination.port());
  } else if (IsInternet(source) && IsInternet(destination)) {
    V2Writer writer(header, kV2Proxy, kV2Tcp6, kTcp6Bytes);
    writer.Append(AsIpv6(source));
    writer.Append(AsIpv6(destination));
    writer.AppendPort(source.port());
    writer.AppendPort(destination.port());
  } else if (source.IsUnix() && destination.IsUnix()) {
    V2Writer writer(header, kV2Proxy, kV2Unix, kUnixBytes);
    writer.AppendPath(source.host_bytes());
    writer.AppendPath(destination.host_bytes());
  } else {
    V2Writer(header, kV2Local, kV2Unspecified, 0);
  }
  return header;
}

}  // namespace hud
