#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "control/log/access_log.h"
#include "core/net/address.h"
#include "core/os/log.h"
#include "core/os/log_file.h"
#include "core/os/log_line.h"
#include "core/os/log_writer.h"

namespace hud {
namespace {

using namespace std::chrono_literals;
using std::string_view_literals::operator""sv;

struct Pipe {
  Fd read_end, write_end;
  Pipe() {
    int fds[2];
    EXPECT_EQ(::pipe2(fds, O_CLOEXEC), 0);
    read_end = Fd(fds[0]);
    write_end = Fd(fds[1]);
  }
  std::string ReadToEnd() {
    write_end.Reset();
    std::string text;
    char buffer[65536];
    for (ssize_t n; (n = ::read(read_end.get(), buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
    return text;
  }
};

TEST(LogLine, WhatIsHostileCannotLeaveItsValue) {
  struct Row {
    const char* name;
    std::string_view value;
    std::string_view logfmt;
    std::string_view json;
  };
  const Row rows[] = {
      {"a plain name stays bare", "www.example.com", "k=www.example.com", R"("k":"www.example.com")"},
      {"nothing is two quotes", "", R"(k="")", R"("k":"")"},
      {"a space asks for quotes", "a b", R"(k="a b")", R"("k":"a b")"},
      {"an equals sign cannot forge a key", "x close=done", R"(k="x close=done")", R"("k":"x close=done")"},
      {"a quote cannot end the value", R"(a" b="c)", R"(k="a\" b=\"c")", R"("k":"a\" b=\"c")"},
      {"a backslash cannot eat the quote", R"(a\)", R"(k="a\\")", R"("k":"a\\")"},
      {"a newline cannot begin a line", "a\nts=1", R"(k="a\x0ats=1")", R"("k":"a\u000ats=1")"},
      {"a zero byte is seen", "a\0b"sv, R"(k="a\x00b")", R"("k":"a\u0000b")"},
      {"an escape sequence reaches no terminal", "\x1b[2J", R"(k="\x1b[2J")", R"("k":"\u001b[2J")"},
      {"bytes that are not ASCII are shown one by one", "\xc3\xa9\xff", R"(k="\xc3\xa9\xff")", R"("k":"\u00c3\u00a9\u00ff")"},
      {"DEL is no letter", "\x7f", R"(k="\x7f")", R"("k":"\u007f")"},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(LogLine(LogFormat::kLogfmt, "m").Text("k", row.value).text(), "msg=m " + std::string(row.logfmt)) << row.name;
    const std::string json = LogLine(LogFormat::kJson, "m").Text("k", row.value).text();
    EXPECT_EQ(json, R"("msg":"m",)" + std::string(row.json)) << row.name;
    EXPECT_TRUE(nlohmann::json::accept("{" + json + "}")) << row.name;
  }
}

TEST(LogLine, NumbersAndTimes) {
  LogLine line(LogFormat::kLogfmt, "m");
  line.Number("n", -3).Seconds("t", 1'234'567'891ns).Seconds("past", -5s).Hex8("d", 0xbeef).Flag("f", true);
  EXPECT_EQ(line.text(), "msg=m n=-3 t=1.234567 past=0.000000 d=0000beef f=true");
}

TEST(Log, EachLineHasTimeLevelAndFields) {
  for (const LogFormat format : {LogFormat::kLogfmt, LogFormat::kJson}) {
    Pipe pipe;
    {
      LogWriter writer(std::move(pipe.write_end));
      const Log log(&writer, format, LogLevel::kInfo);
      log.Debug("not shown");
      log.Warning("100% of {} is text", {{"node", std::string_view("n 1")}, {"count", int64_t{7}}});
    }
    const std::string text = pipe.ReadToEnd();
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
    if (format == LogFormat::kLogfmt) {
      EXPECT_NE(text.find(R"(Z level=warning msg="100% of {} is text" node="n 1" count=7)"), std::string::npos) << text;
    } else {
      const auto json = nlohmann::json::parse(text);
      EXPECT_EQ(json["level"], "warning");
      EXPECT_EQ(json["msg"], "100% of {} is text");
      EXPECT_EQ(json["count"], 7);
      EXPECT_EQ(json["ts"].get<std::string>().back(), 'Z');
    }
  }
}

TEST(LogWriter, ASinkThatIsNeverReadCostsLinesAndNothingElse) {
  Pipe pipe;  // the read end stays open and unread
  uint64_t refused = 0;
  const std::string line(1023, 'x');
  {
    LogWriter writer(std::move(pipe.write_end));
    for (size_t i = 0; i < 3 * LogWriter::kBufferBytes / 1024; ++i) refused += writer.Append(line + "\n") ? 0 : 1;
    EXPECT_GT(refused, 0u);
    EXPECT_EQ(writer.dropped(), refused);
  }  // the destructor returns although the pipe is full
}

std::string Content(const std::string& name) {
  std::ifstream file(name);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::optional<absl::Status> AwaitReopened(LogWriter& writer) {
  std::optional<absl::Status> result;
  for (int i = 0; i < 5000 && !(result = writer.TakeReopened()); ++i) ::usleep(1000);
  return result;
}

class LogFileTest : public ::testing::Test {
 protected:
  LogFileTest() { std::filesystem::create_directories(folder_); }
  ~LogFileTest() override { std::filesystem::remove_all(folder_); }
  void ExpectRefused(const std::string& path, const std::string& why) {
    EXPECT_THAT(std::string(OpenLogFile(path).status().message()), ::testing::HasSubstr(why));
    EXPECT_THAT(std::string(CheckLogFile(path).message()), ::testing::HasSubstr(why));
  }
  const std::string folder_ = ::testing::TempDir() + "hud_log_" + std::to_string(::getpid());
  const std::string path_ = folder_ + "/x.log";
};

TEST_F(LogFileTest, AfterReopenLinesGoToTheFileThatHasTheNameThen) {
  {
    LogWriter writer(*OpenLogFile(path_), path_);
    writer.Append("one\n");
    while (Content(path_) != "one\n") ::usleep(1000);
    ASSERT_EQ(::rename(path_.c_str(), (path_ + ".1").c_str()), 0);
    writer.Reopen();
    writer.Append("two\n");
    const auto reopened = AwaitReopened(writer);
    ASSERT_TRUE(reopened);
    EXPECT_TRUE(reopened->ok());
    EXPECT_EQ(writer.TakeReopened(), std::nullopt) << "said once";
    EXPECT_EQ(writer.reopens_failed(), 0u);
  }
  EXPECT_EQ(Content(path_ + ".1"), "one\n");
  EXPECT_EQ(Content(path_), "two\n");
}

TEST_F(LogFileTest, WhenItCannotBeReopenedThatIsSaidAndCountedAndNoLineIsLost) {
  {
    LogWriter writer(*OpenLogFile(path_), path_);
    ASSERT_EQ(::rename(path_.c_str(), (path_ + ".1").c_str()), 0);
    std::filesystem::create_directory(path_);
    writer.Reopen();
    writer.Append("one\n");
    const auto reopened = AwaitReopened(writer);
    ASSERT_TRUE(reopened);
    EXPECT_THAT(std::string(reopened->message()), ::testing::HasSubstr("is a folder"));
    EXPECT_EQ(writer.reopens_failed(), 1u);
  }
  EXPECT_EQ(Content(path_ + ".1"), "one\n");
}

TEST_F(LogFileTest, AFifoThatNobodyReadsIsSaidAndNotWaitedFor) {
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  EXPECT_THAT(std::string(OpenLogFile(path_).status().message()), ::testing::HasSubstr("is a FIFO that nobody reads"));
  EXPECT_TRUE(CheckLogFile(path_).ok()) << "its reader may come, and opening it would end one that waits";
  const Fd reader(::open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  EXPECT_TRUE(OpenLogFile(path_).ok());
}

TEST_F(LogFileTest, WhatIsNoFileIsRefusedWithItsReason) {
  ExpectRefused(folder_, "is a folder");
  ExpectRefused(folder_ + "/none/x.log", "there is no folder");
  const Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const SocketAddress address = *SocketAddress::Parse("unix:" + path_);
  ASSERT_EQ(::bind(socket.get(), address.data(), address.size()), 0);
  ExpectRefused(path_, "is a socket");
  EXPECT_TRUE(OpenLogFile("/dev/null").ok());
}

TEST_F(LogFileTest, LinksOfRootAndOfOurselvesAreFollowedAndNoOthers) {
  const std::string target = folder_ + "/target";
  ASSERT_EQ(::symlink("target", path_.c_str()), 0);
  EXPECT_TRUE(CheckLogFile(path_).ok());
  EXPECT_FALSE(std::filesystem::exists(target));
  ASSERT_TRUE(OpenLogFile(path_).ok());
  EXPECT_TRUE(std::filesystem::exists(target));
  Pipe pipe;
  EXPECT_TRUE(OpenLogFile("/proc/self/fd/" + std::to_string(pipe.write_end.get())).ok()) << "as /dev/stderr is";
  ASSERT_EQ(::symlink("loop", (folder_ + "/loop").c_str()), 0);
  ExpectRefused(folder_ + "/loop", "too many symbolic links");
  if (::geteuid() != 0) return;
  ASSERT_EQ(::lchown(path_.c_str(), 65534, 65534), 0);
  ExpectRefused(path_, "of user 65534; only links that root");
  ASSERT_EQ(::symlink(path_.c_str(), (folder_ + "/first").c_str()), 0);
  ExpectRefused(folder_ + "/first", "of user 65534");
}

TEST(LogWriter, ASinkThatIsGoneIsCounted) {
  Pipe pipe;
  LogWriter writer(std::move(pipe.write_end));
  pipe.read_end.Reset();
  ::signal(SIGPIPE, SIG_IGN);
  EXPECT_TRUE(writer.Append("one\n"));
  while (writer.dropped() == 0) ::usleep(1000);
  EXPECT_EQ(writer.dropped(), 1u);
}

ConnectionRecord JoinedRecord() {
  ConnectionRecord record;
  record.id = 0x1122334455667788;
  record.client = InternetEndpoint(*SocketAddress::Parse("[2001:db8::7]:50123"));
  record.local = InternetEndpoint(*SocketAddress::Parse("10.0.0.9:40001"));
  record.server_name.Set("www.example.com");
  record.listener.Set("tls");
  record.pool.Set("web");
  record.node.Set("n1");
  record.node_address.Set("10.0.0.1:8443");
  record.route = 2;
  record.reason = ChoiceReason::kTicketPrefix;
  record.offered = TokenKind::kPskIdentity;
  record.token_digest = 0x00c0ffee;
  record.hello = HelloVerdict::kComplete;
  record.tls13 = true;
  record.resumption = ResumptionVerdict::kResumed;
  record.attempts = 1;
  record.bytes_in = 517;
  record.bytes_out = 123456789012;
  record.hello_time = 1500us;
  record.connect_time = 250us;
  record.total_time = 61s;
  return record;
}

TEST(AccessLog, AJoinedConnectionSaysWhoWhereAndWhy) {
  EXPECT_EQ(FormatConnection(JoinedRecord(), LogFormat::kLogfmt).text(),
            "msg=connection id=1122334455667788 listener=tls client=[2001:db8::7]:50123 hello=tls13 sni=www.example.com route=3 pool=web "
            "why=ticket_prefix node=n1 node_address=10.0.0.1:8443 local_address=10.0.0.9:40001 offered=psk token=00c0ffee resumed=yes in=517 out=123456789012 hello_s=0.001500 "
            "connect_s=0.000250 total_s=61.000000 attempts=1 close=done");
}

TEST(AccessLog, JsonIsJson) {
  const auto json =
      nlohmann::json::parse("{" + FormatConnection(JoinedRecord(), LogFormat::kJson).text() + "}");
  EXPECT_EQ(json["sni"], "www.example.com");
  EXPECT_EQ(json["token"], "00c0ffee");
  EXPECT_EQ(json["id"], "1122334455667788");
  EXPECT_EQ(json["out"], 123456789012);
  EXPECT_EQ(json["total_s"], 61.0);
}

TEST(AccessLog, BehindABalancerBothAreNamed) {
  ConnectionRecord record = JoinedRecord();
  record.balancer = InternetEndpoint(*SocketAddress::Parse("192.0.2.7:1234"));
  const std::string text = FormatConnection(record, LogFormat::kLogfmt).text();
  EXPECT_NE(text.find(" client=[2001:db8::7]:50123 balancer=192.0.2.7:1234 "), std::string::npos) << text;
}

TEST(AccessLog, ATextThatIsTooLongIsCut) {
  ShortText<4> text;
  EXPECT_TRUE(text.empty());
  text.Set("abcdef");
  EXPECT_EQ(text.view(), "abcd");
  text.Set("x");
  EXPECT_EQ(text.view(), "x");
}

TEST(AccessLog, WhoNeverSentAHelloHasNoRouteAndNoToken) {
  ConnectionRecord record;
  record.listener.Set("tls");
  record.close = CloseReason::kHelloTimeout;
  EXPECT_EQ(FormatConnection(record, LogFormat::kLogfmt).text(),
            "msg=connection id=0000000000000000 listener=tls client=none hello=incomplete offered=none in=0 out=0 hello_s=0.000000 "
            "connect_s=0.000000 total_s=0.000000 attempts=0 close=hello_timeout");
}

TEST(AccessLog, ItsLinesDoNotDependOnTheLevel) {
  Pipe pipe;
  SpscQueue<ConnectionRecord> queue(64);
  ASSERT_TRUE(queue.Push(JoinedRecord()));
  {
    LogWriter writer(std::move(pipe.write_end));
    const Log log(&writer, LogFormat::kLogfmt, LogLevel::kError);
    log.Warning("below the level");
    const AccessLog access_log({&queue}, &log, 1.0);
  }
  const std::string text = pipe.ReadToEnd();
  EXPECT_EQ(text.find("below the level"), std::string::npos);
  EXPECT_NE(text.find("close=done"), std::string::npos) << text;
}

TEST(AccessLog, SamplingKeepsWhatIsUnusual) {
  Pipe pipe;
  SpscQueue<ConnectionRecord> queue(64);
  for (int i = 0; i < 20; ++i) {
    ConnectionRecord record = JoinedRecord();
    record.close = i % 4 == 0 ? CloseReason::kConnectFailed : CloseReason::kDone;
    ASSERT_TRUE(queue.Push(record));
  }
  {
    LogWriter writer(std::move(pipe.write_end));
    const Log log(&writer, LogFormat::kLogfmt, LogLevel::kInfo);
    const AccessLog access_log({&queue}, &log, 0.25);
  }
  const std::string text = pipe.ReadToEnd();
  const auto count = [&](std::string_view what) {
    size_t n = 0;
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
    return n;
  };
  EXPECT_EQ(count("close=connect_failed"), 5u) << text;
  EXPECT_EQ(count("close=done"), 3u) << text;  // of 15
}

}  // namespace
}  // namespace hud
