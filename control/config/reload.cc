#include "control/config/reload.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "control/config/beacon_keys_file.h"

namespace hud {
namespace {

void AddErrors(const absl::Status& status, std::vector<std::string>* errors) {
  for (absl::string_view line : absl::StrSplit(status.message(), '\n', absl::SkipEmpty())) errors->emplace_back(line);
}

// The elements of `from` and `to` by name, side by side; null where one is missing.
template <typename T>
std::map<std::string, std::pair<const T*, const T*>> SideBySide(const std::vector<T>& from, const std::vector<T>& to) {
  std::map<std::string, std::pair<const T*, const T*>> pairs;
  for (const T& item : from) pairs[item.name].first = &item;
  for (const T& item : to) pairs[item.name].second = &item;
  return pairs;
}

bool SameSettings(const PoolConfig& a, const PoolConfig& b) {
  return a.balance == b.balance && a.when_none == b.when_none && a.proxy_protocol == b.proxy_protocol &&
         a.load_bound == b.load_bound && a.load_bound_floor == b.load_bound_floor && a.slow_start == b.slow_start &&
         a.check == b.check && a.health_interval == b.health_interval && a.eject == b.eject;
}

bool SameKey(const BeaconKey& a, const BeaconKey& b) {
  const auto text = [](const BeaconKey& key) {
    std::string ranges = absl::StrCat(absl::StrJoin(key.pools, ","), " ", key.most_weight, " ", key.ticket_group);
    for (const AddressRange& range : key.addresses) absl::StrAppend(&ranges, " ", range.ToString());
    for (const SocketAddress& endpoint : key.endpoints) absl::StrAppend(&ranges, " ", endpoint.ToString());
    return ranges;
  };
  return a.secret == b.secret && text(a) == text(b);
}

void DescribeListener(const ListenerConfig& from, const ListenerConfig& to, std::vector<std::string>* changes) {
  if (from.routes != to.routes || from.default_pool != to.default_pool) {
    changes->push_back(absl::StrCat("listener ", to.name, ": routes changed, now ", to.routes.size()));
  }
  if (from.hello_deadline != to.hello_deadline || from.hello_max_bytes != to.hello_max_bytes ||
      from.accept_proxy_protocol != to.accept_proxy_protocol) {
    changes->push_back(absl::StrCat("listener ", to.name, ": settings changed"));
  }
}

void DescribePool(const PoolConfig& from, const PoolConfig& to, std::vector<std::string>* changes) {
  if (!SameSettings(from, to)) changes->push_back(absl::StrCat("pool ", to.name, ": settings changed"));
  for (const auto& [name, nodes] : SideBySide(from.nodes, to.nodes)) {
    const auto& [was, is] = nodes;
    const std::string node = absl::StrCat("pool ", to.name, ": node ", name);
    if (was == nullptr) {
      changes->push_back(absl::StrCat(node, " ", is->address.ToString(), " added"));
    } else if (is == nullptr) {
      changes->push_back(absl::StrCat(node, " removed"));
    } else if (!(was->address == is->address)) {
      changes->push_back(absl::StrCat(node, " moved to ", is->address.ToString()));
    } else if (was->weight != is->weight) {
      changes->push_back(absl::StrCat(node, " has weight ", is->weight, ", had ", was->weight));
    }
  }
}

void DescribeKeys(const std::vector<BeaconKey>& from, const std::vector<BeaconKey>& to, std::vector<std::string>* changes) {
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

ReloadResult LoadConfigurationAndKeys(const std::string& path, const LoadedConfiguration* running) {
  ReloadResult result;
  absl::StatusOr<Configuration> configuration = LoadConfiguration(path);
  if (!configuration.ok()) {
    AddErrors(configuration.status(), &result.errors);
    return result;  // what names the keys file may be what is wrong
  }
  auto loaded = std::make_shared<LoadedConfiguration>();
  loaded->configuration = *std::move(configuration);
  if (running != nullptr) AddErrors(CheckReload(running->configuration, loaded->configuration), &result.errors);
  if (const std::string& keys_path = loaded->configuration.cluster.beacons.keys_path; !keys_path.empty()) {
    absl::StatusOr<std::vector<BeaconKey>> keys = LoadBeaconKeys(keys_path);
    if (keys.ok() && keys->empty() && running != nullptr && !running->keys.empty()) {
      // More likely a file that is just being written, or was emptied by mistake, than the wish to silence all agents.
      result.errors.push_back(absl::StrCat(keys_path, ": no keys in it, and ", running->keys.size(),
                                           " in use; put them back, or restart to run without agents"));
    } else if (keys.ok()) {
      loaded->keys = *std::move(keys);
    } else {
      AddErrors(keys.status(), &result.errors);
    }
  }
  if (!result.errors.empty()) return result;
  if (running != nullptr) result.changes = DescribeChanges(*running, *loaded);
  result.loaded = std::move(loaded);
  return result;
}

std::vector<std::string> DescribeChanges(const LoadedConfiguration& from, const LoadedConfiguration& to) {
  std::vector<std::string> changes;
  const ClusterConfig& was = from.configuration.cluster;
  const ClusterConfig& is = to.configuration.cluster;
  for (const auto& [name, listeners] : SideBySide(was.listeners, is.listeners)) {
    if (listeners.first != nullptr && listeners.second != nullptr) {
      DescribeListener(*listeners.first, *listeners.second, &changes);
    }
  }
  for (const auto& [name, pools] : SideBySide(was.pools, is.pools)) {
    if (pools.first == nullptr) {
      changes.push_back(absl::StrCat("pool ", name, " added, with ", pools.second->nodes.size(), " static nodes"));
    } else if (pools.second == nullptr) {
      changes.push_back(absl::StrCat("pool ", name, " removed"));
    } else {
      DescribePool(*pools.first, *pools.second, &changes);
    }
  }
  if (!(from.configuration.watchdog == to.configuration.watchdog)) changes.push_back("watchdog changed");
  if (!(was.timeouts == is.timeouts)) changes.push_back("timeouts changed");
  if (was.beacons.dead_after != is.beacons.dead_after) changes.push_back("beacons.dead_after changed");
  if (was.affinity.token_ttl != is.affinity.token_ttl) changes.push_back("affinity.token_ttl changed");
  if (from.configuration.status_hosts != to.configuration.status_hosts) changes.push_back("status.hosts changed");
  if (was.fall != is.fall || was.dial_attempts != is.dial_attempts) changes.push_back("dialing changed");
  DescribeKeys(from.keys, to.keys, &changes);
  return changes;
}

// ---- The thread -----------------------------------------------------------------------------------------------------

struct Reloader::Shared {
  Fd finished;  // an eventfd
  std::mutex mutex;
  std::optional<ReloadResult> result;
};

absl::StatusOr<std::unique_ptr<Reloader>> Reloader::Create(EventLoop* loop, Owner owner) {
  auto shared = std::make_shared<Shared>();
  shared->finished = Fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!shared->finished) return absl::InternalError(absl::StrCat("cannot create an eventfd: ", std::strerror(errno)));
  auto reloader = std::unique_ptr<Reloader>(new Reloader(loop, std::move(owner), std::move(shared)));
  Reloader* raw = reloader.get();
  reloader->watch_ = loop->Add(raw->shared_->finished.get(), EPOLLIN, [raw](uint32_t) { raw->Finish(); });
  if (reloader->watch_ == EventLoop::Id::kNone) return absl::InternalError("cannot watch the reloader's eventfd");
  return reloader;
}

Reloader::Reloader(EventLoop* loop, Owner owner, std::shared_ptr<Shared> shared)
    : loop_(loop), owner_(std::move(owner)), shared_(std::move(shared)) {}

Reloader::~Reloader() {
  loop_->Remove(watch_);
  if (thread_.joinable()) thread_.detach();
}

void Reloader::Request() {
  if (thread_.joinable()) {
    again_ = true;
  } else {
    Begin();
  }
}

// The thread holds copies of all that it uses.
void Reloader::Begin() {
  const auto work = [shared = shared_, load = owner_.load, running = owner_.running()] {
    ReloadResult result = load(*running);
    {
      std::lock_guard lock(shared->mutex);
      shared->result = std::move(result);
    }
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(shared->finished.get(), &one, sizeof one);
  };
  try {
    thread_ = std::thread(work);
  } catch (const std::system_error& error) {  // out of threads or memory: no reason to end
    ReloadResult failed;
    failed.errors.push_back(absl::StrCat("cannot start a thread to read the configuration: ", error.what()));
    owner_.done(std::move(failed));
  }
}

void Reloader::Finish() {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t n = ::read(shared_->finished.get(), &count, sizeof count);
  std::optional<ReloadResult> result;
  {
    std::lock_guard lock(shared_->mutex);
    result = std::exchange(shared_->result, std::nullopt);
  }
  if (!result) return;
  thread_.join();
  owner_.done(*std::move(result));
  if (std::exchange(again_, false)) Begin();
}

}  // namespace hud
