#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/affinity/token_lookup.h"
#include "core/tls/client_hello.h"
#include "core/tls/tls_record.h"
#include "tests/unit/core/tls/hello_builder.h"

namespace hud {

// For the words in a failed expectation.
void PrintTo(HelloVerdict verdict, std::ostream* out) {
  constexpr const char* kNames[] = {"need more", "complete", "not TLS", "malformed", "too large"};
  *out << kNames[static_cast<size_t>(verdict)];
}

namespace {

using namespace test;  // NOLINT: the builder's words are this file's language

constexpr size_t kCap = limits::kMaxHelloBytes;

struct Parsed {
  HelloVerdict verdict;
  ClientHello hello;
  Buffer input;
  bool OffersAlpn(std::string_view protocol) const { return hello.OffersAlpn(input, protocol); }
};

// From a heap block of exactly that size, so that AddressSanitizer sees a read behind it.
Parsed Parse(Bytes input, size_t cap = kCap) {
  const auto exact = std::make_unique<uint8_t[]>(input.size());
  std::copy(input.begin(), input.end(), exact.get());
  Parsed parsed;
  parsed.verdict = ParseClientHello({exact.get(), input.size()}, cap, parsed.hello);
  parsed.input.assign(input.begin(), input.end());
  return parsed;
}

Bytes Prefix(const Buffer& input, size_t count) { return Bytes(input).first(count); }

Buffer Padding(size_t count) { return Extension(21, Filled(count, 0)); }

// What a 1.3 client with everything says.
Buffer RichExtensions(size_t padding = 0) {
  return Extension(0x3a3a, {}) + ServerName("WWW.Example.Com") + Extension(23, {}) + Extension(0xff01, {0}) +
         Alpn({"h2", "http/1.1"}) + SupportedVersions({0x6a6a, 0x0304, 0x0303}) + Extension(0xfe0d, {0, 0, 1}) +
         EarlyData() + Padding(padding) + Extension(0xdada, {0}) + PreSharedKey({Counting(200, 1), Counting(32, 2)});
}

std::map<std::string, Buffer> ValidMessages() {
  return {
      {"a plain TLS 1.2 hello", Hello({.session_id = Counting(32, 7)}, ServerName("a.example"))},
      {"a TLS 1.2 hello with a ticket",
       Hello({.session_id = Counting(32, 7)}, ServerName("a.example") + Ticket(Counting(180, 9)))},
      {"a hello without extensions", HelloWithoutExtensions({.legacy_version = 0x0301})},
      {"a hello with an empty list of extensions", Hello({}, {})},
      {"a hello that says everything", Hello({.session_id = Counting(32, 7)}, RichExtensions())},
      {"a hello of 1.8 KB", Hello({.session_id = Counting(32, 7)}, RichExtensions(1400))},
  };
}

TEST(ClientHello, SaysWhatTheClientSaid) {
  const Buffer input = Records(Hello({.session_id = Counting(32, 7)}, RichExtensions()));
  const Parsed parsed = Parse(input);
  const ClientHello& hello = parsed.hello;
  ASSERT_EQ(parsed.verdict, HelloVerdict::kComplete);
  EXPECT_EQ(hello.server_name(), "www.example.com");
  EXPECT_TRUE(parsed.OffersAlpn("h2"));
  EXPECT_TRUE(parsed.OffersAlpn("http/1.1"));
  EXPECT_FALSE(parsed.OffersAlpn("http/1"));
  EXPECT_FALSE(parsed.OffersAlpn("http/1.1x"));
  EXPECT_FALSE(parsed.OffersAlpn(""));
  EXPECT_EQ(hello.flaw, HelloFlaw::kNone);
  EXPECT_EQ(hello.legacy_version, 0x0303);
  EXPECT_TRUE(hello.offers_tls13);
  EXPECT_TRUE(hello.early_data);
  EXPECT_TRUE(hello.ech);
  EXPECT_TRUE(hello.has_psk);
  EXPECT_FALSE(hello.has_ticket);
  EXPECT_EQ(Hex(hello.session_id.head_bytes()), Hex(Counting(32, 7)));
  ASSERT_EQ(hello.psk_identity_count, 2);
  EXPECT_EQ(hello.psk_identities[0].full_length, 200);
  EXPECT_EQ(Hex(hello.psk_identities[0].head_bytes()), Hex(Counting(32, 1)));
  EXPECT_FALSE(hello.psk_identities[0].IsWhole());
  EXPECT_EQ(Hex(hello.psk_identities[1].head_bytes()), Hex(Counting(32, 2)));
  EXPECT_TRUE(hello.psk_identities[1].IsWhole());
  EXPECT_EQ(hello.bytes_used, input.size());
}

TEST(ClientHello, ForgetsTheHelloBefore) {
  ClientHello hello;
  const Buffer rich = Records(Hello({.session_id = Counting(32, 7)}, RichExtensions()));
  const Buffer ticket = Records(Hello({}, Ticket(Counting(9, 9))));
  const Buffer plain = Records(HelloWithoutExtensions({}));
  ASSERT_EQ(ParseClientHello(rich, kCap, hello), HelloVerdict::kComplete);
  ASSERT_EQ(ParseClientHello(ticket, kCap, hello), HelloVerdict::kComplete);
  EXPECT_EQ(Describe(hello), Describe(Parse(ticket).hello));
  ASSERT_EQ(ParseClientHello(plain, kCap, hello), HelloVerdict::kComplete);
  EXPECT_EQ(Describe(hello), "name= alpn= version=771 session_id=/0 ticket=/0");
}

// What other proxies get wrong.
TEST(ClientHello, FindsTheServerWhereverTheBytesAreCut) {
  const Buffer message = Hello({.session_id = Counting(32, 7)}, ServerName("www.example.com") + Padding(300));
  const struct {
    const char* input;
    Buffer bytes;
    size_t cap = kCap;
  } rows[] = {
      {"one record", Record(message)},
      {"two records", SplitAt(message, 60)},
      {"two records, cut within the handshake header", SplitAt(message, 2)},
      {"two records, cut behind the handshake header", SplitAt(message, 4)},
      {"records of one byte", Records(message, 1)},
      {"an empty record first", Record({}) + Record(message)},
      {"three empty records first", Record({}) + Record({}) + Record({}) + Record(message)},
      {"0-RTT data behind", Record(message) + Record(Counting(1000, 3), 23)},
      {"a CCS and 0-RTT data behind", Record(message) + Record({1}, 20) + Record(Counting(1000, 3), 23)},
      {"half a record behind", Record(message) + Buffer{23, 3, 3, 0x40}},
      {"15 KB", Record(Hello({}, ServerName("www.example.com") + Padding(15000)))},
      {"20 KB over two records", Records(Hello({}, ServerName("www.example.com") + Padding(20000)))},
      {"60 KB, when the cap allows it", Records(Hello({}, ServerName("www.example.com") + Padding(60000))), 64 * 1024},
      {"a record version of SSL 3.0", Record(message, 22, 0)},
      {"a record version of TLS 1.2", Record(message, 22, 3)},
      {"GREASE everywhere",
       Record(Hello({.cipher_suites = {0x1a, 0x1a, 0x13, 0x01}},
                    Extension(0x0a0a, {}) + ServerName("www.example.com") + SupportedVersions({0x4a4a, 0x0304}) +
                        Alpn({"\x2a\x2a", "h2"}) + Extension(0xfafa, {0})))},
      {"a name of another type before the host name",
       Record(Hello({},
                    Extension(0, Vector16(Buffer{7} + Vector16(Counting(3, 1)) + HostName(Text("www.example.com"))))))},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.input);
    const auto [verdict, hello, bytes] = Parse(row.bytes, row.cap);
    ASSERT_EQ(verdict, HelloVerdict::kComplete);
    EXPECT_EQ(hello.server_name(), "www.example.com");
  }
}

TEST(ClientHello, LeavesEarlyDataToTheRelay) {
  const Buffer one = Record(Hello({}, EarlyData() + PreSharedKey({Counting(32, 1)})));
  const Buffer many = Records(Hello({}, EarlyData() + PreSharedKey({Counting(32, 1)})), 20);
  for (const Buffer& hello : {one, many}) {
    const Parsed parsed = Parse(hello + Record(Counting(500, 3), 23));
    ASSERT_EQ(parsed.verdict, HelloVerdict::kComplete);
    EXPECT_EQ(parsed.hello.bytes_used, hello.size());
    EXPECT_TRUE(parsed.hello.early_data);
  }
}

TEST(ClientHello, TellsWhatIsNotTls) {
  const struct {
    const char* input;
    Buffer bytes;
    NotTlsKind kind;
  } rows[] = {
      {"an SSLv2 hello", Buffer{0x80, 0x2e, 0x01, 0x03, 0x01, 0x00, 0x15}, NotTlsKind::kSslv2},
      {"the first byte of an SSLv2 hello", Buffer{0x80}, NotTlsKind::kSslv2},
      {"plain HTTP", Text("GET / HTTP/1.1\r\n"), NotTlsKind::kHttp},
      {"HTTP with a method that begins like PROXY", Text("PROPFIND / HTTP/1.1\r\n"), NotTlsKind::kHttp},
      {"HTTP/2 with prior knowledge", Text("PRI * HTTP/2.0\r\n"), NotTlsKind::kHttp},
      {"half a method", Text("PU"), NotTlsKind::kHttp},
      {"an alert", Buffer{21, 3, 1, 0, 2, 2, 40}, NotTlsKind::kAlert},
      {"a CCS", Buffer{20, 3, 3, 0, 1, 1}, NotTlsKind::kChangeCipherSpec},
      {"a PROXY v1 header", Text("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n"), NotTlsKind::kProxyHeader},
      {"a PROXY v2 header", Text({"\r\n\r\n\0\r\nQUIT\n\x21\x11", 14}), NotTlsKind::kProxyHeader},
      {"SSH", Text("SSH-2.0-OpenSSH_9.2\r\n"), NotTlsKind::kOther},
      {"SMTP", Text("EHLO\r\n"), NotTlsKind::kOther},
      {"application data", Buffer{23, 3, 3, 0, 1, 1}, NotTlsKind::kOther},
      {"a handshake record of no TLS version", Buffer{22, 5, 1, 0, 1, 1}, NotTlsKind::kOther},
      {"zeros", Filled(10, 0), NotTlsKind::kOther},
      {"high bytes that are no SSLv2 hello", Filled(10, 0xff), NotTlsKind::kOther},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.input);
    EXPECT_EQ(Parse(row.bytes).verdict, HelloVerdict::kNotTls);
    EXPECT_EQ(ClassifyNotTls(row.bytes), row.kind);
  }
  EXPECT_EQ(ClassifyNotTls({}), NotTlsKind::kNone);
}

