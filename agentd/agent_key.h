// The file that holds a node's beacon key: made by `hud-agentd keygen NAME`, read at start. Whoever can read it can
// speak for the node, so a file that anybody but its owner can read is refused.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/beacon/beacon.h"

namespace hud {

// `node`: whose key it must be.
absl::StatusOr<AgentKey> ReadAgentKey(const std::string& path, std::string_view node);

// Draws a key and writes DIRECTORY/NAME.key, mode 0600; never overwrites. Returns the line for the proxy's keys file.
absl::StatusOr<std::string> MakeAgentKey(const std::string& directory, const std::string& name,
                                         const std::vector<std::string>& pools,
                                         const std::vector<std::string>& addresses, uint16_t weight = 0,
                                         const std::string& ticket_group = {});

}  // namespace hud
