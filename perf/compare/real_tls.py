"""Real TLS: OpenSSL clients that come back to nginx nodes, each node with ticket keys of its own.

Counted are only the connections that come back: the clients wait (tls_client --hold) between their first connection, which is
a full handshake everywhere, and the others, and the nodes' CPU is read there and at the end. What the agents' probes cost the
nodes is in it.
"""
import json
import selectors
import subprocess
import time

import harness
import scene
from servers.haproxy import HaproxyBalancer

from . import machine
from .rounds import SampleFailed

CLIENTS = 100
SETTLE_SECONDS = 0.05   # between two samples: the nodes have closed what there was


class RealTls:
    """One set of nodes with their agents; Hudsucker and HAProxy in front of it."""

    def __init__(self, load, run):
        self.load, self.run = load, run
        self.mode = load.options["mode"]
        # Many scenes in one run, so each has a stage (and with it addresses) of its own.
        self.stage = harness.Stage("perf-tls")
        try:
            with machine.running_on(run.cores.load):
                self.scene = scene.Scene.of_mode(self.stage, self.mode, load.options["nodes"], certificate_kind=load.options["certificate"])
                haproxy = HaproxyBalancer(self.stage, self.scene.nodes.values())
            machine.move([self.scene.proxy.pid, haproxy.pid], run.cores.of_workers(1))
        except BaseException:
            self.close()
            raise
        self.balancers = {"hudsucker": (self.scene.proxy.address, self.scene.proxy.pid),
                          "haproxy-round-robin": (haproxy.round_robin, haproxy.pid), "haproxy-sticky": (haproxy.sticky, haproxy.pid)}
        self.node_pids = [pid for node in self.scene.nodes.values() for pid in (node.pid, *machine.children_of(node.pid))]
        self.warm = set()

    def take(self, key, _round):
        if key not in self.warm:  # the first connections of all pay for memory that the nodes have not yet touched
            self.warm.add(key)
            self._clients(key, 4 * self.load.options["nodes"], 1)
        with machine.watching_others() as others:
            figures, raw = self._clients(key, CLIENTS, self.run.pace.tls_rounds)
        return figures, raw, machine.disturbance(0, others[0], {"busy": 0}, raw["seconds"], self.run.core_count)

    def _clients(self, key, clients, rounds):
        address, pid = self.balancers[key]
        command = [harness.TOOLS / "tls_client", "--address", address, "--mode", self.mode, "--clients", clients,
                   "--rounds", rounds, "--threads", 4, "--sni", "www.example.com", "--hold"]
        time.sleep(SETTLE_SECONDS)
        with machine.running_on(self.run.cores.load):
            running = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self._wait_held(running)
            nodes, balancer, started = machine.cpu_ns(self.node_pids), machine.cpu_ns([pid]), time.monotonic()
            out, _ = running.communicate("\n", timeout=60)
            took = time.monotonic() - started
            nodes, balancer = machine.cpu_ns(self.node_pids) - nodes, machine.cpu_ns([pid]) - balancer
        except subprocess.TimeoutExpired:
            raise SampleFailed("the clients did not end within 60 s") from None
        finally:
            if running.poll() is None:
                running.kill()
                running.communicate()
        said = json.loads(out)
        returning = clients * rounds
        if said["errors"] > said["connections"] / 100:
            raise SampleFailed(f"{said['errors']} of {said['connections']} connections failed: {said['error_texts']}")
        return {"node_cpu": nodes / returning / 1e3, "cpu": balancer / returning / 1e3, "handshakes": returning / took,
                "resumed": 100 * said["resumed"] / max(1, said["offered"])}, {**said, "seconds": took, "returning": returning}

    @staticmethod
    def _wait_held(running):
        with selectors.DefaultSelector() as waiting:
            waiting.register(running.stdout, selectors.EVENT_READ)
            if not waiting.select(60) or running.stdout.readline() != "held\n":
                raise SampleFailed("the clients did not get through their first connections")

    def close(self):
        faults = self.stage.close()
        self.stage.remove()
        for fault in faults:
            self.run.note(f"{self.load.key}: {fault}")
