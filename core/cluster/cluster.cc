#include "core/cluster/cluster.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <tuple>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/limits.h"
#include "core/cluster/node_life.h"
#include "core/routing/balance.h"

namespace hud {
namespace {

// A slot is given to another node only when no worker can still hold a table that has its old node in a pool; a pool's slot
// likewise. A worker takes the newest table before each batch, and no batch lasts nearly this long.
constexpr Duration kQuarantine = std::chrono::seconds(10);
// Connects that failed are counted by the workers, and nothing wakes the control thread for it.
constexpr Duration kTickEvery = std::chrono::milliseconds(500);

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

bool Less(const TicketPrefix& a, const TicketPrefix& b) {
  return std::tie(a.length, a.bytes) < std::tie(b.length, b.bytes);
}

constexpr Duration kSameRivalryAgain = std::chrono::minutes(10);

// A node says that tickets with this prefix are its own.
struct PrefixClaim {
  TicketPrefix prefix;
  uint64_t order = 0;  // of all claims ever made: the lower came first
};

// Whose a prefix is when several nodes claim it. Everybody who ever got a ticket of a node knows its prefixes, so the holder of
// another node's key could claim them too, and get the node's returning clients. Hence who claimed first has a prefix, and all
// that begins with it, to itself for as long as it lives; but nodes whose keys are in one group share it.
class PrefixClaims {
 public:
  using Party = size_t;  // a group, or a node that is in none

  void Add(const TicketPrefix& prefix, Party party, NodeIndex node, uint64_t order) {
    lengths_.set(prefix.length);
    Holder& first = first_holders_[prefix];
    if (order < first.order) first = {party, node, order};
  }

  // The node of another party that has the claimed prefix, or one that it begins with; kNone: the claimant may have it.
  NodeIndex RivalOf(const TicketPrefix& prefix, Party party, uint64_t order) const {
    for (uint8_t length = limits::kMinPrefixBytes; length <= prefix.length; ++length) {
      if (!lengths_[length]) continue;
      const auto first = first_holders_.find(TicketPrefix::Of(prefix.span().first(length)));
      if (first == first_holders_.end() || first->second.party == party) continue;
      if (first->second.order < order) return first->second.node;
    }
    return NodeIndex::kNone;
  }

 private:
  struct Holder {
    Party party = 0;
    NodeIndex node = NodeIndex::kNone;
    uint64_t order = UINT64_MAX;
  };
  struct Hash {
    size_t operator()(const TicketPrefix& prefix) const {
      return std::hash<std::string_view>()({reinterpret_cast<const char*>(prefix.bytes.data()), prefix.length});
    }
  };
  std::unordered_map<TicketPrefix, Holder, Hash> first_holders_;
  std::bitset<limits::kMaxTokenBytes + 1> lengths_;
};

// A node's slot. Free, in use, or leaving: in no pool any more, waiting for its last connection to end.
struct NodeSlot {
  std::string name;  // empty: free
  uint16_t generation = 0;
  SocketAddress address;
  std::optional<NodeLife> life;
  bool leaving = false;
  std::optional<Instant> excluded_at;  // when a table without it was built

  // What the configuration says.
  bool is_static = false;
  std::optional<Duration> health_interval;
  Ejection::Rules eject;  // of its pools, the strictest; one pool that never ejects is enough for never
  // What its agent says.
  bool announced = false;
  SocketAddress announced_address;
  std::vector<std::string> announced_pools;
  uint16_t announced_weight = 0;
  std::vector<PrefixClaim> prefixes;  // in the order of the prefix, each once; kept while the node exists
  std::string ticket_group;           // of its key
  std::optional<Instant> rivalry_told;
  NodeHealth health;
};

// Free, in use, or removed and waiting for its last connection to end.
struct PoolSlot {
  std::string name;  // empty: free
  bool present = false;
  std::optional<Instant> excluded_at;  // when a table in which it is leaving was built
  PoolConfig config;
  bool answers_tls = false;  // a check has seen it, since the configuration says how to check
  size_t comparisons = 0;    // made while none had
  std::vector<PoolMember> members;  // in the order of their index
  std::vector<uint16_t> maglev;
  bool maglev_is_stale = true;
};

// Free, in use, or removed and waiting for its last connection to end.
struct ListenerSlot {
  std::string name;  // empty: free
  bool present = false;
  std::optional<Instant> excluded_at;  // when a table in which it is leaving was built
  ListenerView view;
};

// All that Apply works out before it changes anything.
struct Plan {
  std::unordered_map<std::string, PoolIndex> pools;  // by name; of new ones, the free slots that they get
  std::unordered_map<std::string, SocketAddress> nodes;
  std::vector<std::pair<ListenerIndex, ListenerView>> listeners;  // of new ones, the free slots that they get
};

}  // namespace

struct Cluster::Impl {
  explicit Impl(NodeTable* table) : counters(table) {}

  NodeTable* counters;
  ClusterConfig config;
  std::vector<NodeSlot> nodes;
  std::vector<PoolSlot> pools;
  std::vector<ListenerSlot> listeners;
  std::unordered_map<std::string, NodeIndex> by_name;       // in use or leaving
  std::unordered_map<std::string, PoolIndex> pool_by_name;  // in use, or removed and not free yet
  std::vector<NodeRef> gone;
  std::vector<PoolIndex> freed_pools;
  uint64_t claims_made = 0;
  std::vector<std::string> alarms;
  Instant last_tick = Instant::min();
  uint64_t version = 0;
  bool changed = true;

  NodeSlot& SlotOf(NodeIndex index) { return nodes[Raw(index)]; }
  NodeCounters& CountersOf(NodeIndex index) { return counters->node(index); }

  NodeIndex FindIndex(std::string_view name) const {
    const auto found = by_name.find(std::string(name));
    return found == by_name.end() ? NodeIndex::kNone : found->second;
  }

