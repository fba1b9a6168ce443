#include "ring/io/kernel_features.h"

#include <sys/utsname.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace hud {
namespace {

// Setup flags from best to plain. Each rung needs a newer kernel; without any of the first two every completion
// interrupts the thread, which costs a third more.
constexpr unsigned kRungs[] = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,  // 6.1
    IORING_SETUP_COOP_TASKRUN,                                // 5.19
};

// For what no probe tells: a flag of an operation that exists.
bool KernelIsAtLeast(int major, int minor) {
  utsname name{};
  int found_major = 0, found_minor = 0;
  if (uname(&name) != 0 || std::sscanf(name.release, "%d.%d", &found_major, &found_minor) != 2) return false;
  return found_major > major || (found_major == major && found_minor >= minor);
}

absl::Status CannotSetUp(int error) {
  switch (error) {
    case ENOSYS:
      return absl::UnavailableError(
          "there is no io_uring here, which hudsucker is built on: use Linux 5.19 or newer, or, in a container (Podman answers "
          "like a kernel without it), allow it in the seccomp profile");
    case EPERM:
    case EACCES:
      return absl::UnavailableError(
          "io_uring is forbidden here: set the sysctl kernel.io_uring_disabled to 0, or allow it in the container's seccomp profile");
    case ENOMEM:
      return absl::UnavailableError("no locked memory for an io_uring: raise the limit (ulimit -l, LimitMEMLOCK=)");
    default:
      return absl::UnavailableError(absl::StrCat("cannot set up an io_uring: ", std::strerror(error)));
  }
}

}  // namespace

std::string KernelFeatures::Describe() const {
  return absl::StrCat("io_uring: ", (setup_flags & IORING_SETUP_DEFER_TASKRUN) ? "deferred task work" : "cooperative task work (Linux 6.1 would be better)",
                      zero_copy_send ? ", zero-copy send" : ", no zero-copy send (needs Linux 6.0)",
                      zero_copy_send && !zero_copy_usage ? " without usage report (needs Linux 6.2)" : "",
                      bounded_multishot_recv ? ", bounded multishot receive" : ", single receives (multishot needs Linux 6.17)",
                      silent_sends ? ", silent sends" : ", a completion for each send (needs Linux 6.1)",
                      minimum_wait ? ", batched waits" : ", no batched waits (needs Linux 6.12)");
}

absl::StatusOr<KernelFeatures> ProbeFeatures() {
  KernelFeatures features;
  io_uring ring{};
  int error = -EINVAL;
  for (unsigned flags : kRungs) {
    error = io_uring_queue_init(8, &ring, flags);
    if (error == 0) {
      features.setup_flags = flags;
      break;
    }
    if (error != -EINVAL) break;
  }
  if (error == -EINVAL) {
    return absl::UnavailableError("this kernel's io_uring is too old for hudsucker: use Linux 5.19 or newer");
  }
  if (error < 0) return CannotSetUp(-error);
  features.bounded_multishot_recv = KernelIsAtLeast(6, 17);
  features.silent_sends = KernelIsAtLeast(6, 1);
  features.minimum_wait = (ring.features & IORING_FEAT_MIN_TIMEOUT) != 0;
  if (io_uring_probe* probe = io_uring_get_probe_ring(&ring); probe != nullptr) {
    features.zero_copy_send = io_uring_opcode_supported(probe, IORING_OP_SEND_ZC) != 0;
    features.zero_copy_usage = features.zero_copy_send && KernelIsAtLeast(6, 2);
    io_uring_free_probe(probe);
  }
  io_uring_queue_exit(&ring);
  return features;
}

}  // namespace hud
