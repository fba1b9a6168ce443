"""Runs the cases of one suite and says `ok`, `FAIL` or `skip`, the name as a sentence, and the seconds it took.

A suite is a file of functions marked @case; each gets a Stage of its own and passes unless it raises.
    tests/e2e/relay_test.py                  all cases
    tests/e2e/relay_test.py reset first      only those whose name has all these words
"""
import argparse
import json
import os
import signal
import sys
import time
import traceback

from harness import Stage

_cases = []


class Skip(Exception):
    """This machine lacks what the case needs; the reason is its text."""


def case(function=None, *, seconds=180, needs_root=False, reduced=True):
    """Marks a case. `seconds` end one that hangs; `reduced=False` leaves it out of the runs under sanitizers."""
    def mark(f):
        _cases.append((f, seconds, needs_root, reduced))
        return f
    return mark if function is None else mark(function)


def _on_alarm(_signal, _frame):
    raise TimeoutError("the case did not end within its time")


def _run(function, seconds):
    name = function.__name__.replace("_", " ")
    started = time.monotonic()
    stage = Stage("".join(c if c.isalnum() else "_" for c in function.__name__))
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.alarm(seconds * (4 if os.environ.get("HUD_REDUCED") else 1))
    trouble, verdict = "", "ok"
    try:
        function(stage)
    except Skip as reason:
        verdict, trouble = "skip", str(reason)
    except BaseException as error:  # also what a case raises to leave early: one verdict for each case
        if isinstance(error, KeyboardInterrupt):
            stage.close()
            raise
        verdict, trouble = "FAIL", traceback.format_exc()
    signal.alarm(0)
    faults = stage.close()
    if faults and verdict != "FAIL":
        verdict, trouble = "FAIL", "\n".join(faults)
    took = time.monotonic() - started
    print(f"{verdict} {name} ({took:.1f} s)" + (f": {trouble}" if verdict == "skip" else ""), flush=True)
    if verdict == "FAIL":
        print("    " + trouble.replace("\n", "\n    "))
        print("    " + stage.tails().replace("\n", "\n    "))
        print(f"    all of it is in {stage.keep()}", flush=True)
    else:
        stage.remove()
    # What no busy machine can cause: tests/run.py gives such a failure no second try.
    hard = any("wrote '" in fault or "ended by itself" in fault for fault in faults)
    return {"name": name, "verdict": verdict, "seconds": round(took, 2), "notes": stage.notes, "hard": hard}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="run only the cases whose name has all these words")
    parser.add_argument("--report", help="write the verdicts to this file, as JSON")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and end")
    options = parser.parse_args()
    results = []
    for function, seconds, needs_root, reduced in _cases:
        name = function.__name__.replace("_", " ")
        if not all(word in name for word in options.words):
            continue
        if os.environ.get("HUD_REDUCED") and not reduced:
            continue
        if options.list:
            print(name)
            continue
        if needs_root and os.geteuid() != 0:
            print(f"skip {name}: needs root", flush=True)
            results.append({"name": name, "verdict": "skip", "seconds": 0, "notes": [], "hard": False})
            continue
        results.append(_run(function, seconds))
        if options.report:
            with open(options.report, "w", encoding="utf-8") as report:
                json.dump(results, report)
    failed = sum(result["verdict"] == "FAIL" for result in results)
    sys.exit(1 if failed else 0)
