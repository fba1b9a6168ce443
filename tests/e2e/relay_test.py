#!/usr/bin/env python3
"""The relay: bytes arrive whole, once, in order, or the connection visibly ends; half-close and reset travel through."""
import fcntl
import hashlib
import itertools
import json
import random
import select
import socket
import struct
import subprocess
import termios
import threading
import time

from harness import PATIENCE, TOOLS, Hudsucker, Stopwatch, connect, descriptors, listens, reduced, split_address, wait_until
from hello_bytes import client_hello, in_records
from runner import case, main
from servers.scripted import (Refusing, ScriptedNode, Unanswering, answer_name, echo, read_exactly, read_to_end, reset,
                              silent)

MODES = ("auto", "splice", "copy", "zerocopy")
GIB = reduced(1 << 30, 1 << 26)


def proxy(stage, *nodes, mode="auto", pool=(), **rest):
    """The proxy before these nodes, in one pool, without health checks (they would be connections too)."""
    pools = [{"name": "web", "health_check": False, "nodes": [n.as_node() for n in nodes], **dict(pool)}]
    return Hudsucker(stage, pools, relay={"mode": mode}, **rest)


def closes(hudsucker):
    return hudsucker.status()["closes"]


# ---- Bulk ------------------------------------------------------------------------------------------------------------

def stream_both_ways(stage, mode, bytes_each_way, count=1, options=(), client_options=()):
    """`count` connections at once, each sending so many bytes each way; every byte is checked at both ends."""
    address = stage.address()
    hello = stage.write("hello.bin", in_records(client_hello()))
    hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [{"name": "n1", "address": address}]}],
                          relay={"mode": mode})
    sizes = ["--send", str(bytes_each_way), "--expect", str(bytes_each_way)]
    node = subprocess.Popen([TOOLS / "stream_peer", "listen", address, *sizes, "--count", str(count), "--expect-first", hello,
                             *options], stdout=subprocess.PIPE, text=True)
    clients = []
    try:
        wait_until(lambda: listens(address), "the node listening")
        clients = [subprocess.Popen([TOOLS / "stream_peer", "connect", hudsucker.address, *sizes, "--send-seed", "2",
                                     "--expect-seed", "1", "--first", hello, *client_options], stdout=subprocess.PIPE, text=True)
                   for _ in range(count)]
        for client in clients:
            outcome = json.loads(client.communicate(timeout=200)[0] or "{}")
            assert outcome.get("whole"), f"at the client: {outcome}"
        said = node.communicate(timeout=60)[0]
        outcomes = [json.loads(line) for line in said.splitlines()]
        assert len(outcomes) == count and all(o["whole"] for o in outcomes), f"at the node: {outcomes}"
    finally:
        for child in [node, *clients]:
            child.kill()
            child.wait()
    return hudsucker


@case
def one_gibibyte_each_way_at_once_arrives_whole_in_mode_auto(stage):
    stream_both_ways(stage, "auto", GIB)


@case
def one_gibibyte_each_way_at_once_arrives_whole_in_mode_splice(stage):
    stream_both_ways(stage, "splice", GIB)


@case
def one_gibibyte_each_way_at_once_arrives_whole_in_mode_copy(stage):
    stream_both_ways(stage, "copy", GIB)


@case
def one_gibibyte_each_way_at_once_arrives_whole_in_mode_zerocopy(stage):
    stream_both_ways(stage, "zerocopy", GIB)


@case
def forty_connections_with_readers_that_pause_stay_whole_in_every_mode(stage):
    for mode in MODES:
        hudsucker = stream_both_ways(stage, mode, 8 << 20, count=reduced(40, 8), options=["--read-pause-us", "20000"],
                                     client_options=["--read-pause-us", "20000"])
        hudsucker.stop()
        hudsucker.expected = True


