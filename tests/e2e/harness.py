"""What the end-to-end cases stand on: a stage with its own folder, addresses and processes; the proxy; the agent.

Everything a case starts belongs to its Stage and is stopped, by pid, when the case ends, in the reverse order.
Addresses are on 127.X.Y.Z with X and Y drawn for each stage: the clients' ephemeral ports (on 127.0.0.1) never collide
with a listener, and cases may run side by side.
"""
import contextlib
import http.client
import json
import os
import pathlib
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Where the programs under test are, and where the tools that test them (a sanitizer run has plain tools).
PROGRAMS = pathlib.Path(os.environ.get("HUD_PROGRAMS", ROOT / "build/release/bin"))
TOOLS = pathlib.Path(os.environ.get("HUD_TOOLS", ROOT / "build/release/bin"))
REDUCED = bool(os.environ.get("HUD_REDUCED"))
LOGS = os.environ.get("HUD_TEST_LOGS")

# Seconds after which a wait has failed. No promise: a machine may be busy with other things, and nobody waits for what comes.
PATIENCE = 30

# What no program under test may ever write.
FATAL_WORDS = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer", "runtime error:",
               "broken invariant")


def reduced(full, less):
    """`less` when running under a sanitizer, which is several times slower."""
    return less if REDUCED else full


def wait_until(predicate, what="the condition", *, seconds=PATIENCE, every=0.02):
    """The first true value of `predicate`, tried until `seconds` are over. Other than PATIENCE they are a promise."""
    deadline = time.monotonic() + seconds * (3 if REDUCED else 1)
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come about within {seconds} s")
        time.sleep(every)


def to_yaml(value, indent=0):
    """Block YAML of dicts, lists and scalars; strings are always quoted."""
    pad = "  " * indent
    if isinstance(value, dict):
        lines = []
        for key, item in value.items():
            if isinstance(item, (dict, list)) and item:
                lines.append(f"{pad}{key}:\n{to_yaml(item, indent + 1)}")
            else:
                lines.append(f"{pad}{key}: {json.dumps(item)}\n")
        return "".join(lines)
    if isinstance(value, list):
        return "".join(f"{pad}- {json.dumps(item)}\n" for item in value)  # JSON is YAML's flow style
    return f"{pad}{json.dumps(value)}\n"


class Process:
    """A child with its output in a log file; ended by pid."""

    def __init__(self, stage, name, arguments, *, cwd=None, env=None, fatal=False, preexec=None, group=False):
        self.name, self.fatal, self.stop_signal, self.group = name, fatal, signal.SIGTERM, group
        self.arguments = [str(a) for a in arguments]
        self.log_path = stage.folder / f"{name}.log"
        self._log = open(self.log_path, "ab")
        self.popen = subprocess.Popen(self.arguments, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
                                      cwd=cwd or stage.folder, env={**os.environ, **(env or {})}, preexec_fn=preexec,
                                      start_new_session=group)
        self.expected = False  # killed by the case on purpose
        stage.own(self)

    @property
    def pid(self):
        return self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def log(self):
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def signal(self, number):
        self.popen.send_signal(number)

    def kill(self):
        """As `kill -9`, and reaps it. With `group` its own children too: nginx's workers outlive their master."""
        self.expected = True
        if self.group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        else:
            self.popen.kill()
        self.popen.wait()

    def stop(self, seconds=10):
        """Asks it to end and returns its exit code; None if it had to be killed."""
        if not self.alive():
            return self.popen.returncode
        self.popen.send_signal(signal.SIGCONT)
        self.popen.send_signal(self.stop_signal)
        try:
            return self.popen.wait(seconds * (3 if REDUCED else 1))
        except subprocess.TimeoutExpired:
            self.kill()
            self.expected = False
            return None

    def close(self):
        """Stops it; returns what was wrong with it."""
        ended_before = not self.alive()
        code = self.stop()
        self._log.close()
        faults = []
        if self.fatal:
            text = self.log()
            faults += [f"{self.name} wrote '{words}'" for words in FATAL_WORDS if words in text]
            if ended_before and not self.expected:
                faults.append(f"{self.name} ended by itself, with {code}")
            elif not self.expected and code is None:
                faults.append(f"{self.name} did not end on {self.stop_signal.name} and had to be killed")
            elif not self.expected and code != 0:
                faults.append(f"{self.name} ended with {code} on {self.stop_signal.name}")
        return faults


