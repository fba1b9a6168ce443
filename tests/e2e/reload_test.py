#!/usr/bin/env python3
"""A reload refuses and resets nobody; a bad configuration changes nothing and says why."""
import copy
import itertools
import json
import os
import socket
import subprocess
import threading

from harness import PROGRAMS, TOOLS, Hudsucker, Stopwatch, connect, http_get, reduced, reload_and_wait, reloads, wait_until
from runner import case, main
from servers.nginx import Nginx
from servers.scripted import ScriptedNode, answer_name, echo, read_exactly, read_to_end


BAD = [
    ("an unknown key", lambda c: c.update(worker_count=3), "worker_count"),
    ("a node without a port", lambda c: c["pools"][0]["nodes"][0].update(address="10.0.0.1"), "address"),
    ("a host name", lambda c: c["pools"][0]["nodes"][0].update(address="node.example.com:443"), "node.example.com"),
    ("a route to a pool that is not there", lambda c: c["listeners"][0].update(default_pool="nowhere"), "nowhere"),
    ("a duration that is none", lambda c: c.update(timeouts={"idle": "soon"}), "idle"),
    ("two pools of one name", lambda c: c["pools"].append(copy.deepcopy(c["pools"][0])), "web"),
]


@case
def a_hundred_reloads_under_load_good_and_bad_refuse_and_reset_nobody(stage):
    nodes = [Nginx(stage, f"n{i}") for i in range(3)]
    as_nodes = [{"name": n.node_name, "address": n.address} for n in nodes]
    hudsucker = Hudsucker(stage, [{"name": "web", "nodes": as_nodes}],
                          listeners=[{"name": "tls", "default_pool": "web", "hello": {"deadline": "120s"}}])
    stopping, counts = threading.Event(), {"done": 0, "failed": 0}

    def load():
        while not stopping.is_set():
            said = subprocess.run([TOOLS / "tls_client", "--address", hudsucker.address, "--mode", "tls13-ticket", "--clients", "20",
                                   "--rounds", "2", "--threads", "2"], capture_output=True, text=True)
            counted = json.loads(said.stdout)
            counts["done"] += counted["connections"]
            counts["failed"] += counted["errors"]
            if counted["errors"]:
                counts["why"] = counted["error_texts"]
    threads = [threading.Thread(target=load) for _ in range(2)]
    good = copy.deepcopy(hudsucker.config)
    held = [connect(hudsucker.address) for _ in range(5)]  # in the hello phase throughout
    for thread in threads:
        thread.start()
    try:
        for i in itertools.count():
            if i >= reduced(100, 20) and counts["done"] > reduced(500, 50):
                break
            hudsucker.config = copy.deepcopy(good)
            if i % 2:
                name, spoil, word = BAD[(i // 2) % len(BAD)]
                spoil(hudsucker.config)
                wait_until(lambda: all(n["state"] != "unknown" for n in hudsucker.status()["pools"][0]["nodes"]), "the first checks")
                table = hudsucker.status()["route_table_version"]
                reload_and_wait(hudsucker, "failed")
                why = hudsucker.status()["reloads"]["last_error"]
                assert word in why and "hudsucker.yaml" in why, f"{name}: the error does not say it: {why}"
                assert word in hudsucker.log(), f"{name}: the log does not say it"
                assert hudsucker.status()["route_table_version"] == table, f"{name}: a bad reload has changed the routes"
            else:
                hudsucker.config["timeouts"] = {"idle": f"{60 + i}s"}
                hudsucker.config["pools"][0]["nodes"] = as_nodes[:2 + (i // 2) % 2]
                hudsucker.config["pools"][0]["balance"] = ["round_robin", "least_connections", "maglev", "power_of_two"][(i // 2) % 4]
                reload_and_wait(hudsucker, "ok")
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    for client in held:
        client.setblocking(False)
        try:
            assert client.recv(1) != b"", "a held connection was closed"
        except BlockingIOError:
            pass
        client.close()
    assert counts["failed"] == 0, counts
    stage.note(f"{counts['done']} connections during {i} reloads, none failed")


@case
def a_relay_that_lives_through_reloads_that_remove_its_node_goes_on(stage):
    old, new = ScriptedNode(stage, echo, name="old"), ScriptedNode(stage, answer_name, name="new")
    hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [old.as_node()]}])
    with connect(hudsucker.address) as client:
        client.sendall(b"one")
        assert read_exactly(client, 3) == b"one"
        hudsucker.config["pools"][0]["nodes"] = [new.as_node()]
        reload_and_wait(hudsucker, "ok")
        client.sendall(b"two")
        assert read_exactly(client, 3) == b"two"
        with connect(hudsucker.address) as other:
            other.sendall(b"who?")
            assert read_to_end(other) == b"new"
        client.sendall(b"three")
        assert read_exactly(client, 5) == b"three"


@case
def a_connection_that_outlives_its_pool_and_node_has_their_names_in_its_line(stage):
    old, new = ScriptedNode(stage, echo, name="old"), ScriptedNode(stage, answer_name, name="new")

    def pools(name, node):
        return [{"name": name, "health_check": False, "nodes": [node.as_node()]}]
    hudsucker = Hudsucker(stage, pools("first", old))
    with connect(hudsucker.address) as client:
        client.sendall(b"one")
        assert read_exactly(client, 3) == b"one"
        for i in range(3):
            hudsucker.config["pools"] = pools(f"p{i}", new)
            hudsucker.config["listeners"][0]["default_pool"] = f"p{i}"
            reload_and_wait(hudsucker, "ok")
        assert [pool["name"] for pool in hudsucker.status()["pools"]] == ["p2"]
        assert 'pool="first"' not in hudsucker.metrics()
        with connect(hudsucker.address) as other:
            other.sendall(b"who?")
            assert read_to_end(other) == b"new"
        client.sendall(b"two")
        assert read_exactly(client, 3) == b"two"
    # Of two workers whichever is looked at first has the first line.
    short, long = sorted(hudsucker.connection_lines(2), key=lambda line: " in=6 " in line)
    assert " pool=p2 " in short and f" node=new node_address={new.address} " in short, short
    assert " listener=tls " in long and " pool=first " in long, long
    assert f" node=old node_address={old.address} " in long and " in=6 out=6 " in long, long


@case
def the_address_of_a_node_that_has_moved_is_that_of_the_time_it_was_chosen(stage):
    first, second = ScriptedNode(stage, echo, name="n1"), ScriptedNode(stage, answer_name, name="n1")
    hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [first.as_node()]}])
    with connect(hudsucker.address) as client:
        client.sendall(b"one")
        assert read_exactly(client, 3) == b"one"
        hudsucker.config["pools"][0]["nodes"] = [second.as_node()]
        reload_and_wait(hudsucker, "ok")
        with connect(hudsucker.address) as other:
            other.sendall(b"who?")
            assert read_to_end(other) == b"n1"
    longer, shorter = sorted(hudsucker.connection_lines(2), key=lambda line: " in=4 " in line)
    assert f" node=n1 node_address={first.address} " in longer and f" node=n1 node_address={second.address} " in shorter, (longer, shorter)


