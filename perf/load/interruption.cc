#include "perf/load/interruption.h"

#include <poll.h>
#include <sys/signalfd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "perf/load/socket.h"

namespace hud::load {

absl::StatusOr<Interruption> Interruption::Expect() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  Fd fd(::signalfd(-1, &signals, SFD_CLOEXEC));
  if (!fd) return SocketError("signalfd", errno);
  return Interruption(std::move(fd));
}

int Interruption::WaitFor(Duration time) const {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(std::max(time, Duration::zero()));
  const timespec timeout = {.tv_sec = seconds.count(), .tv_nsec = std::max<int64_t>((time - seconds).count(), 0)};
  pollfd waited = {.fd = signals_.get(), .events = POLLIN, .revents = 0};
  return ::ppoll(&waited, 1, &timeout, nullptr) > 0 ? Taken() : 0;
}

int Interruption::WaitForEndOf(int input) const {
  for (;;) {
    pollfd waited[] = {{.fd = signals_.get(), .events = POLLIN, .revents = 0},
                       {.fd = input, .events = POLLIN, .revents = 0}};
    if (::poll(waited, 2, -1) < 0) continue;  // EINTR: stopped and continued
    if (waited[0].revents != 0) return Taken();
    char bytes[64];
    if (waited[1].revents != 0 && ::read(input, bytes, sizeof(bytes)) <= 0) return 0;
  }
}

int Interruption::Taken() const {
  signalfd_siginfo info{};
  const bool taken = ::read(signals_.get(), &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info));
  return taken ? static_cast<int>(info.ssi_signo) : 0;
}

}  // namespace hud::load
