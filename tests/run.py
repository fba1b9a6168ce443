#!/usr/bin/env python3
"""Builds and tests Hudsucker, and counts. Called by tests/run, which installs the packages first.

    tests/run.py [--all] [--only STEP[,STEP...]] [--jobs N]

Steps: units (CTest, with the layering test), e2e, unprivileged; with --all also asan, tsan, fuzz, servers.
Wrong options end with 2 before anything is built.
The logs are in build/test-logs. The last line is "N passed, N failed", over CTest cases, end-to-end cases, fuzz targets.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOGS = ROOT / "build/test-logs"
E2E = ROOT / "tests/e2e"
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "deploy"))

import build as builder  # noqa: E402

STEPS = ["units", "e2e", "unprivileged"]
STEPS_OF_ALL = ["asan", "tsan", "fuzz", "servers"]

# What these measure must not be disturbed by another suite.
ALONE = ["bounds_test.py"]
# Under a sanitizer: the parts where a race or a stray byte would hide, made smaller by HUD_REDUCED.
SANITIZED_SUITES = ["relay_test.py", "reload_test.py", "beacon_test.py"]
# Only on --all: the slow one that needs all the other servers.
SERVER_SUITE = "servers_test.py"
# As an ordinary user: the rings, and a run through the whole proxy.
UNPRIVILEGED_SUITES = [("affinity_test.py", ["3 nodes"]), ("relay_test.py", ["mode"])]
SUITE_SECONDS = 900
FUZZ_SECONDS = 60
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1:abort_on_error=0:exitcode=99",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1:exitcode=99",
}

# What a unit test prints when it was not luck: no second try.
HARD_FAULTS = ("Sanitizer", "runtime error:", "broken invariant")


class Count:
    def __init__(self):
        self.passed, self.failed, self.skipped, self.failures, self.second_tries = 0, 0, 0, [], []

    def add(self, name, verdict):
        if verdict == "ok":
            self.passed += 1
        elif verdict == "skip":
            self.skipped += 1
        else:
            self.failed += 1
            self.failures.append(name)


count = Count()


def say(text):
    print(f"== {text}", flush=True)


def tail(path, lines=30):
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join("    " + line for line in text[-lines:])


def run(name, arguments, *, seconds=3600, env=None, cwd=ROOT):
    """Runs to the end with its output in build/test-logs/NAME.log; its exit code, or None when its time was up."""
    path = LOGS / f"{name}.log"
    with open(path, "wb") as log:
        child = subprocess.Popen([str(a) for a in arguments], cwd=cwd, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
                                 stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            return child.wait(seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as why:
            os.killpg(child.pid, signal.SIGKILL)  # its own session: only what it started
            child.wait()
            if isinstance(why, KeyboardInterrupt):
                raise
            return None


def build(preset, targets, jobs):
    """A failure counts once and ends the preset's steps."""
    say(f"build {preset}")
    if builder.build(preset, targets, jobs=jobs, log_path=LOGS / f"build-{preset}.log"):
        return True
    count.add(f"build {preset}", "FAIL")
    return False


def second_try(name, passed):
    """A case that failed beside others runs once more, alone: a busy machine is not a fault. It is said, and listed at the end."""
    print(f"{'ok' if passed else 'FAIL'} at the second try: {name}", flush=True)
    if passed:
        count.second_tries.append(name)
    return "ok" if passed else "FAIL"


def verdict_of(case):
    status = case.get("status")
    if status == "run":
        return "ok"
    if case.get("name", "").endswith("_NOT_BUILT"):  # so CTest calls a program whose tests it could not discover
        return "FAIL"
    return "skip" if status in ("notrun", "disabled") and case.find("skipped") is not None else "FAIL"


