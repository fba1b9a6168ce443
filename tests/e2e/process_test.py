#!/usr/bin/env python3
"""The process as an operator and a service manager meet it: --check against the start, signals, log files, the end."""
import ctypes
import os
import pathlib
import pwd
import re
import signal
import socket
import subprocess
import time

from harness import PATIENCE, PROGRAMS, Agent, Hudsucker, Process, Stopwatch, connect, http_get, make_key, to_yaml, wait_until
from runner import Skip, case, main
from servers.scripted import ScriptedNode, answer_name, read_to_end

CHECK_OK, FAILED = 0, 1


def good_config(stage, **more):
    return {"workers": 1, "listeners": [{"name": "tls", "bind": stage.address(), "default_pool": "web"}],
            "pools": [{"name": "web", "health_check": False, "nodes": [{"name": "n1", "address": "127.0.0.1:9"}]}],
            "status": {"bind": stage.address()}, **more}


def run(*arguments, seconds=60):
    return subprocess.run([PROGRAMS / arguments[0], *map(str, arguments[1:])], capture_output=True, text=True, timeout=seconds)


def scripted_proxy(stage, **more):
    node = ScriptedNode(stage, answer_name, name="n1")
    return Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [node.as_node()]}], **more)


@case(needs_root=True)
def check_refuses_what_the_start_refuses_and_says_the_same(stage):
    closed = stage.path("closed")
    closed.mkdir(mode=0o700)
    keys = stage.write("roots.keys", "", 0o600)
    beacons = {"bind": "127.0.0.1:29999", "keys": str(keys)}
    for name, more, words in [
        ("an unknown user", {"user": "no-such-user"}, "there is no user 'no-such-user'"),
        ("a log folder that is not there", {"log": {"file": str(stage.path("none/x.log"))}}, "there is no folder"),
        ("a log folder that the user may not write", {"user": "nobody", "log": {"file": str(closed / "x.log")}}, "may not write it"),
        ("a log file that is a folder", {"log": {"file": str(closed)}}, "is a folder"),
        ("keys that the user cannot read", {"user": "nobody", "beacons": beacons}, "roots.keys"),
        ("an address that is not ours", {"status": {"bind": "192.0.2.1:9180"}}, "192.0.2.1:9180"),
        ("a listener without a port", {"listeners": [{"name": "tls", "bind": "127.0.0.1:0", "default_pool": "web"}]}, "names no port"),
        ("a listener on a unix socket", {"listeners": [{"name": "tls", "bind": "unix:/tmp/x", "default_pool": "web"}]}, "is a unix socket"),
    ]:
        path = stage.write("c.yaml", to_yaml({**good_config(stage), **more}))
        for option in ("--check", "--config"):
            done = run("hudsucker", option, path)
            assert done.returncode == FAILED and words in done.stderr, f"{name}, {option}: {done}"


@case
def check_beside_the_running_instance_is_ok_and_disturbs_nothing(stage):
    hudsucker = scripted_proxy(stage, log={"file": str(stage.path("hud.log"))})
    before = stage.path("hud.log").read_text()
    done = run("hudsucker", "--check", hudsucker.config_path)
    assert done.returncode == CHECK_OK and done.stdout == "ok\n", done
    assert f"note: {hudsucker.config_path}" in done.stderr and "is in use" in done.stderr, done.stderr
    assert stage.path("hud.log").read_text().startswith(before)
    with connect(hudsucker.address) as client:
        client.sendall(b"who?")
        assert read_to_end(client) == b"n1"


@case(needs_root=True)
def the_agents_check_as_root_accepts_the_key_of_the_user_that_its_unit_names(stage):
    path, _ = make_key(stage, "n1")
    nobody = pwd.getpwnam("nobody")
    os.chown(path, nobody.pw_uid, nobody.pw_gid)
    config = stage.write("a.yaml", to_yaml({"node": {"name": "n1", "address": "127.0.0.1:9", "pool": "web"}, "key": str(path),
                                            "proxies": ["127.0.0.1:9"]}))
    done = run("hud-agentd", "--check", config)
    assert done.returncode == CHECK_OK, done