class Stage:
    """A folder, a range of loopback addresses, and everything that was started for one case."""

    def __init__(self, name):
        # Not in the repository: programs that drop their privileges read it, and a clone may lie in somebody's own folder.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{name[:40]}."))
        os.chmod(self.folder, 0o755)
        self._net = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}"
        self._hosts = 0
        self._owned = []
        self.notes = []  # figures worth keeping in the report
        self._certificate = {}

    def note(self, text):
        self.notes.append(text)
        print(f"    {text}", flush=True)

    def own(self, thing):
        """`thing.close()` is called at the end, the newest first."""
        self._owned.append(thing)
        return thing

    def close(self):
        faults = []
        for thing in reversed(self._owned):
            try:
                faults += thing.close() or []
            except Exception as error:  # go on: what is left must be stopped too
                faults.append(f"{type(error).__name__} while closing {thing}: {error}")
        self._processes = [thing for thing in self._owned if isinstance(thing, Process)]
        self._owned = []
        return faults

    def tails(self, lines=25):
        """The ends of the logs; the access log of the proxy is left out, it would drown the rest."""
        parts = []
        for process in {p.log_path: p for p in getattr(self, "_processes", [])}.values():
            with contextlib.suppress(OSError):
                last = [line for line in process.log().splitlines() if "msg=connection" not in line][-lines:]
                if last:
                    parts.append(f"--- the end of {process.log_path.name}\n" + "\n".join(last))
        return "\n".join(parts)

    def keep(self):
        """What a failed case left, moved beside the other logs. Returns where it is."""
        if not LOGS:
            return self.folder
        base = pathlib.Path(LOGS) / "e2e"
        base.mkdir(parents=True, exist_ok=True)
        return shutil.move(self.folder, base / self.folder.name)

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def host(self):
        self._hosts += 1
        assert self._hosts < 255, "a stage has 254 addresses"
        return f"{self._net}.{self._hosts}"

    def address(self, kind=socket.SOCK_STREAM):
        """A free address on a host of its own."""
        host = self.host()
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.bind((host, 0))
            return f"{host}:{probe.getsockname()[1]}"

    def wildcard_port(self, kind=socket.SOCK_STREAM):
        """A port that is free on all addresses. None of those that the kernel gives to clients, of which there are many."""
        while True:
            with socket.socket(socket.AF_INET6, kind) as probe, contextlib.suppress(OSError):
                probe.bind(("::", random.randint(10000, 30000)))
                return probe.getsockname()[1]

    def path(self, name):
        return self.folder / name

    def write(self, name, text, mode=0o644):
        path = self.folder / name
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
        os.chmod(path, mode)
        return path

    def certificate(self, kind="ec"):
        """Paths of a self-signed certificate for any name and of its key; one of each kind for the stage."""
        if kind not in self._certificate:
            certificate, key = self.path(f"{kind}.crt"), self.path(f"{kind}.pem")
            how = ["-newkey", "rsa:2048"] if kind == "rsa" else ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
            subprocess.run(["openssl", "req", "-x509", *how, "-nodes", "-days", "30", "-subj", "/CN=hudsucker-test",
                            "-addext", "subjectAltName=DNS:www.example.com,DNS:*.example.com", "-keyout", key, "-out",
                            certificate], check=True, capture_output=True)
            self._certificate[kind] = (certificate, key)
        return self._certificate[kind]


def split_address(address):
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