@case
def in_zerocopy_no_buffer_is_used_again_before_its_notification(stage):
    # A reader that stalls keeps the proxy's pages in the send queue, and so its notifications outstanding, while other
    # connections go through the same pool: a buffer used again too early shows as a wrong byte at an exact offset.
    hudsucker = stream_both_ways(stage, "zerocopy", reduced(48 << 20, 8 << 20), count=8, options=["--read-pause-us", "50000"],
                                 client_options=["--read-pause-us", "80000"])
    sends = sum(worker.get("zerocopy_sends", 0) for worker in hudsucker.status()["workers"])
    assert sends > 100, f"only {sends} zero-copy sends: the mode was not in use"
    stage.note(f"{sends} zero-copy sends")


# ---- Ends ------------------------------------------------------------------------------------------------------------

@case
def a_client_that_ends_its_stream_first_still_receives_100_mb(stage):
    payload = random.Random(5).randbytes(1 << 20)
    wanted = hashlib.sha256(payload * 100).hexdigest()

    def script(connection, _node):
        got = read_to_end(connection)
        for _ in range(100):
            connection.sendall(payload)
        return got
    node = ScriptedNode(stage, script)
    for mode in MODES:
        hudsucker = proxy(stage, node, mode=mode)
        with connect(hudsucker.address, 30) as client:
            client.sendall(b"everything I have to say\n")
            client.shutdown(socket.SHUT_WR)
            digest = hashlib.sha256()
            while piece := client.recv(1 << 20):
                digest.update(piece)
        assert digest.hexdigest() == wanted, f"{mode}: the 100 MB differ"
        assert node.results[-1] == b"everything I have to say\n", mode
        wait_until(lambda: closes(hudsucker).get("done") == 1, f"{mode}: one close, counted as done")


@case
def a_node_that_ends_its_stream_first_still_receives_all(stage):
    payload = random.Random(6).randbytes(20 << 20)

    def script(connection, _node):
        connection.recv(100)
        connection.shutdown(socket.SHUT_WR)
        return hashlib.sha256(read_to_end(connection)).hexdigest()
    node = ScriptedNode(stage, script)
    for mode in MODES:
        hudsucker = proxy(stage, node, mode=mode)
        with connect(hudsucker.address, 30) as client:
            client.sendall(b"x")
            assert client.recv(10) == b"", f"{mode}: the node's end of stream did not arrive"
            client.sendall(payload)
            client.shutdown(socket.SHUT_WR)
            wait_until(lambda: len(node.results) == MODES.index(mode) + 1, f"{mode}: the node having all")
        assert node.results[-1] == hashlib.sha256(b"" + payload).hexdigest(), f"{mode}: what arrived differs"


@case
def a_node_that_closes_and_answers_a_late_close_notify_with_a_reset_loses_none_of_what_it_sent(stage):
    # As much as the proxy's kernel takes while the client does not read: what is still in the node's own send queue when
    # the late bytes come is thrown away by the node's kernel, whoever is in between.
    payload = random.Random(7).randbytes(100_000)

    def script(connection, node):
        connection.recv(65536)
        connection.sendall(payload)
        unsent = lambda: struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))[0]
        wait_until(lambda: unsent() == 0, "the proxy's kernel having all")
        connection.close()  # what comes now is answered with a reset by the kernel
        node.closed.set()
    node = ScriptedNode(stage, script)
    for mode in MODES:
        hudsucker = proxy(stage, node, mode=mode)
        for i in range(reduced(6, 2)):
            node.closed = threading.Event()
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # most of it has to wait in the proxy
                client.settimeout(PATIENCE)
                client.connect(split_address(hudsucker.address))
                client.sendall(b"GET /\n")
                got = bytearray(client.recv(1000))
                assert node.closed.wait(PATIENCE), f"{mode}: the node did not get rid of its bytes: {node.errors}"
                time.sleep(0.05 * i)
                client.sendall(b"\x15\x03\x03\x00\x02\x01\x00" * 3)  # the late close_notify
                time.sleep(0.2)
                while piece := client.recv(65536):
                    got += piece
                assert got == payload, f"{mode}: {len(got)} of {len(payload)} bytes arrived"


