// The answer to a reload. A signal has none, so the program that reloads leaves it in a small file of its runtime folder, and
// `--reload`, which sent the signal, waits for it there. systemd's ExecReload= gets a result in this way.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/types.h"

namespace hud {

struct ReloadReport {
  int64_t pid = 0;
  uint64_t asked = 0;     // reloads that this process was asked for
  uint64_t answered = 0;  // of those, the ones that `ok` and `text` answer; all before them are answered, too
  bool ok = true;
  std::string text;  // what changed, or every error; lines

  std::string Format() const;
  static std::optional<ReloadReport> Parse(std::string_view content);
};

// Which requests a load answers: those that came before it began. One that comes during a load is answered by the next.
class ReloadCount {
 public:
  void Ask() {
    ++asked_;
    if (begun_ == answered_) begun_ = asked_;
  }
  // The load that runs is over; if more was asked for meanwhile, the next one begins.
  void Answer() {
    answered_ = begun_;
    begun_ = asked_;
  }
  uint64_t asked() const { return asked_; }
  uint64_t answered() const { return answered_; }

 private:
  uint64_t asked_ = 0, answered_ = 0, begun_ = 0;
};

// The side that reloads. In a thread that may write to the runtime folder, which is memory.
class ReloadReporter {
 public:
  // `folder`: the service manager's RUNTIME_DIRECTORY. Empty: there is none, and nothing is written.
  explicit ReloadReporter(std::string folder);
  static std::string FolderFromEnvironment();

  void Ask();
  void Answer(bool ok, std::string text);
  // Empty unless the last report could not be written; then why.
  const std::string& fault() const { return fault_; }

 private:
  void Write();

  std::string path_;
  ReloadCount count_;
  ReloadReport last_;
  std::string fault_;
};

// The side that asks: sends SIGHUP to the process whose report is in `folder` and waits for its answer. `expected`: the process
// that it must be; 0: whichever it is. The text of a reload that succeeded, or an error that says why not.
absl::StatusOr<std::string> AskForReload(const std::string& folder, pid_t expected, Duration patience);

}  // namespace hud
