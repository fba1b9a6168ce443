#include "agentd/agent.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agentd/agent_key.h"
#include "agentd/prefix_file.h"
#include "core/os/sandbox.h"
#include "core/os/signals.h"

namespace hud {
namespace {

using Clock = std::chrono::steady_clock;

constexpr Duration kHealthEvery = 1s;
constexpr int kHealthShare = 100;  // counting connections may take this part of a core at most
constexpr int64_t kLongestKeptSeconds = 7 * 24 * 3600;
constexpr Duration kSilenceAfter = 10s;
constexpr Duration kLongestFarewell = 2s;
constexpr int kComfortableQueue = 512;
constexpr Duration kKeepEvery = 10min;  // the time for which prefixes are of use goes on

uint64_t WallClockMicros() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
}

// Of this thread: while others had the core it did not work.
Duration CpuTime() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

int64_t WallClockSeconds() { return static_cast<int64_t>(WallClockMicros() / 1'000'000); }

std::vector<std::string> PathsOf(const std::vector<TicketKeyFileConfig>& files) {
  std::vector<std::string> paths;
  for (const TicketKeyFileConfig& file : files) paths.push_back(file.path);
  return paths;
}

// A server's log socket never waits: lines beyond the kernel's queue are lost without a word, and with them their
// sessions (nginx 1.22 on a busy machine, queue of 10: one line in ten). systemd raises the kernel's default of 10 at
// boot; where it does not run, that is done here, before the sockets are made.
void EnsureComfortableQueue(const Log& log) {
  constexpr char kPath[] = "/proc/sys/net/unix/max_dgram_qlen";
  int length = kComfortableQueue;
  std::ifstream(kPath) >> length;
  if (length >= kComfortableQueue) return;
  std::ofstream file(kPath);
  if (file << kComfortableQueue << std::flush) {
    log.Info(absl::StrCat("raised net.unix.max_dgram_qlen from ", length, " to ", kComfortableQueue, ": bursts of log lines would be lost"));
  } else {
    log.Warning(absl::StrCat("net.unix.max_dgram_qlen is ", length, ": longer bursts of log lines lose some; run 'sysctl net.unix.max_dgram_qlen=",
                             kComfortableQueue, "' before the agent starts"));
  }
}

// With the place in the configuration that names the file.
absl::Status Told(const std::string& at, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(at, at.empty() ? "" : ": ", status.message()));
}

}  // namespace

Agent::Agent(AgentConfig config, Fd signals, const Log* log)
    : config_(std::move(config)),
      log_(*log),
      epoch_(WallClockMicros()),
      started_(Clock::now()),
      now_(started_),
      signals_(std::move(signals)),
      key_files_(PathsOf(config_.ticket_key_files)) {
  next_health_ = next_key_file_poll_ = now_;
  next_silence_check_ = now_ + kSilenceAfter;
}

Agent::~Agent() = default;

absl::StatusOr<std::unique_ptr<Agent>> Agent::Make(AgentConfig config, Fd signals, const Log* log) {
  std::unique_ptr<Agent> agent(new Agent(std::move(config), std::move(signals), log));
  for (const auto step : {&Agent::AddNodes, &Agent::OpenFeeds, &Agent::StartProbes}) {
    if (absl::Status status = (agent.get()->*step)(); !status.ok()) return status;
  }
  return agent;
}

absl::Status Agent::AddNodes() {
  for (const SocketAddress& proxy : config_.proxies) proxies_.emplace_back(proxy);
  for (size_t i = 0; i < config_.nodes.size(); ++i) {
    const AgentNodeConfig& node = config_.nodes[i];
    const absl::StatusOr<AgentKey> key = ReadAgentKey(node.key_path, node.name);
    if (!key.ok()) return Told(node.key_at, key.status());
    std::vector<size_t> probes;
    for (size_t p = 0; p < config_.probes.size(); ++p) {
      if (config_.probes[p].node == i) probes.push_back(p);
    }
    // The probe's address is the server's own, the node's may be that of a translator in front of it.
    const SocketAddress& server = config_.probes[probes.front()].address;
    nodes_.push_back({std::make_unique<NodeAgent>(node, probes), ConnectionCounter(server)});
    for (ProxyLink& proxy : proxies_)
      proxy.AddNode(*key, epoch_, &nodes_.back().agent->journal(), config_.beacon_every);
  }
  return absl::OkStatus();
}

