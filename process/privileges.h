// From root to an ordinary user, for good: groups, user, capabilities. Once, before any thread or ring exists, because
// both would keep what the process had before.
#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"

namespace hud {

// `user`: a name of the password database. Does nothing if the process already runs as that user. On success none of the
// former rights can be had back, which is tried out; an error says what to do.
absl::Status BecomeUser(const std::string& user);

// The group that `user` has in the password database; of an empty or unknown name, this process's own.
gid_t GroupOf(const std::string& user);

// "hudsucker (uid 998)", for messages.
std::string CurrentUserName();

}  // namespace hud
