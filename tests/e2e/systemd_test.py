#!/usr/bin/env python3
"""Both units, as installed, under a real systemd: start, reload, restart, rotation of the log, watchdog, crashes, stop."""
import json
import re
import ssl
import time

from harness import ROOT, connect, http_get, wait_until
from runner import case, main
from servers.nginx import Nginx
from servers.scripted import read_to_end
from systemd_bench import UNITS, Bench, end_with_parent

PROXY, STATUS = "10.0.0.1:443", "127.0.0.1:9180"
EXAMPLES = "/usr/share/doc/hudsucker/examples"
FEEDS = ("n1.syslog", "n1.tokens")


class Installed(Bench):
    """The bench after README's steps, with the example configurations: node n1 at 10.0.0.11:8443 has an agent."""

    def __init__(self, stage, drop_ins=()):
        super().__init__(stage, dict(drop_ins))
        for step in (["useradd", "--system", "--shell", "/usr/sbin/nologin", "hudsucker"], ["install", "-d", "/etc/hudsucker"]):
            self.checked(*step)
        made = self.checked("sh", "-c", "cd /etc/hudsucker && hud-agentd keygen n1 --pools web --addresses 10.0.0.11")
        self.path("/etc/hudsucker/beacon.keys").write_text(re.search(r"^node=n1 .*\n", made, re.M).group(), encoding="utf-8")
        self.checked("chown", "hudsucker", "/etc/hudsucker/beacon.keys", "/etc/hudsucker/n1.key")
        self.checked("chmod", "600", "/etc/hudsucker/beacon.keys", "/etc/hudsucker/n1.key")
        self.example = self.path(f"{EXAMPLES}/hudsucker.yaml").read_text(encoding="utf-8")
        self.configure(self.example)
        agent = self.path(f"{EXAMPLES}/hud-agentd.yaml").read_text(encoding="utf-8")
        self.path("/etc/hudsucker/hud-agentd.yaml").write_text(agent.replace('"127.0.0.1:8443"', '"10.0.0.11:8443"'), encoding="utf-8")
        self.systemctl("enable", *UNITS)

    def checked(self, *arguments, **options):
        done = self.run(*arguments, **options)
        assert done.returncode == 0, f"{arguments}: {done}\n{self.journal('*')[-3000:]}"
        return done.stdout

    def configure(self, text):
        self.path("/etc/hudsucker/hudsucker.yaml").write_text(text, encoding="utf-8")

    def systemctl(self, *arguments, **options):
        return self.checked("systemctl", *arguments, **options)

    def journal(self, unit):
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout

    def wait_journal(self, unit, words):
        """Who writes into the journal does not wait for it."""
        wait_until(lambda: words in self.journal(unit), f"'{words}' in the journal of {unit}")

    def show(self, unit, name):
        return self.systemctl("show", "--value", f"--property={name}", unit).strip()

    def main_pid(self, unit):
        return int(self.show(unit, "MainPID"))

    def wait_restarted(self, unit, pid):
        """Until the unit has another main process than `pid`, which has said that it is ready."""
        wait_until(lambda: self.main_pid(unit) not in (0, pid) and self.show(unit, "ActiveState") == "active", f"a new {unit}")


def nginx(stage, name="n1"):
    return Nginx(stage, name, address={"n1": "10.0.0.11:8443", "n2": "10.0.0.12:8443"}[name], preexec=end_with_parent)


