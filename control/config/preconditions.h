// What must hold of this machine before hudsucker can start with a configuration. One list, for `--check` and for the start,
// so that neither says "ok" to what the other refuses. Nothing here changes anything but this process's own limits: a running
// instance is not disturbed, no file is created, no address stays bound.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "control/config/configuration.h"

namespace hud {

struct Finding {
  enum class Kind : uint8_t {
    kError,    // a start fails
    kWarning,  // a start succeeds, and something will not work
    kPassing,  // it fails now, and may not when it starts: an address in use (by the instance that runs), rights that the one who
               // checks lacks. The start meets it a moment later by itself.
  };
  Kind kind;
  std::string text;  // with the place in the file: "hudsucker.yaml:12: log.file: …"
};

struct Precondition {
  enum class Stage : uint8_t { kAsStarted, kAsUser };  // before and after `user:` is taken on
  const char* name;
  Stage stage;
  void (*examine)(const Configuration& configuration, std::vector<Finding>* findings);
};

std::span<const Precondition> Preconditions();

// All of a stage, in order.
std::vector<Finding> Examine(Precondition::Stage stage, const Configuration& configuration);

// How many workers `workers:` asks for on this machine.
unsigned WorkersFor(const Configuration& configuration);

// Raises this process's limits as far as the configuration needs and the rights allow. Returns the one on descriptors.
size_t RaiseLimits(const Configuration& configuration);

}  // namespace hud
