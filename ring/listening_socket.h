// Listeners' sockets: bound before privileges are dropped, or by a reload.
#pragma once

#include <chrono>
#include <vector>

#include "absl/status/statusor.h"
#include "core/config/cluster_config.h"
#include "core/os/fd.h"

namespace hud {

// One listener's sockets: [bind address][worker]. They listen.
struct ListenerSockets {
  ListenerIndex listener;
  std::vector<std::vector<Fd>> sockets;
};

// An address in use by another process (also by a second instance that a plain SO_REUSEPORT bind would let in) is an
// error that names the address. Waits up to `patience` for whoever is about to leave an address.
absl::StatusOr<std::vector<ListenerSockets>> BindListeners(const std::vector<ListenerConfig>& listeners, unsigned workers,
                                                           Duration patience = std::chrono::seconds(1));

// From now on the first packets of newcomers are dropped, and they get no answer. All else passes: also the last packet of a handshake that
// has begun, and the first bytes behind it.
void DropFirstPackets(int listening);

}  // namespace hud
