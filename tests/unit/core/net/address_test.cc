#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <cstddef>
#include <cstring>
#include <string>

#include "core/net/address.h"

namespace hud {
namespace {

using ::testing::HasSubstr;

SocketAddress Address(std::string_view text) {
  auto address = SocketAddress::Parse(text);
  EXPECT_TRUE(address.ok()) << address.status();
  return address.value_or(SocketAddress());
}

TEST(SocketAddress, ReadsAndPrintsWhatItAccepts) {
  const struct {
    const char* text;
    int family;
    uint16_t port;
    const char* printed;
  } rows[] = {
      {"10.0.0.1:443", AF_INET, 443, "10.0.0.1:443"},
      {"0.0.0.0:0", AF_INET, 0, "0.0.0.0:0"},
      {"255.255.255.255:65535", AF_INET, 65535, "255.255.255.255:65535"},
      {"[::]:443", AF_INET6, 443, "[::]:443"},
      {"[2001:DB8:0::1]:8443", AF_INET6, 8443, "[2001:db8::1]:8443"},
      {"[::ffff:10.0.0.1]:1", AF_INET, 1, "10.0.0.1:1"},
      {"[fe80::1%2]:443", AF_INET6, 443, "[fe80::1%2]:443"},
      {"unix:/run/x.sock", AF_UNIX, 0, "unix:/run/x.sock"},
      {"unix:@abstract", AF_UNIX, 0, "unix:@abstract"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.text);
    const SocketAddress address = Address(row.text);
    EXPECT_EQ(address.family(), row.family);
    EXPECT_EQ(address.port(), row.port);
    EXPECT_EQ(address.ToString(), row.printed);
    EXPECT_EQ(address, Address(row.printed));
    EXPECT_EQ(address, SocketAddress::FromSockaddr(address.data(), address.size()));
  }
}

TEST(SocketAddress, SaysWhatIsWrongAndWhatToWrite) {
  const struct {
    std::string text;
    const char* sentence;
  } rows[] = {
      {"", "an empty address"},
      {"example.com:443", "is a name; addresses are numeric here"},
      {"localhost:443", "is a name"},
      {"10.0.0.1", "has no port"},
      {"443", "has no port"},
      {"443", "write '127.0.0.1:443', or '[::]:443'"},
      {"https://10.0.0.1:443/x", "is a URL; write the address and the port alone, like '10.0.0.1:443'"},
      {"10.0.0.1:1,10.0.0.2:2", "is not one address; write each by itself"},
      {"[::1]", "has no port"},
      {"[::1]443", "has no port"},
      {":443", "write '0.0.0.0:443' or '[::]:443'"},
      {"*:443", "write '0.0.0.0:443' or '[::]:443'"},
      {"2001:db8::1:443", "in brackets"},
      {"[10.0.0.1]:443", "brackets are for IPv6 only"},
      {"[::g]:443", "is not an IPv6 address"},
      {"[fe80::1%eth0]:443", "the interface's number"},
      {"10.0.0:443", "is not an IPv4 address"},
      {"10.0.0.256:443", "is not an IPv4 address"},
      {"10.0.0.1:", "is not a port"},
      {"10.0.0.1:65536", "is not a port"},
      {"10.0.0.1:-1", "is not a port"},
      {"10.0.0.1:+1", "is not a port"},
      {"10.0.0.1: 1", "is not a port"},
      {"10.0.0.1:443 ", "is not a port"},
      {" 10.0.0.1:443", "is a name"},
      {"/run/x.sock", "write 'unix:/run/x.sock'"},
      {"@x", "write 'unix:@x'"},
      {"unix:", "names no socket"},
      {"unix:@", "names no socket"},
      {"unix:run/x.sock", "begins with '/'"},
      {"unix:/" + std::string(107, 'x'), "is too long: the kernel takes 107 bytes of path, this one has 108"},
      {std::string("unix:/a\0b", 9), "holds a zero byte"},
      {"evil\n:443", "'evil\\n'"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.text);
    const auto address = SocketAddress::Parse(row.text);
    ASSERT_FALSE(address.ok());
    EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(address.status().message()), HasSubstr(row.sentence));
  }
}

TEST(SocketAddress, TakesTheLongestUnixPath) {
  const std::string text = "unix:/" + std::string(106, 'x');
  EXPECT_EQ(Address(text).ToString(), text);
  EXPECT_EQ(Address(text).host_bytes().size(), 107u);
}

TEST(SocketAddress, ReadsWhatTheKernelGivesForUnixPeers) {
  sockaddr_un raw{};
  raw.sun_family = AF_UNIX;
  const auto* generic = reinterpret_cast<const sockaddr*>(&raw);
  // A client that never bound has no name at all.
  const auto unnamed = SocketAddress::FromSockaddr(generic, sizeof(sa_family_t));
  EXPECT_EQ(unnamed.family(), AF_UNIX);
  EXPECT_EQ(unnamed.ToString(), "unix:");
  // A path may come with its zero byte, or with the whole array.
  std::strcpy(raw.sun_path, "/run/x");
  const auto exact = SocketAddress::FromSockaddr(generic, offsetof(sockaddr_un, sun_path) + 7);
  const auto padded = SocketAddress::FromSockaddr(generic, sizeof(raw));
  EXPECT_EQ(exact.ToString(), "unix:/run/x");
  EXPECT_EQ(exact, padded);
  EXPECT_EQ(exact, Address("unix:/run/x"));
}

TEST(SocketAddress, IsUnspecifiedForWhatItDoesNotKnow) {
  EXPECT_EQ(SocketAddress().family(), AF_UNSPEC);
  EXPECT_EQ(SocketAddress().ToString(), "none");
  EXPECT_TRUE(SocketAddress().host_bytes().empty());
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  EXPECT_EQ(SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&v4), sizeof(v4) - 1).family(), AF_UNSPEC);
  v4.sin_family = AF_NETLINK;
  EXPECT_EQ(SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&v4), sizeof(v4)).family(), AF_UNSPEC);
  EXPECT_EQ(SocketAddress::FromSockaddr(nullptr, 0).family(), AF_UNSPEC);
}

