#!/usr/bin/env python3
"""hud-agentd against real TLS servers: what it learns of them, and what it tells a proxy."""
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import threading
import time

from harness import PROGRAMS, Agent, Process, make_key, split_address, to_yaml, wait_until
from listening_proxy import ListeningProxy
from runner import case, main
from servers.nginx import Nginx


# What keygen wants to know of a key.
SCOPE = ("--pools", "web", "--addresses", "10.0.0.11")


class SServer(Process):
    """`openssl s_server`: new random ticket keys at each start."""

    def __init__(self, stage, name, *options, address=None):
        self.address = address or stage.address()
        certificate, key = stage.certificate()
        super().__init__(stage, name, ["openssl", "s_server", "-quiet", "-accept", self.address, "-cert", certificate, "-key",
                                       key, *options])
        wait_until(lambda: handshake(self.address) is not None or "-Verify" in options, f"{name} answering")


def handshake(address, version=None, keep=None):
    """One handshake; the session that Python's client got, or None."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version:
        context.minimum_version = context.maximum_version = version
    try:
        with socket.create_connection(split_address(address), 5) as plain:
            with context.wrap_socket(plain, server_hostname="www.example.com", session=keep) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                while client.recv(4096):
                    pass
                return client.session
    except OSError:
        return None


def refuses_without_a_name(address):
    """Does it answer a client that names nobody with an alert?"""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(split_address(address), 5) as plain, context.wrap_socket(plain):
            return False
    except ssl.SSLError as error:
        return "ALERT" in str(error) or "UNRECOGNIZED" in str(error)


def ticket_name(address, version):
    """The first 16 bytes of a ticket, as `openssl s_client` shows it."""
    client = subprocess.Popen(["openssl", "s_client", "-connect", address, version, "-servername", "www.example.com"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    # It leaves at the end of its input, perhaps before a TLS 1.3 ticket has come: so its input stays open until then.
    impatience = threading.Timer(20, client.kill)
    impatience.start()
    try:
        ticket = next((line for line in client.stdout if " 0000 - " in line), None)
    finally:
        impatience.cancel()
        client.kill()
        client.communicate()
    assert ticket, "s_client shows no ticket"
    return bytes.fromhex(re.sub("[ -]", "", ticket.split(" 0000 - ")[1][:47]))


class Watched:
    """A node's agent, and the proxy that listens to it."""

    def __init__(self, stage, address, node="n1", key=None, **options):
        self.name = node
        self.key = key or make_key(stage, node)[0]
        self.proxy = ListeningProxy(stage, self.key)
        self.agent = Agent(stage, node, address, [self.proxy.address], self.key, **options)

    def stop(self, how=signal.SIGTERM):
        self.agent.expected, self.agent.stop_signal = True, how
        assert self.agent.stop() == 0, "the agent did not end well"

    def prefixes(self):
        return self.proxy.prefixes(self.name)

    def report(self):
        return self.proxy.report(self.name) or {}

    def wait_said(self, words):
        wait_until(lambda: words in self.agent.log(), f"'{words}' in the agent's log")

    def wait_prefixes(self, expected):
        wait_until(lambda: sorted(self.prefixes()) == sorted(expected),
                   f"the prefixes {[p.hex() for p in expected]}")


@case
def the_ticket_key_name_of_nginx_is_learnt_in_tls_1_2_and_1_3(stage):
    for protocols, version in (("TLSv1.2", "TLS 1.2"), ("TLSv1.3", "TLS 1.3"), ("TLSv1.2 TLSv1.3", "TLS 1.2")):
        for size in (48, 80):
            key = os.urandom(size)
            name = f"n{size}{len(protocols)}{protocols[-1]}"
            node = Nginx(stage, name, protocols=protocols, ticket_keys=[stage.write(f"{name}.ticket", key, 0o600)])
            watched = Watched(stage, node.address, name)
            watched.wait_prefixes([key[:16]])
            watched.wait_said(f"{version} www.example.com: tickets begin with a 16-byte key name")


@case
def random_ticket_keys_are_learnt_and_are_the_same_in_both_versions(stage):
    server = SServer(stage, "server")
    watched = Watched(stage, server.address)
    watched.wait_prefixes([ticket_name(server.address, "-tls1_2")])
    assert ticket_name(server.address, "-tls1_3") == watched.prefixes()[0]


