// The wire format: what is written is read again, what is out of bounds is refused, and the page for implementers in other
// languages shows what this code does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "tests/unit/core/beacon/beacon_pair.h"
#include "tests/unit/source_tree.h"

namespace hud {
namespace {

using namespace beacon_test;
using ::testing::HasSubstr;

std::vector<std::vector<uint8_t>> BodiesOf(const NodeReport& report) {
  std::vector<std::vector<uint8_t>> bodies;
  std::string why;
  EXPECT_TRUE(WriteReportBodies(report, 9, &bodies, &why)) << why;
  return bodies;
}

TEST(BeaconCodec, ReportsComeBackAsTheyWere) {
  struct Row {
    const char* name;
    NodeReport report;
    size_t parts;
  };
  NodeReport all = ReportOf("[2001:db8::1]:65535", {"web", "api"}, 3);
  all.weight = 1000;
  all.health = {false, 999, 4'000'000'000, 123'456'789, 7};
  NodeReport biggest = ReportOf("unix:/" + std::string(106, 'p'), {});
  for (int i = 0; i < 16; ++i) biggest.pools.push_back(std::string(29, 'p') + static_cast<char>('a' + i) + "x");
  biggest.prefixes.clear();
  for (uint8_t i = 0; i < 64; ++i) {
    TicketPrefix prefix;
    prefix.length = 32;
    prefix.bytes[0] = i;
    biggest.prefixes.push_back(prefix);
  }
  const Row rows[] = {
      {"the least", ReportOf("10.0.0.1:1", {"a"}, 0), 1},
      {"all fields", all, 1},
      {"a unix socket", ReportOf("unix:/run/x.sock", {"web"}), 1},
      {"an abstract unix socket", ReportOf("unix:@x", {"web"}), 1},
      {"64 prefixes of 16 bytes fit one datagram", ReportOf("10.0.0.1:443", {"web"}, 64), 1},
      {"the most of everything", biggest, 3},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    const auto bodies = BodiesOf(row.report);
    EXPECT_EQ(bodies.size(), row.parts);
    NodeReport whole;
    for (size_t i = 0; i < bodies.size(); ++i) {
      EXPECT_LE(bodies[i].size(), kMaxBeaconBodyBytes);
      const auto part = ReadReportBody(bodies[i]);
      ASSERT_TRUE(part);
      EXPECT_EQ(part->report_id, 9u);
      EXPECT_EQ(part->part, i);
      EXPECT_EQ(part->parts, bodies.size());
      whole.pools.insert(whole.pools.end(), part->report.pools.begin(), part->report.pools.end());
      whole.prefixes.insert(whole.prefixes.end(), part->report.prefixes.begin(), part->report.prefixes.end());
      EXPECT_TRUE(part->report.address == row.report.address) << part->report.address.ToString();
      EXPECT_EQ(part->report.weight, row.report.weight);
      EXPECT_EQ(part->report.health.ready, row.report.health.ready);
      EXPECT_EQ(part->report.health.load_permille, row.report.health.load_permille);
      EXPECT_EQ(part->report.health.connections, row.report.health.connections);
      EXPECT_EQ(part->report.health.probe_micros, row.report.health.probe_micros);
      EXPECT_EQ(part->report.health.cpu_pressure_permille, row.report.health.cpu_pressure_permille);
    }
    EXPECT_EQ(whole.pools, row.report.pools);
    EXPECT_EQ(whole.prefixes, row.report.prefixes);
  }
}

TEST(BeaconCodec, ReportsThatCanNeverBeSentSayWhy) {
  struct Row {
    const char* name;
    NodeReport report;
    const char* why;
  };
  NodeReport heavy = ReportOf("10.0.0.1:443", {"web"});
  heavy.weight = 1001;
  NodeReport short_prefix = ReportOf("10.0.0.1:443", {"web"});
  short_prefix.prefixes[0].length = 3;
  NodeReport nowhere = ReportOf("10.0.0.1:443", {"web"});
  nowhere.address = SocketAddress();
  const Row rows[] = {
      {"no pool", ReportOf("10.0.0.1:443", {}), "at least one pool"},
      {"17 pools", ReportOf("10.0.0.1:443", std::vector<std::string>(17, "web")), "at most 16 pools"},
      {"65 prefixes", ReportOf("10.0.0.1:443", {"web"}, 65), "at most 64 ticket prefixes"},
      {"a bad pool name", ReportOf("10.0.0.1:443", {"web pool"}), "a pool's name"},
      {"too heavy", heavy, "a weight is 0 to 1000"},
      {"a prefix of 3 bytes", short_prefix, "4 to 32 bytes"},
      {"no address", nowhere, "address must be numeric"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    std::vector<std::vector<uint8_t>> bodies;
    std::string why;
    EXPECT_FALSE(WriteReportBodies(row.report, 1, &bodies, &why));
    EXPECT_THAT(why, HasSubstr(row.why));
  }
}

TEST(BeaconCodec, EveryCutOfAReportIsRefused) {
  const auto body = BodiesOf(ReportOf("[2001:db8::1]:443", {"web", "api"}, 2))[0];
  for (size_t length = 0; length < body.size(); ++length) {
    EXPECT_FALSE(ReadReportBody(Bytes(body).first(length))) << length;
  }
  std::vector<uint8_t> longer = body;
  longer.push_back(77);
  EXPECT_TRUE(ReadReportBody(longer)) << "what follows the last field is for later versions";
}

// Changes one byte of a good report (parts at 2, weight at 8, address from 22, then pools) and expects a refusal.
TEST(BeaconCodec, FieldsOutOfBoundsAreRefused) {
  struct Row {
    const char* name;
    size_t offset;
    uint8_t value;
  };
  const Row rows[] = {
      {"part 1 of 1", 1, 1},           {"no parts", 2, 0},           {"five parts", 2, 5},
      {"a weight of 0xff64", 8, 0xff}, {"an unknown family", 22, 2}, {"too many pools", 29, 17},
      {"an empty pool name", 30, 0},   {"a pool name of 32", 30, 32}, {"a blank in a pool name", 31, ' '},
      {"65 prefixes", 34, 65},         {"a prefix of 3", 35, 3},     {"a prefix of 33", 35, 33},
  };
  const auto good = BodiesOf(ReportOf("10.0.0.1:443", {"web"}))[0];
  ASSERT_TRUE(ReadReportBody(good));
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    auto bad = good;
    bad[row.offset] = row.value;
    EXPECT_FALSE(ReadReportBody(bad));
  }
  auto no_port = good;
  no_port[27] = no_port[28] = 0;
  EXPECT_FALSE(ReadReportBody(no_port));
}

TokenItem ItemOf(std::string_view token, bool withdraw = false) {
  TokenItem item;
  std::copy(token.begin(), token.end(), item.bytes.begin());
  item.length = static_cast<uint8_t>(token.size());
  item.withdraw = withdraw;
  item.ttl_seconds = withdraw ? 0 : 3600;
  return item;
}

TEST(BeaconCodec, TokensComeBackAsTheyWere) {
  const std::vector<TokenItem> items = {ItemOf("a"), TokenItem(), ItemOf(std::string(32, 'z')), ItemOf("b", true)};
  std::vector<uint8_t> body;
  ASSERT_EQ(WriteTokensBody(5, 8, items, &body), 4u);
  const auto report = ReadTokensBody(body);
  ASSERT_TRUE(report);
  EXPECT_EQ(report->base, 5u);
  EXPECT_EQ(report->first, 8u);
  ASSERT_EQ(report->items.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(report->items[i].length, items[i].length);
    EXPECT_EQ(report->items[i].bytes, items[i].bytes);
    EXPECT_EQ(report->items[i].withdraw, items[i].withdraw);
    EXPECT_EQ(report->items[i].ttl_seconds, items[i].ttl_seconds);
  }
  for (size_t length = 0; length < body.size(); ++length) EXPECT_FALSE(ReadTokensBody(Bytes(body).first(length)));
}

TEST(BeaconCodec, AsManyTokensAsFitAndNoMore) {
  const std::vector<TokenItem> full(100, ItemOf(std::string(32, 'z')));
  std::vector<uint8_t> body;
  EXPECT_EQ(WriteTokensBody(1, 1, full, &body), 34u);
  EXPECT_LE(body.size(), kMaxBeaconBodyBytes);
  const std::vector<TokenItem> nothing(3000);
  EXPECT_EQ(WriteTokensBody(1, 1, nothing, &body), kMaxBeaconBodyBytes - 18);
  EXPECT_TRUE(ReadTokensBody(body));
}

TEST(BeaconCodec, ImpossibleTokenNumbersAreRefused) {
  std::vector<uint8_t> body;
  WriteTokensBody(0, 1, {}, &body);
  EXPECT_FALSE(ReadTokensBody(body)) << "numbers begin at 1";
  WriteTokensBody(3, 2, {}, &body);
  EXPECT_FALSE(ReadTokensBody(body)) << "a base behind its first item";
  WriteTokensBody(1, UINT64_MAX, {}, &body);
  EXPECT_FALSE(ReadTokensBody(body)) << "a number that would wrap";
  WriteTokensBody(1, 1, {}, &body);
  EXPECT_TRUE(ReadTokensBody(body));
  body[17] = 1;
  EXPECT_FALSE(ReadTokensBody(body)) << "more items announced than there are";
  body.push_back(33);
  EXPECT_FALSE(ReadTokensBody(body)) << "a token of 33 bytes";
  body.back() = 0x80;
  EXPECT_FALSE(ReadTokensBody(body)) << "a withdrawal of nothing";
}

// ---- Envelope

std::vector<uint8_t> Dying() {
  BeaconEnvelope envelope;
  envelope.type = BeaconType::kDying;
  envelope.node = "n1";
  envelope.epoch = 1;
  envelope.sequence = 2;
  return SealBeacon(BeaconMac(SecretOf(1)), envelope, {});
}

TEST(BeaconCodec, TheLeastDatagramIsAsLargeAsAnAnswer) { EXPECT_EQ(Dying().size(), kBeaconAnswerBytes); }

TEST(BeaconCodec, EveryBitIsUnderTheMac) {
  const BeaconMac mac(SecretOf(1));
  const auto good = Dying();
  ASSERT_TRUE(mac.Verify(good));
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    auto bad = good;
    bad[bit / 8] = static_cast<uint8_t>(bad[bit / 8] ^ 1u << bit % 8);
    EXPECT_FALSE(mac.Verify(bad)) << "bit " << bit;
  }
  EXPECT_FALSE(BeaconMac(SecretOf(2)).Verify(good));
  for (size_t length = 0; length < good.size(); ++length) EXPECT_FALSE(mac.Verify(Bytes(good).first(length)));
}

TEST(BeaconCodec, ShapesThatAreRefusedBeforeTheMac) {
  struct Row {
    const char* name;
    size_t offset;
    uint8_t value;
  };
  const Row rows[] = {{"another magic", 0, 'h'}, {"another version", 4, 2},     {"no direction", 5, 0},
                      {"direction 3", 5, 3},     {"a question as answer", 5, 2}, {"type 0", 6, 0},
                      {"an answer as question", 6, 5}, {"type 7", 6, 7},       {"a byte that must be zero", 7, 1},
                      {"no name", 44, 0},        {"a bad name", 44, '/'},       {"bytes behind the name", 75, 'x'}};
  ASSERT_TRUE(ReadBeaconEnvelope(Dying()));
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    auto bad = Dying();
    bad[row.offset] = row.value;
    EXPECT_FALSE(ReadBeaconEnvelope(bad));
  }
  auto good = Dying();
  EXPECT_FALSE(ReadBeaconEnvelope(Bytes(good).first(good.size() - 1)));
  good.resize(limits::kMaxDatagramBytes);
  EXPECT_TRUE(ReadBeaconEnvelope(good));
  good.push_back(0);
  EXPECT_FALSE(ReadBeaconEnvelope(good));
}

// ---- The page for implementers

std::string HexLines(Bytes bytes) {
  std::string text;
  for (size_t i = 0; i < bytes.size(); ++i) {
    char byte[4];
    std::snprintf(byte, sizeof(byte), "%02x", bytes[i]);
    text += byte;
    if (i % 32 == 31 && i + 1 < bytes.size()) text += '\n';
  }
  return text + '\n';
}

TEST(BeaconCodec, TheWorkedExamplesOfThePageAreWhatThisCodeSends) {
  std::ifstream file(SourceTree() / "deploy" / "beacon-protocol.md");
  std::stringstream page;
  page << file.rdbuf();
  ASSERT_FALSE(page.str().empty());

  BeaconSecret secret;
  for (uint8_t i = 0; i < 32; ++i) secret.bytes[i] = i;
  const BeaconMac mac(secret);
  auto expect_on_page = [text = page.str()](const std::string& example) {
    EXPECT_NE(text.find(example), std::string::npos) << "the page should show\n" << example;
  };
  char key_id[32];
  std::snprintf(key_id, sizeof(key_id), "key id `%08x`", mac.key_id());
  expect_on_page(key_id);
  BeaconEnvelope envelope;
  envelope.node = "n1";
  envelope.epoch = 1'700'000'000'000'000;
  envelope.nonce = 0x1122334455667788;
  envelope.sequence = 2;
  envelope.sent_micros = 3'000'000;

  NodeReport report = ReportOf("10.0.0.11:8443", {"web"}, 0);
  report.health = {true, 250, 12, 1500, 10};
  TicketPrefix prefix;
  prefix.length = 16;
  for (uint8_t i = 0; i < 16; ++i) prefix.bytes[i] = static_cast<uint8_t>(0xa0 + i);
  report.prefixes.push_back(prefix);
  std::vector<std::vector<uint8_t>> bodies;
  std::string why;
  ASSERT_TRUE(WriteReportBodies(report, 1, &bodies, &why));
  expect_on_page(HexLines(SealBeacon(mac, envelope, bodies[0])));

  envelope.sequence = 3;
  envelope.type = BeaconType::kTokens;
  std::vector<uint8_t> body;
  WriteTokensBody(1, 1, std::vector<TokenItem>{ItemOf("session-1"), ItemOf("session-0", true)}, &body);
  expect_on_page(HexLines(SealBeacon(mac, envelope, body)));

  envelope.sequence = 4;
  envelope.type = BeaconType::kDying;
  expect_on_page(HexLines(SealBeacon(mac, envelope, {})));

  envelope.direction = BeaconDirection::kToAgent;
  envelope.sequence = 1;
  envelope.type = BeaconType::kChallenge;
  expect_on_page(HexLines(SealBeacon(mac, envelope, WriteChallengeBody({1, 0}))));
  envelope.sequence = 2;
  envelope.type = BeaconType::kSync;
  expect_on_page(HexLines(SealBeacon(mac, envelope, WriteSyncBody({1, 2}))));
}

}  // namespace
}  // namespace hud
