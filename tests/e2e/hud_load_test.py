#!/usr/bin/env python3
"""hud-load, with which proxies are measured: every load goes through the proxy, and what went wrong is never called a figure."""
import itertools
import json
import pathlib
import signal
import socket
import subprocess
import time

from harness import PATIENCE, TOOLS, Hudsucker, Process, connect, descriptors, wait_until
from runner import Skip, case, main
from servers.scripted import ScriptedNode, echo, read_exactly

PROGRAM = TOOLS / "hud-load"


class Server(Process):
    def __init__(self, stage, *options, name="load-server"):
        self.address = stage.address()
        super().__init__(stage, name, [PROGRAM, "server", "--listen", self.address, *options], fatal=True)
        wait_until(lambda: self.log() == f"ready on {self.address}\n", "the server's `ready`")


def proxy(stage, server):
    pools = [{"name": "web", "health_check": False, "nodes": [{"name": "n1", "address": server.address}]}]
    return Hudsucker(stage, pools, log={"access": {"enabled": False}})


def client(address, load, *options, pids=(), seconds=0.3):
    arguments = [PROGRAM, "client", "--connect", address, "--load", load, "--seconds", str(seconds), *map(str, options),
                 *([] if "--warmup" in options else ["--warmup", "0.1"]), *(["--pids", ",".join(map(str, pids))] if pids else [])]
    return subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50)


def cpu_of_threads(pid):
    """In ns, in the order in which they were started."""
    tasks = pathlib.Path(f"/proc/{pid}/task")
    return [int((tasks / str(thread) / "schedstat").read_text().split()[0]) for thread in sorted(int(task.name) for task in tasks.iterdir())]


def figures(done):
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stdout}{done.stderr}"
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["failures"] == 0, report
    return report


