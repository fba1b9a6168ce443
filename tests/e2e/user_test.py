#!/usr/bin/env python3
"""`user:` — bind, raise limits, then drop privileges, before any thread or ring exists; and running as anybody."""
import os
import pathlib
import pwd
import subprocess

from harness import PROGRAMS, Hudsucker, connect, to_yaml
from runner import case, main
from servers.scripted import ScriptedNode, answer_name, read_to_end


def identities(pid):
    """(uid, gid, groups) of every thread; what else it may do is in sandbox_test.py."""
    seen = set()
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        fields = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
        seen.add((fields["Uid"], fields["Gid"], fields["Groups"].strip()))
    return seen


@case(needs_root=True)
def it_binds_a_low_port_and_then_every_thread_runs_as_the_user(stage):
    nobody = pwd.getpwnam("nobody")
    node = ScriptedNode(stage, answer_name, name="n1")
    host = stage.host()
    hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [node.as_node()]}], user="nobody",
                          listeners=[{"name": "tls", "bind": f"{host}:443", "default_pool": "web"}])
    with connect(f"{host}:443") as client:
        client.sendall(b"who?")
        assert read_to_end(client) == b"n1"
    seen = identities(hudsucker.pid)
    assert len(seen) == 1, f"the threads differ: {seen}"
    uid, gid, groups = seen.pop()
    assert set(uid.split()) == {str(nobody.pw_uid)} and set(gid.split()) == {str(nobody.pw_gid)}, (uid, gid)
    assert set(groups.split()) <= {str(nobody.pw_gid)}, f"it keeps the groups {groups}"


@case(needs_root=True)
def a_user_that_does_not_exist_is_an_error_that_names_it(stage):
    config = {"workers": 1, "user": "no-such-user", "listeners": [{"name": "tls", "bind": stage.address(), "default_pool": "web"}],
              "pools": [{"name": "web", "nodes": [{"name": "n1", "address": "127.0.0.1:9"}]}], "status": {"bind": stage.address()}}
    done = subprocess.run([PROGRAMS / "hudsucker", "--config", stage.write("c.yaml", to_yaml(config))], capture_output=True, text=True, timeout=60)
    assert done.returncode not in (0, -6), done
    assert "no-such-user" in done.stdout + done.stderr


@case(needs_root=True)
def a_reload_works_after_privileges_were_dropped(stage):
    import signal
    from harness import wait_until
    node, other = ScriptedNode(stage, answer_name, name="n1"), ScriptedNode(stage, answer_name, name="n2")
    hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [node.as_node()]}], user="nobody")
    hudsucker.config["pools"][0]["nodes"] = [other.as_node()]
    hudsucker.write_config()
    hudsucker.signal(signal.SIGHUP)
    wait_until(lambda: hudsucker.status()["reloads"]["ok"] == 1, "the reload")
    with connect(hudsucker.address) as client:
        client.sendall(b"who?")
        assert read_to_end(client) == b"n2"


@case
def it_runs_without_privileges_when_it_was_started_without(stage):
    node = ScriptedNode(stage, answer_name, name="n1")

    def drop():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(54321)
            os.setuid(54321)
    if os.geteuid() == 0:
        for folder in [PROGRAMS, *PROGRAMS.parents]:
            if not folder.stat().st_mode & 0o001:
                from runner import Skip
                raise Skip(f"{folder} is closed to others; tests/run does this with a copy")
    hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [node.as_node()]}], preexec=drop)
    with connect(hudsucker.address) as client:
        client.sendall(b"who?")
        assert read_to_end(client) == b"n1"


if __name__ == "__main__":
    main()
