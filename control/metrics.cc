// GET /metrics: the same numbers as /status, in Prometheus's text format.
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <deque>

#include "control/log_writer.h"
#include "control/status_report.h"

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

void AddProcess(Exposition& out, const StatusSources& sources, const StatusSnapshot& snapshot, Instant now) {
  Sample(out.Gauge("hudsucker_build_info", "Always 1; the version is the label."), {{"version", sources.version}}, 1);
  Sample(out.Gauge("hudsucker_uptime_seconds", "Since the process was ready."), {},
         std::chrono::duration<double>(now - sources.started).count());
  Sample(out.Gauge("hudsucker_draining", "1 while the process waits for its last connections to end."), {},
         snapshot.draining ? 1 : 0);
  Sample(out.Gauge("hudsucker_route_table_version", "Grows with each route table that is published."), {},
         snapshot.route_table_version);
  MetricFamily& reloads = out.Counter("hudsucker_reloads_total", "Configuration reloads.");
  Sample(reloads, {{"result", "ok"}}, snapshot.reloads.ok);
  Sample(reloads, {{"result", "failed"}}, snapshot.reloads.failed);
  Sample(out.Counter("hudsucker_log_lines_dropped_total", "Log lines lost to a slow or broken sink."), {},
         sources.log ? sources.log->dropped() : 0);
  Sample(out.Counter("hudsucker_log_reopen_failures_total", "Times that log.file could not be reopened after it was rotated."), {},
         sources.log ? sources.log->reopens_failed() : 0);
}

template <typename Read>
void PerWorker(MetricFamily& family, const StatusSources& sources, Read&& read) {
  for (size_t i = 0; i < sources.workers.size(); ++i) {
    Sample(family, {{"worker", std::to_string(i)}}, read(*sources.workers[i]));
  }
}

void AddConnections(Exposition& out, const StatusSources& sources) {
  PerWorker(out.Counter("hudsucker_connections_accepted_total", "Client connections accepted."), sources,
            [](const WorkerCounters& w) { return w.accepted.Get(); });
  PerWorker(out.Gauge("hudsucker_connections_active", "Client connections in any state."), sources,
            [](const WorkerCounters& w) { return w.active.Get(); });

  MetricFamily& closes = out.Counter("hudsucker_connections_total", "Connections that ended, by the one reason of each.");
  for (size_t reason = 0; reason < kCloseReasonCount; ++reason) {
    int64_t sum = 0;
    for (const WorkerCounters* worker : sources.workers) sum += worker->closes[reason].Get();
    Sample(closes, {{"close", std::string(CloseReasonName(static_cast<CloseReason>(reason)))}}, sum);
  }
  MetricFamily& choices = out.Counter("hudsucker_choices_total", "Choices of a node, by the reason of each.");
  for (size_t reason = 0; reason < std::tuple_size_v<decltype(WorkerCounters::choices)>; ++reason) {
    int64_t sum = 0;
    for (const WorkerCounters* worker : sources.workers) sum += worker->choices[reason].Get();
    Sample(choices, {{"reason", std::string(ChoiceReasonName(static_cast<ChoiceReason>(reason)))}}, sum);
  }
  MetricFamily& hellos = out.Counter("hudsucker_hellos_total", "What the first bytes of clients were.");
  int64_t complete = 0, not_tls = 0, malformed = 0, too_large = 0, in = 0, back = 0;
  for (const WorkerCounters* worker : sources.workers) {
    complete += worker->hello_complete.Get();
    not_tls += worker->hello_not_tls.Get();
    malformed += worker->hello_malformed.Get();
    too_large += worker->hello_too_large.Get();
    in += worker->bytes_in.Get();
    back += worker->bytes_out.Get();
  }
  Sample(hellos, {{"verdict", "complete"}}, complete);
  Sample(hellos, {{"verdict", "not_tls"}}, not_tls);
  Sample(hellos, {{"verdict", "malformed"}}, malformed);
  Sample(hellos, {{"verdict", "too_large"}}, too_large);
  MetricFamily& flaws = out.Counter("hudsucker_hello_flaws_total", "Rules that hellos broke, by the first of each.");
  for (size_t flaw = 1; flaw < kHelloFlawCount; ++flaw) {
    int64_t sum = 0;
    for (const WorkerCounters* worker : sources.workers) sum += worker->hello_flaws[flaw].Get();
    Sample(flaws, {{"flaw", std::string(HelloFlawName(static_cast<HelloFlaw>(flaw)))}}, sum);
  }
  MetricFamily& bytes = out.Counter("hudsucker_bytes_total", "Bytes relayed.");
  Sample(bytes, {{"direction", "client_to_node"}}, in);
  Sample(bytes, {{"direction", "node_to_client"}}, back);
}

