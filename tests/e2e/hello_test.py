#!/usr/bin/env python3
"""The ClientHello: read right whatever its shape, given to the node byte for byte, and never a way to stop the proxy."""
import concurrent.futures
import contextlib
import errno
import os
import socket
import struct
import threading
import time

from beacon_bytes import PyAgent, key_line, random_key
from harness import PATIENCE, Hudsucker, Stopwatch, connect, reduced, reload_and_wait, wait_until
from hello_bytes import EARLY_DATA, GREASE, PSK, SUPPORTED_VERSIONS, TICKET, alpn, client_hello, extension, in_records, pre_shared_key, record, server_name
from runner import case, main
from servers.scripted import ScriptedNode, answer_name, read_to_end, reset

TAIL = b"what comes behind the hello"
ROUTES = [{"sni": ["www.example.com"], "pool": "named"}]


class Ears:
    """Pools of one node each, that keep what they are given and answer with their name; `ask` says who got what."""

    def __init__(self, stage, routes, pools, default, *, hello=None, **rest):
        def script(connection, node):
            got = read_to_end(connection)
            connection.sendall(node.node_name.encode())
            node.got[got[-8:]] = got
            return len(got)
        self.nodes = {}
        for name in pools:
            self.nodes[name] = ScriptedNode(stage, script, name=name)
            self.nodes[name].got = {}
        listener = {"name": "tls", "routes": routes, **({"default_pool": default} if default else {})}
        if hello:
            listener["hello"] = hello
        self.proxy = Hudsucker(stage, [{"name": n, "health_check": False, "nodes": [self.nodes[n].as_node()]} for n in pools],
                               listeners=[listener], **rest)

    def ask(self, pieces, pause=0.0):
        """Sends the pieces one by one; returns the node that got them. What it got must be what was sent."""
        mark = os.urandom(8)
        pieces = [*pieces[:-1], pieces[-1] + mark]
        with connect(self.proxy.address) as client:
            for piece in pieces:
                client.sendall(piece)
                if pause:
                    time.sleep(pause)
            try:
                client.shutdown(socket.SHUT_WR)
                name = read_to_end(client).decode(errors="replace")
            except OSError as error:
                assert error.errno in (errno.ECONNRESET, errno.ENOTCONN), error
                return "reset"
        if name not in self.nodes:
            return f"closed after {name!r}" if name else "closed"
        got = wait_until(lambda: self.nodes[name].got.get(mark), f"{name} having it")
        assert got == b"".join(pieces), f"{name} got {len(got)} bytes that differ from the {sum(map(len, pieces))} sent"
        return name


def hello(**options):
    return in_records(client_hello(**options))


def two_names():
    return in_records(client_hello(sni=None, extra=server_name("www.example.com") + server_name("other.example.com")))


def sslv2():
    body = b"\x01\x00\x02\x00\x03\x00\x00\x00\x10\x07\x00\xc0" + os.urandom(16)
    return struct.pack("!H", 0x8000 | len(body)) + body


def ech():
    return in_records(client_hello(extra=extension(0xFE0D, b"\0\0\x01\0\x01\x07\0\x20" + os.urandom(32) + b"\0\x80" + os.urandom(128))))


