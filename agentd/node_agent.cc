#include "agentd/node_agent.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "agentd/feed_advice.h"
#include "core/base/check.h"

namespace hud {
namespace {

// Tokens kept to be sent again to a proxy that restarts. Enough for an hour of 70 new sessions a second.
constexpr size_t kJournalTokens = 1 << 18;
// For servers that say nothing of how long their tickets last: OpenSSL's own default.
constexpr uint32_t kUsualLifetimeSeconds = 7200;
constexpr uint32_t kLongestLifetimeSeconds = 7 * 24 * 3600;  // RFC 8446
constexpr uint32_t kShortestLifetimeSeconds = 60;
constexpr size_t kNamesInALogLine = 4;

// Key names are in clear in every ticket; their beginning is enough to recognise one in a log.
std::string Abbreviate(const std::vector<TicketPrefix>& prefixes) {
  std::string text;
  for (const TicketPrefix& prefix : prefixes) {
    if (&prefix - prefixes.data() == kNamesInALogLine) return absl::StrCat(text, " ..");
    const auto* bytes = reinterpret_cast<const char*>(prefix.bytes.data());
    absl::StrAppend(&text, text.empty() ? "" : " ", absl::BytesToHexString({bytes, std::min<size_t>(prefix.length, 4)}),
                    "..");
  }
  return text;
}

// Sessions of which only an exact feed can tell the owner, beside whatever tickets there are.
bool HasIds(const ProbeFinding& finding) { return finding.verdict.kind == TicketKind::kStateful || finding.resumes_ids; }

bool NamesItsOwner(TicketKind kind) {
  switch (kind) {
    case TicketKind::kKeyName:
    case TicketKind::kS2n:
    case TicketKind::kJsse:
    case TicketKind::kTag:
      return true;
    default:
      return false;
  }
}

// What was found, and what to do about it, in words that fit what is configured.
std::string Describe(const ProbeFinding& finding, bool has_feed) {
  const TicketKind kind = finding.verdict.kind;
  std::string text(Explain(kind));
  if (!finding.verdict.prefixes.empty()) absl::StrAppend(&text, " (", Abbreviate(finding.verdict.prefixes), ")");
  if (finding.resumes_ids) absl::StrAppend(&text, "; clients without ticket support get session ids from a cache");
  if (HasIds(finding)) {
    absl::StrAppend(&text, has_feed ? ", which the configured feed has to bring"
                                    : ", so an exact feed is needed (feeds.syslog or feeds.tokens)");
  } else if (NamesItsOwner(kind)) {
    absl::StrAppend(&text, "; nothing more to set up");
  }
  if (kind == TicketKind::kStateful && finding.version == TlsVersion::kTls13) {
    absl::StrAppend(&text, "; let the server issue one ticket a session (nginx: ssl_conf_command NumTickets 1;)");
  }
  if (!finding.detail.empty()) absl::StrAppend(&text, "; ", finding.detail);
  return text;
}

}  // namespace

NodeAgent::NodeAgent(const AgentNodeConfig& config, const std::vector<size_t>& probes)
    : config_(config), journal_(kJournalTokens) {
  HUD_CHECK(!probes.empty());
  for (const size_t probe : probes) probes_[probe] = {};
  health_.ready = false;
}

void NodeAgent::Say(bool warning, std::string text) {
  news_.push_back({warning, std::move(text)});
}

std::vector<NodeAgent::News> NodeAgent::TakeNews() { return std::exchange(news_, {}); }

bool NodeAgent::ready() const {
  return std::all_of(probes_.begin(), probes_.end(),
                     [](const auto& probe) { return probe.second.ready.value_or(false); });
}

void NodeAgent::Apply(const ProbeReport& report, Instant now) {
  const auto state = probes_.find(report.probe);
  HUD_CHECK(state != probes_.end());
  state->second.probe_micros = report.probe_micros;
  ApplyReadiness(report);
  for (const ProbeFinding& finding : report.findings) ApplyFinding(report.probe, finding, now);
}

void NodeAgent::ApplyReadiness(const ProbeReport& report) {
  ProbeState& state = probes_[report.probe];
  const bool news = state.ready != report.ready;
  state.ready = report.ready;
  if (news && !report.ready) Say(true, absl::StrCat("not ready: ", report.detail));
  if (news && report.ready) Say(false, absl::StrCat("ready, first answer in ", report.probe_micros, " us"));
  health_.ready = ready();
  announced_ |= health_.ready;
  health_.probe_micros = 0;
  for (const auto& [index, probe] : probes_) health_.probe_micros = std::max(health_.probe_micros, probe.probe_micros);
}

void NodeAgent::ApplyFinding(size_t probe, const ProbeFinding& finding, Instant now) {
  const std::string what =
      absl::StrCat(std::string(NameOf(finding.version)), finding.server_name.empty() ? "" : " ", finding.server_name);
  const std::string source = absl::StrCat("probe ", probe, " ", what);
  std::string said;
  bool warning = false, old_news = false, needs_feed = false;
  switch (finding.end) {
    case SessionEnd::kHandshakeDone:
      old_news = AllAdvertised(finding.verdict.prefixes, now);
      // Too few tickets say nothing against the names that were seen before.
      if (finding.verdict.kind != TicketKind::kTooFew) {
        lifetimes_[source] = finding.verdict.lifetime_seconds;
        ledger_.Replace(source, finding.verdict.prefixes, TicketLifetime(), now);
      }
      said = Describe(finding, has_feed_);
      needs_feed = HasIds(finding) && !has_feed_;
      break;
    case SessionEnd::kVersionRefused:
      ledger_.Replace(source, {}, TicketLifetime(), now);
      said = "switched off in the server";
      break;
    case SessionEnd::kWantsCertificate:
    case SessionEnd::kAlert:
      said = absl::StrCat("no ticket seen: ", finding.detail);
      warning = true;
      break;
    // A failure proves nothing about the keys: what was learnt stays. Readiness has a line of its own.
    case SessionEnd::kRefused:
    case SessionEnd::kTimedOut:
    case SessionEnd::kFailed:
      said = absl::StrCat("cannot be probed: ", finding.detail);
      break;
    case SessionEnd::kLocalError:
    case SessionEnd::kStopped:
      return;
  }
  std::string& last_said = last_said_[source];
  // Of several names a look at the tickets shows now these, now those: no line for each.
  old_news &= !last_said.empty();
  if (needs_feed != needs_feed_.contains(source)) old_news = false;
  if (std::exchange(last_said, said) != said && !old_news) Say(warning, absl::StrCat(what, ": ", said));
  if (needs_feed && needs_feed_.empty()) {
    for (std::string& line : FeedAdvice(config_.name, finding.resumes_ids)) Say(false, std::move(line));
  }
  if (needs_feed) needs_feed_.insert(source);
  // Of a look that failed nothing follows.
  if (!needs_feed && finding.end == SessionEnd::kHandshakeDone) needs_feed_.erase(source);
}

bool NodeAgent::AllAdvertised(const std::vector<TicketPrefix>& prefixes, Instant now) const {
  const std::vector<TicketPrefix> advertised = ledger_.Advertised(now);
  return !prefixes.empty() && std::all_of(prefixes.begin(), prefixes.end(), [&](const TicketPrefix& prefix) {
    return std::find(advertised.begin(), advertised.end(), prefix) != advertised.end();
  });
}

void NodeAgent::Apply(const std::string& path, const std::vector<TicketPrefix>& names, Instant now) {
  if (!ledger_.Replace(absl::StrCat("file ", path), names, TicketLifetime(), now)) return;
  Say(false,
      absl::StrCat(path, ": ", names.size(), " key name", names.size() == 1 ? "" : "s", " (", Abbreviate(names), ")"));
}

std::vector<std::pair<TicketPrefix, Duration>> NodeAgent::Keep(Instant now) const {
  std::vector<std::pair<TicketPrefix, Duration>> kept;
  for (const TicketPrefix& prefix : ledger_.Advertised(now)) {
    kept.emplace_back(prefix, ledger_.UsefulUntil(prefix, TicketLifetime(), now) - now);
  }
  return kept;
}

void NodeAgent::Restore(const TicketPrefix& prefix, Duration left, Instant now) {
  const Duration longest = std::chrono::seconds(kLongestLifetimeSeconds);
  if (left > Duration(0)) ledger_.Restore(prefix, now + std::min(left, longest));
}

Duration NodeAgent::TicketLifetime() const {
  uint32_t longest = 0;
  for (const auto& [source, seconds] : lifetimes_) longest = std::max(longest, seconds);
  if (longest == 0) longest = kUsualLifetimeSeconds;
  return std::chrono::seconds(std::clamp(longest, kShortestLifetimeSeconds, kLongestLifetimeSeconds));
}

void NodeAgent::SetHealth(uint16_t load_permille, uint16_t cpu_pressure_permille, std::optional<uint32_t> connections) {
  health_.load_permille = load_permille;
  health_.cpu_pressure_permille = cpu_pressure_permille;
  if (connections) health_.connections = *connections;
}

NodeReport NodeAgent::Report(Instant now) const {
  NodeReport report;
  report.address = config_.address;
  report.pools = config_.pools;
  report.weight = config_.weight;
  report.health = health_;
  report.prefixes = ledger_.Advertised(now);
  return report;
}

}  // namespace hud
