#include "core/os/secret_file.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace hud {
namespace {

std::string Octal(uint32_t mode) {
  return absl::StrCat("mode 0", mode >> 6 & 7, mode >> 3 & 7, mode & 7);
}

}  // namespace

std::string WhoElseMayUse(const FileRights& file, const ProcessIdentity& us, const std::string& path) {
  const std::string remedy =
      absl::StrCat("; run 'chmod 600 ", path, "', or give it to root with a group of this user and mode 0440, ",
                   "and make a new key if it may have been read");
  if ((file.mode & 07) != 0) return absl::StrCat("others can read or change it (", Octal(file.mode), ")", remedy);
  if ((file.mode & 030) != 0) return absl::StrCat("others, its group, can change it (", Octal(file.mode), ")", remedy);
  if ((file.mode & 040) != 0) {
    const bool our_group = std::find(us.groups.begin(), us.groups.end(), file.group) != us.groups.end();
    if (file.owner != 0 || !our_group) {
      return absl::StrCat("others can read it: group ", file.group, " (", Octal(file.mode), ")",
                          our_group ? ", and it is not root's" : ", which is not this user's", remedy);
    }
    return "";
  }
  // Root may read everything, and gives the file to whom it likes.
  if (us.user != 0 && file.owner != 0 && file.owner != us.user) {
    return absl::StrCat("belongs to user ", file.owner, "; it must belong to this program's user (", us.user, ") or to root");
  }
  return "";
}

}  // namespace hud
