// The keys file and the agent's key file: what they mean, and that each error says where and what to do, and no secret.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/beacon/beacon.h"

namespace hud {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::string kHex1(64, 'a');
const std::string kHex2 = "00112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff";

bool Allows(const BeaconKey& key, std::string_view address, bool is_ours = false) {
  return key.JudgeAddress(*SocketAddress::Parse(address), is_ours) == AddressVerdict::kAllowed;
}

BeaconKey KeyWith(const std::string& addresses) {
  return ParseBeaconKeys("node=n1 key=" + kHex1 + " pools=web addresses=" + addresses, "k").value().front();
}

TEST(BeaconKeys, WhatOnlyThisMachineReachesHasToBeNamed) {
  struct Row {
    const char* line;
    const char* address;
    bool is_allowed;
  };
  const Row rows[] = {
      {"*", "192.0.2.1:443", true},
      {"*", "[2001:db8::1]:443", true},
      {"*", "127.0.0.1:443", false},
      {"*", "[::1]:443", false},
      {"*", "[::ffff:127.0.0.1]:443", false},
      {"*", "0.0.0.0:443", false},
      {"*", "[::]:443", false},
      {"*", "169.254.169.254:80", false},
      {"*", "[fe80::1]:443", false},
      {"*", "224.0.0.1:443", false},
      {"*", "255.255.255.255:443", false},
      {"*", "unix:/run/x", false},
      {"*", "unix:@x", false},
      {"0.0.0.0/0", "192.0.2.1:443", true},
      {"0.0.0.0/0", "127.0.0.1:443", false},
      {"0.0.0.0/0,::/0", "[::1]:443", false},
      {"127.0.0.0/8", "127.1.2.3:443", true},
      {"127.0.0.1", "127.0.0.1:443", true},
      {"127.0.0.1", "[::ffff:127.0.0.1]:443", true},
      {"127.0.0.1", "127.0.0.2:443", false},
      {"::1", "[::1]:443", true},
      {"fe80::/10", "[fe80::1]:443", true},
      {"169.254.0.0/16", "169.254.1.1:443", true},
      {"unix:/run/x", "unix:/run/x", true},
      {"unix:/run/x", "unix:/run/y", false},
      {"127.0.0.1:443", "127.0.0.1:443", true},
      {"127.0.0.1:443", "127.0.0.1:444", false},
      {"10.0.0.7:443", "10.0.0.7:443", true},
      {"10.0.0.7:443", "10.0.0.7:80", false},
      {"[::ffff:10.0.0.7]:443", "10.0.0.7:443", true},
      {"10.0.0.7:443", "192.0.2.1:443", false},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(Allows(KeyWith(row.line), row.address), row.is_allowed) << row.line << " and " << row.address;
  }
}

TEST(BeaconKeys, WhereTheProxyListensIsNamedByAddressAndPort) {
  for (const char* line : {"*", "10.0.0.0/8", "10.0.0.1", "10.0.0.1:444"}) {
    EXPECT_EQ(KeyWith(line).JudgeAddress(*SocketAddress::Parse("10.0.0.1:443"), true), AddressVerdict::kOurs) << line;
  }
  EXPECT_TRUE(Allows(KeyWith("10.0.0.1:443"), "10.0.0.1:443", true));
}

TEST(BeaconKeys, AWeightLimitAndATicketGroup) {
  EXPECT_EQ(KeyWith("*").most_weight, 100);
  EXPECT_EQ(KeyWith("*").ticket_group, "");
  const BeaconKey key = KeyWith("* weight=300 tickets=web");
  EXPECT_EQ(key.most_weight, 300);
  EXPECT_EQ(key.ticket_group, "web");
}

TEST(BeaconKeys, ANodeMayHaveTwoKeys) {
  const std::string rest = " pools=web addresses=*\n";
  const auto keys = ParseBeaconKeys("node=n1 key=" + kHex1 + rest + "node=n1 key=" + kHex2 + rest, "k");
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(keys->size(), 2u);
}

TEST(BeaconKeys, WhatIsAllowedTooWidelyIsSaidWithTheNodes) {
  EXPECT_TRUE(WideBeaconKeys({KeyWith("10.0.0.0/8")}).empty());
  const std::vector<std::string> addresses = WideBeaconKeys({KeyWith("10.0.0.0/8"), KeyWith("*")});
  ASSERT_EQ(addresses.size(), 1u);
  EXPECT_THAT(addresses[0], HasSubstr("addresses=*"));
  EXPECT_THAT(addresses[0], HasSubstr("n1"));
  BeaconKey any = KeyWith("10.0.0.0/8");
  any.pools.clear();
  EXPECT_THAT(WideBeaconKeys({any})[0], HasSubstr("pools=*"));
  EXPECT_THAT(WideBeaconKeys(std::vector<BeaconKey>(30, any))[0], HasSubstr("and 22 more"));
}

TEST(BeaconKeys, GoodLinesOfAnyOrderAndSpacing) {
  const std::string text = "# who may say what\n\n  node=n1 key=" + kHex1 +
                           " pools=web,api addresses=10.0.0.0/8,2001:db8::/32\r\n\taddresses=* pools=* key=" + kHex2 +
                           " node=n-2.x_y";
  const auto keys = ParseBeaconKeys(text, "k");
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_EQ(keys->size(), 2u);
  EXPECT_EQ((*keys)[0].node, "n1");
  EXPECT_TRUE((*keys)[0].AllowsPool("api"));
  EXPECT_FALSE((*keys)[0].AllowsPool("ap"));
  EXPECT_TRUE(Allows((*keys)[0], "10.9.9.9:443"));
  EXPECT_TRUE(Allows((*keys)[0], "[2001:db8::5]:443"));
  EXPECT_FALSE(Allows((*keys)[0], "11.0.0.1:443"));
  EXPECT_FALSE(Allows((*keys)[0], "unix:/run/x"));
  EXPECT_EQ((*keys)[1].node, "n-2.x_y");
  EXPECT_EQ((*keys)[1].secret.bytes[15], 0xff);
  EXPECT_TRUE((*keys)[1].AllowsPool("anything"));
  EXPECT_TRUE(Allows((*keys)[1], "192.0.2.1:443"));
  EXPECT_FALSE(Allows((*keys)[1], "unix:/run/x"));
}

TEST(BeaconKeys, AnEmptyFileHasNoKeys) {
  EXPECT_TRUE(ParseBeaconKeys("", "k")->empty());
  EXPECT_TRUE(ParseBeaconKeys("# nothing\n\n", "k")->empty());
}

struct BadLine {
  const char* name;
  std::string text;
  const char* says;
};

TEST(BeaconKeys, EachBadLineIsNamedWithWhatToDo) {
  const std::string good = "node=n1 key=" + kHex1 + " pools=web addresses=*\n";
  const BadLine rows[] = {
      {"a word that is no field", good + "node=n2 secret", "k:2: word 2 is none of node="},
      {"the secret alone on a line", kHex2, "k:1: word 1 is none of"},
      {"no key", good + "node=n2 pools=web addresses=*", "k:2: 'key=' is missing"},
      {"no node", "key=" + kHex2 + " pools=web addresses=*", "k:1: 'node=' is missing"},
      {"no pools", "node=n1 key=" + kHex2 + " addresses=*", "'pools=' is missing"},
      {"no addresses", "node=n1 key=" + kHex2 + " pools=*", "'addresses=' is missing"},
      {"a field twice", "node=n1 node=n2 key=" + kHex2 + " pools=* addresses=*", "'node=' stands there twice"},
      {"a key one digit short", "node=n1 key=" + kHex2.substr(1) + " pools=* addresses=*", "64 hexadecimal digits"},
      {"a key one digit long", "node=n1 key=" + kHex2 + "0 pools=* addresses=*", "64 hexadecimal digits"},
      {"a key with a letter that is no digit", "node=n1 key=g" + kHex2.substr(1) + " pools=* addresses=*",
       "no hexadecimal digit"},
      {"a key of zeros", "node=n1 key=" + std::string(64, '0') + " pools=* addresses=*", "no secret"},
      {"name and key swapped", "node=" + kHex2 + " key=n1 pools=* addresses=*", "node= wants a name"},
      {"a name with a slash", "node=a/b key=" + kHex2 + " pools=* addresses=*", "node= wants a name"},
      {"a name of 32 bytes", "node=" + std::string(32, 'n') + " key=" + kHex2 + " pools=* addresses=*",
       "node= wants a name of 1 to 31"},
      {"an empty pool", "node=n1 key=" + kHex2 + " pools=web, addresses=*", "pool 2 of pools="},
      {"the secret among the pools", "node=n1 key=" + kHex1 + " pools=" + kHex2 + " addresses=*", "pool 1 of pools="},
      {"a bad range", "node=n1 key=" + kHex2 + " pools=* addresses=10.0.0.0/8,10.0.0.0/99", "address 2 of addresses="},
      {"the secret among the ranges", "node=n1 key=" + kHex1 + " pools=* addresses=" + kHex2, "address 1 of addresses="},
      {"three keys for a node",
       good + "node=n1 key=" + kHex2 + " pools=* addresses=*\nnode=n1 key=" + std::string(64, 'b') + " pools=* addresses=*",
       "k:3: node 'n1' has keys in lines 1 and 2 already"},
      {"an endpoint without a port", "node=n1 key=" + kHex2 + " pools=* addresses=10.0.0.1:0", "address 1 of addresses="},
      {"a host name", "node=n1 key=" + kHex2 + " pools=* addresses=www.example.com:443", "address 1 of addresses="},
      {"a weight too high", "node=n1 key=" + kHex2 + " pools=* addresses=* weight=1001", "weight= wants"},
      {"a weight that is none", "node=n1 key=" + kHex2 + " pools=* addresses=* weight=-1", "weight= wants"},
      {"a group without a name", "node=n1 key=" + kHex2 + " pools=* addresses=* tickets=", "tickets= wants"},
      {"one key for two nodes", good + "node=n2 key=" + kHex1 + " pools=* addresses=*", "k:2: the same key as in line 1"},
  };
  for (const BadLine& row : rows) {
    SCOPED_TRACE(row.name);
    const auto keys = ParseBeaconKeys(row.text, "k");
    ASSERT_FALSE(keys.ok());
    const std::string message(keys.status().message());
    EXPECT_THAT(message, HasSubstr(row.says));
    EXPECT_THAT(message, Not(HasSubstr(kHex1)));
    EXPECT_THAT(message, Not(HasSubstr(kHex2.substr(2, 60))));
  }
}

TEST(BeaconKeys, AllBadLinesAreNamedUpToALimit) {
  std::string text;
  for (int i = 0; i < 30; ++i) text += "bad\n";
  const auto keys = ParseBeaconKeys(text, "k");
  const std::string message(keys.status().message());
  EXPECT_THAT(message, HasSubstr("k:1: "));
  EXPECT_THAT(message, HasSubstr("\nk:20: "));
  EXPECT_THAT(message, HasSubstr("10 more"));
}

TEST(BeaconKeys, ALineForEveryNodeThatFitsAndNoMore) {
  std::string text;
  for (size_t i = 0; i <= limits::kMaxBeaconKeys; ++i) {
    char line[160];
    std::snprintf(line, sizeof(line), "node=n%zu key=%064zx pools=* addresses=*\n", i, i + 1);
    text += line;
  }
  EXPECT_THAT(std::string(ParseBeaconKeys(text, "k").status().message()), HasSubstr("k:4097: more than 4096 keys"));
}

TEST(AgentKeyFile, WhatKeygenWritesIsRead) {
  AgentKey key{"n1", {}};
  key.secret.bytes.fill(0x5a);
  const auto read = ParseAgentKey(FormatAgentKey(key), "n1.key");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->node, "n1");
  EXPECT_EQ(read->secret, key.secret);
}

