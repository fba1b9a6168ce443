#include "perf/load/cpu_sample.h"

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>

#include "absl/strings/str_cat.h"

namespace hud::load {
namespace {

uint64_t Nanoseconds(const timespec& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

absl::Status ReadMachine(CpuSample& sample) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen("/proc/stat", "re"), &std::fclose);
  unsigned long long user, nice, system, idle, wait, irq, softirq, steal;
  if (!file || std::fscanf(file.get(), "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle,
                           &wait, &irq, &softirq, &steal) != 8) {
    return absl::InternalError("/proc/stat cannot be read; it needs a mounted /proc");
  }
  const auto tick_ns = static_cast<uint64_t>(1'000'000'000 / ::sysconf(_SC_CLK_TCK));
  sample.machine_busy_ns = (user + nice + system + irq + softirq) * tick_ns;
  sample.machine_idle_ns = (idle + wait) * tick_ns;
  sample.machine_steal_ns = steal * tick_ns;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CpuSample> SampleCpu(const std::vector<pid_t>& pids) {
  CpuSample sample;
  timespec time{};
  for (const pid_t pid : pids) {
    // The scheduler's own sum in nanoseconds: that of /proc/PID/task/*/schedstat, but with the threads that have ended.
    clockid_t clock;
    if (const int error = ::clock_getcpuclockid(pid, &clock); error != 0 || ::clock_gettime(clock, &time) != 0) {
      return absl::NotFoundError(
          absl::StrCat("process ", pid, " of --pids: ", std::strerror(error != 0 ? error : errno)));
    }
    sample.process_ns.push_back(Nanoseconds(time));
  }
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  sample.own_ns = Nanoseconds(time);
  if (absl::Status status = ReadMachine(sample); !status.ok()) return status;
  return sample;
}

CpuSample Between(const CpuSample& opening, const CpuSample& closing) {
  CpuSample used;
  for (size_t i = 0; i < opening.process_ns.size(); ++i) {
    used.process_ns.push_back(closing.process_ns[i] - opening.process_ns[i]);
  }
  used.own_ns = closing.own_ns - opening.own_ns;
  used.machine_busy_ns = closing.machine_busy_ns - opening.machine_busy_ns;
  used.machine_idle_ns = closing.machine_idle_ns - opening.machine_idle_ns;
  used.machine_steal_ns = closing.machine_steal_ns - opening.machine_steal_ns;
  return used;
}

}  // namespace hud::load
