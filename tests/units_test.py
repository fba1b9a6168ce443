#!/usr/bin/env python3
"""systemd's own reader has no complaint of deploy/*.service. It only reads them, in a root of their own; nothing is started."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
UNITS = sorted((ROOT / "deploy").glob("*.service"))


class Units(unittest.TestCase):
    def verify(self, change=lambda text: text):
        """What systemd-analyze says of both: (exit code, text)."""
        at = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        folder = at / "lib/systemd/system"
        folder.mkdir(parents=True)
        for name in ("sysinit", "basic", "shutdown", "network-online", "multi-user"):
            (folder / f"{name}.target").write_text("[Unit]\nDescription=Empty\nDefaultDependencies=no\n", encoding="utf-8")
        for unit in UNITS:
            text = change(unit.read_text(encoding="utf-8"))
            (folder / unit.name).write_text(text, encoding="utf-8")
            for program in re.findall(r"^Exec\w+=[-+!@:]*(\S+)", text, re.M):
                stand_in = at / program.lstrip("/")
                stand_in.parent.mkdir(parents=True, exist_ok=True)
                stand_in.write_text("", encoding="utf-8")
                stand_in.chmod(0o755)
        done = subprocess.run(["systemd-analyze", "verify", f"--root={at}", "--man=no", "--generators=no", *(unit.name for unit in UNITS)],
                              capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                              env={"PATH": os.environ["PATH"], "LC_ALL": "C", "SYSTEMD_LOG_LEVEL": "info", "SYSTEMD_UNIT_PATH": "/lib/systemd/system",
                                   "HOME": str(at), "XDG_RUNTIME_DIR": str(at), "TMPDIR": str(at)})
        return done.returncode, done.stdout + done.stderr

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed (package systemd)")
    def test_systemd_has_no_complaint(self):
        self.assertEqual(len(UNITS), 2)
        self.assertEqual(self.verify(), (0, ""))

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed (package systemd)")
    def test_a_word_that_systemd_does_not_know_is_found(self):
        _, text = self.verify(lambda text: text.replace("[Service]\n", "[Service]\nRestrat=always\n"))
        self.assertIn("Restrat", text)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed (package systemd)")
    def test_neither_is_open_to_more_than_it_needs(self):
        """systemd's own score: 0 is shut off from everything, 10 is root with no bounds; both need the network, and a few calls."""
        for unit in UNITS:
            done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=18", unit],
                                  capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env={"PATH": os.environ["PATH"], "LC_ALL": "C"})
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_both_may_limit_themselves_and_ask_for_the_machines_addresses(self):
        """seccomp(2) is not in @system-service; what is not allowed must fail, and not end the program."""
        for unit in UNITS:
            text = unit.read_text(encoding="utf-8")
            self.assertRegex(text, r"(?m)^SystemCallFilter=.*\bseccomp\b", unit.name)
            self.assertRegex(text, r"(?m)^SystemCallErrorNumber=EPERM$", unit.name)
            self.assertRegex(text, r"(?m)^RestrictAddressFamilies=.*\bAF_NETLINK\b", unit.name)

    def test_neither_is_root_nor_shares_a_folder_with_the_other(self):
        folders = []
        for unit in UNITS:
            text = unit.read_text(encoding="utf-8")
            self.assertRegex(text, r"(?m)^User=hudsucker$")
            for kind in ("Runtime", "State"):
                folders += re.findall(rf"^{kind}Directory=(\S+)$", text, re.M)
        self.assertEqual(sorted(folders), ["hud-agentd", "hud-agentd", "hudsucker", "hudsucker"])


if __name__ == "__main__":
    unittest.main()