  std::optional<PoolIndex> FindPool(std::string_view name) const {
    const auto found = pool_by_name.find(std::string(name));
    if (found == pool_by_name.end() || !pools[Raw(found->second)].present) return std::nullopt;
    return found->second;
  }

  NodeLife::Rules RulesOf(const NodeSlot& slot) const {
    return {config.beacons.dead_after, config.fall, slot.is_static, slot.health_interval, slot.eject};
  }

  // Does `change` to a node's life, and notes whether a table would show it.
  template <typename Change>
  void ChangeLife(NodeIndex index, const Change& change) {
    NodeSlot& slot = SlotOf(index);
    const NodeVerdicts before = slot.life->verdicts();
    const Instant up_since = slot.life->up_since();
    const bool was_proven = slot.life->is_proven();
    change(*slot.life);
    changed |= before != slot.life->verdicts() || up_since != slot.life->up_since() || was_proven != slot.life->is_proven();
    if (slot.announced && !slot.life->has_agent()) {  // a static node goes on without it
      slot.announced = false;
      Enroll();
    }
    // A report that nobody renews says nothing of the load.
    if (slot.life->verdicts().agent != AgentVerdict::kAlive)
      CountersOf(index).reported_load.store(0, std::memory_order_relaxed);
  }

  NodeVerdicts VerdictsOf(const NodeSlot& slot) const {
    NodeVerdicts verdicts = slot.life->verdicts();
    verdicts.unknown = slot.health_interval.has_value() && !slot.life->is_proven();
    return verdicts;
  }

  bool IsMember(const PoolSlot& pool, NodeIndex node) const {
    return std::any_of(pool.members.begin(), pool.members.end(), [&](const PoolMember& m) { return m.node == node; });
  }

  // ---- Slots ------------------------------------------------------------------------------------------------------

  size_t FreeSlots() const {
    size_t used = 0;
    for (const NodeSlot& slot : nodes) used += !slot.name.empty();
    return limits::kMaxNodes - used;
  }

  // There must be a free slot.
  NodeIndex Allocate(const std::string& name, Instant now) {
    size_t i = 0;
    while (i < nodes.size() && !nodes[i].name.empty()) ++i;
    HUD_CHECK(i < limits::kMaxNodes);
    if (i == nodes.size()) nodes.emplace_back();
    const uint16_t generation = nodes[i].generation;
    nodes[i] = NodeSlot();
    nodes[i].name = name;
    nodes[i].generation = static_cast<uint16_t>(generation + 1);
    const auto index = static_cast<NodeIndex>(i);
    CountersOf(index).Reset();
    nodes[i].life.emplace(now, static_cast<uint32_t>(i), &CountersOf(index));
    by_name.emplace(name, index);
    changed = true;
    return index;
  }

  void Free(NodeIndex index) {
    NodeSlot& slot = SlotOf(index);
    gone.push_back({index, slot.generation});
    by_name.erase(slot.name);
    const uint16_t generation = slot.generation;
    slot = NodeSlot();
    slot.generation = generation;
    changed = true;
  }

  bool IsAnnouncedSomewhere(const NodeSlot& slot) const {
    return slot.announced && std::any_of(slot.announced_pools.begin(), slot.announced_pools.end(),
                                         [&](const std::string& pool) { return FindPool(pool).has_value(); });
  }

  // Brings address, membership and leaving up to date with what the configuration and the agent say of a node.
  void Settle(NodeIndex index, const SocketAddress* static_address, Instant now) {
    NodeSlot& slot = SlotOf(index);
    slot.is_static = static_address != nullptr;
    const bool leaves = !slot.is_static && !IsAnnouncedSomewhere(slot);
    if (leaves != slot.leaving) {
      slot.leaving = leaves;
      slot.excluded_at.reset();
      changed = true;
    }
    const SocketAddress& address = static_address != nullptr ? *static_address : slot.announced_address;
    if (leaves || address == slot.address) return;
    const bool had_one = slot.address.family() != AF_UNSPEC;
    slot.address = address;
    changed = true;
    if (had_one) ChangeLife(index, [&](NodeLife& life) { life.OnNewAddress(now); });
  }

  // The members of every pool from what configuration and agents say. The configuration's weight wins.
  void Enroll() {
    std::vector<std::vector<PoolMember>> members(pools.size());
    std::vector<std::optional<Ejection::Rules>> rules(nodes.size());
    for (NodeSlot& slot : nodes) slot.health_interval.reset();
    for (size_t i = 0; i < pools.size(); ++i) {
      if (!pools[i].present) continue;
      for (const NodeConfig& node : pools[i].config.nodes) {
        const NodeIndex index = FindIndex(node.name);
        members[i].push_back({index, node.weight});
        if (pools[i].config.check == NodeCheck::kOff) continue;
        std::optional<Duration>& interval = SlotOf(index).health_interval;
        interval = std::min(interval.value_or(Duration::max()), pools[i].config.health_interval);
      }
    }
    for (size_t n = 0; n < nodes.size(); ++n) {
      if (nodes[n].name.empty() || nodes[n].leaving || !nodes[n].announced) continue;
      for (const std::string& pool : nodes[n].announced_pools) {
        const std::optional<PoolIndex> index = FindPool(pool);
        if (!index) continue;
        members[Raw(*index)].push_back({static_cast<NodeIndex>(n), nodes[n].announced_weight});
      }
    }
    for (size_t i = 0; i < pools.size(); ++i) {
      SetMembers(pools[i], std::move(members[i]));
      for (const PoolMember& member : pools[i].members) {
        const EjectConfig& eject = pools[i].config.eject;
        std::optional<Ejection::Rules>& known = rules[Raw(member.node)];
        if (!known) known = Ejection::Rules{eject.after, eject.mute, eject.time};
        known->after = eject.share > 0 ? std::min(known->after, eject.after) : 0;
        known->mute = std::min(known->mute, eject.mute);
        known->time = std::min(known->time, eject.time);
      }
    }
    for (size_t n = 0; n < nodes.size(); ++n) nodes[n].eject = rules[n].value_or(Ejection::Rules());
  }