@case(needs_root=True)
def a_secret_of_root_that_a_supplementary_group_may_read_is_accepted_by_both(stage):
    path, line = make_key(stage, "n1")
    keys = stage.write("beacon.keys", line)
    agent = stage.write("a.yaml", to_yaml({"node": {"name": "n1", "address": "127.0.0.1:9", "pool": "web"}, "key": str(path),
                                           "proxies": ["127.0.0.1:9"]}))
    proxy = stage.write("c.yaml", to_yaml(good_config(stage, beacons={"bind": "127.0.0.1:29999", "keys": str(keys)})))
    for secret in (path, keys):
        os.chown(secret, 0, 2000)
        os.chmod(secret, 0o440)
    for program, config in (("hudsucker", proxy), ("hud-agentd", agent)):
        for groups, code in (([2000], CHECK_OK), ([], FAILED)):
            done = subprocess.run([PROGRAMS / program, "--check", config], capture_output=True, text=True, timeout=60,
                                  user=54321, group=54321, extra_groups=groups)
            assert done.returncode == code, f"{program} with groups {groups}: {done}"


@case
def no_signal_from_outside_ends_either_program_without_a_word(stage):
    hudsucker = scripted_proxy(stage)
    key, _ = make_key(stage, "n1")
    agent = Agent(stage, "n1", "127.0.0.1:9", ["127.0.0.1:9"], key)
    wait_until(lambda: "waiting for its server" in agent.log(), "the agent")
    for number in (signal.SIGQUIT, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGXCPU, signal.SIGXFSZ,
                   signal.SIGRTMIN + 1):
        name = signal.Signals(number).name if number in iter(signal.Signals) else f"signal {number}"
        for program in (hudsucker, agent):
            program.signal(number)
            wait_until(lambda: "ignored" in program.log() and name.replace("SIGIO", "SIGPOLL") in program.log(), f"a word about {name}")
    hudsucker.signal(signal.SIGUSR2)
    wait_until(lambda: "SIGUSR2" in hudsucker.log(), "a word about SIGUSR2")
    hudsucker.signal(signal.SIGUSR1)
    wait_until(lambda: "there is no log.file to reopen" in hudsucker.log(), "a word about SIGUSR1")
    with connect(hudsucker.address) as client:
        client.sendall(b"who?")
        assert read_to_end(client) == b"n1"
    for program in ("hudsucker", "hud-agentd"):
        assert "SIGUSR1" in run(program, "--help").stdout, program


@case
def a_rotated_log_is_reopened_by_sigusr1_and_a_failure_is_said(stage):
    log, old = stage.path("logs") / "hud.log", stage.path("logs") / "hud.log.1"
    log.parent.mkdir(mode=0o755)
    hudsucker = scripted_proxy(stage, log={"file": str(log)})
    log.rename(old)
    hudsucker.signal(signal.SIGUSR1)
    wait_until(lambda: log.exists() and 'msg="log reopened"' in log.read_text(), "the new file")
    assert hudsucker.status()["reloads"]["ok"] == 0, "it is no reload"
    log.rename(old)
    log.mkdir()  # as root, nothing else keeps it from making a file
    hudsucker.signal(signal.SIGUSR1)
    wait_until(lambda: "could not be reopened" in old.read_text(), "a word about the failure")
    assert "is a folder" in old.read_text()
    assert "is a folder" in hudsucker.log(), "standard error says it, too: nobody looks at the old file"
    assert "\nhudsucker_log_reopen_failures_total 1\n" in hudsucker.metrics()
    log.rmdir()
    hudsucker.signal(signal.SIGHUP)
    wait_until(lambda: log.exists() and "log reopened" in log.read_text(), "the file after SIGHUP")


@case
def a_fifo_that_nobody_reads_as_log_is_said_at_once(stage):
    fifo = stage.path("fifo")
    os.mkfifo(fifo)
    path = stage.write("c.yaml", to_yaml(good_config(stage, log={"file": str(fifo)})))
    done = run("hudsucker", "--config", path)
    assert done.returncode == FAILED and "is a FIFO that nobody reads" in done.stderr, done


