#include "agentd/ticket_key_file.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "agentd/ticket_classifier.h"
#include "core/os/fd.h"

namespace hud {
namespace {

constexpr size_t kShortKeyBytes = 48;  // name, AES-128 key, HMAC key
constexpr size_t kLongKeyBytes = 80;   // name, AES-256 key, HMAC key of 32 bytes
constexpr size_t kHaproxyKeysInUse = 3;
constexpr size_t kBase64Of80 = 108;

bool IsKeySize(size_t bytes) { return bytes == kShortKeyBytes || bytes == kLongKeyBytes; }

TicketPrefix NameOfKey(const uint8_t* key) {
  TicketPrefix name;
  std::copy_n(key, kKeyNameBytes, name.bytes.begin());
  name.length = kKeyNameBytes;
  return name;
}

struct Key {
  TicketPrefix name;
  size_t bytes = 0;
};

std::optional<Key> DecodeBase64Key(std::string_view line) {
  if (line.size() > kBase64Of80 || line.size() % 4 != 0) return std::nullopt;
  std::array<uint8_t, kLongKeyBytes + 4> decoded;
  const int written =
      EVP_DecodeBlock(decoded.data(), reinterpret_cast<const uint8_t*>(line.data()), static_cast<int>(line.size()));
  std::optional<Key> key;
  if (written > 0) {
    const size_t padding = line.ends_with("==") ? 2 : line.ends_with("=") ? 1 : 0;
    const size_t bytes = static_cast<size_t>(written) - padding;
    if (IsKeySize(bytes)) key = Key{NameOfKey(decoded.data()), bytes};
  }
  OPENSSL_cleanse(decoded.data(), decoded.size());
  return key;
}

absl::Status Bad(std::string_view path, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("ticket key file ", absl::string_view(path.data(), path.size()), ": ",
                                                 absl::string_view(what.data(), what.size())));
}

absl::StatusOr<std::vector<TicketPrefix>> ParseHaproxy(std::string_view text, std::string_view path) {
  std::vector<TicketPrefix> names;
  std::optional<size_t> key_bytes;
  for (int line_number = 1; !text.empty(); ++line_number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() && text.empty()) break;
    const std::optional<Key> key = DecodeBase64Key(line);
    if (!key) {
      return Bad(path, absl::StrCat("line ", line_number,
                                    " is not base64 of 48 or 80 bytes; make one with "
                                    "'openssl rand -base64 48' (80: add '| tr -d \"\\n\"')"));
    }
    if (key_bytes && *key_bytes != key->bytes) {
      return Bad(path, absl::StrCat("line ", line_number, " holds ", key->bytes, " bytes and the lines before it ",
                                    *key_bytes, "; HAProxy wants one size"));
    }
    key_bytes = key->bytes;
    names.push_back(key->name);
    if (names.size() > kHaproxyKeysInUse) names.erase(names.begin());
  }
  if (names.size() < kHaproxyKeysInUse) return Bad(path, "HAProxy wants at least 3 lines, each a key in base64");
  std::swap(names[0], names[1]);  // the penultimate of the three issues
  return names;
}

absl::StatusOr<std::vector<TicketPrefix>> ReadAndParse(int fd, std::span<uint8_t> buffer, TicketKeyFormat format,
                                                       const std::string& path) {
  size_t size = 0;
  while (size < buffer.size()) {
    const ssize_t n = ::read(fd, buffer.data() + size, buffer.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Bad(path, absl::StrCat("cannot be read: ", std::strerror(errno)));
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  if (size == buffer.size()) return Bad(path, absl::StrCat("is longer than ", kMaxTicketKeyFileBytes, " bytes"));
  return ParseTicketKeys(buffer.first(size), format, path);
}

}  // namespace

absl::StatusOr<std::vector<TicketPrefix>> ParseTicketKeys(std::span<const uint8_t> content, TicketKeyFormat format,
                                                          std::string_view path) {
  // A file in HAProxy's format is never 48 or 80 bytes long: one line alone has 64 or 108.
  if (format == TicketKeyFormat::kAuto) {
    format = IsKeySize(content.size()) ? TicketKeyFormat::kNginx : TicketKeyFormat::kHaproxy;
    const bool text = std::all_of(content.begin(), content.end(),
                                  [](uint8_t c) { return (c >= 0x20 && c < 0x7f) || c == '\n' || c == '\r'; });
    if (format == TicketKeyFormat::kHaproxy && (!text || content.empty())) {
      return Bad(path, absl::StrCat("has ", content.size(),
                                    " bytes; nginx and Apache use 48 (nginx also 80), HAProxy "
                                    "lines of base64"));
    }
  }
  if (format == TicketKeyFormat::kHaproxy) {
    return ParseHaproxy({reinterpret_cast<const char*>(content.data()), content.size()}, path);
  }
  if (format == TicketKeyFormat::kApache && content.size() != kShortKeyBytes) {
    return Bad(path, absl::StrCat("has ", content.size(), " bytes; Apache wants 48: 'openssl rand -out FILE 48'"));
  }
  if (!IsKeySize(content.size())) {
    return Bad(path, absl::StrCat("has ", content.size(), " bytes; nginx wants 48 or 80: 'openssl rand -out FILE 80'"));
  }
  return std::vector<TicketPrefix>{NameOfKey(content.data())};
}

absl::StatusOr<std::vector<TicketPrefix>> ReadTicketKeyNames(const std::string& path, TicketKeyFormat format) {
  // O_NONBLOCK: a FIFO in the file's place must not hang the agent.
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) {
    return Bad(path, absl::StrCat("cannot be opened: ", std::strerror(errno),
                                  errno == EACCES ? "; let the agent's user read it" : ""));
  }
  // One byte more than the limit: a longer file must not pass as its own beginning.
  std::vector<uint8_t> buffer(kMaxTicketKeyFileBytes + 1);
  auto names = ReadAndParse(fd.get(), buffer, format, path);
  OPENSSL_cleanse(buffer.data(), buffer.size());
  return names;
}

}  // namespace hud