  void SetMembers(PoolSlot& pool, std::vector<PoolMember> members) {
    // Stable: of two entries of a node the first stays, which is the configuration's.
    std::stable_sort(members.begin(), members.end(),
                     [](const PoolMember& a, const PoolMember& b) { return a.node < b.node; });
    const auto same = [](const PoolMember& a, const PoolMember& b) { return a.node == b.node; };
    members.erase(std::unique(members.begin(), members.end(), same), members.end());
    if (members == pool.members) return;
    pool.members = std::move(members);
    pool.maglev_is_stale = true;
    changed = true;
  }

  // ---- Apply ------------------------------------------------------------------------------------------------------

  absl::StatusOr<Plan> PlanFor(const ClusterConfig& next) const {
    Plan plan;
    if (absl::Status status = PlanPools(next, &plan); !status.ok()) return status;
    if (absl::Status status = PlanNodes(next, &plan); !status.ok()) return status;
    if (absl::Status status = PlanListeners(next, &plan); !status.ok()) return status;
    return plan;
  }

  absl::Status PlanPools(const ClusterConfig& next, Plan* plan) const {
    if (next.pools.size() > limits::kMaxPools) {
      return absl::ResourceExhaustedError(absl::StrCat(next.pools.size(), " pools; at most ", limits::kMaxPools));
    }
    size_t free = 0;
    for (const PoolConfig& pool : next.pools) {
      if (pool.name.empty()) return Invalid("a pool without a name");
      const auto known = pool_by_name.find(pool.name);
      if (known == pool_by_name.end()) {
        while (free < pools.size() && !pools[free].name.empty()) ++free;
        if (free == limits::kMaxPoolSlots) return NoPlaceFor("pool", pool.name);
      }
      const PoolIndex index = known != pool_by_name.end() ? known->second : static_cast<PoolIndex>(free++);
      if (!plan->pools.emplace(pool.name, index).second) return Invalid("two pools are named '", pool.name, "'; rename one");
    }
    return absl::OkStatus();
  }

