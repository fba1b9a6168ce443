// Numeric socket addresses: "10.0.0.1:443", "[2001:db8::1]:443", "unix:/run/x.sock", "unix:@abstract".
// A host name is an error that says so: nothing here ever asks a resolver.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/base/types.h"

namespace hud {

class SocketAddress {
 public:
  SocketAddress() = default;  // family() == AF_UNSPEC

  // An error is one sentence that quotes the text and says what to write instead. Port 0 is taken: binding may want it.
  static absl::StatusOr<SocketAddress> Parse(std::string_view text);
  // As the kernel gave it (accept, getsockname). What is neither internet nor unix, or too short, is AF_UNSPEC. What a
  // dual-stack socket shows as ::ffff:a.b.c.d becomes the IPv4 address that it is, here and in Parse(): an address has one
  // notation, in the log, in hashes, and wherever two are compared.
  static SocketAddress FromSockaddr(const sockaddr* address, socklen_t length);

  const sockaddr* data() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  socklen_t size() const { return size_; }
  int family() const { return storage_.ss_family; }
  bool IsUnix() const { return family() == AF_UNIX; }
  // Can one connect to it: not a wildcard and not a multicast group. (Broadcasts the kernel refuses.)
  bool IsOneHost() const;
  uint16_t port() const;  // 0 for unix sockets
  std::string ToString() const;
  // Raw address bytes: 4, 16, or the path (of an abstract socket, from its leading zero byte on).
  Bytes host_bytes() const;
  SocketAddress WithPort(uint16_t port) const;

  bool operator==(const SocketAddress& other) const;

 private:
  static absl::StatusOr<SocketAddress> ParseUnix(std::string_view text);
  static absl::StatusOr<SocketAddress> ParseInternet(std::string_view text);

  sockaddr_storage storage_{};
  socklen_t size_ = 0;
};

// An IPv4 or IPv6 address and port in few bytes, for what lives as long as a connection.
class InternetEndpoint {
 public:
  InternetEndpoint() = default;
  // Of anything but an internet address: none.
  explicit InternetEndpoint(const SocketAddress& address);

  explicit operator bool() const { return family_ != AF_UNSPEC; }
  SocketAddress ToSocketAddress() const;  // AF_UNSPEC of none

 private:
  uint8_t host_[16] = {};
  uint32_t scope_ = 0;  // of a link-local IPv6 address
  uint16_t port_ = 0;   // as in a sockaddr
  uint8_t family_ = AF_UNSPEC;
};
static_assert(sizeof(InternetEndpoint) == 24);

// "10.0.0.0/8", "2001:db8::/32", "127.0.0.1" (a single host). IPv4-mapped IPv6 addresses match IPv4 ranges,
// and IPv4 ranges only: "::/0" means every IPv6 address. Bits set behind the prefix are an error.
class AddressRange {
 public:
  static absl::StatusOr<AddressRange> Parse(std::string_view text);
  bool Contains(const SocketAddress& address) const;
  bool Contains(const AddressRange& other) const;  // all of it
  std::string ToString() const;
  bool operator==(const AddressRange&) const = default;

 private:
  uint8_t bytes_[16] = {};   // IPv4 as ::ffff:a.b.c.d
  uint8_t prefix_bits_ = 0;  // of the 128
  bool ipv4_ = false;
};

bool AnyContains(std::span<const AddressRange> ranges, const SocketAddress& address);

}  // namespace hud
