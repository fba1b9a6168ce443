#!/usr/bin/env python3
"""What both programs may do once they serve: no capability, no way to one, no system call beyond those of serving."""
import json
import os
import pathlib
import pwd
import resource
import signal
import subprocess

from harness import PROGRAMS, Agent, Hudsucker, connect, make_key, wait_until
from runner import Skip, case, main
from servers.scripted import ScriptedNode, answer_name, read_to_end

NOBODY = pwd.getpwnam("nobody")
# Of every thread. Seccomp 2: it has a filter.
LOCKED = {"NoNewPrivs": "1", "Seccomp": "2"}
NO_CAPABILITY = {name: "0" * 16 for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}


TO_LOCK_MEMORY = 1 << 14  # CAP_IPC_LOCK
TO_RAISE_LIMITS = 1 << 24  # CAP_SYS_RESOURCE


def of_the_proxy():
    """The capabilities of a proxy that root starts: none, or, where locked memory stays limited, the one to lock more."""
    own = int(dict(line.split(":\t", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())["CapEff"], 16)
    limited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] != resource.RLIM_INFINITY and not own & TO_RAISE_LIMITS
    stays = f"{own & TO_LOCK_MEMORY:016x}" if limited else "0" * 16
    return {**NO_CAPABILITY, "CapPrm": stays, "CapEff": stays}


def threads(pid, names):
    """What the kernel says of each thread; one dictionary if it says the same of all."""
    seen = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        fields = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
        own = {name: fields[name] for name in names}
        if own not in seen:
            seen.append(own)
    return seen


def expect(pid, wanted):
    # The proxy serves a moment before the filter is there, for all threads are to have it; and the thread of a reload may just end.
    seen = []

    def holds():
        seen[:] = threads(pid, wanted)
        return seen == [wanted]
    try:
        wait_until(holds, "the limits")
    except AssertionError as late:
        raise AssertionError(f"{seen} is not {wanted} for every thread") from late


def is_dumpable(pid):
    """What may not be dumped is root's in /proc."""
    return os.stat(f"/proc/{pid}/fd").st_uid == NOBODY.pw_uid


def web(node):
    return [{"name": "web", "health_check": False, "nodes": [node.as_node()]}]


def answer_of(hudsucker):
    with connect(hudsucker.address) as client:
        client.sendall(b"who?")
        return read_to_end(client)


def as_nobody():
    """Whoever runs this: the proxy has no right of root's."""
    if os.geteuid() == 0:
        for folder in [PROGRAMS, *PROGRAMS.parents]:
            if not folder.stat().st_mode & 0o001:
                raise Skip(f"{folder} is closed to others; tests/run does this with a copy")

    def drop():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY.pw_gid)
            os.setuid(NOBODY.pw_uid)
    return drop


@case(needs_root=True)
def started_as_root_with_a_user_nothing_of_roots_is_left(stage):
    hudsucker = Hudsucker(stage, web(ScriptedNode(stage, answer_name, name="n1")), user="nobody")
    assert answer_of(hudsucker) == b"n1"
    expect(hudsucker.pid, {**LOCKED, **of_the_proxy(), "CapBnd": "0" * 16, "Groups": f"{NOBODY.pw_gid} "})
    assert not is_dumpable(hudsucker.pid)
    assert "stays root" not in hudsucker.log(), hudsucker.log()


