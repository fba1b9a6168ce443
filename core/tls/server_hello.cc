#include "core/tls/server_hello.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/base/byte_reader.h"
#include "core/tls/tls_record.h"

namespace hud {
namespace {

// A ServerHello with this random is a HelloRetryRequest (RFC 8446 section 4.1.3): SHA-256 of that word.
constexpr std::array<uint8_t, tls::kRandomBytes> kHelloRetryRandom = {
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c};

enum class Found : uint8_t { kNeedMore, kHandshake, kChangeCipherSpec, kAlert, kNothing };

// The server's handshake bytes, freed of their records, as far as they are there.
// Change-cipher-spec and alert records stand between handshake records, never inside a message.
class HandshakeStream {
 public:
  explicit HandshakeStream(Bytes input) : input_(input) {}

  // What comes next: some handshake bytes, or another record, which is then taken whole into `payload`.
  Found Next(Bytes& payload) {
    if (handshake_left_ > 0) return input_.empty() ? Found::kNeedMore : Found::kHandshake;
    if (!input_.empty() && (input_[0] < tls::kChangeCipherSpec || input_[0] > tls::kHandshake)) return Found::kNothing;
    if (input_.size() > 1 && input_[1] != tls::kMajorVersion) return Found::kNothing;
    if (input_.size() < tls::kRecordHeaderBytes) return Found::kNeedMore;
    const uint8_t type = input_[0];
    const size_t length = size_t{input_[3]} << 8 | input_[4];
    if (length == 0 || length > tls::kMaxRecordPayload) return Found::kNothing;
    const Bytes rest = input_.subspan(tls::kRecordHeaderBytes);
    if (type == tls::kHandshake) {
      input_ = rest;
      handshake_left_ = length;
      return Next(payload);
    }
    if (rest.size() < length) return Found::kNeedMore;
    payload = rest.first(length);
    input_ = rest.subspan(length);
    return type == tls::kAlert ? Found::kAlert : Found::kChangeCipherSpec;
  }

  // The next `count` (not 0) handshake bytes, in one piece: where they lie, or copied to `scratch` when records split
  // them. Records of another type among them are kNothing.
  Found Take(size_t count, uint8_t* scratch, Bytes& bytes) {
    Bytes unused;
    for (size_t taken = 0; taken < count;) {
      const Found next = Next(unused);
      if (next != Found::kHandshake) return next == Found::kNeedMore ? next : Found::kNothing;
      const size_t part = std::min({count - taken, handshake_left_, input_.size()});
      if (part == count) {
        bytes = input_.first(part);
        Advance(part);
        return Found::kHandshake;
      }
      std::memcpy(scratch + taken, input_.data(), part);
      Advance(part);
      taken += part;
    }
    bytes = {scratch, count};
    return Found::kHandshake;
  }

  uint8_t Peek() const { return input_[0]; }  // after Next has said kHandshake

 private:
  void Advance(size_t count) {
    input_ = input_.subspan(count);
    handshake_left_ -= count;
  }

