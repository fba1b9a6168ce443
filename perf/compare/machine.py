"""The machine: which cores are whose, what it is, and whether it is quiet enough to compare on."""
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import platform
import re
import resource
import shutil
import signal
import subprocess
import time

from . import paired


def read(path, default=""):
    try:
        return pathlib.Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return default


def core_list(text):
    """"0-2,5" as the kernel writes it."""
    cores = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cores += range(int(first), int(last or first) + 1)
    return cores


# ---- cores ----

@dataclasses.dataclass(frozen=True)
class Cores:
    """Where everything runs. With two cores, client and server share the second; with more each has its own."""
    proxy: tuple   # one for each worker that is ever measured
    client: int
    server: int

    def of_workers(self, workers):
        return list(self.proxy[:workers])

    @property
    def load(self):
        return sorted({self.client, self.server})


def siblings(core):
    return set(core_list(read(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list", str(core))))


def plan_cores(allowed=None, siblings_of=siblings):
    """The proxy first, then the load, on different physical cores where there are enough."""
    allowed = sorted(allowed if allowed is not None else os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise RuntimeError("a comparison needs two cores: one for the proxy, one for load and servers")
    whole = []  # one thread of each physical core
    for core in allowed:
        if not any(core in siblings_of(other) for other in whole):
            whole.append(core)
    order = whole + [core for core in allowed if core not in whole]
    if len(order) == 2:
        return Cores((order[0], order[1]), order[1], order[1])
    if len(order) == 3:
        return Cores((order[0], order[2]), order[1], order[2])
    return Cores((order[0], order[3]), order[1], order[2])


@contextlib.contextmanager
def running_on(cores):
    """What is started inside inherits these cores. (Children take the affinity of the thread that forks.)"""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def move(pids, cores):
    """Pins processes that run already, with all their threads."""
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task), cores)


# ---- processes ----

KERNEL_THREAD = 0x00200000  # PF_KTHREAD among the flags in /proc/PID/stat


def children_of(pid):
    """Its children, whatever generation: nginx's workers are the master's."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parents[int(entry)] = int(pathlib.Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[1])
    found, frontier = [], [pid]
    while frontier:
        frontier = [child for child, parent in parents.items() if parent in frontier]
        found += frontier
    return sorted(found)


def ended(what, code, said):
    """A sentence on a process that ended by itself, with the end of what it said."""
    said = said.strip()[-500:]
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    return f"{what} {how}: {said}" if said else f"{what} {how} and said nothing"


def cpu_ns(pids):
    """CPU time of all tasks of these processes so far, exact (no ticks)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError):
                    total += int(pathlib.Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    return total


def cpu_of_others():
    """{pid: CPU time in ns, in ticks of the kernel} of all processes that are not ours: neither this one nor its descendants."""
    ours = {os.getpid(), *children_of(os.getpid())}
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in ours:
            with contextlib.suppress(OSError, IndexError):
                fields = pathlib.Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
                if not int(fields[6]) & KERNEL_THREAD:
                    found[int(entry)] = (int(fields[11]) + int(fields[12])) * tick
    return found


def descriptor_limit():
    return os.sysconf("SC_OPEN_MAX")


def raise_descriptor_limit(wanted):
    """As far as an ordinary user may; children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def user_memory_kib(pids):
    """Anonymous and shared memory that belongs to these processes: no program text, no files."""
    total = 0
    for pid in pids:
        fields = dict(re.findall(r"^(Pss_Anon|Pss_Shmem):\s+(\d+) kB", read(f"/proc/{pid}/smaps_rollup"), re.M))
        # Of a process that may not be dumped only root is told this; the same of a process that shares no such memory.
        fields = fields or dict(re.findall(r"^(RssAnon|RssShmem):\s+(\d+) kB", read(f"/proc/{pid}/status"), re.M))
        total += sum(map(int, fields.values()))
    return total


def soft_interrupt_threads():
    """ksoftirqd: network work that the kernel moved out of everybody's time. Nobody's foreign load."""
    return [int(entry) for entry in os.listdir("/proc")
            if entry.isdigit() and read(f"/proc/{entry}/comm").startswith("ksoftirqd/")]


# ---- what it is ----

SYSCTLS = ("kernel/io_uring_disabled", "fs/pipe-max-size", "fs/pipe-user-pages-soft", "net/core/somaxconn", "net/core/default_qdisc",
           "net/core/netdev_max_backlog", "net/core/busy_poll", "net/core/rmem_max", "net/core/wmem_max", "net/ipv4/tcp_rmem",
           "net/ipv4/tcp_wmem", "net/ipv4/tcp_congestion_control", "net/ipv4/tcp_tw_reuse", "net/ipv4/tcp_max_tw_buckets",
           "net/ipv4/ip_local_port_range", "net/ipv4/tcp_timestamps")


def first_line(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).strip().split("\n")[0]


def virtualisation(cpuinfo):
    if shutil.which("systemd-detect-virt"):
        return first_line("systemd-detect-virt") or "?"
    vendor = read("/sys/class/dmi/id/sys_vendor") or read("/sys/hypervisor/type")
    if re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.M):
        return f"a virtual machine{f' ({vendor})' if vendor else ''}"
    return "none"


def version_of(program, *options):
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    return first_line(path, *options) if path else "not installed"


def git_state(root):
    commit = first_line("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    changed = first_line("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return (commit + (" and local changes" if changed else "")) if commit else "not a clone"


def environment(root, cores):
    cpuinfo = read("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.*)$", cpuinfo, re.M)
    memory = re.search(r"^MemTotal:\s+(\d+)", read("/proc/meminfo"), re.M)
    system = re.search(r'^PRETTY_NAME="?([^"\n]*)', read("/etc/os-release"), re.M)
    faults = "/sys/devices/system/cpu/vulnerabilities"
    mitigations = {name: read(f"{faults}/{name}") for name in (sorted(os.listdir(faults)) if os.path.isdir(faults) else [])}
    return {
        "kernel": platform.release(),
        "system": system.group(1) if system else "?",
        "processor": model.group(1) if model else platform.machine(),
        "cores": os.cpu_count(),
        "cores used": {"proxy": cores.proxy[0], "proxy with two workers": " and ".join(map(str, cores.of_workers(2))),
                       "client": cores.client, "node": cores.server},
        "hyperthreads": read("/sys/devices/system/cpu/smt/active", "?"),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "none that the kernel shows"),
        "virtualisation": virtualisation(cpuinfo),
        "memory MiB": int(memory.group(1)) // 1024 if memory else None,
        "clock source": read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "huge pages": read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "network": os.environ.get("HUD_PERF_NETWORK", "the machine's own"),
        "descriptors": descriptor_limit(),
        "as root": os.geteuid() == 0,
        "mitigations": {name: text for name, text in mitigations.items() if text != "Not affected"},
        "sysctls": {name.replace("/", "."): " ".join(read(f"/proc/sys/{name}", "-").split()) for name in SYSCTLS},
        "versions": {"HAProxy": version_of("haproxy", "-v"), "nginx": version_of("nginx", "-v"),
                     "OpenSSL": version_of("openssl", "version"), "compiler": version_of("g++", "--version")},
        "commit": git_state(root),
    }


# ---- is it quiet? ----

# Beyond these no comparison is made. Chosen so that they do not hide a bar: the narrowest one asks for a few per cent.
MAX_SPIN_SPREAD = 0.05      # of the time that the same computation takes
MAX_DIRECT_SPREAD = 0.12    # of the CPU that a round trip costs without any proxy
MAX_STEAL = 0.02            # share of the machine that the hypervisor gave to others
MAX_FOREIGN = 0.03          # share of the machine that programs took which are not part of the run
MAX_UNEXPLAINED = 0.20      # share that no living program accounts for: short-lived ones, and interrupts of idle cores (measured: to 14 %)
MAX_DISTURBED = 0.10        # share of the samples that stayed disturbed although they were repeated
MAX_SLOW = 0.40             # share of the samples that were taken while the machine was slow (rounds.Rounds)


def spin(core, seconds=0.03):
    """Time that a fixed computation takes on this core, as nanoseconds a block; the least disturbed of three."""
    block = bytes(65536)
    with running_on([core]):
        best = None
        for _ in range(3):
            started, blocks = time.perf_counter_ns(), 0
            while blocks < 64 or time.perf_counter_ns() - started < seconds * 1e9 / 3:
                hashlib.sha256(block).digest()
                blocks += 1
            took = (time.perf_counter_ns() - started) / blocks
            best = took if best is None else min(best, took)
    return best


@contextlib.contextmanager
def watching_others():
    """Yields a list to which the CPU time of other programs, in ns, is added at the end."""
    before, found = cpu_of_others(), []
    yield found
    found.append(sum(max(0, now - before.get(pid, 0)) for pid, now in cpu_of_others().items()))


def disturbance(run_ns, others_ns, machine, window_seconds, cores):
    """Why a sample cannot be trusted, or None. `run_ns`: CPU of all that belongs to the run; `machine`: busy, idle, steal."""
    whole = cores * window_seconds * 1e9
    for took, limit, words in ((machine.get("steal", 0), MAX_STEAL, "the hypervisor took"), (others_ns, MAX_FOREIGN, "other programs took"),
                               (machine["busy"] - run_ns, MAX_UNEXPLAINED, "nobody knows who took")):
        if took > limit * whole:
            return f"{words} {took / whole:.1%} of the machine"
    return None


@dataclasses.dataclass
class Calibration:
    """The same computation and the same direct load, again and again between the loads."""
    spins: list = dataclasses.field(default_factory=list)
    directs: list = dataclasses.field(default_factory=list)
    samples: int = 0
    disturbed: int = 0
    slow: int = 0

    def faults(self):
        """Why this machine is too noisy to compare on: sentences, empty when it is quiet."""
        found = []
        if len(self.spins) >= 3 and (s := paired.spread(self.spins)) > MAX_SPIN_SPREAD:
            found.append(f"the same computation takes times that differ by ±{s:.1%} (allowed ±{MAX_SPIN_SPREAD:.0%})")
        if len(self.directs) >= 3 and (s := paired.spread(self.directs)) > MAX_DIRECT_SPREAD:
            found.append(f"the same load without a proxy costs CPU that differs by ±{s:.1%} (allowed ±{MAX_DIRECT_SPREAD:.0%})")
        if self.samples >= 10 and self.disturbed > MAX_DISTURBED * self.samples:
            found.append(f"{self.disturbed} of {self.samples} samples were disturbed by others, also when repeated")
        if self.samples >= 10 and self.slow > MAX_SLOW * self.samples:
            found.append(f"in {self.slow} of {self.samples} samples the machine was slow, also when repeated")
        return found

    def hopeless(self):
        """Is it no use to go on? Every disturbed sample is taken three times, so a run on a busy machine would last for ever."""
        return self.samples >= 10 and self.disturbed > self.samples / 2

    def as_json(self):
        return {**dataclasses.asdict(self), "spin_spread": paired.spread(self.spins) if self.spins else None,
                "direct_spread": paired.spread(self.directs) if self.directs else None, "faults": self.faults()}
