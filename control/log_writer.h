// Writes log lines to a descriptor in a thread of its own. Whoever logs appends to a bounded buffer and never waits for
// the sink: a full pipe, a slow disk or a stopped reader costs lines, which are counted, and nothing else.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "absl/status/statusor.h"
#include "core/fd.h"

namespace hud {

class LogWriter {
 public:
  static constexpr size_t kBufferBytes = 4 << 20;  // twice that at most: one being filled, one being written

  explicit LogWriter(Fd sink);
  // Appends to a file. After Reopen() (SIGHUP: the old one has been renamed) to the file that has its name then.
  static absl::StatusOr<Fd> OpenFile(const std::string& path);
  LogWriter(Fd sink, std::string path);
  // Waits for what is buffered for at most half a second: a sink that is stuck must not keep the process alive.
  ~LogWriter();
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  // Any thread. `line` ends with its newline. False, and counted, if the buffer is full.
  bool Append(std::string_view line);

  // Any thread: does not wait for it. Without a path, or if the file cannot be opened, the sink stays.
  void Reopen();

  // Lines that found the buffer full, or the sink broken.
  uint64_t dropped() const;

 private:
  struct State;
  std::shared_ptr<State> state_;  // shared with the thread, which may have to be left behind
  std::thread thread_;
};

}  // namespace hud
