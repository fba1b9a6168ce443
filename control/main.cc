// hudsucker: wires the process together, in the order that safety asks for. What needs rights (limits, ports) comes first;
// then they are given up; only then come threads, rings and anything that a stranger can talk to.
#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "control/config/beacon_keys_file.h"
#include "control/config/configuration.h"
#include "control/config/own_addresses.h"
#include "control/config/preconditions.h"
#include "control/config/quick_start.h"
#include "control/config/reloader.h"
#include "control/control_thread.h"
#include "control/log/access_log.h"
#include "control/nodes/beacon_intake.h"
#include "control/nodes/beacon_socket.h"
#include "control/process/cpu_quota.h"
#include "control/process/descriptor_budget.h"
#include "control/process/process_stats.h"
#include "control/status/status_report.h"
#include "control/status/status_server.h"
#include "core/os/log.h"
#include "core/os/log_file.h"
#include "core/os/privileges.h"
#include "core/os/reload_report.h"
#include "core/os/sandbox.h"
#include "core/os/signals.h"
#include "ring/data_plane.h"

namespace hud {
namespace {

constexpr int kClean = 0;
constexpr int kSetUpFailed = 1;
constexpr int kUsage = 2;

constexpr std::string_view kFooter = R"(Signals:
  SIGTERM, SIGINT   end: no new connections, those there are may go on for timeouts.drain; a second one ends at once
  SIGHUP            load the configuration again, and reopen log.file
  SIGUSR1           reopen log.file, after it was renamed
  others that would end the process (SIGQUIT, SIGUSR2, SIGALRM, …) are ignored, with a word in the log

Ends with 0 when all is well, 1 when something is wrong with the configuration or the machine, 2 with the options.)";

// Longer than any load takes whose disk does not hang, and less than systemd's own patience of 90 s.
constexpr Duration kReloadPatience = std::chrono::seconds(80);

struct Options {
  std::string config;
  std::string check;
  bool reload = false;
  std::vector<std::string> listen;
  std::vector<std::string> nodes;
  std::string status;
};

// All that is opened while the process still has its rights.
struct Sockets {
  std::vector<ListenerSockets> listeners;
  std::vector<std::unique_ptr<BeaconSocket>> beacons;
  std::vector<Fd> status;
};

int Fail(absl::string_view what) {
  for (absl::string_view line : absl::StrSplit(what, '\n', absl::SkipEmpty())) {
    std::fprintf(stderr, "hudsucker: %.*s\n", static_cast<int>(line.size()), line.data());
  }
  return kSetUpFailed;
}

template <typename T>
T Random() {
  T value;
  HUD_CHECK(::getrandom(&value, sizeof value, 0) == static_cast<ssize_t>(sizeof value));
  return value;
}

// The texts of what keeps a start from succeeding, a line each.
absl::Status ErrorsOf(const std::vector<Finding>& findings) {
  std::string errors;
  for (const Finding& finding : findings) {
    if (finding.kind == Finding::Kind::kError) absl::StrAppend(&errors, errors.empty() ? "" : "\n", finding.text);
  }
  return errors.empty() ? absl::OkStatus() : absl::FailedPreconditionError(errors);
}

// What Run does until it would take hold of anything, and in the same order.
int Check(const std::string& path) {
  absl::StatusOr<Configuration> configuration = LoadConfiguration(path);
  if (!configuration.ok()) {
    std::fprintf(stderr, "%s\n", std::string(configuration.status().message()).c_str());
    return kSetUpFailed;
  }
  using Stage = Precondition::Stage;
  std::vector<Finding> findings = Examine(Stage::kAsStarted, *configuration);
  const std::string& user = configuration->user;
  const bool is_user = user.empty() || (IsCurrentUser(user).ok() && (::geteuid() == 0 || *IsCurrentUser(user)));
  absl::Status became = user.empty() || !is_user ? absl::OkStatus() : BecomeUser(user);
  if (!became.ok()) findings.push_back({Finding::Kind::kError, std::string(became.message())});
  if (is_user && became.ok()) {
    for (Finding& finding : Examine(Stage::kAsUser, *configuration)) findings.push_back(std::move(finding));
  }
  for (const Finding& finding : findings) {
    const char* kind = finding.kind == Finding::Kind::kError ? "" : finding.kind == Finding::Kind::kWarning ? "warning: " : "note: ";
    std::fprintf(stderr, "%s%s\n", kind, finding.text.c_str());
  }
  if (!ErrorsOf(findings).ok()) return kSetUpFailed;
  std::puts("ok");
  return kClean;
}

// As systemd's ExecReload=, or by hand as root or the service's user.
int Reload() {
  std::string folder = ReloadReporter::FolderFromEnvironment();
  if (folder.empty()) folder = "/run/hudsucker";
  const char* main_process = ::getenv("MAINPID");
  const absl::StatusOr<std::string> answer =
      AskForReload(folder, main_process == nullptr ? 0 : static_cast<pid_t>(std::atoi(main_process)), kReloadPatience);
  if (!answer.ok()) return Fail(answer.status().message());
  std::printf("%s%s", answer->c_str(), answer->ends_with('\n') ? "" : "\n");
  return kClean;
}

absl::StatusOr<Configuration> ReadConfiguration(const Options& options) {
  return options.config.empty() ? QuickStart(options.listen, options.nodes, options.status) : LoadConfiguration(options.config);
}

absl::StatusOr<Sockets> OpenSockets(const Configuration& configuration, unsigned workers) {
  Sockets sockets;
  absl::StatusOr<std::vector<ListenerSockets>> listeners = BindListeners(configuration.cluster.listeners, workers);
  if (!listeners.ok()) return listeners.status();
  sockets.listeners = *std::move(listeners);
  for (const SocketAddress& address : configuration.cluster.beacons.bind) {
    absl::StatusOr<std::unique_ptr<BeaconSocket>> socket = BeaconSocket::Bind(address);
    if (!socket.ok()) return socket.status();
    sockets.beacons.push_back(*std::move(socket));
  }
  for (const SocketAddress& address : configuration.status) {
    absl::StatusOr<Fd> socket = StatusServer::Bind(address);
    if (!socket.ok()) return socket.status();
    sockets.status.push_back(*std::move(socket));
  }
  return sockets;
}

absl::StatusOr<std::unique_ptr<LogWriter>> OpenLog(const LogConfig& config) {
  if (config.file.empty()) return std::make_unique<LogWriter>(Fd(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)));
  absl::StatusOr<Fd> file = OpenLogFile(config.file);
  if (!file.ok()) return absl::PermissionDeniedError(absl::StrCat("log.file: ", file.status().message()));
  return std::make_unique<LogWriter>(*std::move(file), config.file);
}