  static absl::Status NoPlaceFor(const char* kind, const std::string& name) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there is no place for ", kind, " '", name, "': too many ", kind, "s that reloads have removed still have connections, or ",
                     "were removed less than ", kQuarantine / std::chrono::seconds(1), " seconds ago; reload again later"));
  }

  absl::Status PlanNodes(const ClusterConfig& next, Plan* plan) const {
    size_t added = 0;
    for (const PoolConfig& pool : next.pools) {
      std::unordered_map<std::string, bool> seen;
      for (const NodeConfig& node : pool.nodes) {
        if (node.name.empty()) return Invalid("pool '", pool.name, "': a node without a name");
        if (!seen.emplace(node.name, true).second) {
          return Invalid("pool '", pool.name, "': two nodes are named '", node.name, "'; rename one");
        }
        if (node.weight > limits::kMaxWeight) return Invalid("node '", node.name, "': a weight is at most ", limits::kMaxWeight);
        if (node.address.family() == AF_UNSPEC) return Invalid("node '", node.name, "' has no address");
        const auto [known, is_new] = plan->nodes.emplace(node.name, node.address);
        if (!is_new && !(known->second == node.address)) {
          return Invalid("node '", node.name, "' has two addresses, ", known->second.ToString(), " and ",
                         node.address.ToString(), "; one server, one name");
        }
        added += is_new && by_name.count(node.name) == 0;
      }
    }
    if (added <= FreeSlots()) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat("too many nodes: there is room for ", limits::kMaxNodes, ", ",
                                                     FreeSlots(), " are free, and this adds ", added));
  }

  absl::Status PlanListeners(const ClusterConfig& next, Plan* plan) const {
    std::unordered_map<std::string, bool> seen;
    size_t free = 0;
    if (next.listeners.size() > limits::kMaxListeners) return Invalid("more than ", limits::kMaxListeners, " listeners");
    for (const ListenerConfig& listener : next.listeners) {
      if (listener.name.empty()) return Invalid("a listener without a name");
      if (!seen.emplace(listener.name, true).second) {
        return Invalid("two listeners are named '", listener.name, "'; rename one");
      }
      std::optional<ListenerIndex> index = FindListener(listener.name);
      if (!index) {
        while (free < listeners.size() && !listeners[free].name.empty()) ++free;
        if (free == limits::kMaxListenerSlots) return NoPlaceFor("listener", listener.name);
        index = static_cast<ListenerIndex>(free++);
      }
      absl::StatusOr<ListenerView> view = ViewOf(listener, plan->pools);
      if (!view.ok()) return view.status();
      plan->listeners.emplace_back(*index, *std::move(view));
    }
    return absl::OkStatus();
  }

  // In use, or removed and not free yet.
  std::optional<ListenerIndex> FindListener(std::string_view name) const {
    const auto slot = std::find_if(listeners.begin(), listeners.end(), [&](const ListenerSlot& s) { return s.name == name; });
    if (slot == listeners.end()) return std::nullopt;
    return static_cast<ListenerIndex>(slot - listeners.begin());
  }

  static absl::StatusOr<ListenerView> ViewOf(const ListenerConfig& listener,
                                             const std::unordered_map<std::string, PoolIndex>& pools) {
    ListenerView view;
    view.name = listener.name;
    view.hello_deadline = listener.hello_deadline;
    view.hello_max_bytes = listener.hello_max_bytes;
    view.accept_proxy_protocol = listener.accept_proxy_protocol;
    for (size_t i = 0; i < listener.routes.size(); ++i) {
      const RouteConfig& route = listener.routes[i];
      const auto pool = pools.find(route.pool);
      if (pool == pools.end()) {
        return Invalid("listener '", listener.name, "', route ", i + 1, ": there is no pool '", route.pool, "'");
      }
      for (const std::string& sni : route.sni) {
        const absl::Status status = view.router.Add(sni, route.alpn, pool->second, static_cast<uint16_t>(i));
        if (!status.ok()) return Invalid("listener '", listener.name, "': ", status.message());
      }
    }
    if (listener.default_pool.empty()) return view;
    const auto pool = pools.find(listener.default_pool);
    if (pool == pools.end()) {
      return Invalid("listener '", listener.name, "': there is no pool '", listener.default_pool, "'");
    }
    view.default_pool = pool->second;
    return view;
  }

  // From here on nothing can fail.
  void Commit(const ClusterConfig& next, Plan plan, Instant now) {
    changed |= !(next == config);
    config = next;
    for (PoolSlot& pool : pools) pool.present = false;
    for (const PoolConfig& pool : config.pools) {
      PoolSlot& slot = PresentPool(pool.name, plan.pools.at(pool.name));
      slot.maglev_is_stale |= slot.config.balance != pool.balance;
      slot.answers_tls &= slot.config.check == pool.check;
      slot.config = pool;
      for (const NodeConfig& node : pool.nodes) {
        if (FindIndex(node.name) == NodeIndex::kNone) Allocate(node.name, now);
      }
    }
    for (size_t i = 0; i < nodes.size(); ++i) {
      if (nodes[i].name.empty()) continue;
      const auto address = plan.nodes.find(nodes[i].name);
      Settle(static_cast<NodeIndex>(i), address == plan.nodes.end() ? nullptr : &address->second, now);
    }
    Enroll();
    CommitListeners(std::move(plan.listeners));
  }

  // Of a new pool the slot is free, or behind the last one so far.
  PoolSlot& PresentPool(const std::string& name, PoolIndex index) {
    if (pools.size() <= Raw(index)) pools.resize(Raw(index) + 1);
    PoolSlot& slot = pools[Raw(index)];
    if (slot.name.empty()) {
      slot.name = name;
      pool_by_name.emplace(name, index);
      counters->pool(index).Reset();
    }
    slot.present = true;
    slot.excluded_at.reset();
    return slot;
  }

  // Of a new listener the slot is free, or behind the last one so far. One that was removed before has served who had connected by
  // then: from now on it knows no pool, for their slots may go to others.
  void CommitListeners(std::vector<std::pair<ListenerIndex, ListenerView>> views) {
    for (ListenerSlot& slot : listeners) {
      if (!std::exchange(slot.present, false)) slot.view = ListenerView{.name = slot.name};
    }
    for (auto& [index, view] : views) {
      if (listeners.size() <= Raw(index)) listeners.resize(Raw(index) + 1);
      listeners[Raw(index)] = ListenerSlot{.name = view.name, .present = true, .view = std::move(view)};
    }
  }

  // ---- Beacons ----------------------------------------------------------------------------------------------------

  absl::Status OnReport(const BeaconEvent& event, Instant now) {
    const NodeReport& report = event.report;
    NodeIndex index = FindIndex(event.node);
    if (absl::Status status = CheckReport(event.node, report, index); !status.ok()) return status;
    if (index == NodeIndex::kNone) index = Allocate(event.node, now);
    NodeSlot& slot = SlotOf(index);
    const bool reenroll = !slot.announced || slot.leaving || slot.announced_pools != report.pools ||
                          slot.announced_weight != report.weight;
    slot.announced = true;
    slot.announced_address = report.address;
    slot.announced_pools = report.pools;
    slot.announced_weight = report.weight;
    slot.health = report.health;
    SetPrefixes(slot, report.prefixes);
    changed |= std::exchange(slot.ticket_group, event.ticket_group) != event.ticket_group;
    const SocketAddress static_address = slot.address;
    Settle(index, slot.is_static ? &static_address : nullptr, now);
    ChangeLife(index, [&](NodeLife& life) { life.OnReport(event.epoch, report.health.ready, now); });
    if (slot.life->verdicts().agent == AgentVerdict::kAlive) {
      CountersOf(index).reported_load.store(report.health.load_permille, std::memory_order_relaxed);
    }
    if (reenroll) Enroll();
    return absl::OkStatus();
  }

  absl::Status CheckReport(const std::string& name, const NodeReport& report, NodeIndex index) {
    if (report.weight > limits::kMaxWeight)
      return Invalid("node '", name, "' announces a weight of ", report.weight, "; at most ", limits::kMaxWeight);
    if (report.prefixes.size() > limits::kMaxPrefixesPerNode) {
      return Invalid("node '", name, "' announces ", report.prefixes.size(), " prefixes; at most ",
                     limits::kMaxPrefixesPerNode);
    }
    if (index != NodeIndex::kNone && SlotOf(index).is_static) return absl::OkStatus();
    if (report.address.family() == AF_UNSPEC) return Invalid("node '", name, "' announces no address");
    const bool some = std::any_of(report.pools.begin(), report.pools.end(),
                                  [&](const std::string& pool) { return FindPool(pool).has_value(); });
    if (!some) {
      return absl::NotFoundError(
          absl::StrCat("node '", name, "' announces itself for ",
                       report.pools.empty() ? "no pool" : absl::StrCat("pool '", report.pools.front(), "'"),
                       ", which this configuration does not have; add the pool, or correct the agent's"));
    }
    if (index != NodeIndex::kNone || FreeSlots() > 0) return absl::OkStatus();
    DropLongestDead();
    return absl::ResourceExhaustedError(
        absl::StrCat("no room for node '", name, "': the table holds ", limits::kMaxNodes, " nodes"));
  }

  void SetPrefixes(NodeSlot& slot, std::vector<TicketPrefix> prefixes) {
    std::sort(prefixes.begin(), prefixes.end(), Less);
    prefixes.erase(std::unique(prefixes.begin(), prefixes.end()), prefixes.end());
    const bool same = std::equal(prefixes.begin(), prefixes.end(), slot.prefixes.begin(), slot.prefixes.end(),
                                 [](const TicketPrefix& prefix, const PrefixClaim& claim) { return prefix == claim.prefix; });
    if (same) return;
    std::vector<PrefixClaim> claims;
    for (const TicketPrefix& prefix : prefixes) {
      const auto before = std::find_if(slot.prefixes.begin(), slot.prefixes.end(),
                                       [&](const PrefixClaim& claim) { return claim.prefix == prefix; });
      claims.push_back({prefix, before != slot.prefixes.end() ? before->order : ++claims_made});
    }
    slot.prefixes = std::move(claims);
    changed = true;
  }

  // ---- Time -------------------------------------------------------------------------------------------------------

  void Tick(Instant now, Duration paused, Duration doubt) {
    last_tick = now;
    bool dropped = false;
    for (size_t i = 0; i < nodes.size(); ++i) {
      const auto index = static_cast<NodeIndex>(i);
      NodeSlot& slot = nodes[i];
      if (slot.name.empty()) continue;
      if (slot.leaving) {
        if (slot.excluded_at) *slot.excluded_at += paused;  // the workers were stopped, too
        if (MayBeFreed(slot.excluded_at, CountersOf(index).active, now)) Free(index);
        continue;
      }
      const NodeLife::Rules rules = RulesOf(slot);
      ChangeLife(index, [&](NodeLife& life) { life.Tick(rules, now, paused, doubt); });
      if (!slot.is_static && slot.life->IsForgettable(now)) dropped |= Drop(index, now);
    }
    if (dropped) Enroll();
    Eject(now);
    FreePools(now, paused);
    for (ListenerSlot& slot : listeners) {
      if (slot.excluded_at) *slot.excluded_at += paused;
    }
  }

  // Whoever counts the connections of listeners asks, and frees those that have none.
  std::vector<ListenerIndex> ListenersLeaving(Instant now) const {
    std::vector<ListenerIndex> leaving;
    for (size_t i = 0; i < listeners.size(); ++i) {
      const std::optional<Instant>& excluded_at = listeners[i].excluded_at;
      if (excluded_at && now - *excluded_at >= kQuarantine) leaving.push_back(static_cast<ListenerIndex>(i));
    }
    return leaving;
  }

  void FreeListener(ListenerIndex index) {
    HUD_CHECK(listeners[Raw(index)].excluded_at.has_value());
    listeners[Raw(index)] = ListenerSlot();
    changed = true;  // it lost its name
  }

  // Of those that do not answer the worst first, as many as their pools allow.
  void Eject(Instant now) {
    std::vector<std::pair<uint32_t, NodeIndex>> due;
    for (size_t i = 0; i < nodes.size(); ++i) {
      const NodeSlot& slot = nodes[i];
      if (slot.name.empty() || slot.leaving || !slot.life->IsEjectionDue(RulesOf(slot), now)) continue;
      const auto index = static_cast<NodeIndex>(i);
      due.emplace_back(CountersOf(index).unanswered.load(std::memory_order_relaxed), index);
    }
    std::stable_sort(due.begin(), due.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    for (const auto& [unanswered, index] : due) {
      if (!MayBeEjected(index)) continue;
      const NodeLife::Rules rules = RulesOf(SlotOf(index));
      ChangeLife(index, [&](NodeLife& life) { life.Eject(rules, now); });
    }
  }

  // Where no node ever answered a check, that one does not is no evidence.
  bool MayBeEjected(NodeIndex index) const {
    return IsSpare(index) &&
           std::all_of(pools.begin(), pools.end(), [&](const PoolSlot& pool) { return !IsMember(pool, index) || pool.answers_tls; });
  }

  bool IsSpare(NodeIndex index) const {
    return std::all_of(pools.begin(), pools.end(),
                       [&](const PoolSlot& pool) { return !IsMember(pool, index) || CanSpareOne(pool); });
  }

  bool CanSpareOne(const PoolSlot& pool) const {
    size_t usable = 0, out = 0;
    for (const PoolMember& member : pool.members) {
      const NodeVerdicts& verdicts = nodes[Raw(member.node)].life->verdicts();
      usable += verdicts.Usable();
      out += verdicts.Usable() && verdicts.ejected;
    }
    return static_cast<double>(out + 1) <= pool.config.eject.share * static_cast<double>(usable) && out + 1 < usable;
  }

  // ---- Checks -----------------------------------------------------------------------------------------------------

  // What its life has just taken.
  Cluster::ProbeOrder OrderCheck(NodeIndex index) const {
    const NodeSlot& slot = nodes[Raw(index)];
    Cluster::ProbeOrder order{.node = {index, slot.generation}, .address = slot.address};
    const bool asks = slot.life->asks();
    for (const PoolSlot& pool : pools) {
      if (!IsMember(pool, index) || (pool.config.check == NodeCheck::kOff && !asks)) continue;
      const bool learns = pool.config.check == NodeCheck::kAuto && !pool.answers_tls;
      const bool connects = pool.config.check == NodeCheck::kConnect;
      order.check = asks ? NodeCheck::kTls : learns ? NodeCheck::kAuto : connects ? NodeCheck::kConnect : NodeCheck::kTls;
      order.proxy_header = pool.config.proxy_protocol == ProxyProtocol::kV2;
      order.server_name = NameFor(pool.name);
      if (asks) order.answer_within = slot.eject.mute;
      break;
    }
    return order;
  }

  std::vector<Cluster::ProbeOrder> TakeProbes(Instant now) {
    std::vector<Cluster::ProbeOrder> orders;
    std::vector<bool> suspected(nodes.size());
    for (size_t i = 0; i < nodes.size(); ++i) {
      NodeSlot& slot = nodes[i];
      if (slot.name.empty() || slot.leaving) continue;
      NodeLife::Rules rules = RulesOf(slot);
      suspected[i] = slot.life->IsSuspected(rules) && IsSpare(static_cast<NodeIndex>(i));
      if (!suspected[i]) rules.eject.after = 0;  // one that could not be spared is not asked either
      if (!slot.life->TakeProbe(rules, now)) continue;
      orders.push_back(OrderCheck(static_cast<NodeIndex>(i)));
    }
    for (PoolSlot& pool : pools) {
      if (!pool.answers_tls) TakeComparison(pool, suspected, now, &orders);
    }
    return orders;
  }

  // One of those that nobody suspects, in turn, as long as some are suspected.
  void TakeComparison(PoolSlot& pool, const std::vector<bool>& suspected, Instant now, std::vector<Cluster::ProbeOrder>* orders) {
    const bool any_suspected = std::any_of(pool.members.begin(), pool.members.end(),
                                           [&](const PoolMember& member) { return suspected[Raw(member.node)]; });
    if (!any_suspected) return;
    std::vector<NodeIndex> others;
    for (const PoolMember& member : pool.members) {
      const NodeVerdicts& verdicts = SlotOf(member.node).life->verdicts();
      if (verdicts.Usable() && !verdicts.ejected && !suspected[Raw(member.node)]) others.push_back(member.node);
    }
    if (others.empty()) return;
    const NodeIndex index = others[pool.comparisons % others.size()];
    if (!SlotOf(index).life->TakeComparison(now)) return;
    ++pool.comparisons;
    orders->push_back(OrderCheck(index));
    orders->back().check = NodeCheck::kAuto;
  }

  // The first name of a route to the pool that a client could send.
  std::string NameFor(const std::string& pool) const {
    for (const ListenerConfig& listener : config.listeners) {
      for (const RouteConfig& route : listener.routes) {
        if (route.pool != pool) continue;
        for (const std::string& name : route.sni) {
          if (!name.starts_with("*") && name.find(':') == name.npos && (name.back() < '0' || name.back() > '9')) return name;
        }
      }
    }
    return {};
  }

  void NoteTls(NodeIndex index) {
    for (PoolSlot& pool : pools) pool.answers_tls |= IsMember(pool, index);
  }

  void FreePools(Instant now, Duration paused) {
    for (size_t i = 0; i < pools.size(); ++i) {
      PoolSlot& slot = pools[i];
      if (!slot.excluded_at) continue;
      *slot.excluded_at += paused;
      const auto index = static_cast<PoolIndex>(i);
      if (!MayBeFreed(slot.excluded_at, counters->pool(index).active, now)) continue;
      pool_by_name.erase(slot.name);
      slot = PoolSlot();
      freed_pools.push_back(index);
      changed = true;  // it lost its name
    }
  }

  static bool MayBeFreed(const std::optional<Instant>& excluded_at, const std::atomic<int32_t>& active, Instant now) {
    return excluded_at && now - *excluded_at >= kQuarantine && active.load(std::memory_order_acquire) <= 0;
  }

  // An announced node that nobody announces any more.
  bool Drop(NodeIndex index, Instant now) {
    SlotOf(index).announced = false;
    Settle(index, nullptr, now);
    return true;
  }

  // A slot that is about to be free is room enough: its turn comes with the next Ticks.
  bool WillHaveRoom() const {
    for (size_t i = 0; i < nodes.size(); ++i) {
      if (!nodes[i].leaving) continue;
      if (counters->node(static_cast<NodeIndex>(i)).active.load(std::memory_order_relaxed) <= 0) return true;
    }
    return false;
  }

  // What the operator has taken out stays known: a node that came back without his verdict would get connections.
  void DropLongestDead() {
    if (WillHaveRoom()) return;
    NodeIndex longest = NodeIndex::kNone;
    for (size_t i = 0; i < nodes.size(); ++i) {
      const NodeSlot& slot = nodes[i];
      if (slot.name.empty() || slot.is_static || slot.leaving || !slot.life->dead_since()) continue;
      if (slot.life->verdicts().by_operator != OperatorVerdict::kOn) continue;
      const auto index = static_cast<NodeIndex>(i);
      if (longest == NodeIndex::kNone || *slot.life->dead_since() < *SlotOf(longest).life->dead_since())
        longest = index;
    }
    if (longest == NodeIndex::kNone) return;
    Drop(longest, last_tick);
    Enroll();
  }

  // ---- Build ------------------------------------------------------------------------------------------------------

  std::unique_ptr<const RouteTable> Build(Instant now) {
    auto table = std::make_unique<RouteTable>();
    table->version = ++version;
    table->timeouts = config.timeouts;
    table->fall = config.fall;
    table->dial_attempts = config.dial_attempts;
    for (size_t i = 0; i < nodes.size(); ++i) {
      NodeSlot& slot = nodes[i];
      NodeView& view = table->nodes.emplace_back();
      view.generation = slot.generation;
      if (slot.name.empty()) continue;
      view.name = slot.name;
      view.address = slot.address;
      view.verdicts = VerdictsOf(slot);
      view.up_since = slot.life->up_since();
      if (slot.leaving && !slot.excluded_at) slot.excluded_at = now;
    }
    table->prefixes = PrefixStore(OwnedPrefixes(now));
    for (PoolSlot& pool : pools) {
      if (!pool.name.empty() && !pool.present && !pool.excluded_at) pool.excluded_at = now;
      table->pools.push_back(ViewOf(pool));
    }
    for (ListenerSlot& listener : listeners) {
      if (!listener.name.empty() && !listener.present && !listener.excluded_at) listener.excluded_at = now;
      table->listeners.push_back(listener.view);
    }
    changed = false;
    return table;
  }

  std::vector<PrefixStore::Entry> OwnedPrefixes(Instant now) {
    PrefixClaims claims;
    std::unordered_map<std::string, PrefixClaims::Party> parties;
    std::vector<PrefixClaims::Party> party_of(nodes.size());
    for (size_t i = 0; i < nodes.size(); ++i) {
      const NodeSlot& slot = nodes[i];
      if (slot.name.empty() || slot.leaving) continue;
      const std::string party = slot.ticket_group.empty() ? slot.name : absl::StrCat("=", slot.ticket_group);
      party_of[i] = parties.try_emplace(party, parties.size()).first->second;
      const AgentVerdict agent = slot.life->verdicts().agent;
      if (agent == AgentVerdict::kDead || agent == AgentVerdict::kDying) continue;  // keeps nobody from anything
      for (const PrefixClaim& claim : slot.prefixes) claims.Add(claim.prefix, party_of[i], NodeIndex(i), claim.order);
    }
    std::vector<PrefixStore::Entry> owned;
    for (size_t i = 0; i < nodes.size(); ++i) {
      NodeSlot& slot = nodes[i];
      if (slot.name.empty() || slot.leaving) continue;
      for (const PrefixClaim& claim : slot.prefixes) {
        const NodeIndex rival = claims.RivalOf(claim.prefix, party_of[i], claim.order);
        if (rival == NodeIndex::kNone) owned.push_back({claim.prefix, NodeIndex(i)});
        if (rival != NodeIndex::kNone) TellRivalry(slot, SlotOf(rival), now);
      }
    }
    return owned;
  }

  void TellRivalry(NodeSlot& slot, const NodeSlot& first, Instant now) {
    if (slot.rivalry_told && now - *slot.rivalry_told < kSameRivalryAgain) return;
    slot.rivalry_told = now;
    alarms.push_back(absl::StrCat("node ", slot.name, ": its agent announces ticket prefixes that node ", first.name,
                                  " announced first, and gets no clients by them while that one lives. If their servers share ",
                                  "ticket keys, write the same tickets=GROUP into both lines of the keys file"));
  }

  PoolView ViewOf(PoolSlot& pool) {
    PoolView view;
    view.name = pool.name;
    view.leaving = !pool.name.empty() && !pool.present;
    if (!pool.present) return view;
    view.balance = pool.config.balance;
    view.when_none = pool.config.when_none;
    view.proxy_protocol = pool.config.proxy_protocol;
    view.load_bound = pool.config.load_bound;
    view.load_bound_floor = pool.config.load_bound_floor;
    view.slow_start = pool.config.slow_start;
    view.mute_after = pool.config.eject.mute;
    view.members = pool.members;
    if (pool.maglev_is_stale) {
      pool.maglev = pool.config.balance == Balance::kMaglev ? MaglevOf(pool) : std::vector<uint16_t>();
      pool.maglev_is_stale = false;
    }
    view.maglev = pool.maglev;
    return view;
  }

  std::vector<uint16_t> MaglevOf(const PoolSlot& pool) {
    std::vector<MaglevMember> members;
    for (const PoolMember& member : pool.members) members.push_back({SlotOf(member.node).name, member.weight});
    return BuildMaglev(members);
  }

  void check_invariants() const {
    HUD_CHECK(nodes.size() <= limits::kMaxNodes && pools.size() <= limits::kMaxPoolSlots);
    size_t used = 0;
    for (size_t i = 0; i < nodes.size(); ++i) {
      const NodeSlot& slot = nodes[i];
      HUD_CHECK(slot.name.empty() == !slot.life.has_value());
      if (slot.name.empty()) continue;
      ++used;
      HUD_CHECK(FindIndex(slot.name) == static_cast<NodeIndex>(i));
      HUD_CHECK(slot.address.family() != AF_UNSPEC);
      HUD_CHECK(slot.prefixes.size() <= limits::kMaxPrefixesPerNode);
      HUD_CHECK(!slot.leaving || !slot.is_static);
      HUD_CHECK(slot.leaving || slot.is_static || IsAnnouncedSomewhere(slot));
      HUD_CHECK(!slot.announced || slot.life->has_agent());
      slot.life->check_invariants();
    }
    HUD_CHECK(used == by_name.size());
    HUD_CHECK(std::count_if(pools.begin(), pools.end(), [](const PoolSlot& pool) { return !pool.name.empty(); }) ==
              static_cast<ptrdiff_t>(pool_by_name.size()));
    for (const auto& [name, index] : pool_by_name) HUD_CHECK(pools[Raw(index)].name == name);
    for (const ListenerSlot& listener : listeners) {
      HUD_CHECK(listener.view.name == listener.name);
      HUD_CHECK(!listener.present || (!listener.name.empty() && !listener.excluded_at));
    }
    for (const PoolSlot& pool : pools) {
      HUD_CHECK(pool.present || pool.members.empty());
      HUD_CHECK(!pool.present || (!pool.name.empty() && !pool.excluded_at));
      for (size_t i = 0; i < pool.members.size(); ++i) {
        const NodeSlot& slot = nodes[Raw(pool.members[i].node)];
        HUD_CHECK(!slot.name.empty() && !slot.leaving);
        HUD_CHECK(i == 0 || pool.members[i - 1].node < pool.members[i].node);
      }
      HUD_CHECK(pool.maglev_is_stale || pool.maglev.empty() || pool.config.balance == Balance::kMaglev);
    }
  }
};

