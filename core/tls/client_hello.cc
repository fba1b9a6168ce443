#include "core/tls/client_hello.h"

#include <algorithm>
#include <bitset>
#include <cstring>

#include "core/base/byte_reader.h"
#include "core/tls/tls_record.h"

namespace hud {
namespace {

// Where in the input the ClientHello message lies.
struct HelloExtent {
  size_t body_at = 0;      // meaningful when it is in one record
  size_t body_length = 0;  // without the handshake header
  size_t bytes_used = 0;   // records included
  bool in_one_record = false;
  HelloFlaw flaw = HelloFlaw::kNone;
};

void Note(HelloFlaw flaw, HelloFlaw& first) {
  if (first == HelloFlaw::kNone) first = flaw;
}

// The fewest bytes, record headers included, that can carry `count` bytes of a handshake message.
constexpr size_t FewestRecordBytes(size_t count) {
  const size_t records = (count + tls::kMaxRecordPayload - 1) / tls::kMaxRecordPayload;
  return count + records * tls::kRecordHeaderBytes;
}

// Walks the records up to the end of the message. Each answer but kNeedMore depends only on bytes up to where it is
// found, so that it stays the same whatever follows.
//
// Two rules of RFC 8446 section 5.1 are flaws when they are broken: a handshake fragment is not empty (before the first byte
// it is none, either: nothing has been said yet), and a ClientHello ends where its record ends.
HelloVerdict FindHello(Bytes input, size_t cap, HelloExtent& extent) {
  uint8_t handshake_header[tls::kHandshakeHeaderBytes];
  size_t header_bytes = 0;  // of handshake_header that are filled
  size_t missing = 0;       // bytes of the body that no record seen so far carries
  for (size_t at = 0;;) {
    const Bytes rest = input.subspan(at);
    const HelloVerdict not_a_record = at == 0 ? HelloVerdict::kNotTls : HelloVerdict::kMalformed;
    if (rest.size() > 0 && rest[0] != tls::kHandshake) return not_a_record;
    if (rest.size() > 1 && rest[1] != tls::kMajorVersion) return not_a_record;
    if (rest.size() < tls::kRecordHeaderBytes) return HelloVerdict::kNeedMore;
    const size_t length = size_t{rest[3]} << 8 | rest[4];
    if (length > tls::kMaxRecordPayload) return HelloVerdict::kMalformed;
    if (length == 0 && header_bytes != 0) Note(HelloFlaw::kEmptyRecord, extent.flaw);
    const size_t end = at + tls::kRecordHeaderBytes + length;
    const Bytes payload =
        rest.subspan(tls::kRecordHeaderBytes, std::min(length, rest.size() - tls::kRecordHeaderBytes));

    size_t body_in_record = length;
    if (header_bytes < tls::kHandshakeHeaderBytes) {
      extent.in_one_record = header_bytes == 0;
      const size_t taken = std::min(tls::kHandshakeHeaderBytes - header_bytes, payload.size());
      std::copy_n(payload.begin(), taken, handshake_header + header_bytes);
      header_bytes += taken;
      if (header_bytes > 0 && handshake_header[0] != tls::kClientHello) return HelloVerdict::kMalformed;
      if (header_bytes < tls::kHandshakeHeaderBytes) {
        if (payload.size() < length) return HelloVerdict::kNeedMore;
        at = end;
        continue;
      }
      missing = extent.body_length =
          size_t{handshake_header[1]} << 16 | size_t{handshake_header[2]} << 8 | handshake_header[3];
      body_in_record = length - taken;
      extent.body_at = at + tls::kRecordHeaderBytes + taken;
    } else {
      extent.in_one_record = false;
    }

    if (body_in_record > missing) Note(HelloFlaw::kBytesBehind, extent.flaw);
    missing -= std::min(missing, body_in_record);
    if (end + FewestRecordBytes(missing) > cap) return HelloVerdict::kTooLarge;
    if (payload.size() < length) return HelloVerdict::kNeedMore;
    at = end;
    if (missing == 0) {
      extent.bytes_used = end;
      return HelloVerdict::kComplete;
    }
  }
}

// Of which types an extension has been seen. Real hellos carry a handful of types above 63 (GREASE and the like).
class ExtensionsSeen {
 public:
  // False when the type was there before, as far as this remembers.
  bool Add(uint16_t type) {
    if (type < 64) {
      const uint64_t bit = uint64_t{1} << type;
      const bool fresh = (low_ & bit) == 0;
      low_ |= bit;
      return fresh;
    }
    if (std::find(high_.begin(), high_.begin() + high_count_, type) != high_.begin() + high_count_) return false;
    if (high_count_ == high_.size()) {
      forgot_ = true;
    } else {
      high_[high_count_++] = type;
    }
    return true;
  }
  bool forgot() const { return forgot_; }

