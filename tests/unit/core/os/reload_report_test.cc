#include "core/os/reload_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace hud {
namespace {

using ::testing::HasSubstr;

class Folder {
 public:
  Folder() { path_ = ::mkdtemp(name_); }
  ~Folder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  char name_[32] = "/tmp/reload-report.XXXXXX";
  std::string path_;
};

// A process that answers each SIGHUP: with success and `text`, or not at all. With `before` it only answers after it was
// asked that often.
class Service {
 public:
  Service(const std::string& folder, bool ok, std::string text, int asks_before_answer = 1) {
    sigset_t hangup;
    ::sigemptyset(&hangup);
    ::sigaddset(&hangup, SIGHUP);
    ::sigprocmask(SIG_BLOCK, &hangup, nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ReloadReporter reporter(folder);
      for (int signal = 0;;) {
        ::sigwait(&hangup, &signal);
        reporter.Ask();
        if (--asks_before_answer <= 0) reporter.Answer(ok, text);
      }
    }
    while (!std::filesystem::exists(folder + "/reload")) ::usleep(1000);
  }
  ~Service() { Kill(); }
  void Kill() {
    if (pid_ > 0) ::kill(pid_, SIGKILL), ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

TEST(ReloadCount, ARequestIsAnsweredByTheLoadThatBeginsAfterIt) {
  ReloadCount count;
  count.Ask();
  count.Ask();  // while the first is loaded
  count.Ask();
  count.Answer();
  EXPECT_EQ(count.answered(), 1u);
  count.Answer();  // one load for both that came meanwhile
  EXPECT_EQ(count.answered(), 3u);
  count.Ask();
  EXPECT_EQ(count.answered(), 3u);
  count.Answer();
  EXPECT_EQ(count.answered(), 4u);
}

TEST(ReloadReport, IsReadAsItWasWritten) {
  const ReloadReport report{.pid = 77, .asked = 3, .answered = 2, .ok = false, .text = "a.yaml:3:1: bad\nand more"};
  const std::optional<ReloadReport> read = ReloadReport::Parse(report.Format());
  ASSERT_TRUE(read);
  EXPECT_EQ(read->pid, 77);
  EXPECT_EQ(read->asked, 3u);
  EXPECT_EQ(read->answered, 2u);
  EXPECT_FALSE(read->ok);
  EXPECT_EQ(read->text, report.text);
}

TEST(ReloadReport, WhatIsNoReportIsRefused) {
  for (const char* content : {"", "pid=", "pid=5", "pid=5 asked=1 answered=1 ok=1", "pid=-1 asked=1 answered=1 ok=1\n",
                              "pid=0 asked=1 answered=1 ok=1\n", "pid=5 asked=1 answered=2 ok=1\n", "pid=5 asked=x answered=0 ok=1\n",
                              "pid=99999999999999999999 asked=1 answered=1 ok=1\n"}) {
    EXPECT_FALSE(ReloadReport::Parse(content)) << content;
  }
}

TEST(AskForReload, ReturnsWhatTheProcessAnswers) {
  Folder folder;
  Service service(folder.path(), true, "reloaded, 2 changes");
  for (int i = 0; i < 3; ++i) {
    const absl::StatusOr<std::string> answer = AskForReload(folder.path(), service.pid(), std::chrono::seconds(10));
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(*answer, "reloaded, 2 changes");
  }
}

TEST(AskForReload, AFailedReloadIsAnErrorWithAllThatIsWrong) {
  Folder folder;
  Service service(folder.path(), false, "a.yaml:3:1: bad\na.yaml:4:1: worse");
  const absl::StatusOr<std::string> answer = AskForReload(folder.path(), service.pid(), std::chrono::seconds(10));
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.status().message(), "a.yaml:3:1: bad\na.yaml:4:1: worse");
}

TEST(AskForReload, SilenceIsNotSuccess) {
  Folder folder;
  Service service(folder.path(), true, "never said", 1000);
  const absl::StatusOr<std::string> answer = AskForReload(folder.path(), service.pid(), std::chrono::milliseconds(200));
  ASSERT_FALSE(answer.ok());
  EXPECT_THAT(std::string(answer.status().message()), HasSubstr("did not answer"));
}

TEST(AskForReload, NobodyThereAndAnotherProcessAreErrorsAndGetNoSignal) {
  Folder folder;
  EXPECT_THAT(std::string(AskForReload(folder.path(), 0, std::chrono::seconds(1)).status().message()), HasSubstr("no service"));
  Service service(folder.path(), true, "");
  EXPECT_THAT(std::string(AskForReload(folder.path(), service.pid() + 1, std::chrono::seconds(1)).status().message()),
              HasSubstr("not of"));
  service.Kill();
  EXPECT_THAT(std::string(AskForReload(folder.path(), 0, std::chrono::seconds(1)).status().message()), HasSubstr("does not run"));
  // Its number belongs to a process of another name by now: that one is let alone (init would be sent a SIGHUP).
  const pid_t other = ::fork();
  if (other == 0) ::execl("/bin/sleep", "sleep", "30", nullptr), ::_exit(1);
  while (true) {
    std::ifstream file("/proc/" + std::to_string(other) + "/comm");
    std::string name;
    if (std::getline(file, name) && name == "sleep") break;
    ::usleep(1000);
  }
  std::ofstream(folder.path() + "/reload") << ReloadReport{.pid = other}.Format();
  EXPECT_THAT(std::string(AskForReload(folder.path(), 0, std::chrono::seconds(1)).status().message()), HasSubstr("does not run"));
  EXPECT_EQ(::kill(other, 0), 0);
  ::kill(other, SIGKILL);
  int status = 0;
  ::waitpid(other, &status, 0);
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
}

TEST(ReloadReporter, WithoutARuntimeFolderNothingIsWrittenAndAFaultIsSaid) {
  ReloadReporter nowhere("");
  nowhere.Ask();
  nowhere.Answer(true, "");
  EXPECT_EQ(nowhere.fault(), "");
  ReloadReporter missing("/tmp/there-is-no-such-folder");
  EXPECT_THAT(missing.fault(), HasSubstr("/tmp/there-is-no-such-folder/reload"));
}

}  // namespace
}  // namespace hud
