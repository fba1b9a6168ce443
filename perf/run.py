#!/usr/bin/env python3
"""Hudsucker beside HAProxy and nginx on this machine: CPU, latency and memory, with ratios and verdicts.

perf/run builds everything and starts this. perf/README.md explains loads and figures.
Exit code: 0 all bars met, 1 a bar missed or not measured, 2 usage, 3 the machine is too noisy to compare on.
"""
import argparse
import pathlib
import signal
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "perf"), str(ROOT / "tests/e2e")]

from compare import loads, machine, page, plots, results, session, terminal  # noqa: E402

CALIBRATIONS_BEFORE = 6


def read_options():
    parser = argparse.ArgumentParser(prog="perf/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the most telling loads, short samples: under 3 minutes")
    parser.add_argument("--json", metavar="FILE", help="everything that was measured (default: build/perf/FULL-OR-QUICK.json)")
    parser.add_argument("--html", metavar="FILE", help="the report, one file (default: beside the JSON)")
    parser.add_argument("--svg", metavar="FILE", help="the plot of all ratios, by itself")
    parser.add_argument("--markdown", metavar="FILE", help="the table of all bars, for a README")
    parser.add_argument("--only", metavar="WORDS", default="",
                        help="only loads whose name has all these words; a comma separates alternatives")
    parser.add_argument("--proxies", metavar="WORDS", default="", help="only proxies whose key has one of these words, comma separated")
    parser.add_argument("--rounds", type=int, metavar="N",
                        help="so many rounds (default 7, and up to 11 while a bar is in doubt; 5 with --quick)")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a sample")
    parser.add_argument("--beside", metavar="PROGRAM", help="another hudsucker program, measured beside: before and after a change")
    parser.add_argument("--relay", metavar="MODE", choices=("auto", "splice", "copy", "zerocopy"), help="relay.mode of Hudsucker")
    parser.add_argument("--list", action="store_true", help="say which loads there are, and end")
    parser.add_argument("--from", dest="source", metavar="JSON", help="measure nothing: table and page from an earlier run's file")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds is at least 1")
    if options.seconds is not None and not 0.05 <= options.seconds <= 600:
        parser.error("--seconds is between 0.05 and 600")
    if options.beside and not pathlib.Path(options.beside).is_file():
        parser.error(f"--beside: there is no program {options.beside}")
    return parser, options


def pace_of(options):
    chosen = session.QUICK if options.quick else session.FULL
    changes = {}
    if options.rounds:
        changes.update(rounds=options.rounds, max_rounds=options.rounds, memory_rounds=options.rounds)
    if options.seconds:
        changes.update(seconds=options.seconds)
    return session.dataclasses.replace(chosen, **changes)


def measure(run, chosen, options, so_far):
    """All loads, one after the other; appends to `so_far` as they get ready, so that an interruption keeps them."""
    only = [word for word in options.proxies.split(",") if word]
    planned = []
    for load in chosen:
        keys, missing = run.contestants(load, only)
        if keys:
            planned.append((load, keys, missing, run.expected_seconds(load, keys)))
    progress = terminal.Progress(sum(plan[3] for plan in planned), len(planned))
    try:
        for load, keys, missing, seconds in planned:
            progress.begin(load.key, seconds, len(keys) * run.pace.rounds)
            began = time.monotonic()
            result = results.of_load(load, run.measure(load, keys, progress.step), missing)
            so_far.append({**result, "took_seconds": time.monotonic() - began})
            progress.end()
            progress.say(terminal.load_block(result))
            run.calibrate()
            if run.calibration.hopeless():
                run.note("others take so much of this machine that the rest of the loads was left out")
                break
    finally:
        progress.clear()


def refuse(faults):
    print("perf: this machine is too noisy to compare on, so nothing is judged:", file=sys.stderr)
    for fault in faults:
        print(f"  {fault}", file=sys.stderr)
    print("Stop what else runs here, or use a machine of your own; perf/README.md says what is asked.", file=sys.stderr)


def conclude(whole, options):
    """Table, files and exit code."""
    faults = whole["noise"]["faults"]
    print(terminal.table(whole["loads"], judged=not faults))
    stem = ROOT / "build/perf" / whole["mode"]
    json_path, html_path = options.json or (None if options.source else f"{stem}.json"), options.html or f"{stem}.html"
    if json_path:
        results.write(json_path, whole)
    page.write(html_path, whole)
    if options.svg:
        pathlib.Path(options.svg).write_text(plots.ratio_plot(whole["loads"], alone=True) + "\n", encoding="utf-8")
    if options.markdown:
        pathlib.Path(options.markdown).write_text(terminal.markdown(whole["loads"]) + "\n", encoding="utf-8")
    print(f"\n{whole['minutes']:.1f} minutes; the report: {html_path}" + (f", everything: {json_path}" if json_path else ""))
    for note in whole["notes"]:
        print(f"perf: {note}")
    if faults:
        refuse(faults)
    else:
        counted = [f"{number} {terminal.WORDS[state].lower()}" for state, number in results.states(whole["loads"]).items() if number]
        print("perf: " + (", ".join(counted) or "no bar was judged"))
    if whole["interrupted"]:
        print("perf: interrupted; what was measured until then is kept")
        return 130
    return results.exit_code(whole["loads"], faults)


def main():
    parser, options = read_options()
    chosen = loads.chosen(loads.all_loads(), options.only, options.quick)
    if options.list:
        print("\n".join(f"{'quick  ' if load.quick else '       '}{load.key}" for load in chosen))
        return 0
    if options.source:
        return conclude(results.load_file(options.source), options)
    if not chosen:
        parser.error(f"no load has the words '{options.only}'; --list shows them all")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was measured until then is kept

    started = time.time()
    measured, interrupted = [], False
    environment = machine.environment(ROOT, machine.plan_cores())
    run = session.Session(pace_of(options), options.beside, options.relay)
    try:
        run.calibrate(CALIBRATIONS_BEFORE)
        if run.calibration.faults():  # once more: something may just have ended
            time.sleep(5)
            run.calibration = machine.Calibration()
            run.calibrate(CALIBRATIONS_BEFORE)
        if run.calibration.faults():
            refuse(run.calibration.faults())
            return results.EXIT_NOISY
        measure(run, chosen, options, measured)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what was started must end, however impatient
        run.close()
    return conclude({
        "version": results.VERSION, "mode": "quick" if options.quick else "full", "command": ["perf/run", *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(started)), "minutes": (time.time() - started) / 60,
        "pace": session.dataclasses.asdict(run.pace), "environment": environment, "noise": run.calibration.as_json(),
        "notes": run.notes, "interrupted": interrupted, "loads": measured}, options)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, AssertionError) as error:
        print(f"perf: {error}", file=sys.stderr)
        sys.exit(2)