@case
def access_lines_are_written_whatever_the_level(stage):
    log = stage.path("hud.log")
    hudsucker = scripted_proxy(stage, log={"file": str(log), "level": "error", "access": {"enabled": True}})
    with connect(hudsucker.address) as client:
        client.sendall(b"who?")
        read_to_end(client)
    wait_until(lambda: "msg=connection" in log.read_text(), "the access line")
    assert "msg=starting" not in log.read_text()


@case
def a_node_that_is_down_and_its_empty_pool_are_warnings_with_a_reason(stage):
    node = ScriptedNode(stage, answer_name, name="n1")
    hudsucker = Hudsucker(stage, [{"name": "web", "health_interval": "100ms", "nodes": [node.as_node()]}])
    wait_until(lambda: hudsucker.node("n1")["state"] == "up", "the node being up")
    node.close()
    wait_until(lambda: "pool has no usable node" in hudsucker.log(), "the empty pool being said")
    lines = [line for line in hudsucker.log().splitlines() if "state=down" in line or "no usable node" in line]
    assert len(lines) == 2 and all("level=warning" in line and "reason=" in line for line in lines), lines


@case
def ready_says_503_before_the_listener_closes_and_the_drain_counts(stage):
    hudsucker = scripted_proxy(stage, timeouts={"drain": "1s", "drain_grace": "3s"})
    assert http_get(hudsucker.status_address, "/ready") == (200, "ready\n")
    held = connect(hudsucker.address)  # says nothing but one byte: cut by the deadline
    held.sendall(b"\x16")
    wait_until(lambda: sum(w["active"] for w in hudsucker.status()["workers"]) == 1, "the connection")
    began = time.monotonic()
    hudsucker.signal(signal.SIGTERM)
    wait_until(lambda: http_get(hudsucker.status_address, "/ready") == (503, "draining\n"), "503")
    with connect(hudsucker.address) as client:  # still taken: the balancer in front is just being told
        client.sendall(b"who?")
        assert read_to_end(client) == b"n1"
    assert hudsucker.popen.wait(PATIENCE) == 0
    hudsucker.expected = True
    assert time.monotonic() - began >= 3, "the grace was cut short"
    held.close()
    log = hudsucker.log()
    assert "connections=1 seconds=1" in log and "cut=1 of=1" in log, log[-1500:]


@case
def ready_says_503_where_nobody_can_be_served(stage):
    node, other = ScriptedNode(stage, answer_name, name="n1"), ScriptedNode(stage, answer_name, name="n2")
    hudsucker = Hudsucker(stage, [{"name": name, "health_interval": "100ms", "nodes": [n.as_node()]} for name, n in (("a", node), ("b", other))])

    def ready():
        return http_get(hudsucker.status_address, "/ready")
    wait_until(lambda: ready() == (200, "ready\n"), "both pools")
    node.close()
    wait_until(lambda: hudsucker.node("n1")["state"] == "down", "the first node being down")
    assert ready() == (200, "ready\n"), "clients of the other pool are served"
    other.close()
    wait_until(lambda: ready() == (503, "no usable node\n"), "503")


@case
def who_is_not_asked_for_ready_does_not_wait_for_it(stage):
    hudsucker = scripted_proxy(stage, timeouts={"drain_grace": "60s"})
    hudsucker.signal(signal.SIGTERM)
    assert hudsucker.popen.wait(PATIENCE) == 0
    hudsucker.expected = True
    assert "msg=drained cut=0 of=0" in hudsucker.log(), hudsucker.log()[-800:]


@case
def the_service_manager_hears_how_long_the_end_may_take(stage):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(stage.path("notify")))
        manager.settimeout(PATIENCE)
        hudsucker = scripted_proxy(stage, timeouts={"drain": "100s"}, env={"NOTIFY_SOCKET": str(stage.path("notify"))})
        hudsucker.signal(signal.SIGTERM)
        text = ""
        while "EXTEND_TIMEOUT_USEC=" not in text:
            text = manager.recv(4096).decode()
        assert int(text.split("EXTEND_TIMEOUT_USEC=")[1].split()[0]) > 100_000_000, text


