// What hud-agentd is told by its YAML file, as plain values. deploy/hud-agentd.yaml explains every key.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "agentd/ticket_key_file.h"
#include "core/base/types.h"
#include "core/net/address.h"
#include "core/os/log.h"

namespace hud {

using namespace std::chrono_literals;

// A node is one TLS server. It speaks with its own key.
struct AgentNodeConfig {
  std::string name;
  SocketAddress address;  // as the proxies reach it
  std::vector<std::string> pools;
  uint16_t weight = 100;
  std::string key_path;
  std::string key_at;  // where the file says so, "FILE:LINE"; of the paths below, too
};

enum class ProbeProxyProtocol : uint8_t { kOff, kV1, kV2 };

struct ProbeConfig {
  size_t node = 0;                    // index into AgentConfig::nodes
  SocketAddress address;              // as this machine reaches the server; the node's address unless told
  std::vector<std::string> sni;       // names to probe, each by itself; never empty: "" is "without a name"
  std::vector<std::string> alpn;
  Duration every = 60s;               // between looks at the tickets
  Duration ready_every = 2s;          // between looks at readiness
  Duration timeout = 2s;              // of one session
  std::string client_certificate;     // PEM
  std::string client_key;             // PEM; in the certificate's file unless told
  std::string client_certificate_at, client_key_at;
  ProbeProxyProtocol proxy_protocol = ProbeProxyProtocol::kOff;
  bool tls12 = true;
  bool tls13 = true;
};

struct TicketKeyFileConfig {
  size_t node = 0;
  std::string path;
  std::string at;
  TicketKeyFormat format = TicketKeyFormat::kAuto;
};

struct FeedsConfig {
  size_t node = 0;
  std::string syslog;  // path of the socket; empty: none
  std::string tokens;
  std::string group;   // who may write to them besides the agent's own user and group; empty: nobody
  std::string at;      // where the file says so, "FILE:LINE"
  Duration ttl = 1h;   // of ids that do not say their own
};

struct AgentLogConfig {
  LogLevel level = LogLevel::kInfo;
  LogFormat format = LogFormat::kLogfmt;
};

struct AgentConfig {
  std::vector<AgentNodeConfig> nodes;      // at least one
  std::vector<SocketAddress> proxies;      // at least one
  std::vector<ProbeConfig> probes;         // at least one a node
  std::vector<TicketKeyFileConfig> ticket_key_files;
  std::vector<FeedsConfig> feeds;          // at most one a node
  Duration beacon_every = 1s;
  AgentLogConfig log;
  std::string state_dir;                   // empty: nothing is kept over a restart
  std::string state_dir_at, user_at;       // "FILE:LINE"
  std::string user;                        // to become, when started as root; empty: stay who we are
  bool sandbox = true;                     // core/os/sandbox.h, and no dumps of memory
  std::vector<std::string> warnings;       // what is allowed and may be meant otherwise, "FILE:LINE: …"
};

inline constexpr size_t kMaxAgentNodes = 64;
inline constexpr size_t kMaxAgentProxies = 64;
inline constexpr size_t kMaxProbes = 256;
inline constexpr size_t kMaxTicketKeyFiles = 256;

// The error's message has a line for each thing wrong, "FILE:LINE: what; what to do".
absl::StatusOr<AgentConfig> ParseAgentConfig(const std::string& yaml, const std::string& path);
absl::StatusOr<AgentConfig> ReadAgentConfig(const std::string& path);

}  // namespace hud
