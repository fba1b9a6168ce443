#include "control/process/event_loop.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace hud {

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create() {
  Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return absl::InternalError(absl::StrCat("cannot create an epoll descriptor: ", std::strerror(errno)));
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(epoll)));
}

EventLoop::Id EventLoop::Add(int fd, uint32_t events, Handler handler) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = last_id_ + 1;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return Id::kNone;
  watched_.emplace(++last_id_, Watched{fd, std::make_shared<Handler>(std::move(handler))});
  return Id{last_id_};
}

void EventLoop::Change(Id id, uint32_t events) {
  const auto it = watched_.find(static_cast<uint64_t>(id));
  if (it == watched_.end()) return;
  epoll_event event{};
  event.events = events;
  event.data.u64 = it->first;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, it->second.fd, &event);
}

void EventLoop::Remove(Id id) {
  const auto it = watched_.find(static_cast<uint64_t>(id));
  if (it == watched_.end()) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, it->second.fd, nullptr);
  watched_.erase(it);
}

size_t EventLoop::RunOnce(Duration timeout) {
  // Rounded up: a timeout of less than a millisecond must not become a spin.
  const auto millis = std::chrono::ceil<std::chrono::milliseconds>(std::max(timeout, Duration(0))).count();
  std::array<epoll_event, 64> events;
  const int n = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                             static_cast<int>(std::min<int64_t>(millis, 60'000)));
  for (int i = 0; i < n; ++i) {
    const auto it = watched_.find(events[static_cast<size_t>(i)].data.u64);
    if (it == watched_.end()) continue;
    const std::shared_ptr<Handler> handler = it->second.handler;
    (*handler)(events[static_cast<size_t>(i)].events);
  }
  return n > 0 ? static_cast<size_t>(n) : 0;
}

}  // namespace hud
