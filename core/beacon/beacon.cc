// The wire format of beacons, version 1. All integers are big-endian. deploy/beacon-protocol.md tells the same to
// implementers in other languages, with the rules of behaviour and worked examples that a test verifies.
//
//   datagram  = envelope(76) body mac(32)                  at most 1400 bytes
//   envelope  = "HUDB" version(1)=1 direction(1) type(1) zero(1)
//               epoch(8) nonce(8) sequence(8) sent_micros(8) key_id(4) node(32, padded with zeros)
//   mac       = HMAC-SHA-256(key of the node, envelope body)
//
//   direction = 1 to the proxy | 2 to the agent
//   type      = 1 ALIVE | 2 DYING | 3 STILL_HERE | 4 TOKENS  (to the proxy)  | 5 CHALLENGE | 6 SYNC  (to the agent)
//
//   ALIVE, STILL_HERE = flags(1: bit 0 ready) part(1) parts(1) zero(1) report_id(4)
//                       weight(2) load_permille(2) cpu_pressure_permille(2) connections(4) probe_micros(4)
//                       address pools(1) name* prefixes(1) prefix*
//     address = 4 ipv4(4) port(2) | 6 ipv6(16) port(2) | 1 length(1) path       a path from 0 is an abstract name
//     name    = length(1: 1..31) bytes
//     prefix  = length(1: 4..32) bytes
//   DYING     = nothing
//   TOKENS    = base(8) first(8) count(2) item*
//     item    = 0                                       nothing has this number any more
//             | length(1: 1..32) ttl_seconds(4) bytes   added
//             | 128+length(1) bytes                     withdrawn
//   CHALLENGE = answers_sequence(8) held_epoch(8)
//   SYNC      = next_token(8) answers_sequence(8)
//
// A body to the proxy is padded with zeros to 16 bytes, so that no answer is larger than its question. What follows the
// last field of a body is ignored.
#include "core/beacon/beacon.h"

#include <netinet/in.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cstring>

#include "core/base/byte_reader.h"
#include "core/base/check.h"

namespace hud {
namespace {

constexpr std::array<uint8_t, 5> kMagicAndVersion = {'H', 'U', 'D', 'B', 1};
constexpr size_t kNodeFieldBytes = 32;
constexpr size_t kNodeFieldOffset = 44;
constexpr uint8_t kAddressUnix = 1, kAddressIpv4 = 4, kAddressIpv6 = 6;
constexpr uint8_t kFlagReady = 1;
constexpr uint8_t kItemWithdraw = 0x80;

class ByteWriter {
 public:
  explicit ByteWriter(std::vector<uint8_t>* out) : out_(*out) {}
  void Integer(uint64_t value, size_t width) {
    for (size_t i = width; i-- > 0;) out_.push_back(static_cast<uint8_t>(value >> (8 * i)));
  }
  void Append(Bytes bytes) { out_.insert(out_.end(), bytes.begin(), bytes.end()); }

 private:
  std::vector<uint8_t>& out_;
};

Bytes AsBytes(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }
std::string_view AsText(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

bool IsNameCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

bool TypeFits(uint8_t direction, uint8_t type) {
  if (direction == static_cast<uint8_t>(BeaconDirection::kToProxy)) return type >= 1 && type <= 4;
  return direction == static_cast<uint8_t>(BeaconDirection::kToAgent) && (type == 5 || type == 6);
}

SocketAddress Ipv4(Bytes host, uint16_t port) {
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_port = htons(port);
  std::memcpy(&in.sin_addr, host.data(), 4);
  return SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&in), sizeof(in));
}

SocketAddress Ipv6(Bytes host, uint16_t port) {
  sockaddr_in6 in{};
  in.sin6_family = AF_INET6;
  in.sin6_port = htons(port);
  std::memcpy(&in.sin6_addr, host.data(), 16);
  return SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&in), sizeof(in));
}

SocketAddress Unix(Bytes path) {
  sockaddr_un un{};
  un.sun_family = AF_UNIX;
  std::memcpy(un.sun_path, path.data(), path.size());
  const size_t ending_zero = path[0] != 0 ? 1 : 0;  // a path has one, an abstract name must not
  return SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&un),
                                     static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + ending_zero));
}

// As SocketAddress::Parse takes them, and nothing that would tear a log line.
bool IsUnixPath(Bytes path) {
  if (path.size() < 2 || path.size() >= sizeof(sockaddr_un::sun_path)) return false;
  if (path[0] != 0 && path[0] != '/') return false;
  return std::all_of(path.begin() + 1, path.end(), [](uint8_t byte) { return byte >= 0x20 && byte != 0x7f; });
}

