// Says in the log that a limit was reached: a warning with what happened since the last one, at most one each ten seconds
// for each limit.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "core/base/types.h"
#include "core/report/worker_counters.h"

namespace hud {

class LimitWatch {
 public:
  static constexpr Duration kEvery = std::chrono::seconds(10);

  struct Warning {
    std::string_view message;
    std::vector<std::pair<std::string_view, int64_t>> counts;  // since the last warning of this kind; never all zero
    bool names_source = false;  // who made room or was refused last is worth a word
  };

  explicit LimitWatch(std::vector<const WorkerCounters*> workers) : workers_(std::move(workers)) {}

  // What is to be said now.
  std::vector<Warning> Look(Instant now);

 private:
  static constexpr size_t kKinds = 5;

  int64_t Sum(const std::function<const Counter&(const WorkerCounters&)>& counter) const;

  std::vector<const WorkerCounters*> workers_;
  std::array<std::vector<int64_t>, kKinds> said_;
  std::array<Instant, kKinds> next_{};
};

}  // namespace hud
