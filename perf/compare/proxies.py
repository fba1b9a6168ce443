"""Who is compared: Hudsucker, HAProxy and nginx, each started with a file of perf/peers.

In those files @NAME@ stands for what differs from run to run (addresses, number of workers). All do the same work: accept,
read the ClientHello, let the name www.example.com through to one node and refuse every other, relay.
"""
import dataclasses
import os
import pathlib
import re
import shutil
import socket

import beacon_bytes
import harness

from . import machine

PEERS = pathlib.Path(__file__).resolve().parent.parent / "peers"
SERVER_NAME = "www.example.com"
MAX_CONNECTIONS = 9000      # the idle load opens 8,000; with two descriptors each this fits into DESCRIPTORS
DESCRIPTORS = 20000
PREFIXES, TOKENS = 8, 10000  # what Hudsucker's look-up tables hold, so that looking up is not free


@dataclasses.dataclass(frozen=True)
class Kind:
    label: str
    program: str | None = None   # of a peer: looked for in PATH
    template: str | None = None
    settings: dict = dataclasses.field(default_factory=dict)  # for the template, where two kinds share one
    never_idle: bool = False     # it would take the core of those that are measured after it: it ends with each sample


KINDS = {
    "hudsucker": Kind("Hudsucker"),
    "beside": Kind("Hudsucker, the other program"),
    "hudsucker-alone": Kind("Hudsucker, with nothing beside it"),
    "hudsucker-logging": Kind("Hudsucker, with its access log"),
    "haproxy": Kind("HAProxy, tuned, copying", "haproxy", "haproxy-copy.cfg"),
    "haproxy-default": Kind("HAProxy, as documented", "haproxy", "haproxy-default.cfg"),
    "haproxy-splice-auto": Kind("HAProxy, splice-auto", "haproxy", "haproxy-splice-auto.cfg"),
    "haproxy-splice": Kind("HAProxy, forced splice, 1 MiB pipes", "haproxy", "haproxy-splice.cfg"),
    "haproxy-busy-polling": Kind("HAProxy, busy polling", "haproxy", "haproxy-busy-polling.cfg", never_idle=True),
    "nginx": Kind("nginx, buffers of 16 KiB", "nginx", "nginx.conf", {"buffer_size": "16k"}),
    "nginx-large": Kind("nginx, buffers of 1 MiB", "nginx", "nginx.conf", {"buffer_size": "1m"}),
}


def find_program(program):
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def installed(key):
    program = KINDS[key].program
    return program is None or find_program(program)


def fill(template, values):
    """The file with each @NAME@ replaced; a name that is left or unknown is a mistake in the template."""
    def value(match):
        if match.group(1) not in values:
            raise KeyError(f"perf/peers/{template}: nobody knows @{match.group(1)}@")
        return str(values[match.group(1)])
    return re.sub(r"@([a-z_]+)@", value, (PEERS / template).read_text(encoding="utf-8"))


class Peer(harness.Process):
    """HAProxy or nginx."""

    def __init__(self, stage, key, node, cores, max_connections=MAX_CONNECTIONS):
        self.stage, self.key, self.address = stage, key, stage.address()
        kind, name = KINDS[key], f"{key}-{len(cores)}-{max_connections}"
        folder = stage.path(f"{name}.d")
        folder.mkdir(exist_ok=True)
        config = stage.write(name + pathlib.Path(kind.template).suffix, fill(kind.template, {
            **kind.settings, "address": self.address, "node": node, "server_name": SERVER_NAME, "workers": len(cores),
            "max_connections": max_connections, "worker_connections": 2 * max_connections + 100,
            "descriptors": 2 * max_connections + 1000, "folder": folder, "core_list": " ".join(map(str, cores)),
            "core_masks": " ".join(bin(1 << core)[2:] for core in cores), "user_line": "user root;" if os.geteuid() == 0 else "",
        }))
        program = harness.require_program(kind.program)
        arguments = [program, "-db", "-f", config] if kind.program == "haproxy" else [program, "-p", folder, "-c", config, "-e", "stderr"]
        with machine.running_on(cores):
            super().__init__(stage, name, arguments, group=True)
        harness.wait_until(self._accepts, f"{kind.label} listening")

    def _accepts(self):
        if not self.alive():
            raise AssertionError(machine.ended(KINDS[self.key].label, self.popen.returncode, self.log()))
        try:
            harness.connect(self.address, 1).close()
            return True
        except OSError:
            return False

    @property
    def pids(self):
        return [self.pid, *machine.children_of(self.pid)]


class Ours(harness.Hudsucker):
    """Hudsucker with its defaults: only addresses, the number of workers, and no access log unless it is "hudsucker-logging". (No
    peer has one either.)

    An agent speaks for its node with prefixes and tokens, so a client's token is looked up in tables that are filled.
    """

    def __init__(self, stage, key, node, cores, max_connections=MAX_CONNECTIONS, program=None, relay=None):
        self.key = key
        secret = beacon_bytes.random_key()
        name = f"{key}-{len(cores)}-{max_connections}"
        settings = {"relay": relay} if relay else {}
        log = {"access": {"enabled": False}} if key != "hudsucker-logging" else {"file": str(stage.path("access.log"))}
        with machine.running_on(cores):
            super().__init__(stage, [{"name": "web", "nodes": [{"name": "n1", "address": node}]}], name=name, program=program,
                             keys=[beacon_bytes.key_line("n1", secret)], workers=len(cores), max_connections=max_connections,
                             listeners=[{"name": "tls", "routes": [{"sni": SERVER_NAME, "pool": "web"}]}],
                             log=log, **settings)
        self.agent = beacon_bytes.PyAgent(stage, "n1", secret, self.beacon_address, node, every=1.0,
                                          prefixes=[os.urandom(16) for _ in range(PREFIXES)])
        self.agent.add_tokens([os.urandom(32) for _ in range(TOKENS)])
        self.wait_states({"n1": "up"})

    @property
    def pids(self):
        return [self.pid]


class Node(harness.Process):
    """hud-load's server, on every loopback address: each proxy reaches it by an address of its own, so none uses up the
    other's local ports with connections in TIME_WAIT."""

    def __init__(self, stage, core, starts=1, port=None):
        """`starts`: how often it has been started in this run; `port`: of the one before, which all proxies know."""
        self.stage, self.core, self.starts, self.port = stage, core, starts, port or self._free_port()
        with machine.running_on([core]):
            super().__init__(stage, f"hud-load-server-{starts}",
                             [harness.PROGRAMS / "hud-load", "server", "--listen", f"0.0.0.0:{self.port}"])
        harness.wait_until(self._ready, "the node (hud-load server) listening")

    @staticmethod
    def _free_port():
        with socket.socket() as probe:
            probe.bind(("0.0.0.0", 0))
            return probe.getsockname()[1]

    def _ready(self):
        if not self.alive():
            raise AssertionError(self.end())
        return "ready" in self.log()

    def end(self):
        return machine.ended("the node (hud-load server)", self.popen.returncode, self.log())

    def again(self):
        """Another one where the one that died was."""
        return Node(self.stage, self.core, self.starts + 1, self.port)

    def address_for(self, stage):
        return f"{stage.host()}:{self.port}"


def start(key, stage, node, cores, **options):
    """`node` is the address that this proxy has for its node."""
    if KINDS[key].program:
        options.pop("program", None)
        return Peer(stage, key, node, cores, **options)
    return Ours(stage, key, node, cores, **options)


def templates():
    return {kind.template for kind in KINDS.values() if kind.template}