absl::Status Agent::OpenFeeds() {
  if (!config_.feeds.empty()) EnsureComfortableQueue(log_);
  for (const FeedsConfig& config : config_.feeds) {
    TokenJournal* journal = &nodes_[config.node].agent->journal();
    for (const Feed::Kind kind : {Feed::Kind::kSyslog, Feed::Kind::kTokens}) {
      const std::string& path = kind == Feed::Kind::kSyslog ? config.syslog : config.tokens;
      if (path.empty()) continue;
      absl::StatusOr<Feed> feed = Feed::Open(kind, path, config.group, config.ttl, journal);
      if (!feed.ok()) return feed.status();
      nodes_[config.node].agent->SetHasFeed();
      const std::string writers = feed->socket().Writers();
      log_.Info(kind == Feed::Kind::kSyslog ? "a feed takes the server's log lines" : "a feed takes the applications' tokens",
                {{"node", std::string_view(config_.nodes[config.node].name)},
                 {"feed", std::string_view(path)},
                 {"writers", std::string_view(writers)}});
      if (const std::string folder = feed->socket().FolderThatBars(); !folder.empty()) {
        log_.Warning(absl::StrCat("a feed cannot be reached by those who may write to it: the folder ", folder, " lets none of the socket's group pass"),
                     {{"node", std::string_view(config_.nodes[config.node].name)}, {"feed", std::string_view(path)}, {"writers", std::string_view(writers)}});
      }
      feeds_.push_back({config.node, *std::move(feed), {}});
    }
  }
  return absl::OkStatus();
}

absl::Status Agent::StartProbes() {
  absl::StatusOr<std::unique_ptr<ProbeMailbox>> mailbox = ProbeMailbox::Make();
  if (!mailbox.ok()) return mailbox.status();
  mailbox_ = *std::move(mailbox);
  for (size_t i = 0; i < config_.probes.size(); ++i) {
    absl::StatusOr<std::unique_ptr<ProbeThread>> probe = ProbeThread::Start(i, config_.probes[i], mailbox_.get());
    if (!probe.ok()) return probe.status();
    probes_.push_back(*std::move(probe));
  }
  return absl::OkStatus();
}

void Agent::Run() {
  for (const Node& node : nodes_) log_.Info("waiting for its server to answer", {{"node", std::string_view(node.agent->name())}});
  std::vector<size_t> all(config_.ticket_key_files.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  RestorePrefixes();
  ReadKeyFiles(all);
  if (config_.sandbox) {
    const absl::Status sandbox = EnterSandbox();
    const std::string why(sandbox.message());
    if (!sandbox.ok()) log_.Warning("sandbox: running without", {{"error", std::string_view(why)}});
  }
  sd_notify(0, "READY=1");
  if (uint64_t micros = 0; sd_watchdog_enabled(0, &micros) > 0) {
    watchdog_every_ = std::chrono::microseconds(micros) / 3;
    next_watchdog_ = Clock::now();
  }
  while (Turn()) {
  }
  Leave();
}

// The order matters: what was heard is applied before anything is said.
bool Agent::Turn() {
  WaitForEvents();
  now_ = Clock::now();
  if (!TakeSignals()) return false;
  TakeFindings();
  ReadFeeds();
  if (now_ >= next_key_file_poll_) {
    ReadKeyFiles(key_files_.TakeChanged());
    next_key_file_poll_ = now_ + key_files_.PollEvery();
  }
  if (now_ >= next_health_) MeasureHealth();
  if (now_ >= next_watchdog_) FeedWatchdog();
  SpeakToProxies();
  if (now_ >= next_silence_check_) ComplainOfSilentProxies();
  TellNews();
  return true;
}

void Agent::WaitForEvents() {
  Instant deadline = std::min({next_health_, next_key_file_poll_, next_silence_check_, next_watchdog_});
  std::vector<pollfd> fds = {{signals_.get(), POLLIN, 0}, {mailbox_->fd(), POLLIN, 0}, {key_files_.fd(), POLLIN, 0}};
  for (const ProxyLink& proxy : proxies_) {
    deadline = std::min(deadline, proxy.NextDeadline());
    fds.push_back({proxy.fd(), POLLIN, 0});
  }
  for (const NodeFeed& feed : feeds_) fds.push_back({feed.feed.fd(), POLLIN, 0});
  if (feed_has_more_) deadline = now_;
  // A deadline may be Instant::min() or max(): no differences before it is known to be near.
  const Instant now = Clock::now();
  const Duration wait = deadline <= now ? 0s : std::min(deadline, now + 60s) - now;
  ::poll(fds.data(), fds.size(), static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(wait).count()));
  if (fds[2].revents != 0) {
    key_files_.DrainEvents();
    next_key_file_poll_ = std::min(next_key_file_poll_, Clock::now() + FileWatch::kSettle);
  }
}

