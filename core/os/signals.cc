#include "core/os/signals.h"

#include <sys/signalfd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace hud {

sigset_t SignalsFromOutside() {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGPWR, SIGSTKFLT,
                           SIGXCPU, SIGXFSZ}) {
    ::sigaddset(&signals, signal);
  }
  for (int signal = SIGRTMIN; signal <= SIGRTMAX; ++signal) ::sigaddset(&signals, signal);
  return signals;
}

void HoldSignals() {
  sigset_t signals = SignalsFromOutside();
  ::sigdelset(&signals, SIGTERM);
  ::sigdelset(&signals, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

absl::StatusOr<Fd> TakeSignals() {
  ::signal(SIGPIPE, SIG_IGN);
  const sigset_t signals = SignalsFromOutside();
  if (const int error = ::pthread_sigmask(SIG_BLOCK, &signals, nullptr); error != 0)
    return absl::ErrnoToStatus(error, "pthread_sigmask");
  Fd fd(::signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!fd) return absl::ErrnoToStatus(errno, "signalfd");
  return fd;
}

std::string SignalName(int signal) {
  const char* name = ::sigabbrev_np(signal);
  return name != nullptr ? absl::StrCat("SIG", name) : absl::StrCat("signal ", signal);
}

}  // namespace hud
