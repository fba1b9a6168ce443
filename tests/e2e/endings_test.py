#!/usr/bin/env python3
"""Ends: what came before a reset is delivered and then the reset, an end of stream stays one, and both are noticed at once.

tools/endings_peer.cc plays each connection through the proxy and directly, and says where the two differ in kind, bytes or time.
    tests/e2e/endings_test.py --endings 20000      the long run: so many in each mode
HUD_ENDINGS_SEED=N plays a seed again; the seed of each run is printed.
"""
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import threading
import time

from harness import TOOLS, Hudsucker, Process, reduced, require_program, wait_until
from runner import case, main
from servers.nginx import Nginx

MODES = ("auto", "splice", "copy", "zerocopy")
SEED = int(os.environ.get("HUD_ENDINGS_SEED") or random.SystemRandom().randrange(1, 1 << 31))
ENDINGS = reduced(1500, 200)
if "--endings" in sys.argv:  # not an option of every suite
    at = sys.argv.index("--endings")
    ENDINGS = int(sys.argv[at + 1])
    del sys.argv[at:at + 2]

# Of all endings, that each kind and side must have at the least: else the run says little.
LEAST_SHARE = {"reset": 0.08, "close with unread bytes": 0.05, "half-close": 0.04, "full close": 0.04, "reset after FIN": 0.03,
               "reset after the peer's FIN": 0.015}