@case
def a_server_without_tickets_is_known_to_be_stateful(stage):
    node = Nginx(stage, "node", tickets=False)
    watched = Watched(stage, node.address)
    for version in ("TLS 1.2", "TLS 1.3"):
        watched.wait_said(f"{version} www.example.com: stateful: every session has an id of its own, so an exact feed is needed")
    wait_until(watched.report, "a report")
    assert watched.prefixes() == []


@case
def a_server_that_also_resumes_session_ids_needs_a_feed_for_clients_without_tickets(stage):
    needed = "TLS 1.2 www.example.com: tickets begin with a 16-byte key name"
    beside = "clients without ticket support get session ids from a cache"
    servers = {"cached": SServer(stage, "cached"), "nginx": Nginx(stage, "nginx", workers=2),
               # nginx's "none" hands out ids, and resumes none of them; "off" hands out none.
               "uncached": SServer(stage, "uncached", "-no_cache"), "none": Nginx(stage, "none", cache="none"),
               "off": Nginx(stage, "off", cache="off")}
    watched = {name: Watched(stage, server.address, name) for name, server in servers.items()}
    for name in servers:
        watched[name].wait_said(needed)
        line = next(line for line in watched[name].agent.log().splitlines() if needed in line)
        if name in ("cached", "nginx"):
            assert beside in line and "so an exact feed is needed" in line and "nothing more" not in line, line
            watched[name].wait_said(f"log_format hud hud_session=$hud_session; access_log syslog:server=unix:/run/hud-agentd/{name}.syslog")
            watched[name].wait_said(f"feeds: {{node: {name}, syslog: /run/hud-agentd/{name}.syslog, group: www-data}}")
        else:
            assert beside not in line and "nothing more to set up" in line and "exact feed" not in watched[name].agent.log(), line
    fed = Watched(stage, servers["nginx"].address, "fed", feeds={"syslog": str(stage.path("fed.sock"))})
    fed.wait_said(beside + ", which the configured feed has to bring")
    assert "is needed" not in fed.agent.log()


@case
def a_reload_that_changes_the_key_is_noticed_and_the_old_name_stays(stage):
    node = Nginx(stage, "node")
    # Not before an hour would it look at the tickets again by itself.
    watched = Watched(stage, node.address, probe={"every": "1h"})
    wait_until(lambda: len(watched.prefixes()) == 1, "the first name")
    first = watched.prefixes()[0]
    time.sleep(5.5)  # it looks at the tickets at most every 5 s
    node.signal(signal.SIGHUP)
    wait_until(lambda: len(watched.prefixes()) == 2, "the second name")
    assert watched.prefixes()[1] == first, "the new one comes first"
    wait_until(lambda: "exited with code 0" in node.log(), "the end of the worker with the old key")
    assert watched.prefixes()[0] == ticket_name(node.address, "-tls1_2")


@case
def several_processes_on_one_port_have_several_names(stage):
    first = Nginx(stage, "first", listen_options="reuseport")
    Nginx(stage, "second", listen_options="reuseport", address=first.address)
    watched = Watched(stage, first.address)
    wait_until(lambda: len(watched.prefixes()) == 2, "two names")
    seen = {ticket_name(first.address, "-tls1_2") for _ in range(12)}
    assert seen <= set(watched.prefixes())


@case
def a_refusal_for_want_of_a_client_certificate_is_explained_and_mended_by_one(stage):
    certificate, key = stage.certificate()
    for version in ("-tls1_2", "-tls1_3"):
        name = "n" + version[-1]
        server = SServer(stage, f"server{version}", version, "-Verify", "1")
        watched = Watched(stage, server.address, name)
        watched.wait_said("the server wants a client certificate")
        watched.wait_said("set probe.client_certificate and probe.client_key")
        wait_until(watched.report, "a report: a server that refuses the probe does serve")
        assert watched.report()["ready"] and watched.prefixes() == []
        again = Watched(stage, server.address, name + "c",
                        probe={"client_certificate": str(certificate), "client_key": str(key)})
        wait_until(lambda: len(again.prefixes()) == 1, "a name, with a certificate")


