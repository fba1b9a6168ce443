// Beacons: what agents and proxies say to each other over UDP. One datagram = one authenticated message.
// This header is the contract of the codec; the wire grammar opens beacon.cc and docs for other languages are in
// deploy/beacon-protocol.md. Nothing here keeps state: see beacon_receiver.h (proxy) and beacon_sender.h (agent).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/affinity/prefix_store.h"
#include "core/base/types.h"
#include "core/net/address.h"

namespace hud {

// ---- Keys -----------------------------------------------------------------------------------------------------------

struct BeaconSecret {
  std::array<uint8_t, 32> bytes{};
  bool operator==(const BeaconSecret&) const = default;
};

// Names of nodes and pools: 1 to 31 of A-Z a-z 0-9 . _ -
bool IsBeaconName(std::string_view name);

// May a key's holder name this address?
enum class AddressVerdict : uint8_t {
  kAllowed,
  kNotInLine,  // none of the line's ranges has it
  kSpecial,    // a unix socket, loopback, link-local, …: only if the line names just that
  kOurs,       // where this proxy itself listens: only if the line names address and port
};

// A line of the proxy's keys file: who may say what.
//   node=NAME key=HEX64 pools=POOL[,POOL…] addresses=ADDRESS[,ADDRESS…] [weight=N] [tickets=GROUP]
//   ADDRESS = RANGE | HOST:PORT | unix:PATH
// Empty lines and lines that begin with # are skipped. `pools=*` allows any pool, `addresses=*` any address that is not
// special: a proxy connects where it is told to, and would otherwise open what only this machine can reach.
struct BeaconKey {
  static constexpr uint16_t kUsualMostWeight = 100;

  std::string node;
  BeaconSecret secret;
  std::vector<std::string> pools;             // empty: any
  std::vector<AddressRange> addresses;        // of the node's TLS server; empty, and no endpoints: any
  std::vector<SocketAddress> endpoints;       // exact ones: with a port, or a unix socket
  uint16_t most_weight = kUsualMostWeight;    // a higher one counts as this
  std::string ticket_group;                   // nodes of a group share their servers' ticket keys; empty: in none

  bool AllowsAnyAddress() const { return addresses.empty() && endpoints.empty(); }
  bool AllowsPool(std::string_view pool) const;
  // `is_ours`: this proxy listens there.
  AddressVerdict JudgeAddress(const SocketAddress& address, bool is_ours) const;
};

// The whole text of a keys file; each error names `path`:line and what to do. A node may have two lines: while its key is
// being changed both are believed.
absl::StatusOr<std::vector<BeaconKey>> ParseBeaconKeys(std::string_view text, std::string_view path);
// What is allowed more widely than it need be: a sentence for each kind, that names the nodes. For start and --check.
std::vector<std::string> WideBeaconKeys(const std::vector<BeaconKey>& keys);

// The file that `hud-agentd keygen NAME` writes: one line "NAME HEX64".
struct AgentKey {
  std::string node;
  BeaconSecret secret;
};
absl::StatusOr<AgentKey> ParseAgentKey(std::string_view text, std::string_view path);
std::string FormatAgentKey(const AgentKey& key);
// The line to add to the proxy's keys file. `weight`: 0 leaves it out; `ticket_group` is left out when empty.
std::string FormatBeaconKeyLine(const AgentKey& key, const std::vector<std::string>& pools,
                                const std::vector<std::string>& addresses, uint16_t weight = 0,
                                const std::string& ticket_group = {});

// ---- Messages -------------------------------------------------------------------------------------------------------

enum class BeaconType : uint8_t {
  kAlive = 1,      // agent → proxy: ready to serve, with address, pools, weight, health, prefixes
  kDying = 2,      // agent → proxy: no new connections
  kStillHere = 3,  // agent → proxy: as kAlive, periodic
  kTokens = 4,     // agent → proxy: exact tokens, added or withdrawn, numbered
  kChallenge = 5,  // proxy → agent: my nonce is this one
  kSync = 6,       // proxy → agent: I have your tokens up to this number; send the rest
};

struct NodeHealth {
  bool ready = true;
  uint16_t load_permille = 0;   // of what the node can take; 1000 = full
  uint32_t connections = 0;     // to its TLS server, as the agent counts
  uint32_t probe_micros = 0;    // how long the last probe took
  uint16_t cpu_pressure_permille = 0;  // PSI "some avg10"
};

// kAlive and kStillHere.
struct NodeReport {
  SocketAddress address;              // where the TLS server listens
  std::vector<std::string> pools;     // at least one
  uint16_t weight = 100;
  NodeHealth health;
  std::vector<TicketPrefix> prefixes; // all that are valid now: the set replaces the one before
};

struct TokenItem {
  std::array<uint8_t, limits::kMaxTokenBytes> bytes{};
  uint8_t length = 0;
  bool withdraw = false;
  uint32_t ttl_seconds = 0;
  Bytes span() const { return {bytes.data(), length}; }
};

// kTokens. Items are numbered from 1 on, for each boot epoch of the agent. Those in [base, first) hold nothing any more
// (expired, replaced, or forgotten), so a receiver that expects `base` or more may go on with `first`.
struct TokenReport {
  uint64_t base = 1;
  uint64_t first = 1;            // number of items[0]; the rest follow on
  std::vector<TokenItem> items;  // an item of length 0 holds nothing any more
};

// One datagram of a kAlive or kStillHere. A report that does not fit one datagram goes in several: each repeats
// everything but the pools and prefixes, and has its share of those.
struct NodeReportPart {
  uint32_t report_id = 0;  // grows with each change of the content
  uint8_t part = 0;
  uint8_t parts = 1;
  NodeReport report;
};

// ---- Envelope and codec ---------------------------------------------------------------------------------------------

enum class BeaconDirection : uint8_t { kToProxy = 1, kToAgent = 2 };

inline constexpr size_t kBeaconEnvelopeBytes = 76;
inline constexpr size_t kBeaconMacBytes = 32;
inline constexpr size_t kBeaconAnswerBodyBytes = 16;
// Every answer has this size and every message to a proxy at least this: an answer is never larger than its question.
inline constexpr size_t kBeaconAnswerBytes = kBeaconEnvelopeBytes + kBeaconAnswerBodyBytes + kBeaconMacBytes;
inline constexpr size_t kMinBeaconBytes = kBeaconAnswerBytes;
inline constexpr size_t kMaxBeaconBodyBytes = limits::kMaxDatagramBytes - kBeaconEnvelopeBytes - kBeaconMacBytes;

struct BeaconEnvelope {
  BeaconDirection direction = BeaconDirection::kToProxy;
  BeaconType type = BeaconType::kAlive;
  uint32_t key_id = 0;
  std::string_view node;    // when read: into the datagram
  uint64_t epoch = 0;       // of the agent, in both directions
  uint64_t nonce = 0;       // of the proxy; 0: the agent does not know one yet
  uint64_t sequence = 0;    // of the sender of this datagram
  uint64_t sent_micros = 0; // the agent's clock, never compared with another; an answer repeats it
};

// HMAC-SHA-256 under one node's key, prepared once. Not for use from two threads at a time.
class BeaconMac {
 public:
  explicit BeaconMac(const BeaconSecret& secret);
  ~BeaconMac();
  BeaconMac(BeaconMac&&) noexcept;
  BeaconMac& operator=(BeaconMac&&) noexcept;