Buffer ManyExtensions(size_t count) {
  Buffer out;
  for (size_t i = 0; i < count; ++i) out = out + Extension(static_cast<uint16_t>(1000 + i), {});
  return out;
}

// `message` with another length in its handshake header.
Buffer Claiming(size_t length, Buffer message) {
  const Buffer bytes = Number(length, 3);
  std::copy(bytes.begin(), bytes.end(), message.begin() + 1);
  return message;
}

// A hello with `tail` in the place of its extensions and their length.
Buffer WithTail(const Buffer& tail) {
  const Buffer message = HelloWithoutExtensions({}) + tail;
  return Claiming(message.size() - 4, message);
}

TEST(ClientHello, CallsMalformedWhatBreaksARule) {
  const Buffer psk = PreSharedKey({Counting(32, 1)});
  const Buffer binders = Vector16(Vector8(Filled(32, 1)));
  const Buffer plain = Hello({}, ServerName("a.example"));
  const struct {
    const char* input;
    Buffer bytes;
  } rows[] = {
      {"another handshake message first", Record(Handshake(2, Filled(60, 0)))},
      {"a record longer than 2^14", Buffer{22, 3, 1, 0x40, 0x01, 1}},
      {"a record of another type within the message", Record({1, 0, 0, 100}) + Record({1}, 20)},
      {"a record of another major version within the message", Record({1, 0, 0, 100}) + Buffer{22, 2}},
      {"application data behind an empty record", Record({}) + Record({1}, 23)},
      {"a hello without a name that ends before its record", Record(Hello({}, {}) + Buffer{0})},
      {"a claimed length of 0", Record(Handshake(1, {}))},
      {"a body cut short", Record(Claiming(40, Buffer(plain.begin(), plain.begin() + 44)))},
      {"a session id of 33 bytes", Record(Hello({.session_id = Counting(33, 1)}, {}))},
      {"a session id longer than the message", Record(Handshake(1, U16(0x0303) + Filled(32, 1) + Buffer{32, 1, 2}))},
      {"no cipher suites", Record(Hello({.cipher_suites = {}}, {}))},
      {"half a cipher suite", Record(Hello({.cipher_suites = {0x13, 0x01, 0x13}}, {}))},
      {"no compression method", Record(Hello({.compression_methods = {}}, {}))},
      {"one byte behind the compression methods", Record(WithTail({0}))},
      {"a byte behind the extensions", Record(WithTail({0, 0, 0}))},
      {"extensions longer than the message", Record(WithTail({0, 1}))},
      {"half an extension header", Record(Hello({}, {0, 23, 0}))},
      {"an extension longer than the list", Record(Hello({}, {0, 23, 0, 1}))},
      {"two SNI extensions", Record(Hello({}, ServerName("a.example") + ServerName("b.example")))},
      {"two host names in one SNI extension",
       Record(Hello({}, Extension(0, Vector16(HostName(Text("a.example")) + HostName(Text("b.example"))))))},
      {"an empty SNI extension", Record(Hello({}, Extension(0, {})))},
      {"an empty SNI list", Record(Hello({}, Extension(0, {0, 0})))},
      {"an empty host name", Record(Hello({}, ServerName("")))},
      {"a host name of 256 bytes", Record(Hello({}, ServerName(std::string(256, 'a'))))},
      {"a zero byte in the host name", Record(Hello({}, ServerName({"a\0b", 3})))},
      {"an SNI list shorter than the extension",
       Record(Hello({}, Extension(0, Vector16(HostName(Text("a"))) + Buffer{0})))},
      {"a host name longer than the SNI list", Record(Hello({}, Extension(0, {0, 4, 0, 0, 9, 'a'})))},
      {"an empty ALPN list", Record(Hello({}, Extension(16, {0, 0})))},
      {"an empty ALPN name", Record(Hello({}, Alpn({"h2", ""})))},
      {"an ALPN name longer than the list", Record(Hello({}, Extension(16, {0, 2, 9, 'h'})))},
      {"an empty list of versions", Record(Hello({}, Extension(43, {0})))},
      {"half a version", Record(Hello({}, Extension(43, {3, 3, 4, 3})))},
      {"a list of versions shorter than the extension", Record(Hello({}, Extension(43, {2, 3, 4, 3})))},
      {"an early data extension that says something", Record(Hello({}, Extension(42, {0})))},
      {"two tickets", Record(Hello({}, Ticket(Counting(50, 1)) + Ticket(Counting(50, 2))))},
      {"an empty ticket and another one", Record(Hello({}, Ticket({}) + Ticket(Counting(50, 2))))},
      {"two PSK extensions", Record(Hello({}, psk + psk))},
      {"a PSK extension that is not the last", Record(Hello({}, psk + Extension(23, {})))},
      {"an empty PSK extension", Record(Hello({}, Extension(41, {})))},
      {"a PSK extension without identities", Record(Hello({}, Extension(41, U16(0) + binders)))},
      {"a PSK identity of 0 bytes", Record(Hello({}, PreSharedKey({{}})))},
      {"a PSK identity of 0 bytes behind a good one", Record(Hello({}, PreSharedKey({Counting(32, 1), {}})))},
      {"a PSK identity without its age", Record(Hello({}, Extension(41, Vector16(Vector16({1, 2})) + binders)))},
      {"a PSK identity longer than its list", Record(Hello({}, Extension(41, Vector16({0, 9, 1}) + binders)))},
      {"a PSK without binders", Record(Hello({}, Extension(41, Vector16(Vector16({1}) + Number(0, 4)))))},
      {"an empty list of binders", Record(Hello({}, Extension(41, Vector16(Vector16({1}) + Number(0, 4)) + U16(0))))},
      {"fewer binders than identities", Record(Hello({}, PreSharedKey({Counting(32, 1), Counting(32, 2)}, -1)))},
      {"more binders than identities", Record(Hello({}, PreSharedKey({Counting(32, 1)}, 1)))},
      {"a binder of 31 bytes", Record(Hello({}, PreSharedKey({Counting(32, 1)}, 0, 31)))},
      {"a PSK extension with a byte too many",
       Record(Hello({}, Extension(41, Vector16(Vector16({1}) + Number(0, 4)) + binders + Buffer{0})))},
      {"an unknown extension twice", Record(Hello({}, Extension(23, {}) + Extension(23, {})))},
      {"one GREASE value twice", Record(Hello({}, Extension(0x3a3a, {}) + Extension(0x3a3a, {})))},
      {"the first of 2000 extensions twice", Record(Hello({}, ManyExtensions(2000) + Extension(1000, {})))},
      {"the last of 2000 extensions twice", Record(Hello({}, ManyExtensions(2000) + Extension(2999, {})))},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.input);
    EXPECT_EQ(Parse(row.bytes).verdict, HelloVerdict::kMalformed);
    EXPECT_NE(Parse(row.bytes).hello.flaw, HelloFlaw::kNone);
    // What follows changes nothing, and no part of it can have looked whole.
    EXPECT_EQ(Parse(row.bytes + Filled(100, 22)).verdict, HelloVerdict::kMalformed);
    bool decided = false;
    for (size_t count = 0; count <= row.bytes.size(); ++count) {
      const HelloVerdict verdict = Parse(Prefix(row.bytes, count)).verdict;
      EXPECT_EQ(verdict,
                verdict == HelloVerdict::kNeedMore && !decided ? HelloVerdict::kNeedMore : HelloVerdict::kMalformed);
      decided = verdict != HelloVerdict::kNeedMore;
    }
  }
}

