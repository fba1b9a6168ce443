// The agent's small contacts with the machine: feeds, watched files, keys, health. Each in a folder of its own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <netinet/in.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "agentd/agent_key.h"
#include "agentd/feed.h"
#include "agentd/feed_silence.h"
#include "agentd/file_watch.h"
#include "agentd/host_health.h"
#include "agentd/probe_session.h"

namespace hud {
namespace {

using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class InAFolder : public testing::Test {
 protected:
  InAFolder() {
    std::string pattern = testing::TempDir() + "hud-agent-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
  }
  ~InAFolder() override { std::filesystem::remove_all(folder_); }
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  void Write(const std::string& name, const std::string& text) const { std::ofstream(Path(name)) << text; }

  std::string folder_;
};

class AFeed : public InAFolder {
 protected:
  // A writer that never waits, as a server is.
  bool Send(const std::string& path, const std::string& text) {
    const Fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    return ::sendto(fd.get(), text.data(), text.size(), 0, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) >= 0;
  }
  absl::StatusOr<Feed> Open(Feed::Kind kind) { return Feed::Open(kind, Path("feed"), "", seconds(60), &journal_); }

  TokenJournal journal_{100};
  const Instant now_{seconds(1000)};
};

TEST_F(AFeed, TakesLogLines) {
  auto feed = Open(Feed::Kind::kSyslog);
  ASSERT_TRUE(feed.ok()) << feed.status();
  ASSERT_TRUE(Send(Path("feed"), "<190>nginx: hud_session=0011223344556677"));
  ASSERT_TRUE(Send(Path("feed"), "<190>nginx: hud_session=-"));
  ASSERT_TRUE(Send(Path("feed"), "<190>nginx: GET /\x01\xff"));
  EXPECT_FALSE(feed->Read(now_));
  EXPECT_EQ(feed->stats().added, 1u);
  EXPECT_EQ(feed->stats().without_session, 1u);
  EXPECT_EQ(feed->stats().rejected, 1u);
  const auto items = journal_.Read(1, 10, now_);
  ASSERT_EQ(items.size(), 1u);
  EXPECT_EQ(items[0].length, 8);
  EXPECT_EQ(items[0].ttl_seconds, 60u);
  const std::string complaint = feed->TakeComplaint(now_);
  EXPECT_THAT(complaint, HasSubstr("\"<190>nginx: GET /??\""));
  EXPECT_EQ(feed->TakeComplaint(now_), "");
}

TEST_F(AFeed, ComplainsAtMostOnceAMinute) {
  auto feed = Open(Feed::Kind::kTokens);
  for (int second = 0; second < 180; ++second) {
    Send(Path("feed"), "nonsense");
    feed->Read(now_ + seconds(second));
    EXPECT_EQ(!feed->TakeComplaint(now_ + seconds(second)).empty(), second % 60 == 0) << second;
  }
}

TEST_F(AFeed, TakesLinesOfApplicationsAndNothingOfACutDatagram) {
  auto feed = Open(Feed::Kind::kTokens);
  ASSERT_TRUE(Send(Path("feed"), "add 0011223344556677 5m\nadd 8899aabbccddeeff\nremove 0011223344556677\n"));
  ASSERT_TRUE(Send(Path("feed"), "add 0102030405060708\n" + std::string(20000, 'x')));
  feed->Read(now_);
  EXPECT_EQ(feed->stats().added, 2u);
  EXPECT_EQ(feed->stats().removed, 1u);
  EXPECT_EQ(feed->stats().rejected, 1u);
}

TEST_F(AFeed, ReadsABoundedNumberOfDatagramsATurn) {
  auto feed = Open(Feed::Kind::kTokens);
  size_t sent = 0;
  while (sent < 300 && Send(Path("feed"), "add 0011223344556677")) ++sent;
  bool more = feed->Read(now_);
  EXPECT_EQ(more, sent >= 256);
  while (more) more = feed->Read(now_);
  EXPECT_EQ(feed->stats().added, sent);
}

TEST_F(AFeed, ItsSocketIsForItsGroupAndGoesWithIt) {
  {
    auto feed = Open(Feed::Kind::kTokens);
    struct stat found {};
    ASSERT_EQ(::lstat(Path("feed").c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 07777, 0660u);
    Feed moved = *std::move(feed);
    EXPECT_TRUE(std::filesystem::exists(Path("feed")));
  }
  EXPECT_FALSE(std::filesystem::exists(Path("feed")));
}

TEST_F(AFeed, ReplacesADeadSocketAndNothingElse) {
  auto feed = Open(Feed::Kind::kTokens);
  ASSERT_TRUE(feed.ok());
  EXPECT_THAT(std::string(Open(Feed::Kind::kTokens).status().message()), HasSubstr("in use by another process"));
  EXPECT_TRUE(Send(Path("feed"), "add 0011223344556677")) << "the one in use works on";

  Write("precious", "data");
  const auto refused = Feed::Open(Feed::Kind::kTokens, Path("precious"), "", seconds(60), &journal_);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("is not a socket"));
  EXPECT_EQ(std::filesystem::file_size(Path("precious")), 4u);

  const Fd dead(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, Path("dead").c_str(), sizeof(address.sun_path) - 1);
  ASSERT_EQ(::bind(dead.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  const int dying = ::dup(dead.get());
  ::close(dying);
  EXPECT_FALSE(Feed::Open(Feed::Kind::kTokens, Path("dead"), "", seconds(60), &journal_).ok());
  const_cast<Fd&>(dead).Reset();
  EXPECT_TRUE(Feed::Open(Feed::Kind::kTokens, Path("dead"), "", seconds(60), &journal_).ok());

  EXPECT_THAT(std::string(Feed::Open(Feed::Kind::kTokens, Path("none/x"), "", seconds(60), &journal_).status().message()),
              HasSubstr("make its directory first"));
  EXPECT_THAT(std::string(Feed::Open(Feed::Kind::kTokens, Path("y"), "no-such-group", seconds(60), &journal_).status().message()),
              HasSubstr("no group 'no-such-group'"));
}

TEST_F(AFeed, NoticesThatItsSocketIsGoneAndMakesItAnew) {
  auto feed = Open(Feed::Kind::kTokens);
  ASSERT_TRUE(feed.ok()) << feed.status();
  EXPECT_TRUE(feed->socket().IsInPlace());
  ASSERT_TRUE(std::filesystem::remove(Path("feed")));
  EXPECT_FALSE(feed->socket().IsInPlace());
  ASSERT_TRUE(feed->OpenAgain().ok());
  EXPECT_TRUE(feed->socket().IsInPlace());
  ASSERT_TRUE(Send(Path("feed"), "add 0011223344556677\nremove 0011223344556677\n"));
  feed->Read(now_);
  EXPECT_EQ(feed->Summary(), "2 lines: 1 ids, 1 taken back, 0 without a session, 0 not in the format");

  std::filesystem::remove(Path("feed"));
  Write("feed", "precious");
  EXPECT_FALSE(feed->socket().IsInPlace());
  EXPECT_THAT(std::string(feed->OpenAgain().message()), HasSubstr("is not a socket"));
  EXPECT_EQ(std::filesystem::file_size(Path("feed")), 8u);
}

TEST_F(AFeed, SaysWhoMayWriteToItAndWhichFolderBarsThem) {
  ASSERT_EQ(::chmod(folder_.c_str(), 0755), 0);
  ASSERT_EQ(::mkdir(Path("sub").c_str(), 0755), 0);
  const std::string path = Path("sub/feed");
  auto feed = Feed::Open(Feed::Kind::kTokens, path, "", seconds(60), &journal_);
  ASSERT_TRUE(feed.ok()) << feed.status();
  EXPECT_THAT(feed->socket().Writers(), testing::MatchesRegex("user .+, group .+"));
  // Whatever lies above this test's own folder is not its business.
  const std::string above = feed->socket().FolderThatBars();
  EXPECT_THAT(above, Not(HasSubstr(folder_)));
  if (!above.empty()) GTEST_SKIP() << above << " lets nobody pass";
  ASSERT_EQ(::chmod(Path("sub").c_str(), 0710), 0);
  EXPECT_EQ(feed->socket().FolderThatBars(), "") << "its group passes";
  ASSERT_EQ(::chmod(Path("sub").c_str(), 0700), 0);
  EXPECT_EQ(feed->socket().FolderThatBars(), Path("sub"));
  ASSERT_EQ(::chmod(folder_.c_str(), 0700), 0);
  EXPECT_EQ(feed->socket().FolderThatBars(), folder_);
}

TEST(FeedSilence, IsToldOnceWhenClientsWereThereAndNoLineWas) {
  const auto looks = [](FeedSilence& silence, int times, std::optional<uint32_t> connections, uint64_t lines) {
    int told = 0;
    for (int i = 0; i < times; ++i) told += silence.Look(connections, 1, lines);
    return told;
  };
  constexpr int kMany = 10 * FeedSilence::kLooks;
  FeedSilence idle, unknown, fed, silent;
  EXPECT_EQ(looks(idle, kMany, 1, 0), 0) << "a probe of its own is no client";
  EXPECT_EQ(looks(unknown, kMany, std::nullopt, 0), 0);
  EXPECT_EQ(looks(fed, FeedSilence::kLooks - 1, 5, 0), 0);
  EXPECT_EQ(looks(fed, kMany, 5, 1), 0);
  EXPECT_EQ(looks(fed, kMany, 5, 1), 0);
  EXPECT_EQ(looks(silent, FeedSilence::kLooks - 1, 2, 0), 0);
  EXPECT_EQ(looks(silent, kMany, 0, 0), 0) << "nobody there";
  EXPECT_EQ(looks(silent, 1, 2, 0), 1);
  EXPECT_EQ(looks(silent, kMany, 2, 0), 0) << "told once";
}

class AWatch : public InAFolder {};

TEST_F(AWatch, SeesEachWayInWhichAFileIsReplaced) {
  Write("a", "1");
  FileWatch watch({Path("a"), Path("b"), Path("later/c")});
  EXPECT_THAT(watch.TakeChanged(), IsEmpty());
  Write("a", "22");
  EXPECT_THAT(watch.TakeChanged(), ElementsAre(0)) << "written in place";
  Write("new", "22");
  std::filesystem::rename(Path("new"), Path("a"));
  EXPECT_THAT(watch.TakeChanged(), ElementsAre(0)) << "renamed over";
  Write("b", "x");
  EXPECT_THAT(watch.TakeChanged(), ElementsAre(1)) << "made";
  std::filesystem::remove(Path("a"));
  EXPECT_THAT(watch.TakeChanged(), ElementsAre(0)) << "removed";
  std::filesystem::create_symlink(Path("b"), Path("a"));
  EXPECT_THAT(watch.TakeChanged(), ElementsAre(0)) << "a link to another";
  Write("b", "xyz");
  EXPECT_THAT(watch.TakeChanged(), ElementsAre(0, 1)) << "through the link";
  std::filesystem::create_directory(Path("later"));
  Write("later/c", "x");
  EXPECT_THAT(watch.TakeChanged(), ElementsAre(2)) << "in a directory that was not there";
  EXPECT_THAT(watch.TakeChanged(), IsEmpty());
}

TEST_F(AWatch, WakesItsReader) {
  Write("a", "1");
  FileWatch watch({Path("a")});
  watch.TakeChanged();
  char events[4096];
  EXPECT_LT(::read(watch.fd(), events, sizeof(events)), 0) << "nothing has happened yet";
  Write("new", "22");
  std::filesystem::rename(Path("new"), Path("a"));
  EXPECT_GT(::read(watch.fd(), events, sizeof(events)), 0);
  EXPECT_THAT(watch.TakeChanged(), ElementsAre(0));
}

TEST_F(AWatch, PollsMoreOftenWhereADirectoryIsMissing) {
  EXPECT_LT(FileWatch({Path("none/a")}).PollEvery(), FileWatch({Path("a")}).PollEvery());
}

class AProbesCertificate : public InAFolder {};

TEST_F(AProbesCertificate, ThatIsAFifoIsSaidAndNotWaitedFor) {
  ASSERT_EQ(::mkfifo(Path("fifo").c_str(), 0600), 0);
  ProbeConfig config;
  config.client_certificate = config.client_key = Path("fifo");
  EXPECT_THAT(std::string(ProbeClient::Make(config, -1).status().message()), HasSubstr("is not a regular file"));
}

class AKey : public InAFolder {};

TEST_F(AKey, IsMadeForItsOwnerAloneAndReadBack) {
  const auto line = MakeAgentKey(folder_, "n1", {"web"}, {"10.0.0.0/8"});
  ASSERT_TRUE(line.ok()) << line.status();
  const auto keys = ParseBeaconKeys(*line, "keys");
  ASSERT_TRUE(keys.ok()) << keys.status();
  const auto key = ReadAgentKey(Path("n1.key"), "n1");
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_EQ(key->secret, (*keys)[0].secret);
  EXPECT_EQ((*keys)[0].pools, std::vector<std::string>{"web"});
  struct stat found {};
  ASSERT_EQ(::stat(Path("n1.key").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 07777, 0600u);
}

TEST_F(AKey, IsNotMadeForAPoolOrAnAddressThatTheProxyCouldNotRead) {
  EXPECT_FALSE(MakeAgentKey(folder_, "n1", {"a b"}, {}).ok());
  EXPECT_FALSE(MakeAgentKey(folder_, "n1", {"web"}, {"10.0.0.0/99"}).ok());
  EXPECT_FALSE(MakeAgentKey(folder_, "n1", {"web"}, {"www.example.com"}).ok());
  EXPECT_FALSE(std::filesystem::exists(Path("n1.key")));
}

TEST_F(AKey, IsNeverOverwritten) {
  ASSERT_TRUE(MakeAgentKey(folder_, "n1", {}, {}).ok());
  const auto before = ReadAgentKey(Path("n1.key"), "n1");
  EXPECT_THAT(std::string(MakeAgentKey(folder_, "n1", {}, {}).status().message()), HasSubstr("never overwritten"));
  EXPECT_EQ(ReadAgentKey(Path("n1.key"), "n1")->secret, before->secret);
  std::filesystem::create_symlink(Path("elsewhere"), Path("n2.key"));
  EXPECT_FALSE(MakeAgentKey(folder_, "n2", {}, {}).ok()) << "a link is not followed";
  EXPECT_FALSE(std::filesystem::exists(Path("elsewhere")));
}

TEST_F(AKey, ThatOthersCanReadIsRefused) {
  ASSERT_TRUE(MakeAgentKey(folder_, "n1", {}, {}).ok());
  for (const mode_t mode : {0604u, 0620u, 0602u, 0610u}) {
    ASSERT_EQ(::chmod(Path("n1.key").c_str(), mode), 0);
    EXPECT_THAT(std::string(ReadAgentKey(Path("n1.key"), "n1").status().message()), HasSubstr("run 'chmod 600 "));
  }
  ASSERT_EQ(::chmod(Path("n1.key").c_str(), 0400), 0);
  EXPECT_TRUE(ReadAgentKey(Path("n1.key"), "n1").ok());
  EXPECT_THAT(std::string(ReadAgentKey(Path("n1.key"), "n2").status().message()), HasSubstr("is the key of node 'n1'"));
  EXPECT_FALSE(ReadAgentKey(folder_, "n1").ok()) << "a folder";
}

TEST(HostHealth, ReadsTheLoad) {
  EXPECT_EQ(ParseLoadPermille("0.50 0.10 0.05 1/234 5678\n", 2), 250);
  EXPECT_EQ(ParseLoadPermille("12.00 0 0", 1), 12000);
  EXPECT_EQ(ParseLoadPermille("100000.00 0 0", 1), 65535) << "no more than fits";
  EXPECT_EQ(ParseLoadPermille("", 2), std::nullopt);
  EXPECT_EQ(ParseLoadPermille("x", 2), std::nullopt);
  EXPECT_EQ(ParseLoadPermille("1.0", 0), std::nullopt);
}

TEST(HostHealth, ReadsThePressure) {
  EXPECT_EQ(ParsePressurePermille("some avg10=12.34 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00"), 123);
  EXPECT_EQ(ParsePressurePermille("some avg10=100.00 avg60"), 1000);
  EXPECT_EQ(ParsePressurePermille("full avg10=1.00"), std::nullopt);
  EXPECT_EQ(ParsePressurePermille(""), std::nullopt);
}

// A listener on a loopback address, and connections to it.
TEST(HostHealth, CountsTheConnectionsToTheServersAddressOnly) {
  const auto listen = [](const char* host, uint16_t port, SocketAddress* address) {
    *address = SocketAddress::Parse(std::string(host) + ":" + std::to_string(port)).value();
    Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::bind(fd.get(), address->data(), address->size()), 0);
    EXPECT_EQ(::listen(fd.get(), 16), 0);
    sockaddr_storage bound{};
    socklen_t size = sizeof(bound);
    ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &size);
    *address = SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&bound), size);
    return fd;
  };
  SocketAddress server, neighbour;
  const Fd first = listen("127.83.0.1", 0, &server);
  const Fd second = listen("127.83.0.2", server.port(), &neighbour);
  std::vector<Fd> clients;
  for (int i = 0; i < 5; ++i) {
    Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const SocketAddress& to = i < 3 ? server : neighbour;
    ASSERT_EQ(::connect(fd.get(), to.data(), to.size()), 0);
    clients.push_back(std::move(fd));
  }
  EXPECT_EQ(ConnectionCounter(server).Count(), 3u);
  EXPECT_EQ(ConnectionCounter(neighbour).Count(), 2u);
  // An address that is not of this machine: a translator stands before it, so all on the port count.
  const SocketAddress translated = SocketAddress::Parse("192.0.2.1:" + std::to_string(server.port())).value();
  EXPECT_EQ(ConnectionCounter(translated).Count(), 5u);
  EXPECT_EQ(ConnectionCounter(SocketAddress::Parse("unix:/run/x.sock").value()).Count(), 0u);
}

}  // namespace
}  // namespace hud