MESSAGE = client_hello()
LARGE = client_hello(pad_to=20 * 1024)
# What comes in, and which pool gets it: by its name, or the default one.
TABLE = [
    ("a plain hello", in_records(MESSAGE), "named"),
    ("an upper-case name", hello(sni="WWW.Example.COM"), "named"),
    ("a TLS 1.2 hello", hello(tls13=False), "named"),
    ("a hello of 1.7 KB, as with a post-quantum key share", hello(pad_to=1700), "named"),
    ("a hello of 15 KB in one record", hello(pad_to=15000), "named"),
    ("a hello of 20 KB over two records", in_records(LARGE), "named"),
    ("a hello of 20 KB over ten records", in_records(LARGE, range(2000, len(LARGE), 2000)), "named"),
    ("early data behind the hello", hello(psk=[os.urandom(120)], early_data=True) + record(os.urandom(3000), 23), "named"),
    ("a change cipher spec behind the hello", in_records(MESSAGE) + record(b"\x01", 20), "named"),
    ("two records", in_records(MESSAGE, [100]), "named"),
    ("a first record with one byte", in_records(MESSAGE, [1]), "named"),
    ("a first record that ends in the handshake header", in_records(MESSAGE, [3]), "named"),
    ("records of one byte", in_records(MESSAGE, range(1, len(MESSAGE))), "named"),
    ("an empty record first", in_records(MESSAGE, [0]), "named"),
    ("an empty record in the middle", in_records(MESSAGE, [50, 50]), "named"),
    ("another message behind the hello in its record", record(MESSAGE + MESSAGE), "named"),
    ("records of version 3.0", in_records(MESSAGE).replace(b"\x16\x03\x01", b"\x16\x03\x00", 1), "named"),
    ("many ALPN protocols", hello(extra=alpn([f"protocol-{i}" for i in range(100)])), "named"),
    ("real ECH: the outer name counts", ech(), "named"),
    ("a name that no route has", hello(sni="other.example.com"), "default"),
    ("no name", hello(sni=None), "default"),
    ("an empty name", hello(sni=""), "default"),
    ("a name with a zero byte", hello(sni=b"www.example.com\0.evil.example"), "default"),
    ("two name extensions", two_names(), "default"),
    ("two ticket extensions", hello(extra=extension(TICKET, b"a" * 40) + extension(TICKET, b"b" * 40)), "named"),
    ("one GREASE extension twice", hello(extra=extension(GREASE, b"") * 2), "named"),
    ("early data that says something", hello(extra=extension(EARLY_DATA, b"x"), psk=[b"x" * 40]), "named"),
    ("an empty PSK extension", hello(extra=extension(PSK, b"")), "named"),
    ("a PSK that is not the last extension", hello(extra=pre_shared_key([b"x" * 40]) + extension(51, b"")), "named"),
    ("a session id of 33 bytes", hello(session_id=b"s" * 33), "named"),
    ("a handshake length that does not fit its record", record(b"\x01\0\0\x05" + b"x" * 60), "default"),
    ("another handshake message", record(b"\x02" + MESSAGE[1:]), "default"),
    ("an SSLv2 hello", sslv2(), "default"),
    ("plain HTTP", b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n", "default"),
    ("an alert", record(b"\x02\x28", 21), "default"),
    ("a change cipher spec first", record(b"\x01", 20) + in_records(MESSAGE), "default"),
    ("a PROXY header that nobody expects", b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n" + in_records(MESSAGE), "default"),
    ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n", "default"),
    ("zero bytes", bytes(600), "default"),
    ("a byte above 0x80 and silence about the rest", b"\xff" * 600, "default"),
]


@case
def every_row_of_the_table_goes_where_it_must_and_arrives_byte_for_byte(stage):
    ears = Ears(stage, ROUTES, ("named", "default"), "default")
    wrong = []
    for name, data, pool in TABLE:
        for shape, pieces, pause in (("at once", [data + TAIL], 0), ("in two", [data[:len(data) // 2], data[len(data) // 2:] + TAIL], 0.01),
                                     ("the tail apart", [data, TAIL], 0.01)):
            went = ears.ask(pieces, pause)
            if went != pool:
                wrong.append(f"{name}, {shape}: {went}, wanted {pool}")
    assert not wrong, "\n".join(wrong)


@case
def a_flaw_of_a_hello_is_counted_and_logged_by_its_reason(stage):
    ears = Ears(stage, ROUTES, ("named", "default"), "default", log={"access": {"enabled": True}})
    flawed = [("duplicate_extension", hello(extra=extension(GREASE, b""))), ("pre_shared_key", hello(extra=extension(PSK, b""))),
              ("empty_record", in_records(MESSAGE, [50, 50]))]
    for reason, data in flawed:
        assert ears.ask([data + TAIL]) == "named", reason
    assert ears.ask([in_records(MESSAGE) + TAIL]) == "named"
    flaws = wait_until(lambda: (found := ears.proxy.status()["hello_flaws"]) and sum(found.values()) >= 3 and found, "the count")
    assert {k: v for k, v in flaws.items() if v} == {reason: 1 for reason, _ in flawed}, flaws
    for reason, _ in flawed:
        assert f'hudsucker_hello_flaws_total{{flaw="{reason}"}} 1' in ears.proxy.metrics(), reason
        wait_until(lambda: f" flaw={reason} " in ears.proxy.log(), f"flaw={reason} in the log")
    lines = [line for line in ears.proxy.log().splitlines() if " close=" in line]
    assert sum(" flaw=" in line for line in lines) == 3, lines


@case
def an_alpn_list_of_any_length_routes(stage):
    """60 KB of protocols, in one record and in many; the one that the route wants is the last."""
    routes = [{"sni": ["www.example.com"], "alpn": ["wanted"], "pool": "named"}, {"sni": ["www.example.com"], "pool": "default"}]
    ears = Ears(stage, routes, ("named", "default"), "default", hello={"max_bytes": 65536})
    for count in (20, 200, 4000):
        names = [f"protocol-{i}" for i in range(count)]
        wanted, unwanted = client_hello(protocols=[*names, "wanted"]), client_hello(protocols=names)
        for cuts in ((), range(300, len(unwanted), 5000)):
            assert ears.ask([in_records(wanted, cuts) + TAIL]) == "named", f"{count} protocols"
            assert ears.ask([in_records(unwanted, cuts) + TAIL]) == "default", f"{count} protocols"


@case
def a_name_that_is_an_address_routes(stage):
    routes = [{"sni": ["192.0.2.1", "2001:db8::1"], "pool": "named"}]
    ears = Ears(stage, routes, ("named", "default"), "default")
    for name, pool in (("192.0.2.1", "named"), ("2001:DB8::1", "named"), ("192.0.2.2", "default")):
        assert ears.ask([hello(sni=name) + TAIL]) == pool, name


@case
def every_split_of_a_hello_into_two_segments_gives_the_same_node(stage):
    ears = Ears(stage, ROUTES, ("named", "default"), "default")
    data = in_records(client_hello(psk=[os.urandom(150)], protocols=["h2", "http/1.1"]))
    cuts = range(1, len(data), reduced(1, 7))
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        went = list(pool.map(lambda cut: ears.ask([data[:cut], data[cut:] + TAIL], 0.01), cuts))
    wrong = [(cut, node) for cut, node in zip(cuts, went) if node != "named"]
    assert not wrong, f"{len(wrong)} of {len(cuts)} cuts: {wrong[:10]}"
    stage.note(f"{len(cuts)} splits into segments")


@case
def every_split_of_a_hello_into_two_records_gives_the_same_node(stage):
    ears = Ears(stage, ROUTES, ("named", "default"), "default")
    message = client_hello(psk=[os.urandom(150)], protocols=["h2", "http/1.1"])
    cuts = range(1, len(message), reduced(1, 7))
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        went = list(pool.map(lambda cut: ears.ask([in_records(message, [cut]) + TAIL]), cuts))
    wrong = [(cut, node) for cut, node in zip(cuts, went) if node != "named"]
    assert not wrong, f"{len(wrong)} of {len(cuts)} cuts: {wrong[:10]}"
    stage.note(f"{len(cuts)} splits into records")


@case
def a_hello_byte_by_byte_gives_the_same_node(stage):
    ears = Ears(stage, ROUTES, ("named", "default"), "default")
    data = in_records(MESSAGE)
    assert ears.ask([*(data[i:i + 1] for i in range(len(data))), TAIL], 0.001) == "named"
    large = in_records(LARGE, range(2000, len(LARGE), 2000))
    assert ears.ask([*(large[i:i + 97] for i in range(0, len(large), 97)), TAIL], 0.0005) == "named"


@case
def a_token_finds_its_owner_however_the_hello_is_cut(stage):
    """Ten nodes announced by beacons, each with a prefix; a hello with the ticket of each, cut in segments and records."""
    keys = {f"n{i}": random_key() for i in range(10)}
    prefixes = {n: os.urandom(16) for n in keys}
    hudsucker = Hudsucker(stage, [{"name": "web"}], keys=[key_line(n, k) for n, k in keys.items()])

    def script(connection, node):
        read_to_end(connection)
        connection.sendall(node.node_name.encode())
    exact = {n: os.urandom(32) for n in keys}
    for n in keys:
        agent = PyAgent(stage, n, keys[n], hudsucker.beacon_address, ScriptedNode(stage, script, name=n).address, prefixes=[prefixes[n]])
        agent.add_tokens([exact[n]])
    hudsucker.wait_states({n: "up" for n in keys})
    wait_until(lambda: hudsucker.status()["affinity"]["size"] == 10, "the exact tokens")

    def went(pieces):
        with connect(hudsucker.address) as client:
            for piece in pieces:
                client.sendall(piece)
                time.sleep(0.005)
            client.shutdown(socket.SHUT_WR)
            return read_to_end(client).decode()
    shapes = {
        "a TLS 1.3 ticket": lambda n: client_hello(psk=[prefixes[n] + os.urandom(150)]),
        "the second of three PSKs": lambda n: client_hello(psk=[os.urandom(180), prefixes[n] + os.urandom(150), os.urandom(20)]),
        "the fourth of five PSKs": lambda n: client_hello(psk=[os.urandom(40)] * 3 + [prefixes[n] + os.urandom(150), os.urandom(40)]),
        "a stateful TLS 1.3 id": lambda n: client_hello(psk=[exact[n]]),
        "a TLS 1.2 ticket": lambda n: client_hello(ticket=prefixes[n] + os.urandom(150), session_id=os.urandom(32), tls13=False),
        "a TLS 1.2 session id": lambda n: client_hello(session_id=exact[n], tls13=False),
        "a TLS 1.2 id in a hello that offers TLS 1.3": lambda n: client_hello(session_id=exact[n], ticket=b""),
    }
    wrong = []
    for name, make in shapes.items():
        for n in keys:
            message = make(n)
            middle = len(message) // 2
            for cut, pieces in (("whole", [in_records(message)]), ("two records", [in_records(message, [middle])]),
                                ("four segments", [in_records(message)[i:i + 130] for i in range(0, len(message) + 5, 130)]),
                                ("tiny records", [in_records(message, range(7, len(message), 7))])):
                got = went(pieces)
                if got != n:
                    wrong.append(f"{name}, {cut}: {got} instead of {n}")
    assert not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong[:20])


@case
def a_session_id_beside_a_ticket_or_a_psk_is_not_looked_up(stage):
    key = random_key()
    mine, id_of_n1 = os.urandom(16), os.urandom(32)
    hudsucker = Hudsucker(stage, [{"name": "web", "balance": "round_robin"}], keys=[key_line("n1", key), key_line("n2", key2 := random_key())])

    def script(connection, node):
        read_to_end(connection)
        connection.sendall(node.node_name.encode())
    a1 = PyAgent(stage, "n1", key, hudsucker.beacon_address, ScriptedNode(stage, script, name="n1").address)
    PyAgent(stage, "n2", key2, hudsucker.beacon_address, ScriptedNode(stage, script, name="n2").address, prefixes=[mine])
    a1.add_tokens([id_of_n1])
    hudsucker.wait_states({"n1": "up", "n2": "up"})
    wait_until(lambda: hudsucker.status()["affinity"]["size"] == 1, "the exact token")
    for message in (client_hello(session_id=id_of_n1, ticket=mine + os.urandom(100), tls13=False),
                    client_hello(session_id=id_of_n1, psk=[mine + os.urandom(100)])):
        for _ in range(6):
            with connect(hudsucker.address) as client:
                client.sendall(in_records(message))
                client.shutdown(socket.SHUT_WR)
                assert read_to_end(client) == b"n2"


@case
def a_hello_over_the_cap_is_closed_and_counted(stage):
    ears = Ears(stage, ROUTES, ("named", "default"), "default")
    data = in_records(client_hello(pad_to=40000))
    assert ears.ask([data]) in ("closed", "reset")
    wait_until(lambda: ears.proxy.status()["closes"]["hello_too_large"] == 1, "one close, counted")
    smaller = Ears(stage, ROUTES, ("named", "default"), "default", hello={"max_bytes": "2KiB"}, name="small")
    assert smaller.ask([hello(pad_to=1700)]) == "named"
    assert smaller.ask([hello(pad_to=2500)]) in ("closed", "reset")


@case
def a_stalled_hello_is_closed_at_its_deadline_and_counted(stage):
    ears = Ears(stage, ROUTES, ("named", "default"), "default", hello={"deadline": "1s"})
    for start in (b"", in_records(MESSAGE)[:3], in_records(MESSAGE)[:100], in_records(LARGE)[:17000]):
        watch = Stopwatch(ears.proxy.pid)
        with connect(ears.proxy.address) as client:
            client.sendall(start)
            try:
                assert client.recv(1) == b""
            except ConnectionResetError:
                pass
            took, of_ours = watch.wall(), watch.of_ours()
            in_the_kernel = 0 if start else 1  # defer_accept: a client that says nothing is accepted a second late
            assert 0.8 < took - in_the_kernel and of_ours - in_the_kernel < 1.5, \
                f"{len(start)} bytes: closed after {took:.2f} s, {of_ours:.2f} s of ours, with a deadline of 1 s"
    wait_until(lambda: ears.proxy.status()["closes"]["hello_timeout"] == 4, "four closes, counted")


@case
def a_client_that_leaves_in_its_hello_is_counted_and_no_node_hears_of_it(stage):
    ears = Ears(stage, ROUTES, ("named", "default"), "default")
    for start in (b"", in_records(MESSAGE)[:3], in_records(MESSAGE)[:100]):
        with connect(ears.proxy.address) as client:
            client.sendall(start)
    wait_until(lambda: ears.proxy.status()["closes"]["client_gone_in_hello"] == 3, "three closes, counted")
    assert all(node.connections == 0 for node in ears.nodes.values())


@case
def without_a_route_and_a_default_pool_the_client_gets_the_unrecognized_name_alert(stage):
    ears = Ears(stage, ROUTES, ("named",), None)
    with connect(ears.proxy.address) as client:
        client.sendall(hello(sni="nobody.example.com"))
        alert = client.recv(100)
    assert alert[:1] == b"\x15" and alert[-2:] == b"\x02\x70", f"not a fatal unrecognized_name: {alert!r}"
    wait_until(lambda: ears.proxy.status()["closes"]["unrecognized_name"] == 1, "one close, counted")


@case
def routes_take_exact_names_before_the_longest_wildcard_and_alpn_may_narrow_them(stage):
    routes = [
        {"sni": ["*.example.com"], "pool": "wild"},
        {"sni": ["www.example.com"], "pool": "exact"},
        {"sni": ["*.deep.example.com"], "pool": "deep"},
        {"sni": ["acme.example.com"], "alpn": ["acme-tls/1"], "pool": "acme"},
    ]
    ears = Ears(stage, routes, ("wild", "exact", "deep", "acme", "default"), "default")
    for sni, protocols, pool in [
        ("www.example.com", [], "exact"), ("api.example.com", [], "wild"), ("a.deep.example.com", [], "deep"),
        ("a.b.example.com", [], "default"), ("example.com", [], "default"), ("WWW.EXAMPLE.COM", [], "exact"),
        ("acme.example.com", ["acme-tls/1"], "acme"), ("acme.example.com", ["h2", "acme-tls/1"], "acme"),
        ("acme.example.com", ["h2"], "wild"), ("acme.example.com", [], "wild"),
    ]:
        went = ears.ask([hello(sni=sni, protocols=protocols)])
        assert went == pool, f"{sni} {protocols} went to {went}, wanted {pool}"


@case
def a_listener_that_names_its_balancers_takes_connections_from_them_only(stage):
    node = ScriptedNode(stage, answer_name, name="n1")
    balancer, other = stage.host(), stage.host()
    port = stage.wildcard_port()
    listeners = [{"name": "tls", "default_pool": "web", "accept_proxy_protocol": {"from": [f"{balancer}/32", "2001:db8::/32"]}},
                 {"name": "dual", "default_pool": "web", "bind": f"[::]:{port}", "accept_proxy_protocol": {"from": balancer}}]
    hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [node.as_node()]}], listeners=listeners)
    dual = f"{stage.host()}:{port}"

    def ask(source, first, address=hudsucker.address):
        """What comes back; "" when the connection was closed without a word."""
        try:
            with connect(address, source_address=(source, 0)) as client:
                client.sendall(first)
                return read_to_end(client).decode(), f"{source}:{client.getsockname()[1]}"
        except (ConnectionResetError, BrokenPipeError):
            return "", None
    header = b"PROXY TCP4 198.51.100.9 203.0.113.1 4711 443\r\n"
    for address in (hudsucker.address, dual):
        assert ask(balancer, header + b"who?", address)[0] == "n1"
        assert ask(other, header + b"who?", address)[0] == "", "a stranger's header was believed"
        assert ask(other, hello(), address)[0] == "", "a stranger without a header was served"
    assert ask(balancer, hello())[0] == "", "a balancer that sends no header"
    wait_until(lambda: hudsucker.status()["closes"]["untrusted_peer"] == 4, "four strangers, counted")
    wait_until(lambda: hudsucker.status()["closes"]["proxy_header"] == 1, "the balancer without a header, counted")
    assert node.connections == 2
    lines = wait_until(lambda: (found := [line for line in hudsucker.log().splitlines() if "close=untrusted_peer" in line])[3:] and found,
                       "four lines of strangers")
    assert all(f" client={other}:" in line for line in lines), lines
    assert "198.51.100.9" not in "".join(lines), "it is logged under the name that it claims"
    assert "can claim to be any client" not in hudsucker.log()

    # Who is believed is changed by a reload; so is whether anybody is, with a warning.
    hudsucker.config["listeners"][0]["accept_proxy_protocol"] = {"from": [other]}
    reload_and_wait(hudsucker, "ok")
    assert ask(other, header + b"who?")[0] == "n1" and ask(balancer, header + b"who?")[0] == ""
    hudsucker.config["listeners"][0]["accept_proxy_protocol"] = True
    reload_and_wait(hudsucker, "ok")
    assert ask(other, header + b"who?")[0] == "n1" and ask(balancer, header + b"who?")[0] == "n1"
    assert hudsucker.log().count("can claim to be any client") == 1, "one warning for one listener"


@case
def a_line_of_the_log_can_be_matched_with_the_nodes_own_log_and_with_the_balancer_in_front(stage):
    def tell_who(connection, _node):
        connection.recv(1000)
        connection.sendall("{}:{}".format(*connection.getpeername()).encode())

    def tell_who_and_reset(connection, _node):
        tell_who(connection, _node)
        words_have_arrived.wait(PATIENCE)
        reset(connection)
    words_have_arrived = threading.Event()
    node, resetting = ScriptedNode(stage, tell_who, name="n1"), ScriptedNode(stage, tell_who_and_reset, name="n2")
    at_socket = ScriptedNode(stage, answer_name, name="n3", address=f"unix:{stage.path('n3.sock')}")
    names = {"plain.example.com": node, "reset.example.com": resetting, "socket.example.com": at_socket}
    routes = [{"sni": sni, "pool": n.node_name} for sni, n in names.items()]
    hudsucker = Hudsucker(stage, [{"name": n.node_name, "health_check": False, "nodes": [n.as_node()]} for n in names.values()],
                          listeners=[{"name": "tls", "routes": routes, "accept_proxy_protocol": {"from": "127.0.0.0/8"}}])
    seen = {}
    for sni in names:
        with connect(hudsucker.address) as client:
            client.sendall(b"PROXY TCP4 198.51.100.9 203.0.113.1 4711 443\r\n" + hello(sni=sni))
            seen[sni] = (client.recv(100).decode(), "{}:{}".format(*client.getsockname()))
            if sni == "reset.example.com":
                words_have_arrived.set()
            with contextlib.suppress(ConnectionResetError):
                client.recv(100)
    lines = hudsucker.connection_lines(3)
    fields = {f["sni"]: f for f in (dict(word.split("=", 1) for word in line.split()) for line in lines)}
    for sni, (node_saw, balancer) in seen.items():
        line = fields[sni]
        assert line["client"] == "198.51.100.9:4711" and line["balancer"] == balancer, line
        assert line["node_address"] == names[sni].address, line
        assert line.get("local_address") == (None if names[sni] is at_socket else node_saw), f"the node saw {node_saw}: {line}"
    assert fields["reset.example.com"]["close"] == "node_reset", fields
    assert len({f["id"] for f in fields.values()}) == 3 and all(len(f["id"]) == 16 for f in fields.values()), fields


@case
def a_client_that_waits_in_its_hello_while_a_reload_names_the_balancers_is_judged_by_the_new_file(stage):
    node = ScriptedNode(stage, answer_name, name="n1")
    hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [node.as_node()]}],
                          listeners=[{"name": "tls", "default_pool": "web", "accept_proxy_protocol": True}])
    with connect(hudsucker.address) as client:
        client.sendall(b"PROXY ")
        wait_until(lambda: sum(w["in_hello"] for w in hudsucker.status()["workers"]) == 1, "the client being read")
        hudsucker.config["listeners"][0]["accept_proxy_protocol"] = {"from": "192.0.2.0/24"}
        reload_and_wait(hudsucker, "ok")
        try:
            client.sendall(b"TCP4 198.51.100.9 203.0.113.1 4711 443\r\nwho?")
            assert read_to_end(client) == b""
        except ConnectionResetError:
            pass
    wait_until(lambda: hudsucker.status()["closes"]["untrusted_peer"] == 1, "its close")


