#include "control/config/change.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "control/config/compare.h"
#include "control/config/validate.h"

namespace hud {
namespace {

// A listener that a reload has just removed holds its addresses a little longer.
constexpr Duration kOursLeaveWithin = DataPlane::kSilentClientsCome + std::chrono::seconds(2);

constexpr char kRightsAreGone[] = "; hudsucker gives up the right to them once it serves, so a new listener there needs a restart";

bool SameKey(const BeaconKey& a, const BeaconKey& b) {
  const auto text = [](const BeaconKey& key) {
    std::string ranges = absl::StrCat(absl::StrJoin(key.pools, ","), " ", key.most_weight, " ", key.ticket_group);
    for (const AddressRange& range : key.addresses) absl::StrAppend(&ranges, " ", range.ToString());
    for (const SocketAddress& endpoint : key.endpoints) absl::StrAppend(&ranges, " ", endpoint.ToString());
    return ranges;
  };
  return a.secret == b.secret && text(a) == text(b);
}

void CompareKeys(const std::vector<BeaconKey>& from, const std::vector<BeaconKey>& to, std::vector<std::string>* changes) {
  using Keys = std::vector<const BeaconKey*>;
  std::map<std::string, std::pair<Keys, Keys>> pairs;
  for (const BeaconKey& key : from) pairs[key.node].first.push_back(&key);
  for (const BeaconKey& key : to) pairs[key.node].second.push_back(&key);
  for (const auto& [node, keys] : pairs) {
    const auto& [was, is] = keys;
    if (std::equal(was.begin(), was.end(), is.begin(), is.end(),
                   [](const BeaconKey* a, const BeaconKey* b) { return SameKey(*a, *b); })) {
      continue;
    }
    const char* what = was.empty() ? " added" : is.empty() ? " removed" : " changed";
    changes->push_back(absl::StrCat("beacon key of node ", node, what, is.size() > 1 ? ", now two" : ""));
  }
}

}  // namespace

void ConfigurationChange::Refuse(std::string error) {
  errors.push_back(std::move(error));
  changes.clear();
  next = nullptr;
  new_listeners.clear();
  removed_listeners.clear();
}

void BindNewListeners(const LoadedConfiguration& running, unsigned workers, ConfigurationChange* change) {
  if (change->next == nullptr) return;
  const std::vector<ListenerConfig>& known = running.configuration.cluster.listeners;
  const Configuration& next = change->next->configuration;
  const Instant until = std::chrono::steady_clock::now() + kOursLeaveWithin;
  std::vector<std::string> errors;
  for (size_t i = 0; i < next.cluster.listeners.size(); ++i) {
    const ListenerConfig& listener = next.cluster.listeners[i];
    if (std::ranges::any_of(known, [&](const ListenerConfig& other) { return other.name == listener.name; })) continue;
    const Duration patience = std::max<Duration>(Duration(0), until - std::chrono::steady_clock::now());
    absl::StatusOr<std::vector<ListenerSockets>> sockets = BindListeners({listener}, workers, patience);
    if (sockets.ok()) {
      change->new_listeners.emplace_back(listener.name, std::move(sockets->front()));
    } else {
      errors.push_back(absl::StrCat(next.At(absl::StrCat("listeners[", i, "].bind")), ": ", sockets.status().message(),
                                    absl::IsPermissionDenied(sockets.status()) ? kRightsAreGone : ""));
    }
  }
  for (std::string& error : errors) change->Refuse(std::move(error));
}

ConfigurationChange Propose(std::shared_ptr<const LoadedConfiguration> next, const LoadedConfiguration& running) {
  ConfigurationChange change;
  for (const ConfigurationFault& fault : Validate(next->configuration)) {
    change.errors.push_back(absl::StrCat(next->configuration.At(fault.key), ": ", fault.what));
  }
  if (!change.errors.empty()) return change;  // what is wrong in itself is not worth a comparison
  Difference difference = Compare(running.configuration, next->configuration);
  change.errors = std::move(difference.restarts);
  if (next->keys.empty() && !running.keys.empty() && !next->configuration.cluster.beacons.keys_path.empty()) {
    // More likely a file that is just being written, or was emptied by mistake, than the wish to silence all agents.
    change.errors.push_back(absl::StrCat(next->configuration.cluster.beacons.keys_path, ": no keys in it, and ", running.keys.size(),
                                         " in use; put them back, or restart to run without agents"));
  }
  if (!change.errors.empty()) return change;
  change.changes = std::move(difference.changes);
  change.removed_listeners = std::move(difference.removed_listeners);
  CompareKeys(running.keys, next->keys, &change.changes);
  change.next = std::move(next);
  return change;
}

}  // namespace hud