@case
def routes_and_timeouts_are_those_of_the_new_file(stage):
    a, b = ScriptedNode(stage, answer_name, name="a"), ScriptedNode(stage, answer_name, name="b")
    pools = [{"name": n.node_name, "health_check": False, "nodes": [n.as_node()]} for n in (a, b)]
    hudsucker = Hudsucker(stage, pools)

    def who():
        with connect(hudsucker.address) as client:
            client.sendall(b"who?")
            return read_to_end(client)
    assert who() == b"a"
    hudsucker.config["listeners"][0]["default_pool"] = "b"
    hudsucker.config["listeners"][0]["hello"] = {"deadline": "500ms"}
    reload_and_wait(hudsucker, "ok")
    assert who() == b"b"
    with connect(hudsucker.address) as client:
        watch = Stopwatch(hudsucker.pid)
        try:
            assert client.recv(1) == b""
        except ConnectionResetError:
            pass
        assert watch.of_ours() < 2, "the new deadline is not in force"


@case
def listeners_come_and_go_with_reloads(stage):
    node = ScriptedNode(stage, echo, name="a")
    hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [node.as_node()]}])
    first = copy.deepcopy(hudsucker.config["listeners"])
    second = {"name": "second", "bind": [stage.address(), stage.address()], "default_pool": "web"}

    def says(client, text):
        client.sendall(text)
        assert read_exactly(client, len(text)) == text

    def refuses(address):
        try:
            with connect(address):
                return False
        except ConnectionRefusedError:
            return True
    with connect(hudsucker.address) as old:
        says(old, b"before")
        for times in range(2):
            hudsucker.config["listeners"] = first + [second]
            reload_and_wait(hudsucker, "ok")
            assert "listener second added, at " in hudsucker.log()
            clients = [connect(address) for address in second["bind"] * 4]  # all workers have it
            for client in clients:
                says(client, b"through the new one")
            waiting = connect(second["bind"][0])
            waiting.sendall(b"\x16")  # half a hello
            silent = [connect(address) for address in second["bind"] * 8]  # the kernel keeps them to itself for a second
            hudsucker.config["listeners"] = first
            reload_and_wait(hudsucker, "ok")
            wait_until(lambda: all(refuses(address) for address in second["bind"]), "nobody listens there any more")
            waiting.sendall(b"hello")
            assert read_exactly(waiting, 6) == b"\x16hello"
            clients += [waiting, *silent]
            for client in clients:
                says(client, b"goes on")
            counts = {listener["name"]: listener for listener in hudsucker.status()["listeners"]}
            assert counts["second"]["active"] == len(clients), counts
            for client in clients:
                client.close()
            says(old, b"during")
        wait_until(lambda: [listener["name"] for listener in hudsucker.status()["listeners"]] == ["tls"], "its slot is free")
        says(old, b"after")


