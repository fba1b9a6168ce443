#!/usr/bin/env python3
"""What happens before Hudsucker runs: options of the scripts that do all the set-up, and what they say while they build."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "deploy"))

import build  # noqa: E402

SCRIPTS = {"tests/run": "tests/run.py", "deploy/demo": "deploy/demo.py", "perf/run": "perf/run.py"}
# What would install or build. Here they only leave word that they were called.
WORKERS = ("apt-get", "dpkg-query", "sudo", "cmake", "ninja")
NEEDED_WITHOUT_PYTHON = ("bash", "sed", "grep", "dirname")


class Scripts(unittest.TestCase):
    """A wrong option ends with 2 and the usage, --help with 0, and nothing is installed or built."""

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.word = self.folder / "called"
        for name in WORKERS:
            path = self.folder / name
            path.write_text(f"#!/bin/sh\necho {name} >> {self.word}\nexit 1\n", encoding="utf-8")
            path.chmod(0o755)

    def run_script(self, script, *options, path=None):
        done = subprocess.run([ROOT / script, *map(str, options)], capture_output=True, text=True, timeout=60,
                              env={**os.environ, "PATH": path or f"{self.folder}:{os.environ['PATH']}"})
        self.assertFalse(self.word.exists(), f"{script} {options} called {self.word.read_text() if self.word.exists() else ''}")
        return done

    def without_python(self):
        folder = self.folder / "bare"
        folder.mkdir()
        for name in NEEDED_WITHOUT_PYTHON:
            found = next(pathlib.Path(place, name) for place in ("/usr/bin", "/bin") if pathlib.Path(place, name).exists())
            (folder / name).symlink_to(found)
        return f"{folder}:{self.folder}"

    def test_mistakes(self):
        for script, options, words in (
                ("tests/run", ["--nonsense"], "--nonsense"), ("tests/run", ["--only", "unit"], "unprivileged"),
                ("tests/run", ["--only", ""], "no step"), ("tests/run", ["--only", "units,"], "no step"),
                ("tests/run", ["--only", "fuzz"], "--all --only fuzz"), ("tests/run", ["--jobs", "0"], "at least 1"),
                ("tests/run", ["units"], "units"), ("tests/run", ["--al"], "--al"),
                ("deploy/demo", ["--nonsense"], "--nonsense"), ("deploy/demo", ["--nodes", "65"], "between"),
                ("deploy/demo", ["--mode", "tls14"], "tls12-ticket"), ("deploy/demo", ["--json", self.folder / "none/x"], "no folder"),
                ("perf/run", ["--nonsense"], "--nonsense"), ("perf/run", ["--beside", "nowhere"], "no program"),
                ("perf/run", ["--only", "nonsense"], "no load")):
            with self.subTest(script=script, options=options):
                done = self.run_script(script, *options)
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertIn(words, done.stderr)
                self.assertIn("usage: " + script, done.stderr)

    def test_help(self):
        for script in SCRIPTS:
            for option in ("--help", "-h"):
                done = self.run_script(script, option)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertIn("usage: " + script, done.stdout)
        done = self.run_script("deploy/install-packages", "--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_where_there_is_no_python_yet(self):
        path = self.without_python()
        for script in SCRIPTS:
            done = self.run_script(script, "--help", path=path)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn(script + " ", done.stdout)
            for options in (["--nonsense"], ["--json", "x", "--nonsense=3"], ["--hel"], ["--nonsense", "--json"]):
                done = self.run_script(script, *options, path=path)
                self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
                self.assertIn("no option --", done.stderr)

    def test_the_usage_in_each_script_has_all_its_options(self):
        for script, program in SCRIPTS.items():
            told = subprocess.run([sys.executable, ROOT / program, "--help"], capture_output=True, text=True, check=True).stdout
            known = set(re.findall(r"^  (?:-h, )?(--[a-z]+)", told, re.M))
            usage = re.match(r"(?:#.*\n)+", (ROOT / script).read_text(encoding="utf-8")).group(0)
            self.assertGreater(len(known), 2)
            self.assertEqual({option for option in known if not re.search(rf"{option}\b", usage)}, set(), script)


class BuildProgress(unittest.TestCase):
    """Lines that are worth reading, in a log file as on a terminal."""

    def said(self, steps, total, seconds_each):
        progress, now, lines = build.Progress("build x", 0.0), 0.0, []
        for step in range(1, steps + 1):
            now += seconds_each
            lines.append((now, progress.take(f"[{step}/{total}] Building CXX object a.o\n", now)))
        return [(at, line) for at, line in lines if line]

    def test_a_slow_build_has_a_line_for_each_twentieth(self):
        lines = [line for _, line in self.said(100, 100, 2.5)]
        self.assertEqual(len(lines), 19)
        self.assertEqual(lines[0], "build x: 5 % (5 of 100), 12 s")

    def test_a_fast_one_has_no_more_than_a_line_in_two_seconds(self):
        lines = self.said(1000, 1000, 0.01)
        self.assertTrue(3 <= len(lines) <= 5, lines)
        self.assertTrue(all(b - a >= build.Progress.PAUSE for (a, _), (b, _) in zip(lines, lines[1:])))

    def test_silence_is_broken_while_a_compiler_is_busy_or_cmake_looks_around(self):
        progress = build.Progress("build x", 0.0)
        ticks = [progress.tick(float(second)) for second in range(1, 31)]
        self.assertEqual([line for line in ticks if line], ["build x: configuring, 15 s", "build x: configuring, 30 s"])
        progress.take("[7/10] Linking\n", 31.0)
        later = [progress.tick(float(second)) for second in range(32, 50)]
        self.assertEqual([line for line in later if line], ["build x: 70 % (7 of 10), 32 s", "build x: 70 % (7 of 10), 47 s"])

    def test_other_lines_are_no_steps(self):
        progress = build.Progress("build x", 0.0)
        for line in ("-- Configuring done\n", "ninja: no work to do.\n", "a.cc:1:[3/4] is no step\n"):
            self.assertIsNone(progress.take(line, 1.0))
        self.assertEqual(progress.end(1.0), "build x: nothing to do, 1 s")


class Build(unittest.TestCase):
    """The program itself, with a cmake that plays its part."""

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.log, self.said = self.folder / "log", []

    def run_build(self, script):
        cmake = self.folder / "cmake"
        cmake.write_text("#!/bin/sh\n" + script, encoding="utf-8")
        cmake.chmod(0o755)
        with (unittest.mock.patch.dict(os.environ, {"PATH": f"{self.folder}:{os.environ['PATH']}"}),
              unittest.mock.patch.object(build.Progress, "PAUSE", 0.0)):
            return build.build("release", ["hudsucker"], log_path=self.log, say=self.say)

    def say(self, line):
        self.said.append(line)
        (self.folder / "said").touch()

    def test_a_good_one_is_followed_while_it_runs(self):
        self.assertTrue(self.run_build(f'''
            [ "$1" = --build ] || exit 0
            echo "[1/2] one"
            until [ -e {self.folder}/said ]; do sleep 0.02; done
            echo "[2/2] two"'''))
        self.assertRegex("\n".join(self.said), r"^build release: 50 % \(1 of 2\), \d+ s\nbuild release: built, 2 steps, \d+ s$")
        self.assertEqual(self.log.read_text(), "[1/2] one\n[2/2] two\n")

    def test_a_bad_one_shows_the_end_of_its_output_and_where_the_rest_is(self):
        self.assertFalse(self.run_build('[ "$1" = --build ] || exit 0\nseq 1 100\necho "x.cc:3: error: what is this"\nexit 1\n'))
        text = "\n".join(self.said)
        self.assertIn("x.cc:3: error: what is this", text)
        self.assertIn(f"FAILED; all of its output is in {self.log}", text)
        self.assertLess(len(text.splitlines()), 80)


if __name__ == "__main__":
    unittest.main()
