// What must hold of the values of a configuration, whoever wrote them: a file, the options of the quick start, an order. Whoever changes
// a configuration asks here before anything else. What a text has to look like is checked where the text is read (core/yaml).
#pragma once

#include <string>
#include <vector>

#include "control/config/configuration.h"

namespace hud {

struct ConfigurationFault {
  std::string key;     // as in the file, elements by number: "listeners[0].bind[1]"
  std::string what;    // is wrong, and what to do
  std::string unless;  // not worth a word where this key is wrong already; empty: always
};

// All there are. A value that is absent (an empty name, an address of no family) has no fault: whoever could not read it has said so.
// Other places of the configuration are named as configuration.source knows them.
std::vector<ConfigurationFault> Validate(const Configuration& configuration);

// A warning for each listener that takes anybody's PROXY header without a word that it should.
std::vector<std::string> UnguardedProxyHeaders(const Configuration& configuration);

}  // namespace hud
