// Beacons: what agents and proxies say to each other over UDP. One datagram = one authenticated message.
// This header is the contract of the codec; the wire grammar opens beacon.cc and docs for other languages are in
// deploy/beacon-protocol.md. Nothing here keeps state: see beacon_receiver.h (proxy) and beacon_sender.h (agent).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/address.h"
#include "core/prefix_store.h"
#include "core/types.h"

namespace hud {

// ---- Keys -----------------------------------------------------------------------------------------------------------

struct BeaconSecret {
  std::array<uint8_t, 32> bytes{};
};

// A line of the proxy's keys file: who may say what.
//   node=NAME key=HEX64 pools=POOL[,POOL…] addresses=RANGE[,RANGE…]
// Empty lines and lines that begin with # are skipped. `pools=*` and `addresses=*` allow any.
struct BeaconKey {
  std::string node;
  BeaconSecret secret;
  std::vector<std::string> pools;         // empty: any
  std::vector<AddressRange> addresses;    // of the node's TLS server; empty: any. unix: addresses need `any`
  bool AllowsPool(std::string_view pool) const;
  bool AllowsAddress(const SocketAddress& address) const;
};

// The whole text of a keys file; each error names `path`:line and what to do. A node may have one key only.
absl::StatusOr<std::vector<BeaconKey>> ParseBeaconKeys(std::string_view text, std::string_view path);

// The file that `hud-agentd keygen NAME` writes: one line "NAME HEX64".
struct AgentKey {
  std::string node;
  BeaconSecret secret;
};
absl::StatusOr<AgentKey> ParseAgentKey(std::string_view text, std::string_view path);
std::string FormatAgentKey(const AgentKey& key);
// The line to add to the proxy's keys file.
std::string FormatBeaconKeyLine(const AgentKey& key, const std::vector<std::string>& pools,
                                const std::vector<std::string>& addresses);

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
  uint64_t tokens_sent = 0;           // number of the last token message, so that a lost one is noticed
};

struct TokenItem {
  std::array<uint8_t, limits::kMaxTokenBytes> bytes{};
  uint8_t length = 0;
  bool withdraw = false;
  uint32_t ttl_seconds = 0;
  Bytes span() const { return {bytes.data(), length}; }
};

struct TokenReport {
  uint64_t first = 0;                 // number of the first item; the rest follow on
  bool resync = false;                // answers a kSync: `first` may be beyond a gap that the agent no longer has
  std::vector<TokenItem> items;
};

}  // namespace hud