// ---- The door -------------------------------------------------------------------------------------------------------

Cluster::Cluster(NodeTable* counters) : impl_(std::make_unique<Impl>(counters)) {}
Cluster::~Cluster() = default;

absl::Status Cluster::Apply(const ClusterConfig& config, Instant now) {
  absl::StatusOr<Plan> plan = impl_->PlanFor(config);
  if (!plan.ok()) return plan.status();
  impl_->Commit(config, *std::move(plan), now);
  return absl::OkStatus();
}

absl::Status Cluster::OnBeacon(const BeaconEvent& event, Instant now) {
  if (event.kind == BeaconEvent::Kind::kAlive || event.kind == BeaconEvent::Kind::kStillHere) {
    return impl_->OnReport(event, now);
  }
  const NodeIndex index = impl_->FindIndex(event.node);
  if (index == NodeIndex::kNone) {
    return absl::NotFoundError(absl::StrCat("node '", event.node, "' is not known; its next report may introduce it"));
  }
  impl_->ChangeLife(index, [&](NodeLife& life) {
    if (event.kind == BeaconEvent::Kind::kDying) {
      life.OnDying(event.epoch, now);
    } else {
      life.OnHeard(now);
    }
  });
  return absl::OkStatus();
}

NodeRef Cluster::Find(std::string_view node) const {
  const NodeIndex index = impl_->FindIndex(node);
  return index == NodeIndex::kNone ? NodeRef{} : NodeRef{index, impl_->nodes[Raw(index)].generation};
}

