#!/usr/bin/env python3
"""`cmake --install`: what goes where, that it runs from there, and which Debian packages it needs where nothing is built.

    tests/install_test.py [BUILD FOLDER]        build/release, unless said; hudsucker and hud-agentd are built in it
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(sys.argv.pop(1)) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else ROOT / "build/release"
PROGRAMS = ("hudsucker", "hud-agentd")


def sanitized():
    """Then the programs need the sanitizer's library as well."""
    return "HUD_SANITIZE:STRING=\n" not in (BUILD / "CMakeCache.txt").read_text(encoding="utf-8")


class Install(unittest.TestCase):
    def install(self, prefix):
        self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        done = subprocess.run(["cmake", "--install", BUILD, "--prefix", prefix], capture_output=True, text=True,
                              env={"PATH": "/usr/local/bin:/usr/bin:/bin", "DESTDIR": str(self.root)})
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return self.root / prefix.lstrip("/")

    def test_what_goes_where(self):
        for prefix in ("/usr", "/usr/local"):
            at = self.install(prefix)
            found = {path.relative_to(at).as_posix() for path in at.rglob("*") if path.is_file()}
            doc = "share/doc/hudsucker"
            self.assertEqual(found, {
                *(f"bin/{program}" for program in PROGRAMS),
                *(f"lib/systemd/system/{path.name}" for path in (ROOT / "deploy").glob("*.service")),
                *(f"{doc}/{path.name}" for path in (ROOT / "deploy").glob("*.md")),
                *(f"{doc}/{name}" for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE")),
                *(f"{doc}/examples/{path.name}" for folder in ("deploy", "deploy/examples") for path in (ROOT / folder).glob("*.yaml"))})
            self.assertEqual([path for path in self.root.rglob("*") if path.is_file() and at not in path.parents], [])

    def test_units_start_what_was_installed(self):
        for prefix in ("/usr", "/usr/local"):
            at = self.install(prefix)
            for program in PROGRAMS:
                text = (at / f"lib/systemd/system/{program}.service").read_text(encoding="utf-8")
                named = re.findall(r"^Exec\w+=[-+!@:]*(\S+)", text, re.M)
                self.assertIn(f"{prefix}/bin/{program}", named)
                for path in named:
                    if path.rsplit("/", 1)[-1] in PROGRAMS:
                        self.assertTrue((self.root / path.lstrip("/")).is_file(), path)
                for page in re.findall(r"file://(\S+)", text):
                    self.assertTrue((self.root / page.lstrip("/")).is_file(), page)

    def test_the_programs_run_from_there(self):
        at = self.install("/usr")
        for program in PROGRAMS:
            done = subprocess.run([at / "bin" / program, "--help"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn("--config", done.stdout)
        done = subprocess.run([at / "bin/hudsucker", "--version"], capture_output=True, text=True)
        version = re.search(r"project\(hudsucker VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")).group(1)
        self.assertEqual((done.returncode, done.stdout), (0, f"hudsucker {version}\n"))


class RunTimePackages(unittest.TestCase):
    """README's list of packages is what the programs are linked with."""

    def needed(self, program):
        """Packages of the libraries that the program itself names; those bring the others with them."""
        names = re.findall(r"\(NEEDED\).*\[(.+)\]", subprocess.run(["readelf", "-d", BUILD / "bin" / program], capture_output=True,
                                                                   text=True, check=True).stdout)
        paths = dict(re.findall(r"(\S+) => (\S+)", subprocess.run(["ldd", BUILD / "bin" / program], capture_output=True, text=True,
                                                                  check=True).stdout))
        found = set()
        for name in names:
            # A merged /usr: the package may know the file by either name.
            for path in (paths[name], "/usr" + paths[name], paths[name].removeprefix("/usr")):
                done = subprocess.run(["dpkg-query", "-S", path], capture_output=True, text=True)
                if done.returncode == 0:
                    found.add(done.stdout.split(":")[0])
                    break
            else:
                self.fail(f"no package has {paths[name]}")
        return found

    def test_readme_lists_them(self):
        if not shutil.which("dpkg-query") or sanitized():
            self.skipTest("not a Debian system, or a build with sanitizers")
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        block = re.search(r"^    apt install .*libabsl.*\n(?:      .*\n)*", text, re.M)
        self.assertIsNotNone(block, "README.md has no line `apt install …` with the run-time packages")
        listed = set(block.group(0).replace("\\", "").split()) - {"apt", "install", "--no-install-recommends"}
        self.assertEqual(listed, set().union(*map(self.needed, PROGRAMS)))


if __name__ == "__main__":
    unittest.main()
