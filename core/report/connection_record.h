// What a worker says of a finished connection: one line of the access log. A plain value, queued to the control thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "core/base/limits.h"
#include "core/base/types.h"
#include "core/net/address.h"
#include "core/report/close_reason.h"
#include "core/routing/choice.h"
#include "core/tls/server_hello.h"

namespace hud {

// A text as a plain value; a longer one is cut.
template <size_t kMost>
class ShortText {
 public:
  void Set(std::string_view text) {
    length_ = static_cast<uint8_t>(std::min(text.size(), kMost));
    std::memcpy(bytes_.data(), text.data(), length_);
  }
  std::string_view view() const { return {bytes_.data(), length_}; }
  bool empty() const { return length_ == 0; }

 private:
  static_assert(kMost <= 255);
  std::array<char, kMost> bytes_{};
  uint8_t length_ = 0;
};
using ShortName = ShortText<limits::kMaxBeaconNameBytes>;

// Names are copies: by the time a record is read, what had them may be gone, and its slot another one's.
struct ConnectionRecord {
  uint64_t id = 0;              // of no other connection
  Instant accepted;             // when it was accepted
  Duration hello_time{};        // accept → hello complete
  Duration connect_time{};      // choice → connected
  Duration total_time{};
  InternetEndpoint client;      // of the socket, or as a PROXY header says
  InternetEndpoint balancer;    // whose PROXY header that was; none without one
  InternetEndpoint local;       // where the node saw it come from; none if never joined, or over a unix socket
  ShortText<limits::kMaxServerNameBytes> server_name;
  ShortName listener;
  ShortName pool;               // empty if none
  ShortName node;               // chosen last; empty if none
  ShortText<128> node_address;
  uint16_t route = 0xffff;
  ChoiceReason reason = ChoiceReason::kNone;
  TokenKind offered = TokenKind::kNone;
  uint32_t token_digest = 0;    // keyed; 0 if nothing was offered
  HelloVerdict hello = HelloVerdict::kNeedMore;
  NotTlsKind not_tls = NotTlsKind::kNone;
  HelloFlaw flaw = HelloFlaw::kNone;
  bool tls13 = false;           // offered by the client
  bool early_data = false;
  bool ech = false;
  ResumptionVerdict resumption = ResumptionVerdict::kUnknown;
  uint8_t attempts = 0;         // connects tried
  CloseReason close = CloseReason::kDone;
  uint64_t bytes_in = 0;        // client → node
  uint64_t bytes_out = 0;
};

}  // namespace hud
