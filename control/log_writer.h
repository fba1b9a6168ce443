// Writes log lines to a descriptor in a thread of its own. Whoever logs appends to a bounded buffer and never waits for
// the sink: a full pipe, a slow disk or a stopped reader costs lines, which are counted, and nothing else.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>
#include <thread>

#include "core/fd.h"

namespace hud {

class LogWriter {
 public:
  static constexpr size_t kBufferBytes = 4 << 20;  // twice that at most: one being filled, one being written

  explicit LogWriter(Fd sink);
  // Waits for what is buffered for at most half a second: a sink that is stuck must not keep the process alive.
  ~LogWriter();
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  // Any thread. `line` ends with its newline. False, and counted, if the buffer is full.
  bool Append(std::string_view line);

  // Lines that found the buffer full, or the sink broken.
  uint64_t dropped() const;

 private:
  struct State;
  std::shared_ptr<State> state_;  // shared with the thread, which may have to be left behind
  std::thread thread_;
};

}  // namespace hud