void AddWorkers(Exposition& out, const StatusSources& sources) {
  struct Row {
    const char* name;
    const char* help;
    MetricType type;
    Counter WorkerCounters::*counter;
  };
  static constexpr MetricType kCounter = MetricType::Counter, kGauge = MetricType::Gauge;
  static const Row kRows[] = {
      {"accept_backoffs_total", "Times accepting paused for want of descriptors or memory.", kCounter,
       &WorkerCounters::accept_backoffs},
      {"over_limit_total", "Connections closed at once for want of a place.", kCounter, &WorkerCounters::over_limit},
      {"connection_limit", "The worker's share of max_connections.", kGauge, &WorkerCounters::connection_limit},
      {"limit_reached_total", "Times accepting paused because that share was in use.", kCounter, &WorkerCounters::limit_reached},
      {"connect_failures_total", "Connects to nodes that failed.", kCounter, &WorkerCounters::connect_failures},
      {"connect_retries_total", "Connects tried again on another node.", kCounter, &WorkerCounters::connect_retries},
      {"in_hello", "Connections whose hello is not complete.", kGauge, &WorkerCounters::in_hello},
      {"dialing", "Connections that wait for a node.", kGauge, &WorkerCounters::dialing},
      {"relaying", "Connections joined to a node.", kGauge, &WorkerCounters::relaying},
      {"hello_bytes_held", "Memory of held hellos.", kGauge, &WorkerCounters::hello_bytes_held},
      {"private_bytes", "Memory of stalled directions.", kGauge, &WorkerCounters::private_bytes},
      {"buffers_free", "Free buffers of the shared ring.", kGauge, &WorkerCounters::buffers_free},
      {"buffers_exhausted_total", "Times no buffer was free.", kCounter, &WorkerCounters::buffers_exhausted},
      {"pipes_held", "Pipes in use.", kGauge, &WorkerCounters::pipes_held},
      {"pipe_bytes", "Capacity of the pipes in use.", kGauge, &WorkerCounters::pipe_bytes},
      {"splice_entered_total", "Times a direction went to splice.", kCounter, &WorkerCounters::splice_entered},
      {"splice_left_total", "Times a direction went back to copying.", kCounter, &WorkerCounters::splice_left},
      {"zerocopy_sends_total", "Zero-copy sends.", kCounter, &WorkerCounters::zerocopy_sends},
      {"zerocopy_copied_total", "Of those, copied by the kernel all the same.", kCounter,
       &WorkerCounters::zerocopy_copied},
      {"cq_overflows_total", "Overflows of the completion queue.", kCounter, &WorkerCounters::cq_overflows},
      {"loops_total", "Turns of the event loop.", kCounter, &WorkerCounters::loops},
      {"access_log_dropped_total", "Access-log records that found the queue full.", kCounter,
       &WorkerCounters::records_dropped},
  };
  for (const Row& row : kRows) {
    const std::string name = std::string("hudsucker_worker_") + row.name;
    MetricFamily& family = row.type == kCounter ? out.Counter(name, row.help) : out.Gauge(name, row.help);
    PerWorker(family, sources, [&row](const WorkerCounters& w) { return (w.*row.counter).Get(); });
  }
}

void AddPools(Exposition& out, const StatusSnapshot& snapshot, const NodeTable& table) {
  struct Row {
    const char* name;
    const char* help;
    std::atomic<uint64_t> PoolCounters::*counter;
  };
  static const Row kRows[] = {
      {"hudsucker_pool_connections_total", "Connections joined to a node of the pool.", &PoolCounters::total},
      {"hudsucker_pool_offered_total", "Of those, clients that offered a resumption.", &PoolCounters::offered},
      {"hudsucker_pool_resumed_total", "Of those, accepted by the node.", &PoolCounters::resumed},
      {"hudsucker_pool_no_usable_node_total", "Connections for which the pool had no usable node.",
       &PoolCounters::no_usable_node},
      {"hudsucker_pool_over_bound_total", "Owners that were not used because they were at their load bound.",
       &PoolCounters::over_bound},
  };
  for (const Row& row : kRows) {
    MetricFamily& family = out.Counter(row.name, row.help);
    for (const PoolSnapshot& pool : snapshot.pools) {
      if (pool.name.empty()) continue;
      Sample(family, {{"pool", pool.name}}, (table.pool(pool.index).*row.counter).load(std::memory_order_relaxed));
    }
  }
}

template <typename Read>
void PerNode(MetricFamily& family, const StatusSnapshot& snapshot, const NodeTable& table, Read&& read) {
  for (const PoolSnapshot& pool : snapshot.pools) {
    for (const Cluster::NodeStatus& node : pool.nodes) {
      Sample(family, {{"pool", pool.name}, {"node", node.name}}, read(node, table.node(node.ref.index)));
    }
  }
}

