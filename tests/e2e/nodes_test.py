#!/usr/bin/env python3
"""What becomes of nodes: those that take connections and do not answer, those that are checked, those that leave."""
import contextlib
import socket
import time

from harness import PATIENCE, Hudsucker, connect, require_program, wait_until
from hello_bytes import client_hello, in_records
from runner import case, main
from servers.nginx import Nginx
from servers.others import OpensslServer
from servers.scripted import ScriptedNode, read_to_end, reset

HELLO = in_records(client_hello())
ALERT = b"\x15\x03\x03\x00\x02\x02\x28"


def answers(connection, node):
    connection.recv(65536)
    connection.sendall(ALERT)
    with contextlib.suppress(OSError):
        read_to_end(connection)


def resets(connection, node):
    connection.recv(65536)
    reset(connection)


def is_mute(connection, node):
    with contextlib.suppress(OSError):
        read_to_end(connection)


class Bench:
    """Three nodes of which the third does what `third` says; connections in turn, so that each gets its share."""

    def __init__(self, stage, third, **eject):
        self.nodes = [ScriptedNode(stage, script, name=f"n{i + 1}") for i, script in enumerate((answers, answers, third))]
        self.proxy = Hudsucker(stage, [{"name": "web", "check": "off", "balance": "round_robin", "nodes": [n.as_node() for n in self.nodes],
                                        "eject": {"time": "1s", **eject}}])
        self.open = []

    def ask(self, patience=PATIENCE):
        """One client; True if it got an answer. One that gets nothing stays, as a client does that waits."""
        client = connect(self.proxy.address)
        client.sendall(HELLO)
        client.settimeout(patience)
        try:
            got = client.recv(100)
        except TimeoutError:
            self.open.append(client)
            return False
        except ConnectionResetError:
            got = b""
        client.close()
        return got == ALERT

    def state(self):
        return self.proxy.node("n3")["state"]

    def ask_until(self, state):
        def asked():
            for _ in range(3):
                self.ask(0.2)
            return self.state() == state
        wait_until(asked, f"n3 being {state}")

    def close(self):
        for client in self.open:
            client.close()


def ejection_is_seen_and_ends(bench, how):
    bench.ask_until("ejected")
    status = bench.proxy.node("n3")
    assert status["ejected"] and status["unanswered"][how] >= 3, status
    assert 'hudsucker_node_state{node="n3",state="ejected"} 1' in bench.proxy.metrics()
    assert f'hudsucker_node_unanswered_total{{node="n3",how="{how}"}} ' in bench.proxy.metrics()
    wait_until(lambda: any("node=n3" in line and "state=ejected" in line for line in bench.proxy.log().splitlines()), "the log saying it")
    before = bench.proxy.node("n3")["total"]
    end = time.monotonic() + 2.5  # twice its time: checks try it out then, not clients
    while time.monotonic() < end:
        assert bench.ask(), "an ejected node was used"
        time.sleep(0.02)
    assert bench.state() == "ejected" and bench.proxy.node("n3")["total"] == before, bench.proxy.node("n3")
    bench.nodes[2].script = answers
    wait_until(lambda: bench.state() == "up", "it being back")
    assert all([bench.ask() for _ in range(9)])
    assert bench.proxy.node("n3")["total"] > before, "it came back, and is not used"
    assert bench.proxy.node("n1")["unanswered"] == {"reset": 0, "closed": 0, "mute": 0}
    bench.close()


@case
def a_node_that_accepts_and_resets_is_used_last_and_comes_back(stage):
    bench = Bench(stage, resets, after=3)
    ejection_is_seen_and_ends(bench, "reset")


@case
def a_node_that_accepts_and_says_nothing_is_used_last_and_comes_back(stage):
    bench = Bench(stage, is_mute, after=3, mute="1s")  # on a busy machine the others take a while, too
    ejection_is_seen_and_ends(bench, "mute")


@case
def what_bad_clients_bring_about_ejects_nobody(stage):
    """Clients whose bytes are no good hello, and clients that go away: a node may close on them without a word."""
    bench = Bench(stage, resets, after=3)
    for data in (b"GET / HTTP/1.1\r\n\r\n", in_records(client_hello(extra=b"\x0a\x0a\0\0" * 2)), bytes(100)) * 6:
        with connect(bench.proxy.address) as client, contextlib.suppress(OSError):
            client.sendall(data)
            client.recv(100)
    for _ in range(12):
        with connect(bench.proxy.address) as client, contextlib.suppress(OSError):
            client.sendall(HELLO)
            client.shutdown(socket.SHUT_WR)
    time.sleep(1)
    assert bench.state() == "up", bench.proxy.node("n3")


