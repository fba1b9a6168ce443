// The system calls that a program of ours may make once it serves. Whoever gets the program to run his own code finds that it
// starts no program, looks into no other process, and reaches only those parts of the kernel that the program itself uses.
//
//   a call that it makes           allowed; the kernel remembers that and runs no filter for it
//   any other                      fails with ENOSYS, as with a kernel that is too old for it: a newer libc then does without
//   one that only an attack makes  ends the process (SIGSYS): execve, ptrace, mount, bpf, becoming another user, …
//
// What the ring is asked for is no system call: io_uring_enter is one, and what is in the ring is not seen by a filter.
#pragma once

#include "absl/status/status.h"

namespace hud {

// For good, and for all threads that there are and will be. An error says why the kernel would not; nothing has changed then.
// Unimplemented: built without, for a sanitizer.
absl::Status EnterSandbox();

}  // namespace hud
