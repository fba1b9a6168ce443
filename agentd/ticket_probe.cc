#include "agentd/ticket_probe.h"

#include <algorithm>

namespace hud {
namespace {

constexpr int kFailuresInARow = 2;
// A look at a server that hangs is given up after this many sessions that timed out.
constexpr int kTimeoutsInALook = 2;

bool BeginsWith(const SeenToken& token, const TicketPrefix& prefix) {
  return token.length > prefix.length &&
         std::equal(prefix.bytes.begin(), prefix.bytes.begin() + prefix.length, token.head.begin());
}

}  // namespace

void Readiness::Note(SessionEnd end) {
  switch (end) {
    case SessionEnd::kHandshakeDone:
    case SessionEnd::kWantsCertificate:
    case SessionEnd::kVersionRefused:
    case SessionEnd::kAlert:
      ready_ = true;
      failures_ = 0;
      return;
    case SessionEnd::kLocalError:
    case SessionEnd::kStopped:
      return;
    case SessionEnd::kRefused:
      failures_ = kFailuresInARow;
      break;
    case SessionEnd::kTimedOut:
    case SessionEnd::kFailed:
      failures_ = std::min(failures_ + 1, kFailuresInARow);
      break;
  }
  if (failures_ >= kFailuresInARow) ready_ = false;
}

// A session id names nobody, and where no name is known none can be unknown.
bool TicketProbe::IsUnknown(const SeenToken& token, TlsVersion version) const {
  const auto known = memory_.find({config_.sni.front(), version});
  if (token.is_session_id || known == memory_.end() || known->second.names.empty()) return false;
  const std::vector<TicketPrefix>& names = known->second.names;
  return std::none_of(names.begin(), names.end(), [&](const TicketPrefix& name) { return BeginsWith(token, name); });
}

// In whatever version the server likes best: its answer to one that is switched off would say nothing about readiness.
ReadinessLook TicketProbe::LookAtReadiness() {
  const VersionRange versions{config_.tls12 ? TlsVersion::kTls12 : TlsVersion::kTls13,
                              config_.tls13 ? TlsVersion::kTls13 : TlsVersion::kTls12};
  const bool names_known =
      std::any_of(memory_.begin(), memory_.end(), [](const auto& memory) { return !memory.second.names.empty(); });
  const SessionResult session = client_.Run(config_.sni.front(), versions, names_known);
  const bool unknown_name = std::any_of(session.tokens.begin(), session.tokens.end(),
                                        [&](const SeenToken& token) { return IsUnknown(token, session.version); });
  return {session.end, session.detail, session.handshake, unknown_name};
}

std::vector<ProbeFinding> TicketProbe::LookAtTickets() {
  std::vector<ProbeFinding> findings;
  int timeouts = 0;
  for (const std::string& server_name : config_.sni) {
    for (const TlsVersion version : {TlsVersion::kTls13, TlsVersion::kTls12}) {
      if (!(version == TlsVersion::kTls13 ? config_.tls13 : config_.tls12)) continue;
      ProbeFinding finding = LookAt(server_name, version);
      if (finding.end == SessionEnd::kStopped) return findings;
      if (finding.end == SessionEnd::kHandshakeDone) Remember(finding);
      LookWithoutTickets(finding);
      timeouts += finding.end == SessionEnd::kTimedOut;
      const bool hopeless = finding.end == SessionEnd::kRefused || timeouts >= kTimeoutsInALook;
      findings.push_back(std::move(finding));
      if (hopeless) return findings;
    }
  }
  return findings;
}

ProbeFinding TicketProbe::LookAt(const std::string& server_name, TlsVersion version) {
  ProbeFinding finding{server_name, version, SessionEnd::kLocalError, {}, {}};
  const Memory& memory = memory_[{server_name, version}];
  // A server known to have no clear names is not asked sixteen times every minute.
  const bool settled = memory.kind == TicketKind::kNoPrefix;
  std::vector<SeenToken> seen;
  bool asked_for_certificate = false;
  for (uint32_t session = 0; session < kMoreSessions; ++session) {
    if (session >= kSessions && (settled || !WantsMoreSessions(finding.verdict))) break;
    SessionResult result = client_.Run(server_name, {version, version}, true);
    finding.end = result.end;
    finding.detail = std::move(result.detail);
    if (result.end != SessionEnd::kHandshakeDone) return finding;
    asked_for_certificate |= result.asked_for_certificate;
    for (SeenToken& token : result.tokens) {
      token.session = session;
      seen.push_back(token);
    }
    if (session + 1 >= kSessions) finding.verdict = ClassifyTickets(seen, memory.names);
  }
  if (seen.empty() && asked_for_certificate && config_.client_certificate.empty()) {
    finding.detail = "perhaps because it wants a client certificate: set probe.client_certificate and probe.client_key";
  }
  return finding;
}

// A server with tickets may have a cache as well, for clients that know no tickets: their ids have no prefix.
void TicketProbe::LookWithoutTickets(ProbeFinding& finding) {
  const bool has_tickets = finding.verdict.kind != TicketKind::kNone && finding.verdict.kind != TicketKind::kStateful;
  if (finding.end != SessionEnd::kHandshakeDone || finding.version != TlsVersion::kTls12 || !has_tickets) return;
  bool& resumes_ids = memory_[{finding.server_name, finding.version}].resumes_ids;
  const IdResumption found = client_.TryWithoutTickets(finding.server_name);
  if (found != IdResumption::kUnknown) resumes_ids = found == IdResumption::kResumed;
  finding.resumes_ids = resumes_ids;
}

void TicketProbe::Remember(const ProbeFinding& finding) {
  Memory& memory = memory_[{finding.server_name, finding.version}];
  memory.kind = finding.verdict.kind;
  for (const TicketPrefix& prefix : finding.verdict.prefixes) {
    std::erase(memory.names, prefix);
    memory.names.push_back(prefix);
  }
  if (finding.verdict.prefixes.empty()) memory.names.clear();
  while (memory.names.size() > limits::kMaxPrefixesPerNode) memory.names.erase(memory.names.begin());
}

}  // namespace hud
