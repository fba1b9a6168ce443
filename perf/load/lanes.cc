#include "perf/load/lanes.h"

#include <cerrno>

#include "perf/load/socket.h"

namespace hud::load {
namespace {

bool Add(const Fd& set, int fd, uint64_t tag, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag;
  return ::epoll_ctl(set.get(), EPOLL_CTL_ADD, fd, &event) == 0;
}

}  // namespace

absl::Status Lanes::Open() {
  quick_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  bulk_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!quick_ || !bulk_ || !Add(quick_, bulk_.get(), kBulkTag, EPOLLIN)) return SocketError("epoll", errno);
  return absl::OkStatus();
}

bool Lanes::AddQuick(int fd, uint64_t tag) { return Add(quick_, fd, tag, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET); }

bool Lanes::AddWaker(int fd, uint64_t tag) { return Add(quick_, fd, tag, EPOLLIN); }

bool Lanes::MoveToBulk(int fd, uint64_t tag, uint32_t events) {
  RemoveQuick(fd);
  return Add(bulk_, fd, tag, events | EPOLLRDHUP);
}

void Lanes::RemoveQuick(int fd) {
  ::epoll_ctl(quick_.get(), EPOLL_CTL_DEL, fd, nullptr);  // ENOENT: it was never there, which is as good
}

}  // namespace hud::load