bool Agent::TakeSignals() {
  signalfd_siginfo info;
  while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo == SIGHUP) {
      log_.Info("SIGHUP: looking at the servers, the ticket key files and the beacon keys again");
      ReadBeaconKeys();
      LookNow();
      TellFeeds();
      continue;
    }
    const int signal = static_cast<int>(info.ssi_signo);
    if (signal != SIGTERM && signal != SIGINT && signal != SIGUSR1 && signal != SIGUSR2) {
      const std::string name = SignalName(signal);
      log_.Warning("ignored a signal that has no meaning here: --help says which have",
                   {{"signal", std::string_view(name)}, {"from_pid", int64_t{info.ssi_pid}}, {"from_uid", int64_t{info.ssi_uid}}});
      continue;
    }
    drain_ = signal == SIGUSR2;
    return false;
  }
  return true;
}

// A node's key may be changed without a gap: while the proxies' keys files have both, nobody misses the node.
void Agent::ReadBeaconKeys() {
  for (const AgentNodeConfig& node : config_.nodes) {
    const absl::StatusOr<AgentKey> key = ReadAgentKey(node.key_path, node.name);
    if (!key.ok()) {
      log_.Warning(absl::StrCat(key.status().message(), "; the key that was read before stays in use"));
      continue;
    }
    bool is_new = false;
    for (ProxyLink& proxy : proxies_) is_new |= proxy.SetKey(*key);
    if (is_new) log_.Info("speaks with its new key from now on", {{"node", std::string_view(node.name)}});
  }
}

void Agent::LookNow() {
  for (const auto& probe : probes_) probe->LookNow();
  std::vector<size_t> all(config_.ticket_key_files.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  ReadKeyFiles(all);
}

void Agent::TakeFindings() {
  const std::vector<ProbeReport> reports = mailbox_->TakeAll();
  for (const ProbeReport& report : reports) nodes_[config_.probes[report.probe].node].agent->Apply(report, now_);
  if (!reports.empty()) SetReports();
}

void Agent::ReadFeeds() {
  feed_has_more_ = false;
  for (NodeFeed& node_feed : feeds_) {
    Feed& feed = node_feed.feed;
    feed_has_more_ |= feed.Read(now_);
    if (const std::string count = feed.TakeCount(now_); !count.empty()) log_.Info(count);
    if (const std::string complaint = feed.TakeComplaint(now_); !complaint.empty()) log_.Warning(complaint);
  }
}

void Agent::WatchFeed(NodeFeed& watched, std::optional<uint32_t> connections) {
  Feed& feed = watched.feed;
  const std::string_view path = feed.path();
  const std::initializer_list<LogField> fields = {{"node", std::string_view(config_.nodes[watched.node].name)}, {"feed", path}};
  if (!feed.socket().IsInPlace()) {
    const absl::Status made = feed.OpenAgain();
    if (made.ok()) {
      log_.Warning("the feed's socket was removed, and is made anew; what was written meanwhile is lost", fields);
    } else if (!watched.lost) {
      log_.Warning(absl::StrCat("the feed's socket was removed, and cannot be made anew: ", made.message(), "; it is tried again each second"), fields);
    }
    watched.lost = !made.ok();
  }
  const auto probes = std::count_if(config_.probes.begin(), config_.probes.end(), [&](const ProbeConfig& probe) { return probe.node == watched.node; });
  if (feed.kind() != Feed::Kind::kSyslog || !watched.silence.Look(connections, static_cast<uint32_t>(probes), feed.stats().lines)) return;
  log_.Warning(absl::StrCat("no line has come through the feed although the server had clients at ", FeedSilence::kLooks,
                            " looks: does its log go there, and may its workers write to it (", feed.socket().Writers(),
                            "; feeds.group is theirs, for nginx mostly www-data)?"), fields);
}

void Agent::TellFeeds() const {
  for (const NodeFeed& feed : feeds_) {
    const std::string_view path = feed.feed.path();
    log_.Info(absl::StrCat("the feed brought ", feed.feed.Summary()), {{"node", std::string_view(config_.nodes[feed.node].name)}, {"feed", path}});
  }
}

void Agent::ReadKeyFiles(const std::vector<size_t>& which) {
  for (const size_t i : which) {
    const TicketKeyFileConfig& file = config_.ticket_key_files[i];
    const absl::StatusOr<std::vector<TicketPrefix>> names = ReadTicketKeyNames(file.path, file.format);
    if (!names.ok()) {
      log_.Warning(absl::StrCat(file.at, ": ", names.status().message(), "; what was learnt from it before stays"));
      continue;
    }
    nodes_[file.node].agent->Apply(file.path, *names, now_);
    // The server may reload now, or have done so already.
    for (size_t p = 0; p < probes_.size(); ++p) {
      if (config_.probes[p].node == file.node) probes_[p]->LookNow();
    }
  }
  if (!which.empty()) SetReports();
}

void Agent::MeasureHealth() {
  const Duration start = CpuTime();
  const uint16_t load = ReadLoadPermille();
  const uint16_t pressure = ReadCpuPressurePermille();
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const std::optional<uint32_t> connections = nodes_[i].connections.Count();
    nodes_[i].agent->SetHealth(load, pressure, connections);
    for (NodeFeed& feed : feeds_) {
      if (feed.node == i) WatchFeed(feed, connections);
    }
  }
  next_health_ = now_ + std::max<Duration>(kHealthEvery, kHealthShare * (CpuTime() - start));
  SetReports();
  KeepPrefixes();
  TellSupervisor();
}