TEST(SocketAddress, ComparesFamilyHostPortAndZone) {
  EXPECT_NE(Address("10.0.0.1:443"), Address("10.0.0.2:443"));
  EXPECT_NE(Address("10.0.0.1:443"), Address("10.0.0.1:444"));
  EXPECT_EQ(Address("[::ffff:10.0.0.1]:443"), Address("10.0.0.1:443"));
  EXPECT_NE(Address("[fe80::1%1]:443"), Address("[fe80::1%2]:443"));
  EXPECT_NE(Address("unix:/a"), Address("unix:@a"));
  EXPECT_EQ(Address("10.0.0.1:443").WithPort(80), Address("10.0.0.1:80"));
  EXPECT_EQ(Address("[::1]:443").WithPort(80), Address("[::1]:80"));
  EXPECT_EQ(Address("unix:/a").WithPort(80), Address("unix:/a"));
}

TEST(SocketAddress, AMappedAddressIsTheIpv4AddressThatItIsWhereverItComesFrom) {
  sockaddr_in6 raw{};
  raw.sin6_family = AF_INET6;
  raw.sin6_port = htons(443);
  raw.sin6_addr.s6_addr[10] = raw.sin6_addr.s6_addr[11] = 0xff;
  raw.sin6_addr.s6_addr[12] = 10;
  raw.sin6_addr.s6_addr[15] = 1;
  const SocketAddress address = SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&raw), sizeof raw);
  EXPECT_EQ(address.family(), AF_INET);
  EXPECT_EQ(address.size(), sizeof(sockaddr_in));
  EXPECT_EQ(address, Address("10.0.0.1:443"));
  EXPECT_EQ(address.ToString(), "10.0.0.1:443");
  EXPECT_EQ(Address("[2001:db8::1]:443").family(), AF_INET6);
  EXPECT_EQ(Address("[::10.0.0.1]:443").family(), AF_INET6) << "compatible is not mapped";
}

TEST(SocketAddress, IsOneHostUnlessItIsForManyOrForNone) {
  for (const char* one : {"10.0.0.1:1", "127.0.0.1:1", "255.255.255.255:1", "[::1]:1", "[2001:db8::1]:1", "unix:/run/x"}) {
    EXPECT_TRUE(SocketAddress::Parse(one)->IsOneHost()) << one;
  }
  for (const char* none : {"0.0.0.0:1", "224.0.0.1:1", "239.255.255.255:1", "[::]:1", "[ff02::1]:1"}) {
    EXPECT_FALSE(SocketAddress::Parse(none)->IsOneHost()) << none;
  }
  EXPECT_FALSE(SocketAddress().IsOneHost());
}

