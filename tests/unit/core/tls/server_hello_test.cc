#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>

#include "core/tls/server_hello.h"
#include "core/tls/tls_record.h"
#include "tests/unit/core/tls/hello_builder.h"

namespace hud {

void PrintTo(ResumptionVerdict verdict, std::ostream* out) {
  constexpr const char* kNames[] = {"need more", "resumed", "full", "unknown"};
  *out << kNames[static_cast<size_t>(verdict)];
}

namespace {

using namespace test;  // NOLINT: the builder's words are this file's language

const Buffer kClientId = Counting(32, 7);
const Buffer kServerId = Counting(32, 99);
const Buffer kRetryRandom = {0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c,
                             0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb,
                             0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c};
const Buffer kChosen13 = Extension(43, {3, 4});
const Buffer kKeyShare = Extension(51, Filled(36, 1));
const Buffer kChosenPsk = Extension(41, {0, 0});
const Buffer kCcs = Record({1}, 20, 3);
const Buffer kEncrypted = Record(Filled(50, 0xee), 23, 3);

const Buffer kFull13 = ServerHello({.session_id = kClientId}, kChosen13 + kKeyShare);
const Buffer kResumed13 = ServerHello({.session_id = kClientId}, kKeyShare + kChosenPsk + kChosen13);
const Buffer kRetry =
    ServerHello({.random = kRetryRandom, .session_id = kClientId}, kChosen13 + Extension(51, {0, 23}));
const Buffer kFull12 = ServerHello({.session_id = kServerId}, Extension(0xff01, {0}));
const Buffer kEcho12 = ServerHello({.session_id = kClientId}, Extension(0xff01, {0}));
const Buffer kNoId12 = ServerHello({}, Extension(35, {}));
const Buffer kCertificate = Handshake(11, Filled(3000, 0xce));
const Buffer kNewTicket = Handshake(4, Filled(180, 0x71));

ClientHello Client(const Buffer& session_id, const Buffer& extensions) {
  ClientHello hello;
  EXPECT_EQ(ParseClientHello(Record(Hello({.session_id = session_id}, extensions)), limits::kMaxHelloBytes, hello),
            HelloVerdict::kComplete);
  return hello;
}

// The clients that come: each offers what its name says.
const ClientHello kNothing12 = Client({}, {});
const ClientHello kSessionId12 = Client(kClientId, {});
const ClientHello kTicket12 = Client(kClientId, Ticket(Counting(180, 1)));
const ClientHello kTicketWithoutId12 = Client({}, Ticket(Counting(180, 1)));
const ClientHello kNothing13 = Client(kClientId, SupportedVersions({0x0304, 0x0303}));
const ClientHello kPsk13 = Client(kClientId, SupportedVersions({0x0304, 0x0303}) + PreSharedKey({Counting(200, 1)}));

struct Read {
  ResumptionVerdict verdict;
  ServerHelloFacts facts;
};

// From a heap block of exactly that size, so that AddressSanitizer sees a read behind it.
Read ReadAll(Bytes input, const ClientHello& hello) {
  const auto exact = std::make_unique<uint8_t[]>(input.size());
  std::copy(input.begin(), input.end(), exact.get());
  Read read;
  read.verdict = ReadResumption({exact.get(), input.size()}, hello, read.facts);
  return read;
}

struct Row {
  const char* server;
  Buffer bytes;
  const ClientHello& client;
  ResumptionVerdict verdict;
};

std::vector<Row> Rows() {
  constexpr auto kResumed = ResumptionVerdict::kResumed;
  constexpr auto kFull = ResumptionVerdict::kFull;
  constexpr auto kUnknown = ResumptionVerdict::kUnknown;
  constexpr auto kMore = ResumptionVerdict::kNeedMore;
  return {
      {"TLS 1.3 takes the PSK", Record(kResumed13) + kCcs + kEncrypted, kPsk13, kResumed},
      {"TLS 1.3 does not take the PSK", Record(kFull13) + kCcs + kEncrypted, kPsk13, kFull},
      {"TLS 1.3 echoes the session id, which proves nothing", Record(kFull13), kNothing13, kFull},
      {"TLS 1.3 takes a PSK that was not offered", Record(kResumed13), kNothing13, kUnknown},
      {"a retry, and nothing yet", Record(kRetry) + kCcs, kPsk13, kMore},
      {"a retry, a CCS, then the PSK is taken", Record(kRetry) + kCcs + Record(kResumed13), kPsk13, kResumed},
      {"a retry, a CCS, then the PSK is not taken", Record(kRetry) + kCcs + Record(kFull13), kPsk13, kFull},
      {"a retry without a CCS behind", Record(kRetry) + Record(kResumed13), kPsk13, kResumed},
      {"a retry and the hello in one record", Record(kRetry + kResumed13), kPsk13, kResumed},
      {"a retry and a hello in records of 10 bytes with a CCS between",
       Records(kRetry, 10) + kCcs + Records(kResumed13, 10), kPsk13, kResumed},
      {"two retries", Record(kRetry) + kCcs + Record(kRetry) + Record(kResumed13), kPsk13, kUnknown},
      {"a CCS first", kCcs + Record(kResumed13), kPsk13, kUnknown},
      {"a CCS within the hello",
       Record(Buffer(kFull13.begin(), kFull13.begin() + 20)) + kCcs +
           Record(Buffer(kFull13.begin() + 20, kFull13.end())),
       kPsk13, kUnknown},
      {"records of one byte", Records(kResumed13, 1), kPsk13, kResumed},
      {"TLS 1.2 in answer to a PSK", Record(kFull12 + kCertificate), kPsk13, kFull},

      {"TLS 1.2 echoes the session id", Record(kEcho12) + kCcs, kSessionId12, kResumed},
      {"TLS 1.2 chooses another session id", Record(kFull12 + kCertificate), kSessionId12, kFull},
      {"TLS 1.2 chooses no session id", Record(kNoId12 + kCertificate), kSessionId12, kFull},
      {"TLS 1.2 gives a session id to a client without one", Record(kFull12 + kCertificate), kNothing12, kFull},
      {"TLS 1.2 gives no session id to a client without one", Record(kNoId12), kNothing12, kFull},
      {"TLS 1.2 takes the ticket: the client's own id comes back", Record(kEcho12 + kNewTicket), kTicket12, kResumed},
      {"TLS 1.2 does not take the ticket", Record(kFull12 + kCertificate), kTicket12, kFull},
      {"TLS 1.2 does not take the ticket, and gives no id", Record(kNoId12 + kCertificate), kTicket12, kFull},
      {"a 1.3 client's id of a TLS 1.2 session comes back", Record(kEcho12), kNothing13, kResumed},
      {"a ticket without an id is taken: a new ticket follows", Record(kNoId12 + kNewTicket), kTicketWithoutId12,
       kResumed},
      {"a ticket without an id is taken: a new ticket follows in its own record", Record(kNoId12) + Record(kNewTicket),
       kTicketWithoutId12, kResumed},
      {"a ticket without an id is taken: the short handshake ends", Record(kNoId12) + kCcs, kTicketWithoutId12,
       kResumed},
      {"a ticket without an id is taken, and the server makes up an id", Record(kFull12) + kCcs, kTicketWithoutId12,
       kResumed},
      {"a ticket without an id is not taken", Record(kNoId12 + kCertificate), kTicketWithoutId12, kFull},
      {"a ticket without an id: not known yet", Record(kNoId12), kTicketWithoutId12, kMore},
      {"a ticket without an id: an alert", Record(kNoId12) + Record({2, 40}, 21), kTicketWithoutId12, kUnknown},
      {"a ServerHello without extensions",
       Record(Handshake(2, U16(0x0301) + Filled(32, 1) + Vector8(kClientId) + Buffer{0, 0x2f, 0})), kSessionId12,
       kResumed},

      {"a fatal alert", Record({2, 40}, 21), kPsk13, kUnknown},
      {"the alert that we send ourselves",
       Buffer(tls::kUnrecognizedNameAlert.begin(), tls::kUnrecognizedNameAlert.end()), kPsk13, kUnknown},
      {"a warning, then the hello", Record({1, 112}, 21) + Record(kEcho12), kSessionId12, kResumed},
      {"a warning that closes", Record({1, 0}, 21) + Record(kEcho12), kSessionId12, kUnknown},
      {"an alert of one byte", Record({1}, 21) + Record(kEcho12), kSessionId12, kUnknown},
      {"half an alert", Buffer{21, 3, 3, 0, 2, 2}, kPsk13, kMore},
      {"plain HTTP", Text("HTTP/1.1 400 Bad Request\r\n"), kPsk13, kUnknown},
      {"application data", kEncrypted, kPsk13, kUnknown},
      {"another version of the record", Buffer{22, 2, 0, 0, 1, 2}, kPsk13, kUnknown},
      {"another handshake message", Record(kCertificate), kPsk13, kUnknown},
      {"an empty record", Record({}) + Record(kResumed13), kPsk13, kUnknown},
      {"a record longer than 2^14", Buffer{22, 3, 3, 0x40, 1}, kPsk13, kUnknown},
      {"a message longer than we read", Record({2, 0, 0x40, 1}), kPsk13, kUnknown},
      {"an empty hello", Record({2, 0, 0, 0}), kPsk13, kUnknown},
      {"a hello cut short", Record(Handshake(2, Buffer(kFull13.begin() + 4, kFull13.begin() + 30))), kPsk13, kUnknown},
      {"a session id of 33 bytes", Record(ServerHello({.session_id = Counting(33, 7)}, kChosen13)), kPsk13, kUnknown},
      {"extensions longer than the hello",
       Record(Handshake(2, U16(0x0303) + Filled(32, 1) + Buffer{0} + Buffer{0x13, 1, 0} + U16(9))), kPsk13, kUnknown},
      {"an extension longer than the list", Record(ServerHello({}, {0, 43, 0, 9, 3, 4})), kPsk13, kUnknown},
      {"nothing", {}, kPsk13, kMore},
  };
}

TEST(Resumption, IsReadFromTheServersFirstBytes) {
  for (const Row& row : Rows()) {
    SCOPED_TRACE(row.server);
    EXPECT_EQ(ReadAll(row.bytes, row.client).verdict, row.verdict);
  }
}

TEST(Resumption, NeverChangesItsMindAsBytesArrive) {
  for (const Row& row : Rows()) {
    SCOPED_TRACE(row.server);
    const Buffer more = row.bytes + (row.verdict == ResumptionVerdict::kNeedMore ? Buffer{} : Filled(30, 22));
    auto decided = ResumptionVerdict::kNeedMore;
    for (size_t count = 0; count <= more.size(); ++count) {
      const auto verdict = ReadAll(Bytes(more).first(count), row.client).verdict;
      if (decided != ResumptionVerdict::kNeedMore) {
        ASSERT_EQ(verdict, decided) << "after " << count;
      }
      decided = verdict;
    }
    EXPECT_EQ(decided, row.verdict);
  }
}

TEST(Resumption, DoesNotDependOnHowRecordsAreCut) {
  for (size_t size = 1; size < kResumed13.size(); ++size) {
    const auto [verdict, facts] = ReadAll(Records(kRetry, size) + kCcs + Records(kResumed13, size), kPsk13);
    ASSERT_EQ(verdict, ResumptionVerdict::kResumed) << size;
    EXPECT_TRUE(facts.tls13 && facts.hello_retry) << size;
    EXPECT_EQ(Hex(facts.session_id.head_bytes()), Hex(kClientId)) << size;
    ASSERT_EQ(ReadAll(Records(kNoId12 + kCertificate, size), kTicketWithoutId12).verdict, ResumptionVerdict::kFull)
        << size;
    ASSERT_EQ(ReadAll(Records(kNoId12 + kNewTicket, size), kTicketWithoutId12).verdict, ResumptionVerdict::kResumed)
        << size;
  }
}

TEST(Resumption, ComesWithWhatElseTheServerSaid) {
  const auto full13 = ReadAll(Record(kFull13), kPsk13).facts;
  EXPECT_TRUE(full13.tls13);
  EXPECT_FALSE(full13.hello_retry);
  EXPECT_FALSE(full13.issues_ticket);

  const auto full12 = ReadAll(Record(kFull12), kSessionId12).facts;
  EXPECT_FALSE(full12.tls13);
  EXPECT_FALSE(full12.issues_ticket);
  EXPECT_EQ(Hex(full12.session_id.head_bytes()), Hex(kServerId));
  EXPECT_TRUE(full12.session_id.IsWhole());

  const auto ticket12 = ReadAll(Record(kNoId12), kNothing12).facts;
  EXPECT_TRUE(ticket12.issues_ticket);
  EXPECT_EQ(ticket12.session_id.full_length, 0);
}

TEST(Resumption, GivesUpBehindItsCap) {
  // Warnings without end, never a hello.
  Buffer input;
  while (input.size() <= kMaxServerHelloBytes) input = input + Record({1, 112}, 21);
  EXPECT_EQ(ReadAll(Bytes(input).first(kMaxServerHelloBytes - 1), kPsk13).verdict, ResumptionVerdict::kNeedMore);
  EXPECT_EQ(ReadAll(Bytes(input).first(kMaxServerHelloBytes), kPsk13).verdict, ResumptionVerdict::kUnknown);
  EXPECT_EQ(ReadAll(input, kPsk13).verdict, ResumptionVerdict::kUnknown);
  // A hello that ends just behind it.
  const Buffer long_hello =
      Records(ServerHello({}, Extension(44, Filled(kMaxServerHelloBytes - 60, 0)) + kChosen13), 4096);
  EXPECT_EQ(ReadAll(long_hello, kPsk13).verdict, ResumptionVerdict::kUnknown);
}

}  // namespace
}  // namespace hud