void Cluster::OnProbe(NodeRef node, ProbeEnd end, Instant now) {
  if (Raw(node.index) >= impl_->nodes.size()) return;
  const NodeSlot& slot = impl_->SlotOf(node.index);
  if (slot.name.empty() || slot.generation != node.generation) return;
  const NodeLife::Rules rules = impl_->RulesOf(slot);
  if (end == ProbeEnd::kTls) impl_->NoteTls(node.index);
  impl_->ChangeLife(node.index, [&](NodeLife& life) { life.OnProbe(end, rules, now); });
}

absl::Status Cluster::SetOperatorVerdict(std::string_view node, OperatorVerdict verdict, Instant now) {
  const NodeIndex index = impl_->FindIndex(node);
  if (index == NodeIndex::kNone || impl_->SlotOf(index).leaving) {
    return absl::NotFoundError(absl::StrCat("there is no node '", std::string(node), "'"));
  }
  impl_->ChangeLife(index, [&](NodeLife& life) { life.SetOperatorVerdict(verdict, now); });
  return absl::OkStatus();
}

void Cluster::Tick(Instant now, Duration paused, Duration doubt) { impl_->Tick(now, paused, doubt); }

std::vector<Cluster::ProbeOrder> Cluster::TakeProbes(Instant now) { return impl_->TakeProbes(now); }

