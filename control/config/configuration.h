// The whole of hudsucker.yaml as values. deploy/hudsucker.yaml shows every key with its default.
// Reading it changes nothing and asks nothing of the machine but its limit on descriptors.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/config/cluster_config.h"
#include "core/net/address.h"
#include "core/os/log.h"
#include "core/policy/relay_policy.h"

namespace hud {

struct RelayConfig {
  RelayMode mode = RelayMode::kAuto;
  size_t pipe_bytes = 1024 * 1024;       // size asked for a pipe
  std::optional<unsigned> pipes;         // budget of a worker; none: what the descriptor limit has room for
  size_t hello_budget_bytes = 64 << 20;  // of the process
};

struct AccessLogConfig {
  bool enabled = true;
  double sample = 1.0;  // the share of connections that get a line; those that end badly always do
};

struct LogConfig {
  LogLevel level = LogLevel::kInfo;
  LogFormat format = LogFormat::kLogfmt;
  std::string file;  // empty: standard error
  AccessLogConfig access;
};

// Of workers that do not turn.
struct WatchdogConfig {
  Duration after = std::chrono::seconds(10);  // it is said
  bool end = false;                           // and the process ends

  bool operator==(const WatchdogConfig&) const = default;
};

struct Configuration {
  // Where keys were in the file, for the errors of CheckReload: "listeners[tls].bind" → line. Defaults have no line.
  struct Source {
    std::string path;  // empty: the command line (QuickStart)
    std::vector<std::pair<std::string, int>> lines;
    // "hudsucker.yaml:12", or the path alone if the key is not in the file, or "command line".
    std::string At(std::string_view key) const;
  };

  ClusterConfig cluster;
  WatchdogConfig watchdog;
  // All of the rest needs a restart to change.
  std::optional<unsigned> workers;          // none: one for each core that this process may use
  std::optional<unsigned> max_connections;  // of the process; none: what the descriptor limit has room for
  unsigned max_connections_per_source = 0;  // 0: none
  std::string user;                         // empty: stay who we are
  bool sandbox = true;                      // core/os/sandbox.h, and no dumps of memory
  RelayConfig relay;
  std::string command_socket;         // path; empty: none. Not yet served.
  std::vector<SocketAddress> status;  // where /status and /metrics are served; empty: nowhere
  std::vector<std::string> status_hosts;  // lower case; a reload may change them
  LogConfig log;
  std::string state_dir = "/var/lib/hudsucker";
  Source source;
};

// All errors at once, a line each: "path:line:column: key: what, and what to do".
absl::StatusOr<Configuration> LoadConfiguration(const std::string& path);
absl::StatusOr<Configuration> ParseConfiguration(std::string_view text, std::string path);

// A warning for each listener that takes anybody's PROXY header without a word that it should.
std::vector<std::string> UnguardedProxyHeaders(const Configuration& configuration);

// May the running process become `next` by a reload? An error lists every change that needs a restart, a line each,
// with its place in the new file; the running configuration then stays (ReloadIsAllOrNothing).
absl::Status CheckReload(const Configuration& running, const Configuration& next);

}  // namespace hud
