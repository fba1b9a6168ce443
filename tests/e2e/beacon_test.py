#!/usr/bin/env python3
"""Beacons: only those who may say something are heard, what is said is applied, and silence is judged without flapping."""
import datetime
import itertools
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time

import beacon_bytes as wire
from beacon_bytes import PyAgent, key_line, random_key
from harness import (PATIENCE, Agent, Hudsucker, Process, Stopwatch, connect, make_key, reduced, require_program, split_address,
                     waited_for_a_core, wait_until)
from hello_bytes import client_hello, in_records
from runner import Skip, case, main
from servers.nginx import Nginx
from servers.scripted import ScriptedNode, echo, read_exactly, read_to_end


def settled(hudsucker):
    """What beacons can change, as /status shows it."""
    return sorted((p["name"], n["name"], n["address"], n["state"], n["weight"], n["prefixes"])
                  for p in hudsucker.status()["pools"] for n in p["nodes"])


def who(hudsucker, first=b"who?\n"):
    """The node that answers one client."""
    with connect(hudsucker.address) as client:
        client.sendall(first)
        client.shutdown(socket.SHUT_WR)
        try:
            return read_to_end(client).decode()
        except ConnectionResetError:
            return "reset"


def ends_with_name(connection, node):
    read_to_end(connection)
    connection.sendall(node.node_name.encode())


def announced(stage, names, *, script=ends_with_name, config=(), prefixes=None, **agent):
    """Scripted nodes that announce themselves. Returns proxy, agents by name, keys by name, nodes by name."""
    keys = {n: random_key() for n in names}
    hudsucker = Hudsucker(stage, [{"name": "web"}], keys=[key_line(n, k, more="weight=1000") for n, k in keys.items()], **dict(config))
    nodes = {n: ScriptedNode(stage, script, name=n) for n in names}
    agents = {n: PyAgent(stage, n, keys[n], hudsucker.beacon_address, nodes[n].address, prefixes=[prefixes[n]] if prefixes else [], **agent)
              for n in names}
    hudsucker.wait_states({n: "up" for n in names})
    return hudsucker, agents, keys, nodes


class StateWatch:
    """Every change of a node's state, as /status shows it, with the time."""

    def __init__(self, hudsucker, node):
        self.changes, self._stopping = [], threading.Event()

        def run():
            last, is_last_look = None, False
            while not is_last_look:
                is_last_look = self._stopping.is_set()
                try:
                    row = hudsucker.node(node)
                except (OSError, AssertionError, ValueError):
                    time.sleep(0.05)
                    continue
                state = row["state"] if row else "gone"
                if state != last:
                    self.changes.append((round(time.monotonic(), 2), state))
                    last = state
                time.sleep(0.03)
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        wait_until(lambda: self.changes, "a first look")

    def wait_for(self, *states):
        wait_until(lambda: self.changes[-1][1] in states, f"the watch seeing one of {states}")

    def stop(self):
        self._stopping.set()
        self._thread.join()
        return [state for _, state in self.changes]


# ---- Forgery ---------------------------------------------------------------------------------------------------------

def forgeries(recorded, keys, random_source):
    """Endless datagrams that no proxy may believe, of every kind that we could think of."""
    stranger = random_key()
    body = wire.report("10.9.9.9:443", ["web"], [b"f" * 16])
    nonces = [int.from_bytes(d[16:24], "big") for d in recorded]
    makers = [
        lambda d: random_source.randbytes(random_source.randrange(0, 1500)),
        lambda d: d[:random_source.randrange(len(d))],                                                # cut short
        lambda d: d,                                                                                  # replayed as it was
        lambda d: d[:i] + bytes([d[i] ^ 1 << random_source.randrange(8)]) + d[i + 1:] if (i := random_source.randrange(len(d))) >= 0 else d,
        lambda d: d + b"x",
        lambda d: d[:-32] + os.urandom(32),
        lambda d: wire.seal(stranger, "n1", wire.STILL_HERE, body, epoch=int(time.time() * 1e6), nonce=nonces[-1], sequence=random_source.randrange(1 << 40)),
        lambda d: wire.seal(keys["n2"], "n1", wire.DYING, b"", epoch=int(time.time() * 1e6), nonce=nonces[-1], sequence=random_source.randrange(1 << 40)),
        lambda d: wire.seal(stranger, "nobody", wire.STILL_HERE, body, epoch=1, nonce=2, sequence=3),
        lambda d: b"HUDB\x01" + random_source.randbytes(400),
    ]
    pool = [random_source.choice(makers)(random_source.choice(recorded)) for _ in range(20000)]
    return itertools.cycle(d for d in pool if len(d) <= 1472)