void Agent::SetReports() {
  for (const Node& node : nodes_) {
    if (!node.agent->announced()) continue;
    const NodeReport report = node.agent->Report(now_);
    for (ProxyLink& proxy : proxies_) proxy.SetReport(node.agent->name(), report);
  }
}

void Agent::SpeakToProxies() {
  for (ProxyLink& proxy : proxies_) {
    proxy.Receive(now_);
    proxy.Send(now_);
  }
}

// Which of three it is, as far as silence can tell: to whom a proxy does not know by his key it says nothing at all.
std::string_view Agent::WhySilent(const ProxyLink& proxy, std::string_view node) const {
  if (proxy.HeardSince(node, started_)) {
    return "the proxy knows this node's key, and does not take its report: does the line in its keys file allow the pools and the address "
           "that are configured here? Its log says what it refuses";
  }
  if (proxy.stats().refused > 0) {
    return "the proxy does not listen there: its machine refuses the datagrams. Is it up, is this its beacons.bind?";
  }
  return "the proxy does not answer at all: either it is not reached (is it up, is its UDP port open?), or its keys file has no line for "
         "this node, or another key; then its log says so";
}

// A proxy answers every report of a node that its keys file names, so within seconds each one should have answered.
void Agent::ComplainOfSilentProxies() {
  next_silence_check_ = now_ + kSilenceAfter;
  for (const Node& node : nodes_) {
    if (!node.agent->announced()) continue;
    for (const ProxyLink& proxy : proxies_) {
      const std::string address = proxy.proxy().ToString();
      const auto fields = {LogField{"node", std::string_view(node.agent->name())}, LogField{"proxy", std::string_view(address)}};
      Hearing& hearing = hearing_[{node.agent->name(), address}];
      if (hearing == Hearing::kHeard) continue;
      if (proxy.Confirmed(node.agent->name())) {
        hearing = Hearing::kHeard;
        log_.Info("the proxy knows this node", fields);
      } else if (std::exchange(hearing, Hearing::kComplained) == Hearing::kNotYet) {
        log_.Warning(WhySilent(proxy, node.agent->name()), fields);
      }
    }
  }
}