  Bytes input_;
  size_t handshake_left_ = 0;  // of the record at whose payload input_ stands
};

struct ServerHello {
  bool hello_retry = false;
  bool accepts_psk = false;
};

// legacy_version(2) random(32) session_id<0..32> cipher_suite(2) compression_method(1) extensions<0..2^16-1>
bool ReadServerHello(Bytes body, ServerHello& server, ServerHelloFacts& facts) {
  ByteReader reader(body);
  Bytes random, session_id;
  if (!reader.Skip(2) || !reader.Take(tls::kRandomBytes, random)) return false;
  if (!reader.Vector8(session_id) || session_id.size() > tls::kMaxSessionIdBytes || !reader.Skip(3)) return false;
  server.hello_retry = std::equal(random.begin(), random.end(), kHelloRetryRandom.begin());
  facts.session_id.full_length = facts.session_id.head_length = static_cast<uint8_t>(session_id.size());
  std::copy(session_id.begin(), session_id.end(), facts.session_id.head.begin());

  Bytes list;
  if (!reader.empty() && !reader.LastVector16(list)) return false;
  for (ByteReader extensions(list); !extensions.empty();) {
    uint16_t type = 0, version = 0;
    Bytes data;
    if (!extensions.U16(type) || !extensions.Vector16(data)) return false;
    if (type == tls::kSupportedVersions) facts.tls13 = ByteReader(data).U16(version) && version == tls::kTls13;
    if (type == tls::kPreSharedKey) server.accepts_psk = true;
    if (type == tls::kSessionTicket) facts.issues_ticket = true;
  }
  return true;
}

bool SameBytes(Bytes a, Bytes b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

// RFC 5077 section 3.4: without a session id to echo, the server shows it by leaving out its certificate.
ResumptionVerdict ReadShortHandshake(HandshakeStream stream) {
  Bytes unused;
  switch (stream.Next(unused)) {
    case Found::kNeedMore:
      return ResumptionVerdict::kNeedMore;
    case Found::kChangeCipherSpec:
      return ResumptionVerdict::kResumed;
    case Found::kHandshake:
      return stream.Peek() == tls::kNewSessionTicket ? ResumptionVerdict::kResumed : ResumptionVerdict::kFull;
    default:
      return ResumptionVerdict::kUnknown;
  }
}

ResumptionVerdict Judge(const ServerHello& server, const ClientHello& hello, const ServerHelloFacts& facts,
                        const HandshakeStream& behind) {
  if (facts.tls13) {
    if (!server.accepts_psk) return ResumptionVerdict::kFull;
    return hello.has_psk ? ResumptionVerdict::kResumed : ResumptionVerdict::kUnknown;
  }
  if (hello.session_id.full_length != 0) {
    const bool echoed = SameBytes(facts.session_id.head_bytes(), hello.session_id.head_bytes());
    return echoed ? ResumptionVerdict::kResumed : ResumptionVerdict::kFull;
  }
  return hello.has_ticket ? ReadShortHandshake(behind) : ResumptionVerdict::kFull;
}

// A warning is not the end: some servers say "unrecognized name" and then go on.
bool EndsHandshake(Bytes alert) {
  return alert.size() != 2 || alert[0] != tls::kWarning || alert[1] == tls::kCloseNotify;
}

ResumptionVerdict Read(HandshakeStream stream, const ClientHello& hello, ServerHelloFacts& facts) {
  uint8_t scratch[kMaxServerHelloBytes];  // not zeroed, and touched only when records split a message
  while (true) {
    Bytes bytes;
    const Found next = stream.Next(bytes);
    if (next == Found::kNeedMore) return ResumptionVerdict::kNeedMore;
    if (next == Found::kAlert && !EndsHandshake(bytes)) continue;
    if (next == Found::kChangeCipherSpec && facts.hello_retry) continue;  // middlebox compatibility, RFC 8446 D.4
    if (next != Found::kHandshake || stream.Peek() != tls::kServerHello) return ResumptionVerdict::kUnknown;

    Found taken = stream.Take(tls::kHandshakeHeaderBytes, scratch, bytes);
    if (taken == Found::kHandshake) {
      const size_t length = size_t{bytes[1]} << 16 | size_t{bytes[2]} << 8 | bytes[3];
      if (length == 0 || length > kMaxServerHelloBytes) return ResumptionVerdict::kUnknown;
      taken = stream.Take(length, scratch, bytes);
    }
    if (taken != Found::kHandshake) {
      return taken == Found::kNeedMore ? ResumptionVerdict::kNeedMore : ResumptionVerdict::kUnknown;
    }

    ServerHello server;
    const bool retried = facts.hello_retry;
    facts = {};
    facts.hello_retry = retried;
    if (!ReadServerHello(bytes, server, facts)) return ResumptionVerdict::kUnknown;
    if (!server.hello_retry) return Judge(server, hello, facts, stream);
    if (retried) return ResumptionVerdict::kUnknown;  // a second retry is against the rules
    facts.hello_retry = true;
  }
}

}  // namespace

ResumptionVerdict ReadResumption(Bytes prefix, const ClientHello& hello, ServerHelloFacts& facts) {
  facts = {};
  const ResumptionVerdict verdict =
      Read(HandshakeStream(prefix.first(std::min(prefix.size(), kMaxServerHelloBytes))), hello, facts);
  const bool given_up = verdict == ResumptionVerdict::kNeedMore && prefix.size() >= kMaxServerHelloBytes;
  return given_up ? ResumptionVerdict::kUnknown : verdict;
}

std::string_view ResumptionName(ResumptionVerdict verdict) {
  switch (verdict) {
    case ResumptionVerdict::kResumed: return "yes";
    case ResumptionVerdict::kFull: return "no";
    case ResumptionVerdict::kNeedMore:
    case ResumptionVerdict::kUnknown: return "unknown";
  }
  return "unknown";
}

}  // namespace hud