# Who resets when. `up`, `down`: bytes that have gone to the node and to the client before. `fin`: who had ended its stream.
# `stalled`: the other side does not read, so the proxy holds bytes that it cannot deliver.
RESETS = [
    # sentence                                                       who       up        down      fin       stalled
    ("the client resets after its first byte",                       "client", 1,        0,        None,     False),
    ("the client resets after 1 KB",                                 "client", 1000,     0,        None,     False),
    ("the client resets after one answer",                           "client", 500,      500,      None,     False),
    ("the client resets in the middle of a download",                "client", 100,      1 << 20,  None,     False),
    ("the client resets in the middle of an upload",                 "client", 5 << 20,  0,        None,     False),
    ("the client resets after one full buffer",                      "client", 65536,    0,        None,     False),
    ("the client resets after bulk both ways",                       "client", 2 << 20,  2 << 20,  None,     False),
    ("the client resets while the node does not read",               "client", 100,      0,        None,     True),
    ("the client resets after the node has ended its stream",        "client", 100,      100,      "node",   False),
    ("the client resets after the node has ended a long stream",     "client", 100,      3 << 20,  "node",   False),
    ("the client resets after it has ended its own stream",          "client", 100,      100,      "client", False),
    ("the node resets after the first byte, without an answer",      "node",   1,        0,        None,     False),
    ("the node resets after 1 KB, without an answer",                "node",   1000,     0,        None,     False),
    ("the node resets after its first byte",                         "node",   100,      1,        None,     False),
    ("the node resets after 16 KiB",                                 "node",   100,      16384,    None,     False),
    ("the node resets after one full buffer",                        "node",   100,      65536,    None,     False),
    ("the node resets in the middle of a download",                  "node",   100,      5 << 20,  None,     False),
    ("the node resets in the middle of an upload",                   "node",   5 << 20,  0,        None,     False),
    ("the node resets after bulk both ways",                         "node",   2 << 20,  2 << 20,  None,     False),
    ("the node resets while the client does not read",               "node",   100,      0,        None,     True),
    ("the node resets after the client has ended its stream",        "node",   100,      100,      "client", False),
    ("the node resets after the client has ended a long stream",     "node",   3 << 20,  100,      "client", False),
    ("the node resets after it has ended its own stream",            "node",   100,      100,      "node",   False),
]


def await_reset(side):
    """Reads, and after an end of stream writes, until the connection fails. Returns how it failed, or what was wrong."""
    side.settimeout(PATIENCE)
    try:
        while side.recv(65536):
            pass
        # A client that says a little to a node that is gone is let be (a late close_notify); one that goes on is told.
        for _ in range(200):
            side.sendall(b"?" * 65536)
            time.sleep(0.01)
    except (ConnectionResetError, BrokenPipeError):
        return "reset"
    except TimeoutError:
        return "silence"
    return "a clean end"


def meet(stage, hudsucker, node, row):
    """Plays one row of RESETS; returns how it ended at the other side."""
    _, who, up, down, fin, stalled = row
    with connect(hudsucker.address) as client:
        uploader = threading.Thread(target=client.sendall, args=(b"u" * up,))
        uploader.start()
        wait_until(lambda: node.waiting, "the node having the connection")
        node_side = node.waiting.pop()
        with node_side:
            node_side.settimeout(PATIENCE)
            assert len(read_exactly(node_side, up)) == up
            uploader.join()
            sender = threading.Thread(target=node_side.sendall, args=(b"d" * down,))
            sender.start()
            assert len(read_exactly(client, down)) == down
            sender.join()
            sides = {"client": client, "node": node_side}
            other = sides["node" if who == "client" else "client"]
            if fin:
                sides[fin].shutdown(socket.SHUT_WR)
                assert sides["node" if fin == "client" else "client"].recv(10) == b""
            if stalled:
                sides[who].setblocking(False)
                quiet_since = time.monotonic()
                while time.monotonic() - quiet_since < 0.4:
                    try:
                        sides[who].send(b"s" * 65536)
                        quiet_since = time.monotonic()
                    except BlockingIOError:
                        time.sleep(0.02)
            time.sleep(0.02)
            reset(sides[who])
            return await_reset(other)


