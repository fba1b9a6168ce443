#include "core/os/privileges.h"

#include <grp.h>
#include <pwd.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace hud {
namespace {

absl::Status Failure(std::string_view what, const std::string& user, int error) {
  return absl::InternalError(absl::StrCat("user: ", absl::string_view(what.data(), what.size()), " '", user,
                                          "': ", std::strerror(error)));
}

bool MayLockMoreMemory() {
  const cap_t own = ::cap_get_proc();
  cap_flag_value_t has = CAP_CLEAR;
  const bool asked = own != nullptr && ::cap_get_flag(own, CAP_IPC_LOCK, CAP_PERMITTED, &has) == 0;
  if (own != nullptr) ::cap_free(own);
  return asked && has == CAP_SET;
}

bool LockedMemoryIsLimited() {
  rlimit locked{};
  return ::getrlimit(RLIMIT_MEMLOCK, &locked) == 0 && locked.rlim_cur != RLIM_INFINITY;
}

absl::Status DropCapabilities(StayingRight staying) {
  const cap_value_t lock_memory = CAP_IPC_LOCK;
  const bool stays = staying == StayingRight::kToLockMemory && LockedMemoryIsLimited() && MayLockMoreMemory();
  const cap_t kept = ::cap_init();
  const bool dropped = kept != nullptr &&
                       (!stays || (::cap_set_flag(kept, CAP_PERMITTED, 1, &lock_memory, CAP_SET) == 0 &&
                                   ::cap_set_flag(kept, CAP_EFFECTIVE, 1, &lock_memory, CAP_SET) == 0)) &&
                       ::cap_set_proc(kept) == 0;
  const int error = errno;
  if (kept != nullptr) ::cap_free(kept);
  return dropped ? absl::OkStatus() : absl::ErrnoToStatus(error, "cannot drop capabilities");
}

// What a program that this process runs could have. Refused to whoever has not CAP_SETPCAP; then no_new_privs has to do.
void EmptyBoundingSet() {
  for (int capability = 0; ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
    ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
  }
}

// Its entry in the password database.
absl::StatusOr<std::pair<uid_t, gid_t>> LookUp(const std::string& user) {
  std::vector<char> buffer(16 * 1024);
  passwd entry{};
  passwd* found = nullptr;
  const int error = ::getpwnam_r(user.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (found != nullptr) return std::pair(entry.pw_uid, entry.pw_gid);
  if (error != 0) return Failure("cannot look up", user, error);
  return absl::NotFoundError(absl::StrCat("user: there is no user '", user, "'; create it (useradd --system ", user,
                                          ") or name one that exists"));
}

}  // namespace

absl::Status BecomeUser(const std::string& user, StayingRight staying) {
  const auto entry = LookUp(user);
  if (!entry.ok()) return entry.status();
  const auto [uid, gid] = *entry;
  if (::geteuid() == uid && ::getuid() == uid) return absl::OkStatus();
  if (::geteuid() != 0) {
    return absl::PermissionDeniedError(absl::StrCat("user: ", CurrentUserName(), " cannot become '", user,
                                                    "'; start as root, or leave `user` out"));
  }
  EmptyBoundingSet();  // while it may
  if (::initgroups(user.c_str(), gid) != 0) return Failure("cannot take the groups of", user, errno);
  if (::setresgid(gid, gid, gid) != 0) return Failure("cannot take the group of", user, errno);
  // The permitted capabilities outlive the change of the user, until GiveUpRights.
  ::prctl(PR_SET_KEEPCAPS, staying == StayingRight::kNone ? 0 : 1, 0, 0, 0);
  if (::setresuid(uid, uid, uid) != 0) return Failure("cannot become", user, errno);
  gid_t real = 0, effective = 0, saved = 0;
  ::getresgid(&real, &effective, &saved);
  if (real != gid || effective != gid || saved != gid) return Failure("did not take the group of", user, EPERM);
  return GiveUpRights(staying);
}

absl::Status GiveUpRights(StayingRight staying) {
  EmptyBoundingSet();
  ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  if (absl::Status status = DropCapabilities(staying); !status.ok()) return status;
  ::prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
  // Nothing that this process may run in future gives rights back.
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return absl::ErrnoToStatus(errno, "cannot set no_new_privs");
  uid_t real = 0, effective = 0, saved = 0;
  ::getresuid(&real, &effective, &saved);
  const bool is_root = effective == 0;
  if (real != effective || saved != effective || (!is_root && (::setuid(0) == 0 || ::seteuid(0) == 0))) {
    return absl::InternalError("user: the process could still become another user; refusing to run");
  }
  return absl::OkStatus();
}

void JoinGroups(const std::vector<std::string>& names) {
  std::vector<gid_t> groups = CurrentIdentity().groups;
  for (const std::string& name : names) {
    if (const group* found = ::getgrnam(name.c_str()); found != nullptr) groups.push_back(found->gr_gid);
  }
  if (!names.empty()) ::setgroups(groups.size(), groups.data());
}

void AllowDumps(bool allowed) { ::prctl(PR_SET_DUMPABLE, allowed ? 1 : 0, 0, 0, 0); }

absl::StatusOr<bool> IsCurrentUser(const std::string& user) {
  const auto entry = LookUp(user);
  if (!entry.ok()) return entry.status();
  return ::geteuid() == entry->first && ::getuid() == entry->first;
}

ProcessIdentity CurrentIdentity() {
  ProcessIdentity us{::geteuid(), {::getegid()}};
  const int count = ::getgroups(0, nullptr);
  std::vector<gid_t> groups(count > 0 ? static_cast<size_t>(count) : 0);
  const int got = ::getgroups(count, groups.data());
  if (got > 0) us.groups.insert(us.groups.end(), groups.begin(), groups.begin() + got);
  return us;
}

std::string CurrentUserName() {
  std::vector<char> buffer(16 * 1024);
  passwd entry{};
  passwd* found = nullptr;
  const uid_t uid = ::geteuid();
  ::getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found);
  if (found == nullptr) return absl::StrCat("uid ", uid);
  return absl::StrCat(entry.pw_name, " (uid ", uid, ")");
}

}  // namespace hud
