#include "agentd/file_watch.h"

#include <sys/inotify.h>
#include <sys/stat.h>

#include <array>

namespace hud {
namespace {

constexpr uint32_t kEvents = IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_ONLYDIR;
constexpr Duration kPollWhenWatched = std::chrono::seconds(30);  // network file systems tell inotify nothing
constexpr Duration kPollUnwatched = std::chrono::seconds(2);
constexpr size_t kReadsPerTurn = 64;

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

int64_t Nanoseconds(const timespec& time) { return static_cast<int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec; }

}  // namespace

FileWatch::FileWatch(std::vector<std::string> paths) : paths_(std::move(paths)) {
  if (!paths_.empty()) inotify_ = Fd(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  WatchDirectories();
  for (const std::string& path : paths_) signatures_.push_back(SignatureOf(path));
}

FileWatch::Signature FileWatch::SignatureOf(const std::string& path) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) return {};
  return {found.st_dev, found.st_ino, static_cast<uint64_t>(found.st_size), Nanoseconds(found.st_mtim),
          Nanoseconds(found.st_ctim)};
}

// Adding a watch that exists already is harmless, so this also picks up directories that were missing or replaced.
void FileWatch::WatchDirectories() {
  all_watched_ = static_cast<bool>(inotify_);
  for (const std::string& path : paths_) {
    if (!inotify_ || ::inotify_add_watch(inotify_.get(), DirectoryOf(path).c_str(), kEvents) < 0) all_watched_ = false;
  }
}

void FileWatch::DrainEvents() {
  if (!inotify_) return;
  alignas(inotify_event) std::array<char, 4096> events;
  for (size_t i = 0; i<kReadsPerTurn&& ::read(inotify_.get(), events.data(), events.size())> 0; ++i) {
  }
}

std::vector<size_t> FileWatch::TakeChanged() {
  DrainEvents();
  WatchDirectories();
  std::vector<size_t> changed;
  for (size_t i = 0; i < paths_.size(); ++i) {
    const Signature now = SignatureOf(paths_[i]);
    if (now == signatures_[i]) continue;
    signatures_[i] = now;
    changed.push_back(i);
  }
  return changed;
}

Duration FileWatch::PollEvery() const { return all_watched_ ? kPollWhenWatched : kPollUnwatched; }

}  // namespace hud
