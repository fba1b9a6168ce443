#include "control/status_report.h"

#include <nlohmann/json.hpp>

#include "control/log_writer.h"

namespace hud {
namespace {

using Json = nlohmann::ordered_json;

double SecondsOf(Duration d) { return std::chrono::duration<double>(d).count(); }

Json NodeJson(const Cluster::NodeStatus& node, const NodeCounters& counters, Instant now) {
  Json json{
      {"name", node.name},
      {"address", node.address.ToString()},
      {"state", std::string(node.verdicts.StateName())},
      {"active", counters.active.load(std::memory_order_relaxed)},
      {"total", counters.total.load(std::memory_order_relaxed)},
      {"offered", counters.offered.load(std::memory_order_relaxed)},
      {"resumed", counters.resumed.load(std::memory_order_relaxed)},
      {"weight", node.weight},
      {"load", counters.reported_load.load(std::memory_order_relaxed) / 1000.0},
      {"static", node.is_static},
      {"reachable", node.verdicts.reachable},
      {"failed_connects", counters.failed_connects.load(std::memory_order_relaxed)},
      {"bytes_in", counters.bytes_in.load(std::memory_order_relaxed)},
      {"bytes_out", counters.bytes_out.load(std::memory_order_relaxed)},
      {"prefixes", node.prefixes},
  };
  if (node.has_agent) {
    json["agent"] = {{"ready", node.health.ready},
                     {"connections", node.health.connections},
                     {"probe_seconds", node.health.probe_micros / 1e6},
                     {"cpu_pressure", node.health.cpu_pressure_permille / 1000.0}};
    if (node.last_beacon) json["agent"]["last_beacon_age_s"] = SecondsOf(now - *node.last_beacon);
  }
  return json;
}

Json PoolJson(const PoolSnapshot& pool, const NodeTable& table, Instant now) {
  const PoolCounters& counters = table.pool(pool.index);
  Json json{
      {"name", pool.name},
      {"balance", std::string(BalanceName(pool.balance))},
      {"total", counters.total.load(std::memory_order_relaxed)},
      {"offered", counters.offered.load(std::memory_order_relaxed)},
      {"resumed", counters.resumed.load(std::memory_order_relaxed)},
      {"no_usable_node", counters.no_usable_node.load(std::memory_order_relaxed)},
      {"over_bound", counters.over_bound.load(std::memory_order_relaxed)},
      {"nodes", Json::array()},
  };
  for (const Cluster::NodeStatus& node : pool.nodes) {
    json["nodes"].push_back(NodeJson(node, table.node(node.ref.index), now));
  }
  return json;
}

Json AffinityJson(const AffinityMap& map, size_t prefixes) {
  const AffinityMap::Stats stats = map.stats();
  return Json{{"capacity", stats.capacity},
              {"size", stats.size},
              {"bytes", stats.bytes},
              {"prefixes", prefixes},
              {"inserted", stats.inserted},
              {"refreshed", stats.refreshed},
              {"held_by_another", stats.held_by_another},
              {"evicted_expired", stats.evicted_expired},
              {"evicted_over_share", stats.evicted_over_share},
              {"rejected", stats.rejected},
              {"withdrawn", stats.withdrawn},
              {"expired", stats.expired}};
}

Json BeaconsJson(const StatusSnapshot& snapshot) {
  const BeaconStats& stats = snapshot.beacons;
  return Json{{"keys", snapshot.beacon_keys},
              {"received", stats.received},
              {"applied", stats.applied},
              {"malformed", stats.malformed},
              {"unknown_node", stats.unknown_node},
              {"bad_mac", stats.bad_mac},
              {"stale_nonce", stats.stale_nonce},
              {"replayed", stats.replayed},
              {"second_epoch", stats.second_epoch},
              {"refused_pool", stats.refused_pool},
              {"refused_address", stats.refused_address},
              {"over_quota", stats.over_quota},
              {"late", stats.late},
              {"takeovers", stats.takeovers},
              {"refused_by_cluster", snapshot.beacons_refused},
              {"challenges_sent", stats.challenges_sent},
              {"challenges_held_back", stats.challenges_held_back},
              {"syncs_sent", stats.syncs_sent},
              {"token_gaps", stats.token_gaps},
              {"tokens_applied", stats.tokens_applied},
              {"tokens_unowned", snapshot.tokens_unowned},
              {"dropped_by_kernel", snapshot.beacon_sockets.dropped},
              {"answers_failed", snapshot.beacon_sockets.answers_failed}};
}

// All of a worker's plain counters, under the name that the counter has in the code.
Json WorkerJson(const WorkerCounters& w) {
  return Json{{"accepted", w.accepted.Get()},
              {"active", w.active.Get()},
              {"in_hello", w.in_hello.Get()},
              {"dialing", w.dialing.Get()},
              {"relaying", w.relaying.Get()},
              {"bytes_in", w.bytes_in.Get()},
              {"bytes_out", w.bytes_out.Get()},
              {"accept_backoffs", w.accept_backoffs.Get()},
              {"over_limit", w.over_limit.Get()},
              {"connection_limit", w.connection_limit.Get()},
              {"limit_reached", w.limit_reached.Get()},
              {"connect_failures", w.connect_failures.Get()},
              {"connect_retries", w.connect_retries.Get()},
              {"hello_complete", w.hello_complete.Get()},
              {"hello_not_tls", w.hello_not_tls.Get()},
              {"hello_malformed", w.hello_malformed.Get()},
              {"hello_too_large", w.hello_too_large.Get()},
              {"hello_bytes_held", w.hello_bytes_held.Get()},
              {"private_bytes", w.private_bytes.Get()},
              {"buffers_free", w.buffers_free.Get()},
              {"buffers_exhausted", w.buffers_exhausted.Get()},
              {"pipes_held", w.pipes_held.Get()},
              {"pipe_bytes", w.pipe_bytes.Get()},
              {"splice_entered", w.splice_entered.Get()},
              {"splice_left", w.splice_left.Get()},
              {"zerocopy_sends", w.zerocopy_sends.Get()},
              {"zerocopy_copied", w.zerocopy_copied.Get()},
              {"cq_overflows", w.cq_overflows.Get()},
              {"loops", w.loops.Get()},
              {"records_dropped", w.records_dropped.Get()}};
}

Json ClosesJson(const std::vector<const WorkerCounters*>& workers) {
  Json json = Json::object();
  for (size_t reason = 0; reason < kCloseReasonCount; ++reason) {
    int64_t sum = 0;
    for (const WorkerCounters* worker : workers) sum += worker->closes[reason].Get();
    json[std::string(CloseReasonName(static_cast<CloseReason>(reason)))] = sum;
  }
  return json;
}

Json FlawsJson(const std::vector<const WorkerCounters*>& workers) {
  Json json = Json::object();
  for (size_t flaw = 1; flaw < kHelloFlawCount; ++flaw) {
    int64_t sum = 0;
    for (const WorkerCounters* worker : workers) sum += worker->hello_flaws[flaw].Get();
    json[std::string(HelloFlawName(static_cast<HelloFlaw>(flaw)))] = sum;
  }
  return json;
}

Json ChoicesJson(const std::vector<const WorkerCounters*>& workers) {
  Json json = Json::object();
  for (size_t reason = 0; reason < std::tuple_size_v<decltype(WorkerCounters::choices)>; ++reason) {
    int64_t sum = 0;
    for (const WorkerCounters* worker : workers) sum += worker->choices[reason].Get();
    json[std::string(ChoiceReasonName(static_cast<ChoiceReason>(reason)))] = sum;
  }
  return json;
}

}  // namespace

std::string_view BalanceName(Balance balance) {
  switch (balance) {
    case Balance::kPowerOfTwo: return "power_of_two";
    case Balance::kLeastConnections: return "least_connections";
    case Balance::kRoundRobin: return "round_robin";
    case Balance::kMaglev: return "maglev";
  }
  return "unknown";
}

std::string StatusJson(const StatusSources& sources, Instant now) {
  const std::shared_ptr<const StatusSnapshot> snapshot = sources.board->Latest();
  Json json{
      {"version", sources.version},
      {"pid", sources.pid},
      {"uptime_s", SecondsOf(now - sources.started)},
      {"kernel", sources.kernel},
      {"draining", snapshot->draining},
      {"route_table_version", snapshot->route_table_version},
      {"listeners", snapshot->listeners},
      {"pools", Json::array()},
      {"affinity", AffinityJson(*sources.affinity, snapshot->prefixes)},
      {"beacons", BeaconsJson(*snapshot)},
      {"closes", ClosesJson(sources.workers)},
      {"choices", ChoicesJson(sources.workers)},
      {"hello_flaws", FlawsJson(sources.workers)},
      {"workers", Json::array()},
      {"reloads",
       {{"ok", snapshot->reloads.ok},
        {"failed", snapshot->reloads.failed},
        {"last_error", snapshot->reloads.last_error}}},
      {"log", {{"lines_dropped", sources.log ? sources.log->dropped() : 0}}},
  };
  for (const PoolSnapshot& pool : snapshot->pools) {
    if (!pool.name.empty()) json["pools"].push_back(PoolJson(pool, *sources.nodes, now));
  }
  for (const WorkerCounters* worker : sources.workers) json["workers"].push_back(WorkerJson(*worker));
  // Paths and error texts are not sure to be UTF-8.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace hud