@case
def a_new_listener_whose_address_is_taken_fails_the_reload_and_changes_nothing(stage):
    node = ScriptedNode(stage, answer_name, name="a")
    hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [node.as_node()]}])
    good = copy.deepcopy(hudsucker.config["listeners"])
    free, somebody = stage.address(), ScriptedNode(stage, echo, name="somebody")
    for name, listeners, says in [
        ("in use by somebody else", good + [{"name": "x", "bind": [free, somebody.address], "default_pool": "web"}], "another process"),
        ("no address of this machine", good + [{"name": "x", "bind": [free, "192.0.2.1:4433"], "default_pool": "web"}], "no interface"),
        ("the same under another name", [{**good[0], "name": "x"}], "restart"),
    ]:
        hudsucker.config["listeners"] = listeners
        hudsucker.config["timeouts"] = {"idle": "77s"}
        reload_and_wait(hudsucker, "failed")
        assert says in hudsucker.status()["reloads"]["last_error"], f"{name}: {hudsucker.status()['reloads']['last_error']}"
        assert [listener["name"] for listener in hudsucker.status()["listeners"]] == ["tls"], name
        with socket.socket() as probe:
            probe.bind((free.split(":")[0], int(free.split(":")[1])))  # nobody has kept it
    with connect(hudsucker.address) as client:
        client.sendall(b"who?")
        assert read_to_end(client) == b"a"