@case
def a_million_forged_truncated_and_replayed_datagrams_change_nothing_and_get_no_answer(stage):
    hudsucker, agents, keys, _ = announced(stage, ("n1", "n2"))
    time.sleep(1)
    before = settled(hudsucker)
    # What was sent a moment ago under the nonce in force; the newest ones stay out, they may be under way.
    recorded = [d for d in agents["n1"].recorded[:-2] if int.from_bytes(d[16:24], "big") == agents["n1"].nonce]
    assert recorded, "nothing was recorded"
    source = forgeries(recorded, keys, random.Random(3))
    count = reduced(1_000_000, 100_000)
    received = hudsucker.status()["beacons"]["received"]
    attacker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    attacker.connect(split_address(hudsucker.beacon_address))
    attacker.setblocking(True)
    watch = StateWatch(hudsucker, "n1")
    applied, weight = 0, 100
    def looked_at():
        return hudsucker.status()["beacons"]["received"] - received
    # A million; and as many more as it takes until a fifth of it was looked at, for the kernel drops what comes too fast.
    for sent in itertools.count():
        if sent >= count and sent % 1000 == 0 and looked_at() > count * 0.2:
            break
        attacker.send(next(source))
        if sent % 64 == 63:
            time.sleep(0)
        if sent % (count // 10) == count // 20:  # an honest change in the middle of it all
            weight += 1
            agents["n2"].say(weight=weight)
            wait_until(lambda: hudsucker.node("n2")["weight"] == weight, "an honest beacon being applied")
            applied += 1
    attacker.setblocking(False)
    time.sleep(0.5)
    try:
        answer = attacker.recv(2000)
        raise AssertionError(f"a forgery was answered with {len(answer)} bytes")
    except BlockingIOError:
        pass
    agents["n2"].say(weight=100)
    wait_until(lambda: settled(hudsucker) == before, f"everything being as before: {before} is now {settled(hudsucker)}")
    states = watch.stop()
    assert states == ["up"], f"n1 went through {states}"
    beacons = hudsucker.status()["beacons"]
    stage.note(f"{sent} sent, {looked_at()} looked at, {beacons.get('dropped_by_kernel')} dropped by the kernel, {applied} honest changes applied meanwhile")
    attacker.close()


@case
def an_agent_cannot_say_what_its_key_does_not_allow(stage):
    keys = {"x": random_key(), "y": random_key()}
    hudsucker = Hudsucker(stage, [{"name": "web"}, {"name": "bank"}],
                          keys=[key_line("x", keys["x"], pools="web", addresses="127.0.0.0/8"),
                                key_line("y", keys["y"], pools="bank", addresses="127.0.0.0/8")])
    nodes = {n: ScriptedNode(stage, ends_with_name, name=n) for n in keys}
    x = PyAgent(stage, "x", keys["x"], hudsucker.beacon_address, nodes["x"].address)
    PyAgent(stage, "y", keys["y"], hudsucker.beacon_address, nodes["y"].address, pools=["bank"])
    hudsucker.wait_states({"x": "up", "y": "up"})
    before = settled(hudsucker)

    def refused(counter, act):
        had = hudsucker.status()["beacons"][counter]
        act()
        wait_until(lambda: hudsucker.status()["beacons"][counter] > had, f"{counter} being counted")
        assert settled(hudsucker) == before, f"{counter}: {settled(hudsucker)}"
    # The name of another: under x's key it is no message of y.
    def as_y():
        datagram = wire.seal(keys["x"], "y", wire.DYING, b"", epoch=x.epoch, nonce=x.nonce, sequence=10**9)
        x.socket.send(datagram)
    refused("bad_mac", as_y)
    refused("refused_pool", lambda: x.say(pools=["bank"]))
    refused("refused_pool", lambda: x.say(pools=["web", "bank"]))
    refused("refused_address", lambda: x.say(pools=["web"], address="10.1.2.3:443"))
    x.say(address=nodes["x"].address)
    # Said in the log, once, with what to look at.
    wait_until(lambda: "pools=" in hudsucker.log() and "addresses=" in hudsucker.log(), "the log saying so")
    # y's own address is within x's range, but it is y's.
    x.say(address=nodes["y"].address)
    time.sleep(0.5)
    assert hudsucker.node("y")["state"] == "up" and hudsucker.node("y")["address"] == nodes["y"].address


@case
def a_second_agent_with_the_same_key_is_refused_while_the_first_is_alive(stage):
    hudsucker, agents, keys, nodes = announced(stage, ("n1",))
    elsewhere = ScriptedNode(stage, ends_with_name, name="elsewhere")
    PyAgent(stage, "n1", keys["n1"], hudsucker.beacon_address, elsewhere.address)
    watch = StateWatch(hudsucker, "n1")
    wait_until(lambda: hudsucker.status()["beacons"]["second_epoch"] > 0, "second_epoch being counted")
    for _ in range(20):
        assert hudsucker.node("n1")["address"] == nodes["n1"].address
        assert who(hudsucker) == "n1"
        time.sleep(0.05)
    wait_until(lambda: "second agent" in hudsucker.log(), "the log saying so")
    assert watch.stop() == ["up"]
    agents["n1"].close()
    wait_until(lambda: hudsucker.node("n1")["address"] == elsewhere.address, "the second taking over when the first is silent")


@case
def the_address_of_a_static_node_wins_over_what_its_agent_says(stage):
    key = random_key()
    here, there = ScriptedNode(stage, ends_with_name, name="here"), ScriptedNode(stage, ends_with_name, name="there")
    hudsucker = Hudsucker(stage, [{"name": "web", "nodes": [{"name": "n1", "address": here.address}]}], keys=[key_line("n1", key)])
    PyAgent(stage, "n1", key, hudsucker.beacon_address, there.address, prefixes=[b"p" * 16])
    wait_until(lambda: hudsucker.node("n1")["prefixes"] == 1, "the agent being heard")
    assert hudsucker.node("n1")["address"] == here.address and who(hudsucker) == "here"


# ---- Restarts --------------------------------------------------------------------------------------------------------

@case
def recorded_beacons_replayed_after_restarts_of_agent_and_proxy_change_nothing(stage):
    hudsucker, agents, keys, nodes = announced(stage, ("n1", "n2"))
    agents["n1"].add_tokens([os.urandom(32) for _ in range(50)])
    time.sleep(1)
    recorded = list(agents["n1"].recorded)
    replayer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    replayer.connect(split_address(hudsucker.beacon_address))

    def replay():
        for datagram in recorded * 5:
            replayer.send(datagram)
        time.sleep(0.7)
    # The agent restarts, elsewhere: what its old self has said is worth nothing.
    agents["n1"].close()
    moved = ScriptedNode(stage, ends_with_name, name="n1 moved")
    wait_until(lambda: (hudsucker.node("n1") or {"state": "gone"})["state"] != "up", "the old agent being missed")
    again = PyAgent(stage, "n1", keys["n1"], hudsucker.beacon_address, moved.address)
    wait_until(lambda: (hudsucker.node("n1") or {}).get("address") == moved.address, "the new agent being heard")
    hudsucker.wait_states({"n1": "up"})
    before = settled(hudsucker)
    replay()
    assert settled(hudsucker) == before, f"{before} became {settled(hudsucker)}"
    # The proxy restarts while no agent speaks.
    again.muted = agents["n2"].muted = True
    hudsucker.kill()
    later = hudsucker.again()
    recorded += list(again.recorded)
    replay()
    assert settled(later) == [] or all(row[3] != "up" for row in settled(later)), settled(later)
    assert later.status()["affinity"]["size"] == 0
    # And the real ones are heard as soon as they speak, recordings or not.
    again.muted = agents["n2"].muted = False
    stopping = threading.Event()
    noise = threading.Thread(target=lambda: [replayer.send(d) or time.sleep(0.001) for d in itertools.takewhile(
        lambda _: not stopping.is_set(), itertools.cycle(recorded))])
    noise.start()
    try:
        later.wait_states({"n1": "up", "n2": "up"})
    finally:
        stopping.set()
        noise.join()
    replayer.close()


@case
def a_hundred_thousand_exact_tokens_are_back_within_five_seconds_of_a_proxy_restart(stage):
    count = reduced(100_000, 10_000)
    key_path, line = make_key(stage, "n1")
    hudsucker = Hudsucker(stage, [{"name": "web"}], keys=[line])
    node = Nginx(stage, "n1")
    feed = stage.path("tokens.feed")
    agent = Agent(stage, "n1", node.address, [hudsucker.beacon_address], key_path, beacon_every="1s", feeds={"tokens": str(feed)})
    hudsucker.wait_states({"n1": "up"})
    made = random.Random(4)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as application:
        application.connect(str(feed))
        for _ in range(count // 20):
            application.send("".join(f"add {made.randbytes(32).hex()} 1h\n" for _ in range(20)).encode())

    def size(of):
        return of.status()["affinity"]["size"]
    # Two keys may fall on buckets that are full: a handful may be missing, and is counted.
    enough = count * 0.999
    wait_until(lambda: size(hudsucker) >= enough, f"{count} tokens at the proxy", every=0.1)
    hudsucker.kill()
    since_the_kill = Stopwatch(agent.pid)
    later = hudsucker.again()
    proxy_waited = waited_for_a_core(later.pid)
    wait_until(lambda: size(later) >= enough, f"{count} tokens at the restarted proxy", every=0.05)
    took = since_the_kill.wall()
    of_ours = since_the_kill.of_ours() - (waited_for_a_core(later.pid) - proxy_waited)
    stage.note(f"{size(later)} of {count} tokens were back {took:.2f} s after the proxy's start, {of_ours:.2f} s of ours")
    assert of_ours < reduced(5, 60), f"{of_ours:.1f} s"


# ---- Life and death --------------------------------------------------------------------------------------------------

@case
def a_dying_node_drains_and_gets_no_new_connections(stage):
    hudsucker, agents, _, _ = announced(stage, ("n1", "n2"), script=echo)
    held = []
    while not any(n["name"] == "n1" and n["active"] for n in hudsucker.pool()["nodes"]):
        client = connect(hudsucker.address)
        client.sendall(b"x")
        assert read_exactly(client, 1) == b"x"
        held.append(client)
    watch = StateWatch(hudsucker, "n1")
    agents["n1"].die()
    hudsucker.wait_states({"n1": "draining"})
    total = hudsucker.node("n1")["total"]
    for _ in range(20):
        with connect(hudsucker.address) as client:
            client.sendall(b"y")
            assert read_exactly(client, 1) == b"y"
    assert hudsucker.node("n1")["total"] == total, "a dying node got new connections"
    for client in held:
        client.sendall(b"z")
        assert read_exactly(client, 1) == b"z", "a connection of a dying node was cut"
        client.close()
    wait_until(lambda: (hudsucker.node("n1") or {"state": "gone"})["state"] in ("down", "gone"), "the drained node being gone")
    states = watch.stop()
    assert "up" not in states[1:], f"flapping: {states}"


@case
def sigusr2_takes_a_node_out_and_a_restart_of_the_agent_does_not(stage):
    names = ("n1", "n2")
    keys = {n: make_key(stage, n) for n in names}
    hudsucker = Hudsucker(stage, [{"name": "web"}], keys=[line for _, line in keys.values()])
    agents = {}
    for n in names:
        agents[n] = Agent(stage, n, Nginx(stage, n).address, [hudsucker.beacon_address], keys[n][0])
    hudsucker.wait_states({n: "up" for n in names})
    watch = StateWatch(hudsucker, "n2")
    agents["n1"].stop_signal = signal.SIGUSR2
    for agent in agents.values():
        assert agent.stop() == 0
        agent.expected = True
    again = Agent(stage, "n2", agents["n2"].config["node"]["address"], [hudsucker.beacon_address], keys["n2"][0], name="agent-n2-again")
    wait_until(lambda: re.search("node=n1 .*state=draining", hudsucker.log()), "n1 draining")
    time.sleep(3.5)  # longer than the silence that would be judged
    assert not re.search("node=n1 .*state=silent", hudsucker.log()), "n1 was missed, and had said that it goes"
    assert watch.stop() == ["up"], f"a restart of its agent took n2 through {watch.changes}"
    assert again.alive() and "a second agent" not in hudsucker.log()


@case
def a_nodes_key_is_changed_without_a_gap(stage):
    path, old = make_key(stage, "n1")
    old_text = path.read_text()
    hudsucker = Hudsucker(stage, [{"name": "web"}], keys=[old])
    node = Nginx(stage, "n1")
    agent = Agent(stage, "n1", node.address, [hudsucker.beacon_address], path)
    hudsucker.wait_states({"n1": "up"})
    watch = StateWatch(hudsucker, "n1")
    path.unlink()
    path, new = make_key(stage, "n1")
    assert path.read_text() != old_text

    def reload_with(*lines):
        done = hudsucker.status()["reloads"]["ok"]
        stage.write("hudsucker.keys", "".join(lines), 0o600)
        hudsucker.signal(signal.SIGHUP)
        wait_until(lambda: hudsucker.status()["reloads"]["ok"] > done, "the reload")
    reload_with(old, new)
    agent.signal(signal.SIGHUP)
    wait_until(lambda: "speaks with its new key" in agent.log(), "the agent's word")
    reload_with(new)
    time.sleep(3.5)
    assert watch.stop() == ["up"], watch.changes
    reload_with(old)  # and a key that the proxy does not have is said on both sides
    wait_until(lambda: "not signed with its key" in hudsucker.log(), "the proxy's word")


@case
def a_silent_node_comes_last_and_one_that_speaks_again_is_up_again(stage):
    hudsucker, agents, _, _ = announced(stage, ("n1", "n2"), script=echo, config={"beacons": {"dead_after": "1s"}})
    held = []
    while not any(n["name"] == "n1" and n["active"] for n in hudsucker.pool()["nodes"]):
        client = connect(hudsucker.address)
        client.sendall(b"x")
        assert read_exactly(client, 1) == b"x"
        held.append(client)
    watch = StateWatch(hudsucker, "n1")
    agents["n1"].muted = True
    hudsucker.wait_states({"n1": "silent"})
    total = hudsucker.node("n1")["total"]
    for _ in range(20):
        with connect(hudsucker.address) as client:
            client.sendall(b"y")
            assert read_exactly(client, 1) == b"y"
    assert hudsucker.node("n1")["total"] == total, "a silent node was chosen while another speaks"
    time.sleep(1)
    assert hudsucker.node("n1")["state"] == "silent", "silent with a connection: not dead"
    watch.wait_for("silent")
    agents["n1"].muted = False
    hudsucker.wait_states({"n1": "up"})
    assert watch.stop() == ["up", "silent", "up"], watch.changes
    for client in held:
        client.sendall(b"z")
        assert read_exactly(client, 1) == b"z"
        client.close()


@case
def a_silent_node_without_connections_is_dead_until_it_speaks_again(stage):
    hudsucker, agents, _, _ = announced(stage, ("n1", "n2"), config={"beacons": {"dead_after": "1s"}})
    token = os.urandom(32)
    agents["n1"].add_tokens([token])
    hello = in_records(client_hello(session_id=token, tls13=False))
    wait_until(lambda: who(hudsucker, hello) == "n1", "the token being known")
    watch = StateWatch(hudsucker, "n1")
    agents["n1"].muted = True
    wait_until(lambda: (hudsucker.node("n1") or {"state": "gone"})["state"] in ("down", "gone"), "n1 being dead")
    assert [who(hudsucker, hello) for _ in range(5)] == ["n2"] * 5, "a dead node was tried for its token"
    watch.wait_for("down", "gone")
    agents["n1"].muted = False
    hudsucker.wait_states({"n1": "up"})
    wait_until(lambda: who(hudsucker, hello) == "n1", "its token counting again")
    states = watch.stop()
    assert states.count("up") == 2, f"flapping: {states}"


@case
def when_all_are_silent_they_are_used_all_the_same_while_they_have_connections(stage):
    hudsucker, agents, _, _ = announced(stage, ("n1",), script=echo, config={"beacons": {"dead_after": "1s"}})
    with connect(hudsucker.address) as held:
        held.sendall(b"x")
        assert read_exactly(held, 1) == b"x"
        agents["n1"].muted = True
        hudsucker.wait_states({"n1": "silent"})
        with connect(hudsucker.address) as client:
            client.sendall(b"y")
            assert read_exactly(client, 1) == b"y"


@case
def a_node_that_is_not_ready_gets_no_new_connections_until_it_is(stage):
    hudsucker, agents, _, _ = announced(stage, ("n1", "n2"))
    agents["n1"].say(ready=False)
    wait_until(lambda: hudsucker.node("n1")["state"] != "up", "n1 not being up")
    assert {who(hudsucker) for _ in range(12)} == {"n2"}
    agents["n1"].say(ready=True)
    hudsucker.wait_states({"n1": "up"})
    wait_until(lambda: who(hudsucker) == "n1", "n1 being used again")


@case
def a_server_that_fails_its_probe_is_reported_as_not_ready_by_the_real_agent(stage):
    names = ("n1", "n2")
    keys = {n: make_key(stage, n) for n in names}
    hudsucker = Hudsucker(stage, [{"name": "web"}], keys=[line for _, line in keys.values()])
    nodes = {n: Nginx(stage, n) for n in names}
    for n in names:
        Agent(stage, n, nodes[n].address, [hudsucker.beacon_address], keys[n][0])
    hudsucker.wait_states({n: "up" for n in names})
    address = nodes["n1"].address
    nodes["n1"].kill()
    wait_until(lambda: hudsucker.node("n1")["state"] != "up", "n1 not being up")
    Nginx(stage, "n1", address=address)
    hudsucker.wait_states({"n1": "up"})


@case(needs_root=True, reduced=False)
def a_node_powered_off_with_an_idle_relay_open_dies_without_flapping(stage):
    ip = require_program("ip")
    mark = f"{os.getpid() % 100000}"
    space, outer, inner = f"hud{mark}", f"huo{mark}", f"hui{mark}"
    net = f"10.{random.randint(64, 127)}.{random.randint(0, 254)}"

    def run(*arguments, check=True):
        return subprocess.run([str(a) for a in arguments], check=check, capture_output=True, text=True)
    if run(ip, "netns", "add", space, check=False).returncode != 0:
        raise Skip("no network namespaces here")
    try:
        if run(ip, "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", space, check=False).returncode != 0:
            raise Skip("no veth pairs here")
        for step in ([ip, "addr", "add", f"{net}.1/24", "dev", outer], [ip, "link", "set", outer, "up"],
                     [ip, "-n", space, "addr", "add", f"{net}.2/24", "dev", inner], [ip, "-n", space, "link", "set", inner, "up"],
                     [ip, "-n", space, "link", "set", "lo", "up"], [ip, "netns", "exec", space, "true"]):
            done = run(*step, check=False)
            if done.returncode != 0:
                raise Skip(f"no use of network namespaces here: {' '.join(step[1:])}: {done.stderr.strip()}")
        key = random_key()
        hudsucker = Hudsucker(stage, [{"name": "web"}], keys=[key_line("n1", key, addresses=f"{net}.2")],
                              beacons={"bind": f"0.0.0.0:{stage.wildcard_port(socket.SOCK_DGRAM)}", "dead_after": "1s"})
        # The node and its agent live on the other side of the wire.
        program = stage.write("far_node.py", f"""
import sys, time
sys.path.insert(0, {str(os.path.dirname(os.path.abspath(__file__)))!r})
from harness import Stage
from beacon_bytes import PyAgent
from servers.scripted import ScriptedNode, echo
stage = Stage("far")
ScriptedNode(stage, echo, name="n1", address="{net}.2:8443")
PyAgent(stage, "n1", bytes.fromhex("{key.hex()}"), "{net}.1:{hudsucker.beacon_address.split(':')[1]}", "{net}.2:8443")
time.sleep(1000)
""")
        Process(stage, "far-node", [ip, "netns", "exec", space, "python3", program])
        hudsucker.wait_states({"n1": "up"})
        with connect(hudsucker.address, 100) as idle:
            idle.sendall(b"x")
            assert read_exactly(idle, 1) == b"x"
            watch = StateWatch(hudsucker, "n1")
            run(ip, "-n", space, "link", "set", inner, "down")  # no FIN, no RST, no answer
            off = time.monotonic()
            hudsucker.wait_states({"n1": "silent"})
            watch.wait_for("silent")
            try:
                idle.recv(1)
            except OSError:
                pass
            ended = time.monotonic() - off
            wait_until(lambda: (hudsucker.node("n1") or {"state": "gone"})["state"] in ("down", "gone"), "the node being dead")
            states = watch.stop()
        assert states[:2] == ["up", "silent"] and states.count("up") == 1, f"flapping: {states}"
        stage.note(f"the idle relay ended {ended:.1f} s after the power went; states {states}")
        assert ended < 90
    finally:
        run(ip, "link", "del", outer, check=False)
        run(ip, "netns", "del", space, check=False)


# ---- Floods ----------------------------------------------------------------------------------------------------------

# One call of the kernel sends 40 datagrams (UDP_SEGMENT), which the proxy reads one by one: no reader keeps up with that.
FLOOD = """
import socket, sys, time
host, port, seconds, datagram = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), bytes.fromhex(sys.argv[4])
flood = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
flood.setsockopt(socket.IPPROTO_UDP, 103, len(datagram))
flood.connect((host, port))
until, many = time.monotonic() + seconds, datagram * 40
while time.monotonic() < until:
    for _ in range(50):
        try:
            flood.send(many)
        except OSError:
            time.sleep(0.001)
"""


class Flood:
    """Datagrams of n1 whose MAC does not hold, for so many seconds at most; `stop` ends it. `drops` says that the kernel threw some
    away between any two looks."""

    def __init__(self, stage, hudsucker, datagram, seconds):
        self.hudsucker = hudsucker
        self.drops = [self.dropped()]
        host, port = split_address(hudsucker.beacon_address)
        forged = datagram[:-32] + os.urandom(32)
        self.senders = [Process(stage, f"flood{i}-{seconds}", ["python3", "-c", FLOOD, host, str(port), str(seconds), forged.hex()])
                        for i in range(2)]
        wait_until(self.look, "the kernel dropping datagrams")

    def dropped(self):
        return self.hudsucker.status()["beacons"]["dropped_by_kernel"]

    def look(self):
        """Did it drop more since the last look?"""
        self.drops.append(self.dropped())
        return self.drops[-1] > self.drops[-2]

    def running(self):
        return all(sender.alive() for sender in self.senders)

    def stop(self):
        for sender in self.senders:
            sender.kill()


@case(reduced=False)
def a_flood_that_makes_the_kernel_drop_datagrams_keeps_no_dead_node_up_and_no_agent_out(stage):
    # At most three times dead_after counts as heard for the drops, so 0.8 s after the last word at the latest n1 is silent.
    hudsucker, agents, keys, nodes = announced(stage, ("n1", "n2"), config={"beacons": {"dead_after": "200ms"}}, every=0.05)
    recorded = agents["n1"].recorded[-1]
    flood = Flood(stage, hudsucker, recorded, 4 * PATIENCE)
    agents["n1"].close()
    watch = Stopwatch(hudsucker.pid)

    def judged():
        dropped, state = flood.look(), (hudsucker.node("n1") or {"state": "gone"})["state"]
        assert flood.running(), f"n1 is {state} as long as the flood lasts"
        return state != "up" and dropped
    wait_until(judged, "n1 being judged while the flood lasts", every=0.1)
    assert watch.of_ours() < 9, "the flood spoke for it"
    stage.note(f"judged {watch.wall():.1f} s after its last word; {flood.drops[-1]} datagrams were dropped")
    wait_until(flood.look, "the flood going on")
    # Its agent comes back in the middle of it. Whatever of it arrives is believed, once it has the nonce.
    again = PyAgent(stage, "n1", keys["n1"], hudsucker.beacon_address, nodes["n1"].address, every=0.01)
    wait_until(lambda: wire.CHALLENGE in again.answers or not flood.running(), "a fresh nonce")
    challenged_in_flood = flood.running()
    before = hudsucker.status()["beacons"]["second_epoch"]
    flood.stop()
    assert challenged_in_flood, f"not asked for a fresh nonce while the flood lasted: {again.answers[-5:]}, {hudsucker.status()['beacons']}"
    hudsucker.wait_states({"n1": "up", "n2": "up"})
    stage.note(f"its second agent was refused {before} times")


@case
def an_agent_with_bad_news_all_the_time_does_not_fill_the_control_thread(stage):
    key = random_key()
    # A table that takes a while to build, with the snapshot that goes with it: of many nodes.
    others = [{"name": f"s{i}", "address": f"127.0.0.1:{20000 + i}"} for i in range(900)]
    hudsucker = Hudsucker(stage, [{"name": "web", "balance": "maglev", "health_check": False, "nodes": others}], keys=[key_line("n1", key)],
                          log={"level": "debug", "access": {"enabled": False}})
    agent = PyAgent(stage, "n1", key, hudsucker.beacon_address, ScriptedNode(stage, ends_with_name, name="n1").address)
    hudsucker.wait_states({"n1": "up"})
    time.sleep(1)
    first, started, cpu = hudsucker.status()["route_table_version"], time.monotonic(), hudsucker.status()["process"]["cpu_s"]
    said = 0
    while time.monotonic() - started < 4:  # 200 reports a second
        agent.say(ready=said % 2 == 1)
        said += 1
        time.sleep(max(0, started + said / 200 - time.monotonic()))
    took = time.monotonic() - started
    status = hudsucker.status()
    built, share = status["route_table_version"] - first, (status["process"]["cpu_s"] - cpu) / took
    published = re.findall(r'ts=(\S+) level=debug msg="route table published" version=(\d+) took_us=(\d+)', hudsucker.log())
    tables = [(datetime.datetime.fromisoformat(ts.rstrip("Z")).timestamp(), int(us) / 1e6) for ts, version, us in published
              if first <= int(version) <= first + built]
    assert len(tables) >= built > 0, (len(tables), built)
    # Between two lies ten times what the one before took, and 10 ms at least, but for four, and four a second.
    early = sum(after - before < max(0.010, 10 * us) - 0.002 for (before, us), (after, _) in zip(tables, tables[1:]))
    mean = sum(us for _, us in tables) / len(tables)
    stage.note(f"{said} reports in {took:.1f} s: {built} tables of {1000 * mean:.1f} ms, {early} of them early, {share:.0%} of a core")
    assert early <= 4 + 4 * (took + 1) and built <= took / 0.010 + 4 + 4 * (took + 1), f"{early} of {built} tables did not wait, of {said} reports"
    agent.say(ready=True)
    hudsucker.wait_states({"n1": "up"})


# ---- What the holder of one node's key can do ------------------------------------------------------------------------

@case
def a_key_opens_nothing_but_its_own_server(stage):
    secret = ScriptedNode(stage, ends_with_name, name="secret", address="unix:" + str(stage.path("secret.sock")))
    keys = {n: random_key() for n in ("thief", "wide")}
    hudsucker = Hudsucker(stage, [{"name": "web"}],
                          keys=[key_line("thief", keys["thief"]), key_line("wide", keys["wide"], addresses="*")])
    own = {n: ScriptedNode(stage, ends_with_name, name=n) for n in keys}
    thief = PyAgent(stage, "thief", keys["thief"], hudsucker.beacon_address, own["thief"].address)
    hudsucker.wait_states({"thief": "up"})
    wide = PyAgent(stage, "wide", keys["wide"], hudsucker.beacon_address, own["wide"].address)
    for agent, address in ((thief, hudsucker.status_address), (thief, hudsucker.address), (thief, hudsucker.beacon_address),
                           (thief, secret.address), (wide, own["wide"].address), (wide, "169.254.169.254:80"),
                           (wide, secret.address)):
        had = hudsucker.status()["beacons"]["refused_address"]
        agent.say(address=address)
        wait_until(lambda had=had: hudsucker.status()["beacons"]["refused_address"] > had, f"{address} being refused")
        assert hudsucker.node("wide") is None and hudsucker.node("thief")["address"] == own["thief"].address
    # Said once for each node, not for each datagram.
    for words in ("node thief: its agent names address", "where this proxy itself listens", "which only this machine reaches"):
        assert words in hudsucker.log(), hudsucker.log()
    assert "addresses=* in the keys file: who holds the key of wide" in hudsucker.log()
    assert not secret.connections


@case
def the_holder_of_one_key_takes_neither_clients_by_weight_nor_others_returning_clients(stage):
    names = ("n1", "n2", "n3", "n4")
    keys = {n: random_key() for n in names}
    prefixes = {n: os.urandom(16) for n in names}
    hudsucker = Hudsucker(stage, [{"name": "web"}], keys=[key_line(n, k) for n, k in keys.items()])
    nodes = {n: ScriptedNode(stage, echo, name=n) for n in names}
    agents = {n: PyAgent(stage, n, keys[n], hudsucker.beacon_address, nodes[n].address, prefixes=[prefixes[n]]) for n in names[:3]}
    tokens = [os.urandom(32) for _ in range(60)]
    agents["n1"].add_tokens(tokens)
    hudsucker.wait_states({n: "up" for n in names[:3]})
    wait_until(lambda: hudsucker.status()["affinity"]["size"] >= 60, "the tokens of n1")
    # Every client of a node knows its prefixes and some of its tokens; longer ones are another way to claim the same.
    stolen = [prefixes[n] for n in names] + [prefixes["n1"] + bytes([i]) for i in range(32)] + [prefixes["n2"][:8]]
    thief = PyAgent(stage, "n4", keys["n4"], hudsucker.beacon_address, nodes["n4"].address, prefixes=stolen, weight=1000)
    thief.add_tokens(tokens)
    hudsucker.wait_states({"n4": "up"})
    wait_until(lambda: hudsucker.status()["affinity"]["held_by_another"] >= 60, "the thief's tokens being refused")
    wait_until(lambda: "announces ticket prefixes that node" in hudsucker.log(), "the log saying so")
    assert hudsucker.node("n4")["weight"] == 100 and "write weight=1000" in hudsucker.log()

    def taken(hellos):
        """The part of these clients that the thief gets, with connections that stay open."""
        before, clients = nodes["n4"].connections, []
        for hello in hellos:
            client = connect(hudsucker.address)
            client.sendall(hello)
            assert read_exactly(client, len(hello)) == hello
            clients.append(client)
        for client in clients:
            client.close()
        wait_until(lambda: all(n["active"] == 0 for n in hudsucker.pool()["nodes"]), "the clients being gone")
        return (nodes["n4"].connections - before) / len(hellos)

    def returning(prefix):
        return in_records(client_hello(psk=[prefix + os.urandom(150)]))
    # Within their load bound others' clients go to their own node; 16 are within any.
    shares = {n: taken([returning(prefixes[n]) for _ in range(15)]) for n in ("n1", "n2", "n3")}
    shares["token"] = taken([in_records(client_hello(session_id=t, tls13=False)) for t in tokens[:15]])
    shares["new"] = taken([in_records(client_hello()) for _ in range(120)])
    stage.note(f"the thief gets {shares}")
    assert shares["n1"] == shares["n2"] == shares["n3"] == shares["token"] == 0, shares
    assert shares["new"] < 0.4, shares


# ---- Abuse of tokens -------------------------------------------------------------------------------------------------

@case
def a_flood_of_tokens_from_one_node_leaves_the_hit_rate_of_the_others_untouched(stage):
    hudsucker, agents, _, _ = announced(stage, ("n1", "n2", "n3"), config={"affinity": {"capacity": 20000}})
    mine = [os.urandom(32) for _ in range(3000)]
    agents["n1"].add_tokens(mine)
    wait_until(lambda: hudsucker.status()["affinity"]["size"] >= 2990, "the honest tokens")
    agents["n2"].add_tokens([os.urandom(32) for _ in range(reduced(150_000, 30_000))])

    def hits():
        return sum(who(hudsucker, in_records(client_hello(session_id=token, tls13=False))) == "n1" for token in random.Random(5).sample(mine, 200))
    worst = 200
    until = time.monotonic() + 12
    while time.monotonic() < until:
        worst = min(worst, hits())
    wait_until(lambda: hudsucker.status()["affinity"]["size"] >= 10000, "the flood having arrived", every=0.2)
    worst = min(worst, hits())
    affinity = hudsucker.status()["affinity"]
    stage.note(f"{worst} of 200 found at worst; {affinity}")
    assert worst >= 199, f"only {worst} of 200 of the honest node's tokens were found"


@case
def a_client_that_aims_tokens_at_one_node_cannot_push_it_past_its_load_bound(stage):
    names = ("n1", "n2", "n3", "n4")
    prefixes = {n: os.urandom(16) for n in names}
    hudsucker, _, _, _ = announced(stage, names, script=echo, prefixes=prefixes, config={"max_connections": 2000})
    prefix = prefixes["n1"]  # known to the attacker from a ticket of his own
    clients, peak = [], 0
    for i in range(400):
        client = connect(hudsucker.address)
        message = in_records(client_hello(psk=[prefix + os.urandom(150)]))
        client.sendall(message)
        assert read_exactly(client, len(message)) == message
        clients.append(client)
        if i % 20 == 19:
            rows = {n["name"]: n["active"] for n in hudsucker.pool()["nodes"]}
            mean = sum(rows.values()) / len(rows)
            peak = max(peak, rows["n1"] / max(16, 1.5 * mean))
            assert rows["n1"] <= max(16, 1.5 * mean) + 2, f"n1 has {rows['n1']} of {rows}"
    rows = {n["name"]: n["active"] for n in hudsucker.pool()["nodes"]}
    assert sum(rows.values()) == 400 and rows["n1"] > 100, rows
    stage.note(f"400 aimed at n1: {rows}")
    for client in clients:
        client.close()


if __name__ == "__main__":
    main()