 private:
  uint64_t low_ = 0;
  std::array<uint16_t, 16> high_;  // only high_count_ of them are set
  uint8_t high_count_ = 0;
  bool forgot_ = false;
};

// For a hello with more types than ExtensionsSeen remembers. `extensions` has been walked before, so its lengths fit.
[[gnu::noinline]] bool HasDuplicates(ByteReader extensions) {
  std::bitset<65536> seen;
  uint16_t type;
  Bytes data;
  while (extensions.U16(type) && extensions.Vector16(data)) {
    if (seen.test(type)) return true;
    seen.set(type);
  }
  return false;
}

void Keep(Bytes bytes, OfferedToken& token) {
  token.full_length = static_cast<uint16_t>(bytes.size());
  if (bytes.size() >= token.head.size()) {
    token.head_length = static_cast<uint8_t>(token.head.size());
    std::memcpy(token.head.data(), bytes.data(), token.head.size());
  } else {
    token.head_length = static_cast<uint8_t>(bytes.size());
    std::copy(bytes.begin(), bytes.end(), token.head.begin());
  }
}

constexpr char LowerCase(uint8_t byte) {
  return static_cast<char>(byte >= 'A' && byte <= 'Z' ? byte + ('a' - 'A') : byte);
}

bool KeepServerName(Bytes name, ClientHello& hello) {
  if (name.empty() || name.size() > hello.server_name_bytes.size()) return false;
  if (hello.server_name_length != 0) return false;  // two names of one type
  uint8_t smallest = 0xff;
  for (size_t i = 0; i < name.size(); ++i) {
    smallest = std::min(smallest, name[i]);
    hello.server_name_bytes[i] = LowerCase(name[i]);
  }
  hello.server_name_length = static_cast<uint8_t>(name.size());
  return smallest != 0;
}

// ServerName server_name_list<1..2^16-1>, each: type(1) and, for host_name and whatever may come, a vector16.
bool ReadServerName(ByteReader data, ClientHello& hello) {
  constexpr uint8_t kHostName = 0;
  Bytes list;
  if (!data.LastVector16(list) || list.empty()) return false;
  for (ByteReader names(list); !names.empty();) {
    uint8_t type;
    Bytes name;
    if (!names.U8(type) || !names.Vector16(name)) return false;
    if (type == kHostName && !KeepServerName(name, hello)) return false;
  }
  return true;
}

// ProtocolName protocol_name_list<2..2^16-1>, each a vector8 that is not empty.
bool ReadAlpn(ByteReader data, const uint8_t* body, ClientHello& hello) {
  Bytes list;
  if (!data.LastVector16(list) || list.empty()) return false;
  for (ByteReader names(list); !names.empty();) {
    Bytes name;
    if (!names.Vector8(name) || name.empty()) return false;
  }
  hello.alpn_at = static_cast<uint32_t>(list.data() - body);
  hello.alpn_length = static_cast<uint16_t>(list.size());
  return true;
}

// ProtocolVersion versions<2..254>.
bool ReadSupportedVersions(ByteReader data, ClientHello& hello) {
  Bytes list;
  if (!data.LastVector8(list) || list.empty() || list.size() % 2 != 0) return false;
  uint16_t version;
  hello.lists_versions = true;
  for (ByteReader versions(list); versions.U16(version);) hello.offers_tls13 |= version == tls::kTls13;
  return true;
}

// PskIdentity identities<7..2^16-1>, each: identity<1..2^16-1>, age(4); PskBinderEntry binders<33..2^16-1>, each a
// vector8 of at least 32, one for each identity.
bool ReadPreSharedKey(ByteReader data, ClientHello& hello) {
  constexpr size_t kAgeBytes = 4;
  constexpr size_t kMinBinderBytes = 32;
  Bytes identities, binders;
  if (!data.Vector16(identities) || !data.LastVector16(binders) || identities.empty()) return false;
  size_t identity_count = 0;
  for (ByteReader reader(identities); !reader.empty(); ++identity_count) {
    Bytes identity;
    if (!reader.Vector16(identity) || identity.empty() || !reader.Skip(kAgeBytes)) return false;
    if (identity_count < hello.psk_identities.size()) Keep(identity, hello.psk_identities[identity_count]);
  }
  size_t binder_count = 0;
  for (ByteReader reader(binders); !reader.empty(); ++binder_count) {
    Bytes binder;
    if (!reader.Vector8(binder) || binder.size() < kMinBinderBytes) return false;
  }
  hello.has_psk = true;
  hello.psk_identity_count = static_cast<uint8_t>(std::min(identity_count, hello.psk_identities.size()));
  return binder_count == identity_count;
}

// What of the extension is wrong.
HelloFlaw ReadExtension(uint16_t type, Bytes data, bool last, const uint8_t* body, ClientHello& hello) {
  constexpr auto flaw_unless = [](bool right, HelloFlaw flaw) { return right ? HelloFlaw::kNone : flaw; };
  switch (type) {
    case tls::kServerName:
      if (ReadServerName(ByteReader(data), hello)) return HelloFlaw::kNone;
      hello.server_name_length = 0;
      return HelloFlaw::kServerName;
    case tls::kAlpn:
      return flaw_unless(ReadAlpn(ByteReader(data), body, hello), HelloFlaw::kAlpn);
    case tls::kSupportedVersions:
      return flaw_unless(ReadSupportedVersions(ByteReader(data), hello), HelloFlaw::kSupportedVersions);
    case tls::kPreSharedKey:
      return flaw_unless(last && ReadPreSharedKey(ByteReader(data), hello), HelloFlaw::kPreSharedKey);
    case tls::kSessionTicket:
      Keep(data, hello.ticket);
      hello.has_ticket = !data.empty();
      return HelloFlaw::kNone;
    case tls::kEarlyData:
      hello.early_data = true;
      return flaw_unless(data.empty(), HelloFlaw::kEarlyData);
    case tls::kEncryptedClientHello:
      hello.ech = !data.empty() && data[0] == 0;  // 0 is the outer hello
      return HelloFlaw::kNone;
    default:
      return HelloFlaw::kNone;
  }
}

// Of a type that was there before nothing is read. A second server name leaves none: nobody can tell which is meant.
HelloFlaw OnDuplicate(uint16_t type, ClientHello& hello) {
  if (type != tls::kServerName) return HelloFlaw::kDuplicateExtension;
  hello.server_name_length = 0;
  return HelloFlaw::kServerName;
}

void ForgetTokens(ClientHello& hello) {
  hello.has_psk = hello.has_ticket = false;
  hello.session_id.head_length = 0;
  hello.session_id.full_length = 0;
  hello.ticket.head_length = 0;
  hello.ticket.full_length = 0;
  hello.psk_identity_count = 0;
}

// Leaves the arrays as they are: their lengths say what counts.
void Forget(ClientHello& hello) {
  ForgetTokens(hello);
  hello.server_name_length = 0;
  hello.alpn_length = 0;
  hello.legacy_version = 0;
  hello.lists_versions = hello.offers_tls13 = hello.early_data = hello.ech = false;
  hello.bytes_used = 0;
}

// Goes as far as the lengths add up.
void ReadExtensions(Bytes list, const uint8_t* body, ClientHello& hello) {
  ExtensionsSeen seen;
  for (ByteReader extensions(list); !extensions.empty();) {
    uint16_t type;
    Bytes data;
    if (!extensions.U16(type) || !extensions.Vector16(data)) {
      Note(HelloFlaw::kExtensions, hello.flaw);
      break;
    }
    const HelloFlaw flaw = seen.Add(type) ? ReadExtension(type, data, extensions.empty(), body, hello)
                                          : OnDuplicate(type, hello);
    Note(flaw, hello.flaw);
  }
  if (seen.forgot() && HasDuplicates(ByteReader(list))) Note(HelloFlaw::kDuplicateExtension, hello.flaw);
}

// legacy_version(2) random(32) session_id<0..32> cipher_suites<2..2^16-2> compression_methods<1..2^8-1>
// extensions<0..2^16-1>
//
// False when what comes before the extensions cannot be read; whatever else is wrong is noted in hello.flaw.
bool ReadBody(Bytes body, ClientHello& hello) {
  Forget(hello);
  ByteReader reader(body);
  Bytes session_id, cipher_suites, compression_methods, extensions;
  if (!reader.U16(hello.legacy_version) || !reader.Skip(tls::kRandomBytes)) return false;
  if (!reader.Vector8(session_id) || !reader.Vector16(cipher_suites) || !reader.Vector8(compression_methods)) return false;
  if (session_id.size() > tls::kMaxSessionIdBytes) Note(HelloFlaw::kSessionId, hello.flaw);
  if (cipher_suites.empty() || cipher_suites.size() % 2 != 0) Note(HelloFlaw::kCipherSuites, hello.flaw);
  if (compression_methods.empty()) Note(HelloFlaw::kCompressionMethods, hello.flaw);
  Keep(session_id, hello.session_id);
  if (reader.empty()) return true;  // a hello from before extensions
  const ByteReader rest = reader;
  if (!reader.Vector16(extensions)) {  // a list longer than the message
    Note(HelloFlaw::kExtensions, hello.flaw);
    extensions = rest.remaining() > 2 ? body.last(rest.remaining() - 2) : Bytes();
  }
  ReadExtensions(extensions, body.data(), hello);
  if (!reader.empty()) Note(HelloFlaw::kExtensions, hello.flaw);
  return true;
}

// `records` are those that FindHello has walked. Copies, so that there is one way only to read a body.
[[gnu::noinline]] bool ReadBodyOfManyRecords(Bytes records, size_t body_length, ClientHello& hello) {
  std::array<uint8_t, limits::kMaxConfiguredHelloBytes>
      message;  // on the stack and not zeroed: only pages used are touched
  size_t filled = 0;
  while (!records.empty()) {
    const size_t length = size_t{records[3]} << 8 | records[4];
    std::memcpy(message.data() + filled, records.data() + tls::kRecordHeaderBytes, length);
    filled += length;
    records = records.subspan(tls::kRecordHeaderBytes + length);
  }
  return ReadBody(Bytes(message.data() + tls::kHandshakeHeaderBytes, body_length), hello);
}

}  // namespace

HelloVerdict ParseClientHello(Bytes prefix, size_t cap, ClientHello& hello) {
  cap = std::min(cap, limits::kMaxConfiguredHelloBytes);
  HelloExtent extent;
  const HelloVerdict found = FindHello(prefix.first(std::min(prefix.size(), cap)), cap, extent);
  if (found == HelloVerdict::kNeedMore && prefix.size() >= cap) return HelloVerdict::kTooLarge;
  if (found != HelloVerdict::kComplete) {
    hello.flaw = found == HelloVerdict::kMalformed ? HelloFlaw::kOther : HelloFlaw::kNone;
    return found;
  }

  const Bytes records = prefix.first(extent.bytes_used);
  hello.flaw = extent.flaw;
  const bool readable = extent.in_one_record ? ReadBody(records.subspan(extent.body_at, extent.body_length), hello)
                                             : ReadBodyOfManyRecords(records, extent.body_length, hello);
  if (!readable) Note(HelloFlaw::kOther, hello.flaw);
  if (hello.flaw != HelloFlaw::kNone) {
    if (!readable || hello.server_name_length == 0) {
      Forget(hello);  // half of what it said is worse than nothing
      return HelloVerdict::kMalformed;
    }
    ForgetTokens(hello);
  }
  hello.bytes_used = extent.bytes_used;
  return HelloVerdict::kComplete;
}

namespace {

// A handshake message, byte by byte, over the borders of its records.
class MessageReader {
 public:
  explicit MessageReader(Bytes records) : records_(records) {}