// A server name that can be read routes, whatever else is wrong: OpenSSL serves most of these by their name, and to the
// others the server of that name has an answer. No token of such a hello is looked up.
TEST(ClientHello, AFlawElsewhereLosesNoServerName) {
  const Buffer name = ServerName("a.example");
  const Buffer ticket = Ticket(Counting(50, 1));
  const Buffer psk = PreSharedKey({Counting(32, 1)});
  const Buffer plain = Hello({.session_id = Counting(32, 1)}, name + ticket);
  const auto with = [&](const Buffer& extensions) { return Record(Hello({}, extensions)); };
  const struct {
    const char* input;
    Buffer bytes;
    HelloFlaw flaw;
  } rows[] = {
      {"an empty record within the message", SplitAt(plain, 60) + Record({}), HelloFlaw::kNone},
      {"an empty record between two of the message",
       Record(Buffer(plain.begin(), plain.begin() + 60)) + Record({}) + Record(Buffer(plain.begin() + 60, plain.end())),
       HelloFlaw::kEmptyRecord},
      {"an empty record within the handshake header",
       Record(Buffer(plain.begin(), plain.begin() + 1)) + Record({}) + Record(Buffer(plain.begin() + 1, plain.end())),
       HelloFlaw::kEmptyRecord},
      {"a byte behind the hello in its record", Record(plain + Buffer{0}), HelloFlaw::kBytesBehind},
      {"another message behind the hello in its record", Record(plain + plain), HelloFlaw::kBytesBehind},
      {"another message behind a hello of two records", SplitAt(plain + plain, 60), HelloFlaw::kBytesBehind},
      {"a session id of 33 bytes", Record(Hello({.session_id = Counting(33, 1)}, name)), HelloFlaw::kSessionId},
      {"no cipher suites", Record(Hello({.cipher_suites = {}}, name + ticket)), HelloFlaw::kCipherSuites},
      {"half a cipher suite", Record(Hello({.cipher_suites = {0x13, 1, 0x13}}, name)), HelloFlaw::kCipherSuites},
      {"no compression method", Record(Hello({.compression_methods = {}}, name)), HelloFlaw::kCompressionMethods},
      {"a byte behind the extensions", Record(WithTail(Vector16(name) + Buffer{0})), HelloFlaw::kExtensions},
      {"extensions longer than the message", Record(WithTail(U16(name.size() + 1) + name)), HelloFlaw::kExtensions},
      {"half an extension header behind the name", with(name + Buffer{0, 23, 0}), HelloFlaw::kExtensions},
      {"an extension longer than the list behind the name", with(name + ticket + Buffer{0, 23, 0, 1}), HelloFlaw::kExtensions},
      {"an unknown extension twice", with(name + Extension(23, {}) + ticket + Extension(23, {})), HelloFlaw::kDuplicateExtension},
      {"one GREASE value twice", with(Extension(0x3a3a, {}) + Extension(0x3a3a, {}) + name), HelloFlaw::kDuplicateExtension},
      {"the first of 2000 extensions twice", with(ManyExtensions(2000) + Extension(1000, {}) + name), HelloFlaw::kDuplicateExtension},
      {"two tickets", with(ticket + ticket + name), HelloFlaw::kDuplicateExtension},
      {"two ALPN lists", with(Alpn({"h2"}) + Alpn({"h3"}) + name), HelloFlaw::kDuplicateExtension},
      {"an empty ALPN list", with(Extension(16, {0, 0}) + name), HelloFlaw::kAlpn},
      {"an ALPN name longer than the list", with(name + Extension(16, {0, 2, 9, 'h'})), HelloFlaw::kAlpn},
      {"half a version", with(name + Extension(43, {3, 3, 4, 3}) + ticket), HelloFlaw::kSupportedVersions},
      {"an early data extension that says something", with(name + Extension(42, {0}) + psk), HelloFlaw::kEarlyData},
      {"a PSK extension that is not the last", with(psk + name), HelloFlaw::kPreSharedKey},
      {"an empty PSK extension", with(name + ticket + Extension(41, {})), HelloFlaw::kPreSharedKey},
      {"fewer binders than identities", with(name + PreSharedKey({Counting(32, 1), Counting(32, 2)}, -1)),
       HelloFlaw::kPreSharedKey},
      {"two flaws: the first counts", with(Extension(42, {0}) + name + Extension(41, {})), HelloFlaw::kEarlyData},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.input);
    const Parsed parsed = Parse(row.bytes);
    ASSERT_EQ(parsed.verdict, HelloVerdict::kComplete);
    EXPECT_EQ(parsed.hello.server_name(), "a.example");
    EXPECT_EQ(HelloFlawName(parsed.hello.flaw), HelloFlawName(row.flaw));
    if (row.flaw == HelloFlaw::kNone) continue;
    EXPECT_EQ(CandidatesOf(parsed.hello).count, 0) << Describe(parsed.hello);
    EXPECT_EQ(parsed.hello.bytes_used, row.bytes.size());
    for (size_t count = 0; count < row.bytes.size(); ++count) {
      ASSERT_EQ(Parse(Prefix(row.bytes, count)).verdict, HelloVerdict::kNeedMore) << "after " << count;
    }
    EXPECT_EQ(Describe(Parse(row.bytes + Filled(100, 22)).hello), Describe(parsed.hello));
  }
}

