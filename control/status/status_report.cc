#include "control/status/status_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "control/process/process_stats.h"
#include "control/status/status_server.h"
#include "control/status/worker_counter_rows.h"
#include "core/os/log_writer.h"

namespace hud {
namespace {

using Json = nlohmann::ordered_json;

double SecondsOf(Duration d) { return std::chrono::duration<double>(d).count(); }

Json NodeJson(const StatusSources& sources, const Cluster::NodeStatus& node, Instant now) {
  const NodeCounters& counters = sources.nodes->node(node.ref.index);
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
      {"ejected", node.verdicts.ejected},
      {"unanswered",
       {{"reset", counters.unanswered_resets.load(std::memory_order_relaxed)},
        {"closed", counters.unanswered_closes.load(std::memory_order_relaxed)},
        {"mute", counters.unanswered_mutes.load(std::memory_order_relaxed)}}},
      {"failed_connects", counters.failed_connects.load(std::memory_order_relaxed)},
      {"bytes_in", BytesToNode(sources, node.ref)},
      {"bytes_out", BytesFromNode(sources, node.ref)},
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

Json PoolJson(const StatusSources& sources, const PoolSnapshot& pool, Instant now) {
  const PoolCounters& counters = sources.nodes->pool(pool.index);
  const auto sum = [&](Counter PoolTraffic::*counter) {
    int64_t total = 0;
    for (const WorkerCounters* worker : sources.workers) total += (worker->pools[Raw(pool.index)].*counter).Get();
    return total;
  };
  Json json{
      {"name", pool.name},
      {"balance", std::string(BalanceName(pool.balance))},
      {"total", counters.total.load(std::memory_order_relaxed)},
      {"offered", counters.offered.load(std::memory_order_relaxed)},
      {"resumed", counters.resumed.load(std::memory_order_relaxed)},
      {"no_usable_node", counters.no_usable_node.load(std::memory_order_relaxed)},
      {"over_bound", counters.over_bound.load(std::memory_order_relaxed)},
      {"bytes_in", sum(&PoolTraffic::bytes_in)},
      {"bytes_out", sum(&PoolTraffic::bytes_out)},
      {"nodes", Json::array()},
  };
  for (const Cluster::NodeStatus& node : pool.nodes) {
    json["nodes"].push_back(NodeJson(sources, node, now));
  }
  return json;
}

// Nodes that are in no pool any more and have connections still.
Json LeavingJson(const StatusSnapshot& snapshot, const NodeTable& table) {
  Json json = Json::array();
  for (const Cluster::LeavingNode& node : snapshot.leaving) {
    const int32_t active = table.node(node.ref.index).active.load(std::memory_order_relaxed);
    if (active <= 0) continue;
    json.push_back({{"name", node.name}, {"address", node.address.ToString()}, {"state", "leaving"}, {"active", active}});
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

Json WorkerJson(const WorkerCounters& w, const WorkerHealth& health, Instant now) {
  Json json{{"hangs", health.hangs},
            {"stalls", health.stalls},
            {"last_turn_age_s", std::max(0.0, SecondsOf(now - Instant(Duration(w.last_turn_ns.Get()))))}};
  for (const WorkerCounterRow& row : WorkerCounterRows()) json[row.name] = (w.*row.counter).Get();
  return json;
}

Json ListenersJson(const StatusSources& sources, const std::vector<std::string>& names) {
  Json list = Json::array();
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i].empty()) continue;  // a free slot
    const ListenerTotals totals = TotalsOf(sources, i);
    Json closes = Json::object();
    for (size_t reason = 0; reason < kCloseReasonCount; ++reason) {
      closes[std::string(CloseReasonName(static_cast<CloseReason>(reason)))] = totals.closes[reason];
    }
    list.push_back({{"name", names[i]},
                    {"accepted", totals.accepted},
                    {"active", totals.active},
                    {"bytes_in", totals.bytes_in},
                    {"bytes_out", totals.bytes_out},
                    {"closes", std::move(closes)}});
  }
  return list;
}

Json ProcessJson(const ProcessStatsReader& reader) {
  const ProcessStats stats = reader.Read();
  return Json{{"cpu_s", stats.cpu_seconds},
              {"resident_bytes", stats.resident_bytes},
              {"virtual_bytes", stats.virtual_bytes},
              {"threads", stats.threads},
              {"open_fds", stats.open_fds},
              {"max_fds", stats.max_fds}};
}

Json StatusRequestsJson(const StatusServerCounters& counters) {
  return Json{{"answered", counters.answered.load()},
              {"refused", counters.refused.load()},
              {"foreign_host", counters.foreign_host.load()},
              {"displaced", counters.displaced.load()}};
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
  for (size_t reason = 0; reason < kChoiceReasonCount; ++reason) {
    int64_t sum = 0;
    for (const WorkerCounters* worker : workers) sum += worker->choices[reason].Get();
    json[std::string(ChoiceReasonName(static_cast<ChoiceReason>(reason)))] = sum;
  }
  return json;
}

}  // namespace

// What has ended is read first: then those that are open are never fewer than none.
ListenerTotals TotalsOf(const StatusSources& sources, size_t listener) {
  ListenerTotals totals;
  for (const WorkerCounters* worker : sources.workers) {
    const ListenerCounters& counters = worker->listeners[listener];
    for (size_t reason = 0; reason < kCloseReasonCount; ++reason) {
      const int64_t closes = counters.closes[reason].Get();
      totals.closes[reason] += closes;
      totals.active -= closes;
    }
    totals.accepted += counters.accepted.Get();
    totals.bytes_in += counters.bytes_in.Get();
    totals.bytes_out += counters.bytes_out.Get();
  }
  totals.active = std::max<int64_t>(totals.active + totals.accepted, 0);
  return totals;
}

int64_t BytesToNode(const StatusSources& sources, NodeRef node) {
  int64_t sum = 0;
  for (const WorkerCounters* worker : sources.workers) sum += worker->nodes[Raw(node.index)].BytesIn(node.generation);
  return sum;
}

int64_t BytesFromNode(const StatusSources& sources, NodeRef node) {
  int64_t sum = 0;
  for (const WorkerCounters* worker : sources.workers) sum += worker->nodes[Raw(node.index)].BytesOut(node.generation);
  return sum;
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
      {"listeners", ListenersJson(sources, snapshot->listeners)},
      {"pools", Json::array()},
      {"leaving", LeavingJson(*snapshot, *sources.nodes)},
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
  if (sources.process != nullptr) json["process"] = ProcessJson(*sources.process);
  if (sources.server != nullptr) json["status_requests"] = StatusRequestsJson(*sources.server);
  for (const PoolSnapshot& pool : snapshot->pools) {
    if (!pool.name.empty()) json["pools"].push_back(PoolJson(sources, pool, now));
  }
  for (size_t i = 0; i < sources.workers.size(); ++i) {
    const WorkerHealth health = i < snapshot->workers.size() ? snapshot->workers[i] : WorkerHealth{};
    json["workers"].push_back(WorkerJson(*sources.workers[i], health, now));
  }
  // Paths and error texts are not sure to be UTF-8.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace hud
