#include "control/process/descriptor_budget.h"

#include <dirent.h>
#include <sys/resource.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/base/limits.h"

namespace hud {
namespace {

constexpr size_t kOwnDescriptors = 24;   // epoll and event descriptors, log, files being read, libraries
constexpr size_t kEachWorker = 8;        // ring, event descriptors, and connections caught between accept and close
constexpr unsigned kMostPipes = 128;     // of a worker
constexpr unsigned kDefaultMostConnections = 65'536;
constexpr unsigned kLeastConnections = 8;
constexpr size_t kMostAskedFor = 1 << 20;

size_t ReservedFor(unsigned workers) {
  return kOwnDescriptors + limits::kMaxChecksInFlight + limits::kMaxStatusClients + limits::kStatusReserve +
         workers * kEachWorker;
}

}  // namespace

absl::StatusOr<DescriptorBudget> PlanDescriptors(size_t limit, size_t open_now, unsigned workers,
                                                 std::optional<unsigned> wanted) {
  const size_t taken = open_now + ReservedFor(workers);
  const size_t left = limit > taken ? limit - taken : 0;
  DescriptorBudget budget;
  // A connection is two sockets, a pipe two descriptors. What connections were promised comes before pipes.
  const size_t promised = wanted ? std::min(left, size_t{2} * *wanted) : 0;
  const size_t for_pipes = std::min({left / 4, left - promised, size_t{2} * kMostPipes * workers});
  budget.pipes_per_worker = static_cast<unsigned>(for_pipes / 2 / workers);
  const size_t fit = std::min<size_t>((left - for_pipes) / 2, wanted ? *wanted : kDefaultMostConnections);
  budget.max_connections = static_cast<unsigned>(fit);
  if (fit < kLeastConnections && (!wanted || fit < *wanted)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the limit of ", limit, " open descriptors leaves room for ", fit, " connections; raise it to at least ",
        DescriptorsFor(wanted.value_or(1000), workers, open_now), " (LimitNOFILE= or ulimit -n)"));
  }
  return budget;
}

size_t DescriptorsFor(unsigned max_connections, unsigned workers, size_t open_now) {
  return open_now + ReservedFor(workers) + size_t{2} * max_connections + size_t{2} * kMostPipes * workers;
}

size_t RaiseDescriptorLimit(size_t wanted) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  if (wanted > limit.rlim_max) {
    const rlimit more{wanted, wanted};
    if (::setrlimit(RLIMIT_NOFILE, &more) == 0) return wanted;
  }
  // Not without end: a limit of a billion, as some containers have, makes other programs' loops over it endless.
  const rlim_t soft = std::max<rlim_t>(limit.rlim_cur, std::min<rlim_t>(limit.rlim_max, std::max(wanted, kMostAskedFor)));
  const rlimit raised{soft, limit.rlim_max};
  if (::setrlimit(RLIMIT_NOFILE, &raised) == 0) limit.rlim_cur = soft;
  return limit.rlim_cur;
}

size_t CountOpenDescriptors() {
  DIR* directory = ::opendir("/proc/self/fd");
  if (directory == nullptr) return 64;  // no /proc: more than a process at its start has
  size_t count = 0;
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count - 3;  // ".", "..", and the directory itself
}

}  // namespace hud
