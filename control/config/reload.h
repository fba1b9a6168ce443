// SIGHUP: the configuration and the keys file are read and checked in a thread of their own (a file may be on a disk that
// hangs), compared with what runs, and handed back whole or not at all (ReloadIsAllOrNothing).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "control/config/configuration.h"
#include "control/process/event_loop.h"
#include "core/beacon/beacon.h"
#include "core/os/fd.h"

namespace hud {

// Immutable once loaded.
struct LoadedConfiguration {
  Configuration configuration;
  std::vector<BeaconKey> keys;
};

struct ReloadResult {
  std::vector<std::string> errors;   // all there are; then `loaded` is null
  std::vector<std::string> changes;  // a sentence each
  std::shared_ptr<const LoadedConfiguration> loaded;
};

// Reads and checks everything there is to check without changing anything. `running` null: the first start, nothing to
// compare with.
ReloadResult LoadConfigurationAndKeys(const std::string& path, const LoadedConfiguration* running);

// What a reader of the log wants to know: "pool web: node n4 10.0.0.14:8443 added".
std::vector<std::string> DescribeChanges(const LoadedConfiguration& from, const LoadedConfiguration& to);

class Reloader {
 public:
  struct Owner {
    // In a thread of its own: uses nothing but what it has copied.
    std::function<ReloadResult(const LoadedConfiguration& running)> load;
    // In the loop's thread: what a load is compared with, and what becomes of its result.
    std::function<std::shared_ptr<const LoadedConfiguration>()> running;
    std::function<void(ReloadResult)> done;
  };

  // `loop` outlives the reloader.
  static absl::StatusOr<std::unique_ptr<Reloader>> Create(EventLoop* loop, Owner owner);
  ~Reloader();  // does not wait for a load that hangs

  // One load at a time; requests during it make one more follow, compared with what runs then.
  void Request();

 private:
  struct Shared;
  Reloader(EventLoop* loop, Owner owner, std::shared_ptr<Shared> shared);
  void Begin();
  void Finish();

  EventLoop* loop_;
  Owner owner_;
  std::shared_ptr<Shared> shared_;  // with the thread, which may have to be left behind
  EventLoop::Id watch_ = EventLoop::Id::kNone;
  std::thread thread_;
  bool again_ = false;
};

}  // namespace hud