def units(preset, jobs, env=None):
    say(f"unit tests, {preset}")
    junit = LOGS / f"ctest-{preset}.xml"
    junit.unlink(missing_ok=True)
    code = run(f"ctest-{preset}", ["ctest", "--preset", preset, "-j", jobs, "--output-junit", junit, "--timeout", "600"],
               env=env, seconds=2400)
    if not junit.exists():
        print(tail(LOGS / f"ctest-{preset}.log"))
        count.add(f"ctest-{preset}", "FAIL")
        return
    cases = xml.etree.ElementTree.parse(junit).getroot().findall("testcase")
    failed, said = 0, 0  # after a second try; by CTest
    for case in cases:
        name, verdict = case.get("name"), verdict_of(case)
        if verdict == "FAIL":
            said += 1
            output = case.findtext("system-out") or ""
            print(f"FAIL {name}")
            print("\n".join("    " + line for line in output.splitlines()[-30:]), flush=True)
            if not any(fault in output for fault in HARD_FAULTS):
                again = run(f"ctest-{preset}-again", ["ctest", "--preset", preset, "-R", f"^{re.escape(name)}$", "--no-tests=error"],
                            env=env, seconds=600)
                verdict = second_try(f"{preset}: {name}", again == 0)
            failed += verdict == "FAIL"
        count.add(f"{preset}: {name}", verdict)
    if not cases or (code != 0 and said == 0):
        print(tail(LOGS / f"ctest-{preset}.log"))
        count.add(f"ctest-{preset} with no or unexplained results", "FAIL")
    print(f"{len(cases) - failed} of {len(cases)} passed", flush=True)


