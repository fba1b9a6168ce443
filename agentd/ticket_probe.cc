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
      ready_ = true;
      failures_ = 0;
      return;
    case SessionEnd::kLocalError:
    case SessionEnd::kStopped: return;
    case SessionEnd::kRefused: failures_ = kFailuresInARow; break;
    case SessionEnd::kVersionRefused:
    case SessionEnd::kTimedOut:
    case SessionEnd::kFailed: failures_ = std::min(failures_ + 1, kFailuresInARow); break;
  }
  if (failures_ >= kFailuresInARow) ready_ = false;
}

std::vector<TlsVersion> TicketProbe::Versions() const {
  std::vector<TlsVersion> versions;
  if (config_.tls13) versions.push_back(TlsVersion::kTls13);
  if (config_.tls12) versions.push_back(TlsVersion::kTls12);
  return versions;
}

ReadinessLook TicketProbe::LookAtReadiness() {
  const bool tls13 = config_.tls13 && !(tls13_refused_ && config_.tls12);
  const TlsVersion version = tls13 ? TlsVersion::kTls13 : TlsVersion::kTls12;
  const std::string& server_name = config_.sni.front();
  const auto known = memory_.find({server_name, version});
  const bool compare = known != memory_.end() && !known->second.names.empty();

  SessionResult session = client_.Run(server_name, version, compare);
  if (session.end == SessionEnd::kVersionRefused && tls13 && config_.tls12) {
    tls13_refused_ = true;
    session = client_.Run(server_name, TlsVersion::kTls12, false);
  } else if (session.end == SessionEnd::kVersionRefused) {
    tls13_refused_ = false;
  }
  ReadinessLook look{session.end, std::move(session.detail), session.handshake, false};
  if (compare) {
    const std::vector<TicketPrefix>& names = known->second.names;
    look.unknown_name = std::any_of(session.tokens.begin(), session.tokens.end(), [&](const SeenToken& token) {
      return !token.is_session_id && std::none_of(names.begin(), names.end(), [&](const TicketPrefix& name) {
        return BeginsWith(token, name);
      });
    });
  }
  return look;
}

std::vector<ProbeFinding> TicketProbe::LookAtTickets() {
  std::vector<ProbeFinding> findings;
  int timeouts = 0;
  for (const std::string& server_name : config_.sni) {
    for (const TlsVersion version : Versions()) {
      ProbeFinding finding = LookAt(server_name, version);
      if (finding.end == SessionEnd::kStopped) return findings;
      if (finding.end == SessionEnd::kHandshakeDone) {
        Remember(finding);
        if (version == TlsVersion::kTls13) tls13_refused_ = false;
      }
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
    SessionResult result = client_.Run(server_name, version, true);
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
