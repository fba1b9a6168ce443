// What the client of hud-load asks of its server, in a place that a balancer passes on untouched and unread: the
// *random* of the ClientHello.
//   magic(8) operation(1) zero(3) request_bytes(4) response_bytes(4) nonce(12)
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "core/base/types.h"

namespace hud::load {

enum class Operation : uint8_t {
  kExchange = 1,  // a request is answered by a response, again and again
  kUpload = 2,    // the server discards what it gets
  kDownload = 3,  // the server sends without end
  kConnect = 4,   // one response to the hello, then the client ends the connection
  kIdle = 5,      // nothing more happens
  kProbe = 6,     // an exchange that the server answers ahead of all else, to tell what the proxy adds
  kStall = 7,     // the server sends the response and finishes, and the client reads nothing of it
};

// Of kStall: more than a reader's socket and a proxy's buffers take, so that some waits in the proxy for as long as nobody
// reads; and little enough that the server gets rid of it, so that its FIN is at the proxy as well.
inline constexpr uint32_t kStallBytes = 6 * 1024 * 1024;

constexpr bool IsExchange(Operation operation) {
  return operation == Operation::kExchange || operation == Operation::kProbe;
}

// The server answers every hello at once, so that the client knows that the connection reaches it: with
// `response_bytes` for kConnect, with its endless stream for kDownload, else with one byte.
struct Order {
  Operation operation = Operation::kExchange;
  uint32_t request_bytes = 0;
  uint32_t response_bytes = 0;
  bool operator==(const Order&) const = default;
};

// In the record, behind the headers of record (5) and handshake (4) and legacy_version (2).
inline constexpr size_t kOrderOffset = 11;
inline constexpr size_t kOrderBytes = 32;
inline constexpr size_t kOrderNonceBytes = 12;  // the last of them, different in each hello
inline constexpr size_t kHelloHeadBytes = kOrderOffset + kOrderBytes;
inline constexpr std::array<uint8_t, 8> kOrderMagic = {'h', 'u', 'd', '-', 'l', 'o', 'a', 'd'};

inline void WriteBigEndian32(uint32_t value, uint8_t* out) {
  for (int i = 0; i < 4; ++i) out[i] = static_cast<uint8_t>(value >> (24 - 8 * i));
}
inline uint32_t ReadBigEndian32(const uint8_t* in) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | in[i];
  return value;
}

// Leaves the nonce as it is.
inline void EncodeOrder(const Order& order, std::span<uint8_t, kOrderBytes> random) {
  std::copy(kOrderMagic.begin(), kOrderMagic.end(), random.begin());
  random[8] = static_cast<uint8_t>(order.operation);
  random[9] = random[10] = random[11] = 0;
  WriteBigEndian32(order.request_bytes, &random[12]);
  WriteBigEndian32(order.response_bytes, &random[16]);
}

// Nothing when the hello is not one of hud-load's.
inline std::optional<Order> DecodeOrder(std::span<const uint8_t, kOrderBytes> random) {
  if (!std::equal(kOrderMagic.begin(), kOrderMagic.end(), random.begin())) return std::nullopt;
  const uint8_t operation = random[8];
  if (operation < static_cast<uint8_t>(Operation::kExchange) || operation > static_cast<uint8_t>(Operation::kStall)) {
    return std::nullopt;
  }
  return Order{static_cast<Operation>(operation), ReadBigEndian32(&random[12]), ReadBigEndian32(&random[16])};
}

}  // namespace hud::load
