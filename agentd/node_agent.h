// What the agent knows of one of its nodes, and what its beacons therefore say. No descriptor, no clock.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agentd/configuration.h"
#include "agentd/prefix_ledger.h"
#include "agentd/probe_thread.h"
#include "core/beacon/beacon.h"
#include "core/beacon/beacon_sender.h"

namespace hud {

class NodeAgent {
 public:
  // `probes`: indices of the probes that look at this node; at least one.
  NodeAgent(const AgentNodeConfig& config, const std::vector<size_t>& probes);

  // What a probe found. Lines worth a log line are in TakeNews.
  void Apply(const ProbeReport& report, Instant now);
  // What a ticket key file holds now. Names that it no longer holds stay advertised for a ticket's lifetime.
  void Apply(const std::string& path, const std::vector<TicketPrefix>& names, Instant now);
  // Prefixes for the file that outlives the agent, with the time that they are still of use; and back again.
  std::vector<std::pair<TicketPrefix, Duration>> Keep(Instant now) const;
  void Restore(const TicketPrefix& prefix, Duration left, Instant now);
  void SetHealth(uint16_t load_permille, uint16_t cpu_pressure_permille, std::optional<uint32_t> connections);

  // Every probe succeeds now. The first time this is true, the node may be announced.
  bool ready() const;
  bool announced() const { return announced_; }
  NodeReport Report(Instant now) const;
  TokenJournal& journal() { return journal_; }
  const TokenJournal& journal() const { return journal_; }
  const std::string& name() const { return config_.name; }
  void SetHasFeed() { has_feed_ = true; }

  struct News {
    bool warning = false;
    std::string text;
  };
  std::vector<News> TakeNews();

 private:
  struct ProbeState {
    std::optional<bool> ready;  // nothing: it has not reported yet
    uint32_t probe_micros = 0;
  };
  void ApplyReadiness(const ProbeReport& report);
  void ApplyFinding(size_t probe, const ProbeFinding& finding, Instant now);
  bool AllAdvertised(const std::vector<TicketPrefix>& prefixes, Instant now) const;
  Duration TicketLifetime() const;
  void Say(bool warning, std::string text);

  const AgentNodeConfig config_;
  std::map<size_t, ProbeState> probes_;
  std::map<std::string, std::string> last_said_;  // of each thing probed, so that only changes are logged
  std::set<std::string> needs_feed_;              // of the things probed, those with ids that no feed brings
  std::map<std::string, uint32_t> lifetimes_;     // seconds, of each thing probed
  PrefixLedger ledger_;
  TokenJournal journal_;
  NodeHealth health_;
  bool announced_ = false;
  bool has_feed_ = false;  // exact feeds are configured
  std::vector<News> news_;
};

}  // namespace hud