def connect(address, timeout=PATIENCE, **options):
    """A blocking TCP connection with TCP_NODELAY."""
    client = socket.create_connection(split_address(address), timeout=timeout, **options)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def http_get(address, path="/status", timeout=PATIENCE):
    """Code and body."""
    host, port = split_address(address)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class Hudsucker(Process):
    """The proxy, started and answering. `pools` and `listeners` as in the YAML; a listener without `bind` gets one."""

    def __init__(self, stage, pools, *, listeners=None, keys=None, name="hudsucker", beacons=None, wait=True, preexec=None,
                 prefix=(), env=None, status_address=None, program=None, **rest):
        self.stage, self.prefix = stage, list(prefix)
        self.status_address = status_address or stage.address()
        listeners = listeners or [{"name": "tls", "default_pool": pools[0]["name"]}]
        for listener in listeners:
            listener.setdefault("bind", stage.address())
        self.config = {"workers": rest.pop("workers", 2), "listeners": listeners, "pools": pools, "status": {"bind": self.status_address}, **rest}
        if keys is not None:
            self.keys_path = stage.write(f"{name}.keys", "".join(keys), 0o600)
            self.config["beacons"] = {"bind": stage.address(socket.SOCK_DGRAM), "keys": str(self.keys_path), **(beacons or {})}
        self.config_path = stage.path(f"{name}.yaml")
        self.write_config()
        super().__init__(stage, name, [*prefix, program or PROGRAMS / "hudsucker", "--config", self.config_path], fatal=True,
                         preexec=preexec, env=env)
        if wait:
            self.wait_ready()

    def write_config(self):
        self.stage.write(self.config_path.name, to_yaml(self.config))

    @property
    def address(self):
        bind = self.config["listeners"][0]["bind"]
        return bind if isinstance(bind, str) else bind[0]

    @property
    def beacon_address(self):
        return self.config["beacons"]["bind"]

    def wait_ready(self):
        def ready():
            if not self.alive():
                raise AssertionError(f"{self.name} ended with {self.popen.returncode}: {self.log()[-2000:]}")
            with contextlib.suppress(OSError, ValueError):
                return self.status()
        wait_until(ready, f"an answer of {self.name}'s /status")

    def status(self):
        code, body = http_get(self.status_address)
        assert code == 200, f"/status answered {code}: {body[:200]}"
        return json.loads(body)

    def metrics(self):
        code, body = http_get(self.status_address, "/metrics")
        assert code == 200, f"/metrics answered {code}"
        return body

    def pool(self, name=None):
        pools = self.status()["pools"]
        return next(p for p in pools if name is None or p["name"] == name)

    def node(self, name):
        for pool in self.status()["pools"]:
            for node in pool["nodes"]:
                if node["name"] == name:
                    return node
        return None

    def wait_states(self, states):
        """Waits until each named node has its state."""
        def reached():
            seen = {n["name"]: n["state"] for p in self.status()["pools"] for n in p["nodes"]}
            return all(seen.get(name) == state for name, state in states.items())
        wait_until(reached, f"the states {states}")

    def connection_lines(self, count):
        """What the log says of connections, once there are so many lines."""
        def found():
            lines = [line for line in self.log().splitlines() if "msg=connection" in line]
            return lines if len(lines) >= count else None
        return wait_until(found, f"{count} lines about connections")

    def again(self, **options):
        """The same configuration, started once more after a kill() or stop()."""
        self.config = {**self.config}
        later = Hudsucker.__new__(Hudsucker)
        later.__dict__.update(stage=self.stage, status_address=self.status_address, config=self.config,
                              config_path=self.config_path, prefix=self.prefix)
        Process.__init__(later, self.stage, self.name, self.arguments, fatal=True, **options)
        later.wait_ready()
        return later


def reloads(hudsucker):
    seen = hudsucker.status()["reloads"]
    return seen["ok"], seen["failed"]


def reload_and_wait(hudsucker, expect):
    """SIGHUP, and waits until it has been counted as `expect`: "ok" or "failed"."""
    before = reloads(hudsucker)
    hudsucker.write_config()
    hudsucker.signal(signal.SIGHUP)
    wanted = (before[0] + (expect == "ok"), before[1] + (expect == "failed"))
    wait_until(lambda: sum(reloads(hudsucker)) > sum(before), "the reload being counted")
    assert reloads(hudsucker) == wanted, f"{reloads(hudsucker)} instead of {wanted}: {hudsucker.status()['reloads']}"


