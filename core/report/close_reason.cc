#include "core/report/close_reason.h"

#include "core/base/check.h"

namespace hud {

std::string_view CloseReasonName(CloseReason reason) {
  switch (reason) {
    case CloseReason::kDone: return "done";
    case CloseReason::kClientReset: return "client_reset";
    case CloseReason::kNodeReset: return "node_reset";
    case CloseReason::kClientGoneInHello: return "client_gone_in_hello";
    case CloseReason::kHelloTimeout: return "hello_timeout";
    case CloseReason::kHelloTooLarge: return "hello_too_large";
    case CloseReason::kUnrecognizedName: return "unrecognized_name";
    case CloseReason::kNoUsableNode: return "no_usable_node";
    case CloseReason::kConnectFailed: return "connect_failed";
    case CloseReason::kConnectTimeout: return "connect_timeout";
    case CloseReason::kClientGoneInDial: return "client_gone_in_dial";
    case CloseReason::kIdleTimeout: return "idle_timeout";
    case CloseReason::kHalfClosedTimeout: return "half_closed_timeout";
    case CloseReason::kLocalError: return "local_error";
    case CloseReason::kOverLimit: return "over_limit";
    case CloseReason::kDrainDeadline: return "drain_deadline";
    case CloseReason::kProxyHeader: return "proxy_header";
    case CloseReason::kUntrustedPeer: return "untrusted_peer";
    case CloseReason::kMadeRoom: return "made_room";
    case CloseReason::kSourceLimit: return "source_limit";
    case CloseReason::kLoop: return "loop";
    case CloseReason::kCount: break;
  }
  HUD_CHECK(false);
}

}  // namespace hud
