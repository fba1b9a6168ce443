// What to write where, when a node needs an exact feed and has none: for the agent's file, and for the servers that we know.
// Each line can be copied as it stands: nothing in it has to be escaped in a log.
#pragma once

#include <string>
#include <vector>

namespace hud {

// `beside_tickets`: the server has tickets, too, and only sessions of TLS 1.2 are in its cache.
std::vector<std::string> FeedAdvice(const std::string& node, bool beside_tickets);

}  // namespace hud