TEST(ClientHello, ReadsAlpnListsOfAnyLength) {
  Buffer list;
  for (int i = 0; i < 600; ++i) list = list + Vector8(Text("protocol-" + std::to_string(i)));
  const Buffer extensions = ServerName("a.example") + Extension(16, Vector16(list + Vector8(Text("last")) + Vector8(Filled(255, 'x'))));
  const Buffer message = Hello({}, extensions + Extension(23, {}));
  for (const Buffer& input : {Record(message), SplitAt(message, 300), SplitAt(message, message.size() - 262), Records(message, 100),
                              Record({}) + Records(message, 7)}) {
    const Parsed parsed = Parse(input);
    ASSERT_EQ(parsed.verdict, HelloVerdict::kComplete);
    EXPECT_TRUE(parsed.OffersAlpn("protocol-0"));
    EXPECT_TRUE(parsed.OffersAlpn("protocol-599"));
    EXPECT_TRUE(parsed.OffersAlpn("last"));
    EXPECT_TRUE(parsed.OffersAlpn(std::string(255, 'x')));
    EXPECT_FALSE(parsed.OffersAlpn("protocol-600"));
    EXPECT_FALSE(parsed.OffersAlpn("protocol-"));
    EXPECT_FALSE(parsed.OffersAlpn(std::string(254, 'x')));
  }
}

