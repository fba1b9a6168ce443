#!/usr/bin/env python3
"""The table of TLS servers: for each server and mode, three nodes of it, an agent on each, and clients that come back.

Writes build/test-logs/servers.md; with HUD_WRITE_TABLE=1 also tests/servers.md, which is kept in the repository.
"""
import os
import shutil
import time

from harness import ROOT, Agent, Hudsucker, make_key, tls_client
from runner import Skip, case, main
from servers.nginx import EXACT_MODES, Nginx
from servers.nginx import MODES as NGINX_MODES
from servers.others import Apache, Caddy, GnutlsServer, HaproxyServer, JavaServer, OpensslServer, version_of

MODE_NAMES = {"tls12-ticket": "TLS 1.2 tickets", "tls12-id": "TLS 1.2 session ids", "tls13-ticket": "TLS 1.3 tickets",
              "tls13-stateful": "TLS 1.3 stateful"}
NODES, CLIENTS, ROUNDS = 3, 60, 3


class NginxServer(Nginx):
    LABEL = "nginx"
    MODES = {mode: "syslog" if mode in EXACT_MODES else None for mode in NGINX_MODES}

    def __init__(self, stage, name, mode, feed=None):
        super().__init__(stage, name, syslog=feed, **NGINX_MODES[mode])

    @staticmethod
    def version():
        return version_of(shutil.which("nginx") or "/usr/sbin/nginx", "-v")


_rows = []


def write_table():
    lines = ["# TLS servers that Hudsucker was tried with", "",
             f"Three nodes of one kind, an agent on each, {CLIENTS} clients that come back {ROUNDS} times; counted by the clients.",
             "Written by `HUD_WRITE_TABLE=1 tests/e2e/servers_test.py`; the packages come from `deploy/install-packages demo peers`.", "",
             "| server | version | mode | feed | offered | resumed |", "|---|---|---|---|---|---|"]
    for row in _rows:
        lines.append("| {label} | {version} | {mode} | {feed} | {offered} | {resumed} ({share:.1f} %) |".format(**row))
    text = "\n".join(lines) + "\n"
    places = [ROOT / "build/test-logs/servers.md"]
    if os.environ.get("HUD_WRITE_TABLE"):
        places.append(ROOT / "tests/servers.md")
    for path in places:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def row(stage, server, mode):
    """One row of the table. At least 99 % of what clients offered must have been accepted."""
    feed_kind = server.MODES[mode]
    names = [f"n{i + 1}" for i in range(NODES)]
    keys = {n: make_key(stage, n) for n in names}
    hudsucker = Hudsucker(stage, [{"name": "web"}], keys=[line for _, line in keys.values()])
    for n in names:
        # The server first: only then is its address known (gnutls-serv takes no address). It logs to a socket that its agent
        # opens a moment later.
        feed = str(stage.path(f"{n}.feed")) if feed_kind else None
        node = server(stage, n, mode, feed)
        more = {"feeds": {"syslog": feed}} if feed else {}
        Agent(stage, n, node.address, [hudsucker.beacon_address], keys[n][0], **more)
    hudsucker.wait_states({n: "up" for n in names})
    wait_ms = 400 if feed_kind else 0
    # Once around for the server's own warming up (Java compiles while it serves), then what counts.
    tls_client(hudsucker.address, mode, clients=6, rounds=1, wait_ms=wait_ms, threads=2)
    time.sleep(0.2)
    rows = hudsucker.pool()["nodes"]
    before = sum(r["offered"] for r in rows), sum(r["resumed"] for r in rows)
    counted = tls_client(hudsucker.address, mode, clients=CLIENTS, rounds=ROUNDS, wait_ms=wait_ms, threads=2)
    rows = hudsucker.pool()["nodes"]
    after = sum(r["offered"] for r in rows), sum(r["resumed"] for r in rows)
    share = 100 * counted["resumed"] / max(1, counted["offered"])
    feed_name = {None: "self-probe", "syslog": "access log by syslog"}[feed_kind]
    _rows.append({"label": server.LABEL, "version": server.version(), "mode": MODE_NAMES[mode], "feed": feed_name,
                  "offered": counted["offered"], "resumed": counted["resumed"], "share": share})
    write_table()
    stage.note(f"{server.LABEL} {server.version()}, {MODE_NAMES[mode]}, {feed_name}: {counted['resumed']} of {counted['offered']}")
    assert counted["errors"] == 0, counted["error_texts"]
    assert counted["offered"] >= CLIENTS, f"only {counted['offered']} offered: {counted}"
    assert share >= 99, f"{counted['resumed']} of {counted['offered']}: {counted}"
    seen = (after[0] - before[0], after[1] - before[1])
    assert seen == (counted["offered"], counted["resumed"]), f"/status says {seen}, the clients say {counted}"


PROGRAM = {"openssl": OpensslServer, "nginx": NginxServer, "apache2": Apache, "haproxy": HaproxyServer, "gnutls-serv": GnutlsServer,
           "java": JavaServer, "caddy": Caddy}


def _add(program, server, mode):
    def one(stage):
        if not (shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")):
            raise Skip(f"{program} is not installed here")
        row(stage, server, mode)
    one.__name__ = f"{server.LABEL} resumes {MODE_NAMES[mode]}".replace(" ", "_")
    case(one, seconds=90)


for _program, _server in PROGRAM.items():
    for _mode in _server.MODES:
        _add(_program, _server, _mode)


if __name__ == "__main__":
    main()
