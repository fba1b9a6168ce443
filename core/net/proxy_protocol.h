// The PROXY protocol (HAProxy, "The PROXY protocol", versions 1 and 2): who the client really is, said in front of its
// bytes.
//   v1: "PROXY" SP ("TCP4" | "TCP6") SP source SP destination SP source-port SP destination-port CRLF, or
//       "PROXY UNKNOWN" … CRLF; at most 107 bytes
//   v2: signature(12) version-and-command(1) family-and-protocol(1) length(2) addresses, then TLVs
// We write v2 without TLVs, and read both. Of TLVs the form is checked, and a checksum (PP2_TYPE_CRC32C) where there is one.
#pragma once

#include <array>
#include <cstddef>

#include "core/base/types.h"
#include "core/net/address.h"

namespace hud {

enum class ProxyHeaderVerdict : uint8_t {
  kNeedMore,  // a strict prefix of something that may still be a header
  kComplete,
  kMalformed,  // not a header, or against the rules, or longer than limits::kMaxProxyHeaderBytes: close
};

struct ProxyHeader {
  // Both are AF_UNSPEC when the sender speaks for itself (LOCAL, a health check) or names no stream (UNKNOWN,
  // datagrams): then the connection's own addresses count.
  SocketAddress source;       // the client
  SocketAddress destination;  // what the client connected to
  size_t bytes_used = 0;      // of the input; TLS begins behind
};

// Keeps no state: give the whole prefix again each time. `header` is meaningful only after kComplete.
ProxyHeaderVerdict ParseProxyHeader(Bytes prefix, ProxyHeader& header);

// A v2 header to be sent before the client's bytes.
struct ProxyV2Header {
  std::array<uint8_t, 16 + 2 * 108> data;  // signature and head, and the longest addresses: two unix paths
  size_t size = 0;
  Bytes bytes() const { return {data.data(), size}; }
};

// `client` as accepted, `local` what it connected to. A mixed pair is written as IPv6; without two addresses of one kind (AF_UNSPEC, unix and internet) it is LOCAL.
ProxyV2Header WriteProxyV2(const SocketAddress& client, const SocketAddress& local);

}  // namespace hud
