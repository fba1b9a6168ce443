#include "control/beacon_keys_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/fd.h"
#include "process/privileges.h"

namespace hud {
namespace {

constexpr size_t kMostBytes = 4 << 20;

absl::Status CannotRead(const std::string& path, int error) {
  std::string advice;
  if (error == ENOENT) advice = "; create it with `hud-agentd keygen`, or leave `beacons` out";
  if (error == EACCES) advice = absl::StrCat("; it must be readable by ", CurrentUserName());
  return absl::PermissionDeniedError(absl::StrCat(path, ": cannot read the keys file: ", std::strerror(error), advice));
}

}  // namespace

absl::Status CheckSecretFile(const struct stat& info, gid_t our_group, const std::string& path) {
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, ": is not a regular file"));
  const mode_t mode = info.st_mode & 0777;
  if ((mode & 077) == 0) return absl::OkStatus();
  if ((mode & 037) == 0 && info.st_uid == 0 && info.st_gid == our_group) return absl::OkStatus();
  char octal[8];
  std::snprintf(octal, sizeof octal, "%04o", static_cast<unsigned>(mode));
  return absl::PermissionDeniedError(absl::StrCat(path, ": others can read the keys (mode ", octal, "); run: chmod 600 ",
                                                  path, ", or give it to root, mode 0640, with this user's group"));
}

absl::StatusOr<std::vector<BeaconKey>> LoadBeaconKeys(const std::string& path, gid_t our_group) {
  // Not blocking: what is named may be a pipe that nobody writes to.
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return CannotRead(path, errno);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return CannotRead(path, errno);
  if (absl::Status status = CheckSecretFile(info, our_group, path); !status.ok()) return status;
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
