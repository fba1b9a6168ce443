// How this machine and the server on it feel: what a beacon's health says. Parsers are pure; the readers open /proc and
// a netlink socket.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "core/net/address.h"

namespace hud {

// The 1-minute load of /proc/loadavg for `cpus` processors, in permille; 1000: every processor is taken.
std::optional<uint16_t> ParseLoadPermille(std::string_view loadavg, unsigned cpus);
// "some avg10" of /proc/pressure/cpu, in permille.
std::optional<uint16_t> ParsePressurePermille(std::string_view pressure);

// 0 where the kernel does not say.
uint16_t ReadLoadPermille();
uint16_t ReadCpuPressurePermille();

// Established TCP connections whose local end is the server's port, by sock_diag. If `server`'s host is an address of
// this machine only those to it are counted (several servers may share a port number); else (NAT) all on that port.
// Counting stops at kMostCounted. Nothing if the kernel refuses; 0 for unix sockets.
class ConnectionCounter {
 public:
  explicit ConnectionCounter(const SocketAddress& server);
  std::optional<uint32_t> Count() const;
  static constexpr uint32_t kMostCounted = 65536;

 private:
  SocketAddress server_;
  bool host_is_local_ = false;
};

}  // namespace hud