@case
def a_server_that_refuses_the_probes_name_is_alive_and_the_log_names_probe_sni(stage):
    # Reloaded so that it serves known names only: `more` closes the one server and opens another for what has no name.
    node = Nginx(stage, "node")
    unnamed = Watched(stage, node.address, "unnamed", sni=[], probe={"ready_every": "200ms"})
    named = Watched(stage, node.address, "named", probe={"ready_every": "200ms"})
    for watched in (unnamed, named):
        wait_until(lambda w=watched: w.report().get("ready") and w.prefixes(), "ready, and a name")
    before = unnamed.prefixes()
    config = stage.path("node.conf").read_text().replace("ssl backlog=4096;", "ssl backlog=4096; server_name www.example.com;")
    config = config.rstrip().removesuffix("}") + f"  server {{ listen {node.address} ssl default_server; ssl_reject_handshake on; }}\n}}\n"
    stage.write("node.conf", config)
    node.signal(signal.SIGHUP)
    wait_until(lambda: handshake(node.address) is not None and refuses_without_a_name(node.address), "the reload")
    unnamed.wait_said("set probe.sni to a name that it serves")
    time.sleep(1)  # five more looks
    assert unnamed.report()["ready"], "taken out by its own agent while it serves"
    assert "not ready" not in unnamed.agent.log() and set(before) <= set(unnamed.prefixes())
    assert named.report()["ready"] and "probe.sni" not in named.agent.log()
    # And one that never met anything but alerts is announced, too.
    late = Watched(stage, node.address, "late", sni=[])
    wait_until(lambda: late.report().get("ready"), "a report")


@case
def a_server_that_wants_a_proxy_header_gets_one(stage):
    key = os.urandom(80)
    node = Nginx(stage, "node", listen_options="proxy_protocol", ticket_keys=[stage.write("ticket", key, 0o600)])
    without = Watched(stage, node.address, "without")
    without.wait_said("set probe.proxy_protocol")
    assert without.report() == {}, "a node whose probe fails is not announced"
    for version in ("v1", "v2"):
        Watched(stage, node.address, version, probe={"proxy_protocol": version}).wait_prefixes([key[:16]])


@case
def a_server_that_goes_is_not_ready_and_comes_back_with_its_new_name(stage):
    server = SServer(stage, "server")
    watched = Watched(stage, server.address, probe={"every": "1h", "ready_every": "200ms"})
    wait_until(lambda: watched.report().get("ready") and watched.prefixes(), "ready, and a name")
    old = watched.prefixes()
    server.kill()
    wait_until(lambda: not watched.report()["ready"], "not ready")
    watched.wait_said("not ready: cannot connect: Connection refused")
    later = SServer(stage, "server-again", address=server.address)
    wait_until(lambda: watched.report()["ready"], "ready again")
    watched.wait_prefixes([ticket_name(later.address, "-tls1_2"), *old])


@case
def a_server_that_hangs_is_not_ready_and_does_not_delay_beacons(stage):
    server = SServer(stage, "server")
    watched = Watched(stage, server.address, probe={"ready_every": "200ms", "timeout": "500ms"})
    wait_until(lambda: watched.report().get("ready"), "ready")
    server.signal(signal.SIGSTOP)
    before, started = watched.proxy.count("n1", "STILL_HERE"), time.monotonic()
    wait_until(lambda: not watched.report()["ready"], "not ready")
    time.sleep(2)
    heard, took = watched.proxy.count("n1", "STILL_HERE") - before, time.monotonic() - started
    assert heard >= took / 0.2 / 2, f"{heard} beacons in {took:.1f} s, of one each 200 ms"
    server.signal(signal.SIGCONT)
    wait_until(lambda: watched.report()["ready"], "ready again")


@case
def a_ticket_key_file_is_watched_through_renames_and_only_names_leave(stage):
    node = Nginx(stage, "node", tickets=False)
    keys = [os.urandom(80) for _ in range(3)]
    path = stage.write("ticket", keys[0], 0o600)
    watched = Watched(stage, node.address, ticket_key_files=[str(path)])
    watched.wait_prefixes([keys[0][:16]])
    stage.write("ticket.new", keys[1], 0o600).rename(path)
    watched.wait_prefixes([keys[1][:16], keys[0][:16]])
    stage.write("ticket", keys[2][:30], 0o600)
    watched.wait_said("has 30 bytes")
    path.unlink()
    watched.wait_said("cannot be opened")
    assert sorted(watched.prefixes()) == sorted([keys[1][:16], keys[0][:16]]), "a bad file changed something"
    stage.write("ticket", keys[2], 0o600)
    watched.wait_prefixes([key[:16] for key in keys])
    assert all(len(prefix) == 16 for prefix in watched.prefixes())


