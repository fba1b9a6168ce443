// Who besides this process may read or change a file that holds keys, as its owner, group and mode say. One rule for the
// proxy's keys file and the agent's keys.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hud {

struct FileRights {
  uint32_t mode = 0;  // of permissions: 0640
  uint32_t owner = 0;
  uint32_t group = 0;
};

struct ProcessIdentity {
  uint32_t user = 0;
  std::vector<uint32_t> groups;  // its own and the supplementary ones
};

// Empty if nobody may; else who may do what, and what to do. Good are a file that only its owner (root, or this process's user)
// may read, and one of root's that a group of this process may read and not write: so are keys given to an unprivileged user
// that must not change them, and so does Kubernetes mount a Secret (root, fsGroup, mode 0440).
std::string WhoElseMayUse(const FileRights& file, const ProcessIdentity& us, const std::string& path);

}  // namespace hud
