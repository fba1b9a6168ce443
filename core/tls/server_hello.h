// Did the server accept the offered resumption? Read from its first bytes, in clear in TLS 1.2 and 1.3.
// TLS 1.3 (RFC 8446 4.1.3, 4.2.11): the ServerHello (after a HelloRetryRequest, the second one) has pre_shared_key.
// TLS 1.2 (RFC 5246 7.4.1.3, RFC 5077 3.4): the non-empty session id of the client is echoed; a client that offers a
// ticket without a session id learns it from what follows the ServerHello (a Certificate, or the end of a short
// handshake).
#pragma once

#include <string_view>

#include "core/base/types.h"
#include "core/tls/client_hello.h"

namespace hud {

enum class ResumptionVerdict : uint8_t {
  kNeedMore,  // give me more of the server's bytes
  kResumed,
  kFull,     // a full handshake
  kUnknown,  // an alert that ends it, not TLS, against the rules, or past kMaxServerHelloBytes: nothing can be said
};
std::string_view ResumptionName(ResumptionVerdict verdict);  // "yes", "no", "unknown"

inline constexpr size_t kMaxServerHelloBytes = 16 * 1024;

struct ServerHelloFacts {
  bool tls13 = false;
  bool hello_retry = false;    // a HelloRetryRequest came first
  OfferedToken session_id;     // as chosen by the server
  bool issues_ticket = false;  // TLS 1.2: empty session_ticket extension in the ServerHello
};

// `prefix`: the server's bytes from the first one on. Stateless, like ParseClientHello. `hello`: what the client
// offered. `facts` is meaningful only after kResumed and kFull.
ResumptionVerdict ReadResumption(Bytes prefix, const ClientHello& hello, ServerHelloFacts& facts);

}  // namespace hud
