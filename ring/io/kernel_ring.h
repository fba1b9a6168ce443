// The Ring that talks to the kernel. One thread creates, uses and destroys it (IORING_SETUP_SINGLE_ISSUER).
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "ring/io/kernel_features.h"
#include "ring/io/ring.h"

namespace hud {

struct KernelRingOptions {
  unsigned submission_entries = 1024;
  unsigned completion_entries = 16384;
  unsigned buffers = 256;              // power of two. 256 × 16 KiB = 4 MiB: larger no longer fits the cache
  size_t buffer_bytes = 16 * 1024;
  KernelFeatures features;
};

absl::StatusOr<std::unique_ptr<Ring>> CreateKernelRing(const KernelRingOptions& options);

}  // namespace hud
