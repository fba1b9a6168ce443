// GET /metrics: the same numbers as /status, in Prometheus's text format. Names follow prometheus.io/docs/practices/naming:
// the unit last, timestamps instead of ages, and no metric that comes and goes with its first event. A node that is in
// several pools has one set of numbers and no label of a pool, so that a sum counts it once; hudsucker_pool_node_info says
// which pools it is in. deploy/reference.md has a row for each; a test compares.
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <deque>
#include <map>

#include "control/process/process_stats.h"
#include "control/status/status_report.h"
#include "control/status/status_server.h"
#include "control/status/worker_counter_rows.h"
#include "core/os/log_writer.h"

namespace hud {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

class Exposition {
 public:
  MetricFamily& Counter(std::string name, std::string help) {
    return Add(std::move(name), std::move(help), MetricType::Counter);
  }
  MetricFamily& Histogram(std::string name, std::string help) {
    return Add(std::move(name), std::move(help), MetricType::Histogram);
  }
  MetricFamily& Gauge(std::string name, std::string help) {
    return Add(std::move(name), std::move(help), MetricType::Gauge);
  }
  std::string Text() const { return prometheus::TextSerializer().Serialize({families_.begin(), families_.end()}); }

 private:
  MetricFamily& Add(std::string name, std::string help, MetricType type) {
    MetricFamily& family = families_.emplace_back();
    family.name = std::move(name);
    family.help = std::move(help);
    family.type = type;
    return family;
  }
  std::deque<MetricFamily> families_;  // references to them stay good while more are added
};

template <typename Number>
void Sample(MetricFamily& family, Labels labels, Number number) {
  ClientMetric& metric = family.metric.emplace_back();
  metric.label = std::move(labels);
  const double value = static_cast<double>(number);
  if (family.type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
}

// Over all workers: `read` gives a number of one of them.
template <typename Read>
int64_t Sum(const StatusSources& sources, Read&& read) {
  int64_t sum = 0;
  for (const WorkerCounters* worker : sources.workers) sum += read(*worker);
  return sum;
}

// `read` gives the histogram of one worker.
template <typename Read>
void SampleHistogram(MetricFamily& family, Labels labels, const StatusSources& sources, Read&& read) {
  using Histogram = std::remove_cvref_t<decltype(read(*sources.workers[0]))>;
  ClientMetric& metric = family.metric.emplace_back();
  metric.label = std::move(labels);
  uint64_t count = 0;
  for (size_t i = 0; i < Histogram::kBuckets; ++i) {
    count += static_cast<uint64_t>(Sum(sources, [&](const WorkerCounters& w) { return read(w).Bucket(i); }));
    if (i + 1 < Histogram::kBuckets) metric.histogram.bucket.push_back({count, Histogram::BoundSeconds(i)});
  }
  metric.histogram.sample_count = count;
  metric.histogram.sample_sum =
      static_cast<double>(Sum(sources, [&](const WorkerCounters& w) { return read(w).SumMicroseconds(); })) / 1e6;
}

// To the millisecond: two scrapes see the same time for the same event.
double UnixSeconds(Instant event, const StatusTime& time) {
  using std::chrono::milliseconds;
  const auto wall = time.wall - (time.steady - event);
  return static_cast<double>(std::chrono::duration_cast<milliseconds>(wall.time_since_epoch()).count()) / 1e3;
}

void AddProcess(Exposition& out, const StatusSources& sources, const StatusTime& time) {
  Sample(out.Gauge("process_start_time_seconds", "Unix time at which the process was ready."), {},
         UnixSeconds(sources.started, time));
  if (sources.process == nullptr) return;
  const ProcessStats stats = sources.process->Read();
  Sample(out.Counter("process_cpu_seconds_total", "CPU time of the process, user and system."), {}, stats.cpu_seconds);
  Sample(out.Gauge("process_resident_memory_bytes", "Resident memory of the process."), {}, stats.resident_bytes);
  Sample(out.Gauge("process_virtual_memory_bytes", "Virtual memory of the process."), {}, stats.virtual_bytes);
  Sample(out.Gauge("process_open_fds", "Open descriptors of the process."), {}, stats.open_fds);
  Sample(out.Gauge("process_max_fds", "The most descriptors that the process may have open."), {}, stats.max_fds);
  Sample(out.Gauge("process_threads", "Threads of the process."), {}, stats.threads);
}

void AddControl(Exposition& out, const StatusSources& sources, const StatusSnapshot& snapshot, const StatusTime& time) {
  Sample(out.Gauge("hudsucker_build_info", "Always 1; the version is the label."), {{"version", sources.version}}, 1);
  Sample(out.Gauge("hudsucker_draining", "1 while the process waits for its last connections to end."), {},
         snapshot.draining ? 1 : 0);
  Sample(out.Gauge("hudsucker_route_table_version", "A number that grows with each route table that is published."), {},
         snapshot.route_table_version);
  const ReloadStats& reloads = snapshot.reloads;
  MetricFamily& results = out.Counter("hudsucker_reloads_total", "Reloads of the configuration, by their result.");
  Sample(results, {{"result", "ok"}}, reloads.ok);
  Sample(results, {{"result", "failed"}}, reloads.failed);
  Sample(out.Gauge("hudsucker_config_last_reload_successful", "1 if the last reload of the configuration, or else the start, succeeded."),
         {}, reloads.last_error.empty() ? 1 : 0);
  Sample(out.Gauge("hudsucker_config_last_reload_success_timestamp_seconds",
                   "Unix time at which the configuration in use was taken on."),
         {}, UnixSeconds(reloads.last_ok == Instant{} ? sources.started : reloads.last_ok, time));
  Sample(out.Counter("hudsucker_log_lines_dropped_total", "Lines of the log that were lost to a slow or broken sink."), {},
         sources.log ? sources.log->dropped() : 0);
  Sample(out.Counter("hudsucker_log_reopen_failures_total", "Times that log.file could not be reopened after it was rotated."), {},
         sources.log ? sources.log->reopens_failed() : 0);
  if (sources.server == nullptr) return;
  MetricFamily& requests = out.Counter("hudsucker_status_requests_total", "Requests to the status address, by what became of them.");
  Sample(requests, {{"result", "answered"}}, sources.server->answered.load());
  Sample(requests, {{"result", "refused"}}, sources.server->refused.load());
  Sample(requests, {{"result", "foreign_host"}}, sources.server->foreign_host.load());
  Sample(requests, {{"result", "displaced"}}, sources.server->displaced.load());
}

constexpr const char* kToNode = "client_to_node";
constexpr const char* kToClient = "node_to_client";

void AddConnections(Exposition& out, const StatusSources& sources) {
  MetricFamily& closes = out.Counter("hudsucker_connections_closed_total", "Client connections that ended, each for one reason.");
  for (size_t reason = 0; reason < kCloseReasonCount; ++reason) {
    Sample(closes, {{"reason", std::string(CloseReasonName(static_cast<CloseReason>(reason)))}},
           Sum(sources, [&](const WorkerCounters& w) { return w.closes[reason].Get(); }));
  }
  MetricFamily& choices = out.Counter("hudsucker_choices_total", "Choices of a node, by the reason for the one chosen.");
  for (size_t reason = 0; reason < kChoiceReasonCount; ++reason) {
    Sample(choices, {{"reason", std::string(ChoiceReasonName(static_cast<ChoiceReason>(reason)))}},
           Sum(sources, [&](const WorkerCounters& w) { return w.choices[reason].Get(); }));
  }
  MetricFamily& hellos = out.Counter("hudsucker_hellos_total", "Client connections by what their first bytes were.");
  const auto verdict = [&](const char* name, Counter WorkerCounters::*counter) {
    Sample(hellos, {{"verdict", name}}, Sum(sources, [&](const WorkerCounters& w) { return (w.*counter).Get(); }));
  };
  verdict("complete", &WorkerCounters::hello_complete);
  verdict("not_tls", &WorkerCounters::hello_not_tls);
  verdict("malformed", &WorkerCounters::hello_malformed);
  verdict("too_large", &WorkerCounters::hello_too_large);
  MetricFamily& flaws = out.Counter("hudsucker_hello_flaws_total", "Client connections whose hello broke a rule, by the first of each.");
  for (size_t flaw = 1; flaw < kHelloFlawCount; ++flaw) {
    Sample(flaws, {{"flaw", std::string(HelloFlawName(static_cast<HelloFlaw>(flaw)))}},
           Sum(sources, [&](const WorkerCounters& w) { return w.hello_flaws[flaw].Get(); }));
  }
  MetricFamily& bytes = out.Counter("hudsucker_bytes_total", "Bytes that were passed on, counted as they move.");
  Sample(bytes, {{"direction", kToNode}}, Sum(sources, [](const WorkerCounters& w) { return w.bytes_in.Get(); }));
  Sample(bytes, {{"direction", kToClient}}, Sum(sources, [](const WorkerCounters& w) { return w.bytes_out.Get(); }));
}

void AddListeners(Exposition& out, const StatusSources& sources, const StatusSnapshot& snapshot) {
  MetricFamily& accepted =
      out.Counter("hudsucker_listener_connections_accepted_total", "Client connections that the listener accepted.");
  MetricFamily& active = out.Gauge("hudsucker_listener_connections_active", "Client connections of the listener, in any state.");
  MetricFamily& closes =
      out.Counter("hudsucker_listener_connections_closed_total", "Client connections of the listener that ended, each for one reason.");
  MetricFamily& bytes =
      out.Counter("hudsucker_listener_bytes_total", "Bytes of the listener's connections that were passed on, counted as they move.");
  MetricFamily& hello = out.Histogram("hudsucker_listener_hello_duration_seconds",
                                      "Time from accepting a connection of the listener to the end of its first message.");
  for (size_t i = 0; i < snapshot.listeners.size(); ++i) {
    const std::string& name = snapshot.listeners[i];
    if (name.empty()) continue;  // a free slot
    const ListenerTotals totals = TotalsOf(sources, i);
    Sample(accepted, {{"listener", name}}, totals.accepted);
    Sample(active, {{"listener", name}}, totals.active);
    for (size_t reason = 0; reason < kCloseReasonCount; ++reason) {
      Sample(closes, {{"listener", name}, {"reason", std::string(CloseReasonName(static_cast<CloseReason>(reason)))}},
             totals.closes[reason]);
    }
    Sample(bytes, {{"listener", name}, {"direction", kToNode}}, totals.bytes_in);
    Sample(bytes, {{"listener", name}, {"direction", kToClient}}, totals.bytes_out);
    SampleHistogram(hello, {{"listener", name}}, sources, [i](const WorkerCounters& w) -> const auto& { return w.listeners[i].hello_time; });
  }
}

void AddTurns(Exposition& out, const StatusSources& sources, const StatusSnapshot& snapshot, const StatusTime& time) {
  Sample(out.Gauge("hudsucker_control_last_turn_timestamp_seconds", "Unix time at which the control thread last turned; it does so twice a second."),
         {}, UnixSeconds(sources.board->LastControlTurn(), time));
  MetricFamily& turned = out.Gauge("hudsucker_worker_last_turn_timestamp_seconds", "Unix time at which the worker's last turn began.");
  MetricFamily& hangs = out.Gauge("hudsucker_worker_hangs", "1 while the worker does not turn although it was woken.");
  MetricFamily& stalls = out.Counter("hudsucker_worker_stalls_total", "Times that the worker was found not to turn for watchdog.after.");
  for (size_t i = 0; i < sources.workers.size(); ++i) {
    const WorkerHealth health = i < snapshot.workers.size() ? snapshot.workers[i] : WorkerHealth{};
    Sample(turned, {{"worker", std::to_string(i)}}, UnixSeconds(Instant(Duration(sources.workers[i]->last_turn_ns.Get())), time));
    Sample(hangs, {{"worker", std::to_string(i)}}, health.hangs ? 1 : 0);
    Sample(stalls, {{"worker", std::to_string(i)}}, health.stalls);
  }
}

void AddWorkers(Exposition& out, const StatusSources& sources) {
  for (const WorkerCounterRow& row : WorkerCounterRows()) {
    if (row.metric == nullptr) continue;
    MetricFamily& family =
        row.kind == WorkerCounterRow::Kind::kCounter ? out.Counter(row.metric, row.help) : out.Gauge(row.metric, row.help);
    for (size_t i = 0; i < sources.workers.size(); ++i) {
      Sample(family, {{"worker", std::to_string(i)}}, (sources.workers[i]->*row.counter).Get());
    }
  }
}

void AddPools(Exposition& out, const StatusSources& sources, const StatusSnapshot& snapshot) {
  struct Row {
    const char* name;
    const char* help;
    std::atomic<uint64_t> PoolCounters::*counter;
  };
  static const Row kRows[] = {
      {"hudsucker_pool_connections_total", "Connections that were joined to a node of the pool.", &PoolCounters::total},
      {"hudsucker_pool_offered_total", "Connections of the pool whose client offered to resume a session.", &PoolCounters::offered},
      {"hudsucker_pool_resumed_total", "Connections of the pool whose node accepted the client's offer to resume.",
       &PoolCounters::resumed},
      {"hudsucker_pool_no_usable_node_total", "Connections for which the pool had no usable node.",
       &PoolCounters::no_usable_node},
      {"hudsucker_pool_over_bound_total", "Choices that passed over the node that could resume, because it was at its load bound.",
       &PoolCounters::over_bound},
  };
  for (const Row& row : kRows) {
    MetricFamily& family = out.Counter(row.name, row.help);
    for (const PoolSnapshot& pool : snapshot.pools) {
      if (pool.name.empty()) continue;
      Sample(family, {{"pool", pool.name}}, (sources.nodes->pool(pool.index).*row.counter).load(std::memory_order_relaxed));
    }
  }
  MetricFamily& bytes = out.Counter("hudsucker_pool_bytes_total", "Bytes of the pool's connections that were passed on, counted as they move.");
  MetricFamily& nodes = out.Gauge("hudsucker_pool_nodes", "Nodes of the pool, by their state.");
  MetricFamily& info = out.Gauge("hudsucker_pool_node_info", "Always 1; the labels say that the node is in the pool.");
  MetricFamily& weight = out.Gauge("hudsucker_pool_node_weight", "Configured or announced weight of the node in the pool.");
  MetricFamily& connect =
      out.Histogram("hudsucker_pool_connect_duration_seconds", "Time from the choice of a node of the pool to the connection with it.");
  MetricFamily& connection =
      out.Histogram("hudsucker_pool_connection_duration_seconds", "Time from accepting a connection that was joined to a node of the pool to its end.");
  for (const PoolSnapshot& pool : snapshot.pools) {
    if (pool.name.empty()) continue;
    const size_t i = Raw(pool.index);
    Sample(bytes, {{"pool", pool.name}, {"direction", kToNode}},
           Sum(sources, [i](const WorkerCounters& w) { return w.pools[i].bytes_in.Get(); }));
    Sample(bytes, {{"pool", pool.name}, {"direction", kToClient}},
           Sum(sources, [i](const WorkerCounters& w) { return w.pools[i].bytes_out.Get(); }));
    for (const std::string_view state : kNodeStateNames) {
      const auto is_in_it = [state](const Cluster::NodeStatus& node) { return node.verdicts.StateName() == state; };
      Sample(nodes, {{"pool", pool.name}, {"state", std::string(state)}},
             std::count_if(pool.nodes.begin(), pool.nodes.end(), is_in_it));
    }
    for (const Cluster::NodeStatus& node : pool.nodes) {
      Sample(info, {{"pool", pool.name}, {"node", node.name}}, 1);
      Sample(weight, {{"pool", pool.name}, {"node", node.name}}, node.weight);
    }
    SampleHistogram(connect, {{"pool", pool.name}}, sources, [i](const WorkerCounters& w) -> const auto& { return w.pools[i].connect_time; });
    SampleHistogram(connection, {{"pool", pool.name}}, sources,
                    [i](const WorkerCounters& w) -> const auto& { return w.pools[i].connection_time; });
  }
}

void AddNodes(Exposition& out, const StatusSources& sources, const StatusSnapshot& snapshot, const StatusTime& time) {
  using Node = Cluster::NodeStatus;
  constexpr auto relaxed = std::memory_order_relaxed;
  std::map<std::string_view, const Node*> nodes;
  for (const PoolSnapshot& pool : snapshot.pools) {
    for (const Node& node : pool.nodes) nodes.emplace(node.name, &node);
  }
  const auto each = [&](MetricFamily& family, auto&& read) {
    for (const auto& [name, node] : nodes) {
      Sample(family, {{"node", node->name}}, read(*node, sources.nodes->node(node->ref.index)));
    }
  };
  each(out.Gauge("hudsucker_node_usable", "1 if new connections may go to the node."),
       [](const Node& node, const NodeCounters&) { return node.verdicts.Usable() && !node.verdicts.ejected ? 1 : 0; });
  MetricFamily& state = out.Gauge("hudsucker_node_state", "1 for the state that the node is in.");
  for (const auto& [name, node] : nodes) {
    for (const std::string_view one : kNodeStateNames) {
      Sample(state, {{"node", node->name}, {"state", std::string(one)}}, node->verdicts.StateName() == one ? 1 : 0);
    }
  }
  each(out.Gauge("hudsucker_node_connections_active", "Connections that are being made, or are joined, to the node."),
       [](const Node&, const NodeCounters& c) { return c.active.load(relaxed); });
  each(out.Counter("hudsucker_node_connections_total", "Connections that were joined to the node."),
       [](const Node&, const NodeCounters& c) { return c.total.load(relaxed); });
  each(out.Counter("hudsucker_node_offered_total", "Connections of the node whose client offered to resume a session."),
       [](const Node&, const NodeCounters& c) { return c.offered.load(relaxed); });
  each(out.Counter("hudsucker_node_resumed_total", "Connections of the node that accepted their client's offer to resume."),
       [](const Node&, const NodeCounters& c) { return c.resumed.load(relaxed); });
  each(out.Counter("hudsucker_node_connect_failures_total", "Connects to the node that failed."),
       [](const Node&, const NodeCounters& c) { return c.failed_connects.load(relaxed); });
  each(out.Counter("hudsucker_node_received_bytes_total", "Bytes from clients to the node, counted as they move."),
       [&](const Node& node, const NodeCounters&) { return BytesToNode(sources, node.ref); });
  each(out.Counter("hudsucker_node_sent_bytes_total", "Bytes from the node to clients, counted as they move."),
       [&](const Node& node, const NodeCounters&) { return BytesFromNode(sources, node.ref); });
  each(out.Gauge("hudsucker_node_load_ratio", "Load as the node's agent reports it, where 1 is full; 0 without an agent."),
       [](const Node&, const NodeCounters& c) { return c.reported_load.load(relaxed) / 1000.0; });
  each(out.Gauge("hudsucker_node_last_beacon_timestamp_seconds", "Unix time of the node's last valid beacon; 0 if there was none."),
       [&](const Node& node, const NodeCounters&) { return node.last_beacon ? UnixSeconds(*node.last_beacon, time) : 0; });
  MetricFamily& unanswered = out.Counter("hudsucker_node_unanswered_total",
                                         "Connections that the node took and left without a byte, by how.");
  for (const auto& [name, node] : nodes) {
    const NodeCounters& c = sources.nodes->node(node->ref.index);
    Sample(unanswered, {{"node", node->name}, {"how", "reset"}}, c.unanswered_resets.load(relaxed));
    Sample(unanswered, {{"node", node->name}, {"how", "closed"}}, c.unanswered_closes.load(relaxed));
    Sample(unanswered, {{"node", node->name}, {"how", "mute"}}, c.unanswered_mutes.load(relaxed));
  }
  MetricFamily& leaving = out.Gauge("hudsucker_node_leaving_connections",
                                    "Connections of nodes that are in no pool any more; without any, the node is gone.");
  for (const Cluster::LeavingNode& node : snapshot.leaving) {
    const int32_t active = sources.nodes->node(node.ref.index).active.load(relaxed);
    if (active > 0) Sample(leaving, {{"node", node.name}}, active);
  }
}

void AddAffinity(Exposition& out, const AffinityMap::Stats& stats, size_t prefixes) {
  Sample(out.Gauge("hudsucker_affinity_max_tokens", "Exact tokens that fit into the map."), {}, stats.capacity);
  Sample(out.Gauge("hudsucker_affinity_tokens", "Exact tokens that the map holds."), {}, stats.size);
  Sample(out.Gauge("hudsucker_affinity_prefixes", "Ticket prefixes that the nodes have announced."), {}, prefixes);
  Sample(out.Gauge("hudsucker_affinity_memory_bytes", "Memory of the map of exact tokens."), {}, stats.bytes);
  MetricFamily& changes = out.Counter("hudsucker_affinity_changes_total", "Exact tokens, by what became of them.");
  Sample(changes, {{"result", "inserted"}}, stats.inserted);
  Sample(changes, {{"result", "refreshed"}}, stats.refreshed);
  Sample(changes, {{"result", "held_by_another"}}, stats.held_by_another);
  Sample(changes, {{"result", "evicted_expired"}}, stats.evicted_expired);
  Sample(changes, {{"result", "evicted_over_share"}}, stats.evicted_over_share);
  Sample(changes, {{"result", "rejected"}}, stats.rejected);
  Sample(changes, {{"result", "withdrawn"}}, stats.withdrawn);
  Sample(changes, {{"result", "expired"}}, stats.expired);
}

void AddBeacons(Exposition& out, const StatusSnapshot& snapshot) {
  const BeaconStats& stats = snapshot.beacons;
  Sample(out.Counter("hudsucker_beacons_received_total", "Datagrams that were read from the beacon sockets."), {}, stats.received);
  MetricFamily& results = out.Counter("hudsucker_beacons_total", "Datagrams from the beacon sockets, by what became of them.");
  Sample(results, {{"result", "applied"}}, stats.applied);
  Sample(results, {{"result", "malformed"}}, stats.malformed);
  Sample(results, {{"result", "unknown_node"}}, stats.unknown_node);
  Sample(results, {{"result", "bad_mac"}}, stats.bad_mac);
  Sample(results, {{"result", "stale_nonce"}}, stats.stale_nonce);
  Sample(results, {{"result", "replayed"}}, stats.replayed);
  Sample(results, {{"result", "second_epoch"}}, stats.second_epoch);
  Sample(results, {{"result", "refused_pool"}}, stats.refused_pool);
  Sample(results, {{"result", "refused_address"}}, stats.refused_address);
  Sample(results, {{"result", "over_quota"}}, stats.over_quota);
  Sample(results, {{"result", "late"}}, stats.late);
  Sample(out.Counter("hudsucker_beacon_takeovers_total", "Times that a later boot of an agent followed an earlier one."), {},
         stats.takeovers);
  Sample(out.Counter("hudsucker_beacons_dropped_total", "Datagrams that the kernel dropped because the buffer of a beacon socket was full."), {},
         snapshot.beacon_sockets.dropped);
  MetricFamily& answers = out.Counter("hudsucker_beacon_answers_total", "Answers that were sent to agents, by their type.");
  Sample(answers, {{"type", "challenge"}}, stats.challenges_sent);
  Sample(answers, {{"type", "sync"}}, stats.syncs_sent);
  Sample(out.Counter("hudsucker_beacon_token_gaps_total", "Gaps that were found in the numbering of agents' tokens."), {}, stats.token_gaps);
  Sample(out.Counter("hudsucker_beacon_tokens_total", "Tokens that agents reported and the map took."), {}, stats.tokens_applied);
}

}  // namespace

std::string MetricsText(const StatusSources& sources, const StatusTime& time) {
  const std::shared_ptr<const StatusSnapshot> snapshot = sources.board->Latest();
  Exposition out;
  AddProcess(out, sources, time);
  AddControl(out, sources, *snapshot, time);
  AddConnections(out, sources);
  AddListeners(out, sources, *snapshot);
  AddPools(out, sources, *snapshot);
  AddNodes(out, sources, *snapshot, time);
  AddAffinity(out, sources.affinity->stats(), snapshot->prefixes);
  AddBeacons(out, *snapshot);
  AddWorkers(out, sources);
  AddTurns(out, sources, *snapshot, time);
  return out.Text();
}

}  // namespace hud
