// Signals, read from a descriptor instead of interrupting. No signal that somebody sends ends either program without a word:
// habits from other servers (SIGQUIT and SIGUSR2 of nginx, SIGUSR1 in an imported logrotate line) must not cost connections.
#pragma once

#include <signal.h>

#include <string>

#include "absl/status/statusor.h"
#include "core/os/fd.h"

namespace hud {

// All whose default is to end the process and that come from outside: SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, timers,
// limits, real-time signals. Not those by which the kernel says that the program is broken, nor SIGPIPE, nor job control.
sigset_t SignalsFromOutside();

// Blocks them, for this thread and all that it starts, but for SIGTERM and SIGINT: a start can be broken off. Those that come
// meanwhile wait to be read.
void HoldSignals();

// Blocks all of them and gives the descriptor that they are read from (signalfd_siginfo). SIGPIPE is ignored.
absl::StatusOr<Fd> TakeSignals();

// "SIGUSR2"; of one without a name "signal 40".
std::string SignalName(int signal);

}  // namespace hud
