// Writes log lines to a descriptor in a thread of its own. Whoever logs appends to a bounded buffer and never waits for
// the sink: a full pipe, a slow disk or a stopped reader costs lines, which are counted, and nothing else.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "absl/status/statusor.h"
#include "core/os/fd.h"

namespace hud {

class LogWriter {
 public:
  static constexpr size_t kBufferBytes = 4 << 20;  // twice that at most: one being filled, one being written

  explicit LogWriter(Fd sink);
  // `sink` is the file `path`, opened by OpenLogFile. After Reopen() (it has been renamed) lines go to the file that has its
  // name then.
  LogWriter(Fd sink, std::string path);
  // Waits for what is buffered for at most half a second: a sink that is stuck must not keep the process alive.
  ~LogWriter();
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  // Any thread. `line` ends with its newline. False, and counted, if the buffer is full.
  bool Append(std::string_view line);

  const std::string& path() const;  // empty: the sink is not a file of ours

  // Any thread: does not wait for it. If the file cannot be opened the sink stays, which is said on standard error at once,
  // for the sink may be a file that nobody looks at any more.
  void Reopen();
  // How the last one ended; once.
  std::optional<absl::Status> TakeReopened();
  uint64_t reopens_failed() const;

  // Lines that found the buffer full, or the sink broken.
  uint64_t dropped() const;

 private:
  struct State;
  std::shared_ptr<State> state_;  // shared with the thread, which may have to be left behind
  std::thread thread_;
};

}  // namespace hud