class Agent(Process):
    """hud-agentd for one node, telling `proxies` (addresses) about it. `rest` goes into the YAML."""

    def __init__(self, stage, node_name, node_address, proxies, key_path, *, pool="web", sni="www.example.com",
                 probe_address=None, beacon_every="200ms", name=None, options=(), **rest):
        self.config = {
            "node": {"name": node_name, "address": node_address, "pool": pool, **rest.pop("node", {})},
            "proxies": list(proxies),
            "key": str(key_path),
            "probe": {"address": probe_address or node_address, "sni": sni, "every": "1s", **rest.pop("probe", {})},
            "beacon": {"every": beacon_every},
            **rest,
        }
        name = name or f"agent-{node_name}"
        path = stage.write(f"{name}.yaml", to_yaml(self.config))
        super().__init__(stage, name, [PROGRAMS / "hud-agentd", "--config", path, *options], fatal=True)


def make_key(stage, node_name, pools=("web",), addresses=("127.0.0.0/8",), options=()):
    """A key for a node, made by the agent's own keygen. Returns the agent's key path and the proxy's line."""
    made = subprocess.run([PROGRAMS / "hud-agentd", "keygen", node_name, "--pools", ",".join(pools), "--addresses",
                           ",".join(addresses), *options], cwd=stage.folder, capture_output=True, text=True, check=True)
    path = stage.path(f"{node_name}.key")
    lines = [line for line in made.stdout.splitlines() if line.startswith("node=")]
    assert lines, f"keygen printed no line for the keys file: {made.stdout!r}"
    return path, lines[0] + "\n"


def tls_client(address, mode, *, clients=20, rounds=4, wait_ms=0, threads=4, sni="www.example.com", extra=(), between=None):
    """Runs the tool and returns what it counted. The clients come back after `between(N)`, which is told how often each has come."""
    command = [str(TOOLS / "tls_client"), "--address", address, "--mode", mode, "--clients", str(clients), "--rounds", str(rounds),
               "--wait-ms", str(wait_ms), "--threads", str(threads), "--sni", sni, *map(str, extra)]
    if between is None:
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    with subprocess.Popen([*command, "--step"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        for times in range(1, rounds + 1):
            assert child.stdout.readline() == "held\n"
            between(times)
            child.stdin.write("\n")
            child.stdin.flush()
        return json.loads(child.communicate()[0])


def memory_kib(pid, field="VmRSS"):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise KeyError(field)


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def waited_for_a_core(pid):
    """Seconds in which threads of this process could have run, and others did. Nothing where the kernel does not say."""
    waited = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended, or there is no such file here
            waited += int((task / "schedstat").read_text().split()[1])
    return waited / 1e9


class Stopwatch:
    """Times what is promised within a bound. `of_ours` leaves out what other programs took of it: time in which threads of this
    process or of `pids` waited for a core."""

    def __init__(self, *pids):
        self._pids = [os.getpid(), *pids]
        self._waited, self._started = self._wait(), time.monotonic()

    def _wait(self):
        return sum(map(waited_for_a_core, self._pids))

    def wall(self):
        return time.monotonic() - self._started

    def of_ours(self):
        return max(0, self.wall() - max(0, self._wait() - self._waited))  # threads may have waited side by side


def listens(address):
    """Is anybody listening there (IPv4)? Asked of the kernel: a connect would be a connection."""
    host, port = split_address(address)
    local = f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"
    rows = [line.split()[1:4] for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[0] == local and row[2] == "0A" for row in rows)


def descriptors(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except PermissionError:  # only root looks into a process that may not be dumped; since Linux 6.2 the folder's size is their number
        return os.stat(f"/proc/{pid}/fd").st_size


def random_bytes(count, seed=None):
    return random.Random(seed).randbytes(count) if seed is not None else secrets.token_bytes(count)


def require_program(name):
    """Its path, also from the sbin folders that an unprivileged PATH lacks."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        raise AssertionError(f"{name} is not installed: deploy/install-packages demo peers")
    return path