@case
def the_agent_feeds_the_service_managers_watchdog_in_time_however_seldom_it_measures(stage):
    key, _ = make_key(stage, "n1")
    config = stage.write("a.yaml", to_yaml({"node": {"name": "n1", "address": "127.0.0.1:9", "pool": "web"}, "key": str(key),
                                            "proxies": ["127.0.0.1:9"], "beacon": {"every": "10s"}}))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(stage.path("notify")))
        manager.settimeout(PATIENCE)
        agent = Process(stage, "agent", [PROGRAMS / "hud-agentd", "--config", config], fatal=True,
                        env={"NOTIFY_SOCKET": str(stage.path("notify")), "WATCHDOG_USEC": "300000"})
        fed, watch = 0, Stopwatch(agent.pid)
        while fed < 10:  # a second, at three in 300 ms
            fed += "WATCHDOG=1" in manager.recv(4096).decode()
        assert watch.of_ours() < 6, "as seldom as health is measured"


class Held:
    """One thread of a process, held by ptrace as if it hung. Not by a signal: that would stop all of them."""
    SEIZE, INTERRUPT, DETACH, ALL = 0x4206, 0x4207, 17, 0x40000000

    def __init__(self, pid, name):
        self.tid = next(int(task.name) for task in pathlib.Path(f"/proc/{pid}/task").iterdir() if (task / "comm").read_text().strip() == name)
        self.call = ctypes.CDLL(None, use_errno=True).ptrace
        self.call.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        if self.call(self.SEIZE, self.tid, None, None) != 0:
            raise Skip(f"this machine allows no ptrace: {os.strerror(ctypes.get_errno())}")
        assert self.call(self.INTERRUPT, self.tid, None, None) == 0
        os.waitpid(self.tid, self.ALL)

    def let_go(self):
        assert self.call(self.DETACH, self.tid, None, None) == 0


@case(needs_root=True)
def a_worker_that_hangs_is_said_once_and_its_return_too(stage):
    hudsucker = scripted_proxy(stage, watchdog={"after": "1s"})

    def worker(number):
        return hudsucker.status()["workers"][number]

    def metric(name):
        return float(re.search(rf'^{name}{{worker="1"}} (\S+)$', hudsucker.metrics(), re.M).group(1))
    held = Held(hudsucker.pid, "worker-1")
    wait_until(lambda: worker(1)["hangs"], "the worker found")
    assert metric("hudsucker_worker_hangs") == 1 and metric("hudsucker_worker_stalls_total") == 1
    assert time.time() - metric("hudsucker_worker_last_turn_timestamp_seconds") >= 1
    time.sleep(1.5)
    assert worker(1)["last_turn_age_s"] > 2 and not worker(0)["hangs"] and worker(0)["stalls"] == 0
    held.let_go()
    wait_until(lambda: not worker(1)["hangs"], "the worker back")
    wait_until(lambda: "a worker turns again" in hudsucker.log(), "the log's word of it")
    assert hudsucker.log().count("a worker hangs") == 1 and "worker=1" in hudsucker.log(), hudsucker.log()
    assert worker(1)["stalls"] == 1


@case
def a_process_that_was_stopped_has_no_worker_that_hangs(stage):
    hudsucker = scripted_proxy(stage, watchdog={"after": "1s", "end": True})
    for _ in range(2):
        hudsucker.signal(signal.SIGSTOP)
        time.sleep(1.5)
        hudsucker.signal(signal.SIGCONT)
        time.sleep(0.7)
    assert [w["stalls"] for w in hudsucker.status()["workers"]] == [0, 0], hudsucker.log()


@case(needs_root=True)
def a_worker_that_hangs_ends_the_process_if_told_so(stage):
    hudsucker = scripted_proxy(stage, watchdog={"after": "1s", "end": True})
    hudsucker.expected = True
    held = Held(hudsucker.pid, "worker-0")
    # Whoever holds a thread is told of its end first.
    wait_until(lambda: os.waitpid(held.tid, Held.ALL | os.WNOHANG)[0] == held.tid, "the end")
    assert hudsucker.popen.wait(PATIENCE) == -signal.SIGABRT
    assert "a worker hangs" in hudsucker.log() and "watchdog.end" in hudsucker.log(), hudsucker.log()


if __name__ == "__main__":
    main()