absl::StatusOr<DataPlaneOptions> PlanDataPlane(const Configuration& configuration, unsigned workers, size_t limit) {
  const absl::StatusOr<DescriptorBudget> budget =
      PlanDescriptors(limit, CountOpenDescriptors(), workers, configuration.max_connections);
  if (!budget.ok()) return budget.status();
  DataPlaneOptions options;
  options.workers = workers;
  // With a share of the cores' time rather than cores of its own it is for the scheduler to find the idle ones.
  options.pin_workers = CpuQuota("/").value_or(UsableCores()) >= UsableCores();
  options.relay_mode = configuration.relay.mode;
  options.max_connections = budget->max_connections;
  options.max_connections_per_source = configuration.max_connections_per_source;
  options.pipe_bytes = configuration.relay.pipe_bytes;
  options.pipes_per_worker = std::min(budget->pipes_per_worker, configuration.relay.pipes.value_or(budget->pipes_per_worker));
  options.hello_budget_bytes = configuration.relay.hello_budget_bytes;
  options.log_connections = configuration.log.access.enabled;
  options.digest_key = Random<SipKey>();
  return options;
}

void LogStart(const Log& log, const LoadedConfiguration& loaded, const DataPlaneOptions& options, size_t limit,
              std::string_view kernel, const std::vector<std::unique_ptr<BeaconSocket>>& beacons) {
  const Configuration& configuration = loaded.configuration;
  const std::string user = CurrentUserName();
  log.Info("starting", {{"version", std::string_view(HUD_VERSION)}, {"pid", int64_t{::getpid()}}, {"user", std::string_view(user)}});
  log.Info("kernel", {{"found", kernel}});
  log.Info("limits", {{"descriptors", static_cast<int64_t>(limit)},
                      {"max_connections", int64_t{options.max_connections}},
                      {"workers", int64_t{options.workers}},
                      {"pipes_per_worker", int64_t{options.pipes_per_worker}}});
  for (const ListenerConfig& listener : configuration.cluster.listeners) {
    for (const SocketAddress& address : listener.bind) {
      const std::string text = address.ToString();
      log.Info("listening", {{"listener", std::string_view(listener.name)}, {"address", std::string_view(text)}});
    }
  }
  for (const auto& socket : beacons) {
    const std::string text = socket->address().ToString();
    log.Info("beacons", {{"address", std::string_view(text)}, {"receive_buffer", int64_t{socket->receive_buffer_bytes()}}});
  }
  if (!configuration.command_socket.empty()) {
    log.Warning("command_socket is not yet served", {{"path", std::string_view(configuration.command_socket)}});
  }
}