@case
def resets_at_21_phases_reach_the_other_side_as_resets_in_every_mode(stage):
    def script(connection, node):
        node.waiting.append(connection)
        while connection.fileno() >= 0:
            time.sleep(0.02)
    node = ScriptedNode(stage, script)
    node.waiting = []
    wrong, count = [], 0
    for mode in reduced(MODES, ("auto",)):
        hudsucker = proxy(stage, node, mode=mode)
        for row in RESETS:
            if row[4] == row[1]:
                continue  # after a side's own end of stream its reset is not always news: the next case
            count += 1
            ended = meet(stage, hudsucker, node, row)
            if ended != "reset":
                wrong.append(f"{mode}: {row[0]}: the other side met {ended}")
    assert not wrong, "\n".join(wrong)
    stage.note(f"{count} resets passed on")


@case
def a_side_that_ends_its_stream_and_then_resets_does_not_leave_the_other_waiting(stage):
    def script(connection, node):
        node.waiting.append(connection)
        while connection.fileno() >= 0:
            time.sleep(0.02)
    node = ScriptedNode(stage, script)
    node.waiting = []
    hudsucker = proxy(stage, node)
    for row in RESETS:
        if row[4] == row[1]:
            ended = meet(stage, hudsucker, node, row)
            assert ended == "reset", f"{row[0]}: the other side met {ended}"
    wait_until(lambda: sum(w["active"] for w in hudsucker.status()["workers"]) == 0, "no connection left")


@case
def a_node_killed_in_mid_stream_ends_its_clients_and_nobody_elses(stage):
    def stream(connection, node):
        connection.recv(100)
        while True:
            connection.sendall(node.node_name[:1].encode() * 10000)
            time.sleep(0.005)
    dying, living = ScriptedNode(stage, stream, name="dying"), ScriptedNode(stage, stream, name="living")
    hudsucker = proxy(stage, dying, living, pool={"balance": "round_robin"})
    clients = {b"d": [], b"l": []}
    for _ in range(20):
        client = connect(hudsucker.address)
        client.sendall(b"go")
        clients[client.recv(1)].append(client)
    assert dying.connections == living.connections == 10, f"{dying.connections} and {living.connections}"
    dying.reset_all()
    for client in clients[b"d"]:
        try:
            while client.recv(1 << 16):
                pass
            raise AssertionError("a clean end")
        except ConnectionResetError:
            pass
    for client in clients[b"l"]:
        for _ in range(200):  # what had arrived before, and more
            assert client.recv(10000), "the end of somebody else's node has ended it"
    for client in itertools.chain(*clients.values()):
        client.close()


# ---- Connecting ------------------------------------------------------------------------------------------------------

@case
def nodes_that_refuse_cost_nobody_anything_while_another_accepts(stage):
    good = ScriptedNode(stage, answer_name, name="good")
    hudsucker = proxy(stage, Refusing(stage, "bad1"), Refusing(stage, "bad2"), good, pool={"balance": "round_robin"})
    slowest = 0
    for _ in range(60):
        watch = Stopwatch(hudsucker.pid)
        with connect(hudsucker.address) as client:
            client.sendall(b"hello?\n")
            assert read_to_end(client) == b"good"
        slowest = max(slowest, watch.of_ours())
    assert slowest < 2.5, f"a client waited {slowest:.1f} s, more than the connect budget"
    hudsucker.wait_states({"bad1": "down", "bad2": "down", "good": "up"})


@case
def a_node_that_does_not_answer_costs_the_connect_budget_and_no_more(stage):
    hudsucker = proxy(stage, Unanswering(stage), timeouts={"connect": "1s"})
    watch = Stopwatch(hudsucker.pid)
    with connect(hudsucker.address) as client:
        client.sendall(b"hello?\n")
        try:
            assert client.recv(10) == b""
        except ConnectionResetError:
            pass
    took, of_ours = watch.wall(), watch.of_ours()
    assert 0.8 < took and of_ours < 2, f"closed after {took:.2f} s, {of_ours:.2f} s of ours, with a budget of 1 s"
    wait_until(lambda: closes(hudsucker).get("connect_timeout") == 1, "a close counted as connect_timeout")


