// The two files that hold beacon keys. An error never repeats what stands in the file: a secret in the wrong place would
// end up in a log. It says where, what is wrong, and what to write.
#include <algorithm>
#include <charconv>
#include <map>

#include "absl/strings/str_cat.h"
#include "core/beacon/beacon.h"

namespace hud {
namespace {

constexpr size_t kHexBytes = 64;
constexpr size_t kMaxErrors = 20;
constexpr size_t kKeysOfANode = 2;
constexpr size_t kNodesInAWarning = 8;
constexpr const char* kLineFormat =
    "node=NAME key=HEX pools=POOL[,POOL...] addresses=ADDRESS[,ADDRESS...] [weight=N] [tickets=GROUP]";

// What a proxy can reach and a stranger cannot, and what is no host's address. "This host" (0.0.0.0, ::) is connected to
// as loopback.
constexpr const char* kSpecialRanges[] = {"127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4",
                                          "::1/128",     "::/128",         "fe80::/10", "ff00::/8"};

const std::vector<AddressRange>& SpecialRanges() {
  static const std::vector<AddressRange> ranges = [] {
    std::vector<AddressRange> parsed;
    for (const char* text : kSpecialRanges) parsed.push_back(AddressRange::Parse(text).value());
    return parsed;
  }();
  return ranges;
}

template <typename Inside>
bool IsSpecial(const Inside& inside) {
  return std::any_of(SpecialRanges().begin(), SpecialRanges().end(),
                     [&](const AddressRange& special) { return special.Contains(inside); });
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// What is wrong with it, or null.
const char* ReadSecret(std::string_view hex, BeaconSecret* secret) {
  if (hex.size() != kHexBytes) return "the key must be 64 hexadecimal digits; make one with 'hud-agentd keygen NAME --pools POOL --addresses ADDRESS'";
  for (size_t i = 0; i < secret->bytes.size(); ++i) {
    const int high = HexDigit(hex[2 * i]);
    const int low = HexDigit(hex[2 * i + 1]);
    if (high < 0 || low < 0) return "the key has a character that is no hexadecimal digit; copy it again";
    secret->bytes[i] = static_cast<uint8_t>(high << 4 | low);
  }
  if (*secret == BeaconSecret{}) return "a key of zeros is no secret; make one with 'hud-agentd keygen NAME --pools POOL --addresses ADDRESS'";
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
    bool seen[kFieldCount] = {};
    bool good = true;
    for (size_t i = 0; i < words.size(); ++i) good &= ReadField(words[i], i + 1, &key, seen);
    if (!good) return;
    for (size_t i = 0; i < kRequiredFields; ++i) {
      if (!seen[i]) return Fault(absl::StrCat("'", kFields[i], "' is missing; the line is ", kLineFormat,
                                              "; '*' instead of pools or addresses allows any"));
    }
    Accept(std::move(key));
  }

  absl::StatusOr<std::vector<BeaconKey>> Result() {
    if (errors_.empty()) return std::move(keys_);
    if (fault_count_ > kMaxErrors) absl::StrAppend(&errors_, "\n… and ", fault_count_ - kMaxErrors, " more");
    return absl::InvalidArgumentError(errors_);
  }

 private:
  static constexpr size_t kFieldCount = 6, kRequiredFields = 4;
  static constexpr const char* kFields[kFieldCount] = {"node=", "key=", "pools=", "addresses=", "weight=", "tickets="};

  void Fault(const std::string& what) {
    if (++fault_count_ > kMaxErrors) return;
    absl::StrAppend(&errors_, errors_.empty() ? "" : "\n", path_, ":", line_, ": ", what);
  }

  bool Refuse(const std::string& what) {
    Fault(what);
    return false;
  }

  bool ReadField(std::string_view word, size_t position, BeaconKey* key, bool* seen) {
    for (size_t i = 0; i < kFieldCount; ++i) {
      const std::string_view field(kFields[i]);
      if (!word.starts_with(field)) continue;
      if (std::exchange(seen[i], true)) return Refuse(absl::StrCat("'", kFields[i], "' stands there twice; keep one"));
      const std::string_view value = word.substr(field.size());
      if (i == 0) return ReadNode(value, key);
      if (i == 1) return ReadKey(value, key);
      if (i == 2) return ReadPools(value, key);
      if (i == 3) return ReadAddresses(value, key);
      return i == 4 ? ReadWeight(value, key) : ReadTicketGroup(value, key);
    }
    return Refuse(absl::StrCat("word ", position,
                               " is none of node= key= pools= addresses= weight= tickets=; the line is ", kLineFormat));
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
    size_t count = 0;
    for (std::string_view text : Split(value, ',')) {
      ++count;
      if (absl::StatusOr<AddressRange> range = AddressRange::Parse(text); range.ok()) {
        key->addresses.push_back(*range);
        continue;
      }
      const absl::StatusOr<SocketAddress> endpoint = SocketAddress::Parse(text);
      if (!endpoint.ok() || (!endpoint->IsUnix() && endpoint->port() == 0)) {
        return Refuse(absl::StrCat("address ", count, " of addresses= is not like 10.0.0.7, 10.0.0.0/8, 2001:db8::/32, ",
                                   "10.0.0.7:8443 or unix:/run/web.sock; addresses=* allows any that is not this machine's"));
      }
      key->endpoints.push_back(*endpoint);
    }
    return true;
  }

  bool ReadWeight(std::string_view value, BeaconKey* key) {
    uint32_t weight = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), weight);
    if (error != std::errc() || end != value.data() + value.size() || weight > limits::kMaxWeight) {
      return Refuse(absl::StrCat("weight= wants the highest weight that the node may announce, 0 to ", limits::kMaxWeight, "; ",
                                 BeaconKey::kUsualMostWeight, " unless given"));
    }
    key->most_weight = static_cast<uint16_t>(weight);
    return true;
  }

