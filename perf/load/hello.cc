#include "perf/load/hello.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/random.h"
#include "core/tls/tls_record.h"
#include "tests/unit/core/tls/hello_builder.h"

namespace hud::load {
namespace {

using namespace test;  // NOLINT: the builder's words are this file's language

constexpr size_t kSessionIdOffset = kHelloHeadBytes + 1;
constexpr size_t kSessionIdBytes = 32;
// The ticket's end, seen from the hello's: age(4), length of the binders(2), one binder(1 + 32).
constexpr size_t kBehindTicket = 4 + 2 + 1 + 32;

Buffer BrowserHello(const HelloShape& shape, size_t padding) {
  Buffer extensions = Extension(0x3a3a, {}) + ServerName(shape.server_name) + Extension(23, {}) +
                      Extension(0xff01, {0}) + Extension(10, Vector16({0x00, 0x1d, 0x00, 0x17, 0x00, 0x18})) +
                      Extension(11, {1, 0}) + Ticket({}) + Alpn({"h2", "http/1.1"}) +
                      Extension(13, Vector16({4, 3, 8, 4, 4, 1, 5, 3, 8, 5, 5, 1, 8, 6, 6, 1})) +
                      Extension(51, Vector16(U16(0x001d) + Vector16(Counting(32, 5)))) + Extension(45, {1, 1}) +
                      SupportedVersions({0x6a6a, 0x0304, 0x0303}) + Extension(21, Filled(padding, 0));
  if (shape.offers_psk) extensions = extensions + PreSharedKey({Filled(kTicketBytes, 0)});
  const HelloBody body = {
      .session_id = Filled(kSessionIdBytes, 0),
      .cipher_suites = {0x5a, 0x5a, 0x13, 1, 0x13, 2, 0x13, 3, 0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x2c, 0xc0, 0x30}};
  return Record(Hello(body, extensions));
}

// Splitmix64: a stream of numbers that depends on the seed alone.
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : numbers_(seed) {}
  void Fill(std::span<uint8_t> out) {
    for (size_t at = 0; at < out.size(); at += sizeof(uint64_t)) {
      const uint64_t number = numbers_.Next();
      std::memcpy(&out[at], &number, std::min(sizeof(number), out.size() - at));
    }
  }

 private:
  SplitMix64 numbers_;
};

}  // namespace

absl::StatusOr<HelloTemplate> HelloTemplate::Build(const HelloShape& shape) {
  constexpr size_t kLargest = tls::kRecordHeaderBytes + tls::kMaxRecordPayload;
  if (shape.server_name.empty() || shape.server_name.size() > limits::kMaxServerNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the server name has ", shape.server_name.size(),
                                                   " bytes; write 1 to ", limits::kMaxServerNameBytes));
  }
  const size_t least = BrowserHello(shape, 0).size();
  const size_t wanted = shape.bytes == 0 ? std::max(least, kUsualHelloBytes) : shape.bytes;
  if (wanted < least || wanted > kLargest) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a hello of ", wanted, " bytes is not possible; with this server name it takes ", least, " to ", kLargest));
  }
  return HelloTemplate(BrowserHello(shape, wanted - least), shape.offers_psk);
}

Bytes HelloTemplate::For(const Order& order, uint64_t seed) {
  Numbers numbers(seed);
  const std::span<uint8_t> hello(bytes_);
  const auto random = hello.subspan<kOrderOffset, kOrderBytes>();
  EncodeOrder(order, random);
  numbers.Fill(random.last<kOrderNonceBytes>());
  numbers.Fill(hello.subspan<kSessionIdOffset, kSessionIdBytes>());
  if (offers_psk_) numbers.Fill(hello.last(kBehindTicket + kTicketBytes).first(kTicketBytes));
  return bytes_;
}

}  // namespace hud::load
