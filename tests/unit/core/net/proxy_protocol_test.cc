#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "core/base/limits.h"
#include "core/net/proxy_protocol.h"
#include "tests/unit/core/tls/hello_builder.h"

namespace hud {

void PrintTo(ProxyHeaderVerdict verdict, std::ostream* out) {
  constexpr const char* kNames[] = {"need more", "complete", "malformed"};
  *out << kNames[static_cast<size_t>(verdict)];
}

namespace {

using namespace test;  // NOLINT: the builder's words are this file's language

const Buffer kSignature = Text({"\r\n\r\n\0\r\nQUIT\n", 12});

Buffer V2(uint8_t command, uint8_t family, const Buffer& payload) {
  return kSignature + Buffer{command, family} + Vector16(payload);
}

const Buffer kTcp4 = {10, 0, 0, 1, 10, 0, 0, 2, 0x30, 0x39, 0x01, 0xbb};
const Buffer kTcp6 = Counting(16, 0x20) + Counting(16, 0x40) + Buffer{0x30, 0x39, 0x01, 0xbb};

// Of kTcp4 in a header of version 2 with this checksum and one byte of padding (computed by another program).
const Buffer kChecksum = {0x84, 0x50, 0xd5, 0x31};

Buffer Path(std::string_view path) { return Text(path) + Filled(108 - path.size(), 0); }

struct Parsed {
  ProxyHeaderVerdict verdict;
  ProxyHeader header;
};

// From a heap block of exactly that size, so that AddressSanitizer sees a read behind it.
Parsed Parse(Bytes input) {
  const auto exact = std::make_unique<uint8_t[]>(input.size());
  std::copy(input.begin(), input.end(), exact.get());
  Parsed parsed;
  parsed.verdict = ParseProxyHeader({exact.get(), input.size()}, parsed.header);
  return parsed;
}

SocketAddress Address(std::string_view text) { return SocketAddress::Parse(text).value(); }

TEST(ProxyHeader, SaysWhoTheClientIs) {
  const struct {
    const char* input;
    Buffer bytes;
    const char* source;
    const char* destination;
  } rows[] = {
      {"v1 TCP4", Text("PROXY TCP4 10.0.0.1 10.0.0.2 12345 443\r\n"), "10.0.0.1:12345", "10.0.0.2:443"},
      {"v1 TCP6", Text("PROXY TCP6 2001:db8::1 ::1 12345 443\r\n"), "[2001:db8::1]:12345", "[::1]:443"},
      {"v1 UNKNOWN", Text("PROXY UNKNOWN\r\n"), "none", "none"},
      {"v1 UNKNOWN with more", Text("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), "none", "none"},
      {"the longest v1", Text("PROXY UNKNOWN " + std::string(91, 'x') + "\r\n"), "none", "none"},
      {"v2 TCP4", V2(0x21, 0x11, kTcp4), "10.0.0.1:12345", "10.0.0.2:443"},
      {"v2 TCP4 with a checksum and padding", V2(0x21, 0x11, kTcp4 + Buffer{3, 0, 4} + kChecksum + Buffer{4, 0, 1, 0}),
       "10.0.0.1:12345", "10.0.0.2:443"},
      {"v1 TCP6 with a mapped address", Text("PROXY TCP6 ::ffff:10.0.0.1 ::1 1 2\r\n"), "10.0.0.1:1", "[::1]:2"},
      {"v2 TCP4 with TLVs", V2(0x21, 0x11, kTcp4 + Buffer{4, 0, 1, 0}), "10.0.0.1:12345", "10.0.0.2:443"},
      {"v2 TCP6", V2(0x21, 0x21, kTcp6), "[2021:2223:2425:2627:2829:2a2b:2c2d:2e2f]:12345",
       "[4041:4243:4445:4647:4849:4a4b:4c4d:4e4f]:443"},
      {"v2 unix", V2(0x21, 0x31, Path("/run/a") + Path("/run/b")), "unix:/run/a", "unix:/run/b"},
      {"v2 abstract unix", V2(0x21, 0x31, Path({"\0a", 2}) + Path("")), "unix:@a", "unix:"},
      {"v2 unix with paths that fill the field", V2(0x21, 0x31, Filled(216, 'x')), nullptr, nullptr},
      {"v2 LOCAL", V2(0x20, 0x00, {}), "none", "none"},
      {"v2 LOCAL with an address, which does not count", V2(0x20, 0x11, kTcp4), "none", "none"},
      {"v2 unspecified", V2(0x21, 0x00, Filled(9, 1)), "none", "none"},
      {"v2 UDP", V2(0x21, 0x12, kTcp4), "none", "none"},
      {"the longest v2",
       V2(0x21, 0x11,
          kTcp4 + Buffer{4} + U16(limits::kMaxProxyHeaderBytes - 31) + Filled(limits::kMaxProxyHeaderBytes - 31, 4)),
       "10.0.0.1:12345", "10.0.0.2:443"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.input);
    for (size_t count = 0; count < row.bytes.size(); ++count) {
      ASSERT_EQ(Parse(Bytes(row.bytes).first(count)).verdict, ProxyHeaderVerdict::kNeedMore) << "after " << count;
    }
    for (const Buffer& behind : {Buffer{}, Buffer{0x16, 3, 1}, Text("PROXY \r\n")}) {
      const auto [verdict, header] = Parse(row.bytes + behind);
      ASSERT_EQ(verdict, ProxyHeaderVerdict::kComplete);
      EXPECT_EQ(header.bytes_used, row.bytes.size());
      if (row.source == nullptr) continue;
      EXPECT_EQ(header.source.ToString(), row.source);
      EXPECT_EQ(header.destination.ToString(), row.destination);
    }
  }
}

TEST(ProxyHeader, CallsMalformedWhatBreaksARule) {
  const struct {
    const char* input;
    Buffer bytes;
  } rows[] = {
      {"a TLS record", {0x16, 3, 1, 2, 0}},
      {"HTTP", Text("GET / HTTP/1.1\r\n")},
      {"a method that begins like PROXY", Text("PROPFIND")},
      {"lower case", Text("proxy TCP4")},
      {"v1 without a protocol", Text("PROXY \r\n")},
      {"v1 with another protocol", Text("PROXY UDP4 10.0.0.1 10.0.0.2 1 2\r\n")},
      {"v1 TCP4 with IPv6", Text("PROXY TCP4 ::1 ::1 1 2\r\n")},
      {"v1 TCP6 with IPv4", Text("PROXY TCP6 10.0.0.1 10.0.0.2 1 2\r\n")},
      {"v1 with a name", Text("PROXY TCP4 localhost 10.0.0.2 1 2\r\n")},
      {"v1 with a unix path", Text("PROXY TCP4 unix unix:/a 1 2\r\n")},
      {"v1 with a zone", Text("PROXY TCP6 ::1%x ::1 1 2\r\n")},
      {"v1 with a numbered zone", Text("PROXY TCP6 fe80::1%2 ::1 1 2\r\n")},
      {"v1 with a port too large", Text("PROXY TCP4 10.0.0.1 10.0.0.2 1 65536\r\n")},
      {"v1 with a port missing", Text("PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n")},
      {"v1 with a word too many", Text("PROXY TCP4 10.0.0.1 10.0.0.2 1 2 3\r\n")},
      {"v1 with two blanks", Text("PROXY TCP4  10.0.0.1 10.0.0.2 1 2\r\n")},
      {"v1 with a line feed only", Text("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\n")},
      {"v1 with a carriage return only", Text("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\rx")},
      {"v1 of 108 bytes", Text("PROXY UNKNOWN " + std::string(92, 'x') + "\r\n")},
      {"v1 without end", Text("PROXY UNKNOWN" + std::string(200, ' '))},
      {"v2 with a wrong signature", Text({"\r\n\r\n\0\r\nQUIT\r", 12})},
      {"v2 of version 1", V2(0x11, 0x11, kTcp4)},
      {"v2 of version 3", V2(0x31, 0x11, kTcp4)},
      {"v2 with another command", V2(0x22, 0x11, kTcp4)},
      {"v2 with another family", V2(0x21, 0x41, kTcp4)},
      {"v2 with another protocol", V2(0x21, 0x13, kTcp4)},
      {"v2 TCP4 that is too short", V2(0x21, 0x11, Buffer(kTcp4.begin(), kTcp4.end() - 1))},
      {"v2 TCP6 that is too short", V2(0x21, 0x21, kTcp4)},
      {"v2 unix that is too short", V2(0x21, 0x31, Filled(215, 0))},
      {"v2 with a TLV longer than the header", V2(0x21, 0x11, kTcp4 + Buffer{4, 0, 2, 0})},
      {"v2 with a TLV of a type only", V2(0x21, 0x21, kTcp6 + Buffer{4})},
      {"v2 unix with stray bytes", V2(0x21, 0x31, Path("/a") + Path("/b") + Buffer{0, 0})},
      {"v2 with a wrong checksum", V2(0x21, 0x11, kTcp4 + Buffer{3, 0, 4} + kChecksum + Buffer{4, 0, 1, 1})},
      {"v2 with a checksum of three bytes", V2(0x21, 0x11, kTcp4 + Buffer{3, 0, 3, 1, 2, 3})},
      {"v2 longer than we take", kSignature + Buffer{0x21, 0x11} + U16(limits::kMaxProxyHeaderBytes - 15)},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.input);
    EXPECT_EQ(Parse(row.bytes).verdict, ProxyHeaderVerdict::kMalformed);
    EXPECT_EQ(Parse(row.bytes + Text("x\r\n")).verdict, ProxyHeaderVerdict::kMalformed);
    for (size_t count = 0; count < row.bytes.size(); ++count) {
      EXPECT_NE(Parse(Bytes(row.bytes).first(count)).verdict, ProxyHeaderVerdict::kComplete) << "after " << count;
    }
  }
}

TEST(ProxyHeader, IsWrittenAsTheServerExpectsIt) {
  const struct {
    const char* pair;
    SocketAddress client;
    SocketAddress local;
    Buffer bytes;
  } rows[] = {
      {"IPv4", Address("10.0.0.1:12345"), Address("10.0.0.2:443"), V2(0x21, 0x11, kTcp4)},
      {"IPv4 through a dual-stack socket", Address("[::ffff:10.0.0.1]:12345"), Address("[::ffff:10.0.0.2]:443"),
       V2(0x21, 0x11, kTcp4)},
      {"IPv6", Address("[2021:2223:2425:2627:2829:2a2b:2c2d:2e2f]:12345"),
       Address("[4041:4243:4445:4647:4849:4a4b:4c4d:4e4f]:443"), V2(0x21, 0x21, kTcp6)},
      {"IPv4 and IPv6", Address("10.0.0.1:12345"), Address("[::1]:443"),
       V2(0x21, 0x21,
          Filled(10, 0) + Buffer{0xff, 0xff, 10, 0, 0, 1} + Filled(15, 0) + Buffer{1, 0x30, 0x39, 0x01, 0xbb})},
      {"unix", Address("unix:/run/a"), Address("unix:@b"), V2(0x21, 0x31, Path("/run/a") + Path({"\0b", 2}))},
      {"unknown", SocketAddress(), Address("10.0.0.2:443"), V2(0x20, 0x00, {})},
      {"unix and IPv4", Address("unix:/run/a"), Address("10.0.0.2:443"), V2(0x20, 0x00, {})},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.pair);
    EXPECT_EQ(Hex(WriteProxyV2(row.client, row.local).bytes()), Hex(row.bytes));
  }
}

TEST(ProxyHeader, ComesBackAsItWasWritten) {
  for (const auto& [client, local] : std::initializer_list<std::pair<const char*, const char*>>{
           {"1.2.3.4:5", "6.7.8.9:10"},
           {"[2001:db8::1]:0", "[::1]:65535"},
           {"unix:/a", "unix:/b"},
           {"unix:@a", "unix:/b"},
       }) {
    const ProxyV2Header written = WriteProxyV2(Address(client), Address(local));
    const auto [verdict, header] = Parse(written.bytes());
    ASSERT_EQ(verdict, ProxyHeaderVerdict::kComplete);
    EXPECT_EQ(header.source, Address(client));
    EXPECT_EQ(header.destination, Address(local));
  }
}

}  // namespace
}  // namespace hud