// Null without a file. `control` is there before the first load ends.
absl::StatusOr<std::unique_ptr<Reloader>> MakeReloader(const std::string& path, unsigned workers, EventLoop* loop,
                                                       std::unique_ptr<ControlThread>* control) {
  if (path.empty()) return nullptr;
  return Reloader::Create(loop, {.load = [path, workers](const LoadedConfiguration& running) { return LoadChange(path, running, workers); },
                                 .running = [control] { return (*control)->loaded(); },
                                 .done = [control](ConfigurationChange change) { (*control)->OnReloaded(std::move(change)); }});
}

// Null without a socket. All that it is given outlives it.
absl::StatusOr<std::unique_ptr<StatusServer>> StartStatusServer(std::vector<Fd> sockets, const StatusSources& sources, StatusBoard* board,
                                                                StatusServerCounters* counters) {
  if (sockets.empty()) return nullptr;
  const auto clock = [] { return StatusTime{std::chrono::steady_clock::now(), std::chrono::system_clock::now()}; };
  return StatusServer::Start(
      std::move(sockets),
      {{"/", "text/html; charset=utf-8", [] { return std::string(kStatusPage); }},
       {"/status", "application/json", [&sources, clock] { return StatusJson(sources, clock().steady); }},
       {"/ready", "text/plain; charset=utf-8",
        [board, clock] {
          board->NoteReadyAsked(clock().steady);
          return std::string(Readiness(*board->Latest())) + "\n";
        },
        [board] { return Readiness(*board->Latest()) == "ready"; }},
       {"/metrics", "text/plain; version=0.0.4; charset=utf-8", [&sources, clock] { return MetricsText(sources, clock()); }}},
      [board] { return board->Latest()->status_hosts; }, counters);
}

void Confine(const Log& log) {
  const absl::Status sandbox = EnterSandbox();
  const std::string why(sandbox.message());
  if (!sandbox.ok()) log.Warning("sandbox: running without", {{"error", std::string_view(why)}});
}