TEST(AgentKeyFile, TheLineForTheProxyIsRead) {
  AgentKey key{"n1", {}};
  key.secret.bytes.fill(0x5a);
  const auto any = ParseBeaconKeys(FormatBeaconKeyLine(key, {}, {}), "k");
  ASSERT_TRUE(any.ok()) << any.status();
  EXPECT_TRUE((*any)[0].pools.empty() && (*any)[0].addresses.empty());
  const auto some = ParseBeaconKeys(FormatBeaconKeyLine(key, {"web", "api"}, {"10.0.0.1", "10.1.0.0/16"}), "k");
  ASSERT_TRUE(some.ok()) << some.status();
  EXPECT_EQ((*some)[0].secret, key.secret);
  EXPECT_EQ((*some)[0].pools.size(), 2u);
  EXPECT_EQ((*some)[0].addresses.size(), 2u);
}

TEST(AgentKeyFile, EachBadFileIsNamedWithWhatToDo) {
  const BadLine rows[] = {
      {"nothing in it", "\n# a comment\n", "n1.key:1: no key in the file"},
      {"only a name", "n1\n", "n1.key:1: the line must be NAME KEY"},
      {"only the secret", kHex2, "n1.key:1: the line must be NAME KEY"},
      {"the proxy's line", "\nnode=n1 key=" + kHex2 + " pools=* addresses=*", "n1.key:2: the line must be NAME KEY"},
      {"swapped", kHex2 + " n1", "the name must be 1 to 31"},
      {"too short", "n1 " + kHex2.substr(2), "64 hexadecimal digits"},
      {"two keys", "n1 " + kHex1 + "\nn2 " + kHex2, "n1.key:2: a second key"},
  };
  for (const BadLine& row : rows) {
    SCOPED_TRACE(row.name);
    const auto key = ParseAgentKey(row.text, "n1.key");
    ASSERT_FALSE(key.ok());
    EXPECT_THAT(std::string(key.status().message()), HasSubstr(row.says));
    EXPECT_THAT(std::string(key.status().message()), Not(HasSubstr(kHex2.substr(2, 60))));
  }
}

}  // namespace
}  // namespace hud
