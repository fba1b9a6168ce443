"""A real systemd beside the machine's own: both programs and their units as installed, in namespaces and a root of their own.

A systemd that shared a folder of the machine's would tidy it up. So it is started only when this process has seen, from outside, that
its namespaces are its own and that its root has nothing of the machine's but /usr, read-only (systemd_bench.sh makes it); else the case
is skipped, with the reason. The network is the one that this suite gives itself: its servers and clients are beside the bench.

Nothing is left when the bench's first process has ended, which it does when this one does, however that ends.
"""
import contextlib
import ctypes
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

from harness import PROGRAMS, Process, wait_until
from runner import Skip

HERE = pathlib.Path(__file__).resolve().parent
UNITS = ("hudsucker", "hud-agentd")
NAMESPACES = ("mnt", "pid", "uts", "ipc", "cgroup")  # and the network's, which is shared with this suite
MOUNTS = {"/", "/usr", "/usr/lib/systemd/system", "/usr/lib/systemd/system-generators", "/usr/lib/systemd/system-environment-generators",
          "/tmp", "/var/tmp", "/run", "/dev", "/dev/pts", "/dev/shm", "/proc", "/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus",
          "/sys", "/sys/fs/cgroup"}
READ_ONLY = {name for name in MOUNTS if name.startswith(("/usr", "/proc/"))} | {"/sys"}
# Places where the bench must not be on the machine's own file system.
APART = ("/", "/tmp", "/var/tmp", "/run", "/dev", "/dev/shm", "/proc", "/sys", "/etc", "/root", "/var/lib", "/var/log")
CLONE_NEWNET, PR_SET_PDEATHSIG = 0x40000000, 1
LIBC = ctypes.CDLL(None, use_errno=True)

# What the units name, and the journal that their output goes to. Nothing else runs.
ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\n",
    "hostname": "bench\n",
    "systemd/journald.conf": "[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\nRateLimitBurst=0\n",
    **{f"systemd/system/{name}.target": "[Unit]\nDefaultDependencies=no\n" for name in (
        "sysinit", "basic", "shutdown", "network-online", "multi-user")},
    "systemd/system/bench.target": "[Unit]\nDefaultDependencies=no\nWants=systemd-journald.service multi-user.target\n",
}
JOURNAL = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")


def own_network():
    """Gives this suite a network of its own, once, with the addresses that the example configurations name."""
    before = os.readlink("/proc/self/ns/net")
    if own_network.made is None:
        if LIBC.unshare(CLONE_NEWNET) != 0:
            raise Skip(f"no network of its own: {os.strerror(ctypes.get_errno())}")
        own_network.made = os.readlink("/proc/self/ns/net")
        if own_network.made == before:
            raise Skip("no network of its own")
        for arguments in (["link", "set", "lo", "up"], *(["address", "add", f"10.0.0.{n}/32", "dev", "lo"] for n in (1, 2, 11, 12))):
            subprocess.run(["ip", *arguments], check=True)
    return own_network.made


own_network.made = None


def end_with_parent(number=signal.SIGTERM):
    """Before a child runs its program: it gets this signal when the thread that started it has ended, whatever ended that."""
    LIBC.prctl(PR_SET_PDEATHSIG, number)


def mounts_of(pid):
    """(mount point, its own options, all the line) of each."""
    lines = pathlib.Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8").splitlines()
    return [(line.split()[4], line.split()[5].split(","), line) for line in lines]


class Cgroup:
    """A cgroup of the machine's cgroup2, in which the bench's own hierarchy begins. `close` removes it and what systemd made below."""

    PREFIX = "hudsucker-bench-"

    def __init__(self):
        tree = next((point for point, _, line in mounts_of("self") if " - cgroup2 " in line), None)
        if tree is None:
            raise Skip("no cgroup2 is mounted")
        path = re.search(r"^0::/(.*)$", pathlib.Path("/proc/self/cgroup").read_text(encoding="utf-8"), re.M)
        parent = pathlib.Path(tree) / (path.group(1) if path else "")
        for left in parent.glob(f"{self.PREFIX}*"):  # of a suite that was killed
            if not pathlib.Path("/proc", left.name.removeprefix(self.PREFIX)).exists():
                self.remove(left)
        self.path = parent / f"{self.PREFIX}{os.getpid()}"
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as why:
            raise Skip(f"no cgroup of its own: {why}") from why

    @staticmethod
    def remove(path):
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def join(self):
        (self.path / "cgroup.procs").write_text("0", encoding="utf-8")

    def close(self):
        self.remove(self.path)