TEST(ClientHello, SaysNothingOfAMalformedHello) {
  const auto [verdict, hello, bytes] =
      Parse(Record(Hello({.session_id = Counting(32, 1)}, RichExtensions() + ServerName("b.example"))));
  ASSERT_EQ(verdict, HelloVerdict::kMalformed);
  EXPECT_EQ(Describe(hello), "name= alpn= version=0 session_id=/0 ticket=/0");
}

TEST(ClientHello, TakesWhatIsOddButAllowed) {
  const struct {
    const char* input;
    Buffer extensions;
    const char* says;
  } rows[] = {
      {"2000 extensions", ManyExtensions(2000), ""},
      {"a host name of 255 bytes", ServerName(std::string(255, 'A')), ""},
      {"an empty ticket", Ticket({}), "ticket=/0"},
      {"a ticket of one byte", Ticket({7}), "has_ticket session_id=/0 ticket=07/1"},
      {"a PSK identity of one byte", PreSharedKey({{7}}), "has_psk session_id=/0 ticket=/0 psk=07/1"},
      {"a binder of 255 bytes", PreSharedKey({{7}}, 0, 255), "psk=07/1"},
      {"six PSK identities, of which four are kept", PreSharedKey({{1}, {2}, {3}, {4}, {5}, {6}}),
       "psk=01/1 psk=02/1 psk=03/1 psk=04/1"},
      {"an inner ECH", Extension(0xfe0d, {1}), "version=771 session_id"},
      {"an empty ECH", Extension(0xfe0d, {}), "version=771 session_id"},
      {"TLS 1.2 only, by supported_versions", SupportedVersions({0x0303}), "version=771 session_id"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.input);
    const auto [verdict, hello, bytes] = Parse(Record(Hello({}, row.extensions)));
    ASSERT_EQ(verdict, HelloVerdict::kComplete);
    EXPECT_NE(Describe(hello).find(row.says), std::string::npos) << Describe(hello);
  }
  EXPECT_EQ(Parse(Record(Hello({}, ServerName(std::string(255, 'A'))))).hello.server_name(), std::string(255, 'a'));
  EXPECT_EQ(Parse(Record(Hello({}, PreSharedKey({{1}, {2}, {3}, {4}, {5}, {6}})))).hello.psk_identity_count, 4);
}

