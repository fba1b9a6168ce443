// The file that `log.file` names. An operator, or somebody who can write to its folder, may have put anything there: a folder,
// a FIFO that nobody reads, a symbolic link. Nothing here waits.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/os/fd.h"

namespace hud {

// Opens it for appending; creates it if it is not there. A symbolic link is followed only if it belongs to root or to the
// user that this process runs as: whoever else could put one there must not choose which file is written. Hence /dev/stdout
// works, and so does a link that the administrator made. The folders above it are taken as they are.
absl::StatusOr<Fd> OpenLogFile(const std::string& path);

// Would OpenLogFile succeed for the user that this process runs as? Creates nothing, and opens nothing that has a reader.
absl::Status CheckLogFile(const std::string& path);

}  // namespace hud
