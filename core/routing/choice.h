// The decisions of one connection: which pool, which node, which other node when the connect failed, and why.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "core/affinity/affinity_map.h"
#include "core/affinity/token_lookup.h"
#include "core/routing/node_table.h"
#include "core/routing/route_table.h"
#include "core/tls/client_hello.h"

namespace hud {

struct RouteChoice {
  PoolIndex pool = PoolIndex::kNone;  // none: answer with the unrecognized_name alert and close
  uint16_t route = 0xffff;            // 0xffff: the listener's default pool
};
// `hello` is null when there is no parsable ClientHello: the default pool, or none. `hello_bytes`: what it was read from.
RouteChoice ChooseRoute(const ListenerView& listener, const ClientHello* hello, Bytes hello_bytes);

enum class ChoiceReason : uint8_t {
  kNone,           // no usable node
  kExactToken,     // the affinity map knew the owner
  kTicketPrefix,   // a prefix named the owner
  kBalance,        // nothing offered, or nothing known
  kOwnerDown,      // an owner was known but is not usable; by balance
  kOwnerOverBound, // an owner was known but is at its load bound; by balance
  kRetry,          // the connect to the first choice failed, and no other owner is known; by balance
  kAny,            // no usable node, and the pool says `when_none: any`
};
inline constexpr size_t kChoiceReasonCount = static_cast<size_t>(ChoiceReason::kAny) + 1;
std::string_view ChoiceReasonName(ChoiceReason reason);  // "exact_token", "ticket_prefix", …

struct NodeChoice {
  NodeRef node;
  ChoiceReason reason = ChoiceReason::kNone;
  TokenKind offered = TokenKind::kNone;  // a PSK, a non-empty ticket, or a session id that is known or that the client did not make up
};

struct ChoiceContext {
  const RouteTable& table;
  const AffinityMap& affinity;
  NodeTable& counters;
  Instant now;
  uint64_t random;         // fresh for each call
  uint64_t client_hash = 0;  // of the client's address, for maglev; all 64 bits well mixed
};

// `tried`: nodes to which this connection already failed to connect; at most kMaxDialAttempts.
// Changes nothing but the pool's round-robin turn: `active` and all counting are the caller's, when it dials.
//
// A node is usable when its three verdicts are good, it is not ejected, and fewer than `fall` connects in a row have failed to it.
// An owner is used when it is a usable member of the pool and one more connection keeps it within
//   max(load_bound_floor, load_bound × its share of the active connections of the pool's usable members),
// its share being by weight (slow start counted); a client can choose its token, so a token never overrides this: what an
// owner has no room for goes, by balance, to a member that is within its own bound.
// An ejected node is an owner no more than one that is down, and gets by balance what no other usable node can take.
// A silent owner is used, after the others of its prefix: that its agent is gone does not take its keys away.
NodeChoice ChooseNode(const ChoiceContext& context, PoolIndex pool, const ClientHello* hello,
                      std::span<const NodeIndex> tried);

}  // namespace hud
