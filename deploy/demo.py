#!/usr/bin/env python3
"""The demo itself; deploy/demo builds everything and starts this. `--help` says what it can do."""
import argparse
import json
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/e2e"))
sys.dont_write_bytecode = True

from harness import TOOLS, Stage, tls_client  # noqa: E402
from scene import EXACT_FEED_WAIT_MS, EXACT_MODES, MODES, Scene  # noqa: E402
from servers.haproxy import HaproxyBalancer  # noqa: E402

MODE_NAMES = {
    "tls12-ticket": "TLS 1.2 tickets",
    "tls12-id": "TLS 1.2 session ids",
    "tls13-ticket": "TLS 1.3 tickets",
    "tls13-stateful": "TLS 1.3 stateful",
}
WANTED_SHARE = 0.99
CLIENTS_PER_NODE = 100  # enough that chance does not decide whether new sessions are spread evenly
ROUNDS = 2              # times that each client comes back


class DemoScene(Scene):
    """Owns its stage, and has HAProxy in front of the same nodes."""

    def __init__(self, name, count, **settings):
        self.stage = Stage(name)
        try:
            super().__init__(self.stage, count, certificate_kind="rsa", **settings)
            self.haproxy = HaproxyBalancer(self.stage, self.nodes.values())
        except BaseException:
            self.close()
            raise

    def close(self):
        """Stops everything; returns what was wrong, and keeps the logs then."""
        faults = self.stage.close()
        if not faults:
            self.stage.remove()
        return faults


class LiveTable:
    """Redraws itself in place on a terminal; elsewhere it is printed once, at the end."""

    def __init__(self, title):
        self.title, self.lines, self.live = title, 0, sys.stdout.isatty()

    def draw(self, rows, last=False):
        if not self.live and not last:
            return
        text = [f"\n{self.title}", f"  {'node':<8}{'state':<10}{'connections':>12}{'active':>8}{'offered':>9}{'resumed':>9}"]
        for r in rows:
            text.append(f"  {r['name']:<8}{r['state']:<10}{r['total']:>12}{r['active']:>8}{r['offered']:>9}{r['resumed']:>9}")
        if self.live and self.lines:
            sys.stdout.write(f"\033[{self.lines}A\033[J")
        print("\n".join(text), flush=True)
        self.lines = sum(line.count("\n") + 1 for line in text)


def start_clients(address, mode, clients, rounds, wait_ms):
    return subprocess.Popen([TOOLS / "tls_client", "--address", address, "--mode", mode, "--clients", str(clients),
                             "--rounds", str(rounds), "--wait-ms", str(wait_ms)], stdout=subprocess.PIPE, text=True)


def run_mode(mode, nodes):
    """One mode with so many nodes. Returns its row of the comparison and what went wrong, as sentences."""
    exact = mode in EXACT_MODES
    wait_ms = EXACT_FEED_WAIT_MS if exact else 0
    clients = CLIENTS_PER_NODE * nodes
    scene = DemoScene(mode, nodes, feed=exact, **MODES[mode])
    faults = []
    try:
        table = LiveTable(f"{MODE_NAMES[mode]}, {nodes} nodes" + (", session ids from nginx's log" if exact else ", learned by self-probe"))
        before = scene.counted()
        running = start_clients(scene.proxy.address, mode, clients, ROUNDS, wait_ms)
        try:
            while running.poll() is None:
                table.draw(scene.rows())
                time.sleep(0.25)
        finally:
            running.kill()
            said = running.communicate()[0]
        ours = json.loads(said)
        # A connection's verdict is counted when the node has answered, so before its client has ended.
        after = scene.counted()
        table.draw(scene.rows(), last=True)
        round_robin = tls_client(scene.haproxy.round_robin, mode, clients=clients, rounds=ROUNDS, wait_ms=wait_ms)
        sticky = tls_client(scene.haproxy.sticky, mode, clients=clients, rounds=ROUNDS, wait_ms=wait_ms)
    finally:
        faults += scene.close()

    share = ours["resumed"] / max(1, ours["offered"])
    if share < WANTED_SHARE:
        faults.append(f"only {ours['resumed']} of {ours['offered']} offered resumptions were accepted")
    if ours["offered"] < 300:
        faults.append(f"only {ours['offered']} resumptions were offered; at least 300 are wanted")
    if ours["errors"]:
        faults.append(f"{ours['errors']} connections failed: {ours['error_texts']}")
    offered, resumed = after[0] - before[0], after[1] - before[1]
    if (offered, resumed) != (ours["offered"], ours["resumed"]):
        faults.append(f"/status says that {resumed} of {offered} were resumed, the clients say {ours['resumed']} of {ours['offered']}")
    least = min((ours["nodes"].get(f"n{i + 1}", {"full": 0})["full"] for i in range(nodes)))
    if least < ours["full"] / nodes / 2:
        faults.append(f"new sessions are not spread: a node got {least} of {ours['full']}, with {nodes} nodes")
    return {"mode": mode, "nodes": nodes, "hudsucker": ours, "round_robin": round_robin, "sticky": sticky}, faults


