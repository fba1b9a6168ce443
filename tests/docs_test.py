#!/usr/bin/env python3
"""What the pages say exists: links and their anchors, files and folders, names of the code, options and keys."""
import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tests"))

import layering_test  # noqa: E402

FOLDERS = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".") and path.name != "build")
PAGES = sorted(path for path in [*ROOT.glob("*.md"), *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.md"))])
SOURCES = (".h", ".cc", ".py", ".css", ".yaml", ".cfg", ".conf", ".service", ".txt")

# `core/base/limits.h`, `core/yaml/`, `perf/run`: of our folders, and without a place-holder in it (NAME, *, {a,b}).
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[a-z0-9_./-]*)`")
# `Worker`, `Relay::TakeTurns`, `kHello`: names in CamelCase with a second capital or a scope, so no ordinary words.
NAME = re.compile(r"`((?:[A-Z][a-z0-9]+){2,}|k(?:[A-Z][a-z0-9]+)+|[A-Z]\w+::\w+)(?:\(\))?`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(path):
    return path.read_text(encoding="utf-8")


def anchors(path):
    """As GitHub makes them of headings."""
    heads = re.findall(r"^#+ (.+)$", text_of(path), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def tracked():
    done = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True)
    if done.returncode == 0 and done.stdout:
        return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]
    return [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]


class Pages(unittest.TestCase):
    def test_links_lead_somewhere(self):
        wrong = []
        for page in PAGES:
            for link in LINK.findall(text_of(page)):
                if re.match(r"[a-z]+:", link):
                    continue
                name, _, anchor = link.partition("#")
                target = (page.parent / name).resolve() if name else page
                if not target.exists():
                    wrong.append(f"{page.relative_to(ROOT)}: {link}: there is no such file")
                elif anchor and anchor not in anchors(target):
                    wrong.append(f"{page.relative_to(ROOT)}: {link}: there is no such heading")
        self.assertEqual(wrong, [])

    def test_files_and_folders_that_are_named_are_there(self):
        wrong = [f"{page.relative_to(ROOT)}: {path}" for page in PAGES for path in PATH.findall(text_of(page))
                 if not (ROOT / path).exists() and not (page.parent / path).exists()]
        self.assertEqual(wrong, [])

    def test_names_of_the_code_are_in_the_code(self):
        code = "\n".join(text_of(path) for path in tracked() if path.suffix in SOURCES)
        words = set(re.findall(r"\w+", code))
        wrong = [f"{page.relative_to(ROOT)}: {name}" for page in PAGES for name in NAME.findall(text_of(page))
                 if not set(name.split("::")) <= words]
        self.assertEqual(wrong, [])

    def test_the_table_of_folders_is_what_is_enforced(self):
        rows = re.findall(r"^\| ((?:`[a-z/]+/`(?:, )?)+) \|.*\| (.+) \|$", text_of(ROOT / "ARCHITECTURE.md"), re.M)
        told = {folder.rstrip("/"): set(re.findall(r"`(.+?)`", may)) for folders, may in rows if may not in ("all", "–")
                for folder in re.findall(r"`(.+?)`", folders)}
        enforced = {}
        for room, row in layering_test.MAY_INCLUDE.items():
            enforced.setdefault(layering_test.house_of(room), set()).update(layering_test.house_of(other) for other in row)
        self.assertEqual(told, {house: may - {house} for house, may in enforced.items() if house != "core"})

    def test_every_room_is_told(self):
        text = text_of(ROOT / "ARCHITECTURE.md")
        for room in layering_test.MAY_INCLUDE:
            self.assertIn(f"| `{room}/` |", text)

    def test_invariants_are_cited_by_the_names_that_they_have(self):
        """*Name* in the table of ARCHITECTURE.md: no page cites another one, and the code cites each."""
        defined = set(re.findall(r"^\| \*(\w+)\* \|", text_of(ROOT / "ARCHITECTURE.md"), re.M))
        self.assertGreater(len(defined), 5)
        for page in PAGES:
            self.assertLessEqual(set(re.findall(r"\*((?:[A-Z][a-z0-9]*){2,})\*", text_of(page))), defined, page)
        words = {word for path in tracked() if path.suffix in (".h", ".cc") for word in re.findall(r"\w+", text_of(path))}
        self.assertEqual(defined - words, set())


if __name__ == "__main__":
    unittest.main()