@case
def nodes_that_refuse_everywhere_end_the_client_at_once_and_counted(stage):
    hudsucker = proxy(stage, Refusing(stage, "bad1"), Refusing(stage, "bad2"))
    watch = Stopwatch(hudsucker.pid)
    with connect(hudsucker.address) as client:
        client.sendall(b"hello?\n")
        try:
            assert client.recv(10) == b""
        except ConnectionResetError:
            pass
    assert watch.of_ours() < 1
    wait_until(lambda: closes(hudsucker).get("connect_failed") == 1, "a close counted as connect_failed")


@case
def an_unreachable_node_is_passed_over(stage):
    good = ScriptedNode(stage, answer_name, name="good")
    # 255.255.255.255 is refused by the kernel itself, without a packet: ENETUNREACH.
    far = {"name": "far", "address": "255.255.255.255:443"}
    hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "balance": "round_robin", "nodes": [far, good.as_node()]}])
    for _ in range(10):
        with connect(hudsucker.address) as client:
            client.sendall(b"hello?\n")
            assert read_to_end(client) == b"good"


@case
def a_client_gone_while_its_node_is_being_dialled_leaves_nothing_behind(stage):
    hudsucker = proxy(stage, Unanswering(stage), timeouts={"connect": "5s"})
    wait_until(lambda: sum(w["active"] for w in hudsucker.status()["workers"]) == 0, "a quiet start")
    before = descriptors(hudsucker.pid)
    clients = []
    for i in range(50):
        client = connect(hudsucker.address)
        client.sendall(b"hello?\n")
        clients.append(client)
    wait_until(lambda: sum(w["active"] for w in hudsucker.status()["workers"]) == 50, "all of them waiting for the node")
    for i, client in enumerate(clients):
        reset(client) if i % 2 else client.close()
    wait_until(lambda: sum(w["active"] for w in hudsucker.status()["workers"]) == 0, "all of them being gone")
    wait_until(lambda: descriptors(hudsucker.pid) <= before + 1, "their descriptors being closed")


# ---- Small things ----------------------------------------------------------------------------------------------------

@case
def ten_thousand_round_trips_and_sizes_around_every_threshold_come_back_the_same(stage):
    node = ScriptedNode(stage, echo)
    sizes = [1, 2, 511, 4095, 4096, 4097, 16383, 16384, 16385, 32768, 65535, 65536, 65537, 131072, 262144, 262145, 1 << 20]
    for mode in MODES:
        hudsucker = proxy(stage, node, mode=mode)
        with connect(hudsucker.address) as client:
            for i in range(reduced(2500, 300)):
                message = struct.pack("!I", i) * 4
                client.sendall(message)
                assert read_exactly(client, 16) == message, f"{mode}: round trip {i}"
            generator = random.Random(8)
            for size in sizes + sizes[::-1]:
                message = generator.randbytes(size)
                sender = threading.Thread(target=client.sendall, args=(message,))
                sender.start()
                assert read_exactly(client, size) == message, f"{mode}: {size} bytes came back different"
                sender.join()


@case
def a_relay_that_was_idle_for_seconds_goes_on(stage):
    node = ScriptedNode(stage, echo)
    hudsucker = proxy(stage, node)
    with connect(hudsucker.address) as client:
        for _ in range(3):
            client.sendall(b"are you there?")
            assert read_exactly(client, 14) == b"are you there?"
            time.sleep(1)
        wait_until(lambda: sum(w["pipes_held"] for w in hudsucker.status()["workers"]) == 0, "an idle relay holding no pipe")


@case
def an_idle_relay_is_closed_at_its_timeout_and_a_busy_one_is_not(stage):
    node = ScriptedNode(stage, echo)
    hudsucker = proxy(stage, node, timeouts={"idle": "2s"})
    with connect(hudsucker.address) as idle, connect(hudsucker.address) as busy:
        idle.sendall(b"x")
        assert idle.recv(1) == b"x"
        watch = Stopwatch(hudsucker.pid)
        while not select.select([idle], [], [], 0.05)[0] or watch.wall() < 3:
            busy.sendall(b"y")
            assert busy.recv(1) == b"y"
            assert watch.of_ours() < 6, "an idle relay was not closed"
        try:
            assert idle.recv(1) == b""
        except ConnectionResetError:
            pass
        busy.sendall(b"y")
        assert busy.recv(1) == b"y"
    wait_until(lambda: closes(hudsucker).get("idle_timeout") == 1, "one close counted as idle_timeout")


