// What the step from one configuration to another means for a process that runs: what it cannot take on, and what changes.
#pragma once

#include <string>
#include <vector>

#include "control/config/configuration.h"

namespace hud {

struct Difference {
  std::vector<std::string> restarts;  // what needs one, each with its place in `to`; none: a running process can take it on
  std::vector<std::string> changes;   // a sentence each, for the log: "pool web: node n4 10.0.0.14:8443 added"
  std::vector<std::string> removed_listeners;
};

// Both are valid.
Difference Compare(const Configuration& from, const Configuration& to);

}  // namespace hud