TEST(ClientHello, IsTooLargeAsSoonAsThatIsCertain) {
  const Buffer exact = Record(Hello({}, Padding(kCap / 4)));
  const Buffer two_records = Records(Hello({}, Padding(20000)));
  const struct {
    const char* input;
    Buffer bytes;
    size_t cap;
    HelloVerdict verdict;
  } rows[] = {
      {"a hello as long as the cap", exact, exact.size(), HelloVerdict::kComplete},
      {"a hello one byte longer than the cap", exact, exact.size() - 1, HelloVerdict::kTooLarge},
      {"its first nine bytes", Buffer(exact.begin(), exact.begin() + 9), exact.size() - 1, HelloVerdict::kTooLarge},
      {"its first eight bytes", Buffer(exact.begin(), exact.begin() + 8), exact.size() - 1, HelloVerdict::kNeedMore},
      {"a claim of 16 MB", Record({1, 0xff, 0xff, 0xff}), kCap, HelloVerdict::kTooLarge},
      {"a claim of 16 MB under the largest cap", Record({1, 0xff, 0xff, 0xff}), ~size_t{0}, HelloVerdict::kTooLarge},
      {"a claim that fits but for the header of its second record", Record({1, 0, 0x7f, 0xf4}), kCap,
       HelloVerdict::kTooLarge},
      {"a claim that just fits", Buffer{22, 3, 1, 0x40, 0, 1, 0, 0x7f, 0xf2}, kCap, HelloVerdict::kNeedMore},
      {"two records as long as the cap", two_records, two_records.size(), HelloVerdict::kComplete},
      {"two records longer than the cap, by the first one's header",
       Buffer(two_records.begin(), two_records.begin() + 9), two_records.size() - 1, HelloVerdict::kTooLarge},
      {"records of one byte that cannot fit any more", Records(Hello({}, Padding(6000)), 1), kCap,
       HelloVerdict::kTooLarge},
      {"nothing, under a cap of 0", {}, 0, HelloVerdict::kTooLarge},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.input);
    EXPECT_EQ(Parse(row.bytes, row.cap).verdict, row.verdict);
  }
}

