#!/usr/bin/env python3
"""The kernel never has to lend the data plane a thread (iou-wrk): sampled throughout a run in every relay mode."""
import json
import os
import pathlib
import subprocess
import threading
import time

from harness import TOOLS, Hudsucker, connect, listens, reduced, tls_client, wait_until
from runner import case, main
from servers.nginx import Nginx
from servers.scripted import ScriptedNode, echo, read_exactly, reset


def threads_of(pid):
    names = []
    try:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            names.append((task / "comm").read_text().strip())
    except OSError:
        pass  # a thread, or the whole process, has just ended
    return names


class Watch:
    """Looks at the threads of a process every few milliseconds, until stopped."""

    def __init__(self, pid):
        self.pid, self.samples, self.seen = pid, 0, set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._stopping.is_set():
            self.seen.update(threads_of(self.pid))
            self.samples += 1
            time.sleep(0.003)

    def stop(self):
        self._stopping.set()
        self._thread.join()


@case
def no_io_worker_thread_is_ever_seen_in_any_relay_mode(stage):
    node = ScriptedNode(stage, echo, name="echo")
    https = Nginx(stage, "n1")
    total = 0
    for mode in ("auto", "splice", "copy", "zerocopy"):
        bulk_address = stage.address()
        hudsucker = Hudsucker(stage, [
            {"name": "echo", "nodes": [node.as_node(), {"name": "refused", "address": stage.address()}]},
            {"name": "https", "nodes": [{"name": "n1", "address": https.address}]},
            {"name": "bulk", "health_check": False, "nodes": [{"name": "b1", "address": bulk_address}]},
        ], listeners=[{"name": n, "default_pool": n} for n in ("echo", "https", "bulk")], relay={"mode": mode},
            timeouts={"idle": "2s", "drain": "2s"})
        _, https_front, bulk_front = (listener["bind"] for listener in hudsucker.config["listeners"])
        watch = Watch(hudsucker.pid)
        idle = [connect(hudsucker.address) for _ in range(100)]
        for client in idle:
            client.sendall(b"x")
            assert read_exactly(client, 1) == b"x"
        size = str(reduced(256 << 20, 32 << 20))
        peer = subprocess.Popen([TOOLS / "stream_peer", "listen", bulk_address, "--send", size, "--expect", size], stdout=subprocess.PIPE)
        wait_until(lambda: listens(bulk_address), "the node listening")
        said = subprocess.run([TOOLS / "stream_peer", "connect", bulk_front, "--send", size, "--expect", size, "--send-seed", "2",
                               "--expect-seed", "1"], capture_output=True, text=True, timeout=150)
        peer.kill()
        peer.communicate()
        assert json.loads(said.stdout)["whole"], said.stdout
        counted = tls_client(https_front, "tls13-ticket", clients=50, rounds=4)
        assert counted["errors"] == 0, counted
        for i, client in enumerate(idle):
            reset(client) if i % 2 else client.close()
        time.sleep(0.3)
        hudsucker.popen.terminate()
        hudsucker.popen.wait(30)
        hudsucker.expected = True
        watch.stop()
        workers = [name for name in watch.seen if name.startswith("iou-wrk")]
        assert not workers, f"{mode}: kernel worker threads {workers}"
        assert watch.samples > 50 and os.path.basename(hudsucker.arguments[0]) == "hudsucker"
        total += watch.samples
    stage.note(f"{total} samples in 4 modes, no iou-wrk")


if __name__ == "__main__":
    main()
