#include "agentd/feed_line.h"

#include <gtest/gtest.h>

#include <string>

namespace hud {
namespace {

const std::string kId = "00112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff";

struct Row {
  const char* name;
  std::string line;
  FeedVerdict verdict;
  size_t length = 0;
  int last_byte = -1;
};

void Check(const Row& row, FeedVerdict (*parse)(std::string_view, FeedToken&)) {
  SCOPED_TRACE(row.name);
  FeedToken token;
  EXPECT_EQ(parse(row.line, token), row.verdict) << row.line;
  if (row.verdict != FeedVerdict::kToken) return;
  EXPECT_EQ(token.length, row.length);
  if (row.last_byte >= 0) {
    EXPECT_EQ(token.bytes[token.length - 1u], row.last_byte);
  }
}

TEST(SyslogLine, FindsTheSessionIdInWhatServersLog) {
  using enum FeedVerdict;
  const Row rows[] = {
      {"nginx with the field", "<190>Nov 21 06:21:22 web1 nginx: hud_session=" + kId, kToken, 32, 0xff},
      {"nginx without a host name, plain id", "<190>Nov 21 06:21:22 nginx: " + kId, kToken, 32, 0xff},
      {"HAProxy", "<142>Nov 21 06:21:22 haproxy[4711]: 10.0.0.1:4711 hud_session=" + kId + " 200 0/0/1", kToken, 32, 0xff},
      {"Apache through logger", "<13>Nov 21 06:21:22 apache: 127.0.0.1 \"hud_session=" + kId + "\"", kToken, 32, 0xff},
      {"RFC 5424", "<190>1 2026-11-21T06:21:22Z web nginx 1 - - hud_session=" + kId, kToken, 32, 0xff},
      {"no header at all", kId, kToken, 32, 0xff},
      {"a newline at the end", "<190>nginx: " + kId + "\n", kToken, 32, 0xff},
      {"the field first, then others", "hud_session=aabbccdd,reused=r", kToken, 4, 0xdd},
      {"a short id", "hud_session=" + kId.substr(0, 16), kToken, 8, 0x77},
      {"the last field counts, the first may be a client's", "hud_session=01020304 hud_session=05060708", kToken, 4, 8},
      {"a client's name cannot forge an id", "nginx: name=\"hud_session=01020304\" hud_session=-", kNoSession},
      {"a longer word that ends alike is another field", "x_hud_session=01020304 hud_session=05060708", kToken, 4, 8},
      {"no session, as nginx writes it", "<190>Nov 21 06:21:22 web1 nginx: hud_session=-", kNoSession},
      {"no session, plain", "<190>Nov 21 06:21:22 web1 nginx: -", kNoSession},
      {"no session, as HAProxy writes it", "haproxy: hud_session= 200", kNoSession},
      {"an ordinary access log line", "<190>nginx: 127.0.0.1 - - \"GET / HTTP/1.1\" 200 5", kRejected},
      {"more than an id in a line without the field", "<190>nginx: " + kId + " r", kRejected},
      {"33 bytes", "hud_session=" + kId + "00", kRejected},
      {"3 bytes", "hud_session=010203", kRejected},
      {"an odd number of digits", "hud_session=" + kId.substr(1), kRejected},
      {"a digit that is none", "hud_session=0102030g", kRejected},
      {"a request that smuggles the field into its path is still a path", "nginx: GET /hud_session=01020304 HTTP/1.1", kRejected},
      {"bytes that are no text", std::string("hud_session=\xff\xfe\x00\x01", 16), kRejected},
  };
  for (const Row& row : rows) Check(row, ParseSyslogLine);
}

TEST(TokenLine, AddsAndRemoves) {
  using enum FeedVerdict;
  const Row rows[] = {
      {"add", "add " + kId, kToken, 32, 0xff},
      {"add with seconds", "add " + kId + " 300", kToken, 32, 0xff},
      {"add with minutes", "add " + kId + " 5m", kToken, 32, 0xff},
      {"add with a week", "add " + kId + " 168h", kToken, 32, 0xff},
      {"remove", "remove " + kId + "\r\n", kToken, 32, 0xff},
      {"an empty line", "", kNoSession},
      {"more than a week", "add " + kId + " 169h", kRejected},
      {"a time that would overflow", "add " + kId + " 99999999999999999999", kRejected},
      {"hours that would overflow as nanoseconds", "add " + kId + " 0091223342h", kRejected},
      {"no time at all", "add " + kId + " 0", kRejected},
      {"a negative time", "add " + kId + " -5", kRejected},
      {"a unit alone", "add " + kId + " s", kRejected},
      {"an unknown unit", "add " + kId + " 5d", kRejected},
      {"remove takes no time", "remove " + kId + " 5", kRejected},
      {"no id", "add", kRejected},
      {"two spaces", "add  " + kId, kRejected},
      {"another verb", "delete " + kId, kRejected},
      {"capital letters", "ADD " + kId, kRejected},
  };
  for (const Row& row : rows) Check(row, ParseTokenLine);
}

TEST(TokenLine, SaysTheTimeToLive) {
  FeedToken token;
  ASSERT_EQ(ParseTokenLine("add " + kId + " 90s", token), FeedVerdict::kToken);
  EXPECT_EQ(token.ttl, std::chrono::seconds(90));
  ASSERT_EQ(ParseTokenLine("add " + kId + " 2h", token), FeedVerdict::kToken);
  EXPECT_EQ(token.ttl, std::chrono::hours(2));
  ASSERT_EQ(ParseTokenLine("add " + kId, token), FeedVerdict::kToken);
  EXPECT_FALSE(token.ttl.has_value());
}

}  // namespace
}  // namespace hud
