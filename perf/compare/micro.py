"""Micro-benchmarks of core/ (Google Benchmark): only those that have a bar. build/release/bin/core_bench has more."""
import json
import subprocess

import harness

from . import machine
from .rounds import SampleFailed

NANOSECONDS = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}


class Micro:
    """The benchmark repeats by itself (its set-up may take seconds), so the first sample makes those of all rounds."""

    def __init__(self, load, run):
        self.load, self.run, self.repetitions = load, run, None

    def take(self, _key, number):
        if self.repetitions is None:
            self.repetitions = self._benchmark()
        said = self.repetitions[number % len(self.repetitions)]
        figures = {"time": said["cpu_time"] * NANOSECONDS[said["time_unit"]]}
        if "items_per_second" in said:
            figures["lookups"] = said["items_per_second"] / 1e6
        if "bytes_per_token" in said:
            figures["bytes"] = said["bytes_per_token"]
        return figures, said, None

    def _benchmark(self):
        command = [harness.PROGRAMS / "core_bench", f"--benchmark_filter=^{self.load.options['benchmark']}$",
                   f"--benchmark_repetitions={self.run.pace.rounds}", f"--benchmark_min_time={self.run.pace.micro_seconds:g}",
                   "--benchmark_format=json"]
        # A thread that writes beside the reader needs a core of its own.
        cores = [self.run.cores.proxy[0], self.run.cores.client]
        with machine.running_on(cores):
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
        try:
            rows = [row for row in json.loads(done.stdout)["benchmarks"] if row.get("run_type") == "iteration"]
        except ValueError:
            raise SampleFailed(machine.ended("core_bench", done.returncode, done.stderr)) from None
        wrong = [row["error_message"] for row in rows if row.get("error_occurred")]
        if wrong or not rows:
            raise SampleFailed(wrong[0] if wrong else f"core_bench has no benchmark {self.load.options['benchmark']}")
        return rows

    def close(self):
        pass
