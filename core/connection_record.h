// What a worker says of a finished connection: one line of the access log. A plain value, queued to the control thread.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "core/address.h"
#include "core/choice.h"
#include "core/close_reason.h"
#include "core/limits.h"
#include "core/server_hello.h"
#include "core/types.h"

namespace hud {

struct ConnectionRecord {
  Instant accepted;             // when it was accepted
  Duration hello_time{};        // accept → hello complete
  Duration connect_time{};      // choice → connected
  Duration total_time{};
  std::array<char, 108> client_bytes{};  // textual client address
  uint8_t client_length = 0;
  std::array<char, limits::kMaxServerNameBytes> server_name_bytes{};
  uint8_t server_name_length = 0;
  ListenerIndex listener{};
  uint16_t route = 0xffff;
  PoolIndex pool = PoolIndex::kNone;
  NodeRef node;                 // none if never joined
  std::array<char, 32> node_name_bytes{};  // cut to 32; the slot may have been reused by the time this is read
  uint8_t node_name_length = 0;
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

  std::string_view client() const { return {client_bytes.data(), client_length}; }
  std::string_view server_name() const { return {server_name_bytes.data(), server_name_length}; }
  std::string_view node_name() const { return {node_name_bytes.data(), node_name_length}; }
};

}  // namespace hud