// From here on there are threads. Everything is destroyed in the opposite order.
int Serve(std::shared_ptr<const LoadedConfiguration> loaded, Sockets sockets, const DataPlaneOptions& options,
          const std::string& kernel, Fd signals, std::unique_ptr<LogWriter> writer, const Log& log) {
  const ClusterConfig& config = loaded->configuration.cluster;
  const auto nodes = std::make_unique<NodeTable>();
  AffinityMap affinity({config.affinity.capacity, Random<SipKey>()});
  Cluster cluster(nodes.get());
  Instant now = std::chrono::steady_clock::now();
  if (absl::Status status = cluster.Apply(config, now); !status.ok()) return Fail(status.message());
  SnapshotChannel<RouteTable> routes(options.workers, cluster.Build(now));

  absl::StatusOr<std::unique_ptr<DataPlane>> data_plane =
      DataPlane::Start(options, {&routes, &affinity, nodes.get()}, std::move(sockets.listeners));
  if (!data_plane.ok()) return Fail(data_plane.status().message());

  BeaconReceiver receiver(Random<uint64_t>());
  receiver.SetKeys(loaded->keys);
  receiver.SetOurAddresses(OwnAddresses(loaded->configuration));
  receiver.SetDeadAfter(config.beacons.dead_after);
  BeaconIntake intake(std::move(sockets.beacons), &receiver, &cluster, &affinity, &log);
  intake.SetTokenTtl(config.affinity.token_ttl);

  absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Create();
  if (!loop.ok()) return Fail(loop.status().message());
  std::unique_ptr<ControlThread> control;
  absl::StatusOr<std::unique_ptr<Reloader>> reloader = MakeReloader(loaded->configuration.source.path, options.workers, loop->get(), &control);
  if (!reloader.ok()) return Fail(reloader.status().message());
  StatusBoard board;
  ReloadReporter reports(ReloadReporter::FolderFromEnvironment());
  control = std::make_unique<ControlThread>(
      ControlThread::Parts{loop->get(), &log, nodes.get(), &affinity, &routes, data_plane->get(), &board, &cluster, &receiver,
                           &intake, reloader->get(), &reports, signals.get()},
      loaded);

  const ProcessStatsReader process;
  StatusServerCounters status_counters;
  StatusSources sources{HUD_VERSION, ::getpid(), now, kernel, &board, nodes.get(), &affinity, {}, writer.get(), &process, &status_counters};
  std::vector<SpscQueue<ConnectionRecord>*> records;
  for (unsigned i = 0; i < options.workers; ++i) {
    sources.workers.push_back(&(*data_plane)->counters(i));
    records.push_back(&(*data_plane)->records(i));
  }
  std::unique_ptr<AccessLog> access_log;
  if (options.log_connections) {
    access_log = std::make_unique<AccessLog>(records, &log, loaded->configuration.log.access.sample);
  }
  absl::StatusOr<std::unique_ptr<StatusServer>> status_server = StartStatusServer(std::move(sockets.status), sources, &board, &status_counters);
  if (!status_server.ok()) return Fail(status_server.status().message());

  // Everything that needs more is done: sockets, rings, and all threads but those of reloads.
  if (loaded->configuration.sandbox) Confine(log);
  const int code = control->Run();
  access_log.reset();  // the last connections come first
  log.Info("ending", {{"code", int64_t{code}}});
  if (code == kClean) return kClean;
  // A worker hangs: nobody can wait for it. What is logged so far is written, and that is all.
  writer.reset();
  if (control->gave_up()) std::abort();  // not an ordinary end, for whoever starts it again or looks at its dump
  ::_exit(code);
}