void Agent::RestorePrefixes() {
  if (config_.state_dir.empty()) return;
  for (Node& node : nodes_) {
    const absl::StatusOr<std::vector<KeptPrefix>> kept =
        ReadKeptPrefixes(absl::StrCat(config_.state_dir, "/", node.agent->name(), ".prefixes"));
    if (!kept.ok()) log_.Warning(absl::StrCat(kept.status().message(), "; prefixes of old ticket keys are forgotten"));
    if (!kept.ok()) continue;
    for (const KeptPrefix& one : *kept) {
      const int64_t left = std::clamp<int64_t>(one.until_seconds - WallClockSeconds(), 0, kLongestKeptSeconds);
      node.agent->Restore(one.prefix, std::chrono::seconds(left), now_);
    }
  }
}

// Whenever they change, and now and then, for the time goes on.
void Agent::KeepPrefixes() {
  if (config_.state_dir.empty()) return;
  const bool all = now_ >= next_keep_;
  if (all) next_keep_ = now_ + kKeepEvery;
  for (const Node& node : nodes_) {
    std::vector<KeptPrefix> kept;
    std::vector<TicketPrefix> prefixes;
    for (const auto& [prefix, left] : node.agent->Keep(now_)) {
      kept.push_back({prefix, WallClockSeconds() + std::chrono::duration_cast<std::chrono::seconds>(left).count()});
      prefixes.push_back(prefix);
    }
    std::vector<TicketPrefix>& before = kept_[node.agent->name()];
    if (prefixes.empty() || (!all && prefixes == before)) continue;
    before = std::move(prefixes);
    const absl::Status written =
        WriteKeptPrefixes(absl::StrCat(config_.state_dir, "/", node.agent->name(), ".prefixes"), kept);
    if (!written.ok()) log_.Warning(absl::StrCat(written.message(), "; after a restart prefixes of old ticket keys are forgotten"));
  }
}

void Agent::TellNews() {
  for (Node& node : nodes_) {
    for (const NodeAgent::News& news : node.agent->TakeNews()) {
      const auto fields = {LogField{"node", std::string_view(node.agent->name())}};
      news.warning ? log_.Warning(news.text, fields) : log_.Info(news.text, fields);
    }
  }
}

void Agent::TellSupervisor() {
  const auto ready = std::count_if(nodes_.begin(), nodes_.end(), [](const Node& node) { return node.agent->ready(); });
  std::string status = absl::StrCat("STATUS=", ready, " of ", nodes_.size(), " nodes ready");
  uint64_t ids = 0;
  for (const NodeFeed& feed : feeds_) ids += feed.feed.stats().added;
  if (!feeds_.empty()) absl::StrAppend(&status, ", ", ids, " ids came through feeds");
  if (status != last_status_) sd_notify(0, status.c_str());
  last_status_ = std::move(status);
}

// By a clock of its own: health is measured seldom where there are many connections to count.
void Agent::FeedWatchdog() {
  sd_notify(0, "WATCHDOG=1");
  next_watchdog_ = now_ + watchdog_every_;
}

void Agent::Leave() {
  sd_notify(0, "STOPPING=1");
  probes_.clear();
  TakeFindings();
  KeepPrefixes();
  TellFeeds();
  if (!drain_) {
    log_.Info("leaving without a word to the proxies: the nodes serve on (SIGUSR2 takes them out of service)");
    return;
  }
  std::vector<std::string> dying;
  for (const Node& node : nodes_) {
    if (!node.agent->announced()) continue;
    dying.push_back(node.agent->name());
    for (ProxyLink& proxy : proxies_) proxy.Die(dying.back(), now_);
  }
  log_.Info(absl::StrCat("telling ", proxies_.size(), " proxies that ", dying.size(), " nodes take no new connections"));
  const auto done = [&] {
    return std::all_of(dying.begin(), dying.end(), [&](const std::string& node) {
      return std::all_of(proxies_.begin(), proxies_.end(),
                         [&](const ProxyLink& proxy) { return proxy.DoneDying(node); });
    });
  };
  const Instant deadline = now_ + kLongestFarewell;
  next_health_ = next_key_file_poll_ = next_silence_check_ = deadline;
  feed_has_more_ = false;
  feeds_.clear();
  for (SpeakToProxies(); !done() && now_ < deadline; SpeakToProxies()) {
    WaitForEvents();
    now_ = Clock::now();
    signalfd_siginfo ignored;
    while (::read(signals_.get(), &ignored, sizeof(ignored)) > 0) {
    }
  }
}

}  // namespace hud