bool ReadAddress(ByteReader& reader, SocketAddress* address) {
  uint8_t kind = 0;
  Bytes host;
  if (!reader.U8(kind)) return false;
  if (kind == kAddressUnix) {
    if (!reader.Vector8(host) || !IsUnixPath(host)) return false;
    *address = Unix(host);
    return true;
  }
  uint16_t port = 0;
  if (kind != kAddressIpv4 && kind != kAddressIpv6) return false;
  if (!reader.Take(kind == kAddressIpv4 ? 4 : 16, host) || !reader.U16(port) || port == 0) return false;
  *address = kind == kAddressIpv4 ? Ipv4(host, port) : Ipv6(host, port);
  return true;
}

// The bytes of a unix socket's name, without the zero that ends a path.
Bytes UnixName(const SocketAddress& address) {
  const size_t head = offsetof(sockaddr_un, sun_path);
  if (address.size() <= head) return {};
  const auto* un = reinterpret_cast<const sockaddr_un*>(address.data());
  Bytes name(reinterpret_cast<const uint8_t*>(un->sun_path), address.size() - head);
  if (name[0] != 0) name = name.first(strnlen(un->sun_path, name.size()));
  return name;
}

bool WriteAddress(const SocketAddress& address, ByteWriter& out) {
  if (address.family() == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(address.data());
    out.Integer(kAddressIpv4, 1);
    out.Append({reinterpret_cast<const uint8_t*>(&in->sin_addr), 4});
    out.Integer(ntohs(in->sin_port), 2);
    return in->sin_port != 0;
  }
  if (address.family() == AF_INET6) {
    const auto* in = reinterpret_cast<const sockaddr_in6*>(address.data());
    out.Integer(kAddressIpv6, 1);
    out.Append({reinterpret_cast<const uint8_t*>(&in->sin6_addr), 16});
    out.Integer(ntohs(in->sin6_port), 2);
    return in->sin6_port != 0;
  }
  if (!address.IsUnix()) return false;
  const Bytes name = UnixName(address);
  if (!IsUnixPath(name)) return false;
  out.Integer(kAddressUnix, 1);
  out.Integer(name.size(), 1);
  out.Append(name);
  return true;
}

// What every part of a report has in common. Health changes without a new report id.
bool WriteReportHead(const NodeReport& report, uint32_t report_id, size_t part, size_t parts,
                     std::vector<uint8_t>* body) {
  ByteWriter out(body);
  out.Integer(report.health.ready ? kFlagReady : 0, 1);
  out.Integer(part, 1);
  out.Integer(parts, 1);
  out.Integer(0, 1);
  out.Integer(report_id, 4);
  out.Integer(report.weight, 2);
  out.Integer(report.health.load_permille, 2);
  out.Integer(report.health.cpu_pressure_permille, 2);
  out.Integer(report.health.connections, 4);
  out.Integer(report.health.probe_micros, 4);
  return WriteAddress(report.address, out);
}

void WriteStrings(const std::vector<Bytes>& strings, std::vector<uint8_t>* body) {
  ByteWriter out(body);
  out.Integer(strings.size(), 1);
  for (Bytes text : strings) {
    out.Integer(text.size(), 1);
    out.Append(text);
  }
}

const char* WhyNotReportable(const NodeReport& report) {
  if (report.pools.empty()) return "a node must be in at least one pool";
  if (report.pools.size() > limits::kMaxPoolsPerNode) return "a node may be in at most 16 pools";
  if (report.prefixes.size() > limits::kMaxPrefixesPerNode) return "a node may have at most 64 ticket prefixes";
  if (report.weight > limits::kMaxWeight) return "a weight is 0 to 1000";
  for (const std::string& pool : report.pools) {
    if (!IsBeaconName(pool)) return "a pool's name is 1 to 31 of the characters A-Z a-z 0-9 . _ -";
  }
  for (const TicketPrefix& prefix : report.prefixes) {
    if (prefix.length < limits::kMinPrefixBytes || prefix.length > limits::kMaxTokenBytes) return "a ticket prefix has 4 to 32 bytes";
  }
  std::vector<uint8_t> scratch;
  ByteWriter out(&scratch);
  if (!WriteAddress(report.address, out)) return "the node's address must be numeric with a port, or a unix socket";
  return nullptr;
}

