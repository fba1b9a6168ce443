#!/usr/bin/env python3
"""What an exploit would have to get past is in the programs that were built: read with readelf.

    tests/hardening_test.py [BUILD FOLDER]      build/release, unless said; hudsucker and hud-agentd are built in it
"""
import os
import pathlib
import platform
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(sys.argv.pop(1)) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else ROOT / "build/release"
PROGRAMS = ("hudsucker", "hud-agentd")
CACHE = dict(re.findall(r"^(\w+):\w+=(.*)$", (BUILD / "CMakeCache.txt").read_text(encoding="utf-8"), re.M))


def readelf(options, path):
    done = subprocess.run(["readelf", options, path], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def our_objects():
    """What the programs consist of: their libraries that we compile, as readelf reads them, by path."""
    found = [path for folder in ("core", "ring", "control", "agentd") for path in sorted((BUILD / folder).rglob("libhud_*.a"))]
    assert len(found) >= 4, f"only {found} under {BUILD}"
    return found


@unittest.skipIf(CACHE.get("HUD_SANITIZE"), "sanitizers bring checks of their own")
class Hardening(unittest.TestCase):
    def test_the_programs_are_position_independent(self):
        for program in PROGRAMS:
            found = readelf("-hldW", BUILD / "bin" / program)
            self.assertRegex(found, r"Type:\s+DYN", program)
            self.assertRegex(found, r"\(FLAGS_1\).*\bPIE\b", program)

    def test_relocations_are_read_only_once_resolved_and_all_are_at_the_start(self):
        for program in PROGRAMS:
            found = readelf("-hldW", BUILD / "bin" / program)
            self.assertRegex(found, r"\n\s+GNU_RELRO\s", program)
            self.assertRegex(found, r"\(FLAGS_1\).*\bNOW\b", program)

    def test_nothing_is_writable_and_executable(self):
        for program in PROGRAMS:
            segments = re.findall(r"^\s+(LOAD|GNU_STACK)(?:\s+0x[0-9a-f]+){5}\s+([RWE ]+?)\s+0x", readelf("-hldW", BUILD / "bin" / program), re.M)
            self.assertEqual(len([kind for kind, _ in segments if kind == "GNU_STACK"]), 1, program)
            self.assertGreater(len(segments), 3, program)
            for kind, rights in segments:
                self.assertFalse("W" in rights and "E" in rights, f"{program}: {kind} is {rights}")
                self.assertFalse(kind == "GNU_STACK" and "E" in rights, f"{program}: the stack is {rights}")

    def test_stacks_are_guarded(self):
        # In the libraries as well: what Debian's static libraries bring into a program says nothing of our own code.
        for path in [*(BUILD / "bin" / program for program in PROGRAMS), *our_objects()]:
            self.assertIn("__stack_chk_fail", readelf("-sW", path), path)

    @unittest.skipIf(CACHE.get("CMAKE_BUILD_TYPE") == "Debug", "_FORTIFY_SOURCE wants optimised code")
    def test_calls_of_the_c_library_are_checked(self):
        checked = r"\b__(?:fprintf|snprintf|vsnprintf|memcpy|memset|read|recv)_chk\b"
        for program in PROGRAMS:
            self.assertRegex(readelf("-sW", BUILD / "bin" / program), checked, program)
        for folder in ("core", "control", "ring", "agentd"):
            for path in (BUILD / folder).glob("libhud_*.a"):
                self.assertRegex(readelf("-sW", path), checked, path)

    @unittest.skipUnless(platform.machine() == "x86_64", "-fcf-protection is for x86")
    def test_indirect_jumps_and_returns_are_marked_in_every_object(self):
        # Not in the programs: the linker takes the mark off them, because Debian's start-up code has none.
        for path in our_objects():
            members = readelf("-nW", path).split("\nFile: ")[1:]
            self.assertTrue(members, path)
            for member in members:
                self.assertRegex(member, r"x86 feature: IBT, SHSTK", f"{path}: {member.splitlines()[0]}")


if __name__ == "__main__":
    unittest.main()
