#include "control/process/cpu_quota.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace hud {
namespace {

bool HasWord(absl::string_view list, absl::string_view word) {
  for (const absl::string_view item : absl::StrSplit(list, ',')) {
    if (item == word) return true;
  }
  return false;
}

// cgroups(7): "0::/path" of version 2, "4:cpu,cpuacct:/path" of version 1. Empty: not in one.
std::string CgroupOf(const std::string& root, bool v2) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    if (v2 ? fields[0] == "0" && fields[1].empty() : HasWord(fields[1], "cpu")) return fields[2];
  }
  return "";
}

struct Mount {
  std::string cgroup;  // what is mounted
  std::string folder;  // where
};

// proc_pid_mountinfo(5): "36 35 0:30 /root /mount/point options… - type source super-options".
std::vector<Mount> CgroupMounts(const std::string& root, bool v2) {
  std::vector<Mount> mounts;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> halves = absl::StrSplit(line, absl::MaxSplits(" - ", 1));
    if (halves.size() != 2) continue;
    const std::vector<std::string> left = absl::StrSplit(halves[0], ' ');
    const std::vector<std::string> right = absl::StrSplit(halves[1], ' ');
    if (left.size() < 5 || right.size() < 3) continue;
    if (v2 ? right[0] == "cgroup2" : right[0] == "cgroup" && HasWord(right[2], "cpu")) mounts.push_back({left[3], left[4]});
  }
  return mounts;
}

// The quota of one cgroup in cores; none if it has none.
std::optional<double> QuotaOf(const std::string& folder, bool v2) {
  double quota = -1, period = 0;
  if (v2) {
    std::ifstream(folder + "/cpu.max") >> quota >> period;  // "max 100000" reads no number
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? std::optional(quota / period) : std::nullopt;
}

// The least of a cgroup's and those above it, as far as they are to be seen.
std::optional<double> LeastQuota(const std::string& root, bool v2) {
  std::optional<double> least;
  const std::string cgroup = CgroupOf(root, v2);
  if (cgroup.empty()) return least;
  for (const Mount& mount : CgroupMounts(root, v2)) {
    absl::string_view below = cgroup;
    // Within a container the mount may show the part of the tree that begins with our cgroup.
    if (mount.cgroup != "/" && !absl::ConsumePrefix(&below, mount.cgroup)) below = "";
    for (std::string path(below);; path.resize(path.rfind('/'))) {
      while (absl::EndsWith(path, "/")) path.pop_back();
      const std::optional<double> quota = QuotaOf(absl::StrCat(root, mount.folder, path), v2);
      if (quota) least = least ? std::min(*least, *quota) : quota;
      if (path.find('/') == std::string::npos) break;
    }
  }
  return least;
}

}  // namespace

unsigned UsableCores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (::sched_getaffinity(0, sizeof cores, &cores) != 0) return 1;
  return static_cast<unsigned>(std::max(CPU_COUNT(&cores), 1));
}

std::optional<unsigned> CpuQuota(const std::string& root) {
  const std::string base = root == "/" ? "" : root;
  std::optional<unsigned> cores;
  for (const bool v2 : {true, false}) {
    const std::optional<double> quota = LeastQuota(base, v2);
    if (!quota) continue;
    // A quota may be a million cores; no machine has them.
    const auto whole = static_cast<unsigned>(std::clamp(std::ceil(*quota), 1.0, 65536.0));
    cores = cores ? std::min(*cores, whole) : whole;
  }
  return cores;
}

}  // namespace hud
