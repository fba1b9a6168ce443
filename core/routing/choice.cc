#include "core/routing/choice.h"

#include <algorithm>
#include <array>
#include <optional>

#include "core/base/check.h"
#include "core/base/random.h"
#include "core/routing/balance.h"

namespace hud {

namespace {

// Slots of a Maglev table that a client tries before the members that are left are drawn from by weight.
constexpr size_t kMaglevWalk = 256;

// Over the usable members: the connections of those that are down are no measure of what the others should carry.
struct PoolSums {
  uint64_t weight = 0;
  int64_t active = 0;
  size_t usable = 0;
};

// One choice in one pool. Reads the route table and the shared counters; keeps nothing.
class Chooser {
 public:
  Chooser(const ChoiceContext& context, const PoolView& pool, PoolIndex index, std::span<const NodeIndex> tried)
      : context_(context), pool_(pool), index_(index), tried_(tried) {}

  NodeChoice Choose(const ClientHello* hello) {
    NodeChoice choice;
    if (hello != nullptr) {
      choice.node = FindOwner(*hello, choice);
      if (choice.node) return choice;
    }
    // A connection that its owner has no room for must not reach it by the balance either, while others are within theirs.
    bounded_ = owner_problem_ == ChoiceReason::kOwnerOverBound;
    choice.node = ByBalance();
    if (!choice.node && bounded_) {
      bounded_ = false;
      choice.node = ByBalance();
    }
    if (!choice.node) choice.node = Pick(Rank::kEjected);
    if (choice.node) {
      choice.reason = !tried_.empty() ? ChoiceReason::kRetry : owner_problem_;
    } else if (pool_.when_none == WhenNone::kAny) {
      choice.node = AnyNode();
      choice.reason = choice.node ? ChoiceReason::kAny : ChoiceReason::kNone;
    }
    return choice;
  }

 private:
  // In which order the balance turns to nodes.
  enum class Rank : uint8_t { kFirst, kSilent, kEjected };
  Rank RankOf(NodeIndex node) const {
    const NodeVerdicts& verdicts = ViewOf(node).verdicts;
    return verdicts.ejected ? Rank::kEjected : verdicts.Silent() ? Rank::kSilent : Rank::kFirst;
  }

  const NodeView& ViewOf(NodeIndex node) const { return context_.table.nodes[Raw(node)]; }
  NodeRef RefOf(NodeIndex node) const { return {node, ViewOf(node).generation}; }
  int32_t ActiveOf(NodeIndex node) const {
    return std::max(0, context_.counters.node(node).active.load(std::memory_order_relaxed));
  }
  uint32_t WeightOf(const PoolMember& member) const {
    return EffectiveWeight(member.weight, ViewOf(member.node).up_since, context_.now, pool_.slow_start);
  }
  bool IsTried(NodeIndex node) const { return std::find(tried_.begin(), tried_.end(), node) != tried_.end(); }

  bool IsUsable(NodeIndex node) const { return !ViewOf(node).verdicts.ejected && IsReachable(node); }

  bool IsReachable(NodeIndex node) const {
    if (!ViewOf(node).verdicts.Usable()) return false;
    // Workers see failures before the control thread has judged them.
    const uint32_t fall = context_.table.fall;
    return fall == 0 || context_.counters.node(node).connect_failures.load(std::memory_order_relaxed) < fall;
  }

  // ---- By token -----------------------------------------------------------------------------------------------------

  // Tokens in their order (core/affinity/token_lookup.h); the first that has an owner that can take it wins. Says in `choice` why,
  // and what was offered; remembers why a known owner could not be used.
  NodeRef FindOwner(const ClientHello& hello, NodeChoice& choice) {
    const TokenCandidates candidates = CandidatesOf(hello);
    for (uint8_t i = 0; i < candidates.count; ++i) {
      const TokenCandidate& candidate = candidates.items[i];
      if (candidate.certain) choice.offered = candidate.kind;
      if (const NodeRef owner = candidate.exact ? FindExact(*candidate.token) : NodeRef{}) {
        choice.offered = candidate.kind;
        if (const NodeRef node = BestOwner({&owner.index, 1})) {
          choice.reason = ChoiceReason::kExactToken;
          return node;
        }
      }
      if (!candidate.prefix) continue;
      if (const NodeRef node = FindByPrefix(*candidate.token)) {
        choice.reason = ChoiceReason::kTicketPrefix;
        return node;
      }
    }
    return {};
  }

