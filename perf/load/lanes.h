// Which connections are ready, in two lanes. What exchanges small messages is told on edges and served first; what
// moves bulk is told as long as it can go on (level-triggered), a few at a time, so that a small message never waits
// for a whole round of large ones and the latency that is measured is the proxy's.
#pragma once

#include <sys/epoll.h>

#include <array>
#include <cstdint>
#include <ctime>

#include "absl/status/status.h"
#include "core/os/fd.h"

namespace hud::load {

class Lanes {
 public:
  absl::Status Open();

  // `tag` comes back with each event. Readable, writable and ended, on edges.
  bool AddQuick(int fd, uint64_t tag);
  // Level-triggered among the quick ones: a listener, an eventfd.
  bool AddWaker(int fd, uint64_t tag);
  // `events`: EPOLLIN or EPOLLOUT.
  bool MoveToBulk(int fd, uint64_t tag, uint32_t events);
  // A quick one, for another thread to wait for. Nothing happens when it is not there.
  void RemoveQuick(int fd);

  // Waits until something is ready, no longer than `timeout` (null: for ever), and calls handle(tag, events) for each.
  template <typename Handle>
  void Wait(const timespec* timeout, Handle&& handle) {
    bool bulk = false;
    const int count = ::epoll_pwait2(quick_.get(), events_.data(), static_cast<int>(events_.size()), timeout, nullptr);
    for (int i = 0; i < count; ++i) {
      const epoll_event event = events_[static_cast<size_t>(i)];
      if (event.data.u64 == kBulkTag) {
        bulk = true;
      } else {
        handle(event.data.u64, event.events);
      }
    }
    if (!bulk) return;
    const int moving = ::epoll_wait(bulk_.get(), events_.data(), kBulkTurn, 0);
    for (int i = 0; i < moving; ++i) {
      const epoll_event event = events_[static_cast<size_t>(i)];
      handle(event.data.u64, event.events);
    }
  }

 private:
  static constexpr uint64_t kBulkTag = ~uint64_t{0};
  static constexpr int kBulkTurn = 4;  // 256 KiB each

  Fd quick_;
  Fd bulk_;  // itself a member of quick_
  std::array<epoll_event, 256> events_;
};

}  // namespace hud::load
