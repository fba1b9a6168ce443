// From root to an ordinary user, for good: groups, user, capabilities. Once, before any thread or ring exists, because
// both would keep what the process had before.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/os/secret_file.h"

namespace hud {

// What stays of root's rights.
enum class StayingRight {
  kNone,
  // To lock memory beyond RLIMIT_MEMLOCK (CAP_IPC_LOCK), if the process has it and the limit is finite. The kernel charges rings (Linux
  // 6.14 and later) and what zero-copy sends pin to the user's locked memory, all processes of that user together: a few proxies of
  // one user, or one that starts again before the memory of the former is given back, meet the usual limit of 8 MiB.
  kToLockMemory,
};

// `user`: a name of the password database. Does nothing if the process already runs as that user. On success none of the
// former rights can be had back, which is tried out; an error says what to do.
absl::Status BecomeUser(const std::string& user, StayingRight staying = StayingRight::kNone);

// Gives up what a start needs and nothing later does, whoever the process is by now: every capability but the staying one,
// ambient ones too, also for what it might run, and for good (no_new_privs). Root keeps what root owns. An error if any of it could be had back.
absl::Status GiveUpRights(StayingRight staying = StayingRight::kNone);

// For root that stays root, before it gives up its rights: it may give what it makes to these groups then. One that there is not, or that
// it may not join, is left out; whoever gives something to it hears that.
void JoinGroups(const std::vector<std::string>& names);

// What to tell an operator whose process is root and has nobody to become.
inline constexpr char kStaysRoot[] =
    "started as root and without a user to become, it stays root (without root's right to other users' files and sockets); write the "
    "user of the service, like 'user: hudsucker', or start it as that user";

// May others of the same user look into this process, and is its memory written to a file if it crashes? It holds keys.
void AllowDumps(bool allowed);

// Does this process run as `user`? An error if there is no such user.
absl::StatusOr<bool> IsCurrentUser(const std::string& user);

// What the rights to a file are judged by.
ProcessIdentity CurrentIdentity();

// "hudsucker (uid 998)", for messages.
std::string CurrentUserName();

}  // namespace hud
