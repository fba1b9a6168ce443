// The agent: one loop over signals, probes' findings, feeds, key files and the sockets to the proxies. All state but
// the probes' own is the loop's (OneOwner).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "agentd/configuration.h"
#include "agentd/feed.h"
#include "agentd/feed_silence.h"
#include "agentd/file_watch.h"
#include "agentd/host_health.h"
#include "agentd/node_agent.h"
#include "agentd/probe_thread.h"
#include "agentd/proxy_link.h"
#include "core/os/fd.h"
#include "core/os/log.h"

namespace hud {

class Agent {
 public:
  // Reads the keys, binds the feeds, starts the probes. `signals`: of TakeSignals, which the agent reads:
  //   SIGTERM, SIGINT, SIGUSR1  the agent ends, and says nothing: its nodes serve on
  //   SIGUSR2                   takes the nodes out of service (DYING), and ends
  //   SIGHUP                    looks at servers, key files and beacon keys again
  static absl::StatusOr<std::unique_ptr<Agent>> Make(AgentConfig config, Fd signals, const Log* log);
  ~Agent();

  // Until a signal ends it.
  void Run();

 private:
  struct Node {
    std::unique_ptr<NodeAgent> agent;
    ConnectionCounter connections;
  };

  struct NodeFeed {
    size_t node;
    Feed feed;
    FeedSilence silence;
    bool lost = false;  // its socket is gone, and could not be made anew: that was said
  };

  Agent(AgentConfig config, Fd signals, const Log* log);
  absl::Status AddNodes();
  absl::Status OpenFeeds();
  absl::Status StartProbes();

  bool Turn();
  void WaitForEvents();
  bool TakeSignals();  // false: leave
  void TakeFindings();
  void ReadFeeds();
  void WatchFeed(NodeFeed& feed, std::optional<uint32_t> connections);
  void TellFeeds() const;
  void ReadKeyFiles(const std::vector<size_t>& which);
  void MeasureHealth();
  void SpeakToProxies();
  void ComplainOfSilentProxies();
  std::string_view WhySilent(const ProxyLink& proxy, std::string_view node) const;
  void ReadBeaconKeys();
  void TellNews();
  void RestorePrefixes();
  void KeepPrefixes();
  void TellSupervisor();
  void FeedWatchdog();
  void SetReports();
  void LookNow();
  void Leave();

  const AgentConfig config_;
  const Log& log_;
  const uint64_t epoch_;
  const Instant started_;
  bool drain_ = false;  // leave with a DYING
  Instant now_;
  Fd signals_;
  std::vector<Node> nodes_;            // in the order of config_.nodes
  std::vector<ProxyLink> proxies_;     // in the order of config_.proxies
  enum class Hearing : uint8_t { kNotYet, kComplained, kHeard };
  std::map<std::pair<std::string, std::string>, Hearing> hearing_;  // of each node by each proxy
  std::vector<NodeFeed> feeds_;
  bool feed_has_more_ = false;
  FileWatch key_files_;
  std::unique_ptr<ProbeMailbox> mailbox_;
  std::vector<std::unique_ptr<ProbeThread>> probes_;  // destroyed first: they post to the mailbox
  Instant next_health_, next_key_file_poll_, next_silence_check_;
  Duration watchdog_every_{0};
  Instant next_watchdog_ = Instant::max();
  Instant next_keep_{};
  std::map<std::string, std::vector<TicketPrefix>> kept_;  // of each node, as last written
  std::string last_status_;
};

}  // namespace hud
