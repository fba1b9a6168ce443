"""Loads that hud-load makes: bulk, exchanges, responses, connections, beside each other, paced."""
import json
import subprocess

import harness

from . import machine, proxies
from .rounds import SampleFailed

OPTIONS = {"load": "--load", "connections": "--connections", "request": "--request", "response": "--response", "end": "--end",
           "rate": "--rate", "token": "--token"}


def client_command(address, options, seconds, warmup, pids):
    command = [harness.PROGRAMS / "hud-load", "client", "--connect", address, "--server-name", proxies.SERVER_NAME,
               "--seconds", f"{seconds:g}", "--warmup", f"{warmup:g}", "--pids", ",".join(map(str, pids))]
    for name, value in options.items():
        command += [OPTIONS[name], str(value)]
    return [str(part) for part in command]


def run_client(command, core, patience):
    """The client's JSON. Raises SampleFailed with what it said."""
    with machine.running_on([core]):
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, error = running.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        raise SampleFailed(f"hud-load did not end within {patience:.0f} s") from None
    finally:
        if running.poll() is None:
            running.kill()
            running.communicate()
    if running.returncode not in (0, 3):
        raise SampleFailed(machine.ended("hud-load", running.returncode, error or out))
    said = json.loads(out.strip().splitlines()[-1])
    if running.returncode == 3:
        raise SampleFailed(f"{said['failures']} connections or operations failed, of {said['operations']} operations")
    return said


def figures_of(said, proxy_pids, node_pid, load):
    """What one run of the client tells, in the load's units."""
    by_bytes = load.unit == "ms/GB"
    done = said["bytes"] / 1e9 if by_bytes else said["operations"]
    if done <= 0:
        raise SampleFailed("nothing got through")
    scale = 1e6 if by_bytes else 1e3  # ns to ms, or to µs
    proxy = sum(said["cpu_ns"].get(str(pid), 0) for pid in proxy_pids)
    rest = said["cpu_ns"].get(str(node_pid), 0) + said["own_cpu_ns"]
    latency = said.get("latency_us") or {}
    return {"cpu": proxy / done / scale, "rest": rest / done / scale, "machine": said["machine_ns"]["busy"] / done / scale,
            "rate": done / said["seconds"], **{name: latency.get(name) for name in ("p50", "p99", "p999")}}


class Traffic:
    """All proxies of a load run side by side, and only one has anything to do."""

    def __init__(self, load, run):
        self.load, self.run, self.proxies = load, run, {}
        self.cores = run.cores.of_workers(load.workers)

    def start(self, key):
        """A proxy that is there and alive; started anew when it is not."""
        proxy = self.proxies.get(key)
        if proxy is None or not proxy.alive():
            self.proxies[key] = proxy = self.run.start_proxy(key, self.cores)
        return proxy

    def take(self, key, _round):
        self.run.keep_node()
        proxy, run = self.start(key), self.run
        pids = proxy.pids
        seconds = run.pace.seconds * self.load.longer
        options = {**self.load.options, **self.load.changes.get(key, {})}
        command = client_command(proxy.address, options, seconds, run.pace.warmup, [*pids, run.node.pid, *run.soft_interrupts])
        try:
            with machine.watching_others() as others:
                said = run_client(command, run.cores.client, seconds + run.pace.warmup + 30)
            if not proxy.alive():
                raise SampleFailed(machine.ended("the proxy", proxy.popen.returncode, proxy.log()))
        finally:
            if proxies.KINDS[key].never_idle:
                run.stop_proxy(self.proxies.pop(key))
        said["others_ns"] = others[0]
        belongs = sum(said["cpu_ns"].values()) + said["own_cpu_ns"]
        disturbed = machine.disturbance(belongs, others[0], said["machine_ns"], said["seconds"], run.core_count)
        return figures_of(said, pids, run.node.pid, self.load), said, disturbed

    def close(self):
        for proxy in self.proxies.values():
            self.run.stop_proxy(proxy)


def direct(run, seconds=0.4):
    """CPU of client and server, in ns, for a round trip of 64 bytes without any proxy: the second measure of noise."""
    options = {"load": "exchange", "connections": 64, "request": 64, "response": 64}
    said = run_client(client_command(f"127.0.0.1:{run.node.port}", options, seconds, 0.1, [run.node.pid]), run.cores.client, 30)
    return (said["own_cpu_ns"] + sum(said["cpu_ns"].values())) / max(1, said["operations"])
