// Tells when files have changed: written in place, replaced by rename, swapped through a symbolic link, or made anew.
// inotify on their directories only wakes us; what decides is the file itself (device, inode, size, times), so nothing
// depends on how it was replaced. Where inotify is not to be had, or a directory is missing, polling alone finds it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/types.h"
#include "core/os/fd.h"

namespace hud {

class FileWatch {
 public:
  explicit FileWatch(std::vector<std::string> paths);

  int fd() const { return inotify_.get(); }  // readable: something happened near a file; -1: poll only
  // To be called when fd() is readable, so that it is not any more. A file that is being written is not whole yet: call
  // TakeChanged kSettle later.
  void DrainEvents();
  static constexpr Duration kSettle = std::chrono::milliseconds(100);
  // Indices of the paths that have changed since the last call. Cheap: one stat a file.
  std::vector<size_t> TakeChanged();
  // How often to call TakeChanged without a wake-up.
  Duration PollEvery() const;

 private:
  struct Signature {
    uint64_t device = 0, inode = 0, size = 0;
    int64_t modified_ns = 0, changed_ns = 0;
    bool operator==(const Signature&) const = default;
  };
  static Signature SignatureOf(const std::string& path);
  void WatchDirectories();

  std::vector<std::string> paths_;
  std::vector<Signature> signatures_;
  Fd inotify_;
  bool all_watched_ = false;
};

}  // namespace hud
