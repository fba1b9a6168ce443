// Chooses a node, connects to it with the first bytes behind, and tries another where the connect failed: for whoever goes to a
// pool. Only a failed connect leads to another node: once one has succeeded, the first bytes may be with that node, and early data
// with them, so no other may ever see them.
#pragma once

#include <array>
#include <utility>

#include "core/base/limits.h"
#include "core/base/random.h"
#include "core/net/address.h"
#include "core/report/close_reason.h"
#include "core/report/worker_counters.h"
#include "core/routing/choice.h"
#include "ring/loop/ring_loop.h"
#include "ring/pass_through/routing_state.h"

namespace hud {

// Of one way to a node, until it is connected.
struct DialState {
  SocketAddress address;        // the kernel reads it when the connect is submitted; the table may be gone by then
  Instant began{};
  Instant deadline{};           // of all attempts to connect
  Instant attempt_deadline{};   // of this one
  NodeChoice choice;
  bool counted_active = false;  // in NodeCounters::active of choice.node
  bool chosen_anew = false;     // whoever keeps the node's name takes it now, from the table of this turn
  bool attempt_timed_out = false;
  bool local_error = false;
  bool shortage = false;        // of something that comes back, met in this round of attempts
  bool waits = false;           // for it to pass
  uint8_t shortages = 0;        // rounds that met one
  uint8_t dials = 0;            // connects so far; in the tags of the last one
  uint8_t attempts = 0;         // nodes tried in this round
  std::array<NodeIndex, limits::kMaxDialAttempts> tried{};

  // In the tags of a connect and the send behind it. Never 0, so that neither is taken for another send.
  uint8_t number() const { return static_cast<uint8_t>(dials % 255 + 1); }
};

class Dialer {
 public:
  struct Wish {
    PoolIndex pool;
    const ClientHello* hello;   // null: nothing is known of what the client offers
    uint64_t client_hash;       // for maglev
    Bytes first_bytes;          // stay until the connect is over
  };
  enum class Step : uint8_t {
    kConnecting,   // OnTimer() is wanted at `look_at`
    kLasting,      // the same, and it takes so long that it is worth watching the client
    kPausing,      // likewise: something of ours is short, and all is tried anew at `look_at`
    kConnected,    // `sent`: the result of the send behind the connect. What counts as active is the caller's to release from now on
    kFailed,       // `why`; the node's descriptor is closed
    kNothing,      // no news: a straggler, or an attempt whose time is over and whose completion will tell
  };
  struct Outcome {
    Step step;
    Instant look_at{};
    int sent = 0;
    CloseReason why{};
  };

  Dialer(RingLoop& loop, const RoutingState& routing, WorkerCounters& counters, SplitMix64& random)
      : loop_(loop), routing_(routing), counters_(counters), random_(random) {}

  void SetTable(const RouteTable& table) { table_ = &table; }  // of this turn

  // `node` has no descriptor yet; of `base`, a tag of it, operation and number are not looked at. All may throw std::bad_alloc: the
  // caller closes and releases then.
  Outcome Begin(DialState& dial, Endpoint& node, Tag base, const Wish& wish);
  Outcome OnCompletion(DialState& dial, Endpoint& node, Tag tag, const Completion& completion, const Wish& wish);
  Outcome OnTimer(DialState& dial, Endpoint& node, Tag base, const Wish& wish);

  // Is it a completion of a connect or of the send behind it?
  static bool IsDials(Tag tag) { return tag.op == Op::kConnect || (tag.op == Op::kSend && tag.number != 0); }
  // Of the one that is under way? Then both of its halves are settled.
  bool Settle(const DialState& dial, Endpoint& node, Tag tag, const Completion& completion);
  void Cancel(const DialState& dial, const Endpoint& node, Tag base);
  // It is no longer counted in NodeCounters::active.
  void Release(DialState& dial) {
    if (std::exchange(dial.counted_active, false)) Release(dial.choice);
  }
  void Release(const NodeChoice& choice) { routing_.nodes->node(choice.node.index).active.fetch_sub(1, std::memory_order_relaxed); }

 private:
  Outcome Next(DialState& dial, Endpoint& node, Tag base, const Wish& wish);
  bool Choose(DialState& dial, const Wish& wish);
  Outcome Connect(DialState& dial, Endpoint& node, Tag base, const Wish& wish, uint32_t allowed);
  void Failed(DialState& dial, Endpoint& node, int error);
  Outcome NoMoreNodes(DialState& dial, const Wish& wish);

  RingLoop& loop_;
  const RoutingState routing_;
  WorkerCounters& counters_;
  SplitMix64& random_;
  const RouteTable* table_ = nullptr;
};

}  // namespace hud
