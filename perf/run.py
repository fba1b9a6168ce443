#!/usr/bin/env python3
"""Hudsucker beside HAProxy and nginx on this machine: CPU, latency and memory, with ratios and verdicts.

perf/run builds everything and starts this. perf/README.md explains loads and figures.
Exit code: 0 all bars met, 1 a bar missed or not measured, 2 usage or nothing could be measured, 3 the machine is too noisy to
compare on, 130 interrupted.
"""
import contextlib
import dataclasses
import pathlib
import signal
import sys
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "perf"), str(ROOT / "tests/e2e")]

from compare import guard, machine, options as asked, page, plots, proxies, results, rounds, session, terminal  # noqa: E402
from compare.terminal import say  # noqa: E402

RESULTS = ROOT / "build/perf"
CALIBRATIONS_BEFORE = 6


def pace_of(options):
    chosen = session.QUICK if options.quick else session.FULL
    changes = {}
    if options.rounds:
        changes.update(rounds=options.rounds, max_rounds=options.rounds, memory_rounds=options.rounds)
    if options.seconds:
        changes.update(seconds=options.seconds)
    return dataclasses.replace(chosen, **changes)


class Run:
    """A run and its results so far, which are in the JSON file after each load: whatever happens, they are kept."""

    def __init__(self, options):
        self.options, self.began, self.loads, self.interrupted, self.planned = options, time.time(), [], False, []
        self.unfinished = asked.outputs(options, RESULTS, finished=False)
        self.environment = machine.environment(ROOT, machine.plan_cores())
        self.session = session.Session(pace_of(options), options.beside, options.relay)

    def whole(self):
        return {"version": results.VERSION, "mode": asked.mode(self.options), "command": ["perf/run", *sys.argv[1:]],
                "started": time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(self.began)), "minutes": (time.time() - self.began) / 60,
                "pace": dataclasses.asdict(self.session.pace), "environment": self.environment,
                "noise": self.session.calibration.as_json(), "notes": self.session.notes, "interrupted": self.interrupted,
                "loads": self.loads}

    def outputs(self):
        """Where everything goes at the end."""
        return asked.outputs(self.options, RESULTS, finished=not self.interrupted and len(self.loads) == len(self.planned))

    def quiet(self):
        """Is the machine quiet enough to begin? Asked once more when not: something may just have ended."""
        run = self.session
        run.calibrate(CALIBRATIONS_BEFORE)
        if run.calibration.faults():
            time.sleep(5)
            run.calibration = machine.Calibration()
            run.calibrate(CALIBRATIONS_BEFORE)
        return not run.calibration.faults()

    def measure(self):
        """All loads, one after the other."""
        words = session.words_of(self.options.proxies)
        for load in self.options.loads:
            keys, missing = self.session.contestants(load, words)
            if keys:
                self.planned.append((load, keys, missing, self.session.expected_seconds(load, keys)))
        progress = terminal.Progress(sum(plan[3] for plan in self.planned), len(self.planned))
        try:
            for load, keys, missing, seconds in self.planned:
                progress.begin(load.key, seconds, len(keys) * self.session.pace.rounds)
                self.loads.append(self.one(load, keys, missing, progress.step))
                progress.end()
                progress.say(terminal.load_block(self.loads[-1]))
                self.calibrate()
                self.save()
                if self.session.calibration.hopeless():
                    self.session.note("others take so much of this machine that the rest of the loads was left out")
                    break
        finally:
            progress.clear()

    def one(self, load, keys, missing, step):
        """The result of one load; one that fails costs no other."""
        began = time.monotonic()
        try:
            result = results.of_load(load, self.session.measure(load, keys, step), missing)
        except Exception as error:
            why = rounds.reason(error)
            self.session.note(f"{load.key}: failed: {why}")
            result = results.of_failed_load(load, keys, missing, why, traceback.format_exc())
        return {**result, "took_seconds": time.monotonic() - began}

    def calibrate(self):
        try:
            self.session.calibrate()
        except Exception as error:  # then there is one measure of noise less
            self.session.note(f"between two loads the noise could not be measured: {rounds.reason(error)}")

    def save(self):
        try:
            self.unfinished.json.write_text(results.as_text(self.whole()), encoding="utf-8")
        except OSError as error:
            self.session.note(f"the results so far could not be saved: {error}")


def refuse(faults):
    say("perf: this machine is too noisy to compare on, so nothing is judged:", sys.stderr)
    for fault in faults:
        say(f"  {fault}", sys.stderr)
    say("Stop what else runs here, or use a machine of your own; perf/README.md says what is asked.", sys.stderr)