bool ReadNames(ByteReader& reader, std::vector<std::string>* names) {
  uint8_t count = 0;
  if (!reader.U8(count) || count > limits::kMaxPoolsPerNode) return false;
  for (size_t i = 0; i < count; ++i) {
    Bytes name;
    if (!reader.Vector8(name) || !IsBeaconName(AsText(name))) return false;
    names->emplace_back(AsText(name));
  }
  return true;
}

bool ReadPrefixes(ByteReader& reader, std::vector<TicketPrefix>* prefixes) {
  uint8_t count = 0;
  if (!reader.U8(count) || count > limits::kMaxPrefixesPerNode) return false;
  for (size_t i = 0; i < count; ++i) {
    Bytes bytes;
    if (!reader.Vector8(bytes) || bytes.size() < limits::kMinPrefixBytes || bytes.size() > limits::kMaxTokenBytes) return false;
    TicketPrefix& prefix = prefixes->emplace_back();
    std::copy(bytes.begin(), bytes.end(), prefix.bytes.begin());
    prefix.length = static_cast<uint8_t>(bytes.size());
  }
  return true;
}

bool ReadItem(ByteReader& reader, TokenItem* item) {
  uint8_t head = 0;
  Bytes token;
  if (!reader.U8(head)) return false;
  if (head == 0) return true;
  item->withdraw = (head & kItemWithdraw) != 0;
  item->length = head & static_cast<uint8_t>(~kItemWithdraw);
  if (item->length == 0 || item->length > limits::kMaxTokenBytes) return false;
  if (!item->withdraw && !reader.U32(item->ttl_seconds)) return false;
  if (!reader.Take(item->length, token)) return false;
  std::copy(token.begin(), token.end(), item->bytes.begin());
  return true;
}

size_t WireSize(const TokenItem& item) {
  if (item.length == 0) return 1;
  return 1u + item.length + (item.withdraw ? 0u : 4u);
}

void WriteItem(const TokenItem& item, ByteWriter& out) {
  out.Integer(item.length == 0 ? 0u : item.length | (item.withdraw ? kItemWithdraw : 0u), 1);
  if (item.length == 0) return;
  if (!item.withdraw) out.Integer(item.ttl_seconds, 4);
  out.Append(item.span());
}

std::array<uint8_t, kBeaconAnswerBodyBytes> TwoIntegers(uint64_t first, uint64_t second) {
  std::vector<uint8_t> bytes;
  ByteWriter out(&bytes);
  out.Integer(first, 8);
  out.Integer(second, 8);
  std::array<uint8_t, kBeaconAnswerBodyBytes> body{};
  std::copy(bytes.begin(), bytes.end(), body.begin());
  return body;
}

}  // namespace

bool IsBeaconName(std::string_view name) {
  return !name.empty() && name.size() <= limits::kMaxBeaconNameBytes &&
         std::all_of(name.begin(), name.end(), IsNameCharacter);
}

// ---- MAC ------------------------------------------------------------------------------------------------------------

struct BeaconMac::Context {
  EVP_MAC_CTX* hmac = nullptr;
  ~Context() { EVP_MAC_CTX_free(hmac); }
};

BeaconMac::BeaconMac(const BeaconSecret& secret) : context_(std::make_unique<Context>()) {
  EVP_MAC* algorithm = EVP_MAC_fetch(nullptr, "HMAC", nullptr);
  HUD_CHECK(algorithm != nullptr);
  context_->hmac = EVP_MAC_CTX_new(algorithm);
  EVP_MAC_free(algorithm);  // the context holds a reference of its own
  char digest[] = "SHA256";
  const OSSL_PARAM parameters[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                                   OSSL_PARAM_construct_end()};
  HUD_CHECK(EVP_MAC_init(context_->hmac, secret.bytes.data(), secret.bytes.size(), parameters) == 1);
  const auto id = Compute(AsBytes("hudsucker beacon key id"));
  HUD_CHECK(ByteReader(id).U32(key_id_));
}

BeaconMac::~BeaconMac() = default;
BeaconMac::BeaconMac(BeaconMac&&) noexcept = default;
BeaconMac& BeaconMac::operator=(BeaconMac&&) noexcept = default;

