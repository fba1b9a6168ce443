// SIGINT and SIGTERM as something to wait for, so that they end a measurement and do not lose it.
#pragma once

#include "absl/status/statusor.h"
#include "core/base/types.h"
#include "core/os/fd.h"

namespace hud::load {

class Interruption {
 public:
  // To be made before any other thread, which else would take the signals as they come.
  static absl::StatusOr<Interruption> Expect();

  // Each is the signal's number, or 0: the time is over; the input has ended.
  int WaitFor(Duration time) const;
  int WaitForEndOf(int input) const;

 private:
  explicit Interruption(Fd signals) : signals_(std::move(signals)) {}
  int Taken() const;

  Fd signals_;
};

}  // namespace hud::load