  bool U8(uint8_t& value) {
    if (!HasBytes()) return false;
    value = here_.front();
    here_ = here_.subspan(1);
    return true;
  }

  bool Skip(size_t count) {
    while (count > 0) {
      if (!HasBytes()) return false;
      const size_t skipped = std::min(count, here_.size());
      here_ = here_.subspan(skipped);
      count -= skipped;
    }
    return true;
  }

 private:
  bool HasBytes() {
    while (here_.empty()) {
      if (records_.size() < tls::kRecordHeaderBytes) return false;
      const size_t length = size_t{records_[3]} << 8 | records_[4];
      records_ = records_.subspan(tls::kRecordHeaderBytes);
      here_ = records_.first(std::min(length, records_.size()));
      records_ = records_.subspan(here_.size());
    }
    return true;
  }

  Bytes records_;
  Bytes here_;  // what is left of the record that is being read
};

// True if the next `length` bytes are these. Reads them in any case.
bool Matches(MessageReader& reader, size_t length, std::string_view text) {
  if (length != text.size()) return reader.Skip(length) && false;
  bool same = true;
  for (const char c : text) {
    uint8_t byte = 0;
    same &= reader.U8(byte) && byte == static_cast<uint8_t>(c);
  }
  return same;
}

}  // namespace

// The list has been checked when it was parsed: its names fill it.
bool ClientHello::OffersAlpn(Bytes hello_bytes, std::string_view protocol) const {
  MessageReader reader(hello_bytes);
  if (!reader.Skip(tls::kHandshakeHeaderBytes + alpn_at)) return false;
  for (size_t read = 0; read < alpn_length;) {
    uint8_t length;
    if (!reader.U8(length)) return false;
    if (Matches(reader, length, protocol)) return true;
    read += 1u + length;
  }
  return false;
}

std::string_view HelloFlawName(HelloFlaw flaw) {
  switch (flaw) {
    case HelloFlaw::kNone: return "none";
    case HelloFlaw::kEmptyRecord: return "empty_record";
    case HelloFlaw::kBytesBehind: return "bytes_behind";
    case HelloFlaw::kSessionId: return "session_id";
    case HelloFlaw::kCipherSuites: return "cipher_suites";
    case HelloFlaw::kCompressionMethods: return "compression_methods";
    case HelloFlaw::kExtensions: return "extensions";
    case HelloFlaw::kDuplicateExtension: return "duplicate_extension";
    case HelloFlaw::kServerName: return "server_name";
    case HelloFlaw::kAlpn: return "alpn";
    case HelloFlaw::kSupportedVersions: return "supported_versions";
    case HelloFlaw::kEarlyData: return "early_data";
    case HelloFlaw::kPreSharedKey: return "pre_shared_key";
    case HelloFlaw::kOther:
    case HelloFlaw::kCount: break;
  }
  return "other";
}

namespace {

// As far as `prefix` goes, it begins with `start`.
bool MayBegin(Bytes prefix, std::string_view start) {
  const size_t count = std::min(prefix.size(), start.size());
  return std::memcmp(prefix.data(), start.data(), count) == 0;
}

// A method is a few capital letters and a blank.
bool LooksLikeHttp(Bytes prefix) {
  constexpr size_t kLongestMethod = 20;
  for (size_t i = 0; i < std::min(prefix.size(), kLongestMethod); ++i) {
    if (prefix[i] == ' ') return i >= 3;
    if (prefix[i] < 'A' || prefix[i] > 'Z') return false;
  }
  return prefix.size() < kLongestMethod;
}

}  // namespace

NotTlsKind ClassifyNotTls(Bytes prefix) {
  constexpr std::string_view kProxyV1 = "PROXY ";
  constexpr std::string_view kProxyV2("\r\n\r\n\0\r\nQUIT\n", 12);
  if (prefix.empty()) return NotTlsKind::kNone;
  if (prefix[0] == tls::kAlert) return NotTlsKind::kAlert;
  if (prefix[0] == tls::kChangeCipherSpec) return NotTlsKind::kChangeCipherSpec;
  if (MayBegin(prefix, kProxyV2)) return NotTlsKind::kProxyHeader;
  if (prefix.size() >= 3 && MayBegin(prefix, kProxyV1)) return NotTlsKind::kProxyHeader;
  // SSLv2: a length with its highest bit set, then message type 1.
  if (prefix[0] >= 0x80 && (prefix.size() < 3 || prefix[2] == tls::kClientHello)) return NotTlsKind::kSslv2;
  return LooksLikeHttp(prefix) ? NotTlsKind::kHttp : NotTlsKind::kOther;
}

}  // namespace hud