class Bench:
    """systemd with both units, not yet started, and their examples as configurations. `drop_ins`: {unit: text}."""

    def __init__(self, stage, drop_ins):
        for program in ("unshare", "nsenter", "pivot_root", "setpriv", "ip", "systemctl", "cmake"):
            if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
                raise Skip(f"{program} is not installed")
        for needed in ("/usr/lib/systemd/systemd", "/usr/lib/systemd/systemd-journald"):
            if not os.path.exists(needed):
                raise Skip(f"there is no {needed} (package systemd)")
        if not os.path.islink("/lib"):
            raise Skip("/lib is not in /usr")
        self.folder = stage.path("bench")
        self.folder.mkdir()
        (self.folder / "root").mkdir()
        self._install()
        self._write_etc(drop_ins)
        own_network()
        self._canaries = [stage.write("canary", ""), pathlib.Path(tempfile.mkstemp(prefix="hudsucker-bench-canary.", dir="/tmp")[1])]
        try:
            self._start(stage)
        finally:
            self._canaries[1].unlink()

    def _install(self):
        done = subprocess.run(["cmake", "--install", PROGRAMS.parent, "--prefix", "/usr", "--strip"], capture_output=True, text=True,
                              check=False, env={"PATH": "/usr/local/bin:/usr/bin:/bin", "DESTDIR": str(self.folder / "installed")})
        assert done.returncode == 0, done.stdout + done.stderr

    def _write_etc(self, drop_ins):
        etc = self.folder / "etc"
        units = etc / "systemd/system"
        units.mkdir(parents=True)
        for name, text in {**ETC, "machine-id": os.urandom(16).hex() + "\n"}.items():
            (etc / name).write_text(text, encoding="utf-8")
        for name in JOURNAL:
            shutil.copy(f"/usr/lib/systemd/system/{name}", units)
        for name in ("ld.so.cache", "login.defs"):
            if os.path.exists(f"/etc/{name}"):
                shutil.copy(f"/etc/{name}", etc)
        for unit, text in drop_ins.items():
            folder = units / f"{unit}.service.d"
            folder.mkdir()
            (folder / "test.conf").write_text(text, encoding="utf-8")

    def _start(self, stage):
        self._let_go = False
        self._cgroup = stage.own(Cgroup())
        self._log_path = stage.path("bench.log")
        read_end, self._go_on = os.pipe()

        def before_it_runs():
            self._cgroup.join()
            end_with_parent(signal.SIGKILL)
        with open(self._log_path, "wb") as log:
            try:
                self._unshare = subprocess.Popen(
                    ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--cgroup",
                     "/bin/sh", HERE / "systemd_bench.sh", self.folder], stdin=read_end, stdout=log, stderr=log, preexec_fn=before_it_runs)
            except subprocess.SubprocessError as why:
                raise Skip(f"it cannot join a cgroup of its own: {why}") from why
        stage.own(self)
        os.close(read_end)
        self._wait_for("new namespaces")
        self.pid = int(pathlib.Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text(encoding="utf-8"))
        self._prove_namespaces()
        os.write(self._go_on, b"go on\n")
        self._wait_for("new root")
        self._prove_root()
        self._let_go = True
        os.write(self._go_on, b"go on\n")
        wait_until(lambda: self.run("systemctl", "is-system-running").stdout == "running\n", "systemd, running,")

    def _wait_for(self, words):
        def said():
            text = self._log_path.read_text(encoding="utf-8", errors="replace")
            if words in text.splitlines():
                return True
            if self._unshare.poll() is not None:
                raise Skip(f"no root of its own: {' '.join(text.split())}")
            return False
        wait_until(said, f"'{words}'")

    def _prove_namespaces(self):
        for kind in NAMESPACES:
            if os.readlink(f"/proc/{self.pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}"):
                raise Skip(f"no {kind} namespace of its own")
        if os.readlink(f"/proc/{self.pid}/ns/net") != own_network():
            raise Skip("it is not in the network of this suite")
        if not re.search(rf"^NSpid:\t{self.pid}\t1$", pathlib.Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8"), re.M):
            raise Skip("it is not the first process of its namespace")
        shared = [line for _, _, line in mounts_of(self.pid) if re.search(r" (shared|master|propagate_from):", line)]
        if shared:
            raise Skip(f"mounts are shared with the machine: {shared}")

    def _prove_root(self):
        self._prove_namespaces()
        root = f"/proc/{self.pid}/root"
        mounts = mounts_of(self.pid)
        missing = {point for point in MOUNTS if not point.startswith("/proc/") or os.path.exists(point)} - {point for point, _, _ in mounts}
        if missing:
            raise Skip(f"nothing of its own is mounted at {sorted(missing)}")
        for point, options, line in mounts:
            if point not in MOUNTS or (point in READ_ONLY and "ro" not in options):
                raise Skip(f"a mount that ought not to be there, or not so: {line}")
        for path in APART:
            if os.stat(root + path).st_dev == os.stat(path).st_dev:
                raise Skip(f"its {path} is on the machine's file system")
        for canary in self._canaries:
            if not canary.exists() or os.path.exists(f"{root}{canary}"):
                raise Skip(f"it sees the machine's {canary}")

    def run(self, *arguments, seconds=30):
        """A program within the bench, as root."""
        return subprocess.run(["nsenter", "--target", str(self.pid), "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wd",
                               *map(str, arguments)], capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False,
                              env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "SYSTEMD_PAGER": "cat"})

    def path(self, path):
        """Where a file of the bench is for this suite."""
        return pathlib.Path(f"/proc/{self.pid}/root{path}")

    def close(self):
        """All that runs in it ends with its first process."""
        if hasattr(self, "pid") and self._unshare.poll() is None:
            if self._let_go:
                self._keep_journal()
            os.kill(self.pid, signal.SIGKILL)
        os.close(self._go_on)
        self._unshare.wait(20)

    def _keep_journal(self):
        """Beside the logs of a failed case."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            journal = self.run("journalctl", "--no-pager", seconds=5).stdout
            self._log_path.with_name("journal.log").write_text(journal, encoding="utf-8")