TEST(ClientHello, BoundsEmptyRecordsByTheCap) {
  Buffer input;
  for (size_t count = 0; input.size() < 1000; ++count) input = input + Record({});
  EXPECT_EQ(Parse(input, 1001).verdict, HelloVerdict::kNeedMore);
  EXPECT_EQ(Parse(input, 1000).verdict, HelloVerdict::kTooLarge);
}

TEST(ClientHello, TellsOneByteRecordsThatCannotFitLongBeforeTheCap) {
  const Buffer input = Records(Hello({}, Padding(30000)), 1);
  size_t decided = 0;
  while (Parse(Prefix(input, decided)).verdict == HelloVerdict::kNeedMore) ++decided;
  EXPECT_EQ(Parse(Prefix(input, decided)).verdict, HelloVerdict::kTooLarge);
  EXPECT_LT(decided, kCap / 4);
}

// Incremental = whole, for all that is right.
void ExpectNeedMoreUntilWhole(const Buffer& input, size_t hello_bytes) {
  const std::string whole = Describe(Parse(input).hello);
  for (size_t count = 0; count <= input.size(); ++count) {
    const auto [verdict, hello, bytes] = Parse(Prefix(input, count));
    ASSERT_EQ(verdict, count < hello_bytes ? HelloVerdict::kNeedMore : HelloVerdict::kComplete) << "after " << count;
    if (verdict != HelloVerdict::kComplete) continue;
    ASSERT_EQ(hello.bytes_used, hello_bytes);
    ASSERT_EQ(Describe(hello), whole);
  }
}

