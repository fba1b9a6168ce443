// OneCloseReason: every connection ends for exactly one of these, counted, logged, and shown by /status.
#pragma once

#include <cstdint>
#include <string_view>

namespace hud {

enum class CloseReason : uint8_t {
  kDone,               // both sides ended their streams
  kClientReset,
  kNodeReset,
  kClientGoneInHello,  // closed before a hello was complete
  kHelloTimeout,
  kHelloTooLarge,
  kUnrecognizedName,   // no route and no default pool
  kNoUsableNode,
  kConnectFailed,      // every node tried refused, or was unreachable
  kConnectTimeout,
  kClientGoneInDial,
  kIdleTimeout,
  kHalfClosedTimeout,
  kLocalError,         // ours: no port, no memory, no descriptor
  kOverLimit,          // max_connections, or the memory for hellos, and nobody who could make room
  kDrainDeadline,      // SIGTERM, and the time was up
  kProxyHeader,        // the listener expects a PROXY header and got something else
  kUntrustedPeer,      // the listener takes PROXY headers, and this peer is not one of those that it takes them from
  kMadeRoom,           // a limit was reached, and its source held most
  kSourceLimit,        // its source has max_connections_per_source already
  kLoop,               // the same hello came round again and again: a node's address leads back here
  kCount,
};
inline constexpr size_t kCloseReasonCount = static_cast<size_t>(CloseReason::kCount);

std::string_view CloseReasonName(CloseReason reason);  // "done", "client_reset", …

}  // namespace hud
