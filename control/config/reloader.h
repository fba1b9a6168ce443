// SIGHUP: the configuration and the keys file are read and checked in a thread of their own (a file may be on a disk that
// hangs), compared with what runs, and handed back whole or not at all (ReloadIsAllOrNothing).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "control/config/change.h"
#include "control/process/event_loop.h"
#include "core/os/fd.h"

namespace hud {

// The configuration at `path`, with its keys, as a change of what runs, its new listeners bound. Changes nothing else.
// Of `workers` each gets a socket of every new listener.
ConfigurationChange LoadChange(const std::string& path, const LoadedConfiguration& running, unsigned workers);

class Reloader {
 public:
  struct Owner {
    // In a thread of its own: uses nothing but what it has copied.
    std::function<ConfigurationChange(const LoadedConfiguration& running)> load;
    // In the loop's thread: what a load is compared with, and what becomes of its result.
    std::function<std::shared_ptr<const LoadedConfiguration>()> running;
    std::function<void(ConfigurationChange)> done;
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