@case
def what_a_hello_offers_is_counted_and_what_it_may_have_made_up_is_not(stage):
    versions = lambda *listed: extension(SUPPORTED_VERSIONS, bytes([2 * len(listed)]) + b"".join(struct.pack("!H", v) for v in listed))
    session = os.urandom(32)
    rows = [("nothing", hello(tls13=False), "none"),
            ("a session id of TLS 1.2 that nobody knows", hello(tls13=False, session_id=session), "session_id"),
            ("and a ticket extension that is empty", hello(tls13=False, session_id=session, ticket=b""), "session_id"),
            ("a ticket, and the id that goes with it", hello(tls13=False, session_id=session, ticket=os.urandom(160)), "ticket"),
            ("TLS 1.3 in middlebox compatibility mode", hello(session_id=session), "none"),
            ("TLS 1.3 without it", hello(), "none"),
            ("TLS 1.3 alone", hello(tls13=False, session_id=session, extra=versions(0x0304)), "none"),
            ("TLS 1.2 as Go says it", hello(tls13=False, session_id=session, extra=versions(0x0303)), "none"),
            ("a PSK", hello(session_id=session, psk=[os.urandom(120)]), "psk")]
    ears = Ears(stage, [], ["named"], "named")
    for number, (name, message, offered) in enumerate(rows, 1):
        before = ears.proxy.pool("named")["offered"]
        assert ears.ask([message]) == "named", name
        line = ears.proxy.connection_lines(number)[-1]
        assert f" offered={offered}" in line, (name, line)
        wait_until(lambda: ears.proxy.pool("named")["offered"] - before == (offered != "none"), f"{name}: its count")


if __name__ == "__main__":
    main()