@case
def session_ids_arrive_through_the_syslog_feed(stage):
    # Three ways to write the line; the reading socket must be there before nginx is.
    for name, log_format in (("field", "hud_session=$ssl_session_id"), ("plain", "$ssl_session_id"),
                             ("more", "$remote_addr hud_session=$ssl_session_id $ssl_session_reused")):
        path = stage.path(f"{name}.sock")
        address = stage.address()
        watched = Watched(stage, address, name, feeds={"syslog": str(path)})
        # It is made with less, for the time until it has its group.
        wait_until(lambda: path.exists() and stat.S_IMODE(path.stat().st_mode) == 0o660, "the feed's socket, with its mode")
        Nginx(stage, f"node-{name}", tickets=False, syslog=path, log_format=log_format, address=address)
        session = handshake(address, ssl.TLSVersion.TLSv1_2)
        wait_until(lambda: session.id in watched.proxy.tokens_of(name), "the session's id at the proxy")
        watched.stop()
        assert not path.exists(), "the socket stayed behind"


@case
def applications_add_and_remove_tokens(stage):
    server = SServer(stage, "server")
    path = stage.path("tokens.sock")
    watched = Watched(stage, server.address, feeds={"tokens": str(path)})
    wait_until(path.exists, "the feed's socket")
    tokens = [os.urandom(32) for _ in range(5000)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as writer:
        writer.connect(str(path))
        for i in range(0, len(tokens), 100):
            writer.send("\n".join(f"add {token.hex()} 10m" for token in tokens[i:i + 100]).encode())
        writer.send(b"nonsense\nadd zz\nadd " + b"00" * 33)
        writer.send(b"add " + b"00" * 20000)  # longer than a datagram may be
        writer.send(f"remove {tokens[0].hex()}".encode())
    wait_until(lambda: watched.proxy.tokens_of("n1") == set(tokens[1:]), "the tokens at the proxy")


@case
def a_feed_says_what_it_brought_and_that_nothing_comes_though_clients_do(stage):
    stage.folder.chmod(0o755)
    barred = stage.path("barred")
    barred.mkdir()
    barred.chmod(0o700)
    server = Nginx(stage, "server", tickets=False)  # which logs nowhere
    path = barred / "feed.sock"
    watched = Watched(stage, server.address, feeds={"syslog": str(path), "tokens": str(stage.path("tokens.sock")), "group": "daemon"})
    watched.wait_said(f"the folder {barred} lets none of the socket's group pass")
    watched.wait_said('group daemon"')
    held = [socket.create_connection(split_address(server.address)) for _ in range(3)]
    path.unlink()
    watched.wait_said("the feed's socket was removed, and is made anew")
    assert path.is_socket() and path.group() == "daemon"
    watched.wait_said("no line has come through the feed although the server had clients")
    assert "feeds.group is theirs, for nginx mostly www-data" in watched.agent.log()
    for connection in held:
        connection.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as writer:
        writer.connect(str(path))
        for i in range(7):
            writer.send(f"<190>nginx: hud_session={i:064x}".encode())
        writer.send(b"<190>nginx: hud_session=-")
    wait_until(lambda: len(watched.proxy.tokens_of("n1")) == 7, "seven ids at the proxy")
    watched.agent.signal(signal.SIGHUP)
    watched.wait_said("the feed brought 8 lines: 7 ids, 0 taken back, 1 without a session, 0 not in the format")
    log = watched.agent.log()
    assert "feed is needed" not in log and log.count("no line has come") == 1, log


@case
def a_stale_socket_is_replaced_and_anything_else_is_not(stage):
    server = SServer(stage, "server")
    path = stage.path("feed.sock")
    path.write_text("precious")
    refused = Watched(stage, server.address, "refused", feeds={"tokens": str(path)})
    refused.agent.expected = True
    assert refused.agent.popen.wait(10) == 1
    assert "is not a socket" in refused.agent.log() and path.read_text() == "precious"
    path.unlink()
    first = Watched(stage, server.address, "first", feeds={"tokens": str(path)})
    wait_until(path.exists, "the socket")
    second = Watched(stage, server.address, "second", feeds={"tokens": str(path)})
    second.agent.expected = True
    assert second.agent.popen.wait(10) == 1 and "is in use by another process" in second.agent.log()
    first.agent.kill()
    assert path.is_socket()
    Watched(stage, server.address, "third", feeds={"tokens": str(path)}).wait_said("ready")


@case
def sigusr2_says_dying_three_times_and_sigterm_says_nothing(stage):
    server = SServer(stage, "server")
    dying = Watched(stage, server.address, "dying")
    kept = Watched(stage, server.address, "kept")
    for watched in (dying, kept):
        wait_until(lambda w=watched: w.report().get("ready"), "ready")
    dying.stop(signal.SIGUSR2)
    kept.stop()
    wait_until(lambda: dying.proxy.count("dying", "DYING") == 3, "three DYINGs")
    assert kept.proxy.count("kept", "DYING") == 0


@case
def prefixes_of_an_old_key_outlive_a_restart_of_the_agent(stage):
    node = Nginx(stage, "node")
    state = stage.path("state")
    state.mkdir()
    watched = Watched(stage, node.address, state_dir=str(state))
    wait_until(lambda: len(watched.prefixes()) == 1, "the first name")
    old = watched.prefixes()
    kept = state / "n1.prefixes"
    wait_until(kept.exists, "the file")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and old[0].hex() in kept.read_text()
    watched.stop()
    node.signal(signal.SIGHUP)  # it draws new keys while nobody looks
    # Once the worker with the old key has ended: until then either of the two may answer.
    wait_until(lambda: "exited with code 0" in node.log(), "the old worker's end")
    new = ticket_name(node.address, "-tls1_2")
    assert new not in old
    again = Watched(stage, node.address, key=watched.key, name="again", state_dir=str(state))
    again.wait_prefixes([new, *old])
    again.stop()
    kept.write_text("nonsense\n")
    last = Watched(stage, node.address, key=watched.key, name="last", state_dir=str(state))
    last.wait_prefixes([new])


@case
def one_agent_serves_several_nodes_and_several_proxies(stage):
    servers = [SServer(stage, f"server{i}") for i in range(2)]
    keys = [make_key(stage, f"n{i}")[0] for i in range(2)]
    proxies = [ListeningProxy(stage, *keys) for _ in range(2)]
    path = stage.write("agent.yaml", to_yaml({
        "node": [{"name": f"n{i}", "address": server.address, "pool": ["web", "api"], "weight": 10 + i, "key": str(keys[i])}
                 for i, server in enumerate(servers)],
        "proxies": [proxy.address for proxy in proxies],
        "probe": [{"node": "n1", "sni": ["www.example.com", "api.example.com"]}],
        "beacon": {"every": "200ms"},
    }))
    Process(stage, "agent", [PROGRAMS / "hud-agentd", "--config", path], fatal=True)
    for proxy in proxies:
        for i, server in enumerate(servers):
            wait_until(lambda p=proxy, i=i: p.prefixes(f"n{i}"), "both nodes at both proxies")
            report = proxy.report(f"n{i}")
            assert report["prefixes"] == [ticket_name(server.address, "-tls1_2")]
            assert (report["address"], report["pools"], report["weight"]) == (server.address, ["web", "api"], 10 + i)


@case
def health_counts_the_connections_to_the_server(stage):
    node = Nginx(stage, "node")
    other = Nginx(stage, "other")
    watched = Watched(stage, node.address)
    wait_until(lambda: watched.report().get("ready"), "ready")
    held = [socket.create_connection(split_address(a)) for a in [node.address] * 7 + [other.address] * 3]
    wait_until(lambda: watched.report()["connections"] in (7, 8), "seven connections, or eight with the probe's own")
    for connection in held:
        connection.close()
    wait_until(lambda: watched.report()["connections"] <= 1, "none")
    assert watched.report()["probe_micros"] > 0


@case
def keygen_never_overwrites_and_open_key_files_are_refused(stage):
    path, line = make_key(stage, "n1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().split() == ["n1", re.search("key=([0-9a-f]{64})", line).group(1)]
    before = path.read_bytes()
    again = subprocess.run([PROGRAMS / "hud-agentd", "keygen", "n1", *SCOPE], cwd=stage.folder, capture_output=True, text=True)
    assert again.returncode != 0 and "never overwritten" in again.stderr and path.read_bytes() == before
    for bad in ("../n1", "", "a b", "-x", "x" * 40):
        refused = subprocess.run([PROGRAMS / "hud-agentd", "keygen", *SCOPE, "--", bad], cwd=stage.folder, capture_output=True, text=True)
        assert refused.returncode != 0 and "cannot name a node" in refused.stderr, (bad, refused)
    scoped = subprocess.run([PROGRAMS / "hud-agentd", "keygen", "n2", "--pools", "web,api", "--addresses", "10.0.0.0/8"],
                            cwd=stage.folder, capture_output=True, text=True, check=True).stdout
    assert "pools=web,api" in scoped and "addresses=10.0.0.0/8" in scoped
    wide = subprocess.run([PROGRAMS / "hud-agentd", "keygen", "n3", "--pools", "*", "--addresses", "*", "--weight", "200"],
                          cwd=stage.folder, capture_output=True, text=True, check=True)
    assert "pools=* addresses=* weight=200" in wide.stdout and wide.stderr.count("warning:") == 2, wide

    def check(key):
        path = stage.write("agent.yaml", to_yaml({"node": {"name": "n1", "address": "127.0.0.1:1", "pool": "web"},
                                                  "proxies": ["127.0.0.1:2"], "key": str(key)}))
        return subprocess.run([PROGRAMS / "hud-agentd", "--check", path], capture_output=True, text=True)
    assert check(path).returncode == 0, check(path)
    for mode in (0o604, 0o620):
        path.chmod(mode)
        assert "run 'chmod 600" in check(path).stderr, oct(mode)
    path.chmod(0o600)
    assert "is the key of node 'n2', not of 'n1'" in check(stage.path("n2.key")).stderr
    assert "hud-agentd keygen" in check(stage.path("none.key")).stderr


@case
def a_bad_configuration_is_told_whole_with_its_lines(stage):
    path = stage.write("agent.yaml", """\
node: {name: n 1, address: "www.example.com:443", pool: web, wieght: 3}
proxies: ["10.0.0.1"]
probe: {every: 60, sni: "*.example.com"}
feeds: {syslog: relative.sock}
""")
    checked = subprocess.run([PROGRAMS / "hud-agentd", "--check", path], capture_output=True, text=True)
    assert checked.returncode != 0
    for line, words in ((1, "cannot name a node"), (1, "wieght"), (1, "no 'key'"), (2, "proxies"), (3, "every"),
                        (3, "a name that a client would send"), (4, "absolute path")):
        assert any(f"agent.yaml:{line}:" in said and words in said for said in checked.stderr.splitlines()), (line, words, checked.stderr)


@case
def a_check_finds_what_a_start_would_meet_at_sockets_groups_and_folders(stage):
    make_key(stage, "n1")
    stage.write("file", "x")
    free = stage.path("free.sock")

    def check(**rest):
        path = stage.write("agent.yaml", to_yaml({"node": {"name": "n1", "address": "127.0.0.1:1", "pool": "web"}, "proxies": ["127.0.0.1:2"],
                                                  "key": str(stage.path("n1.key")), **rest}))
        done = subprocess.run([PROGRAMS / "hud-agentd", "--check", path], capture_output=True, text=True)
        return done.returncode, done.stderr
    assert check(feeds={"syslog": str(free)})[0] == 0
    code, said = check(feeds={"syslog": "/nonexistent/x.sock"})
    assert code == 0 and re.search(r"warning: .*agent\.yaml:\d+: .*make its directory first \(the service's", said), (code, said)
    for feeds, words in (({"tokens": str(stage.path("file"))}, "exists and is not a socket"),
                         ({"tokens": str(stage.path(""))}, "exists and is not a socket"),
                         ({"syslog": str(free), "group": "no-such-group"}, "there is no group 'no-such-group'")):
        code, said = check(feeds=feeds)
        assert code != 0 and re.search(rf"agent\.yaml:\d+: .*{re.escape(words)}", said), (feeds, code, said)
    assert not free.exists(), "a check makes nothing"
    for folder in ("/nonexistent", str(stage.path("file"))):
        code, said = check(state_dir=folder)
        assert code == 0 and re.search(r"warning: .*agent\.yaml:\d+: state_dir: cannot write", said), (folder, code, said)
    code, said = check(user="no-such-user")
    assert code != 0 and re.search(r"agent\.yaml:\d+: user: there is no user", said), said


if __name__ == "__main__":
    main()
