#include "core/routing/server_name_router.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "core/base/limits.h"
#include "core/net/address.h"

namespace hud {

namespace {

constexpr size_t kMaxLabelBytes = 63;   // RFC 1035 2.3.4
constexpr size_t kMaxNameBytes = 253;   // without the dot of the root

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::string_view WithoutRootDot(std::string_view name) {
  if (name.ends_with('.')) name.remove_suffix(1);
  return name;
}

bool IsNameByte(char c) {
  c = Lower(c);
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }

absl::Status Bad(std::string_view pattern, std::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("server name \"", Absl(pattern), "\" ", Absl(why)));
}

absl::Status CheckLabel(std::string_view pattern, std::string_view label) {
  if (label.empty()) return Bad(pattern, "has an empty label: remove the extra dot");
  if (label.size() > kMaxLabelBytes) return Bad(pattern, "has a label of more than 63 bytes");
  if (label.find('*') != label.npos) return Bad(pattern, "may have a \"*\" only as its whole first label, as in \"*.example.com\"");
  for (const char c : label) {
    if (static_cast<unsigned char>(c) >= 0x80) return Bad(pattern, "is not ASCII: write its xn-- form");
    if (!IsNameByte(c)) return Bad(pattern, "has a byte that no host name has: use letters, digits, \"-\" and \"_\"");
  }
  return absl::OkStatus();
}

bool IsNumber(std::string_view label) {
  return std::all_of(label.begin(), label.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// RFC 6066 section 3 allows no literal address in a server_name, and some clients send one all the same.
bool IsAddress(std::string_view text) {
  const bool is_v6 = text.find(':') != text.npos;
  if (!is_v6 && (text.empty() || !IsNumber(text.substr(text.rfind('.') + 1)))) return false;
  if (is_v6 && (text.front() == '[' || text.find('%') != text.npos)) return false;
  return SocketAddress::Parse(is_v6 ? absl::StrCat("[", Absl(text), "]:443") : absl::StrCat(Absl(text), ":443")).ok();
}

bool Fits(const std::vector<std::string>& alpn, const ClientHello& hello, Bytes hello_bytes) {
  return std::any_of(alpn.begin(), alpn.end(),
                     [&](const std::string& name) { return hello.OffersAlpn(hello_bytes, name); });
}

// The protocol that two routes of one name both claim; null if none. No ALPN at all claims "any".
const std::string* Overlap(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  static const std::string kAny = "any";
  if (a.empty() && b.empty()) return &kAny;
  for (const std::string& name : a) {
    if (std::find(b.begin(), b.end(), name) != b.end()) return &name;
  }
  return nullptr;
}

}  // namespace

absl::Status CheckServerNamePattern(std::string_view pattern) {
  std::string_view rest = WithoutRootDot(pattern);
  if (rest.empty()) return Bad(pattern, "is empty");
  if (rest.size() > kMaxNameBytes) return Bad(pattern, "is longer than 253 bytes");
  if (IsAddress(rest)) return absl::OkStatus();
  if (rest == "*") return Bad(pattern, "would match every name: use default_pool for that");
  if (rest.starts_with("*.")) rest.remove_prefix(2);
  while (true) {
    const size_t dot = rest.find('.');
    const std::string_view label = rest.substr(0, dot);
    if (absl::Status status = CheckLabel(pattern, label); !status.ok()) return status;
    if (dot != rest.npos) {
      rest.remove_prefix(dot + 1);
      continue;
    }
    if (IsNumber(label)) return Bad(pattern, "ends with a number, as an address does, and is none: is a part missing?");
    return absl::OkStatus();
  }
}

absl::Status ServerNameRouter::Add(std::string_view pattern, const std::vector<std::string>& alpn, PoolIndex pool,
                                   uint16_t route) {
  if (absl::Status status = CheckServerNamePattern(pattern); !status.ok()) return status;
  if (count_ == limits::kMaxRoutes) {
    return absl::ResourceExhaustedError(absl::StrCat("server name \"", Absl(pattern), "\" is one too many: a listener has at most ",
                                                     limits::kMaxRoutes, " names in its routes"));
  }
  std::string name(WithoutRootDot(pattern));
  std::transform(name.begin(), name.end(), name.begin(), Lower);
  const bool is_wildcard = name.starts_with("*.");
  std::vector<Target>& targets = is_wildcard ? wildcard_[name.substr(2)] : exact_[name];
  for (const Target& other : targets) {
    if (const std::string* protocol = Overlap(alpn, other.alpn)) {
      return absl::AlreadyExistsError(absl::StrCat("server name \"", name, "\" with ALPN \"", *protocol, "\" is in route ",
                                                   route + 1, " and in route ", other.match.route + 1,
                                                   " (counted from 1): remove one"));
    }
  }
  targets.push_back({alpn, {pool, route}});
  ++count_;
  return absl::OkStatus();
}

const ServerNameRouter::Match* ServerNameRouter::FindIn(const Targets& targets, std::string_view name,
                                                        const ClientHello& hello, Bytes hello_bytes) {
  const auto found = targets.find(name);
  if (found == targets.end()) return nullptr;
  const Match* without_alpn = nullptr;
  for (const Target& target : found->second) {
    if (target.alpn.empty()) {
      without_alpn = &target.match;
    } else if (Fits(target.alpn, hello, hello_bytes)) {
      return &target.match;
    }
  }
  return without_alpn;
}

ServerNameRouter::Match ServerNameRouter::Find(const ClientHello& hello, Bytes hello_bytes) const {
  // The parser has lower-cased the name already; routing does not depend on that.
  std::array<char, limits::kMaxServerNameBytes> lowered;
  const std::string_view sent = WithoutRootDot(hello.server_name());
  std::transform(sent.begin(), sent.end(), lowered.begin(), Lower);
  const std::string_view name(lowered.data(), sent.size());
  if (const Match* match = FindIn(exact_, name, hello, hello_bytes)) return *match;
  // "*" is one label, so a name has one wildcard at most: the longest is the only one.
  const size_t dot = name.find('.');
  if (dot == 0 || dot == name.npos) return {};
  if (const Match* match = FindIn(wildcard_, name.substr(dot + 1), hello, hello_bytes)) return *match;
  return {};
}

}  // namespace hud
