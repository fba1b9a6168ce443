"""User memory of an idle relay.

The slope from 1,000 to 8,000 relays, and beside it what the program takes beforehand for each connection that it could
have: the difference between being started for many and for few, without any connection. A program that had everything
prepared would have a slope of nothing; the sum cannot be made small by preparing.
"""
import json
import re
import selectors
import subprocess
import time

from . import machine, traffic
from .rounds import SampleFailed

FEW, MANY = 1000, 8000
SMALL_LIMIT = 1000        # connections that the program is told to be ready for, against proxies.MAX_CONNECTIONS
SETTLE_SECONDS = 0.5      # hellos are done, and buffers that relays give back when they get idle are back


class Idle:
    """hud-load holding `count` idle relays through a proxy."""

    def __init__(self, run, address, count):
        command = traffic.client_command(address, {"load": "idle", "connections": count, "token": "psk"}, 1, 0, [])
        with machine.running_on([run.cores.client]):
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            self._wait_ready(count)
        except BaseException:
            self.close()
            raise

    def _wait_ready(self, count, patience=30):
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.process.stdout, selectors.EVENT_READ)
            if not waiting.select(patience):
                raise SampleFailed(f"{count} idle relays were not up within {patience} s")
        line = self.process.stdout.readline()
        if not line or json.loads(line).get("ready") != count:
            raise SampleFailed(f"{count} idle relays did not come up: {line.strip() or self._last_words()}")

    def _last_words(self):
        said = self.process.communicate(timeout=5)[1]
        return machine.ended("hud-load", self.process.returncode, said)

    def close(self):
        """Lets go of them and waits until hud-load is gone."""
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


def settled_kib(pids):
    time.sleep(SETTLE_SECONDS)
    return machine.user_memory_kib(pids)


def kernel_kib():
    """What the kernel holds: for a relay that is both its sockets, and those of the client and the node at its ends."""
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(re.findall(r"^(\w+):\s+(\d+)", file.read(), re.M))
    return sum(int(fields[name]) for name in ("Slab", "PageTables", "KernelStack"))


class Memory:
    """Each sample starts the proxy afresh."""

    def __init__(self, load, run):
        self.run, self.cores, self.prepared = run, run.cores.of_workers(1), {}

    def _started(self, key, **options):
        proxy = self.run.start_proxy(key, self.cores, **options)
        return proxy, settled_kib(proxy.pids)

    def _prepared_per_connection(self, key, empty_kib):
        """KiB that are taken at start for each possible connection. Asked once of each program."""
        if key not in self.prepared:
            proxy, small_kib = self._started(key, max_connections=SMALL_LIMIT)
            self.run.stop_proxy(proxy)
            self.prepared[key] = max(0.0, (empty_kib - small_kib) / (self.run.max_connections - SMALL_LIMIT))
        return self.prepared[key]

    def take(self, key, _round):
        self.run.keep_node()
        proxy, empty = self._started(key)
        holders = []
        try:
            holders.append(Idle(self.run, proxy.address, FEW))
            few, few_kernel = settled_kib(proxy.pids), kernel_kib()
            holders.append(Idle(self.run, proxy.address, MANY - FEW))
            many, many_kernel = settled_kib(proxy.pids), kernel_kib()
            if not proxy.alive():
                raise SampleFailed(machine.ended("the proxy", proxy.popen.returncode, proxy.log()))
        finally:
            for holder in holders:
                holder.close()
            self.run.stop_proxy(proxy)
        prepared = self._prepared_per_connection(key, empty)
        slope = (many - few) / (MANY - FEW)
        raw = {"empty_kib": empty, "few_kib": few, "many_kib": many, "slope": slope, "prepared": prepared}
        return {"memory": slope + prepared, "kernel_memory": (many_kernel - few_kernel) / (MANY - FEW)}, raw, None

    def close(self):
        pass


def descriptors_suffice():
    """Two for each relay in the proxy, and some."""
    return machine.descriptor_limit() >= 2 * MANY + 500
