// What a program that serves may still ask the kernel for, and what it never may. Each case in a process of its own, for the filter
// stays.
#include "core/os/sandbox.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <functional>
#include <string>
#include <thread>

#include "core/os/fd.h"
#include "core/os/privileges.h"
#include "ring/io/kernel_ring.h"

namespace hud {
namespace {

using namespace std::chrono_literals;

class Sandbox : public ::testing::Test {
 protected:
  // How a child ends that does this behind the filter: its exit code, or 1000 and the signal. `act` gives the code.
  static int InSandbox(const std::function<int()>& act, const std::function<void()>& before = [] {}) {
    const pid_t child = ::fork();
    if (child == 0) {
      before();
      const absl::Status entered = EnterSandbox();
      if (!entered.ok()) ::_exit(absl::IsUnimplemented(entered) ? kBuiltWithout : kNotEntered);
      ::_exit(act());
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
  }
  void SetUp() override {
    const int entered = InSandbox([] { return 0; });
    if (entered == kBuiltWithout) GTEST_SKIP() << "built for a sanitizer, without the filter";
    ASSERT_EQ(entered, 0) << "the kernel takes no filter";
  }

  static constexpr int kBuiltWithout = 98, kNotEntered = 99;
  static constexpr int kKilled = 1000 + SIGSYS;
};

TEST_F(Sandbox, WhatOnlyAnAttackCallsEndsTheProcess) {
  EXPECT_EQ(InSandbox([] { return ::execl("/bin/true", "true", nullptr); }), kKilled);
  EXPECT_EQ(InSandbox([] { return static_cast<int>(::ptrace(PTRACE_TRACEME, 0, 0, 0)); }), kKilled);
  for (const long call : {SYS_execveat, SYS_process_vm_readv, SYS_mount, SYS_bpf, SYS_keyctl, SYS_init_module, SYS_unshare, SYS_setuid,
                          SYS_perf_event_open, SYS_userfaultfd, SYS_setns}) {
    EXPECT_EQ(InSandbox([call] { return static_cast<int>(::syscall(call, 0, 0, 0, 0, 0, 0)); }), kKilled) << "system call " << call;
  }
}

TEST_F(Sandbox, WhatItDoesNotKnowIsLikeACallOfALaterKernel) {
  const auto refused = [](long result) { return result == -1 && errno == ENOSYS ? 0 : 1; };
  EXPECT_EQ(InSandbox([&] { return refused(::fork()); }), 0) << "a process of its own";
  EXPECT_EQ(InSandbox([&] { return refused(::symlink("a", "b")); }), 0) << "a name in the file system";
  EXPECT_EQ(InSandbox([&] { return refused(::socket(AF_PACKET, SOCK_RAW, 0)); }), 0);
  EXPECT_EQ(InSandbox([&] { return refused(::socket(AF_VSOCK, SOCK_STREAM, 0)); }), 0);
  EXPECT_EQ(InSandbox([&] { return refused(::syscall(SYS_io_uring_setup, 1, nullptr)); }), 0);
  EXPECT_EQ(InSandbox([&] { return refused(::kill(::getppid(), 0)); }), 0) << "a signal to somebody else";
  EXPECT_EQ(InSandbox([&] { return refused(::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)); }), 0);
  EXPECT_EQ(InSandbox([&] { return refused(::syscall(100'000)); }), 0) << "a call that there is not";
  const rlimit limit{10, 10};
  EXPECT_EQ(InSandbox([&] { return refused(::setrlimit(RLIMIT_NOFILE, &limit)); }), 0);
}

TEST_F(Sandbox, NoMemoryBecomesCode) {
  EXPECT_EQ(InSandbox([] {
              void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
              if (page == MAP_FAILED || ::mprotect(page, 4096, PROT_READ) != 0) return 1;
              if (::mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0) return 2;
              return ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? 0 : 3;
            }),
            0);
}

TEST_F(Sandbox, WhatServingTakesGoesOn) {
  EXPECT_EQ(InSandbox([] {
              for (const int family : {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK}) {
                if (!Fd(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0)) && errno != EAFNOSUPPORT) return 1;
              }
              int ends[2];
              if (::pipe2(ends, O_CLOEXEC) != 0 || ::fcntl(ends[1], F_SETPIPE_SZ, 65536) < 0) return 2;
              rlimit limit{};
              if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 3;
              if (!Fd(::open("/proc/self/stat", O_RDONLY | O_CLOEXEC))) return 4;
              return ::getrandom(&limit, sizeof limit, 0) == sizeof limit ? 0 : 5;
            }),
            0);
  const std::string path = ::testing::TempDir() + "hud_sandbox_" + std::to_string(::getpid());
  EXPECT_EQ(InSandbox([&] {
              sockaddr_un address{.sun_family = AF_UNIX};
              path.copy(address.sun_path, sizeof address.sun_path - 1);
              const Fd feed(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
              if (::fchmod(feed.get(), 0660) != 0) return 1;
              if (::bind(feed.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return 2;
              if (::chown(path.c_str(), static_cast<uid_t>(-1), ::getegid()) != 0) return 3;
              return ::chmod(path.c_str(), 0660) == 0 && ::unlink(path.c_str()) == 0 ? 0 : 4;
            }),
            0)
      << "a feed's socket that somebody removed";
  EXPECT_EQ(InSandbox([]() -> int { ::abort(); }), 1000 + SIGABRT) << "a broken invariant still says so";
}

TEST_F(Sandbox, ARingThatWasThereWorks) {
  std::unique_ptr<Ring> ring;
  EXPECT_EQ(InSandbox(
                [&] {
                  const Fd event(::eventfd(1, EFD_CLOEXEC));
                  ring->Poll(event.get(), 1 /* POLLIN */, 7);
                  std::array<Completion, 4> completions;
                  return ring->Wait(completions, 5s) == 1 && completions[0].user_data == 7 ? 0 : 1;
                },
                [&] { ring = CreateKernelRing({.features = ProbeFeatures().value()}).value(); }),
            0);
}

TEST_F(Sandbox, ItHoldsForThreadsBeforeAndAfter) {
  std::atomic<bool> entered = false;
  std::atomic<int> seen = -1;
  std::thread early;
  const auto exec_is_killed = [] { ::execl("/bin/true", "true", nullptr); };
  EXPECT_EQ(InSandbox(
                [&] {
                  entered = true;
                  early.join();
                  return 0;
                },
                [&] {
                  early = std::thread([&] {
                    while (!entered) std::this_thread::sleep_for(1ms);
                    exec_is_killed();
                  });
                }),
            kKilled);
  EXPECT_EQ(InSandbox([&] {
              std::thread([&] { seen = 5; }).join();
              return seen == 5 ? 0 : 1;
            }),
            0)
      << "a thread that reads the configuration again";
  EXPECT_EQ(InSandbox([&] {
              std::thread(exec_is_killed).join();
              return 0;
            }),
            kKilled);
}

TEST(GiveUpRights, LeavesNoCapabilityAndNoWayToOne) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (!GiveUpRights().ok()) ::_exit(1);
    AllowDumps(false);
    if (::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1 || ::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0) ::_exit(2);
    for (int capability = 0; ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
      if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability, 0, 0) != 0) ::_exit(3);
      if (::geteuid() == 0 && ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) != 0) ::_exit(4);
    }
    // A right that only CAP_SYS_ADMIN or CAP_SYS_CHROOT gives.
    ::_exit(::chroot("/") == 0 ? 5 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace hud
