// A small epoll loop for one thread: descriptors and what to call when they are ready. Level-triggered.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "core/base/types.h"
#include "core/os/fd.h"

namespace hud {

class EventLoop {
 public:
  using Handler = std::function<void(uint32_t events)>;
  // Not a descriptor: numbers are reused, and an event of this turn may be for what an earlier handler has removed.
  enum class Id : uint64_t { kNone = 0 };

  static absl::StatusOr<std::unique_ptr<EventLoop>> Create();

  // The descriptor stays its owner's, who calls Remove before closing it. kNone if the kernel refuses (no memory).
  Id Add(int fd, uint32_t events, Handler handler);
  void Change(Id id, uint32_t events);
  void Remove(Id id);
  size_t size() const { return watched_.size(); }

  // Waits for at most `timeout` and calls the handlers of at most 64 ready descriptors. Returns how many there were.
  size_t RunOnce(Duration timeout);

 private:
  explicit EventLoop(Fd epoll) : epoll_(std::move(epoll)) {}

  struct Watched {
    int fd;
    std::shared_ptr<Handler> handler;  // a handler may remove itself while it runs
  };
  Fd epoll_;
  uint64_t last_id_ = 0;
  std::unordered_map<uint64_t, Watched> watched_;
};

}  // namespace hud