@case(needs_root=True)
def started_as_root_without_a_user_it_warns_and_keeps_no_right_it_can_do_without(stage):
    hudsucker = Hudsucker(stage, web(ScriptedNode(stage, answer_name, name="n1")))
    assert answer_of(hudsucker) == b"n1"
    expect(hudsucker.pid, {**LOCKED, **of_the_proxy(), "CapBnd": "0" * 16})
    assert "level=warning" in hudsucker.log() and "it stays root" in hudsucker.log(), hudsucker.log()
    done = subprocess.run([PROGRAMS / "hudsucker", "--check", hudsucker.config_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "it stays root" in done.stderr, done


@case(needs_root=True)
def a_little_locked_memory_for_all_processes_of_a_user_is_enough(stage):
    # The kernel counts rings by user: 1 MiB is less than one proxy's.
    def little():
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
    node = ScriptedNode(stage, answer_name, name="n1")
    for i, rest in enumerate([{}, {}, {"user": "nobody"}, {"user": "nobody"}]):
        assert answer_of(Hudsucker(stage, web(node), name=f"hudsucker{i}", preexec=little, **rest)) == b"n1"


@case
def started_as_an_ordinary_user_it_is_limited_too(stage):
    hudsucker = Hudsucker(stage, web(ScriptedNode(stage, answer_name, name="n1")), preexec=as_nobody())
    assert answer_of(hudsucker) == b"n1"
    expect(hudsucker.pid, {**LOCKED, **NO_CAPABILITY})
    process = hudsucker.status()["process"]
    assert all(process[name] > 0 for name in process), f"it does not see itself any more: {process}"
    assert os.geteuid() != 0 or not is_dumpable(hudsucker.pid)


@case(needs_root=True)
def ambient_capabilities_bind_a_low_port_and_are_gone_then(stage):
    as_nobody()
    host = stage.host()
    setpriv = ["setpriv", f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}", "--clear-groups", "--inh-caps=+net_bind_service",
               "--ambient-caps=+net_bind_service", "--"]
    hudsucker = Hudsucker(stage, web(ScriptedNode(stage, answer_name, name="n1")), user="nobody", prefix=setpriv,
                          listeners=[{"name": "tls", "bind": f"{host}:443", "default_pool": "web"}])
    assert answer_of(hudsucker) == b"n1"
    expect(hudsucker.pid, {**LOCKED, **NO_CAPABILITY})


@case(needs_root=True)
def reloads_and_a_rotated_log_work_within_the_limits(stage):
    logs = stage.path("logs")
    logs.mkdir()
    os.chown(logs, NOBODY.pw_uid, NOBODY.pw_gid)
    node, other = ScriptedNode(stage, answer_name, name="n1"), ScriptedNode(stage, answer_name, name="n2")
    hudsucker = Hudsucker(stage, web(node), user="nobody", log={"file": str(logs / "log")})

    hudsucker.config["pools"] = web(other)
    hudsucker.write_config()
    hudsucker.signal(signal.SIGHUP)
    wait_until(lambda: hudsucker.status()["reloads"]["ok"] == 1, "the reload")
    assert answer_of(hudsucker) == b"n2"

    more = {"name": "more", "bind": stage.address(), "default_pool": "web"}
    hudsucker.config["listeners"].append(more)
    hudsucker.write_config()
    hudsucker.signal(signal.SIGHUP)
    wait_until(lambda: hudsucker.status()["reloads"]["ok"] == 2, "the reload that adds a listener")
    with connect(more["bind"]) as client:
        client.sendall(b"who?")
        assert read_to_end(client) == b"n2"

    hudsucker.config["workers"] = 1
    hudsucker.write_config()
    hudsucker.signal(signal.SIGHUP)
    wait_until(lambda: hudsucker.status()["reloads"]["failed"] == 1, "the reload that fails")
    assert "needs a restart" in hudsucker.status()["reloads"]["last_error"]

    (logs / "log").rename(logs / "log.1")
    hudsucker.signal(signal.SIGUSR1)
    wait_until(lambda: (logs / "log").exists() and "log reopened" in (logs / "log").read_text(), "the log reopened")
    assert answer_of(hudsucker) == b"n2"
    expect(hudsucker.pid, {**LOCKED, **of_the_proxy()})
    metrics = hudsucker.metrics()
    for name in ("process_open_fds", "process_threads", "process_resident_memory_bytes", "process_virtual_memory_bytes", "process_max_fds"):
        value = next(line.split()[1] for line in metrics.splitlines() if line.startswith(name + " "))
        assert float(value) > 0, f"{name} {value}"


@case(needs_root=True)
def sandbox_false_leaves_system_calls_and_dumps_and_gives_up_rights_all_the_same(stage):
    hudsucker = Hudsucker(stage, web(ScriptedNode(stage, answer_name, name="n1")), user="nobody", sandbox=False)
    assert answer_of(hudsucker) == b"n1"
    expect(hudsucker.pid, {"NoNewPrivs": "1", "Seccomp": "0", **of_the_proxy()})
    assert is_dumpable(hudsucker.pid)


def started_agent(stage, **rest):
    node = ScriptedNode(stage, answer_name, name="n1")
    key, line = make_key(stage, "n1")
    hudsucker = Hudsucker(stage, [{"name": "web"}], keys=[line])
    if "user" in rest:
        os.chown(key, NOBODY.pw_uid, NOBODY.pw_gid)
    agent = Agent(stage, "n1", node.address, [hudsucker.beacon_address], key, **rest)
    wait_until(lambda: f"Seccomp:\t{2 if rest.get('sandbox', True) else 0}" in pathlib.Path(f"/proc/{agent.pid}/status").read_text()
               and "waiting for its server" in agent.log(), "the agent's work")
    agent.signal(signal.SIGHUP)
    wait_until(lambda: "SIGHUP: looking" in agent.log(), "the keys read again")
    return agent


@case(needs_root=True)
def the_agent_becomes_its_user(stage):
    agent = started_agent(stage, user="nobody")
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    expect(agent.pid, {**LOCKED, **NO_CAPABILITY, "CapBnd": "0" * 16, "Uid": f"{uid}\t{uid}\t{uid}\t{uid}", "Groups": f"{gid} "})
    assert not is_dumpable(agent.pid) and "stays root" not in agent.log() and "stays in use" not in agent.log(), agent.log()


@case(needs_root=True)
def the_agent_as_root_without_a_user_warns_and_keeps_no_capability(stage):
    feed = stage.path("feed")
    agent = started_agent(stage, feeds={"syslog": str(feed), "group": "nogroup"})
    expect(agent.pid, {**LOCKED, **NO_CAPABILITY, "CapBnd": "0" * 16})
    assert feed.stat().st_gid == NOBODY.pw_gid, "the feed's group"
    assert "it stays root" in agent.log(), agent.log()


@case(needs_root=True)
def the_agents_sandbox_can_be_left_out(stage):
    agent = started_agent(stage, user="nobody", sandbox=False)
    expect(agent.pid, {"NoNewPrivs": "1", "Seccomp": "0", **NO_CAPABILITY})
    assert is_dumpable(agent.pid)


@case(needs_root=True)
def a_user_that_the_agent_cannot_become_is_an_error(stage):
    key, _ = make_key(stage, "n1")
    path = stage.write("a.yaml", json.dumps({"node": {"name": "n1", "address": "127.0.0.1:1", "pool": "web"}, "proxies": ["127.0.0.1:9"],
                                             "key": str(key), "user": "no-such-user"}))
    for option in ("--check", "--config"):
        done = subprocess.run([PROGRAMS / "hud-agentd", option, path], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and f"{path}:1: user: there is no user 'no-such-user'" in done.stderr, done


if __name__ == "__main__":
    main()
