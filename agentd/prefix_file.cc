#include "agentd/prefix_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "agentd/hex.h"
#include "core/base/limits.h"
#include "core/os/fd.h"

namespace hud {
namespace {

constexpr size_t kMostBytes = 16 * 1024;  // kMaxPrefixesPerNode lines are less than half of it

absl::Status Failed(const std::string& path, const char* what, int error) {
  return absl::FailedPreconditionError(absl::StrCat(path, ": cannot be ", what, ": ", std::strerror(error)));
}

// Without fsync: a disk that hangs must delay no beacon, and a file that a power failure emptied is no great loss.
bool WriteWhole(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    text.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

}  // namespace

std::vector<KeptPrefix> ParseKeptPrefixes(std::string_view text) {
  std::vector<KeptPrefix> prefixes;
  while (!text.empty() && prefixes.size() < limits::kMaxPrefixesPerNode) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    const size_t space = line.find(' ');
    if (space == std::string_view::npos) continue;
    KeptPrefix kept;
    const auto length = ParseHex(line.substr(0, space), kept.prefix.bytes);
    if (!length || *length < limits::kMinPrefixBytes) continue;
    kept.prefix.length = static_cast<uint8_t>(*length);
    const std::string_view number = line.substr(space + 1);
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), kept.until_seconds);
    if (error != std::errc() || end != number.data() + number.size() || kept.until_seconds < 0) continue;
    prefixes.push_back(kept);
  }
  return prefixes;
}

std::string FormatKeptPrefixes(std::span<const KeptPrefix> prefixes) {
  std::string text;
  for (const KeptPrefix& kept : prefixes) {
    const auto* bytes = reinterpret_cast<const char*>(kept.prefix.bytes.data());
    absl::StrAppend(&text, absl::BytesToHexString({bytes, kept.prefix.length}), " ", kept.until_seconds, "\n");
  }
  return text;
}

absl::StatusOr<std::vector<KeptPrefix>> ReadKeptPrefixes(const std::string& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY));
  if (!fd) {
    if (errno == ENOENT) return std::vector<KeptPrefix>();
    return Failed(path, "read", errno);
  }
  std::array<char, kMostBytes> text;
  const ssize_t n = ::read(fd.get(), text.data(), text.size());
  if (n < 0) return Failed(path, "read", errno);
  return ParseKeptPrefixes({text.data(), static_cast<size_t>(n)});
}

absl::Status WriteKeptPrefixes(const std::string& path, std::span<const KeptPrefix> prefixes) {
  const std::string beside = path + ".new";
  ::unlink(beside.c_str());  // of a writer that was killed
  const Fd fd(::open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return Failed(beside, "made", errno);
  if (!WriteWhole(fd.get(), FormatKeptPrefixes(prefixes)) || ::rename(beside.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(beside.c_str());
    return Failed(path, "written", error);
  }
  return absl::OkStatus();
}

}  // namespace hud
