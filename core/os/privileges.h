// From root to an ordinary user, for good: groups, user, capabilities. Once, before any thread or ring exists, because
// both would keep what the process had before.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/secret_file.h"

namespace hud {

// `user`: a name of the password database. Does nothing if the process already runs as that user. On success none of the
// former rights can be had back, which is tried out; an error says what to do.
absl::Status BecomeUser(const std::string& user);

// Does this process run as `user`? An error if there is no such user.
absl::StatusOr<bool> IsCurrentUser(const std::string& user);

// What the rights to a file are judged by.
ProcessIdentity CurrentIdentity();

// "hudsucker (uid 998)", for messages.
std::string CurrentUserName();

}  // namespace hud
