#include "control/config/preconditions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pwd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "control/config/own_addresses.h"
#include "core/os/fd.h"

namespace hud {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Kind = Finding::Kind;
using enum Precondition::Stage;

// A folder of its own, and a file "f" in which each section has its line.
class PreconditionsTest : public ::testing::Test {
 protected:
  PreconditionsTest() { std::filesystem::create_directories(folder_); }
  ~PreconditionsTest() override { std::filesystem::remove_all(folder_); }

  std::vector<Finding> Find(Precondition::Stage stage, const std::string& more, const std::string& bind = "127.77.0.1:4443",
                            const std::string& pools = "pools: [{name: web, nodes: [{name: n, address: \"10.0.0.1:1\"}]}]\n") {
    const auto configuration = ParseConfiguration("workers: 1\nlisteners: [{name: tls, bind: \"" + bind +
                                                      "\", default_pool: web}]\n" + pools + more,
                                                  folder_ + "/f");
    EXPECT_TRUE(configuration.ok()) << configuration.status();
    std::vector<Finding> findings = Examine(stage, *configuration);
    // Of whoever runs the tests; what it says is a case of its own.
    roots_ = std::erase_if(findings, [](const Finding& finding) { return finding.text.find("stays root") != std::string::npos; });
    return findings;
  }
  void Expect(const std::vector<Finding>& findings, Kind kind, const std::string& text) {
    ASSERT_THAT(findings, SizeIs(1)) << text;
    EXPECT_EQ(findings[0].kind, kind);
    EXPECT_THAT(findings[0].text, HasSubstr(text));
  }
  std::string Write(const std::string& name, const std::string& text, mode_t mode = 0600) {
    std::ofstream(folder_ + "/" + name) << text;
    ::chmod((folder_ + "/" + name).c_str(), mode);
    return folder_ + "/" + name;
  }

  size_t roots_ = 0;  // warnings of the last Find that it is root which serves
  const std::string folder_ = ::testing::TempDir() + "hud_preconditions_" + std::to_string(::getpid());
};

TEST_F(PreconditionsTest, EachHasItsTestHere) {
  // Whoever adds one adds a case below, and counts it here.
  EXPECT_THAT(Preconditions(), SizeIs(13));
  for (const Precondition& precondition : Preconditions()) EXPECT_NE(precondition.examine, nullptr) << precondition.name;
}

TEST_F(PreconditionsTest, OfAGoodConfigurationNothingIsFound) {
  Write("f", "");
  EXPECT_THAT(Find(kAsStarted, ""), IsEmpty()) << "the kernel, the descriptors, the address";
  EXPECT_THAT(Find(kAsUser, ""), IsEmpty());
}

TEST_F(PreconditionsTest, User) {
  Expect(Find(kAsStarted, "user: no-such-user\n"), Kind::kError, "f:4: user: there is no user 'no-such-user'");
  const std::string other = ::geteuid() == 0 ? "root" : "nobody";
  const std::vector<Finding> found = Find(kAsStarted, "user: " + other + "\n");
  if (::geteuid() == 0) {
    EXPECT_THAT(found, IsEmpty());
  } else {
    Expect(found, Kind::kPassing, "check as root or as 'nobody'");
  }
}

TEST_F(PreconditionsTest, RootIsWarned) {
  Write("f", "");
  Find(kAsUser, "");
  EXPECT_EQ(roots_, ::geteuid() == 0 ? 1u : 0u);
  const auto child = [&] {
    if (::geteuid() == 0 && ::setuid(65534) != 0) ::_exit(1);
    Find(kAsUser, "");
    ::_exit(roots_ == 0 ? 0 : 2);
  };
  EXPECT_EXIT(child(), ::testing::ExitedWithCode(0), "");
}

TEST_F(PreconditionsTest, Descriptors) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const auto child = [&] {
    const rlimit few{70, 70};
    const bool lowered = ::setrlimit(RLIMIT_NOFILE, &few) == 0 && (::geteuid() != 0 || ::setuid(65534) == 0);
    for (const Finding& finding : Find(kAsStarted, "")) {
      if (finding.kind == Kind::kError && finding.text.find("open descriptors leaves room for") != std::string::npos)
        ::_exit(lowered ? 0 : 1);
    }
    ::_exit(2);
  };
  ASSERT_EXIT(child(), ::testing::ExitedWithCode(0), "");
}

TEST_F(PreconditionsTest, AddressesThatAreNotOurs) {
  Expect(Find(kAsStarted, "", "192.0.2.1:4443"), Kind::kError,
         "f:2: listeners.tls.bind: cannot bind 192.0.2.1:4443: Cannot assign requested address: no interface of this machine");
  Write("k", "");
  Expect(Find(kAsStarted, "beacons: {bind: \"192.0.2.1:9999\", keys: " + folder_ + "/k}\n"), Kind::kError,
         "f:4: beacons.bind: cannot bind 192.0.2.1:9999");
  Expect(Find(kAsStarted, "status: {bind: \"192.0.2.1:9180\"}\n"), Kind::kError, "f:4: status.bind: cannot bind");
}