def percent(count):
    return f"{100 * count['resumed'] / max(1, count['offered']):5.1f} %"


def comparison(rows):
    lines = ["\nResumed, of what clients offered, as the clients themselves report:",
             f"  {'mode':<22}{'nodes':>5}{'offered':>9}{'Hudsucker':>11}{'HAProxy':>11}{'HAProxy':>17}",
             f"  {'':<22}{'':>5}{'':>9}{'':>11}{'round robin':>13}{'id stickiness':>15}"]
    for row in rows:
        lines.append(f"  {MODE_NAMES[row['mode']]:<22}{row['nodes']:>5}{row['hudsucker']['offered']:>9}"
                     f"{percent(row['hudsucker']):>11}{percent(row['round_robin']):>13}{percent(row['sticky']):>15}")
    return "\n".join(lines)


def stay_up(nodes):
    """TLS 1.2 and 1.3 clients that come back, until Ctrl-C."""
    scene = DemoScene("live", nodes)
    try:
        print(f"\nTry it:  curl -k https://{scene.proxy.address}/      status:  curl http://{scene.proxy.status_address}/status")
        table = LiveTable(f"TLS 1.2 and 1.3 clients with tickets, {nodes} nodes; Ctrl-C ends")
        while True:
            for mode in ("tls12-ticket", "tls13-ticket"):
                tls_client(scene.proxy.address, mode, clients=4 * nodes, rounds=3, wait_ms=200, threads=2)
                table.draw(scene.rows(), last=True)
    finally:
        scene.close()


def main():
    parser = argparse.ArgumentParser(prog="deploy/demo", allow_abbrev=False,
                                     description="Hudsucker before nginx nodes with their own ticket keys, beside HAProxy.")
    parser.add_argument("--once", action="store_true", help="all modes with 3 and with 8 nodes (or --nodes), then exit: 0 if all is well")
    parser.add_argument("--nodes", type=int, help="how many nodes (default 3)")
    parser.add_argument("--mode", choices=list(MODES), action="append", help="only this mode; may be given more than once")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="write the figures to this file")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)  # for the script that builds: check options, and end
    options = parser.parse_args()
    if options.nodes is not None and not 1 <= options.nodes <= 64:
        parser.error("--nodes is between 1 and 64")
    if options.json and (options.json.is_dir() or not options.json.absolute().parent.is_dir()):
        parser.error(f"--json: {options.json} cannot be written: it is a folder, or there is no folder for it")
    if options.check:
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))

    rows, failed = [], False
    counts = [options.nodes] if options.nodes else [3, 8] if options.once else [3]
    try:
        for nodes in counts:
            for mode in options.mode or MODES:
                row, faults = run_mode(mode, nodes)
                rows.append(row)
                for fault in faults:
                    failed = True
                    print(f"demo: {MODE_NAMES[mode]}, {nodes} nodes: {fault}", flush=True)
        print(comparison(rows), flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        if not options.once:
            stay_up(counts[0])
    except KeyboardInterrupt:
        print(comparison(rows) if rows else "")
        return 0
    print("demo: " + ("NOT as it should be" if failed else "at least 99 % of the offered resumptions were accepted in each mode"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