TEST(ClientHello, EveryStrictPrefixNeedsMore) {
  for (const auto& [name, message] : ValidMessages()) {
    SCOPED_TRACE(name);
    for (const Buffer& records : {Record(message), SplitAt(message, message.size() / 2), Records(message, 7)}) {
      ExpectNeedMoreUntilWhole(records + Record(Counting(40, 5), 23), records.size());
    }
  }
}

TEST(ClientHello, EverySplitIntoTwoRecordsSaysTheSame) {
  for (const auto& [name, message] : ValidMessages()) {
    SCOPED_TRACE(name);
    const std::string whole = Describe(Parse(Record(message)).hello);
    for (size_t cut = 1; cut < message.size(); ++cut) {
      const Buffer input = SplitAt(message, cut);
      const auto [verdict, hello, bytes] = Parse(input);
      ASSERT_EQ(verdict, HelloVerdict::kComplete) << "cut at " << cut;
      ASSERT_EQ(hello.bytes_used, input.size());
      ASSERT_EQ(Describe(hello), whole) << "cut at " << cut;
    }
  }
}

TEST(ClientHello, EveryRandomSplitSaysTheSame) {
  std::mt19937 random(1);
  for (const auto& [name, message] : ValidMessages()) {
    SCOPED_TRACE(name);
    const std::string whole = Describe(Parse(Record(message)).hello);
    for (int round = 0; round < 200; ++round) {
      Buffer input;
      for (size_t at = 0; at < message.size();) {
        const size_t size = std::min<size_t>(1 + random() % (round % 2 ? 5 : 200), message.size() - at);
        input = input +
                Record(Buffer(message.begin() + static_cast<long>(at), message.begin() + static_cast<long>(at + size)));
        at += size;
      }
      const auto [verdict, hello, bytes] = Parse(input);
      ASSERT_EQ(verdict, HelloVerdict::kComplete) << "round " << round;
      ASSERT_EQ(Describe(hello), whole) << "round " << round;
    }
  }
}

TEST(ClientHello, EveryChangedByteGivesAnAnswerThatLasts) {
  for (const auto& [name, message] : ValidMessages()) {
    SCOPED_TRACE(name);
    Buffer input = Record(message);
    for (size_t at = 0; at < input.size(); ++at) {
      for (int change : {0x01, 0x80, 0xff}) {
        input[at] ^= static_cast<uint8_t>(change);
        const HelloVerdict verdict = Parse(input).verdict;
        if (verdict != HelloVerdict::kNeedMore) {
          EXPECT_EQ(Parse(input + Filled(50, 0xee)).verdict, verdict) << "byte " << at;
        }
        input[at] ^= static_cast<uint8_t>(change);
      }
    }
  }
}

}  // namespace
}  // namespace hud