@case
def clients_alone_eject_no_healthy_node(stage):
    """A server may close without a word on some names or addresses: many clients, none of them answered, and no other ones."""
    def is_choosy(connection, node):
        hello = connection.recv(65536)
        if b"www.example.com" not in hello:
            connection.sendall(ALERT)

    bench = Bench(stage, is_choosy, after=3)
    for node in bench.nodes:
        node.script = is_choosy
    for i in range(60):
        with connect(bench.proxy.address, source_address=(f"127.9.{i % 7}.1", 0)) as client, contextlib.suppress(OSError):
            client.sendall(HELLO)
            assert client.recv(100) == b""
        time.sleep(0.03)
    names = ("n1", "n2", "n3")
    wait_until(lambda: all(bench.proxy.node(name)["unanswered"]["closed"] >= 15 for name in names), "the count of what was not answered")
    time.sleep(0.7)
    assert [bench.proxy.node(name)["state"] for name in names] == ["up"] * 3
    assert "state=ejected" not in bench.proxy.log()


@case
def a_check_by_tls_leaves_no_line_in_the_log_of_a_tls_server(stage):
    require_program("nginx")
    plain = Nginx(stage, "plain")
    behind_proxy = Nginx(stage, "behind", listen_options="proxy_protocol")
    openssl = OpensslServer(stage, "s_server", "tls13-ticket")
    # What they say of their start, and of who has looked whether they listen, is said.
    for server, words in ((plain, "start worker process "), (behind_proxy, "start worker process "), (behind_proxy, "broken header"),
                          (openssl, "unexpected eof")):
        wait_until(lambda s=server, w=words: w in s.log(), f"'{words}' in the log of {server.name}")
    logs = {server: server.log() for server in (plain, behind_proxy, openssl)}
    fast = {"health_interval": "100ms", "check": "tls"}
    proxy = Hudsucker(stage, [{"name": "web", "nodes": [{"name": "n1", "address": plain.address}, {"name": "n3", "address": openssl.address}], **fast},
                              {"name": "proxied", "proxy_protocol": "v2", "nodes": [{"name": "n2", "address": behind_proxy.address}], **fast}])
    proxy.wait_states({"n1": "up", "n2": "up", "n3": "up"})
    time.sleep(1.5)
    proxy.wait_states({"n1": "up", "n2": "up", "n3": "up"})
    for server, before in logs.items():
        assert server.log() == before, f"{server.name} has this to say: {server.log()[len(before):]}"


@case
def a_check_by_tls_takes_an_alert_for_an_answer_and_silence_for_none(stage):
    mute, refuses = ScriptedNode(stage, is_mute, name="mute"), ScriptedNode(stage, answers, name="refuses")
    proxy = Hudsucker(stage, [{"name": "web", "health_interval": "100ms", "check": "tls",
                               "nodes": [mute.as_node(), refuses.as_node(), ScriptedNode(stage, resets, name="resets").as_node()]}])
    proxy.wait_states({"refuses": "up", "resets": "down"})
    assert proxy.node("mute")["state"] in ("unknown", "down"), "unknown as long as its first check has time"


@case
def a_removed_node_is_listed_while_it_has_connections(stage):
    nodes = [ScriptedNode(stage, answers, name=f"n{i}") for i in (1, 2)]
    proxy = Hudsucker(stage, [{"name": "web", "check": "off", "balance": "round_robin", "nodes": [n.as_node() for n in nodes]}])
    with connect(proxy.address) as one, connect(proxy.address) as other:
        for client in (one, other):
            client.sendall(HELLO)
            assert client.recv(100) == ALERT
        assert proxy.status()["leaving"] == []
        proxy.config["pools"][0]["nodes"] = [nodes[0].as_node()]
        proxy.write_config()
        proxy.signal(1)
        leaving = wait_until(lambda: proxy.status()["leaving"], "a node that leaves")
        assert [(n["name"], n["state"], n["active"]) for n in leaving] == [("n2", "leaving", 1)], leaving
        assert 'hudsucker_node_leaving_connections{node="n2"} 1' in proxy.metrics()
        wait_until(lambda: "state=leaving" in proxy.log(), "the log saying so")
    wait_until(lambda: proxy.status()["leaving"] == [], "the end of its last connection")


if __name__ == "__main__":
    main()