def suite(name, *, label="", env=None, e2e=E2E, prefix=(), words=()):
    """One end-to-end suite, in a process of its own. Returns (label, its results, its exit code, the path of its log)."""
    label = f"{label}{name.removesuffix('.py')}"
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hud-suite-"))
    folder.chmod(0o777)  # also for the ordinary user of `unprivileged`
    report = folder / "report.json"
    env = {"HUD_TEST_LOGS": str(LOGS) if not prefix else "", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
    log = label.replace(": ", "-").replace(" ", "-")
    code = run(log, [*prefix, sys.executable, e2e / name, "--report", report, *words], env=env, cwd=e2e, seconds=SUITE_SECONDS)
    results = json.loads(report.read_text()) if report.exists() else []
    shutil.rmtree(folder, ignore_errors=True)
    return label, results, code, LOGS / f"{log}.log"


def judge(outcome, again=None):
    """Prints and counts what a suite reported, and its dying without a word. `again`: a list to put cases for a second try in."""
    label, results, code, log = outcome
    say(label)
    print(log.read_text(encoding="utf-8", errors="replace").rstrip(), flush=True)
    for result in results:
        if again is not None and result["verdict"] == "FAIL" and not result["hard"]:
            again.append((label, result["name"]))
        else:
            count.add(f"{label}: {result['name']}", result["verdict"])
    failed = any(result["verdict"] == "FAIL" for result in results)
    if not results or (code != 0 and not failed):
        print(f"FAIL {label} ended with {code} without saying why", flush=True)
        count.add(f"{label}: the suite itself", "FAIL")


def run_suites(names, **options):
    """Two at a time, for they mostly wait; those that measure are alone."""
    again = {name: [] for name in names}
    together = [name for name in names if name not in ALONE]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, outcome in zip(together, pool.map(lambda name: suite(name, **options), together)):
            judge(outcome, again[name])
    for name in names:
        if name in ALONE:
            judge(suite(name, **options), again[name])
    for name, cases in again.items():
        for label, case in cases:
            _, results, _, log = suite(name, words=[case], **options)
            passed = bool(results) and all(result["verdict"] == "ok" for result in results)
            if not passed:
                print(log.read_text(encoding="utf-8", errors="replace").rstrip(), flush=True)
            count.add(f"{label}: {case}", second_try(f"{label}: {case}", passed))


def suites():
    return sorted(path.name for path in E2E.glob("*_test.py") if path.name != SERVER_SUITE)


def unprivileged():
    """Copies what is needed to where an ordinary user can read it (a clone may lie in a folder that is not his)."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        return  # then the steps before have been unprivileged
    say("as an ordinary user")
    with tempfile.TemporaryDirectory(prefix="hud-unprivileged-") as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        shutil.copytree(E2E, folder / "tests/e2e", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "build/release/bin", folder / "bin")
        scratch = folder / "tmp"
        scratch.mkdir()
        scratch.chmod(0o777)
        # A throw-away id that no account has.
        prefix = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "--no-new-privs"]
        env = {"HUD_PROGRAMS": str(folder / "bin"), "HUD_TOOLS": str(folder / "bin"), "TMPDIR": str(scratch), "HOME": str(scratch)}
        if (folder / "bin/ring_tests").exists():
            code = run("ring_tests-unprivileged", [*prefix, folder / "bin/ring_tests"], env=env, seconds=600, cwd=scratch)
            count.add("ring_tests as an ordinary user", "ok" if code == 0 else "FAIL")
            print("ok ring_tests" if code == 0 else "FAIL ring_tests\n" + tail(LOGS / "ring_tests-unprivileged.log"), flush=True)
        for name, words in UNPRIVILEGED_SUITES:
            judge(suite(name, label="as an ordinary user: ", env=env, e2e=folder / "tests/e2e", prefix=prefix, words=words))


def sanitized(preset, jobs):
    if not build(preset, ["unit_tests", "hudsucker", "hud-agentd"], jobs):
        return
    units(preset, jobs, SANITIZER_OPTIONS)
    env = {**SANITIZER_OPTIONS, "HUD_PROGRAMS": str(ROOT / f"build/{preset}/bin"), "HUD_REDUCED": "1"}
    run_suites(SANITIZED_SUITES, label=f"{preset}: ", env=env)


def fuzz(jobs):
    names = sorted(path.stem for path in (ROOT / "tests/fuzz").glob("*.cc"))
    if not build("fuzz", [f"fuzz_{name}" for name in names], jobs):
        return
    say(f"fuzz, {FUZZ_SECONDS} s each")

    def one(name):
        found, corpus = LOGS / f"fuzz-{name}", ROOT / "tests/fuzz/corpus" / name
        shutil.rmtree(found, ignore_errors=True)
        found.mkdir()
        arguments = [ROOT / f"build/fuzz/bin/fuzz_{name}", f"-max_total_time={FUZZ_SECONDS}", "-timeout=10", "-rss_limit_mb=2048",
                     f"-artifact_prefix={found}/", "-print_final_stats=1", found]
        if corpus.is_dir():
            arguments.append(corpus)
        return name, run(f"fuzz-{name}", arguments, env=SANITIZER_OPTIONS, seconds=FUZZ_SECONDS * 3)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, code in pool.map(one, names):
            count.add(f"fuzz {name}", "ok" if code == 0 else "FAIL")
            print(f"ok fuzz {name}" if code == 0 else f"FAIL fuzz {name}\n{tail(LOGS / f'fuzz-{name}.log')}", flush=True)


def asked():
    """The options, with the steps. Exits with 2 and a sentence when they are wrong."""
    parser = argparse.ArgumentParser(prog="tests/run", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="also the sanitizers, the fuzz targets and the server table")
    parser.add_argument("--only", metavar="STEP,...", help="only these steps, separated by commas")
    parser.add_argument("--jobs", metavar="N", type=int, default=os.cpu_count() or 2, help="compilers and unit tests at a time")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)  # for the script that installs: check options, and end
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error("--jobs is at least 1")
    options.jobs = str(options.jobs)
    options.steps = STEPS + (STEPS_OF_ALL if options.all else [])
    if options.only is not None:
        wanted = [step.strip() for step in options.only.split(",")]
        for step in wanted:
            if step in STEPS_OF_ALL and not options.all:
                parser.error(f"--only: {step} is a step of --all: tests/run --all --only {options.only}")
            if step not in options.steps:
                parser.error(f"--only: there is no step '{step}'; there are {', '.join(STEPS)}, and with --all {', '.join(STEPS_OF_ALL)}")
        options.steps = wanted
    return options


def main():
    options = asked()
    if options.check:
        return 0
    steps = options.steps
    LOGS.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    if build("release", [], options.jobs):
        if "units" in steps:
            units("release", options.jobs)
        if "e2e" in steps:
            run_suites(suites())
        if "unprivileged" in steps:
            unprivileged()
        for preset in ("asan", "tsan"):
            if preset in steps:
                sanitized(preset, options.jobs)
        if "fuzz" in steps:
            fuzz(options.jobs)
        if "servers" in steps:
            judge(suite(SERVER_SUITE))

    say(f"{(time.monotonic() - started) / 60:.1f} minutes; logs in build/test-logs")
    for name in count.failures:
        print(f"FAILED: {name}")
    for name in count.second_tries:
        print(f"passed at the second try only: {name}")
    if count.skipped:
        print(f"{count.skipped} skipped")
    print(f"{count.passed} passed, {count.failed} failed", flush=True)
    return 1 if count.failed or not count.passed else 0


if __name__ == "__main__":
    sys.exit(main())
