#include "control/process/process_stats.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sstream>
#include <string>

#include "control/process/descriptor_budget.h"

namespace hud {
namespace {

double Seconds(const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; }

// Since Linux 6.2 the folder's size is their number; before, they have to be counted one by one.
int64_t OpenDescriptors() {
  struct stat folder{};
  if (::stat("/proc/self/fd", &folder) == 0 && folder.st_size > 0) return folder.st_size;
  return static_cast<int64_t>(CountOpenDescriptors());
}

}  // namespace

ProcessStatsReader::ProcessStatsReader() : stat_(::open("/proc/self/stat", O_RDONLY | O_CLOEXEC)) {}

ProcessStats ProcessStatsReader::Read() const {
  ProcessStats stats;
  rusage usage{};
  if (::getrusage(RUSAGE_SELF, &usage) == 0) stats.cpu_seconds = Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) stats.max_fds = static_cast<int64_t>(limit.rlim_cur);
  stats.open_fds = OpenDescriptors();

  // proc(5): the name, field 2, is in parentheses and may hold anything; 20 is num_threads, 23 vsize, 24 rss in pages.
  char text[1024];
  const ssize_t n = stat_ ? ::pread(stat_.get(), text, sizeof text, 0) : -1;
  if (n <= 0) return stats;
  const std::string line(text, static_cast<size_t>(n));
  std::istringstream fields(line.substr(line.rfind(')') + 1));
  std::string field;
  for (int number = 3; number <= 24 && fields >> field; ++number) {
    if (number == 20) stats.threads = std::strtoll(field.c_str(), nullptr, 10);
    if (number == 23) stats.virtual_bytes = std::strtoll(field.c_str(), nullptr, 10);
    if (number == 24) stats.resident_bytes = std::strtoll(field.c_str(), nullptr, 10) * ::sysconf(_SC_PAGESIZE);
  }
  return stats;
}

}  // namespace hud