// A node that is in several pools has one set of counters, shown under each of them.
void AddNodes(Exposition& out, const StatusSnapshot& snapshot, const NodeTable& table, Instant now) {
  using Node = Cluster::NodeStatus;
  const auto relaxed = std::memory_order_relaxed;
  PerNode(out.Gauge("hudsucker_node_usable", "1 if new connections may go to the node."), snapshot, table,
          [](const Node& node, const NodeCounters&) { return node.verdicts.Usable() ? 1 : 0; });
  MetricFamily& state = out.Gauge("hudsucker_node_state", "1 for the state that the node is in.");
  for (const PoolSnapshot& pool : snapshot.pools) {
    for (const Node& node : pool.nodes) {
      for (const std::string_view name : {"up", "silent", "draining", "down"}) {
        Sample(state, {{"pool", pool.name}, {"node", node.name}, {"state", std::string(name)}},
               node.verdicts.StateName() == name ? 1 : 0);
      }
    }
  }
  PerNode(out.Gauge("hudsucker_node_connections_active", "Connections dialing or relaying to the node."), snapshot, table,
          [&](const Node&, const NodeCounters& c) { return c.active.load(relaxed); });
  PerNode(out.Counter("hudsucker_node_connections_total", "Connections joined to the node."), snapshot, table,
          [&](const Node&, const NodeCounters& c) { return c.total.load(relaxed); });
  PerNode(out.Counter("hudsucker_node_offered_total", "Of those, clients that offered a resumption."), snapshot, table,
          [&](const Node&, const NodeCounters& c) { return c.offered.load(relaxed); });
  PerNode(out.Counter("hudsucker_node_resumed_total", "Of those, accepted by the node."), snapshot, table,
          [&](const Node&, const NodeCounters& c) { return c.resumed.load(relaxed); });
  PerNode(out.Counter("hudsucker_node_connect_failures_total", "Connects to the node that failed."), snapshot, table,
          [&](const Node&, const NodeCounters& c) { return c.failed_connects.load(relaxed); });
  PerNode(out.Counter("hudsucker_node_received_bytes_total", "Bytes from clients to the node, of ended connections."),
          snapshot, table, [&](const Node&, const NodeCounters& c) { return c.bytes_in.load(relaxed); });
  PerNode(out.Counter("hudsucker_node_sent_bytes_total", "Bytes from the node to clients, of ended connections."),
          snapshot, table, [&](const Node&, const NodeCounters& c) { return c.bytes_out.load(relaxed); });
  PerNode(out.Gauge("hudsucker_node_load_ratio", "Load as the agent reports it; 1 is full."), snapshot, table,
          [&](const Node&, const NodeCounters& c) { return c.reported_load.load(relaxed) / 1000.0; });
  PerNode(out.Gauge("hudsucker_node_weight", "Configured or announced weight."), snapshot, table,
          [](const Node& node, const NodeCounters&) { return node.weight; });
  MetricFamily& age = out.Gauge("hudsucker_node_last_beacon_age_seconds", "Since the node's last valid beacon.");
  for (const PoolSnapshot& pool : snapshot.pools) {
    for (const Node& node : pool.nodes) {
      if (!node.last_beacon) continue;
      Sample(age, {{"pool", pool.name}, {"node", node.name}},
             std::chrono::duration<double>(now - *node.last_beacon).count());
    }
  }
}

void AddAffinity(Exposition& out, const AffinityMap::Stats& stats, size_t prefixes) {
  Sample(out.Gauge("hudsucker_affinity_capacity", "Exact tokens that fit."), {}, stats.capacity);
  Sample(out.Gauge("hudsucker_affinity_size", "Exact tokens held."), {}, stats.size);
  Sample(out.Gauge("hudsucker_affinity_prefixes", "Ticket prefixes held."), {}, prefixes);
  Sample(out.Gauge("hudsucker_affinity_memory_bytes", "Memory of the map."), {}, stats.bytes);
  MetricFamily& changes = out.Counter("hudsucker_affinity_changes_total", "What became of tokens.");
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
  Sample(out.Counter("hudsucker_beacons_received_total", "Datagrams read from the beacon sockets."), {}, stats.received);
  MetricFamily& results = out.Counter("hudsucker_beacons_total", "Datagrams by what became of them.");
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
  Sample(out.Counter("hudsucker_beacon_takeovers_total", "Times a later boot of an agent followed an earlier one."), {},
         stats.takeovers);
  Sample(out.Counter("hudsucker_beacons_dropped_total", "Datagrams dropped by the kernel: the buffer was full."), {},
         snapshot.beacon_sockets.dropped);
  MetricFamily& answers = out.Counter("hudsucker_beacon_answers_total", "Answers to agents.");
  Sample(answers, {{"type", "challenge"}}, stats.challenges_sent);
  Sample(answers, {{"type", "sync"}}, stats.syncs_sent);
  Sample(out.Counter("hudsucker_beacon_token_gaps_total", "Gaps in the numbering of tokens."), {}, stats.token_gaps);
  Sample(out.Counter("hudsucker_beacon_tokens_total", "Tokens applied."), {}, stats.tokens_applied);
}

}  // namespace

std::string MetricsText(const StatusSources& sources, Instant now) {
  const std::shared_ptr<const StatusSnapshot> snapshot = sources.board->Latest();
  Exposition out;
  AddProcess(out, sources, *snapshot, now);
  AddConnections(out, sources);
  AddWorkers(out, sources);
  AddPools(out, *snapshot, *sources.nodes);
  AddNodes(out, *snapshot, *sources.nodes, now);
  AddAffinity(out, sources.affinity->stats(), snapshot->prefixes);
  AddBeacons(out, *snapshot);
  return out.Text();
}

}  // namespace hud