int Run(const Options& options) {
  HoldSignals();
  absl::StatusOr<Configuration> configuration = ReadConfiguration(options);
  if (!configuration.ok()) return Fail(configuration.status().message());
  using Stage = Precondition::Stage;
  const unsigned workers = WorkersFor(*configuration);
  const size_t limit = RaiseLimits(*configuration);
  std::vector<Finding> findings = Examine(Stage::kAsStarted, *configuration);
  if (absl::Status status = ErrorsOf(findings); !status.ok()) return Fail(status.message());
  absl::StatusOr<Sockets> sockets = OpenSockets(*configuration, workers);
  if (!sockets.ok()) return Fail(sockets.status().message());

  if (!configuration->user.empty()) {
    if (absl::Status status = BecomeUser(configuration->user, StayingRight::kToLockMemory); !status.ok()) return Fail(status.message());
  }
  // The right to ports below 1024 does not stay either: a new listener of a reload that wants one needs a restart.
  if (absl::Status status = GiveUpRights(StayingRight::kToLockMemory); !status.ok()) return Fail(status.message());
  AllowDumps(!configuration->sandbox);
  for (Finding& finding : Examine(Stage::kAsUser, *configuration)) findings.push_back(std::move(finding));
  if (absl::Status status = ErrorsOf(findings); !status.ok()) return Fail(status.message());
  auto loaded = std::make_shared<LoadedConfiguration>();
  if (const std::string& path = configuration->cluster.beacons.keys_path; !path.empty()) {
    absl::StatusOr<std::vector<BeaconKey>> keys = LoadBeaconKeys(path);
    if (!keys.ok()) return Fail(keys.status().message());
    loaded->keys = *std::move(keys);
  }
  const absl::StatusOr<std::string> kernel = ProbeKernel();
  if (!kernel.ok()) return Fail(kernel.status().message());
  const absl::StatusOr<DataPlaneOptions> plan = PlanDataPlane(*configuration, workers, limit);
  if (!plan.ok()) return Fail(plan.status().message());
  loaded->configuration = *std::move(configuration);

  absl::StatusOr<Fd> signals = TakeSignals();
  if (!signals.ok()) return Fail(signals.status().message());
  absl::StatusOr<std::unique_ptr<LogWriter>> writer = OpenLog(loaded->configuration.log);
  if (!writer.ok()) return Fail(writer.status().message());
  const Log log(writer->get(), loaded->configuration.log.format, loaded->configuration.log.level);
  LogStart(log, *loaded, *plan, limit, *kernel, sockets->beacons);
  for (const Finding& finding : findings) {
    if (finding.kind == Finding::Kind::kWarning) log.Warning(finding.text);
  }
  return Serve(std::move(loaded), *std::move(sockets), *plan, *kernel, *std::move(signals), *std::move(writer), log);
}

int Main(int argc, char** argv) {
  OccupyStandardDescriptors();
  Options options;
  CLI::App app{"Hudsucker: a TLS pass-through load balancer that sends returning clients where they can resume"};
  app.set_version_flag("--version", std::string("hudsucker ") + HUD_VERSION);
  auto* config = app.add_option("--config", options.config, "Run with this configuration")->type_name("FILE");
  auto* check = app.add_option("--check", options.check, "Check a configuration, say everything that is wrong, and end")->type_name("FILE");
  auto* reload = app.add_flag("--reload", options.reload, "Tell the service that runs to load its configuration again, and wait for the result");
  auto* listen = app.add_option("--listen", options.listen, "Without a file: where to listen")->type_name("ADDR");
  auto* node = app.add_option("--node", options.nodes, "Without a file: where the TLS servers are")->type_name("ADDR");
  auto* status = app.add_option("--status", options.status, "Without a file: where to serve /status, /metrics, /ready and a page")->type_name("ADDR");
  config->excludes(listen)->excludes(node)->excludes(status);  // a file says it itself, and may be loaded again
  check->excludes(config)->excludes(listen)->excludes(node)->excludes(status);
  reload->excludes(config)->excludes(check)->excludes(listen)->excludes(node)->excludes(status);
  listen->needs(node);
  node->needs(listen);
  app.footer(std::string(kFooter));
  if (const std::string wrong = ExplainArguments({argv + 1, argv + argc}); !wrong.empty()) {
    std::fprintf(stderr, "hudsucker: %s; see hudsucker --help\n", wrong.c_str());
    return kUsage;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::fprintf(stderr, "hudsucker: %s; see hudsucker --help\n", error.what());
    return kUsage;
  }
  if (!options.check.empty()) return Check(options.check);
  if (options.reload) return Reload();
  if (options.config.empty() && options.listen.empty()) {
    std::fputs("hudsucker: nothing to do: give --config FILE, or --listen ADDR and --node ADDR; see hudsucker --help\n", stderr);
    return kUsage;
  }
  return Run(options);
}

}  // namespace
}  // namespace hud

int main(int argc, char** argv) { return hud::Main(argc, argv); }