@case
def a_half_closed_relay_is_closed_at_its_timeout(stage):
    node = ScriptedNode(stage, silent)

    def script(connection, _node):
        read_to_end(connection)
        time.sleep(60)  # never ends its own side
    node.script = script
    hudsucker = proxy(stage, node, timeouts={"half_closed": "1s"})
    with connect(hudsucker.address) as client:
        client.sendall(b"x")
        client.shutdown(socket.SHUT_WR)
        watch = Stopwatch(hudsucker.pid)
        try:
            assert client.recv(1) == b""
        except ConnectionResetError:
            pass
        assert watch.of_ours() < 4
    wait_until(lambda: closes(hudsucker).get("half_closed_timeout") == 1, "one close counted as half_closed_timeout")


@case
def listeners_and_nodes_may_be_ipv6(stage):
    node_port, port = stage.wildcard_port(), stage.wildcard_port()
    node = ScriptedNode(stage, echo, address=f"[::1]:{node_port}", family=socket.AF_INET6)
    hudsucker = proxy(stage, node, listeners=[{"name": "tls", "bind": f"[::1]:{port}", "default_pool": "web"}])
    with connect(hudsucker.address) as client:
        client.sendall(b"six")
        assert read_exactly(client, 3) == b"six"


@case
def nodes_may_be_unix_sockets(stage):
    node = ScriptedNode(stage, echo, address=f"unix:{stage.path('node.sock')}")
    for mode in MODES:
        hudsucker = proxy(stage, node, mode=mode)
        message = random.Random(9).randbytes(3 << 20)
        with connect(hudsucker.address) as client:
            sender = threading.Thread(target=client.sendall, args=(message,))
            sender.start()
            assert read_exactly(client, len(message)) == message, mode
            sender.join()


@case
def the_node_learns_the_clients_address_from_a_proxy_v2_header(stage):
    node = ScriptedNode(stage, lambda connection, _node: read_to_end(connection))
    hudsucker = proxy(stage, node, pool={"proxy_protocol": "v2"})
    with connect(hudsucker.address) as client:
        mine, theirs = client.getsockname(), client.getpeername()  # once both have ended, there is no peer to name
        client.sendall(b"the rest")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    wait_until(lambda: node.results, "the node having it")
    got = node.results[0]
    assert got[:12] == b"\r\n\r\n\0\r\nQUIT\n", got[:16]
    assert got[12:14] == b"\x21\x11" and got[14:16] == b"\0\x0c", f"version, command, family or length: {got[12:16]!r}"
    wanted = socket.inet_aton(mine[0]) + socket.inet_aton(theirs[0]) + struct.pack("!HH", mine[1], theirs[1])
    assert got[16:28] == wanted, f"{got[16:28]!r}, wanted {wanted!r}"
    assert got[28:] == b"the rest"


@case
def an_end_by_sigterm_lets_what_is_in_the_middle_finish(stage):
    node = ScriptedNode(stage, echo)
    hudsucker = proxy(stage, node, timeouts={"drain": "60s"})
    with connect(hudsucker.address) as client:
        client.sendall(b"before")
        assert read_exactly(client, 6) == b"before"
        hudsucker.popen.terminate()
        time.sleep(0.5)
        assert hudsucker.alive(), "it left with a connection in the middle"
        client.sendall(b"after!")
        assert read_exactly(client, 6) == b"after!"
        wait_until(lambda: not listens(hudsucker.address), "a draining proxy taking nobody any more")
        assert hudsucker.alive(), "it left with a connection in the middle"
    assert hudsucker.popen.wait(PATIENCE) == 0
    hudsucker.expected = True


if __name__ == "__main__":
    main()
