// The whole of hudsucker.yaml as values. deploy/hudsucker.yaml shows every key with its default.
// Reading it changes nothing and asks nothing of the machine but its limit on descriptors.
#pragma once

#include <map>
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
  // Where each value was written, for whoever complains of it. Keys are those of the file, elements by number: "listeners[0].bind[1]".
  struct Source {
    std::string path;  // empty: the options of the command line (QuickStart)
    std::map<std::string, std::string, std::less<>> places;  // the line ("12"), or the option ("--listen"); defaults have none
    // Behind what another complaint mentions: " at line 12", or " (--listen)".
    std::string Beside(std::string_view key) const;
    // Of the key, or of the nearest one around it; null if there is none.
    const std::string* PlaceOf(std::string_view key) const;
  };
  // What a complaint begins with: "hudsucker.yaml:12: listeners.tls.bind", or "--listen".
  std::string At(std::string_view key) const;

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

// All errors at once, a line each: "path:line:column: key: what, and what to do"; also those of Validate (validate.h).
absl::StatusOr<Configuration> LoadConfiguration(const std::string& path);
absl::StatusOr<Configuration> ParseConfiguration(std::string_view text, std::string path);

}  // namespace hud