std::array<uint8_t, kBeaconMacBytes> BeaconMac::Compute(Bytes data) const {
  std::array<uint8_t, kBeaconMacBytes> mac{};
  size_t written = 0;
  // Without a key: begins anew under the key that is prepared already, two hash blocks cheaper.
  HUD_CHECK(EVP_MAC_init(context_->hmac, nullptr, 0, nullptr) == 1);
  HUD_CHECK(EVP_MAC_update(context_->hmac, data.data(), data.size()) == 1);
  HUD_CHECK(EVP_MAC_final(context_->hmac, mac.data(), &written, mac.size()) == 1 && written == mac.size());
  return mac;
}

bool BeaconMac::Verify(Bytes datagram) const {
  if (datagram.size() < kBeaconMacBytes) return false;
  const auto expected = Compute(datagram.first(datagram.size() - kBeaconMacBytes));
  return CRYPTO_memcmp(expected.data(), datagram.last(kBeaconMacBytes).data(), kBeaconMacBytes) == 0;
}

// ---- Envelope -------------------------------------------------------------------------------------------------------

std::optional<BeaconEnvelope> ReadBeaconEnvelope(Bytes datagram) {
  if (datagram.size() < kMinBeaconBytes || datagram.size() > limits::kMaxDatagramBytes) return std::nullopt;
  ByteReader reader(datagram);
  Bytes head, node;
  uint8_t direction = 0, type = 0, zero = 0;
  BeaconEnvelope envelope;
  const bool is_whole = reader.Take(kMagicAndVersion.size(), head) && reader.U8(direction) && reader.U8(type) &&
                        reader.U8(zero) && reader.U64(envelope.epoch) && reader.U64(envelope.nonce) &&
                        reader.U64(envelope.sequence) && reader.U64(envelope.sent_micros) &&
                        reader.U32(envelope.key_id) && reader.Take(kNodeFieldBytes, node);
  HUD_CHECK(is_whole);  // no shorter than the least datagram
  if (!std::equal(head.begin(), head.end(), kMagicAndVersion.begin()) || !TypeFits(direction, type) || zero != 0) {
    return std::nullopt;
  }
  envelope.direction = static_cast<BeaconDirection>(direction);
  envelope.type = static_cast<BeaconType>(type);
  const std::string_view field = AsText(node);
  envelope.node = field.substr(0, field.find('\0'));
  const std::string_view padding = field.substr(envelope.node.size());
  if (!IsBeaconName(envelope.node) || padding.find_first_not_of('\0') != std::string_view::npos) return std::nullopt;
  if (envelope.epoch > INT64_MAX) return std::nullopt;  // there must always be a greater one
  return envelope;
}

Bytes BeaconBody(Bytes datagram) {
  HUD_CHECK(datagram.size() >= kBeaconEnvelopeBytes + kBeaconMacBytes);
  return datagram.subspan(kBeaconEnvelopeBytes, datagram.size() - kBeaconEnvelopeBytes - kBeaconMacBytes);
}

std::vector<uint8_t> SealBeacon(const BeaconMac& mac, BeaconEnvelope envelope, Bytes body) {
  HUD_CHECK(IsBeaconName(envelope.node) && body.size() <= kMaxBeaconBodyBytes);
  std::vector<uint8_t> datagram;
  const size_t body_bytes = std::max(body.size(), kBeaconAnswerBodyBytes);
  datagram.reserve(kBeaconEnvelopeBytes + body_bytes + kBeaconMacBytes);
  ByteWriter out(&datagram);
  out.Append(kMagicAndVersion);
  out.Integer(static_cast<uint8_t>(envelope.direction), 1);
  out.Integer(static_cast<uint8_t>(envelope.type), 1);
  out.Integer(0, 1);
  out.Integer(envelope.epoch, 8);
  out.Integer(envelope.nonce, 8);
  out.Integer(envelope.sequence, 8);
  out.Integer(envelope.sent_micros, 8);
  out.Integer(mac.key_id(), 4);
  HUD_CHECK(datagram.size() == kNodeFieldOffset);
  out.Append(AsBytes(envelope.node));
  datagram.resize(kBeaconEnvelopeBytes);
  out.Append(body);
  datagram.resize(kBeaconEnvelopeBytes + body_bytes);
  out.Append(mac.Compute(datagram));
  return datagram;
}

// ---- Bodies ---------------------------------------------------------------------------------------------------------

