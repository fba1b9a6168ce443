#include "control/config/beacon_keys_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/os/fd.h"
#include "core/os/privileges.h"
#include "core/os/secret_file.h"

namespace hud {
namespace {

constexpr size_t kMostBytes = 4 << 20;

absl::Status CannotRead(const std::string& path, int error) {
  std::string advice;
  if (error == ENOENT) advice = "; make the file and add the line to it that `hud-agentd keygen` prints for each node, or leave `beacons` out";
  if (error == EACCES) advice = absl::StrCat("; it must be readable by ", CurrentUserName());
  return absl::PermissionDeniedError(absl::StrCat(path, ": cannot read the keys file: ", std::strerror(error), advice));
}

}  // namespace

absl::StatusOr<std::vector<BeaconKey>> LoadBeaconKeys(const std::string& path) {
  // Not blocking: what is named may be a pipe that nobody writes to.
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return CannotRead(path, errno);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return CannotRead(path, errno);
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, ": is not a regular file; `beacons.keys` names the file with a line for each node"));
  const std::string others = WhoElseMayUse({info.st_mode & 0777, info.st_uid, info.st_gid}, CurrentIdentity(), path);
  if (!others.empty()) return absl::PermissionDeniedError(absl::StrCat(path, ": ", others));
  std::string text;
  char buffer[16 * 1024];
  while (true) {
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0) return CannotRead(path, errno);
    if (n == 0) break;
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > kMostBytes) return absl::InvalidArgumentError(absl::StrCat(path, ": is larger than 4 MiB"));
  }
  return ParseBeaconKeys(text, path);
}

}  // namespace hud