  // An owner whose slot has since gone to another node is no owner.
  NodeRef FindExact(const OfferedToken& token) const {
    const NodeRef owner = context_.affinity.Find(token.head_bytes());
    if (!owner || Raw(owner.index) >= context_.table.nodes.size() || RefOf(owner.index) != owner) return {};
    return owner;
  }

  NodeRef FindByPrefix(const OfferedToken& token) {
    size_t length = limits::kMaxTokenBytes + 1;
    while (true) {
      const auto owners = context_.table.prefixes.FindShorterThan(token.head_bytes(), length, &length);
      if (owners.empty()) return {};
      if (const NodeRef node = BestOwner(owners)) return node;
    }
  }

  // Of the pool's members among `owners`, which are in the order of their index: the least loaded that can take one more,
  // silent ones last.
  NodeRef BestOwner(std::span<const NodeIndex> owners) {
    const PoolMember* best = nullptr;
    uint64_t ties = 0;
    for (const PoolMember& member : pool_.members) {
      if (!std::binary_search(owners.begin(), owners.end(), member.node) || !CanTakeOwned(member)) continue;
      if (best != nullptr && IsBetterOwner(*best, member)) continue;
      ties = best != nullptr && !IsBetterOwner(member, *best) ? ties + 1 : 0;
      // Each of n equal ones with probability 1/n.
      if (ties == 0 || Mix64(context_.random + ties) % (ties + 1) == 0) best = &member;
    }
    return best != nullptr ? RefOf(best->node) : NodeRef{};
  }

  bool CanTakeOwned(const PoolMember& member) {
    if (!IsUsable(member.node)) {
      if (owner_problem_ == ChoiceReason::kBalance) owner_problem_ = ChoiceReason::kOwnerDown;
      return false;
    }
    if (IsTried(member.node)) return false;
    if (IsWithinBound(member)) return true;
    owner_problem_ = ChoiceReason::kOwnerOverBound;
    return false;
  }

  bool IsBetterOwner(const PoolMember& a, const PoolMember& b) {
    const bool a_silent = ViewOf(a.node).verdicts.Silent();
    if (a_silent != ViewOf(b.node).verdicts.Silent()) return !a_silent;
    return ActiveOf(a.node) * ShareOf(b) < ActiveOf(b.node) * ShareOf(a);
  }

  bool IsWithinBound(const PoolMember& member) {
    const double with_this = ActiveOf(member.node) + 1.0;
    if (with_this <= pool_.load_bound_floor) return true;  // spares the sum, most of the time
    return with_this <= pool_.load_bound * ShareOf(member) * (static_cast<double>(Sums().active) + 1.0);
  }

  // The part of the pool's connections that is this member's by weight. A member of weight 0 takes no new clients, but its
  // old ones come back to it: they are bounded as if it had the mean weight.
  double ShareOf(const PoolMember& member) {
    const PoolSums& sums = Sums();
    const uint32_t weight = WeightOf(member);
    if (weight == 0 || sums.weight == 0) return 1.0 / static_cast<double>(std::max<size_t>(1, sums.usable));
    return static_cast<double>(weight) / static_cast<double>(sums.weight);
  }

  const PoolSums& Sums() {
    if (!sums_) {
      sums_.emplace();
      for (const PoolMember& member : pool_.members) {
        if (!IsUsable(member.node)) continue;
        sums_->weight += WeightOf(member);
        sums_->active += ActiveOf(member.node);
        ++sums_->usable;
      }
    }
    return *sums_;
  }

  // ---- By balance ---------------------------------------------------------------------------------------------------

  // Members that are not silent, or else those that are.
  NodeRef ByBalance() {
    for (const Rank rank : {Rank::kFirst, Rank::kSilent}) {
      if (pool_.balance == Balance::kMaglev) {
        if (const NodeRef node = WalkMaglev(rank)) return node;
      }
      if (const NodeRef node = Pick(rank)) return node;
    }
    return {};
  }

  bool MayBalanceTo(const PoolMember& member, Rank rank) {
    return member.weight > 0 && RankOf(member.node) == rank && IsReachable(member.node) &&
           !IsTried(member.node) && (!bounded_ || IsWithinBound(member));
  }

