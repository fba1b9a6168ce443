// The TLS record layer as far as it is in clear (RFC 8446 section 5.1, RFC 5246 section 6.2.1):
//   type(1) version(2) length(2) payload(length)
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace hud::tls {

inline constexpr size_t kRecordHeaderBytes = 5;
inline constexpr size_t kMaxRecordPayload = 16 * 1024;  // of a record that is not encrypted
inline constexpr size_t kHandshakeHeaderBytes = 4;      // type(1) length(3)
inline constexpr uint8_t kMajorVersion = 3;             // of SSL 3.0 and every TLS; the minor one is never checked

enum ContentType : uint8_t { kChangeCipherSpec = 20, kAlert = 21, kHandshake = 22 };
enum HandshakeType : uint8_t { kClientHello = 1, kServerHello = 2, kNewSessionTicket = 4 };
enum AlertLevel : uint8_t { kWarning = 1, kFatal = 2 };
enum AlertDescription : uint8_t { kCloseNotify = 0, kUnrecognizedName = 112 };
enum ExtensionType : uint16_t {
  kServerName = 0,
  kAlpn = 16,
  kSessionTicket = 35,
  kPreSharedKey = 41,
  kEarlyData = 42,
  kSupportedVersions = 43,
  kEncryptedClientHello = 0xfe0d,
};
inline constexpr uint16_t kTls13 = 0x0304;
inline constexpr size_t kRandomBytes = 32;
inline constexpr size_t kMaxSessionIdBytes = 32;

// What a listener answers when no route names the server that the client asked for (RFC 6066 section 3).
inline constexpr std::array<uint8_t, 7> kUnrecognizedNameAlert = {kAlert, kMajorVersion,    3, 0, 2,
                                                                  kFatal, kUnrecognizedName};

}  // namespace hud::tls
