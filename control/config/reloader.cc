#include "control/config/reloader.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <optional>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "control/config/beacon_keys_file.h"

namespace hud {
namespace {

void AddErrors(const absl::Status& status, ConfigurationChange* change) {
  for (absl::string_view line : absl::StrSplit(status.message(), '\n', absl::SkipEmpty())) change->Refuse(std::string(line));
}

}  // namespace

ConfigurationChange LoadChange(const std::string& path, const LoadedConfiguration& running, unsigned workers) {
  ConfigurationChange change;
  absl::StatusOr<Configuration> configuration = LoadConfiguration(path);
  if (!configuration.ok()) {  // what names the keys file may be what is wrong
    AddErrors(configuration.status(), &change);
    return change;
  }
  auto next = std::make_shared<LoadedConfiguration>(LoadedConfiguration{*std::move(configuration), running.keys});
  absl::Status keys_status;
  if (const std::string& keys_path = next->configuration.cluster.beacons.keys_path; keys_path.empty()) {
    next->keys.clear();
  } else if (absl::StatusOr<std::vector<BeaconKey>> keys = LoadBeaconKeys(keys_path); keys.ok()) {
    next->keys = *std::move(keys);
  } else {
    keys_status = keys.status();
  }
  change = Propose(std::move(next), running);
  if (!keys_status.ok()) AddErrors(keys_status, &change);
  BindNewListeners(running, workers, &change);
  return change;
}

// ---- The thread -----------------------------------------------------------------------------------------------------

struct Reloader::Shared {
  Fd finished;  // an eventfd
  std::mutex mutex;
  std::optional<ConfigurationChange> result;
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
    ConfigurationChange result = load(*running);
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
    ConfigurationChange failed;
    failed.errors.push_back(absl::StrCat("cannot start a thread to read the configuration: ", error.what()));
    owner_.done(std::move(failed));
  }
}

void Reloader::Finish() {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t n = ::read(shared_->finished.get(), &count, sizeof count);
  std::optional<ConfigurationChange> result;
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