TEST_F(PreconditionsTest, ANodeThatIsThisMachineBehindAWildcard) {
  std::string own;  // of an interface that is not loopback; there is none in an empty network namespace
  for (const SocketAddress& address : MachineAddresses()) {
    if (address.family() == AF_INET && address.host_bytes()[0] != 127) own = address.WithPort(14143).ToString();
  }
  if (own.empty()) GTEST_SKIP() << "no interface but loopback";
  const std::string other = "pools: [{name: web, nodes: [{name: me, address: \"" + own + "\"}]}]\n";
  for (const char* bind : {"0.0.0.0:14143", "[::]:14143"}) {
    Expect(Find(kAsStarted, "", bind, other), Kind::kError, "f:3: pools.web.nodes.me.address: " + own);
  }
  EXPECT_THAT(Find(kAsStarted, "", "0.0.0.0:14144", other), IsEmpty());
  EXPECT_THAT(Find(kAsStarted, "", "127.77.0.1:14143", other), IsEmpty());
}

TEST_F(PreconditionsTest, AnAddressInUseMayBeThatOfTheInstanceThatRunsAndIsLeftAlone) {
  const Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const SocketAddress any = *SocketAddress::Parse("127.77.0.2:0");
  ASSERT_EQ(::bind(listener.get(), any.data(), any.size()), 0);
  ASSERT_EQ(::listen(listener.get(), 8), 0);
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&bound), &size), 0);
  const SocketAddress address = SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&bound), size);
  Expect(Find(kAsStarted, "", address.ToString()), Kind::kPassing, "is in use; if that is not the hudsucker");
  const Fd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(client.get(), address.data(), address.size()), 0) << "it still listens";
}

TEST_F(PreconditionsTest, ProxyHeadersFromAnybody) {
  const auto find = [&](const std::string& value) {
    const auto configuration = ParseConfiguration("pools: [{name: web, nodes: [{name: n, address: \"10.0.0.1:1\"}]}]\n"
                                                  "listeners:\n- name: tls\n  bind: \"127.77.0.3:4443\"\n  default_pool: web\n"
                                                  "  accept_proxy_protocol: " + value + "\n",
                                                  "f");
    EXPECT_TRUE(configuration.ok()) << configuration.status();
    return Examine(kAsStarted, *configuration);
  };
  Expect(find("true"), Kind::kWarning, "f:6: listeners.tls.accept_proxy_protocol: whoever can connect can claim to be any client");
  EXPECT_THAT(find("false"), IsEmpty());
  EXPECT_THAT(find("{from: 10.0.0.0/8}"), IsEmpty());
  EXPECT_THAT(find("{from: [0.0.0.0/0, \"::/0\"]}"), IsEmpty()) << "meant so";
}

TEST_F(PreconditionsTest, StatusOnAUnixSocket) {
  EXPECT_THAT(Find(kAsStarted, "status: {bind: \"unix:" + folder_ + "/s\"}\n"), IsEmpty());
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/s"));
  Expect(Find(kAsStarted, "status: {bind: \"unix:" + folder_ + "/none/s\"}\n"), Kind::kError, "No such file or directory");
  Expect(Find(kAsStarted, "status: {bind: \"unix:" + Write("plain", "") + "\"}\n"), Kind::kError, "is not a socket");
}

TEST_F(PreconditionsTest, Keys) {
  Write("f", "");
  const auto with = [&](const std::string& path) { return "beacons: {bind: \"127.0.0.1:9999\", keys: " + path + "}\n"; };
  Expect(Find(kAsStarted, with(folder_ + "/none")), Kind::kError, "none: cannot read the keys file");
  EXPECT_THAT(Find(kAsUser, with(folder_ + "/none")), IsEmpty()) << "said once";
  Expect(Find(kAsUser, with(Write("open", "", 0644))), Kind::kError, "others can read or change it");
  Expect(Find(kAsUser, with(Write("bad", "what\n"))), Kind::kError, "bad:1");
  ASSERT_EQ(::mkfifo((folder_ + "/fifo").c_str(), 0600), 0);
  Expect(Find(kAsUser, with(folder_ + "/fifo")), Kind::kError, "is not a regular file");
}

TEST_F(PreconditionsTest, LogFile) {
  Write("f", "");
  const auto with = [&](const std::string& path) { return "log: {file: " + path + "}\n"; };
  EXPECT_THAT(Find(kAsUser, with(folder_ + "/new.log")), IsEmpty());
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/new.log")) << "nothing is created";
  EXPECT_THAT(Find(kAsUser, with("/dev/null")), IsEmpty());
  Expect(Find(kAsUser, with(folder_)), Kind::kError, "f:4: log.file: " + folder_ + ": is a folder");
  Expect(Find(kAsUser, with(folder_ + "/none/x.log")), Kind::kError, "there is no folder " + folder_ + "/none; create it");
  Expect(Find(kAsUser, with(Write("plain", "") + "/x.log")), Kind::kError, "is not a folder");
  // As the user that it would be, whom root's rights do not help.
  if (::geteuid() != 0) return;
  ::chmod(folder_.c_str(), 0755);
  Write("roots.log", "");
  const auto child = [&] {
    const bool became = ::setuid(65534) == 0;
    const auto says = [](const std::vector<Finding>& found) {
      for (const Finding& finding : found) {
        if (finding.kind == Kind::kError && finding.text.find("may not write it") != std::string::npos) return true;
      }
      return false;
    };
    ::_exit(became && says(Find(kAsUser, with(folder_ + "/new.log"))) && says(Find(kAsUser, with(folder_ + "/roots.log"))) ? 0 : 1);
  };
  ASSERT_EXIT(child(), ::testing::ExitedWithCode(0), "");
}

TEST_F(PreconditionsTest, AConfigurationThatTheUserCannotReadIsAWarning) {
  Expect(Find(kAsUser, ""), Kind::kWarning, "cannot read the configuration, so reloads will fail");
}

}  // namespace
}  // namespace hud
