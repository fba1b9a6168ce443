#include "control/config/preconditions.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "control/config/beacon_keys_file.h"
#include "control/config/own_addresses.h"
#include "control/config/validate.h"
#include "control/process/cpu_quota.h"
#include "control/process/descriptor_budget.h"
#include "core/net/address_overlap.h"
#include "core/os/fd.h"
#include "core/os/log_file.h"
#include "core/os/privileges.h"
#include "ring/data_plane.h"

namespace hud {
namespace {

using Kind = Finding::Kind;

constexpr char kNoKeys[] =
    "there are no beacon keys, so no agent is believed; add the line of each node that `hud-agentd keygen` prints to the file that "
    "beacons.keys names, or leave `beacons` out";

using Findings = std::vector<Finding>;

template <typename... Parts>
void Add(Findings* findings, Kind kind, const Configuration& configuration, const std::string& key, const Parts&... parts) {
  findings->push_back({kind, absl::StrCat(configuration.At(key), ": ", parts...)});
}

// ---- Before rights are given up -------------------------------------------------------------------------------------

void ExamineUser(const Configuration& configuration, Findings* findings) {
  const std::string& user = configuration.user;
  if (user.empty()) return;
  const absl::StatusOr<bool> is_us = IsCurrentUser(user);
  if (!is_us.ok()) {
    findings->push_back({Kind::kError, absl::StrCat(configuration.At("user"), ": ", absl::StripPrefix(is_us.status().message(), "user: "))});
  } else if (!*is_us && ::geteuid() != 0) {
    Add(findings, Kind::kPassing, configuration, "user", CurrentUserName(), " cannot become '", user,
        "', so that user's rights to the files and addresses below were not looked at; check as root or as '", user, "'");
  }
}

void ExamineKernel(const Configuration&, Findings* findings) {
  if (const absl::StatusOr<std::string> kernel = ProbeKernel(); !kernel.ok()) {
    findings->push_back({Kind::kError, std::string(kernel.status().message())});
  }
}

void ExamineDescriptors(const Configuration& configuration, Findings* findings) {
  const size_t limit = RaiseLimits(configuration);
  const auto budget = PlanDescriptors(limit, CountOpenDescriptors(), WorkersFor(configuration), configuration.max_connections);
  if (!budget.ok()) {
    Add(findings, Kind::kError, configuration, "max_connections", budget.status().message());
  } else if (configuration.max_connections.value_or(0) > budget->max_connections) {
    Add(findings, Kind::kWarning, configuration, "max_connections", "the limit of ", limit, " open descriptors has room for ",
        budget->max_connections, " only; raise LimitNOFILE= or ulimit -n");
  }
}

// Binds it for a moment, without listening: whoever is bound there is not touched, and meanwhile no client can come.
void ExamineAddress(const Configuration& configuration, const std::string& key, const SocketAddress& address, int type,
                    Findings* findings) {
  const Fd probe(::socket(address.family(), type | SOCK_CLOEXEC, 0));
  if (!probe) {
    return Add(findings, Kind::kError, configuration, key, "cannot make a socket for ", address.ToString(), ": ",
               std::strerror(errno));
  }
  const int on = 1, off = 0;
  if (type == SOCK_STREAM) ::setsockopt(probe.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);  // TIME_WAIT is nobody
  if (address.family() == AF_INET6) ::setsockopt(probe.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  if (::bind(probe.get(), address.data(), address.size()) == 0) return;
  const int error = errno;
  const std::string cannot = absl::StrCat("cannot bind ", address.ToString(), ": ", std::strerror(error));
  if (error == EADDRINUSE) {
    Add(findings, Kind::kPassing, configuration, key, address.ToString(),
        " is in use; if that is not the hudsucker which this file is for, stop it or change the address");
  } else if (error == EACCES) {
    // Whoever may not become `user` is not the one who starts it, either.
    const bool is_starter = configuration.user.empty() || ::geteuid() == 0 || IsCurrentUser(configuration.user).value_or(false);
    Add(findings, is_starter ? Kind::kError : Kind::kPassing, configuration, key, cannot,
        ": ports below 1024 need root or CAP_NET_BIND_SERVICE");
  } else {
    Add(findings, Kind::kError, configuration, key, cannot,
        error == EADDRNOTAVAIL ? ": no interface of this machine has that address" : "");
  }
}

// A socket that nobody answers at is removed by the start, and one that somebody does is in use.
void ExamineSocketPath(const Configuration& configuration, const std::string& key, const SocketAddress& address,
                       Findings* findings) {
  const Bytes bytes = address.host_bytes();
  if (bytes.empty() || bytes[0] == 0) return;  // an abstract name
  const std::string path(bytes.begin(), bytes.end());
  struct stat info {};
  if (::lstat(path.c_str(), &info) == 0 && !S_ISSOCK(info.st_mode)) {
    return Add(findings, Kind::kError, configuration, key, path, " is there and is not a socket; remove it or write another path");
  }
  const std::string folder = path.substr(0, std::max<size_t>(1, path.rfind('/')));
  if (::faccessat(AT_FDCWD, folder.c_str(), W_OK | X_OK, AT_EACCESS) == 0) return;
  const int error = errno;
  Add(findings, Kind::kError, configuration, key, "cannot make a socket in ", folder, ": ", std::strerror(error),
      "; create the folder, or give it to ", CurrentUserName());
}

void ExamineListeners(const Configuration& configuration, Findings* findings) {
  const std::vector<ListenerConfig>& listeners = configuration.cluster.listeners;
  for (size_t i = 0; i < listeners.size(); ++i) {
    for (const SocketAddress& address : listeners[i].bind) {
      ExamineAddress(configuration, absl::StrCat("listeners[", i, "].bind"), address, SOCK_STREAM, findings);
    }
  }
}

// The addresses that are written are compared when the file is read; those of the interfaces are the machine's. A connect to one
// of them arrives at a listener on a wildcard.
void ExamineLoops(const Configuration& configuration, Findings* findings) {
  const std::vector<SocketAddress> machine = MachineAddresses();
  const std::vector<PoolConfig>& pools = configuration.cluster.pools;
  for (size_t i = 0; i < pools.size(); ++i) {
    for (size_t j = 0; j < pools[i].nodes.size(); ++j) {
      const SocketAddress& address = pools[i].nodes[j].address;
      if (std::find(machine.begin(), machine.end(), address.WithPort(0)) == machine.end()) continue;
      for (const ListenerConfig& listener : configuration.cluster.listeners) {
        for (const SocketAddress& bound : listener.bind) {
          if (!WildcardTakes(bound, address)) continue;
          Add(findings, Kind::kError, configuration, absl::StrCat("pools[", i, "].nodes[", j, "].address"), address.ToString(),
              " is this machine's own, and listener '", listener.name, "' listens on all addresses: hudsucker "
              "would connect to itself; write the address of the TLS server, or another port");
        }
      }
    }
  }
}

void ExamineProxyHeaders(const Configuration& configuration, Findings* findings) {
  for (const std::string& unguarded : UnguardedProxyHeaders(configuration)) findings->push_back({Kind::kWarning, unguarded});
}

void ExamineBeacons(const Configuration& configuration, Findings* findings) {
  for (const SocketAddress& address : configuration.cluster.beacons.bind) {
    ExamineAddress(configuration, "beacons.bind", address, SOCK_DGRAM, findings);
  }
}

bool IsMissing(const std::string& path) { return ::access(path.c_str(), F_OK) != 0 && errno == ENOENT; }

// Whoever is to read it; also when that user does not exist yet.
void ExamineKeysAreThere(const Configuration& configuration, Findings* findings) {
  const std::string& path = configuration.cluster.beacons.keys_path;
  if (!path.empty() && IsMissing(path)) Add(findings, Kind::kError, configuration, "beacons.keys", LoadBeaconKeys(path).status().message());
}

void ExamineStatus(const Configuration& configuration, Findings* findings) {
  for (const SocketAddress& address : configuration.status) {
    if (address.IsUnix()) {
      ExamineSocketPath(configuration, "status.bind", address, findings);
    } else {
      ExamineAddress(configuration, "status.bind", address, SOCK_STREAM, findings);
    }
  }
}

// ---- As the user ----------------------------------------------------------------------------------------------------

void ExamineKeys(const Configuration& configuration, Findings* findings) {
  const BeaconConfig& beacons = configuration.cluster.beacons;
  if (beacons.keys_path.empty()) {
    if (!beacons.bind.empty()) Add(findings, Kind::kWarning, configuration, "beacons.bind", kNoKeys);
    return;
  }
  if (IsMissing(beacons.keys_path)) return;  // said already
  const auto keys = LoadBeaconKeys(beacons.keys_path);
  if (!keys.ok()) return findings->push_back({Kind::kError, std::string(keys.status().message())});  // names its own line
  if (keys->empty()) Add(findings, Kind::kWarning, configuration, "beacons.keys", kNoKeys);
  for (const std::string& wide : WideBeaconKeys(*keys)) findings->push_back({Kind::kWarning, wide});
}

void ExamineLogFile(const Configuration& configuration, Findings* findings) {
  if (configuration.log.file.empty()) return;
  if (const absl::Status status = CheckLogFile(configuration.log.file); !status.ok()) {
    Add(findings, Kind::kError, configuration, "log.file", status.message());
  }
}

void ExamineRoot(const Configuration& configuration, Findings* findings) {
  if (::geteuid() != 0) return;
  Add(findings, Kind::kWarning, configuration, "user", kStaysRoot);
}

void ExamineReload(const Configuration& configuration, Findings* findings) {
  const std::string& path = configuration.source.path;
  if (path.empty() || ::faccessat(AT_FDCWD, path.c_str(), R_OK, AT_EACCESS) == 0) return;
  findings->push_back({Kind::kWarning, absl::StrCat(path, ": ", CurrentUserName(),
                                                    " cannot read the configuration, so reloads will fail; let that user read "
                                                    "it and pass through its folders")});
}

using enum Precondition::Stage;

constexpr Precondition kPreconditions[] = {
    {"`user` exists, and whoever starts hudsucker can become it", kAsStarted, ExamineUser},
    {"the kernel has what the data plane needs", kAsStarted, ExamineKernel},
    {"the limit on descriptors has room for connections", kAsStarted, ExamineDescriptors},
    {"listeners' addresses are this machine's, and may be bound", kAsStarted, ExamineListeners},
    {"no node is an address of this machine at which a listener takes all", kAsStarted, ExamineLoops},
    {"PROXY headers are taken from named networks only", kAsStarted, ExamineProxyHeaders},
    {"the beacons' address is this machine's, and may be bound", kAsStarted, ExamineBeacons},
    {"the keys file is there", kAsStarted, ExamineKeysAreThere},
    {"the status address is this machine's, and may be bound", kAsStarted, ExamineStatus},
    {"the keys file is good, and nobody but `user` can read it", kAsUser, ExamineKeys},
    {"`log.file` can be written by `user`", kAsUser, ExamineLogFile},
    {"`user` can read the configuration", kAsUser, ExamineReload},
    {"it is not root that serves", kAsUser, ExamineRoot},
};

}  // namespace

std::span<const Precondition> Preconditions() { return kPreconditions; }

std::vector<Finding> Examine(Precondition::Stage stage, const Configuration& configuration) {
  std::vector<Finding> findings;
  for (const Precondition& precondition : kPreconditions) {
    if (precondition.stage == stage) precondition.examine(configuration, &findings);
  }
  return findings;
}

unsigned WorkersFor(const Configuration& configuration) {
  return configuration.workers.value_or(
      std::min<unsigned>({limits::kMaxWorkers, UsableCores(), CpuQuota("/").value_or(limits::kMaxWorkers)}));
}

size_t RaiseLimits(const Configuration& configuration) {
  // Rings and their buffers are locked memory on some kernels.
  rlimit locked{};
  const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  if (::setrlimit(RLIMIT_MEMLOCK, &unlimited) != 0 && ::getrlimit(RLIMIT_MEMLOCK, &locked) == 0) {
    locked.rlim_cur = locked.rlim_max;
    ::setrlimit(RLIMIT_MEMLOCK, &locked);
  }
  constexpr size_t kOpenAtStart = 64;
  return RaiseDescriptorLimit(
      DescriptorsFor(configuration.max_connections.value_or(0), WorkersFor(configuration), kOpenAtStart));
}

}  // namespace hud
