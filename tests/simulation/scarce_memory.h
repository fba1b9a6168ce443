// The allocator of this program: while a worker takes its turn, any request for memory may find none.
#pragma once

#include "tests/simulation/faults.h"

namespace hud::simulation {

// As long as it lives, this thread's requests for memory may fail as these faults say.
class ScarceMemory {
 public:
  explicit ScarceMemory(Faults& faults);
  ~ScarceMemory();
  ScarceMemory(const ScarceMemory&) = delete;
  ScarceMemory& operator=(const ScarceMemory&) = delete;
};

// But not what the simulation itself asks for: every call that a worker makes has one of these.
class EnoughMemory {
 public:
  EnoughMemory();
  ~EnoughMemory();
  EnoughMemory(const EnoughMemory&) = delete;
  EnoughMemory& operator=(const EnoughMemory&) = delete;
};

}  // namespace hud::simulation
