#include "core/os/log_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/os/privileges.h"

namespace hud {
namespace {

constexpr int kMostLinks = 8;

absl::Status Bad(const std::string& path, const std::string& what) {
  return absl::FailedPreconditionError(absl::StrCat(path, ": ", what));
}

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string Explain(const std::string& path, int error) {
  switch (error) {
    case EISDIR:
      return "is a folder; write the path of a file in it";
    case ENOENT:
      return absl::StrCat("there is no folder ", FolderOf(path), "; create it, writable by ", CurrentUserName());
    case ENOTDIR:
      return absl::StrCat(FolderOf(path), " is not a folder; write the path of a file in a folder");
    case EACCES:
    case EPERM:
      return absl::StrCat(CurrentUserName(), " may not write it; give that user the file and its folder ", FolderOf(path),
                          ", or leave `log.file` out to log to standard error");
    case EROFS:
      return "is on a read-only file system; in a unit its folder must be in LogsDirectory= or ReadWritePaths=";
    default:
      return absl::StrCat("cannot be opened: ", std::strerror(error));
  }
}

// Only what a log can be written to line by line, without an end.
absl::Status CheckKind(const std::string& path, mode_t mode) {
  if (S_ISDIR(mode)) return Bad(path, Explain(path, EISDIR));
  if (S_ISSOCK(mode)) return Bad(path, "is a socket; leave `log.file` out to log to standard error, where that is one");
  if (S_ISBLK(mode)) return Bad(path, "is a block device; write the path of a file");
  return absl::OkStatus();
}

struct Place {
  std::string path;
  bool is_magic = false;  // a link of /proc, like /proc/self/fd/1: to be opened as it is, what it says is no path
};

// Where the links lead that may be followed. What is swapped afterwards is met with O_NOFOLLOW.
absl::StatusOr<Place> FollowLinks(const std::string& path) {
  Place place{path};
  for (int links = 0; links < kMostLinks; ++links) {
    const Fd found(::open(place.path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat info {};
    if (!found || ::fstat(found.get(), &info) != 0 || !S_ISLNK(info.st_mode)) return place;
    if (info.st_uid != 0 && info.st_uid != ::geteuid()) {
      return Bad(path, absl::StrCat("leads through the symbolic link ", place.path, " of user ", info.st_uid,
                                    "; only links that root or ", CurrentUserName(), " made are followed"));
    }
    struct statfs system {};
    place.is_magic = ::fstatfs(found.get(), &system) == 0 && system.f_type == PROC_SUPER_MAGIC;
    if (place.is_magic) return place;
    std::array<char, PATH_MAX> target;
    const ssize_t length = ::readlinkat(found.get(), "", target.data(), target.size());
    if (length <= 0) return Bad(path, Explain(path, errno));
    const std::string to(target.data(), static_cast<size_t>(length));
    place.path = to.front() == '/' ? to : absl::StrCat(FolderOf(place.path), "/", to);
  }
  return Bad(path, "leads through too many symbolic links");
}

}  // namespace

absl::StatusOr<Fd> OpenLogFile(const std::string& path) {
  const absl::StatusOr<Place> place = FollowLinks(path);
  if (!place.ok()) return place.status();
  // O_NONBLOCK: neither this nor a write may wait for the reader of a FIFO.
  const int flags = O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK |
                    (place->is_magic ? 0 : O_CREAT | O_NOFOLLOW);
  Fd fd(::open(place->path.c_str(), flags, 0640));
  struct stat info {};
  if (!fd && errno == ENXIO && ::stat(place->path.c_str(), &info) == 0) {
    if (absl::Status kind = CheckKind(path, info.st_mode); !kind.ok()) return kind;
    return Bad(path, "is a FIFO that nobody reads; start its reader first");
  }
  if (!fd) return Bad(path, Explain(place->path, errno));
  if (::fstat(fd.get(), &info) != 0) return Bad(path, Explain(place->path, errno));
  if (absl::Status kind = CheckKind(path, info.st_mode); !kind.ok()) return kind;
  return fd;
}

absl::Status CheckLogFile(const std::string& path) {
  const absl::StatusOr<Place> place = FollowLinks(path);
  if (!place.ok()) return place.status();
  struct stat info {};
  const int follow = place->is_magic ? 0 : AT_SYMLINK_NOFOLLOW;
  if (::fstatat(AT_FDCWD, place->path.c_str(), &info, follow) == 0) {
    if (absl::Status kind = CheckKind(path, info.st_mode); !kind.ok()) return kind;
    if (::faccessat(AT_FDCWD, place->path.c_str(), W_OK, AT_EACCESS) == 0) return absl::OkStatus();
  } else if (errno == ENOENT && ::faccessat(AT_FDCWD, FolderOf(place->path).c_str(), W_OK | X_OK, AT_EACCESS) == 0) {
    return absl::OkStatus();
  }
  return Bad(path, Explain(place->path, errno));
}

}  // namespace hud