Instant Cluster::NextDeadline() const {
  Instant next = Instant::max();
  for (const PoolSlot& pool : impl_->pools) {
    if (pool.excluded_at) next = std::min(next, impl_->last_tick == Instant::min() ? Instant::min() : impl_->last_tick + kTickEvery);
  }
  for (const ListenerSlot& listener : impl_->listeners) {
    if (listener.excluded_at) next = std::min(next, impl_->last_tick == Instant::min() ? Instant::min() : impl_->last_tick + kTickEvery);
  }
  for (const NodeSlot& slot : impl_->nodes) {
    if (slot.name.empty()) continue;
    if (impl_->last_tick == Instant::min()) return Instant::min();
    next = std::min(next, impl_->last_tick + kTickEvery);
    if (!slot.leaving) next = std::min(next, slot.life->NextDeadline(impl_->RulesOf(slot), impl_->last_tick));
  }
  return next;
}

std::vector<std::string> Cluster::TakeAlarms() { return std::exchange(impl_->alarms, {}); }

std::optional<ListenerIndex> Cluster::FindListener(std::string_view name) const { return impl_->FindListener(name); }
std::vector<ListenerIndex> Cluster::ListenersLeaving(Instant now) const { return impl_->ListenersLeaving(now); }
void Cluster::FreeListener(ListenerIndex listener) { impl_->FreeListener(listener); }
std::vector<PoolIndex> Cluster::TakeFreedPools() { return std::exchange(impl_->freed_pools, {}); }

