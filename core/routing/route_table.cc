#include "core/routing/route_table.h"

namespace hud {

std::string_view NodeVerdicts::StateName() const {
  if (!reachable || by_operator == OperatorVerdict::kOff) return "down";
  if (agent == AgentVerdict::kNotReady || agent == AgentVerdict::kDead) return "down";
  if (agent == AgentVerdict::kDying || by_operator == OperatorVerdict::kDraining) return "draining";
  if (ejected) return "ejected";
  if (Silent()) return "silent";
  return unknown ? "unknown" : "up";
}

}  // namespace hud