std::optional<NodeReportPart> ReadReportBody(Bytes body) {
  ByteReader reader(body);
  NodeReportPart part;
  NodeReport& report = part.report;
  uint8_t flags = 0, unused = 0;
  const bool has_head = reader.U8(flags) && reader.U8(part.part) && reader.U8(part.parts) && reader.U8(unused) &&
                        reader.U32(part.report_id) && reader.U16(report.weight) &&
                        reader.U16(report.health.load_permille) && reader.U16(report.health.cpu_pressure_permille) &&
                        reader.U32(report.health.connections) && reader.U32(report.health.probe_micros);
  if (!has_head || part.parts > limits::kMaxReportParts || part.part >= part.parts || report.weight > limits::kMaxWeight) {
    return std::nullopt;
  }
  report.health.ready = (flags & kFlagReady) != 0;
  if (!ReadAddress(reader, &report.address) || !ReadNames(reader, &report.pools) ||
      !ReadPrefixes(reader, &report.prefixes)) {
    return std::nullopt;
  }
  return part;
}

bool WriteReportBodies(const NodeReport& report, uint32_t report_id, std::vector<std::vector<uint8_t>>* bodies,
                       std::string* why) {
  bodies->clear();
  if (const char* fault = WhyNotReportable(report)) {
    *why = fault;
    return false;
  }
  struct Share {
    std::vector<Bytes> pools, prefixes;
  };
  std::vector<uint8_t> head;
  WriteReportHead(report, report_id, 0, 1, &head);
  const size_t room = kMaxBeaconBodyBytes - head.size() - 2;  // two counts
  std::vector<Share> shares(1);
  size_t used = 0;
  auto share_for = [&](size_t size) -> Share& {
    if (used + size + 1 > room) {
      shares.emplace_back();
      used = 0;
    }
    used += size + 1;
    return shares.back();
  };
  for (const std::string& pool : report.pools) share_for(pool.size()).pools.push_back(AsBytes(pool));
  for (const TicketPrefix& prefix : report.prefixes) share_for(prefix.length).prefixes.push_back(prefix.span());
  // The limits on names, prefixes and the address keep this true.
  HUD_CHECK(shares.size() <= limits::kMaxReportParts);

  for (size_t i = 0; i < shares.size(); ++i) {
    std::vector<uint8_t>& body = bodies->emplace_back();
    WriteReportHead(report, report_id, i, shares.size(), &body);
    WriteStrings(shares[i].pools, &body);
    WriteStrings(shares[i].prefixes, &body);
  }
  return true;
}

std::optional<TokenReport> ReadTokensBody(Bytes body) {
  ByteReader reader(body);
  TokenReport report;
  uint16_t count = 0;
  if (!reader.U64(report.base) || !reader.U64(report.first) || !reader.U16(count)) return std::nullopt;
  // Numbers this large are never reached, and `first + count` must not wrap.
  if (report.base == 0 || report.base > report.first || report.first > UINT64_MAX / 2) return std::nullopt;
  if (count > reader.remaining()) return std::nullopt;
  report.items.resize(count);
  for (TokenItem& item : report.items) {
    if (!ReadItem(reader, &item)) return std::nullopt;
  }
  return report;
}

size_t WriteTokensBody(uint64_t base, uint64_t first, std::span<const TokenItem> items, std::vector<uint8_t>* body) {
  constexpr size_t kHeadBytes = 18;
  size_t count = 0;
  for (size_t bytes = kHeadBytes; count < items.size(); ++count) {
    bytes += WireSize(items[count]);
    if (bytes > kMaxBeaconBodyBytes) break;
  }
  body->clear();
  ByteWriter out(body);
  out.Integer(base, 8);
  out.Integer(first, 8);
  out.Integer(count, 2);
  for (const TokenItem& item : items.first(count)) WriteItem(item, out);
  return count;
}

std::array<uint8_t, kBeaconAnswerBodyBytes> WriteChallengeBody(const ChallengeBody& body) {
  return TwoIntegers(body.answers_sequence, body.held_epoch);
}

std::array<uint8_t, kBeaconAnswerBodyBytes> WriteSyncBody(const SyncBody& body) {
  return TwoIntegers(body.next_token, body.answers_sequence);
}

ChallengeBody ReadChallengeBody(Bytes body) {
  ByteReader reader(body);
  ChallengeBody challenge;
  HUD_CHECK(reader.U64(challenge.answers_sequence) && reader.U64(challenge.held_epoch));
  return challenge;
}

SyncBody ReadSyncBody(Bytes body) {
  ByteReader reader(body);
  SyncBody sync;
  HUD_CHECK(reader.U64(sync.next_token) && reader.U64(sync.answers_sequence));
  return sync;
}

}  // namespace hud