TEST(AddressRange, ContainsWhatItNames) {
  const struct {
    const char* range;
    const char* address;
    bool inside;
  } rows[] = {
      {"10.0.0.0/8", "10.255.255.255:1", true},
      {"10.0.0.0/8", "11.0.0.0:1", false},
      {"10.0.0.0/8", "[::ffff:10.1.2.3]:1", true},
      {"10.0.0.0/8", "[2001:db8::1]:1", false},
      {"10.128.0.0/9", "10.128.0.0:1", true},
      {"10.128.0.0/9", "10.127.255.255:1", false},
      {"127.0.0.1", "127.0.0.1:9", true},
      {"127.0.0.1", "127.0.0.2:9", false},
      {"127.0.0.1/32", "127.0.0.1:9", true},
      {"0.0.0.0/0", "255.255.255.255:9", true},
      {"0.0.0.0/0", "[::1]:9", false},
      {"2001:db8::/32", "[2001:db8:ffff::]:9", true},
      {"2001:db8::/32", "[2001:db9::]:9", false},
      {"2001:db8::/33", "[2001:db8:8000::]:9", false},
      {"::1", "[::1]:9", true},
      {"::/0", "[2001:db8::1]:9", true},
      {"::/0", "10.0.0.1:9", false},
      {"::/0", "[::ffff:10.0.0.1]:9", false},
      {"::ffff:10.0.0.0/104", "10.1.1.1:9", true},
      {"0.0.0.0/0", "unix:/a", false},
      {"::/0", "unix:/a", false},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(std::string(row.range) + " and " + row.address);
    const auto range = AddressRange::Parse(row.range);
    ASSERT_TRUE(range.ok()) << range.status();
    EXPECT_EQ(range->Contains(Address(row.address)), row.inside);
  }
}

TEST(AddressRange, OfSeveralOneIsEnough) {
  const std::vector<AddressRange> ranges = {*AddressRange::Parse("10.0.0.0/8"), *AddressRange::Parse("2001:db8::/32"),
                                            *AddressRange::Parse("192.0.2.7")};
  for (const char* inside : {"10.9.9.9:1", "[2001:db8::1]:1", "192.0.2.7:1", "[::ffff:192.0.2.7]:1"}) {
    EXPECT_TRUE(AnyContains(ranges, Address(inside))) << inside;
  }
  for (const char* outside : {"11.0.0.1:1", "[2001:db9::1]:1", "192.0.2.8:1", "[::ffff:192.0.2.8]:1", "unix:/run/x"}) {
    EXPECT_FALSE(AnyContains(ranges, Address(outside))) << outside;
  }
  EXPECT_FALSE(AnyContains({}, Address("10.9.9.9:1")));
}

TEST(AddressRange, PrintsTheRangeInFull) {
  EXPECT_EQ(AddressRange::Parse("10.0.0.0/8")->ToString(), "10.0.0.0/8");
  EXPECT_EQ(AddressRange::Parse("127.0.0.1")->ToString(), "127.0.0.1/32");
  EXPECT_EQ(AddressRange::Parse("2001:DB8::/32")->ToString(), "2001:db8::/32");
}

TEST(AddressRange, SaysWhatIsWrong) {
  const struct {
    const char* text;
    const char* sentence;
  } rows[] = {
      {"", "is not an address range"},
      {"example.com", "is not an address range"},
      {"10.0.0.1:443", "is not an address range"},
      {"10.0.0.0/", "number of fixed bits, from 0 to 32"},
      {"10.0.0.0/33", "number of fixed bits, from 0 to 32"},
      {"10.0.0.0/-1", "number of fixed bits"},
      {"10.0.0.0/8/8", "number of fixed bits"},
      {"::/129", "number of fixed bits, from 0 to 128"},
      {"::/256", "number of fixed bits, from 0 to 128"},
      {"10.0.0.1/8", "write '10.0.0.0/8'"},
      {"2001:db8::1/32", "write '2001:db8::/32'"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.text);
    const auto range = AddressRange::Parse(row.text);
    ASSERT_FALSE(range.ok());
    EXPECT_THAT(std::string(range.status().message()), HasSubstr(row.sentence));
  }
}

TEST(InternetEndpoint, KeepsAnInternetAddressWholeAndNothingElse) {
  for (const char* text : {"10.1.2.3:443", "[2001:db8::1]:8443", "[fe80::1%3]:1", "[::ffff:1.2.3.4]:5"}) {
    const SocketAddress address = SocketAddress::Parse(text).value();
    EXPECT_TRUE(InternetEndpoint(address)) << text;
    EXPECT_EQ(InternetEndpoint(address).ToSocketAddress(), address) << text;
  }
  EXPECT_FALSE(InternetEndpoint(SocketAddress::Parse("unix:/run/x.sock").value()));
  EXPECT_FALSE(InternetEndpoint(SocketAddress()));
  EXPECT_EQ(InternetEndpoint().ToSocketAddress().family(), AF_UNSPEC);
}

}  // namespace
}  // namespace hud