  bool ReadTicketGroup(std::string_view value, BeaconKey* key) {
    key->ticket_group = std::string(value);
    return IsBeaconName(value) ||
           Refuse("tickets= wants the name of a group of nodes that share their ticket keys: 1 to 31 of the characters "
                  "A-Z a-z 0-9 . _ -");
  }

  void Accept(BeaconKey key) {
    if (keys_.size() >= limits::kMaxBeaconKeys) {
      return Fault(absl::StrCat("more than ", limits::kMaxBeaconKeys, " keys; remove those of nodes that are gone"));
    }
    std::vector<size_t>& lines = lines_of_node_[key.node];
    lines.push_back(line_);
    if (lines.size() > kKeysOfANode) {
      return Fault(absl::StrCat("node '", key.node, "' has keys in lines ", lines[0], " and ", lines[1],
                                " already; two, while its key is being changed, is the most: remove the oldest"));
    }
    const auto [other, is_own] = line_of_secret_.try_emplace(key.secret.bytes, line_);
    if (!is_own) {
      return Fault(absl::StrCat("the same key as in line ", other->second, ": each node needs its own, or one could speak ",
                                "for the other; make one with 'hud-agentd keygen NAME --pools POOL --addresses ADDRESS'"));
    }
    keys_.push_back(std::move(key));
  }

  const std::string path_;
  size_t line_ = 0;
  std::vector<BeaconKey> keys_;
  std::map<std::string, std::vector<size_t>> lines_of_node_;
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

AddressVerdict BeaconKey::JudgeAddress(const SocketAddress& address, bool is_ours) const {
  const SocketAddress plain = address;
  if (std::find(endpoints.begin(), endpoints.end(), plain) != endpoints.end()) return AddressVerdict::kAllowed;
  if (plain.IsUnix()) return AddressVerdict::kSpecial;
  const bool is_special = IsSpecial(plain);
  // "0.0.0.0/0" means the world, not this machine: what is special is named by a range that is no wider than it.
  const auto names_it = [&](const AddressRange& range) {
    return range.Contains(plain) && (!is_special || IsSpecial(range));
  };
  if (is_ours) return AddressVerdict::kOurs;
  if (std::any_of(addresses.begin(), addresses.end(), names_it)) return AddressVerdict::kAllowed;
  if (is_special) return AddressVerdict::kSpecial;
  return AllowsAnyAddress() ? AddressVerdict::kAllowed : AddressVerdict::kNotInLine;
}

std::vector<std::string> WideBeaconKeys(const std::vector<BeaconKey>& keys) {
  const auto nodes_where = [&](const auto& is_wide) {
    std::string nodes;
    size_t count = 0;
    for (const BeaconKey& key : keys) {
      if (!is_wide(key)) continue;
      if (++count <= kNodesInAWarning) absl::StrAppend(&nodes, nodes.empty() ? "" : ", ", key.node);
    }
    if (count > kNodesInAWarning) absl::StrAppend(&nodes, " and ", count - kNodesInAWarning, " more");
    return nodes;
  };
  std::vector<std::string> sentences;
  if (const std::string nodes = nodes_where([](const BeaconKey& key) { return key.pools.empty(); }); !nodes.empty()) {
    sentences.push_back(absl::StrCat("pools=* in the keys file: who holds the key of ", nodes,
                                     " can join any pool and get its clients; name the pools"));
  }
  if (const std::string nodes = nodes_where([](const BeaconKey& key) { return key.AllowsAnyAddress(); }); !nodes.empty()) {
    sentences.push_back(absl::StrCat("addresses=* in the keys file: who holds the key of ", nodes,
                                     " can have this proxy connect to any host it reaches; name the addresses"));
  }
  return sentences;
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
  if (lines == 0) fault(1, "no key in the file; make one with 'hud-agentd keygen NAME --pools POOL --addresses ADDRESS'");
  if (!error.empty()) return absl::InvalidArgumentError(error);
  return key;
}

std::string FormatAgentKey(const AgentKey& key) { return absl::StrCat(key.node, " ", Hex(key.secret), "\n"); }

std::string FormatBeaconKeyLine(const AgentKey& key, const std::vector<std::string>& pools,
                                const std::vector<std::string>& addresses, uint16_t weight,
                                const std::string& ticket_group) {
  std::string line = absl::StrCat("node=", key.node, " key=", Hex(key.secret), " pools=", Joined(pools),
                                  " addresses=", Joined(addresses));
  if (weight != 0) absl::StrAppend(&line, " weight=", weight);
  if (!ticket_group.empty()) absl::StrAppend(&line, " tickets=", ticket_group);
  return line;
}

}  // namespace hud
