// EverythingIsBounded: the size of every table, queue and loop that is not a matter of configuration.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hud::limits {

inline constexpr size_t kMaxNodes = 1024;          // slots of the NodeTable
inline constexpr size_t kMaxPools = 256;           // of a configuration
inline constexpr size_t kMaxPoolSlots = 2 * kMaxPools;  // removed ones that still have connections included
inline constexpr size_t kMaxListeners = 64;        // of a configuration
inline constexpr size_t kMaxListenerSlots = 2 * kMaxListeners;  // as for pools
inline constexpr size_t kMaxRoutes = 4096;         // of one listener, SNI names counted one by one
inline constexpr size_t kMaxWorkers = 64;
inline constexpr size_t kMaxHelloBytes = 32 * 1024;     // default cap; configuration may change it up to the next one
inline constexpr size_t kMaxConfiguredHelloBytes = 256 * 1024;
inline constexpr size_t kMaxHelloTokens = 4;       // PSK identities that are looked up
inline constexpr size_t kMaxTokenBytes = 32;       // an exact token, and the most of a ticket that a prefix can name
inline constexpr size_t kMaxServerNameBytes = 255; // RFC 1035
inline constexpr size_t kMaxAlpnBytes = 256;       // of the ALPN list that an agent's probe offers
inline constexpr size_t kMaxProxyHeaderBytes = 4096; // a PROXY v2 header from the client side, TLVs included
inline constexpr size_t kMaxProxyRanges = 256;     // that a listener takes PROXY headers from; each newcomer is compared
inline constexpr size_t kMinPrefixBytes = 4;       // JSSE's counter; anything shorter would name half the world's tickets
inline constexpr size_t kMaxPrefixesPerNode = 64;
inline constexpr uint16_t kMaxWeight = 1000;       // of a node; 100 is usual
inline constexpr size_t kMaxDatagramBytes = 1400;  // a beacon fits one Ethernet frame with room for tunnels
inline constexpr size_t kMaxBeaconNameBytes = 31;  // of a node or a pool
inline constexpr size_t kMaxPoolsPerNode = 16;     // that one agent may announce
inline constexpr size_t kMaxReportParts = 4;       // datagrams of one ALIVE or STILL_HERE
inline constexpr size_t kMaxBeaconKeys = 4096;     // lines of the keys file
inline constexpr size_t kReplayWindow = 1024;      // sequence numbers behind the newest that may still come
inline constexpr size_t kMaxTokenFlight = 64;      // token datagrams on their way and not acknowledged: about 150 KB of
                                                   // a proxy's socket buffer
inline constexpr size_t kMaxDialAttempts = 3;      // nodes tried for one connection; configuration may lower it
inline constexpr size_t kMaxChecksInFlight = 32;   // connects of the health checker; a descriptor each
inline constexpr size_t kMaxStatusClients = 16;    // of the status server; a descriptor each
inline constexpr size_t kStatusReserve = 4;        // descriptors that it keeps for clients when no other is left
inline constexpr size_t kConnectionRecords = 4096; // a worker's queue of finished connections towards the log

}  // namespace hud::limits
