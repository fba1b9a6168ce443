#include "agentd/agent_key.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/os/fd.h"
#include "core/os/privileges.h"
#include "core/os/secret_file.h"

namespace hud {
namespace {

constexpr size_t kMaxKeyFileBytes = 4096;

absl::Status Bad(const std::string& path, const std::string& what) {
  return absl::FailedPreconditionError(absl::StrCat("key file ", path, ": ", what));
}

absl::Status CheckOwnership(int fd, const std::string& path) {
  struct stat found {};
  if (::fstat(fd, &found) != 0) return Bad(path, std::strerror(errno));
  if (!S_ISREG(found.st_mode)) return Bad(path, "is not a file");
  const std::string others =
      WhoElseMayUse({found.st_mode & 0777, found.st_uid, found.st_gid}, CurrentIdentity(), path);
  if (!others.empty()) return Bad(path, others);
  return absl::OkStatus();
}

absl::Status WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return absl::ErrnoToStatus(errno, "write");
    text.remove_prefix(static_cast<size_t>(n));
  }
  if (::fsync(fd) != 0) return absl::ErrnoToStatus(errno, "fsync");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<AgentKey> ReadAgentKey(const std::string& path, std::string_view node) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) {
    return Bad(path, absl::StrCat("cannot be opened: ", std::strerror(errno),
                                  errno == ENOENT ? "; make one with 'hud-agentd keygen NAME --pools POOL --addresses ADDRESS'" : ""));
  }
  if (absl::Status checked = CheckOwnership(fd.get(), path); !checked.ok()) return checked;
  std::array<char, kMaxKeyFileBytes> text;
  const ssize_t n = ::read(fd.get(), text.data(), text.size());
  if (n < 0) return Bad(path, absl::StrCat("cannot be read: ", std::strerror(errno)));
  absl::StatusOr<AgentKey> key = ParseAgentKey({text.data(), static_cast<size_t>(n)}, path);
  OPENSSL_cleanse(text.data(), text.size());
  if (key.ok() && key->node != node) {
    return Bad(path, absl::StrCat("is the key of node '", key->node, "', not of '",
                                  absl::string_view(node.data(), node.size()), "'; each node has a key of its own"));
  }
  return key;
}

absl::StatusOr<std::string> MakeAgentKey(const std::string& directory, const std::string& name,
                                         const std::vector<std::string>& pools,
                                         const std::vector<std::string>& addresses, uint16_t weight,
                                         const std::string& ticket_group) {
  // The name becomes a file's name: none that is hidden, or that looks like an option.
  if (!IsBeaconName(name) || name[0] == '.' || name[0] == '-') {
    return absl::InvalidArgumentError(
        absl::StrCat("'", name, "' cannot name a node: use up to ", limits::kMaxBeaconNameBytes,
                     " letters, digits, '.', '_' and '-', beginning with a letter or digit"));
  }
  const std::string path = absl::StrCat(directory, "/", name, ".key");
  AgentKey key{name, {}};
  if (RAND_priv_bytes(key.secret.bytes.data(), static_cast<int>(key.secret.bytes.size())) != 1) {
    return absl::InternalError("OpenSSL has no random bytes");
  }
  // The proxy must be able to read the line, or the key would be made for nothing.
  std::string line = FormatBeaconKeyLine(key, pools, addresses, weight, ticket_group);
  if (const auto read_back = ParseBeaconKeys(line, "keygen"); !read_back.ok()) return read_back.status();
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) {
    return Bad(path, errno == EEXIST ? "exists; it is never overwritten: move it away if the node is to have a new key"
                                     : std::strerror(errno));
  }
  std::string text = FormatAgentKey(key);
  if (!text.ends_with('\n')) text.push_back('\n');
  const absl::Status written = WriteAll(fd.get(), text);
  OPENSSL_cleanse(text.data(), text.size());
  if (!written.ok()) {
    ::unlink(path.c_str());
    return Bad(path, written.ToString());
  }
  OPENSSL_cleanse(key.secret.bytes.data(), key.secret.bytes.size());
  return line;
}

}  // namespace hud
