// The keys file: who may send beacons. Secrets, so a file that others can read is refused.
#pragma once

#include <sys/stat.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/beacon.h"

namespace hud {

// Opens, checks who may read it, and parses. Errors name the file, and the line where there is one. `our_group`: of the user
// that the process runs as, or will.
absl::StatusOr<std::vector<BeaconKey>> LoadBeaconKeys(const std::string& path, gid_t our_group);

// Nobody but its owner may read or write it; or it is root's, and the group that may read it (only read) is the one this
// process runs as: so it can be given to an unprivileged `user` without being writable by it.
absl::Status CheckSecretFile(const struct stat& info, gid_t our_group, const std::string& path);

}  // namespace hud
