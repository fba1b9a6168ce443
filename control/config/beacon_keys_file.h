// The keys file: who may send beacons. Secrets, so a file that others can read is refused.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/beacon/beacon.h"

namespace hud {

// Opens, checks who may read it, and parses, as the user and groups that this process has. Errors name the file, and the line
// where there is one.
absl::StatusOr<std::vector<BeaconKey>> LoadBeaconKeys(const std::string& path);

}  // namespace hud