@case
def what_needs_a_restart_is_an_error_that_says_so(stage):
    node = ScriptedNode(stage, answer_name, name="a")
    hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [node.as_node()]}])
    good = copy.deepcopy(hudsucker.config)
    for name, change in [
        ("workers", lambda c: c.update(workers=1)),
        ("bind", lambda c: c["listeners"][0].update(bind=stage.address())),
        ("status", lambda c: c["status"].update(bind=stage.address())),
        ("affinity.capacity", lambda c: c.update(affinity={"capacity": 5000})),
        ("relay.mode", lambda c: c.update(relay={"mode": "copy"})),
    ]:
        hudsucker.config = copy.deepcopy(good)
        change(hudsucker.config)
        reload_and_wait(hudsucker, "failed")
        why = hudsucker.status()["reloads"]["last_error"]
        assert "restart" in why, f"{name}: {why}"
    with connect(hudsucker.address) as client:
        client.sendall(b"who?")
        assert read_to_end(client) == b"a"


@case
def a_reload_takes_new_keys_and_forgets_removed_ones(stage):
    from beacon_bytes import PyAgent, key_line, random_key
    keys = {"n1": random_key(), "n2": random_key()}
    nodes = {n: ScriptedNode(stage, answer_name, name=n) for n in keys}
    hudsucker = Hudsucker(stage, [{"name": "web"}], keys=[key_line("n1", keys["n1"])])
    for n in keys:
        PyAgent(stage, n, keys[n], hudsucker.beacon_address, nodes[n].address)
    hudsucker.wait_states({"n1": "up"})
    assert hudsucker.node("n2") is None
    stage.write("hudsucker.keys", key_line("n1", keys["n1"]) + key_line("n2", keys["n2"]), 0o600)
    reload_and_wait(hudsucker, "ok")
    hudsucker.wait_states({"n1": "up", "n2": "up"})
    stage.write("hudsucker.keys", "this is no key\n", 0o600)
    reload_and_wait(hudsucker, "failed")
    assert "hudsucker.keys:1" in hudsucker.status()["reloads"]["last_error"]
    hudsucker.wait_states({"n1": "up", "n2": "up"})
    stage.write("hudsucker.keys", key_line("n2", keys["n2"]), 0o600)
    reload_and_wait(hudsucker, "ok")
    wait_until(lambda: (hudsucker.node("n1") or {"state": "gone"})["state"] != "up", "n1 not being up without a key")
    assert http_get(hudsucker.status_address, "/status")[0] == 200


@case
def reload_as_systemd_asks_for_it_waits_for_the_result_and_fails_when_the_reload_fails(stage):
    folder = stage.path("run")
    folder.mkdir()
    node, other = ScriptedNode(stage, answer_name, name="n1"), ScriptedNode(stage, answer_name, name="n2")
    hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [node.as_node()]}], env={"RUNTIME_DIRECTORY": str(folder)})

    def ask(**environment):
        return subprocess.run([PROGRAMS / "hudsucker", "--reload"], env={**os.environ, "RUNTIME_DIRECTORY": str(folder), **environment},
                              capture_output=True, text=True, timeout=30, check=False)
    hudsucker.config["pools"][0]["nodes"] = [other.as_node()]
    hudsucker.write_config()
    done = ask(MAINPID=str(hudsucker.pid))
    assert done.returncode == 0 and "reloaded" in done.stdout and "n2" in done.stdout, done
    with connect(hudsucker.address) as client:
        client.sendall(b"who?")
        assert read_to_end(client) == b"n2", "it returned before the configuration was in use"
    hudsucker.config["worker_count"] = 3
    hudsucker.write_config()
    done = ask(MAINPID=str(hudsucker.pid))
    assert done.returncode == 1 and "worker_count" in done.stderr and "nothing has changed" in done.stderr, done
    wait_until(lambda: reloads(hudsucker) == (1, 1), "the count of reloads")
    done = ask(MAINPID=str(os.getpid()))  # not the process that the report is of: it gets no signal
    assert done.returncode == 1 and f"not of {os.getpid()}" in done.stderr, done
    assert ask(RUNTIME_DIRECTORY=str(stage.path("none"))).returncode == 1
    assert reloads(hudsucker) == (1, 1)


if __name__ == "__main__":
    main()