  NodeRef Pick(Rank rank) {
    std::array<BalanceCandidate, limits::kMaxNodes> gathered;
    size_t count = 0;
    HUD_CHECK(pool_.members.size() <= gathered.size());
    for (const PoolMember& member : pool_.members) {
      if (!MayBalanceTo(member, rank)) continue;
      const uint32_t load = context_.counters.node(member.node).reported_load.load(std::memory_order_relaxed);
      gathered[count++] = {member.node, WeightOf(member), ActiveOf(member.node), load};
    }
    if (count == 0) return {};
    const std::span<const BalanceCandidate> candidates(gathered.data(), count);
    return RefOf(candidates[PickFrom(candidates)].node);
  }

  size_t PickFrom(std::span<const BalanceCandidate> candidates) const {
    switch (pool_.balance) {
      case Balance::kPowerOfTwo: return PickPowerOfTwo(candidates, context_.random);
      case Balance::kLeastConnections: return PickLeastConnections(candidates, context_.random);
      case Balance::kRoundRobin:
        return PickRoundRobin(candidates, context_.counters.pool(index_).round_robin.fetch_add(1, std::memory_order_relaxed));
      case Balance::kMaglev: return PickByWeight(candidates, context_.client_hash);  // the walk gave nothing
    }
    HUD_CHECK(false);
  }

  NodeRef WalkMaglev(Rank rank) {
    const std::vector<uint16_t>& table = pool_.maglev;
    if (table.empty()) return {};
    size_t slot = MaglevSlot(context_.client_hash, table.size());
    for (size_t step = 0; step < std::min(kMaglevWalk, table.size()); ++step) {
      HUD_CHECK(table[slot] < pool_.members.size());
      const PoolMember& member = pool_.members[table[slot]];
      if (MayBalanceTo(member, rank) && IsWarmFor(member)) return RefOf(member.node);
      if (++slot == table.size()) slot = 0;
    }
    return {};
  }

  // A member in its slow start takes a growing part of its clients, each of which stays once it has been taken.
  bool IsWarmFor(const PoolMember& member) const {
    const uint64_t grown = WeightOf(member);
    const uint64_t full = uint64_t{member.weight} * kWeightUnit;
    return grown == full || (Mix64(context_.client_hash + Raw(member.node)) >> 32) * full >> 32 < grown;
  }

  // `when_none: any`: what agents and connects say may be wrong; what the operator switched off stays off.
  NodeRef AnyNode() const {
    std::array<BalanceCandidate, limits::kMaxNodes> gathered;
    size_t count = 0;
    for (const PoolMember& member : pool_.members) {
      if (IsTried(member.node) || ViewOf(member.node).verdicts.by_operator == OperatorVerdict::kOff) continue;
      gathered[count++] = {member.node, std::max<uint32_t>(1, member.weight), 0, 0};
    }
    if (count == 0) return {};
    return RefOf(gathered[PickByWeight({gathered.data(), count}, context_.random)].node);
  }

  const ChoiceContext& context_;
  const PoolView& pool_;
  const PoolIndex index_;
  const std::span<const NodeIndex> tried_;
  std::optional<PoolSums> sums_;
  ChoiceReason owner_problem_ = ChoiceReason::kBalance;  // kBalance: no owner was known
  bool bounded_ = false;  // the balance keeps to the load bound too
};

}  // namespace

RouteChoice ChooseRoute(const ListenerView& listener, const ClientHello* hello, Bytes hello_bytes) {
  if (hello != nullptr && hello->server_name_length > 0) {
    const ServerNameRouter::Match match = listener.router.Find(*hello, hello_bytes);
    if (match.pool != PoolIndex::kNone) return {match.pool, match.route};
  }
  return {listener.default_pool, 0xffff};
}

NodeChoice ChooseNode(const ChoiceContext& context, PoolIndex pool, const ClientHello* hello,
                      std::span<const NodeIndex> tried) {
  // A route may outlive its pool by a batch: a pool that is gone has no members.
  if (Raw(pool) >= context.table.pools.size()) return {};
  return Chooser(context, context.table.pools[Raw(pool)], pool, tried).Choose(hello);
}

std::string_view ChoiceReasonName(ChoiceReason reason) {
  switch (reason) {
    case ChoiceReason::kNone: return "none";
    case ChoiceReason::kExactToken: return "exact_token";
    case ChoiceReason::kTicketPrefix: return "ticket_prefix";
    case ChoiceReason::kBalance: return "balance";
    case ChoiceReason::kOwnerDown: return "owner_down";
    case ChoiceReason::kOwnerOverBound: return "owner_over_bound";
    case ChoiceReason::kRetry: return "retry";
    case ChoiceReason::kAny: return "any";
  }
  HUD_CHECK(false);
}

}  // namespace hud
