#!/usr/bin/env python3
"""Configures and builds a preset, and says how far it is: a line for each 5 %, but none sooner than 2 s after the one before.

    deploy/build.py PRESET [TARGET...] [--jobs N] [--log FILE]

All that CMake, Ninja and the compiler say is in the log (build/PRESET.log); when the build fails, its end is printed.
Exit code: 0 built, 1 not, 2 wrong usage.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEP = re.compile(r"\[(\d+)/(\d+)\] ")
LINES_SHOWN = 60  # of a log whose build failed


class Progress:
    """Decides when a line is worth printing. The same lines do on a terminal and in a file."""

    PERCENT = 5
    PAUSE = 2.0     # seconds between two lines, so that a build from a warm cache is not all lines
    SILENCE = 15.0  # seconds: then a line comes although little has happened

    def __init__(self, name, now):
        self.name, self.began, self.said, self.shown, self.done, self.total = name, now, now, 0, 0, 0

    def take(self, line, now):
        """A line of Ninja's; returns what to print, or None."""
        step = STEP.match(line)
        if step:
            self.done, self.total = int(step.group(1)), int(step.group(2))
        return self.tick(now)

    def tick(self, now):
        """Time has passed; returns what to print, or None."""
        percent = 100 * self.done // self.total if self.total else 0
        gained = percent >= self.shown + self.PERCENT and self.done < self.total
        if now - self.said < (self.PAUSE if gained else self.SILENCE):
            return None
        self.said, self.shown = now, percent
        if not self.total:
            return f"{self.name}: configuring, {now - self.began:.0f} s"
        return f"{self.name}: {percent} % ({self.done} of {self.total}), {now - self.began:.0f} s"

    def end(self, now):
        what = f"built, {self.total} steps" if self.total else "nothing to do"
        return f"{self.name}: {what}, {now - self.began:.0f} s"


def presets():
    told = json.loads((ROOT / "CMakePresets.json").read_text(encoding="utf-8"))
    return [preset["name"] for preset in told["buildPresets"]]


def follow(arguments, log, progress, say):
    """Runs it with its output in `log`; its exit code. A clock of its own, for a compiler can be silent for long."""
    child = subprocess.Popen([str(a) for a in arguments], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, env={**os.environ, "NINJA_STATUS": "[%f/%t] "}, text=True, errors="replace")
    lock, ended = threading.Lock(), threading.Event()

    def tell(text):
        if text:
            say(text)

    def clock():
        while not ended.wait(1):
            with lock:
                tell(progress.tick(time.monotonic()))
    ticking = threading.Thread(target=clock, daemon=True)
    ticking.start()
    try:
        for line in child.stdout:
            log.write(line)
            with lock:
                tell(progress.take(line, time.monotonic()))
        return child.wait()
    finally:
        ended.set()
        ticking.join()
        child.stdout.close()
        if child.poll() is None:  # interrupted: it is in our group and got the signal, too
            child.wait()


def build(preset, targets=(), *, jobs=None, log_path=None, say=lambda text: print(text, flush=True)):
    """True when all is built. What it says meanwhile goes to `say`, a line at a time."""
    log_path = log_path or ROOT / f"build/{preset}.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    progress = Progress(f"build {preset}", time.monotonic())
    make = ["cmake", "--build", "--preset", preset, *(["-j", jobs] if jobs else []), *(["--target", *targets] if targets else [])]
    with open(log_path, "w", encoding="utf-8", errors="replace") as log:
        for arguments in (["cmake", "--preset", preset], make):
            try:
                good = follow(arguments, log, progress, say) == 0
            except FileNotFoundError as error:
                log.write(f"{error.filename} is not installed; deploy/install-packages installs it\n")
                good = False
            log.flush()
            if not good:
                lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
                say("\n".join("    " + line for line in lines[-LINES_SHOWN:]))
                say(f"build {preset}: FAILED; all of its output is in {log_path}")
                return False
    say(progress.end(time.monotonic()))
    return True


def main():
    parser = argparse.ArgumentParser(prog="deploy/build.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=presets(), metavar="PRESET", help=", ".join(presets()))
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all of them, unless some are named")
    parser.add_argument("--jobs", metavar="N", help="compilers at a time (as many as there are cores, unless said)")
    parser.add_argument("--log", metavar="FILE", type=pathlib.Path, help="where all output goes")
    options = parser.parse_args()
    try:
        return 0 if build(options.preset, options.targets, jobs=options.jobs, log_path=options.log) else 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