def serving():
    """The node that answers a client of the proxy."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(connect(PROXY), server_hostname="www.example.com") as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return read_to_end(client).split(b"\r\n\r\n")[1].decode().strip()


def status():
    return json.loads(http_get(STATUS)[1])


def wait_heard():
    """Until the proxy that runs now has heard from the agent that its server answers."""
    def heard():
        return any(node.get("agent", {}).get("ready") for pool in status()["pools"] for node in pool["nodes"])
    wait_until(heard, "the agent being heard")


@case(needs_root=True)
def both_start_with_the_examples_as_their_user_in_folders_of_their_own(stage):
    bench = Installed(stage)
    nginx(stage)
    bench.systemctl("start", *UNITS)
    assert serving() == "n1", "port 443, and it is not root"
    wait_heard()
    user = bench.checked("id", "-u", "hudsucker").strip()
    for unit in UNITS:
        assert (bench.show(unit, "ActiveState"), bench.show(unit, "NRestarts")) == ("active", "0"), bench.journal(unit)
        pid = bench.main_pid(unit)
        assert bench.checked("readlink", f"/proc/{pid}/cwd") == ("/var/lib/hudsucker\n" if unit == "hudsucker" else "/\n")
        process = bench.checked("cat", f"/proc/{pid}/status")
        assert set(re.search(r"^Uid:(.*)$", process, re.M).group(1).split()) == {user}
        assert int(re.search(r"^CapPrm:(.*)$", process, re.M).group(1), 16) == 0, process
        assert "running without" not in bench.journal(unit), "the unit keeps the program from limiting itself"
    assert bench.show("hudsucker", "StatusText") == "serving"
    wait_until(lambda: bench.show("hud-agentd", "StatusText").startswith("1 of 1 nodes ready"), "the agent's status")
    for path, mode in (("/run/hudsucker", "755"), ("/var/lib/hudsucker", "750"), ("/var/log/hudsucker", "750"),
                       ("/run/hud-agentd", "755"), ("/var/lib/hud-agentd", "700")):
        assert bench.checked("stat", "--format=%U %a", path) == f"hudsucker {mode}\n", path
    for name in FEEDS:
        assert bench.checked("stat", "--format=%F %a", f"/run/hud-agentd/{name}") == "socket 660\n", name


@case(needs_root=True)
def reload_waits_for_the_result_and_fails_with_the_reason(stage):
    bench = Installed(stage)
    nginx(stage), nginx(stage, "n2")

    def with_node(name):
        return re.sub(r"(?m)^      - \{name: (?!%s,).*\n" % name, "", bench.example)
    bench.configure(with_node("n1"))
    bench.systemctl("start", "hudsucker")
    pid = bench.main_pid("hudsucker")
    assert serving() == "n1"
    bench.configure(with_node("n2"))
    bench.systemctl("reload", "hudsucker")
    assert serving() == "n2", "it returned before the configuration was in use"
    for bad, words in (("nonsense: 1\n", "nonsense"), ("max_connections: 7\n", "max_connections")):
        bench.configure(with_node("n1") + bad)
        done = bench.run("systemctl", "reload", "hudsucker")
        assert done.returncode != 0, done
        line = bench.example.count("\n")  # one less than there were, and one more
        wait_until(lambda: re.search(rf"hudsucker\.yaml:{line}\b.*{words}", bench.journal("hudsucker")), f"{words} being said")
        assert serving() == "n2" and bench.show("hudsucker", "ActiveState") == "active"
    bench.configure(with_node("n1"))
    bench.systemctl("reload", "hudsucker")
    assert serving() == "n1" and bench.main_pid("hudsucker") == pid and bench.show("hudsucker", "NRestarts") == "0"


@case(needs_root=True)
def a_restart_of_one_leaves_the_other_alone(stage):
    bench = Installed(stage)
    nginx(stage)
    bench.systemctl("start", *UNITS)
    wait_heard()
    proxy, agent = (bench.main_pid(unit) for unit in UNITS)

    def feeds():
        return [bench.path(f"/run/hud-agentd/{name}").stat().st_ino for name in FEEDS]
    before = feeds()
    bench.systemctl("restart", "hudsucker")
    assert bench.main_pid("hudsucker") != proxy and bench.main_pid("hud-agentd") == agent
    assert serving() == "n1" and feeds() == before
    wait_heard()
    bench.systemctl("stop", "hudsucker")
    assert feeds() == before
    bench.systemctl("start", "hudsucker")
    proxy = bench.main_pid("hudsucker")
    bench.systemctl("restart", "hud-agentd")
    assert bench.main_pid("hud-agentd") != agent and len(feeds()) == 2
    assert serving() == "n1" and bench.main_pid("hudsucker") == proxy
    wait_heard()
    bench.systemctl("stop", "hud-agentd")
    assert serving() == "n1" and bench.main_pid("hudsucker") == proxy
    assert [bench.show(unit, "NRestarts") for unit in UNITS] == ["0", "0"]


@case(needs_root=True)
def the_examples_own_log_file_is_written_and_reopened(stage):
    bench = Installed(stage)
    nginx(stage)
    file = re.search(r"^#   file: (/\S+)", bench.example, re.M).group(1)
    bench.configure(bench.example + f"log: {{file: {file}}}\n")
    bench.systemctl("start", "hudsucker")
    log, old = bench.path(file), bench.path(file + ".1")
    assert "msg=starting" in log.read_text(encoding="utf-8")
    assert bench.checked("stat", "--format=%U %a", file) == "hudsucker 640\n"
    log.rename(old)
    bench.systemctl("kill", "--signal=SIGUSR1", "hudsucker")
    wait_until(lambda: log.exists() and 'msg="log reopened"' in log.read_text(encoding="utf-8"), "the new file")
    assert serving() == "n1"
    wait_until(lambda: "msg=connection" in log.read_text(encoding="utf-8"), "a line in the new file")
    assert "msg=connection" not in old.read_text(encoding="utf-8")


@case(needs_root=True)
def what_stands_still_is_killed_and_started_again_and_what_turns_is_not(stage):
    short = "[Service]\nWatchdogSec=2s\nRestartSec=50ms\n"
    for unit in UNITS:
        text = (ROOT / f"deploy/{unit}.service").read_text(encoding="utf-8")
        assert re.search(r"^WatchdogSec=\d+s$", text, re.M), unit
    bench = Installed(stage, drop_ins={unit: short for unit in UNITS})
    nginx(stage)
    bench.systemctl("start", *UNITS)
    wait_heard()
    time.sleep(4.5)  # more than twice the time
    assert [bench.show(unit, "NRestarts") for unit in UNITS] == ["0", "0"], "it did not say that it turns"
    pids = {unit: bench.main_pid(unit) for unit in UNITS}
    bench.systemctl("kill", "--signal=SIGSTOP", *UNITS)
    for unit, pid in pids.items():
        bench.wait_restarted(unit, pid)
        bench.wait_journal(unit, "Watchdog timeout")
    assert serving() == "n1"
    wait_heard()


@case(needs_root=True)
def what_is_killed_comes_back_however_often(stage):
    bench = Installed(stage, drop_ins={unit: "[Service]\nRestartSec=20ms\n" for unit in UNITS})
    nginx(stage)
    bench.systemctl("start", *UNITS)
    for _ in range(6):  # more than the five that systemd would put up with
        pids = {unit: bench.main_pid(unit) for unit in UNITS}
        bench.systemctl("kill", "--signal=SIGKILL", *UNITS)
        for unit, pid in pids.items():
            bench.wait_restarted(unit, pid)
    assert serving() == "n1"
    wait_heard()
    pid = bench.main_pid("hudsucker")
    bench.systemctl("kill", "--signal=SIGTERM", "hudsucker")  # not by systemctl stop: nobody wants it to be down
    bench.wait_restarted("hudsucker", pid)
    assert serving() == "n1"
    bench.systemctl("kill", "--signal=SIGUSR2", "hud-agentd")  # takes its node out of service: that is to last
    wait_until(lambda: bench.show("hud-agentd", "ActiveState") == "inactive", "the agent's end")
    time.sleep(0.5)
    assert (bench.show("hud-agentd", "ActiveState"), bench.show("hud-agentd", "Result")) == ("inactive", "success")


@case(needs_root=True)
def a_start_that_fails_says_why_and_succeeds_by_itself_once_it_can(stage):
    bench = Installed(stage, drop_ins={unit: "[Service]\nRestartSec=20ms\n" for unit in UNITS})
    nginx(stage)
    for name in ("beacon.keys", "n1.key"):
        bench.checked("mv", f"/etc/hudsucker/{name}", f"/etc/hudsucker/{name}.away")
    for unit, name in zip(UNITS, ("beacon.keys", "n1.key")):
        assert bench.run("systemctl", "start", unit).returncode != 0, unit
        wait_until(lambda: int(bench.show(unit, "NRestarts")) > 5, f"more tries of {unit} than systemd would put up with")
        bench.wait_journal(unit, f"/etc/hudsucker/{name}")
        bench.checked("mv", f"/etc/hudsucker/{name}.away", f"/etc/hudsucker/{name}")
        bench.wait_restarted(unit, 0)
    assert serving() == "n1"
    wait_heard()


@case(needs_root=True)
def stop_waits_for_the_drain_and_other_signals_end_nothing(stage):
    bench = Installed(stage, drop_ins={"hudsucker": "[Service]\nTimeoutStopSec=1s\n"})
    nginx(stage)
    bench.configure(bench.example + "timeouts: {drain: 3s}\n")
    bench.systemctl("start", *UNITS)
    pids = [bench.main_pid(unit) for unit in UNITS]
    for name in ("SIGUSR2", "SIGQUIT"):
        bench.systemctl("kill", f"--signal={name}", "hudsucker")
        wait_until(lambda: re.search(f"ignored.*{name}|{name}.*ignored", bench.journal("hudsucker")), f"a word about {name}")
    bench.systemctl("kill", "--signal=SIGQUIT", "hud-agentd")
    wait_until(lambda: re.search("ignored a signal.*SIGQUIT", bench.journal("hud-agentd")), "the agent's word about SIGQUIT")
    assert serving() == "n1" and [bench.main_pid(unit) for unit in UNITS] == pids
    with connect(PROXY) as held:
        held.sendall(b"\x16")
        wait_until(lambda: status()["listeners"][0]["active"] == 1, "the connection")
        began = time.monotonic()
        bench.systemctl("stop", *UNITS)
        assert time.monotonic() - began > 2, "the drain was cut short"
    for unit in UNITS:
        assert (bench.show(unit, "ActiveState"), bench.show(unit, "Result")) == ("inactive", "success"), bench.journal(unit)
        assert (bench.show(unit, "ExecMainCode"), bench.show(unit, "ExecMainStatus")) == ("1", "0"), "exited, with 0"
    bench.wait_journal("hudsucker", "cut=1 of=1")
    assert not bench.path("/run/hudsucker").exists()


if __name__ == "__main__":
    main()
