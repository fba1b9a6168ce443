// What of a configuration a running process cannot take on.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "control/config/configuration.h"
#include "core/yaml/yaml_reader.h"

namespace hud {
namespace {

std::string Text(const std::string& value) { return value.empty() ? "none" : absl::StrCat("'", value, "'"); }
std::string Text(bool value) { return value ? "true" : "false"; }
std::string Text(int value) { return absl::StrCat(value); }
std::string Text(unsigned value) { return absl::StrCat(value); }
std::string Text(size_t value) { return absl::StrCat(value); }
std::string Text(double value) { return absl::StrCat(value); }
std::string Text(const std::optional<unsigned>& value) { return value ? absl::StrCat(*value) : "auto"; }
std::string Text(const std::vector<SocketAddress>& addresses) {
  if (addresses.empty()) return "none";
  return absl::StrJoin(addresses, ", ",
                       [](std::string* out, const SocketAddress& a) { absl::StrAppend(out, a.ToString()); });
}
std::string Text(RelayMode mode) {
  switch (mode) {
    case RelayMode::kAuto:
      return "auto";
    case RelayMode::kSplice:
      return "splice";
    case RelayMode::kCopy:
      return "copy";
    case RelayMode::kZeroCopy:
      return "zerocopy";
  }
  return "?";
}
std::string Text(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "?";
}
std::string Text(LogFormat format) { return format == LogFormat::kJson ? "json" : "logfmt"; }

class Comparison {
 public:
  explicit Comparison(const Configuration::Source& source) : source_(source) {}

  template <typename T>
  void Same(const std::string& key, const T& running, const T& next) {
    if (running != next) Add(key, absl::StrCat("from ", Text(running), " to ", Text(next)));
  }

  void Add(const std::string& key, const std::string& change) {
    absl::StrAppend(&errors_, errors_.empty() ? "" : "\n", source_.At(key), ": ", key, ": ", change,
                    " needs a restart; restart hudsucker, or undo this change");
  }

  absl::Status Result() const { return errors_.empty() ? absl::OkStatus() : absl::FailedPreconditionError(errors_); }

 private:
  const Configuration::Source& source_;
  std::string errors_;
};

const ListenerConfig* Find(const Configuration& configuration, const std::string& name) {
  for (const ListenerConfig& listener : configuration.cluster.listeners) {
    if (listener.name == name) return &listener;
  }
  return nullptr;
}

void CompareListeners(const Configuration& running, const Configuration& next, Comparison* comparison) {
  for (const ListenerConfig& listener : next.cluster.listeners) {
    const std::string key = absl::StrCat("listeners.", listener.name);
    const ListenerConfig* old = Find(running, listener.name);
    if (old == nullptr) {
      comparison->Add(key, "a new listener");
      continue;
    }
    comparison->Same(absl::StrCat(key, ".bind"), old->bind, listener.bind);
    comparison->Same(absl::StrCat(key, ".backlog"), old->backlog, listener.backlog);
    comparison->Same(absl::StrCat(key, ".defer_accept"), old->defer_accept, listener.defer_accept);
    comparison->Same(absl::StrCat(key, ".quick_ack"), old->quick_ack, listener.quick_ack);
  }
  for (const ListenerConfig& listener : running.cluster.listeners) {
    if (Find(next, listener.name) == nullptr)
      comparison->Add(absl::StrCat("listeners.", listener.name), "removing a listener");
  }
}

}  // namespace

absl::Status CheckReload(const Configuration& running, const Configuration& next) {
  Comparison comparison(next.source);
  comparison.Same("workers", running.workers, next.workers);
  comparison.Same("user", running.user, next.user);
  comparison.Same("sandbox", running.sandbox, next.sandbox);
  comparison.Same("max_connections", running.max_connections, next.max_connections);
  comparison.Same("max_connections_per_source", running.max_connections_per_source, next.max_connections_per_source);
  comparison.Same("command_socket", running.command_socket, next.command_socket);
  comparison.Same("state_dir", running.state_dir, next.state_dir);
  CompareListeners(running, next, &comparison);
  comparison.Same("beacons.bind", running.cluster.beacons.bind, next.cluster.beacons.bind);
  comparison.Same("affinity.capacity", running.cluster.affinity.capacity, next.cluster.affinity.capacity);
  comparison.Same("relay.mode", running.relay.mode, next.relay.mode);
  comparison.Same("relay.pipe_bytes", running.relay.pipe_bytes, next.relay.pipe_bytes);
  comparison.Same("relay.pipes", running.relay.pipes, next.relay.pipes);
  comparison.Same("relay.hello_budget", running.relay.hello_budget_bytes, next.relay.hello_budget_bytes);
  comparison.Same("status.bind", running.status, next.status);
  comparison.Same("log.level", running.log.level, next.log.level);
  comparison.Same("log.format", running.log.format, next.log.format);
  comparison.Same("log.file", running.log.file, next.log.file);
  comparison.Same("log.access.enabled", running.log.access.enabled, next.log.access.enabled);
  comparison.Same("log.access.sample", running.log.access.sample, next.log.access.sample);
  return comparison.Result();
}

}  // namespace hud
