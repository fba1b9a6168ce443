#include "agentd/ticket_classifier.h"

#include <algorithm>

namespace hud {
namespace {

// A shorter common beginning is more likely chance, or a format's version bytes, than a name.
constexpr size_t kShortestTag = 4;
// Random bytes behind a 16-byte name agree by chance in a few positions at most. From here on it is no chance.
constexpr size_t kBeyondChance = 20;
constexpr uint8_t kS2nVersion = 0x01;

using Name = std::array<uint8_t, kKeyNameBytes>;

TicketPrefix PrefixOf(const SeenToken& token, size_t length) {
  TicketPrefix prefix;
  std::copy_n(token.head.begin(), length, prefix.bytes.begin());
  prefix.length = static_cast<uint8_t>(length);
  return prefix;
}

Name NameIn(const SeenToken& token) {
  Name name;
  std::copy_n(token.head.begin(), name.size(), name.begin());
  return name;
}

size_t HeadBytes(const SeenToken& token) { return std::min<size_t>(token.length, token.head.size()); }

size_t CommonPrefix(std::span<const SeenToken> tickets) {
  size_t common = HeadBytes(tickets.front());
  for (const SeenToken& ticket : tickets.subspan(1)) {
    const size_t limit = std::min(common, HeadBytes(ticket));
    common = 0;
    while (common < limit && ticket.head[common] == tickets.front().head[common]) ++common;
  }
  return common;
}

bool IsKnown(const Name& name, std::span<const TicketPrefix> known) {
  return std::any_of(known.begin(), known.end(), [&](const TicketPrefix& prefix) {
    return prefix.length == name.size() && std::equal(name.begin(), name.end(), prefix.bytes.begin());
  });
}

bool SeenInAnotherSession(const SeenToken& token, std::span<const SeenToken> tickets) {
  return std::any_of(tickets.begin(), tickets.end(), [&](const SeenToken& other) {
    return other.session != token.session && other.length >= kKeyNameBytes && NameIn(other) == NameIn(token);
  });
}

// Separate processes behind one port have a name each. That the first 16 bytes are a name at all is shown by
// repetition: at least half of the tickets begin with a name that another session, or an earlier probe, showed too.
std::vector<TicketPrefix> RepeatedNames(std::span<const SeenToken> tickets, std::span<const TicketPrefix> known) {
  std::vector<TicketPrefix> names;
  size_t repeated = 0;
  for (const SeenToken& ticket : tickets) {
    if (ticket.length <= kKeyNameBytes) return {};
    if (IsKnown(NameIn(ticket), known) || SeenInAnotherSession(ticket, tickets)) ++repeated;
    const TicketPrefix name = PrefixOf(ticket, kKeyNameBytes);
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  if (repeated * 2 < tickets.size()) return {};
  if (names.size() > limits::kMaxPrefixesPerNode) names.resize(limits::kMaxPrefixesPerNode);
  return names;
}

TicketVerdict ClassifyCommonPrefix(std::span<const SeenToken> tickets, std::span<const TicketPrefix> known) {
  const SeenToken& first = tickets.front();
  const size_t common = CommonPrefix(tickets);
  const bool one_session = std::all_of(tickets.begin(), tickets.end(),
                                       [&](const SeenToken& ticket) { return ticket.session == first.session; });
  if (tickets.size() < 2 || one_session) return {TicketKind::kTooFew, {}, 0};

  if (common > kKeyNameBytes && common < kBeyondChance && first.head[0] == kS2nVersion) {
    return {TicketKind::kS2n, {PrefixOf(first, kKeyNameBytes + 1)}, 0};
  }
  if (common >= kBeyondChance) {
    // More than a name is constant. The longer prefix tells nodes apart even if a fixed header comes first; the
    // shorter one still holds if what follows is a clock or a counter. Look-ups try the longest first.
    return {TicketKind::kKeyName, {PrefixOf(first, common), PrefixOf(first, kKeyNameBytes)}, 0};
  }
  if (common >= kKeyNameBytes) return {TicketKind::kKeyName, {PrefixOf(first, kKeyNameBytes)}, 0};

  std::vector<TicketPrefix> names = RepeatedNames(tickets, known);
  if (!names.empty()) return {TicketKind::kSeveralKeyNames, std::move(names), 0};
  if (common > kShortestTag) return {TicketKind::kTag, {PrefixOf(first, common)}, 0};
  if (common == kShortestTag) return {TicketKind::kJsse, {PrefixOf(first, common)}, 0};

  const bool ids = std::all_of(tickets.begin(), tickets.end(),
                               [](const SeenToken& ticket) { return ticket.length <= limits::kMaxTokenBytes; });
  return {ids ? TicketKind::kStateful : TicketKind::kNoPrefix, {}, 0};
}

}  // namespace

std::string_view NameOf(TlsVersion version) { return version == TlsVersion::kTls12 ? "TLS 1.2" : "TLS 1.3"; }

TicketVerdict ClassifyTickets(std::span<const SeenToken> seen, std::span<const TicketPrefix> known) {
  if (seen.empty()) return {};
  std::vector<SeenToken> tickets;
  uint32_t lifetime_seconds = 0;
  for (const SeenToken& token : seen) {
    lifetime_seconds = std::max(lifetime_seconds, token.lifetime_seconds);
    if (!token.is_session_id && token.length > 0) tickets.push_back(token);
  }
  TicketVerdict verdict;
  if (tickets.empty()) {
    verdict.kind = TicketKind::kStateful;
  } else {
    verdict = ClassifyCommonPrefix(tickets, known);
  }
  verdict.lifetime_seconds = lifetime_seconds;
  return verdict;
}

bool WantsMoreSessions(const TicketVerdict& verdict) {
  return verdict.kind == TicketKind::kNoPrefix || verdict.kind == TicketKind::kTooFew;
}

std::string_view Explain(TicketKind kind) {
  switch (kind) {
    case TicketKind::kNone:
      return "offers no resumption; nothing to learn";
    case TicketKind::kTooFew:
      return "gave too few tickets to tell";
    case TicketKind::kKeyName:
      return "tickets begin with a 16-byte key name";
    case TicketKind::kSeveralKeyNames:
      return "tickets begin with one of several 16-byte key names (separate processes?)";
    case TicketKind::kS2n:
      return "tickets begin with s2n's version byte and a 16-byte key name";
    case TicketKind::kJsse:
      return "tickets begin with JSSE's 4-byte key number";
    case TicketKind::kTag:
      return "tickets begin with a tag";
    case TicketKind::kStateful:
      return "stateful: every session has an id of its own";
    case TicketKind::kNoPrefix:
      return "tickets have no clear name: they cannot be led back to this node";
  }
  return "";
}

}  // namespace hud