std::vector<NodeRef> Cluster::TakeGone() { return std::exchange(impl_->gone, {}); }

bool Cluster::changed() const { return impl_->changed; }
std::unique_ptr<const RouteTable> Cluster::Build(Instant now) { return impl_->Build(now); }

std::vector<Cluster::NodeStatus> Cluster::StatusOf(PoolIndex pool) const {
  std::vector<NodeStatus> list;
  if (Raw(pool) >= impl_->pools.size()) return list;
  for (const PoolMember& member : impl_->pools[Raw(pool)].members) {
    const NodeSlot& slot = impl_->nodes[Raw(member.node)];
    list.push_back({slot.name,
                    {member.node, slot.generation},
                    slot.address,
                    member.weight,
                    slot.is_static,
                    impl_->VerdictsOf(slot),
                    slot.health,
                    slot.life->has_agent(),
                    slot.life->last_heard(),
                    slot.prefixes.size()});
  }
  return list;
}

std::vector<Cluster::LeavingNode> Cluster::Leaving() const {
  std::vector<LeavingNode> list;
  for (size_t i = 0; i < impl_->nodes.size(); ++i) {
    const NodeSlot& slot = impl_->nodes[i];
    if (!slot.leaving) continue;
    list.push_back({slot.name, {static_cast<NodeIndex>(i), slot.generation}, slot.address});
  }
  return list;
}

const ClusterConfig& Cluster::config() const { return impl_->config; }
std::optional<PoolIndex> Cluster::FindPool(std::string_view name) const { return impl_->FindPool(name); }
void Cluster::check_invariants() const { impl_->check_invariants(); }

}  // namespace hud
