// Where this proxy listens, as a list of addresses that others could connect to.
#pragma once

#include <vector>

#include "control/config/configuration.h"
#include "core/net/address.h"

namespace hud {

// Of all interfaces, as they are now; without port. Empty if the kernel will not say.
std::vector<SocketAddress> MachineAddresses();

// Of listeners, status and beacons. A wildcard is followed by every address that the machine has now.
std::vector<SocketAddress> OwnAddresses(const Configuration& configuration);

}  // namespace hud
