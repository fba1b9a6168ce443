// `hudsucker --listen ADDR… --node ADDR… [--status ADDR]`: one listener, one pool, everything else as it is by default.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "control/config/configuration.h"

namespace hud {

// All errors at once, a line each. `status` may be empty.
absl::StatusOr<Configuration> QuickStart(const std::vector<std::string>& listen, const std::vector<std::string>& nodes,
                                         const std::string& status);

// What is wrong with the program's arguments that its parser of options would say badly: an option that there is not, or a
// file without its option, and what to write instead. Empty if there is nothing of that kind.
std::string ExplainArguments(const std::vector<std::string>& arguments);

}  // namespace hud