  // Names the key without giving it away: the first four bytes of HMAC(key, "hudsucker beacon key id").
  uint32_t key_id() const { return key_id_; }
  std::array<uint8_t, kBeaconMacBytes> Compute(Bytes data) const;
  // Are the last 32 bytes the MAC of all before them? In constant time.
  bool Verify(Bytes datagram) const;

 private:
  struct Context;
  std::unique_ptr<Context> context_;
  uint32_t key_id_ = 0;
};

// Looks at length and shape only: nothing read here may be believed before BeaconMac::Verify.
std::optional<BeaconEnvelope> ReadBeaconEnvelope(Bytes datagram);
// The bytes between envelope and MAC, of a datagram that ReadBeaconEnvelope accepts.
Bytes BeaconBody(Bytes datagram);
// Envelope, body (padded with zeros to the least size) and MAC. The key id is the mac's.
std::vector<uint8_t> SealBeacon(const BeaconMac& mac, BeaconEnvelope envelope, Bytes body);

// Bodies. Readers ignore what follows the last field (room for later versions) and refuse whatever is out of bounds.
std::optional<NodeReportPart> ReadReportBody(Bytes body);
std::optional<TokenReport> ReadTokensBody(Bytes body);
// A report as one to kMaxReportParts bodies. False if it can never be sent (no pool, too many, a bad name, no port):
// `why` then says so in a sentence.
bool WriteReportBodies(const NodeReport& report, uint32_t report_id, std::vector<std::vector<uint8_t>>* bodies,
                       std::string* why);
// Takes from `items` as many as fit; returns how many.
size_t WriteTokensBody(uint64_t base, uint64_t first, std::span<const TokenItem> items, std::vector<uint8_t>* body);

struct ChallengeBody {
  uint64_t answers_sequence = 0;  // of the datagram that it answers
  uint64_t held_epoch = 0;        // the proxy takes no epoch lower than this one
};
struct SyncBody {
  uint64_t next_token = 1;        // all items below are known: send from here on
  uint64_t answers_sequence = 0;
};
std::array<uint8_t, kBeaconAnswerBodyBytes> WriteChallengeBody(const ChallengeBody& body);
std::array<uint8_t, kBeaconAnswerBodyBytes> WriteSyncBody(const SyncBody& body);
ChallengeBody ReadChallengeBody(Bytes body);  // of at least kBeaconAnswerBodyBytes
SyncBody ReadSyncBody(Bytes body);

}  // namespace hud
