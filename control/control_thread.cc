#include "control/control_thread.h"

#include <malloc.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "control/config/own_addresses.h"
#include "control/config/validate.h"
#include "core/os/signals.h"

namespace hud {
namespace {

std::vector<const WorkerCounters*> CountersOf(const DataPlane& plane) {
  std::vector<const WorkerCounters*> all;
  for (unsigned i = 0; i < plane.workers(); ++i) all.push_back(&plane.counters(i));
  return all;
}

// Whole buckets of the map, a few at a time: a map of a million is swept in two seconds, one of ten million in twenty.
constexpr size_t kSweepBuckets = 4096;
constexpr Duration kSweepEvery = std::chrono::milliseconds(100);
constexpr Duration kDrainPoll = std::chrono::milliseconds(20);
constexpr Duration kTellDrainEvery = std::chrono::seconds(5);
constexpr Duration kReadyCounts = std::chrono::minutes(1);  // whoever asks /ready less often does not go by it
constexpr Duration kFirstReports = std::chrono::seconds(10);  // by then agents have spoken and nodes were tried

Instant Now() { return std::chrono::steady_clock::now(); }

// Why new connections go to a node or do not, as an operator would ask.
std::string_view ReasonOf(const NodeVerdicts& verdicts) {
  if (verdicts.by_operator == OperatorVerdict::kOff) return "switched off by the operator";
  if (verdicts.by_operator == OperatorVerdict::kDraining) return "drained by the operator";
  switch (verdicts.agent) {
    case AgentVerdict::kDying: return "its agent says that it leaves";
    case AgentVerdict::kNotReady: return "its agent says that the server does not answer";
    case AgentVerdict::kDead: return "its agent is silent and no connection is left";
    default: break;
  }
  if (!verdicts.reachable) return "connects to it, or its checks, fail";
  if (verdicts.ejected) return "it takes connections and answers neither clients nor checks";
  if (verdicts.unknown) return "its first check has not ended";
  if (verdicts.agent == AgentVerdict::kSilent) return "its agent is silent";
  return verdicts.agent == AgentVerdict::kAlive ? "its agent says so" : "connects to it succeed, or none was tried";
}

void TellServiceManager(const std::string& state) { ::sd_notify(0, state.c_str()); }

int64_t Count(size_t n) { return static_cast<int64_t>(n); }

}  // namespace

ControlThread::ControlThread(const Parts& parts, std::shared_ptr<const LoadedConfiguration> loaded)
    : parts_(parts),
      loaded_(std::move(loaded)),
      checker_(parts.loop, Now,
               [this](NodeRef node, ProbeEnd end) {
                 parts_.cluster->OnProbe(node, end, Now());
                 const bool connected = end == ProbeEnd::kConnected || end == ProbeEnd::kTls;
                 const auto name = node_names_.find({Raw(node.index), node.generation});
                 if (name != node_names_.end()) {
                   parts_.log->Debug("checked", {{"node", std::string_view(name->second)}, {"connected", int64_t{connected}}});
                 }
                 if (!connected) bad_news_ = true;
               }),
      pause_(Now()),
      limits_(CountersOf(*parts.data_plane)),
      started_(Now()),
      stalls_(parts.data_plane->workers(), started_) {
  checker_.SetTimeout(loaded_->configuration.cluster.timeouts.connect);
  uint64_t micros = 0;
  if (::sd_watchdog_enabled(0, &micros) > 0) {
    watchdog_every_ = std::chrono::microseconds(micros) / 3;
    next_watchdog_ = Now();
  }
  PublishSnapshot(Now());
}

ControlThread::~ControlThread() = default;

int ControlThread::Run() {
  // What the beacon sockets have is read at each turn; the loop only has to wake for it.
  bool watched = parts_.loop->Add(parts_.signals, EPOLLIN, [this](uint32_t) { OnSignal(); }) != EventLoop::Id::kNone;
  for (const auto& socket : parts_.intake->sockets()) {
    watched = watched && parts_.loop->Add(socket->fd(), EPOLLIN, [](uint32_t) {}) != EventLoop::Id::kNone;
  }
  if (!watched) {
    parts_.log->Error("cannot watch the sockets: the kernel has no memory for it (fs.epoll.max_user_watches)");
    return 1;
  }
  TellServiceManager("READY=1\nSTATUS=serving");

  while (phase_ != Phase::kEnded) {
    const Duration sleep = SleepTime(Now());
    parts_.loop->RunOnce(sleep);
    const Instant now = Now();
    Turn(now, pause_.OnTurn(now, sleep));
  }
  return exit_code_;
}

Duration ControlThread::SleepTime(Instant now) const {
  if (more_beacons_) return Duration(0);
  Instant next = now + kLongestSleep;
  next = std::min({next, parts_.cluster->NextDeadline(), checker_.NextDeadline(), next_watchdog_});
  if (parts_.cluster->changed()) next = std::min(next, last_publish_ + PublishPause());
  if (snapshot_due_ || snapshot_of_beacons_ != parts_.receiver->stats().received) {
    next = std::min(next, last_snapshot_ + kSnapshotEvery);
  }
  for (const auto& [listener, at] : closing_) next = std::min(next, at);
  if (phase_ == Phase::kDraining) next = std::min(next, now + kDrainPoll);
  return next <= now ? Duration(0) : Duration(next - now);  // not by subtraction alone: `next` may be Instant::min()
}

// Beacons first, and silence only after them.
void ControlThread::Turn(Instant now, Duration paused) {
  parts_.board->NoteControlTurn(now);
  if (paused > Duration(0)) {
    const int64_t milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(paused).count();
    if (milliseconds >= 1000) {
      parts_.log->Warning("this process stood still; nobody is called silent for it", {{"milliseconds", milliseconds}});
    }
    parts_.receiver->OnPause(paused);
  }
  const BeaconIntake::Turn read = parts_.intake->Read(now);
  more_beacons_ = read.more;
  JudgeSilence(now, paused);
  CloseRemovedListeners(now);
  FreeListeners(now);
  Withdraw();
  Probe(now);
  PublishRoutes(now, read.bad_news || std::exchange(bad_news_, false));
  PublishSnapshot(now);
  Sweep(now);
  TellOfReopenedLog();
  if (!first_reports_over_ && now - started_ >= kFirstReports) first_reports_over_ = snapshot_due_ = true;
  WarnOfLimits(now);
  ReturnMemory(now);
  WatchWorkers(now);
  FeedWatchdog(now);
  CheckDrain(now);
}

void ControlThread::JudgeSilence(Instant now, Duration paused) {
  const Instant until = std::min(now, parts_.intake->drained_at());
  if (parts_.intake->TookDrops() && judged_at_ != Instant::min()) {
    // What the kernel dropped may have been beacons: a flood must not silence nodes that speak.
    const Duration doubt = std::max(Duration(0), Duration(now - judged_at_) - unjudged_pause_ - unjudged_doubt_ - paused);
    parts_.receiver->OnDoubt(doubt);
    unjudged_doubt_ += doubt;
  }
  unjudged_pause_ += paused;
  if (until <= judged_at_) return;
  judged_at_ = until;
  parts_.cluster->Tick(until, std::exchange(unjudged_pause_, Duration(0)), std::exchange(unjudged_doubt_, Duration(0)));
  for (const PoolIndex pool : parts_.cluster->TakeFreedPools()) parts_.data_plane->ForgetPool(pool);
}

void ControlThread::Withdraw() {
  for (const NodeRef gone : parts_.cluster->TakeGone()) {
    const size_t tokens = parts_.affinity->WithdrawAll(gone);
    checker_.Forget(gone);
    const auto name = node_names_.find({Raw(gone.index), gone.generation});
    if (name != node_names_.end()) {
      parts_.intake->ForgetTokens(name->second);
      parts_.log->Info("node is gone", {{"node", std::string_view(name->second)}, {"tokens_withdrawn", Count(tokens)}});
      node_names_.erase(name);
    }
    snapshot_due_ = true;
  }
}

void ControlThread::Probe(Instant now) {
  checker_.Start(parts_.cluster->TakeProbes(now), now);
}

void ControlThread::PublishRoutes(Instant now, bool bad_news) {
  if (!parts_.cluster->changed()) return;
  // A table that takes long to build (many nodes, Maglev) is built less often, so that building never fills the thread. Bad news
  // do not wait, but an agent that has them all the time is one of many.
  const bool waits = last_publish_ != Instant::min() && now - last_publish_ < PublishPause();
  if (waits && !(bad_news && urgent_.Take(now))) return;
  const Instant begin = Now();
  parts_.routes->Publish(parts_.cluster->Build(now));
  for (const std::string& alarm : parts_.cluster->TakeAlarms()) parts_.log->Warning(alarm);
  last_publish_ = now;
  publish_took_ = Now() - begin;
  parts_.log->Debug("route table published",
                    {{"version", static_cast<int64_t>(parts_.routes->latest().version)},
                     {"took_us", std::chrono::duration_cast<std::chrono::microseconds>(publish_took_).count()},
                     {"bad_news", int64_t{bad_news}}});
  snapshot_due_ = true;
  last_snapshot_ = Instant::min();  // show it at once
}

void ControlThread::PublishSnapshot(Instant now) {
  const uint64_t received = parts_.receiver->stats().received;
  if (!snapshot_due_ && received == snapshot_of_beacons_) return;
  if (last_snapshot_ != Instant::min() && now - last_snapshot_ < kSnapshotEvery) return;
  const Instant begin = Now();
  std::shared_ptr<StatusSnapshot> snapshot = TakeSnapshot(now);
  LogNodeStates(*snapshot);
  LogEmptyPools(*snapshot, now);
  parts_.board->Publish(std::move(snapshot));
  if (last_snapshot_ == Instant::min()) publish_took_ += Now() - begin;  // each table brings one
  last_snapshot_ = now;
  snapshot_due_ = false;
  snapshot_of_beacons_ = received;
}

std::shared_ptr<StatusSnapshot> ControlThread::TakeSnapshot(Instant now) const {
  auto snapshot = std::make_shared<StatusSnapshot>();
  const RouteTable& table = parts_.routes->latest();
  snapshot->taken = now;
  snapshot->route_table_version = table.version;
  snapshot->prefixes = table.prefixes.size();
  snapshot->draining = phase_ != Phase::kServing;
  for (const ListenerView& listener : table.listeners) snapshot->listeners.push_back(listener.name);
  for (size_t i = 0; i < table.pools.size(); ++i) {
    const PoolIndex index{static_cast<uint16_t>(i)};
    const PoolView& pool = table.pools[i];
    snapshot->pools.push_back({index, pool.leaving ? "" : pool.name, pool.balance, {}});
    if (!snapshot->pools.back().name.empty()) snapshot->pools.back().nodes = parts_.cluster->StatusOf(index);
  }
  snapshot->leaving = parts_.cluster->Leaving();
  snapshot->status_hosts = loaded_->configuration.status_hosts;
  snapshot->beacon_keys = loaded_->keys.size();
  snapshot->beacons = parts_.receiver->stats();
  snapshot->beacon_sockets = {parts_.intake->dropped(), parts_.intake->answers_failed()};
  snapshot->beacons_refused = parts_.intake->refused();
  snapshot->tokens_unowned = parts_.intake->tokens_unowned();
  snapshot->reloads = reloads_;
  for (unsigned i = 0; i < parts_.data_plane->workers(); ++i) snapshot->workers.push_back({stalls_.Hangs(i), stalls_.stalls(i)});
  return snapshot;
}

void ControlThread::LogNodeStates(const StatusSnapshot& snapshot) {
  std::map<std::string, std::string, std::less<>> seen;
  for (const PoolSnapshot& pool : snapshot.pools) {
    for (const Cluster::NodeStatus& node : pool.nodes) {
      const std::string_view state = node.verdicts.StateName();
      if (!seen.emplace(node.name, state).second) continue;  // a node may be in several pools
      node_names_[{Raw(node.ref.index), node.ref.generation}] = node.name;
      const auto known = node_states_.find(node.name);
      const std::string_view was = known == node_states_.end() ? std::string_view("new") : std::string_view(known->second);
      if (was == state) continue;
      const std::string address = node.address.ToString();
      const std::initializer_list<LogField> fields = {{"pool", std::string_view(pool.name)},
                                                      {"node", std::string_view(node.name)},
                                                      {"address", std::string_view(address)},
                                                      {"state", state},
                                                      {"was", was},
                                                      {"reason", ReasonOf(node.verdicts)},
                                                      {"prefixes", Count(node.prefixes)}};
      if (state == "down") {
        parts_.log->Warning("node state", fields);
      } else {
        parts_.log->Info("node state", fields);
      }
    }
  }
  for (const Cluster::LeavingNode& node : snapshot.leaving) {
    if (!seen.emplace(node.name, "leaving").second) continue;
    const auto known = node_states_.find(node.name);
    if (known == node_states_.end() || known->second == "leaving") continue;
    const int32_t active = parts_.nodes->node(node.ref.index).active.load(std::memory_order_relaxed);
    parts_.log->Info("node state", {{"node", std::string_view(node.name)},
                                    {"state", std::string_view("leaving")},
                                    {"was", std::string_view(known->second)},
                                    {"active", int64_t{active}}});
  }
  node_states_ = std::move(seen);
}

// A pool without a usable node serves nobody. Just after the start that is no news: nobody was heard yet.
void ControlThread::LogEmptyPools(const StatusSnapshot& snapshot, Instant now) {
  std::map<std::string, bool, std::less<>> empty;
  for (const PoolSnapshot& pool : snapshot.pools) {
    if (pool.name.empty()) continue;
    const bool is_empty = std::none_of(pool.nodes.begin(), pool.nodes.end(),
                                       [](const Cluster::NodeStatus& node) { return node.verdicts.Usable(); });
    const auto known = pools_empty_.find(pool.name);
    if (known == pools_empty_.end() && is_empty && now - started_ < kFirstReports) continue;
    const bool was_empty = known != pools_empty_.end() && known->second;
    empty[pool.name] = is_empty;
    if (is_empty == was_empty) continue;
    if (is_empty) {
      parts_.log->Warning("pool has no usable node", {{"pool", std::string_view(pool.name)},
                                                      {"nodes", Count(pool.nodes.size())},
                                                      {"reason", std::string_view(pool.nodes.empty() ? "no node is known" : "all are down")}});
    } else {
      parts_.log->Info("pool has usable nodes again", {{"pool", std::string_view(pool.name)}});
    }
  }
  pools_empty_ = std::move(empty);
}

void ControlThread::Sweep(Instant now) {
  if (last_sweep_ != Instant::min() && now - last_sweep_ < kSweepEvery) return;
  last_sweep_ = now;
  parts_.affinity->SweepExpired(now, kSweepBuckets);
}

void ControlThread::WarnOfLimits(Instant now) {
  for (const LimitWatch::Warning& warning : limits_.Look(now)) {
    LogLine line(parts_.log->format(), warning.message);
    for (const auto& [name, count] : warning.counts) line.Number(name, count);
    const SourceKey source = parts_.data_plane->LastToMakeRoom();
    if (warning.names_source && source.kind != SourceKey::Kind::kUnknown) line.Text("last_source", source.ToString());
    parts_.log->Write(LogLevel::kWarning, line);
  }
}

void ControlThread::ReturnMemory(Instant now) {
  constexpr int64_t kBesideBytes = 1024;  // what a connection allocates while its hello and dial last, beside the bytes of the hello
  int64_t held = ActiveConnections() * kBesideBytes;
  for (unsigned i = 0; i < parts_.data_plane->workers(); ++i) held += parts_.data_plane->counters(i).private_bytes.Get();
  if (memory_return_.Due(now, static_cast<size_t>(std::max<int64_t>(0, held)))) ::malloc_trim(0);
}

// ---- Signals --------------------------------------------------------------------------------------------------------

void ControlThread::OnSignal() {
  signalfd_siginfo info{};
  while (::read(parts_.signals, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
    const int signal = static_cast<int>(info.ssi_signo);
    const std::string name = SignalName(signal);
    parts_.log->Debug("signal", {{"signal", std::string_view(name)}, {"from_pid", int64_t{info.ssi_pid}}});
    switch (signal) {
      case SIGHUP:  // what rotates logs by habit sends this one
        ReopenLog(/*says_if_none=*/false);
        BeginReload();
        break;
      case SIGUSR1:
        ReopenLog(/*says_if_none=*/true);
        break;
      case SIGTERM:
      case SIGINT:
        if (phase_ == Phase::kServing) {
          BeginDrain(Now());
        } else {
          parts_.log->Warning("a second signal: ending at once", {{"cut", ActiveConnections()}});
          phase_ = Phase::kEnded;
        }
        break;
      default:
        parts_.log->Warning("ignored a signal that has no meaning here: SIGTERM ends, SIGHUP reloads, SIGUSR1 reopens the log",
                            {{"signal", std::string_view(name)},
                             {"from_pid", int64_t{info.ssi_pid}},
                             {"from_uid", int64_t{info.ssi_uid}}});
    }
  }
}

void ControlThread::ReopenLog(bool says_if_none) {
  if (!parts_.log->writer().path().empty()) {
    parts_.log->writer().Reopen();
  } else if (says_if_none) {
    parts_.log->Info("SIGUSR1: there is no log.file to reopen, the log goes to standard error");
  }
}

// The writer's thread has tried; how it ended is said here, in the log that there is then.
void ControlThread::TellOfReopenedLog() {
  const std::optional<absl::Status> reopened = parts_.log->writer().TakeReopened();
  if (!reopened) return;
  const std::string file = parts_.log->writer().path();
  const std::string error(reopened->message());
  if (reopened->ok()) {
    parts_.log->Info("log reopened", {{"file", std::string_view(file)}});
  } else {
    parts_.log->Error("the log could not be reopened; lines go on into the file that was open; mend it and send SIGUSR1",
                      {{"file", std::string_view(file)}, {"error", std::string_view(error)}});
  }
}

int64_t ControlThread::ActiveConnections() const {
  int64_t active = 0;
  for (unsigned i = 0; i < parts_.data_plane->workers(); ++i) active += parts_.data_plane->counters(i).active.Get();
  return active;
}

int64_t ControlThread::CutByDrain() const {
  int64_t cut = 0;
  for (unsigned i = 0; i < parts_.data_plane->workers(); ++i) {
    cut += parts_.data_plane->counters(i).closes[static_cast<size_t>(CloseReason::kDrainDeadline)].Get();
  }
  return cut;
}

void ControlThread::BeginReload() {
  parts_.reports->Ask();
  if (phase_ != Phase::kServing) {
    parts_.log->Warning("SIGHUP: it is draining; nothing is loaded any more");
    return AnswerReload(false, "it is draining; nothing is loaded any more");
  }
  if (parts_.reloader == nullptr) {
    parts_.log->Warning("SIGHUP: there is no configuration file to load; start with --config to have one");
    return AnswerReload(false, "there is no configuration file to load; start with --config to have one");
  }
  timespec monotonic{};
  ::clock_gettime(CLOCK_MONOTONIC, &monotonic);
  TellServiceManager(absl::StrCat("RELOADING=1\nMONOTONIC_USEC=",
                                  int64_t{monotonic.tv_sec} * 1'000'000 + monotonic.tv_nsec / 1000));
  parts_.reloader->Request();
}

void ControlThread::AnswerReload(bool ok, std::string text) {
  parts_.reports->Answer(ok, std::move(text));
  if (const std::string& fault = parts_.reports->fault(); !fault.empty()) {
    parts_.log->Warning("nobody can be told what became of the reload", {{"error", std::string_view(fault)}});
  }
}

// Every change of what runs comes this way. All or nothing: on an error nothing has changed.
absl::Status ControlThread::Apply(ConfigurationChange change, Instant now) {
  if (!change.errors.empty()) return absl::FailedPreconditionError(absl::StrJoin(change.errors, "\n"));
  if (phase_ != Phase::kServing) return absl::FailedPreconditionError("it is draining; nothing is loaded any more");
  const Configuration& next = change.next->configuration;
  size_t orders = change.removed_listeners.size() + closing_.size();
  for (const auto& [name, sockets] : change.new_listeners) orders += sockets.sockets.size();
  if (!parts_.data_plane->HasRoomFor(orders)) return absl::UnavailableError("the workers have too many orders to follow already; reload again later");
  if (absl::Status status = parts_.cluster->Apply(next.cluster, now); !status.ok()) return status;
  for (const std::string& sentence : change.changes) parts_.log->Info("reload", {{"change", std::string_view(sentence)}});
  parts_.receiver->SetKeys(change.next->keys);
  parts_.receiver->SetOurAddresses(OwnAddresses(next));
  for (const std::string& wide : WideBeaconKeys(change.next->keys)) parts_.log->Warning(wide);
  for (const std::string& unguarded : UnguardedProxyHeaders(next)) parts_.log->Warning(unguarded);
  parts_.receiver->SetDeadAfter(next.cluster.beacons.dead_after);
  parts_.intake->SetTokenTtl(next.cluster.affinity.token_ttl);
  checker_.SetTimeout(next.cluster.timeouts.connect);
  loaded_ = std::move(change.next);
  last_publish_ = Instant::min();  // at once: the listeners' workers need the table
  PublishRoutes(now, true);
  TellOfListeners(std::move(change.new_listeners), change.removed_listeners, now);
  parts_.data_plane->Wake();  // timeouts may have become shorter
  return absl::OkStatus();
}

// The workers have room for the orders, and the table that is published knows both kinds.
void ControlThread::TellOfListeners(std::vector<std::pair<std::string, ListenerSockets>> added, const std::vector<std::string>& removed,
                                    Instant now) {
  for (const std::string& name : removed) {
    const ListenerIndex listener = *parts_.cluster->FindListener(name);
    parts_.data_plane->TurnNewcomersAway(listener);
    closing_.emplace(listener, now + DataPlane::kSilentClientsCome);
  }
  for (auto& [name, sockets] : added) {
    sockets.listener = *parts_.cluster->FindListener(name);
    if (closing_.erase(sockets.listener) > 0) HUD_CHECK(parts_.data_plane->RemoveListener(sockets.listener).ok());
    const absl::Status told = parts_.data_plane->AddListener(std::move(sockets));
    HUD_CHECK(told.ok());
  }
}

void ControlThread::CloseRemovedListeners(Instant now) {
  std::erase_if(closing_, [&](const auto& entry) { return now >= entry.second && parts_.data_plane->RemoveListener(entry.first).ok(); });
}

// A listener that a reload removed is gone when its last connection has ended.
void ControlThread::FreeListeners(Instant now) {
  for (const ListenerIndex listener : parts_.cluster->ListenersLeaving(now)) {
    int64_t active = 0;
    for (unsigned i = 0; i < parts_.data_plane->workers(); ++i) active += parts_.data_plane->counters(i).listeners[Raw(listener)].active();
    if (active > 0 || closing_.contains(listener)) continue;
    parts_.data_plane->ForgetListener(listener);
    parts_.cluster->FreeListener(listener);
  }
}

void ControlThread::OnReloaded(ConfigurationChange change) {
  const Instant now = Now();
  snapshot_due_ = true;
  const size_t changes = change.changes.size();
  const std::string sentences = absl::StrJoin(change.changes, "\n");
  if (const absl::Status applied = Apply(std::move(change), now); !applied.ok()) {
    ++reloads_.failed;
    reloads_.last_error = std::string(applied.message());
    const std::vector<std::string> errors = absl::StrSplit(applied.message(), '\n');
    for (const std::string& error : errors) parts_.log->Error("reload", {{"error", std::string_view(error)}});
    parts_.log->Error("reload failed: nothing has changed", {{"errors", Count(errors.size())}});
    AnswerReload(false, absl::StrCat(reloads_.last_error, "\nthe reload failed: nothing has changed"));
  } else {
    ++reloads_.ok;
    reloads_.last_ok = now;
    reloads_.last_error.clear();
    parts_.log->Info("reloaded", {{"changes", Count(changes)}});
    AnswerReload(true, absl::StrCat("reloaded, ", changes, " changes\n", sentences));
  }
  if (phase_ == Phase::kServing) TellServiceManager("READY=1");
}

void ControlThread::BeginDrain(Instant now) {
  const Duration deadline = loaded_->configuration.cluster.timeouts.drain;
  phase_ = Phase::kDraining;
  snapshot_due_ = true;
  last_snapshot_ = Instant::min();  // /ready says it at once
  const Duration grace = parts_.board->ReadyAskedSince(now - kReadyCounts)
                             ? loaded_->configuration.cluster.timeouts.drain_grace
                             : Duration(0);
  listeners_close_ = now + grace;
  drain_ends_ = listeners_close_ + deadline + kDrainGrace;
  tell_drain_ = now + kTellDrainEvery;
  // The service manager waits as long as this may take, whatever TimeoutStopSec= says.
  const Duration longest = drain_ends_ - now + kTellDrainEvery;
  TellServiceManager(absl::StrCat("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=",
                                  std::chrono::duration_cast<std::chrono::microseconds>(longest).count()));
  if (grace > Duration(0)) {
    parts_.log->Info("ending: /ready says 503, and new connections are still taken for a while",
                     {{"seconds", std::chrono::duration_cast<std::chrono::seconds>(grace).count()}});
  }
}

// The snapshot that says so has been published.
void ControlThread::CloseListeners() {
  const Duration deadline = loaded_->configuration.cluster.timeouts.drain;
  listeners_close_ = Instant::max();
  listeners_closed_ = true;
  drain_had_ = ActiveConnections();
  parts_.log->Info("draining: no new connections; those there are may go on",
                   {{"connections", drain_had_}, {"seconds", std::chrono::duration_cast<std::chrono::seconds>(deadline).count()}});
  parts_.data_plane->Drain(deadline);
}

void ControlThread::CheckDrain(Instant now) {
  if (phase_ != Phase::kDraining) return;
  if (now >= listeners_close_) {
    CloseListeners();
    tell_drain_ = now + kTellDrainEvery;
  }
  if (!listeners_closed_) return;
  if (now >= tell_drain_) {
    tell_drain_ = now + kTellDrainEvery;
    parts_.log->Info("still draining", {{"connections", ActiveConnections()}});
    TellServiceManager(absl::StrCat("STATUS=draining: ", ActiveConnections(), " connections"));
  }
  if (parts_.data_plane->Drained()) {
    if (const int64_t cut = CutByDrain(); cut > 0) {
      parts_.log->Warning("drained: the deadline (timeouts.drain) cut connections", {{"cut", cut}, {"of", drain_had_}});
    } else {
      parts_.log->Info("drained", {{"cut", 0}, {"of", drain_had_}});
    }
    phase_ = Phase::kEnded;
  } else if (now >= drain_ends_) {
    parts_.log->Error("a worker did not end at its deadline; ending without it");
    exit_code_ = 1;
    phase_ = Phase::kEnded;
  }
}

// A drain has a deadline of its own, and workers that end at different times.
void ControlThread::WatchWorkers(Instant now) {
  if (phase_ != Phase::kServing) return;
  const WatchdogConfig& config = loaded_->configuration.watchdog;
  std::vector<int64_t> turns;
  for (unsigned i = 0; i < parts_.data_plane->workers(); ++i) turns.push_back(parts_.data_plane->counters(i).loops.Get());
  for (const StallWatch::News& news : stalls_.Look(now, turns, config.after)) {
    const int64_t milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(news.stood).count();
    if (news.back) {
      parts_.log->Warning("a worker turns again", {{"worker", Count(news.worker)}, {"stood_ms", milliseconds}});
    } else {
      parts_.log->Error("a worker hangs: it was woken and does not turn; its clients get no answer",
                        {{"worker", Count(news.worker)}, {"stood_ms", milliseconds},
                         {"active", parts_.data_plane->counters(static_cast<unsigned>(news.worker)).active.Get()}});
    }
    snapshot_due_ = true;
  }
  if (config.end && stalls_.AnyHangs()) {
    parts_.log->Error("ending, to be started anew (watchdog.end)");
    gave_up_ = true;
    exit_code_ = 1;
    phase_ = Phase::kEnded;
  } else if (stalls_.TakeWake(now, config.after)) {
    parts_.data_plane->Wake();
  }
}

// The service manager's watchdog is fed only while every worker turns: each is woken, and must have turned by the next time.
void ControlThread::FeedWatchdog(Instant now) {
  if (now < next_watchdog_) return;
  next_watchdog_ = now + watchdog_every_;
  bool all_turn = true;
  std::vector<int64_t> loops;
  for (unsigned i = 0; i < parts_.data_plane->workers(); ++i) {
    loops.push_back(parts_.data_plane->counters(i).loops.Get());
    const bool turns = worker_loops_.empty() || loops[i] != worker_loops_[i] || phase_ != Phase::kServing;
    if (!turns) parts_.log->Error("a worker stands still; the watchdog is not fed", {{"worker", int64_t{i}}});
    all_turn = all_turn && turns;
  }
  worker_loops_ = std::move(loops);
  if (all_turn) TellServiceManager("WATCHDOG=1");
  parts_.data_plane->Wake();
}

}  // namespace hud
