"""One run: its cores, durations, node and proxies, and that all it started ends with it."""
import contextlib
import dataclasses
import os

import harness

from . import machine, proxies
from .memory import Memory, descriptors_suffice
from .micro import Micro
from .real_tls import RealTls
from .rounds import Budget, Rounds, SampleFailed
from .traffic import Traffic, direct

TLS_PROGRAMS = ("haproxy", "nginx", "openssl")  # behind and beside Hudsucker, and for the certificates
CONTESTS = {"traffic": Traffic, "memory": Memory, "tls": RealTls, "micro": Micro}


@dataclasses.dataclass(frozen=True)
class Pace:
    """How much time each sample gets, and how many there are."""
    rounds: int
    max_rounds: int       # further ones while a bar is in doubt
    seconds: float        # measured
    warmup: float         # before that, with all connections up
    tls_rounds: int       # times that each TLS client comes back
    micro_seconds: float
    memory_rounds: int
    extra_seconds: float  # for repeats and further rounds, in the whole run


# Where neighbours on the host come and go, many short samples say more than a few long ones: a round is over sooner.
FULL = Pace(rounds=7, max_rounds=11, seconds=0.75, warmup=0.25, tls_rounds=8, micro_seconds=0.5, memory_rounds=3, extra_seconds=240)
QUICK = Pace(rounds=5, max_rounds=5, seconds=0.5, warmup=0.2, tls_rounds=4, micro_seconds=0.1, memory_rounds=1, extra_seconds=20)


def words_of(text):
    """The words of --proxies; none of them means all proxies."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def wanted(load, words):
    """Keys of the load's proxies that have one of the words in their name."""
    return [key for key in load.proxies if not words or any(word in key for word in words)]


def hindrance(load):
    """Why this load cannot be measured here, as far as it is known beforehand; None when nothing is."""
    if load.kind == "memory" and not descriptors_suffice():
        return "the limit on descriptors is too low for 8,000 relays: ulimit -n 20000"
    missing = [program for program in TLS_PROGRAMS if not proxies.find_program(program)] if load.kind == "tls" else []
    return f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed" if missing else None


def missing_peers(loads, words):
    """Programs that peers of these loads need and that are not there."""
    kinds = [proxies.KINDS[key] for load in loads if load.kind != "tls" for key in wanted(load, words)]
    return sorted({kind.program for kind in kinds if kind.program and not proxies.find_program(kind.program)})


class Session:
    def __init__(self, pace, beside=None, relay=None):
        self.pace, self.beside, self.relay = pace, beside, relay
        self.max_connections = proxies.MAX_CONNECTIONS
        self.cores = machine.plan_cores()
        self.core_count = os.cpu_count()
        self.soft_interrupts = machine.soft_interrupt_threads()
        self.calibration = machine.Calibration()
        self.notes, self._stages, self._hosts = [], [], {}
        self.budget = Budget(pace.extra_seconds)
        # The harness itself works where the load is, never where the proxy is.
        os.sched_setaffinity(0, self.cores.load)
        self.stage = self._new_stage("perf")
        try:
            self.node = proxies.Node(self.stage, self.cores.server)
        except BaseException:
            self.close()
            raise

    def note(self, text):
        self.notes.append(text)

    def keep_node(self):
        """The node is there, started anew where it has died. The proxies do not notice: it has the same address."""
        if not self.node.alive():
            self.note(f"{self.node.end()}; it was started again")
            self.node = self.node.again()

    def _new_stage(self, name):
        stage = harness.Stage(name)
        self._stages.append(stage)
        return stage

    # ---- proxies ----

    def start_proxy(self, key, cores, **options):
        """On a stage of its own, so that everything of it ends and vanishes with it."""
        if key not in self._hosts:
            self._hosts[key] = self.stage.host()
        stage = self._new_stage(f"perf-{key}")
        if proxies.KINDS[key].program is None:
            options["relay"] = self.relay
            options["program"] = self.beside if key == "beside" else None
        try:
            return proxies.start(key, stage, f"{self._hosts[key]}:{self.node.port}", cores, **options)
        except BaseException:
            self._end(stage)
            raise

    def stop_proxy(self, proxy):
        self._end(proxy.stage)

    def _end(self, stage):
        if stage not in self._stages:
            return
        self._stages.remove(stage)
        for fault in stage.close():
            self.note(fault)
        stage.remove()

    def close(self):
        for stage in reversed(list(self._stages)):
            self._end(stage)

    # ---- noise ----

    def calibrate(self, times=1):
        for _ in range(times):
            self.keep_node()
            self.calibration.spins.append(machine.spin(self.cores.proxy[0]))
            self.calibration.directs.append(direct(self))

    # ---- loads ----

    def contestants(self, load, only=()):
        """Keys of the proxies that this load is measured with here, and why others are not: {key: why}."""
        keys, missing = [], {}
        for key in wanted(load, only):
            if load.kind != "tls" and not proxies.installed(key):
                missing[key] = f"{proxies.KINDS[key].program} is not installed"
            else:
                keys.append(key)
        if self.beside and load.kind in ("traffic", "memory"):
            keys.append("beside")
        return keys, missing

    def measure(self, load, keys, on_sample):
        """The finished Rounds of one load. A load that cannot be measured raises; the session is good for the next one."""
        if why := hindrance(load):
            raise SampleFailed(why)
        pace = self.pace
        rounds = pace.memory_rounds if load.kind == "memory" else pace.rounds
        with contextlib.closing(CONTESTS[load.kind](load, self)) as contest:
            taken = Rounds(load, contest, keys, calibration=self.calibration, budget=self.budget, on_sample=on_sample)
            return taken.go(rounds, pace.max_rounds if load.kind in ("traffic", "tls") else rounds)

    def expected_seconds(self, load, keys):
        """About, for the progress bar."""
        pace = self.pace
        if load.kind == "traffic":
            return len(keys) * (0.6 + pace.rounds * (pace.seconds * load.longer + pace.warmup + 0.35))
        if load.kind == "memory":
            return len(keys) * (3 + pace.memory_rounds * 5)
        if load.kind == "tls":
            return 5 + pace.rounds * len(keys) * (0.4 + pace.tls_rounds * 0.12)
        return 3 + pace.rounds * pace.micro_seconds * 2 + (12 if "10000000" in load.options["benchmark"] else 0)
