// Constants of newer kernels that Debian 12's liburing 2.3 does not know, and what was found at start-up.
#pragma once

// Never <linux/io_uring.h>: in C++ its io_uring_buf_ring begins with an empty struct of one byte, so that the buffers
// come to stand 8 bytes too far, and the kernel finds none. liburing's copy of the header is right.
#include <liburing.h>

#include <string>

#include "absl/status/statusor.h"

namespace hud {

#ifndef IORING_SEND_ZC_REPORT_USAGE
#define IORING_SEND_ZC_REPORT_USAGE (1U << 3)  // 6.2
#endif
#ifndef IORING_FEAT_MIN_TIMEOUT
#define IORING_FEAT_MIN_TIMEOUT (1U << 15)  // 6.12
#endif

struct KernelFeatures {
  unsigned setup_flags = 0;    // the best rung that the kernel took
  bool zero_copy_send = false; // IORING_OP_SEND_ZC, 6.0
  bool zero_copy_usage = false;  // IORING_SEND_ZC_REPORT_USAGE, 6.2
  bool bounded_multishot_recv = false;  // sqe->optlen of a multishot receive, 6.17
  bool minimum_wait = false;     // io_uring_getevents_arg::min_wait_usec, 6.12
  bool silent_sends = false;     // a short send that was to be whole completes with what it sent, 6.1
  std::string Describe() const;
};

// Sets up a small ring and asks. An error is one sentence: what is missing and what to do.
absl::StatusOr<KernelFeatures> ProbeFeatures();

}  // namespace hud
