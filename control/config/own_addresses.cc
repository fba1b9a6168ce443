#include "control/config/own_addresses.h"

#include <ifaddrs.h>
#include <netinet/in.h>

#include <algorithm>
#include <memory>

namespace hud {

std::vector<SocketAddress> MachineAddresses() {
  std::vector<SocketAddress> addresses;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return addresses;
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owned(list, &::freeifaddrs);
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr) continue;
    if (entry->ifa_addr->sa_family == AF_INET) {
      addresses.push_back(SocketAddress::FromSockaddr(entry->ifa_addr, sizeof(sockaddr_in)));
    } else if (entry->ifa_addr->sa_family == AF_INET6) {
      addresses.push_back(SocketAddress::FromSockaddr(entry->ifa_addr, sizeof(sockaddr_in6)));
    }
  }
  return addresses;
}

// Where the kernel will not say, only what is written in the configuration is known to be ours.
std::vector<SocketAddress> OwnAddresses(const Configuration& configuration) {
  std::vector<SocketAddress> bound = configuration.status;
  const std::vector<SocketAddress>& beacons = configuration.cluster.beacons.bind;
  bound.insert(bound.end(), beacons.begin(), beacons.end());
  for (const ListenerConfig& listener : configuration.cluster.listeners) {
    bound.insert(bound.end(), listener.bind.begin(), listener.bind.end());
  }
  const std::vector<SocketAddress> machine = MachineAddresses();
  std::vector<SocketAddress> own = bound;
  for (const SocketAddress& address : bound) {
    const Bytes host = address.host_bytes();
    if (address.IsUnix() || std::any_of(host.begin(), host.end(), [](uint8_t byte) { return byte != 0; })) continue;
    for (const SocketAddress& one : machine) own.push_back(one.WithPort(address.port()));
  }
  return own;
}

}  // namespace hud
