// The ClientHello that opens each connection of hud-load: valid, shaped like a browser's of TLS 1.3, in one record.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/types.h"
#include "perf/load/order.h"

namespace hud::load {

struct HelloShape {
  std::string server_name = "load.example.com";
  size_t bytes = 0;         // of the record with its header; 0: 517, or as many as it takes
  bool offers_psk = false;  // a pre_shared_key at the end, whose one identity is a ticket that nobody issued
};

inline constexpr size_t kUsualHelloBytes = 517;
inline constexpr size_t kTicketBytes = 192;

// Built once. What differs between connections is written into it in place.
class HelloTemplate {
 public:
  // An error says how many bytes the hello takes when `shape.bytes` are too few or too many.
  static absl::StatusOr<HelloTemplate> Build(const HelloShape& shape);

  // The hello with `order`, and with a session id, a nonce and a ticket that depend on `seed` alone: the same seed
  // gives the same bytes, so that nobody has to keep a hello of which only a part could be sent. Valid until the next
  // call.
  Bytes For(const Order& order, uint64_t seed);
  size_t size() const { return bytes_.size(); }

 private:
  explicit HelloTemplate(std::vector<uint8_t> bytes, bool offers_psk)
      : bytes_(std::move(bytes)), offers_psk_(offers_psk) {}

  std::vector<uint8_t> bytes_;
  bool offers_psk_;
};

}  // namespace hud::load