def contents(whole, outputs):
    """(path, text) of every file."""
    made = ((outputs.json, results.as_text), (outputs.html, page.render),
            (outputs.svg, lambda of: plots.ratio_plot(of["loads"], alone=True) + "\n"),
            (outputs.markdown, lambda of: terminal.markdown(of["loads"]) + "\n"))
    return [(path, text(whole)) for path, text in made if path]


def summary(whole, outputs):
    """What is said below the table."""
    files = f"the report: {outputs.html}" + (f", everything: {outputs.json}" if outputs.json else "")
    lines = [f"\n{whole['minutes']:.1f} minutes; {files}", *(f"perf: {note}" for note in whole["notes"])]
    if not whole["noise"]["faults"]:
        counted = [f"{number} {terminal.WORDS[state].lower()}" for state, number in results.states(whole["loads"]).items() if number]
        lines.append("perf: " + (", ".join(counted) or "no bar was judged"))
    if whole["interrupted"]:
        lines.append("perf: interrupted; what was measured until then is kept")
    return "\n".join(lines)


def conclude(whole, outputs):
    """Files, table and exit code. The files first: the terminal may be gone."""
    faults = whole["noise"]["faults"]
    files, shown = contents(whole, outputs), [terminal.table(whole["loads"], judged=not faults), summary(whole, outputs)]
    code = results.EXIT_INTERRUPTED if whole["interrupted"] else results.exit_code(whole["loads"], faults)
    for path, text in files:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            say(f"perf: {path} cannot be written: {error.strerror}", sys.stderr)
            code = results.EXIT_CANNOT
    for text in filter(None, shown):
        say(text)
    if faults:
        refuse(faults)
    return code


def again(options):
    """Table and page of an earlier run."""
    try:
        return conclude(results.load_file(options.source), asked.outputs(options, RESULTS))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise RuntimeError(f"{options.source} has not the shape of a result of perf/run ({rounds.reason(error)}): measure again") from None


def forewarn(options):
    """What is known beforehand not to be measurable, said before minutes are spent."""
    for program in session.missing_peers(options.loads, session.words_of(options.proxies)):
        say(f"perf: {program} is not installed, so it is not measured; a bar against it by name is not met", sys.stderr)
    if machine.descriptor_limit() < proxies.DESCRIPTORS:
        say(f"perf: the limit on descriptors is {machine.descriptor_limit()}, with which peers may refuse to start: "
            f"ulimit -n {proxies.DESCRIPTORS}", sys.stderr)
    reasons = [why for load in options.loads if (why := session.hindrance(load))]
    for why in dict.fromkeys(reasons):
        count = reasons.count(why)
        say(f"perf: {count} load{'s' if count > 1 else ''} will not be measured: {why}", sys.stderr)


def handle_endings(handler):
    """Ctrl-C, an end that is asked for, and a terminal that hangs up are all the same: what was measured until then is kept."""
    for number in guard.ENDING:
        signal.signal(number, handler)


def measure(options):
    handle_endings(signal.default_int_handler)
    run = Run(options)
    try:
        if not run.quiet():
            refuse(run.session.calibration.faults())
            return results.EXIT_NOISY
        run.measure()
    except KeyboardInterrupt:
        run.interrupted = True
    finally:
        handle_endings(signal.SIG_IGN)  # what was started must end, however impatient
        run.session.close()
    outputs = run.outputs()
    code = conclude(run.whole(), outputs)
    if outputs.json != run.unfinished.json:
        with contextlib.suppress(OSError):
            run.unfinished.json.unlink()
    return code


def safely(work):
    """Exit code of `work`; what goes wrong in it is never taken for a bar that was missed."""
    try:
        return work()
    except KeyboardInterrupt:
        return results.EXIT_INTERRUPTED
    except (RuntimeError, AssertionError, OSError, rounds.SampleFailed) as error:
        say(f"perf: {error}", sys.stderr)
    except Exception:
        traceback.print_exc()
    return results.EXIT_CANNOT


def main():
    options = asked.read(__doc__, RESULTS)
    if options.check and (options.list or options.source):
        return 0
    if options.list:
        say("\n".join(f"{'quick  ' if load.quick else '       '}{load.key}" for load in options.loads))
        return 0
    if options.source:
        return again(options)
    with guard.alone():
        machine.raise_descriptor_limit(proxies.DESCRIPTORS)
        if options.check:
            return 0
        forewarn(options)
        return guard.guarded(lambda: safely(lambda: measure(options)))


if __name__ == "__main__":
    sys.exit(safely(main))
