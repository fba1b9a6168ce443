// One client's connection through the proxy: its relay, and what was decided about it before.
//
//   kHello → kDialing → kRelaying → kTerminating → free          kHello → kRejecting → kTerminating (TLS alert sent)
//
// A connection is a plain record; PassThrough acts on it, and Relay while it relays.
// What only some of its life needs is apart and freed again, because an idle relay is what a worker has most of:
// HelloContext until the resumption verdict has been read, HeldBytes while a direction is in bulk or its sink is slow.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/admission/loop_guard.h"
#include "core/net/address.h"
#include "core/report/close_reason.h"
#include "core/routing/choice.h"
#include "core/tls/client_hello.h"
#include "core/tls/server_hello.h"
#include "ring/pass_through/dialer.h"
#include "ring/relay/relay_state.h"

namespace hud {

enum class ConnectionState : uint8_t { kFree, kHello, kDialing, kRelaying, kRejecting, kTerminating };

// What is needed only until the resumption verdict has been read; freed then.
struct HelloContext {
  ClientHello hello;
  PrivateBytes bytes;                // received and not yet sent to a node
  bool parsed = false;               // `hello` holds a complete ClientHello
  bool proxy_header_taken = false;
  uint16_t header_bytes = 0;         // of `bytes`, the PROXY header for the node in front of what the client sent
  SocketAddress proxied_client;      // as a PROXY header says; AF_UNSPEC without one
  SocketAddress proxied_local;       // what that client connected to
  DialState dial;
  std::vector<uint8_t> server_bytes; // the node's first bytes, while they are too few for a verdict
};

// A node as the log names it. Its connections share it: the configuration may give the name another address, and the slot
// another node, while they live.
struct NodeLabel {
  std::string name;
  SocketAddress address;
  std::string address_text;
};

// What nothing but a connection's line in the log wants to know.
struct LogContext {
  uint64_t id = 0;
  InternetEndpoint balancer;              // that spoke for the client in a PROXY header
  std::shared_ptr<const NodeLabel> node;  // dialed last
  std::unique_ptr<char[]> server_name;    // ends with a zero byte
};

// As a record keeps them: up to 71 minutes.
inline uint32_t Microseconds(Duration d) {
  return static_cast<uint32_t>(std::min<int64_t>(d / std::chrono::microseconds(1), UINT32_MAX));
}

struct Connection : RelayState {
  ConnectionState state = ConnectionState::kFree;
  CloseReason close_reason = CloseReason::kDone;
  uint8_t attempts = 0;                  // to connect to a node
  bool counted_active : 1 = false;       // in NodeCounters::active of choice.node
  bool joined : 1 = false;               // relaying with choice.node has begun
  bool verdict_pending : 1 = false;
  bool answer_judged : 1 = false;        // the node has said something, or is known not to answer
  bool counted_in_pool : 1 = false;      // in PoolCounters::active of route.pool
  bool tls13 : 1 = false, early_data : 1 = false, ech : 1 = false;
  std::unique_ptr<HelloContext> context;

  // What was decided, and what the log will say.
  ListenerIndex listener{};
  RouteChoice route;
  NodeChoice choice;
  HelloVerdict hello_verdict = HelloVerdict::kNeedMore;
  NotTlsKind not_tls = NotTlsKind::kNone;
  HelloFlaw hello_flaw = HelloFlaw::kNone;
  ResumptionVerdict resumption = ResumptionVerdict::kUnknown;
  InternetEndpoint client_address;        // of the socket, or as a PROXY header says
  uint32_t token_digest = 0;
  uint32_t loop_cell = LoopGuard::kNone;  // that it is counted in
  uint32_t hello_microseconds = 0;
  uint32_t connect_microseconds = 0;
  Instant accepted_at{};
  std::unique_ptr<LogContext> log;       // null when connections are not logged
};

// The memory of an idle relay is this and its LogContext, and nothing else of ours.
static_assert(sizeof(Connection) <= 208);

}  // namespace hud
