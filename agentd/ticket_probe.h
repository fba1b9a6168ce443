// The self-probe: what the agent learns of its own server by being its client. Needs nothing configured.
// One probe is one address with its SNI names; it runs in a thread of its own (probe_thread.h).
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "agentd/probe_session.h"
#include "agentd/ticket_classifier.h"

namespace hud {

// What one SNI name showed in one version.
struct ProbeFinding {
  std::string server_name;
  TlsVersion version = TlsVersion::kTls13;
  SessionEnd end = SessionEnd::kLocalError;
  std::string detail;       // for a person: what went wrong, or why no ticket came
  TicketVerdict verdict;    // of a handshake
  bool resumes_ids = false; // beside tickets: TLS 1.2 clients that know none get ids, from a cache
};

// How one look at readiness went.
struct ReadinessLook {
  SessionEnd end = SessionEnd::kLocalError;
  std::string detail;
  Duration handshake{0};
  bool unknown_name = false;  // a ticket began with a name that no look at the tickets has seen: the server reloaded
};

// Ready after any answer in TLS, be it an alert: a server that serves must not be taken out by its own agent. Not ready at once where nobody listens, and after two failures in a row where it may be
// chance.
class Readiness {
 public:
  void Note(SessionEnd end);
  bool ready() const { return ready_; }

 private:
  bool ready_ = false;
  int failures_ = 0;
};

class TicketProbe {
 public:
  TicketProbe(ProbeConfig config, ProbeClient client) : config_(std::move(config)), client_(std::move(client)) {}

  // One session.
  ReadinessLook LookAtReadiness();
  // At least kSessions sessions for each name and version, and more while they do not agree.
  std::vector<ProbeFinding> LookAtTickets();

  static constexpr uint32_t kSessions = 4;
  static constexpr uint32_t kMoreSessions = 16;

 private:
  ProbeFinding LookAt(const std::string& server_name, TlsVersion version);
  void LookWithoutTickets(ProbeFinding& finding);
  bool IsUnknown(const SeenToken& token, TlsVersion version) const;
  void Remember(const ProbeFinding& finding);

  struct Memory {
    TicketKind kind = TicketKind::kNone;
    std::vector<TicketPrefix> names;  // newest last; bounded
    bool resumes_ids = false;
  };
  ProbeConfig config_;
  ProbeClient client_;
  std::map<std::pair<std::string, TlsVersion>, Memory> memory_;
};

}  // namespace hud
