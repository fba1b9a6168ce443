#include "agentd/datagram_socket.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace hud {
namespace {

constexpr size_t kLongestDatagram = 16 * 1024;
constexpr mode_t kMode = 0660;

absl::Status Failed(const std::string& path, const std::string& what) {
  return absl::FailedPreconditionError(absl::StrCat("socket ", path, ": ", what));
}

absl::Status CheckPlace(const std::string& path, bool* is_there) {
  struct stat found {};
  *is_there = ::lstat(path.c_str(), &found) == 0;
  if (!*is_there) return errno == ENOENT ? absl::OkStatus() : Failed(path, std::strerror(errno));
  if (!S_ISSOCK(found.st_mode)) return Failed(path, "exists and is not a socket; give another path or remove it");
  return absl::OkStatus();
}

absl::Status RemoveStale(const std::string& path, const sockaddr_un& address) {
  bool is_there = false;
  if (absl::Status place = CheckPlace(path, &is_there); !place.ok() || !is_there) return place;
  const Fd probe(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ||
      errno != ECONNREFUSED) {
    return Failed(path, "is in use by another process; is a second agent running?");
  }
  if (::unlink(path.c_str()) != 0)
    return Failed(path, absl::StrCat("stale, and cannot be removed: ", std::strerror(errno)));
  return absl::OkStatus();
}

absl::StatusOr<gid_t> FindGroup(const std::string& path, const std::string& group) {
  const struct group* found = ::getgrnam(group.c_str());
  if (found == nullptr) return Failed(path, absl::StrCat("there is no group '", group, "' on this machine"));
  return found->gr_gid;
}

std::string CannotBeMade(int error) {
  return absl::StrCat("cannot be made: ", std::strerror(error), error == ENOENT ? "; make its directory first" : "");
}

absl::Status GiveToGroup(const std::string& path, const std::string& group) {
  if (group.empty()) return absl::OkStatus();
  const absl::StatusOr<gid_t> found = FindGroup(path, group);
  if (!found.ok()) return found.status();
  if (::chown(path.c_str(), static_cast<uid_t>(-1), *found) != 0) {
    return Failed(path, absl::StrCat("cannot be given to group '", group, "': ", std::strerror(errno),
                                     "; make the agent's user a member of it"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DatagramSocket> DatagramSocket::Bind(const std::string& path, const std::string& group) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return Failed(path, absl::StrCat("a socket's path has 1 to ", sizeof(address.sun_path) - 1, " bytes"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  if (absl::Status stale = RemoveStale(path, address); !stale.ok()) return stale;

  Fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return Failed(path, std::strerror(errno));
  // bind gives the path the mode of the descriptor, less the umask: it is never more open than this.
  ::fchmod(fd.get(), kMode);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return Failed(path, CannotBeMade(errno));
  }
  if (absl::Status given = GiveToGroup(path, group); !given.ok()) return given;
  if (::chmod(path.c_str(), kMode) != 0) return Failed(path, absl::StrCat("chmod: ", std::strerror(errno)));
  struct stat made {};
  if (::lstat(path.c_str(), &made) != 0) return Failed(path, std::strerror(errno));
  return DatagramSocket(std::move(fd), path, made.st_dev, made.st_ino);
}

absl::Status DatagramSocket::Check(const std::string& path, const std::string& group) {
  bool is_there = false;
  if (absl::Status place = CheckPlace(path, &is_there); !place.ok()) return place;
  const std::string folder = path.substr(0, std::max<size_t>(1, path.rfind('/')));
  if (::faccessat(AT_FDCWD, folder.c_str(), W_OK | X_OK, AT_EACCESS) != 0) {
    const int error = errno;
    const absl::Status failed = Failed(path, CannotBeMade(error));
    return error == ENOENT ? absl::NotFoundError(absl::StrCat(failed.message(), " (the service's RuntimeDirectory= does)")) : failed;
  }
  return group.empty() ? absl::OkStatus() : FindGroup(path, group).status();
}

DatagramSocket::~DatagramSocket() {
  if (fd_ && IsInPlace()) ::unlink(path_.c_str());
}

bool DatagramSocket::IsInPlace() const {
  struct stat found {};
  return ::lstat(path_.c_str(), &found) == 0 && found.st_dev == device_ && found.st_ino == inode_;
}

std::string DatagramSocket::Writers() const {
  struct stat found {};
  if (::lstat(path_.c_str(), &found) != 0) return "nobody";
  const passwd* user = ::getpwuid(found.st_uid);
  const struct group* group = ::getgrgid(found.st_gid);
  return absl::StrCat("user ", user != nullptr ? user->pw_name : absl::StrCat(found.st_uid), ", group ",
                      group != nullptr ? group->gr_name : absl::StrCat(found.st_gid));
}

// A member of the group that is the folder's owner as well would pass: then somebody knew what he did.
std::string DatagramSocket::FolderThatBars() const {
  struct stat socket {};
  if (::lstat(path_.c_str(), &socket) != 0) return {};
  for (size_t slash = path_.find('/', 1); slash != std::string::npos; slash = path_.find('/', slash + 1)) {
    const std::string folder = path_.substr(0, slash);
    struct stat found {};
    if (::stat(folder.c_str(), &found) != 0) return {};
    const mode_t passes = found.st_gid == socket.st_gid ? S_IXGRP : S_IXOTH;
    if ((found.st_mode & passes) == 0) return folder;
  }
  return {};
}

size_t DatagramSocket::Receive(size_t limit, const std::function<void(std::string_view, bool)>& take) {
  std::array<char, kLongestDatagram> buffer;
  for (size_t count = 0; count < limit; ++count) {
    const ssize_t n = ::recv(fd_.get(), buffer.data(), buffer.size(), MSG_TRUNC);
    if (n < 0) return count;
    const bool truncated = static_cast<size_t>(n) > buffer.size();
    take({buffer.data(), truncated ? buffer.size() : static_cast<size_t>(n)}, truncated);
  }
  return limit;
}

}  // namespace hud