class Bench:
    """The proxy with two workers before a node on TCP and one on a unix socket, both of which endings_peer serves."""

    def __init__(self, stage, mode):
        self.stage, self.mode = stage, mode
        self.node, self.unix_node = stage.address(), str(stage.path(f"{mode}.sock"))
        listeners = [{"name": "tcp", "bind": stage.address(), "default_pool": "tcp"},
                     {"name": "unix", "bind": stage.address(), "default_pool": "unix"}]
        self.binds = [listener["bind"] for listener in listeners]
        pools = [{"name": "tcp", "health_check": False, "nodes": [{"name": "t", "address": self.node}]},
                 {"name": "unix", "health_check": False, "nodes": [{"name": "u", "address": f"unix:{self.unix_node}"}]}]
        self.hudsucker = Hudsucker(stage, pools, listeners=listeners, relay={"mode": mode}, workers=2, name=f"hudsucker-{mode}")

    def play(self, *options, endings, stops=False):
        """Runs the tool, with the proxy stopped now and then if so; returns what it reported."""
        arguments = [TOOLS / "endings_peer", "--proxy", self.binds[0], "--node", self.node, "--unix-proxy", self.binds[1],
                     "--unix-node", self.unix_node, "--seed", SEED, "--endings", endings, *options]
        peer = subprocess.Popen([str(a) for a in arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        stopper = random.Random(SEED)
        try:
            said, complained = None, ""
            while said is None:
                try:
                    said, complained = peer.communicate(timeout=stopper.uniform(0.3, 1.0) if stops else None)
                except subprocess.TimeoutExpired:
                    self.hudsucker.signal(signal.SIGSTOP)
                    time.sleep(stopper.uniform(0.02, 0.3))
                    self.hudsucker.signal(signal.SIGCONT)
        finally:
            peer.kill()
            peer.wait()
        assert said, f"{self.mode}: endings_peer ended with {peer.returncode}: {complained[-500:]}"
        return json.loads(said)

    def close(self):
        """The next mode's run shall have the machine for itself."""
        wait_until(lambda: sum(w["active"] for w in self.hudsucker.status()["workers"]) == 0, f"{self.mode}: no connection left")
        assert self.hudsucker.stop() == 0
        self.hudsucker.expected = True


def judge(report, mode, what):
    wrong = sum(report["violations"].values())
    assert report["reference_deviations"] <= report["endings"] // 200, \
        f"{mode}: the reference itself is not as it must be: {report['reference_example']}"
    assert wrong == 0, (f"{mode}: {wrong} of {report['endings']} endings ({what}, seed {report['seed']}) are not as without the proxy: "
                        f"{report['violations']}\n" + "\n".join(report["examples"]))


def endings_of(stage, mode):
    bench = Bench(stage, mode)
    report = bench.play(endings=ENDINGS, stops=True)
    kinds = ", ".join(f"{name} {n['client']}+{n['node']}" for name, n in report["kinds"].items())
    stage.note(f"seed {SEED}: {report['endings']} endings in {report['seconds']} s (by client + by node): {kinds}; {report['unix']} to a "
               f"unix socket; {report['exact']} with every byte demanded; seen: {report['seen']}; late by p99 {report['late_ms']['p99']}, "
               f"at most {report['late_ms']['max']} ms, direct {report['direct_late_ms']['p99']} and {report['direct_late_ms']['max']}")
    judge(report, mode, "at random")
    for name, share in LEAST_SHARE.items():
        counts = report["kinds"].get(name, {"client": 0, "node": 0})
        # Of a unix node some kinds become others; and a small run is more uneven.
        least = int(ENDINGS * share * 0.5)
        assert min(counts.values()) >= least, f"{mode}: of '{name}' there were only {counts}, at least {least} by each side are wanted"
    bench.close()


@case(seconds=600)
def endings_at_random_bytes_are_as_without_the_proxy_in_mode_auto(stage):
    endings_of(stage, "auto")


@case(seconds=600, reduced=False)
def endings_at_random_bytes_are_as_without_the_proxy_in_mode_splice(stage):
    endings_of(stage, "splice")


@case(seconds=600, reduced=False)
def endings_at_random_bytes_are_as_without_the_proxy_in_mode_copy(stage):
    endings_of(stage, "copy")


@case(seconds=600)
def endings_at_random_bytes_are_as_without_the_proxy_in_mode_zerocopy(stage):
    endings_of(stage, "zerocopy")


def in_every_mode(stage, name, endings):
    """All of them are played before any is judged: it is worth knowing which modes fail."""
    reports = []
    for mode in MODES:
        bench = Bench(stage, mode)
        reports.append((mode, bench.play("--case", name, "--at-once", 16, endings=endings)))
        bench.close()
    wrong = []
    for mode, report in reports:
        try:
            judge(report, mode, name)
        except AssertionError as error:
            wrong.append(str(error))
    assert not wrong, "\n".join(wrong)


@case
def the_end_of_an_answer_of_33_to_65_kb_is_noticed_at_once_when_a_reset_follows_it_at_once(stage):
    # From either side; and a unix socket's ordinary close.
    in_every_mode(stage, "long-answer-then-reset", reduced(240, 48))


@case
def twenty_kilobytes_before_a_reset_are_delivered_and_then_the_reset(stage):
    in_every_mode(stage, "answer-then-reset", reduced(240, 48))


@case
def a_nodes_last_words_reach_a_client_that_is_still_sending(stage):
    in_every_mode(stage, "last-words", reduced(240, 48))


@case
def a_reset_beside_bulk_and_small_messages_the_other_way_stays_a_reset(stage):
    in_every_mode(stage, "reset-beside-bulk", reduced(240, 48))


# ---- A real server that refuses what it has not read -----------------------------------------------------------------------

PAGE_BYTES = (20_000, 60_000, 100_000, 150_000)
REFUSALS = reduced(12, 4)


def refusing_nginx(stage):
    """Answers a POST with a page of so many bytes, reads nothing of it, and closes at once."""
    places = "".join(f"location = /{size} {{ deny all; error_page 403 /page{size}; }} "
                     f"location = /page{size} {{ internal; root {stage.path('pages')}; }} " for size in PAGE_BYTES)
    pages = stage.path("pages")
    pages.mkdir()
    for size in PAGE_BYTES:
        (pages / f"page{size}").write_bytes(b"no." * (size // 3))
    # lingering_close would read what the client goes on sending, for seconds; many servers have none.
    return Nginx(stage, "refusing", more="lingering_close off; keepalive_timeout 0; client_max_body_size 0; " + places)


def post(address, size, body, curl):
    """Status as curl learnt it ('000': none), and whether it met an end within 5 s."""
    done = subprocess.run([curl, "--silent", "--insecure", "--http1.1", "--max-time", "5", "--header", "Expect:", "--data-binary", f"@{body}",
                           "--output", "/dev/null", "--write-out", "%{http_code}", f"https://{address}/{size}"], capture_output=True, text=True)
    return done.stdout[-3:], done.returncode != 28


@case
def a_page_that_refuses_a_post_of_3_mb_arrives_and_nobody_waits_for_the_end(stage):
    node, curl = refusing_nginx(stage), require_program("curl")
    body = stage.write("body", b"p" * 3_000_000)
    for mode in MODES:
        hudsucker = Hudsucker(stage, [{"name": "web", "health_check": False, "nodes": [{"name": "n1", "address": node.address}]}],
                              relay={"mode": mode}, name=f"hudsucker-{mode}")
        learnt, ended, direct = 0, 0, 0
        for i in range(REFUSALS):
            size = PAGE_BYTES[i % len(PAGE_BYTES)]
            status, end = post(hudsucker.address, size, body, curl)
            learnt, ended = learnt + (status == "403"), ended + end
            direct += post(node.address, size, body, curl)[0] == "403"
        stage.note(f"{mode}: {learnt} of {REFUSALS} learnt the status, {direct} without the proxy; {ended} met the end within 5 s")
        assert ended == REFUSALS, f"{mode}: {REFUSALS - ended} of {REFUSALS} posts met no end within 5 s"
        assert learnt >= direct, f"{mode}: {learnt} of {REFUSALS} learnt that they were refused, {direct} without the proxy"
        hudsucker.stop()
        hudsucker.expected = True


if __name__ == "__main__":
    main()
