// The one way in for every change of what runs, whoever wants it (a file that is loaded again, an order): the next configuration as a
// whole value is validated, compared with the one that runs, and then applied whole or not at all (ReloadIsAllOrNothing).
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "control/config/configuration.h"
#include "core/beacon/beacon.h"
#include "ring/data_plane.h"

namespace hud {

// Immutable once loaded.
struct LoadedConfiguration {
  Configuration configuration;
  std::vector<BeaconKey> keys;
};

struct ConfigurationChange {
  std::vector<std::string> errors;   // all there are; then all else is empty
  std::vector<std::string> changes;  // a sentence each
  std::shared_ptr<const LoadedConfiguration> next;
  std::vector<std::pair<std::string, ListenerSockets>> new_listeners;  // by name, once bound
  std::vector<std::string> removed_listeners;

  void Refuse(std::string error);
};

// Asks nothing of the machine but its limit on descriptors. Any thread.
ConfigurationChange Propose(std::shared_ptr<const LoadedConfiguration> next, const LoadedConfiguration& running);
// Then, what may take four seconds where somebody is bound already: the sockets of the new listeners, which listen from now on.
void BindNewListeners(const LoadedConfiguration& running, unsigned workers, ConfigurationChange* change);

}  // namespace hud
