// The two files that hold beacon keys. An error never repeats what stands in the file: a secret in the wrong place would
// end up in a log. It says where, what is wrong, and what to write.
#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "core/beacon.h"

namespace hud {
namespace {

constexpr size_t kHexBytes = 64;
constexpr size_t kMaxErrors = 20;
constexpr const char* kLineFormat = "node=NAME key=HEX pools=POOL[,POOL...] addresses=RANGE[,RANGE...]";

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// What is wrong with it, or null.
const char* ReadSecret(std::string_view hex, BeaconSecret* secret) {
  if (hex.size() != kHexBytes) return "the key must be 64 hexadecimal digits; make one with 'hud-agentd keygen NAME'";
  for (size_t i = 0; i < secret->bytes.size(); ++i) {
    const int high = HexDigit(hex[2 * i]);
    const int low = HexDigit(hex[2 * i + 1]);
    if (high < 0 || low < 0) return "the key has a character that is no hexadecimal digit; copy it again";
    secret->bytes[i] = static_cast<uint8_t>(high << 4 | low);
  }
  if (*secret == BeaconSecret{}) return "a key of zeros is no secret; make one with 'hud-agentd keygen NAME'";
  return nullptr;
}

std::string Hex(const BeaconSecret& secret) {
  std::string text;
  for (uint8_t byte : secret.bytes) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

bool IsBlank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

std::vector<std::string_view> Words(std::string_view line) {
  std::vector<std::string_view> words;
  size_t i = 0;
  while (i < line.size()) {
    while (i < line.size() && IsBlank(line[i])) ++i;
    const size_t begin = i;
    while (i < line.size() && !IsBlank(line[i])) ++i;
    if (i > begin) words.push_back(line.substr(begin, i - begin));
  }
  return words;
}

std::vector<std::string_view> Split(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t end = text.find(at);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

// Calls `each(number, words)` for the lines that say something.
template <typename Each>
void ForEachLine(std::string_view text, Each each) {
  size_t number = 0;
  for (std::string_view line : Split(text, '\n')) {
    ++number;
    const std::vector<std::string_view> words = Words(line);
    if (!words.empty() && words[0][0] != '#') each(number, words);
  }
}

class KeysFileReader {
 public:
  explicit KeysFileReader(std::string_view path) : path_(path) {}

  void ReadLine(size_t number, const std::vector<std::string_view>& words) {
    line_ = number;
    BeaconKey key;
    bool seen[4] = {};
    bool good = true;
    for (size_t i = 0; i < words.size(); ++i) good &= ReadField(words[i], i + 1, &key, seen);
    if (!good) return;
    for (size_t i = 0; i < 4; ++i) {
      if (!seen[i]) return Fault(absl::StrCat("'", kFields[i], "' is missing; the line is ", kLineFormat,
                                              "; '*' instead of pools or ranges allows any"));
    }
    Accept(std::move(key));
  }

  absl::StatusOr<std::vector<BeaconKey>> Result() {
    if (errors_.empty()) return std::move(keys_);
    if (fault_count_ > kMaxErrors) absl::StrAppend(&errors_, "\n… and ", fault_count_ - kMaxErrors, " more");
    return absl::InvalidArgumentError(errors_);
  }

 private:
  static constexpr const char* kFields[4] = {"node=", "key=", "pools=", "addresses="};

  void Fault(const std::string& what) {
    if (++fault_count_ > kMaxErrors) return;
    absl::StrAppend(&errors_, errors_.empty() ? "" : "\n", path_, ":", line_, ": ", what);
  }

  bool Refuse(const std::string& what) {
    Fault(what);
    return false;
  }

  bool ReadField(std::string_view word, size_t position, BeaconKey* key, bool* seen) {
    for (size_t i = 0; i < 4; ++i) {
      const std::string_view field(kFields[i]);
      if (!word.starts_with(field)) continue;
      if (std::exchange(seen[i], true)) return Refuse(absl::StrCat("'", kFields[i], "' stands there twice; keep one"));
      const std::string_view value = word.substr(field.size());
      if (i == 0) return ReadNode(value, key);
      if (i == 1) return ReadKey(value, key);
      if (i == 2) return ReadPools(value, key);
      return ReadAddresses(value, key);
    }
    return Refuse(absl::StrCat("word ", position, " is none of node= key= pools= addresses=; the line is ", kLineFormat));
  }

  bool ReadNode(std::string_view value, BeaconKey* key) {
    key->node = std::string(value);
    return IsBeaconName(value) || Refuse("node= wants a name of 1 to 31 of the characters A-Z a-z 0-9 . _ -");
  }

  bool ReadKey(std::string_view value, BeaconKey* key) {
    const char* fault = ReadSecret(value, &key->secret);
    return fault == nullptr || Refuse(fault);
  }

  bool ReadPools(std::string_view value, BeaconKey* key) {
    if (value == "*") return true;
    for (std::string_view pool : Split(value, ',')) {
      key->pools.emplace_back(pool);
      if (!IsBeaconName(pool)) {
        return Refuse(absl::StrCat("pool ", key->pools.size(), " of pools= is not a name of 1 to 31 of the characters ",
                                   "A-Z a-z 0-9 . _ -; write pools=web,api, or pools=* for any"));
      }
    }
    return true;
  }

  bool ReadAddresses(std::string_view value, BeaconKey* key) {
    if (value == "*") return true;
    for (std::string_view text : Split(value, ',')) {
      absl::StatusOr<AddressRange> range = AddressRange::Parse(text);
      if (!range.ok()) {
        return Refuse(absl::StrCat("range ", key->addresses.size() + 1, " of addresses= is not like 10.0.0.0/8, ",
                                   "2001:db8::/32 or 10.0.0.7; addresses=* allows any"));
      }
      key->addresses.push_back(*range);
    }
    return true;
  }

  void Accept(BeaconKey key) {
    if (keys_.size() >= limits::kMaxBeaconKeys) {
      return Fault(absl::StrCat("more than ", limits::kMaxBeaconKeys, " keys; remove those of nodes that are gone"));
    }
    const auto [node, is_new] = line_of_node_.try_emplace(key.node, line_);
    if (!is_new) {
      return Fault(absl::StrCat("node '", key.node, "' has a key in line ", node->second, " already; keep one of the two"));
    }
    const auto [other, is_own] = line_of_secret_.try_emplace(key.secret.bytes, line_);
    if (!is_own) {
      return Fault(absl::StrCat("the same key as in line ", other->second, ": each node needs its own, or one could speak ",
                                "for the other; make one with 'hud-agentd keygen ", key.node, "'"));
    }
    keys_.push_back(std::move(key));
  }

  const std::string path_;
  size_t line_ = 0;
  std::vector<BeaconKey> keys_;
  std::map<std::string, size_t> line_of_node_;
  std::map<std::array<uint8_t, 32>, size_t> line_of_secret_;
  std::string errors_;
  size_t fault_count_ = 0;
};

// "*" or the names with commas.
std::string Joined(const std::vector<std::string>& names) {
  if (names.empty()) return "*";
  std::string text = names[0];
  for (size_t i = 1; i < names.size(); ++i) absl::StrAppend(&text, ",", names[i]);
  return text;
}

}  // namespace

bool BeaconKey::AllowsPool(std::string_view pool) const {
  return pools.empty() || std::find(pools.begin(), pools.end(), pool) != pools.end();
}

bool BeaconKey::AllowsAddress(const SocketAddress& address) const {
  if (addresses.empty()) return true;
  if (address.IsUnix()) return false;
  return std::any_of(addresses.begin(), addresses.end(),
                     [&](const AddressRange& range) { return range.Contains(address); });
}

absl::StatusOr<std::vector<BeaconKey>> ParseBeaconKeys(std::string_view text, std::string_view path) {
  KeysFileReader reader(path);
  ForEachLine(text, [&](size_t number, const auto& words) { reader.ReadLine(number, words); });
  return reader.Result();
}

absl::StatusOr<AgentKey> ParseAgentKey(std::string_view text, std::string_view path) {
  AgentKey key;
  size_t lines = 0;
  std::string error;
  auto fault = [&](size_t number, const std::string& what) {
    if (error.empty()) error = absl::StrCat(std::string(path), ":", number, ": ", what);
  };
  ForEachLine(text, [&](size_t number, const std::vector<std::string_view>& words) {
    if (++lines > 1) return fault(number, "a second key; the file holds one line: NAME KEY. Remove the rest");
    if (words.size() != 2) {
      return fault(number, "the line must be NAME KEY, as 'hud-agentd keygen NAME' writes it; the line it prints is for "
                           "the proxy's keys file");
    }
    if (!IsBeaconName(words[0])) return fault(number, "the name must be 1 to 31 of the characters A-Z a-z 0-9 . _ -");
    key.node = std::string(words[0]);
    if (const char* what = ReadSecret(words[1], &key.secret)) return fault(number, what);
  });
  if (lines == 0) fault(1, "no key in the file; make one with 'hud-agentd keygen NAME'");
  if (!error.empty()) return absl::InvalidArgumentError(error);
  return key;
}

std::string FormatAgentKey(const AgentKey& key) { return absl::StrCat(key.node, " ", Hex(key.secret), "\n"); }

std::string FormatBeaconKeyLine(const AgentKey& key, const std::vector<std::string>& pools,
                                const std::vector<std::string>& addresses) {
  return absl::StrCat("node=", key.node, " key=", Hex(key.secret), " pools=", Joined(pools),
                      " addresses=", Joined(addresses));
}

}  // namespace hud