def is_plausible(report):
    """The latencies are in order, and a connection has one operation at a time."""
    latency = report["latency_us"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p999"] <= latency["max"] < 5e6, report
    busy = report["operations"] * latency["p50"] / 1e6
    assert busy < 3 * max(1, report["connections"]) * report["seconds"], report


def keeps_its_rate(report, rate):
    """What a busy machine held up is made up for, unless it was at an end of the window: so let the window be long."""
    assert abs(report["operations"] - rate * report["seconds"]) < 0.1 * report["operations"] + 5, report


@case
def each_load_goes_through_the_proxy_without_a_failure(stage):
    server = Server(stage)
    hudsucker = proxy(stage, server)
    counted = 0
    for load, options, connections in [
            ("exchange", ["--request", 1, "--response", 1], 8), ("exchange", ["--request", 70_000, "--response", 300_000], 4),
            ("upload", [], 4), ("download", [], 4), ("connect", ["--end", "fin"], 8), ("connect", ["--end", "rst", "--token", "psk"], 8),
            ("connect", ["--response", 100_000, "--hello-bytes", 9000], 4), ("mixed", [], 4), ("stalled", [], 4), ("stalled", [], 0)]:
        report = figures(client(hudsucker.address, load, "--connections", connections, *options, pids=[hudsucker.pid, server.pid]))
        assert report["load"] == load and report["connections"] == connections, report
        assert 0.29 < report["seconds"] < 30, report
        assert report["bytes"] > 0, report
        assert set(report["cpu_ns"]) == {str(hudsucker.pid), str(server.pid)} and all(report["cpu_ns"].values()), report
        assert report["own_cpu_ns"] > 0, report
        assert ("realtime" in report) == (load in ("mixed", "stalled")), report
        if load in ("exchange", "connect", "mixed", "stalled"):
            assert report["operations"] > 0, report
            is_plausible(report)
            counted += report["operations"]
        else:
            assert report["operations"] == 0 and "latency_us" not in report, report
    stage.note(f"{counted} operations")
    assert hudsucker.status()["closes"], "the connections did not go through the proxy"


@case
def a_mixed_load_has_threads_of_its_own_for_the_exchange_and_leaves_nothing_behind(stage):
    server = Server(stage, "--threads", 2)
    before = descriptors(server.pid)
    for threads in (1, 3):
        keeps_its_rate(figures(client(server.address, "mixed", "--connections", 8, "--threads", threads, "--rate", 500, seconds=2)), 500)
    wait_until(lambda: descriptors(server.pid) == before, "the server closing all, the probe's too")


@case
def of_a_stalled_load_the_node_sends_a_file_and_finishes_and_the_client_reads_nothing(stage):
    server = Server(stage)
    listener = stage.own(socket.create_server(("127.0.0.1", 0)))
    listener.settimeout(PATIENCE)
    load = subprocess.Popen([PROGRAM, "client", "--connect", "127.0.0.1:%d" % listener.getsockname()[1], "--load", "stalled",
                             "--connections", "1", "--seconds", "0.5"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(2):  # which of them is which is seen by what the server does with it
            front = stage.own(listener.accept()[0])
            back = stage.own(connect(server.address))
            front.settimeout(PATIENCE)
            back.sendall(front.recv(10_000))
            got = bytearray(back.recv(65536))
            front.sendall(got[:1])
            if len(got) > 1:
                while piece := back.recv(1 << 20):
                    got += piece
                assert len(got) == 6 * 1024 * 1024, len(got)
                sent = 0
                front.setblocking(False)
                try:
                    while sent < len(got) - 1:
                        sent += front.send(got[1 + sent:])
                except BlockingIOError:
                    pass
                assert sent < len(got) - 1, "the client has read it all"
                break
        else:
            raise AssertionError("no connection was sent a file")
    finally:
        load.kill()
        load.communicate()


@case
def exchanged_bytes_are_operations_times_their_size(stage):
    server = Server(stage)
    report = figures(client(server.address, "exchange", "--connections", 4, "--request", 100, "--response", 900))
    difference = abs(report["bytes"] - 1000 * report["operations"])
    assert difference <= 1000 * 2 * 4, report  # one outstanding on each connection, at both ends of the window


@case
def two_threads_on_either_side_share_the_connections(stage):
    server = Server(stage, "--threads", 2)
    for load in ("exchange", "connect", "download"):
        figures(client(server.address, load, "--connections", 32, "--threads", 2))
    assert min(cpu_of_threads(server.pid)[-2:]) > 5e6, "one of the server's threads had nothing to do"
    figures(client(server.address, "exchange", "--connections", 1, "--threads", 4))


@case
def a_paced_load_keeps_its_rate(stage):
    server = Server(stage)
    for connections, threads in (16, 1), (16, 2):
        keeps_its_rate(figures(client(server.address, "exchange", "--connections", connections, "--rate", 500, "--threads", threads, seconds=2)), 500)


@case
def a_paced_load_without_a_warm_up_begins_when_all_are_up(stage):
    server = Server(stage)
    for rate in (500, 10_000_000):  # the latter is more than anybody can, so all of it is late in the end
        report = figures(client(server.address, "exchange", "--connections", 8, "--rate", rate, "--warmup", 0))
        assert report["latency_us"]["max"] < 1e6 * (report["seconds"] + 1), report
        assert report["operations"] <= rate * report["seconds"] + 8, report


@case
def a_stall_shows_in_the_latencies_of_a_paced_load_as_long_as_it_was(stage):
    server = Server(stage)
    before = descriptors(server.pid)
    done = subprocess.Popen([PROGRAM, "client", "--connect", server.address, "--load", "exchange", "--connections", "4", "--rate",
                             "1000", "--seconds", "3"], stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: descriptors(server.pid) >= before + 4, "the connections")
        time.sleep(1.2)  # warm-up, and some of the window
        server.signal(signal.SIGSTOP)
        time.sleep(0.9)
        server.signal(signal.SIGCONT)
        report = json.loads(done.communicate(timeout=60)[0])
    finally:
        done.kill()
        done.wait()
    assert report["latency_us"]["max"] > 800_000, report
    # Of 3 seconds' 3000 operations those of 0.9 s were late: a closed loop would have had 4 of them.
    assert report["latency_us"]["p90"] > 150_000, report


@case
def idle_connections_are_held_until_the_input_ends(stage):
    server = Server(stage)
    before = descriptors(server.pid)
    held = subprocess.Popen([PROGRAM, "client", "--connect", server.address, "--load", "idle", "--connections", "300"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert json.loads(held.stdout.readline()) == {"ready": 300}
        assert descriptors(server.pid) == before + 300
        time.sleep(0.2)
        assert held.poll() is None, "it did not hold them"
        report = json.loads(held.communicate("", timeout=PATIENCE)[0])
    finally:
        held.kill()
        held.wait()
    assert held.returncode == 0 and report["load"] == "idle" and report["failures"] == 0 and report["seconds"] > 0.2, report
    wait_until(lambda: descriptors(server.pid) == before, "the server closing them")


@case
def what_cannot_be_measured_ends_with_2_and_says_why(stage):
    server = Server(stage)
    echoing = ScriptedNode(stage, echo, name="echoing")
    silent_address = stage.address()
    taken = socket.socket()
    stage.own(taken)
    host, port = silent_address.rsplit(":", 1)
    taken.bind((host, int(port)))  # bound, and nobody listens
    for words, arguments in [
            ("connection refused", ["--connect", silent_address, "--load", "exchange"]),
            ("answered what it should not", ["--connect", echoing.address, "--load", "exchange"]),
            ("answered what it should not", ["--connect", echoing.address, "--load", "connect"]),
            ("hard limit", ["--connect", server.address, "--load", "idle", "--connections", 999_999]),
            ("100 bytes is not possible", ["--connect", server.address, "--load", "connect", "--hello-bytes", 100]),
            ("--rate", ["--connect", server.address, "--load", "download", "--rate", 5]),
            ("--connections 0", ["--connect", server.address, "--load", "exchange", "--connections", 0]),
            ("999999999", ["--connect", server.address, "--load", "exchange", "--pids", 999_999_999]),
            ("localhost", ["--connect", "localhost:1", "--load", "exchange"]),
            ("--load", ["--connect", server.address, "--load", "everything"])]:
        done = subprocess.run([PROGRAM, "client", *map(str, arguments)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and not done.stdout, f"{arguments}: {done.returncode} {done.stdout}"
        assert words in done.stderr.lower(), f"{words!r} is not in: {done.stderr}"


@case
def a_server_that_cannot_listen_ends_with_2_and_says_why(stage):
    alone, shared = Server(stage), Server(stage, "--threads", 2, name="shared")
    for words, arguments in [
            ("listen on 192.0.2.1:1: cannot assign requested address; this machine has no such address", ["--listen", "192.0.2.1:1"]),
            (f"listen on {alone.address}: address already in use; somebody listens there already", ["--listen", alone.address]),
            (f"listen on {alone.address}: address already in use", ["--listen", alone.address, "--threads", 2]),
            (f"listen on {shared.address}: address already in use", ["--listen", shared.address]),
            (f"listen on {shared.address}: address already in use", ["--listen", shared.address, "--threads", 2]),
            ("serves one thread", ["--listen", f"unix:{stage.path('two.sock')}", "--threads", 2])]:
        done = subprocess.run([PROGRAM, "server", *map(str, arguments)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and not done.stdout, f"{arguments}: {done.returncode} {done.stdout}"
        assert words in done.stderr.lower(), f"{words!r} is not in: {done.stderr}"


@case
def a_server_says_which_port_it_got(stage):
    for threads in (1, 2):
        server = Process(stage, f"any-port-{threads}", [PROGRAM, "server", "--listen", "127.0.0.1:0", "--threads", threads], fatal=True)
        wait_until(lambda: server.log().endswith("\n"), "the server's `ready`")
        address = server.log().removeprefix("ready on ").strip()
        assert address.startswith("127.0.0.1:") and not address.endswith(":0"), server.log()
        figures(client(address, "exchange", "--connections", 4))


@case
def a_word_that_it_does_not_know_is_named(_stage):
    for words, arguments in [("foo", ["foo"]), ("server or client", []), ("--bar", ["server", "--listen", "127.0.0.1:0", "--bar"]), ("--listen", ["server"])]:
        done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and not done.stdout, f"{arguments}: {done.returncode} {done.stdout}"
        assert done.stderr.startswith("hud-load: ") and words in done.stderr, done.stderr


class Measuring:
    """A client that something happens to."""

    def __init__(self, address, load, *options):
        arguments = [PROGRAM, "client", "--connect", address, "--load", load, *options]
        self.popen = subprocess.Popen(list(map(str, arguments)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def end(self):
        """Exit code, report, and what it said on standard error."""
        out, error = self.popen.communicate(timeout=PATIENCE)
        return self.popen.returncode, json.loads(out.splitlines()[-1]), error

    def __exit__(self, *_):
        self.popen.kill()
        self.popen.communicate()


@case
def a_server_that_goes_away_while_measuring_gives_exit_3_a_sentence_and_the_figures_all_the_same(stage):
    server = Server(stage)
    before = descriptors(server.pid)
    with Measuring(server.address, "connect", "--connections", 16, "--seconds", 3) as measuring:
        wait_until(lambda: descriptors(server.pid) > before, "the connections")
        time.sleep(1.5)  # warm-up, and some of the window
        server.kill()
        code, report, error = measuring.end()
    assert code == 3, f"{code}: {error}"
    assert report["operations"] > 0 and report["failures"] > report["operations"] / 100, report
    assert report["failures"] < 16 * 120 * report["seconds"], f"it tried again without a pause: {report}"
    for words in (f"hud-load: the server at {server.address} went away", f"{report['failures']} failures", "Connection refused"):
        assert words in error, error


@case
def a_client_that_loopback_connected_to_itself_was_refused(_stage):
    """In a network where clients have but one port, the one that it connects to and where nobody listens."""
    own_network = ["unshare", "--net", "sh", "-c",
                   "ip link set lo up && echo 40000 40000 >/proc/sys/net/ipv4/ip_local_port_range && exec \"$@\"", "sh"]
    if subprocess.run([*own_network, "true"], capture_output=True, check=False).returncode != 0:
        raise Skip("needs a network of its own: root")
    # And the port is as good as before: the next try meets the same.
    done = subprocess.run([*own_network, "sh", "-c", '"$@"; code=$?; cat /proc/net/tcp; exit $code', "sh", PROGRAM, "client", "--connect",
                           "127.0.0.1:40000", "--load", "exchange"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "Connection refused" in done.stderr, f"{done.returncode}: {done.stderr}"
    assert "0100007F:9C40" not in done.stdout, f"the port is in use: {done.stdout}"


@case
def a_server_that_says_nothing_ends_the_run_before_the_window(stage):
    server = Server(stage)
    server.signal(signal.SIGSTOP)
    try:
        with Measuring(server.address, "exchange", "--connections", 3, "--seconds", 60) as measuring:
            code, report, error = measuring.end()
    finally:
        server.signal(signal.SIGCONT)
    assert code == 3 and report["operations"] == 0, f"{code}: {report}"
    assert f"hud-load: only 0 of 3 connections to {server.address} were answered" in error and "for 5 seconds" in error, error

    with Measuring(server.address, "exchange", "--connections", 3, "--warmup", 60) as measuring:
        wait_until(lambda: descriptors(server.pid) > 10, "the connections")
        time.sleep(0.3)
        server.signal(signal.SIGSTOP)
        try:
            code, report, error = measuring.end()
        finally:
            server.signal(signal.SIGCONT)
    assert code == 3 and report["failures"] == 3, f"{code}: {report}"
    assert f"hud-load: {server.address} answered 3 connections, and then nothing for 5 seconds" in error, error


@case
def a_slow_pace_is_no_silence(stage):
    server = Server(stage)
    done = client(server.address, "exchange", "--rate", 0.15, "--warmup", 7)
    assert figures(done)["operations"] <= 1 and not done.stderr, done.stdout


@case
def a_signal_ends_a_run_with_what_was_measured_until_then(stage):
    server = Server(stage)
    for number, load in ((signal.SIGINT, "exchange"), (signal.SIGTERM, "download"), (signal.SIGTERM, "idle")):
        before = descriptors(server.pid)
        with Measuring(server.address, load, "--connections", 4, "--seconds", 60) as measuring:
            wait_until(lambda: descriptors(server.pid) >= before + 4, "the connections")
            time.sleep(0.8)
            measuring.popen.send_signal(number)
            code, report, error = measuring.end()
        wait_until(lambda: descriptors(server.pid) == before, "their end")
        assert code == 130 and error.startswith(f"hud-load: ended by {number.name} "), f"{code}: {error}"
        assert 0.1 < report["seconds"] < PATIENCE and report["failures"] == 0, report
        assert load == "idle" or report["bytes"] > 0, report
    server.signal(signal.SIGSTOP)
    try:
        with Measuring(server.address, "exchange") as measuring:  # which waits for all being up
            time.sleep(0.3)
            measuring.popen.send_signal(signal.SIGINT)
            code, report, error = measuring.end()
    finally:
        server.signal(signal.SIGCONT)
    assert code == 130 and report["operations"] == 0, f"{code}: {report}"


@case
def a_lost_answer_is_a_failure_and_not_a_slow_one(stage):
    """The node answers once, and never again: every connection hangs to the end."""
    def answers_once(connection, _node):
        hello_head = read_exactly(connection, 5)
        read_exactly(connection, hello_head[3] << 8 | hello_head[4])
        connection.sendall(b"\x5a")
        while connection.recv(65536):
            pass
    node = ScriptedNode(stage, answers_once, name="once")
    done = client(node.address, "exchange", "--connections", 4, seconds=1.5)
    assert done.returncode == 3, f"{done.returncode}: {done.stdout}{done.stderr}"
    assert json.loads(done.stdout)["failures"] == 4, done.stdout
    assert f"4 connections to {node.address} awaited an answer" in done.stderr, done.stderr


@case
def the_server_does_what_a_hello_orders_however_it_is_cut_and_closes_on_what_is_none(stage):
    server = Server(stage)
    def ordering(operation):
        sizes = (7).to_bytes(4, "big") + (3).to_bytes(4, "big")
        body = bytes([1, 0, 0, 100, 3, 3]) + b"hud-load" + bytes([operation, 0, 0, 0]) + sizes + bytes(78)
        return bytes([22, 3, 1]) + len(body).to_bytes(2, "big") + body
    exchange, probe = ordering(1), ordering(6)  # the latter is handed to another thread
    size = len(exchange)
    for record, cut in itertools.product((exchange, probe), [1, 4, 5, 42, 43, 44, size - 1, size, size + 3, size + 7]):
        with connect(server.address) as stream:
            request = record + bytes(7)
            stream.sendall(request[:cut])
            time.sleep(0.02)
            stream.sendall(request[cut:])
            assert len(read_exactly(stream, 1 + 3)) == 4, cut
            stream.sendall(bytes(14))  # two requests at once get two answers
            assert len(read_exactly(stream, 6)) == 6, cut
    for stranger in (b"GET / HTTP/1.1\r\nHost: somebody.example.com\r\n\r\n", exchange.replace(b"hud-load", b"stranger")):
        with connect(server.address) as stream:
            stream.sendall(stranger)
            assert stream.recv(1) == b"", "it answered a stranger"


if __name__ == "__main__":
    main()
