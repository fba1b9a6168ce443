#include "core/os/sandbox.h"

#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <initializer_list>
#include <memory>

#include "absl/strings/str_cat.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif

namespace hud {
namespace {

// Whatever their arguments: for these the kernel knows the answer without running the filter, so what a worker calls all the time
// is here. What glibc of Debian 12 calls, and what it or its successors call instead on other machines.
constexpr const char* kAllowed[] = {
    // the rings
    "io_uring_enter", "io_uring_register",
    // sockets
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom", "recvmmsg", "recvmsg",
    "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown",
    // descriptors
    "close", "eventfd2", "fcntl", "fcntl64", "pipe2", "read", "readv", "splice", "write", "writev",
    // waiting
    "clock_nanosleep", "clock_nanosleep_time64", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "nanosleep", "poll", "ppoll", "ppoll_time64", "pselect6", "pselect6_time64", "restart_syscall", "select", "signalfd4",
    // files: the configuration, keys, logs, reports, /proc
    "access", "faccessat", "faccessat2", "fadvise64", "fdatasync", "fstat", "fstat64", "fstatat64", "fstatfs", "fsync", "getcwd",
    "getdents", "getdents64", "inotify_add_watch", "inotify_rm_watch", "_llseek", "lseek", "lstat", "newfstatat", "open", "openat",
    "pread64", "pwrite64", "readlink", "readlinkat", "rename", "renameat", "renameat2", "stat", "statfs", "statx", "unlink",
    "unlinkat",
    // a feed's socket that somebody removed, made anew
    "chmod", "chown", "fchmod", "fchmodat", "fchownat",
    // memory
    "brk", "madvise", "mremap", "munmap",
    // threads and signals
    "exit", "exit_group", "futex", "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "futex_requeue", "get_robust_list",
    "getcpu", "gettid", "membarrier", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait",
    "sched_getaffinity", "sched_yield", "set_robust_list", "sigaltstack",
    // what it asks about itself and the machine
    "clock_getres", "clock_gettime", "clock_gettime64", "getegid", "geteuid", "getgid", "getgroups", "getpid", "getppid", "getrandom",
    "getrlimit", "getrusage", "getuid", "gettimeofday", "sysinfo", "time", "times", "ugetrlimit", "uname",
};

// Nothing that the programs are linked with calls these, on any path: whoever does is not the program any more.
constexpr const char* kFatal[] = {
    "execve", "execveat",
    // other processes
    "kcmp", "pidfd_getfd", "process_vm_readv", "process_vm_writev", "ptrace",
    // other rights, other views of the machine
    "capset", "chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_by_handle_at",
    "open_tree", "pivot_root", "setfsgid", "setfsuid", "setgid", "setgroups", "setns", "setregid", "setresgid", "setresuid", "setreuid",
    "setuid", "umount", "umount2", "unshare",
    // the kernel itself
    "acct", "add_key", "bpf", "delete_module", "finit_module", "init_module", "ioperm", "iopl", "kexec_file_load", "kexec_load",
    "keyctl", "perf_event_open", "quotactl", "reboot", "request_key", "swapoff", "swapon", "userfaultfd",
};

class Filter {
 public:
  Filter() : context_(::seccomp_init(SCMP_ACT_ERRNO(ENOSYS))) {
    if (!context_) error_ = ENOMEM;
  }

  void Add(uint32_t action, const char* name, std::initializer_list<scmp_arg_cmp> arguments = {}) {
    const int call = ::seccomp_syscall_resolve_name(name);
    if (call == __NR_SCMP_ERROR || error_ != 0) return;  // no such call on this machine, or in this libseccomp
    Keep(::seccomp_rule_add_array(context_.get(), action, call, static_cast<unsigned>(arguments.size()), arguments.begin()));
  }
  void Allow(const char* name, std::initializer_list<scmp_arg_cmp> arguments = {}) { Add(SCMP_ACT_ALLOW, name, arguments); }

  absl::Status Load() {
    if (error_ == 0) Keep(::seccomp_attr_set(context_.get(), SCMP_FLTATR_CTL_TSYNC, 1));
    // By a tree: what is not remembered (on kernels before 5.11 nothing is) is found in a few steps.
    if (error_ == 0) Keep(::seccomp_attr_set(context_.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2));
    if (error_ == 0) Keep(::seccomp_load(context_.get()));
    return error_ == 0 ? absl::OkStatus() : absl::ErrnoToStatus(error_, "the kernel takes no filter of system calls");
  }

 private:
  void Keep(int result) {
    if (result < 0) error_ = -result;
  }

  struct Release {
    void operator()(void* context) const { ::seccomp_release(context); }
  };
  std::unique_ptr<void, Release> context_;
  int error_ = 0;
};

scmp_arg_cmp Equals(unsigned argument, uint64_t value) { return {argument, SCMP_CMP_EQ, value, 0}; }
scmp_arg_cmp Has(unsigned argument, uint64_t bits) { return {argument, SCMP_CMP_MASKED_EQ, bits, bits}; }
scmp_arg_cmp HasNot(unsigned argument, uint64_t bits) { return {argument, SCMP_CMP_MASKED_EQ, bits, 0}; }

void AllowByArguments(Filter& filter) {
  // Threads, no processes. clone3 keeps its flags where no filter can see them; without it glibc takes clone.
  filter.Allow("clone", {Has(0, CLONE_VM | CLONE_THREAD)});
  for (const int family : {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK}) filter.Allow("socket", {Equals(0, static_cast<uint64_t>(family))});
  // No new code.
  for (const char* name : {"mmap", "mmap2", "mprotect"}) filter.Allow(name, {HasNot(2, PROT_EXEC)});
  for (const unsigned long request : {TCGETS, FIONREAD, FIONBIO, TIOCOUTQ}) filter.Allow("ioctl", {Equals(1, request)});
  for (const uint64_t option : {PR_SET_NAME, PR_GET_NAME, PR_SET_VMA, PR_GET_DUMPABLE}) filter.Allow("prctl", {Equals(0, option)});
  filter.Allow("prlimit64", {Equals(2, 0)});  // to read
  // To itself: abort() and assertions.
  const auto self = static_cast<uint64_t>(::getpid());
  for (const char* name : {"kill", "tgkill"}) filter.Allow(name, {Equals(0, self)});
}

}  // namespace

absl::Status EnterSandbox() {
#ifdef HUD_NO_SANDBOX
  return absl::UnimplementedError("this build is for a sanitizer, which needs calls that a filter has to refuse");
#endif
  Filter filter;
  for (const char* name : kAllowed) filter.Allow(name);
  AllowByArguments(filter);
  for (const char* name : kFatal) filter.Add(SCMP_ACT_KILL_PROCESS, name);
  return filter.Load();
}

}  // namespace hud
