// The hybrid rule: when a direction of a relay goes from copying small messages to bulk transfer, and back.
// Pure: the pump tells what it saw, the policy says which engine comes next.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

namespace hud {

// Which engines may move bytes: all of them by the rule below, or one by order of the configuration.
enum class RelayMode : uint8_t { kAuto, kSplice, kCopy, kZeroCopy };
inline constexpr std::pair<std::string_view, RelayMode> kRelayModeNames[] = {{"auto", RelayMode::kAuto},
                                                                             {"splice", RelayMode::kSplice},
                                                                             {"copy", RelayMode::kCopy},
                                                                             {"zerocopy", RelayMode::kZeroCopy}};

class RelayPolicy {
 public:
  // One full buffer happens to any message of that size; two in a row mean that more is waiting than one turn can
  // move. Four small transfers in a row: the pipe costs more than it saves (below 16 KB copying is cheaper).
  static constexpr int kFullBuffersToEnterBulk = 2;
  static constexpr int kSmallTransfersToLeaveBulk = 4;
  static constexpr size_t kSmallTransfer = 16 * 1024;

  // A receive by copy ended, and `more` bytes are known to be waiting behind it. True: the next should go in bulk.
  // A message that just fills a buffer is still a message.
  bool SawReceive(size_t bytes, size_t buffer_size, bool more) {
    Count(bytes == buffer_size && more);
    return run_ >= kFullBuffersToEnterBulk;
  }
  // A bulk transfer ended. True: go back to copying.
  bool SawBulkTransfer(size_t bytes) {
    Count(bytes < kSmallTransfer);
    return run_ >= kSmallTransfersToLeaveBulk;
  }
  void EngineChanged() { run_ = 0; }

 private:
  void Count(bool goes_on) { run_ = goes_on ? static_cast<uint8_t>(std::min(run_ + 1, 100)) : uint8_t{0}; }

  uint8_t run_ = 0;  // in a row, of what would change the engine; small, because every relay has two
};

// How many bytes to splice in: no more than the sink can take now, so that what a stalled sink leaves behind stays
// small; never so little that progress costs a system call per kilobyte.
inline size_t SpliceChunk(size_t pipe_capacity, int64_t sink_send_buffer, int64_t sink_queued) {
  constexpr int64_t kLeast = 16 * 1024;
  const int64_t room = std::max<int64_t>(sink_send_buffer - sink_queued, kLeast);
  return std::min<size_t>(pipe_capacity, static_cast<size_t>(room));
}

}  // namespace hud
