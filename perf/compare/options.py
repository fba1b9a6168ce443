"""What perf/run is asked for; everything that can be wrong with it is found before anything is built, started or measured."""
import argparse
import dataclasses
import os
import pathlib
import subprocess

import harness

from . import loads, proxies, results, session

IN_A_BUILD = ("hudsucker", "bin/hudsucker", "build/release/bin/hudsucker")
SHAPING = ("only", "proxies", "rounds", "seconds", "beside", "relay")  # with one of these a run is not the whole one


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Where to write; None is nowhere."""
    json: pathlib.Path | None
    html: pathlib.Path | None
    svg: pathlib.Path | None
    markdown: pathlib.Path | None

    def paths(self):
        return [path for path in dataclasses.astuple(self) if path]

    def prepare(self):
        """Makes the folders, and raises OSError for a file that could not be written."""
        for path in self.paths():
            path.parent.mkdir(parents=True, exist_ok=True)
            there = path.exists()
            path.open("ab").close()
            if not there:
                path.unlink()


def outputs(options, folder, finished=True):
    """A run that is not the whole one, or not finished, has a name of its own: it must not replace the whole one's results."""
    if options.source:
        json, html = options.json, options.html or (options.json or options.source).with_suffix(".html")
    else:
        json = options.json or folder / f"{mode(options) if finished or mode(options) == 'some' else 'unfinished'}.json"
        html = options.html or json.with_suffix(".html")
    return Outputs(json, html, options.svg, options.markdown)


def mode(options):
    """How much of all that there is to measure this run measures."""
    if any(getattr(options, name) is not None for name in SHAPING):
        return "some"
    return "quick" if options.quick else "full"


def file_name(text):
    """Relative to where the user stands."""
    if not text:
        raise argparse.ArgumentTypeError("a file's name is wanted, and it is empty")
    return pathlib.Path(text).absolute()


def parser_of(description):
    parser = argparse.ArgumentParser(prog="perf/run", description=description, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the most telling loads, short samples: under 3 minutes")
    parser.add_argument("--json", metavar="FILE", type=file_name,
                        help="everything that was measured (default: in build/perf, full.json, quick.json, or some.json when the run is "
                             "neither); it is written after each load")
    parser.add_argument("--html", metavar="FILE", type=file_name, help="the report, one file (default: beside the JSON)")
    parser.add_argument("--svg", metavar="FILE", type=file_name, help="the plot of all ratios, by itself")
    parser.add_argument("--markdown", metavar="FILE", type=file_name, help="the table of all bars, for a README")
    parser.add_argument("--only", metavar="WORDS", help="only loads whose name has all these whole words; a comma separates alternatives")
    parser.add_argument("--proxies", metavar="WORDS", help="only proxies whose name has one of these words in it, comma separated")
    parser.add_argument("--rounds", type=int, metavar="N",
                        help="so many rounds (default 7, and up to 11 while a bar is in doubt; 5 with --quick)")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a sample")
    parser.add_argument("--beside", metavar="PROGRAM", type=file_name,
                        help="another hudsucker, measured in the same rounds: before and after a change; the program, or the folder of "
                             "its build")
    parser.add_argument("--relay", metavar="MODE", choices=("auto", "splice", "copy", "zerocopy"), help="relay.mode of Hudsucker")
    parser.add_argument("--list", action="store_true", help="say which loads there are, and end")
    parser.add_argument("--from", dest="source", metavar="JSON", type=file_name,
                        help="measure nothing: table and page from an earlier run's file")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)  # for the script that builds: check options, and end
    return parser


def read(description, folder, arguments=None):
    """The options, the loads chosen, as `loads`, and the proxies' words, as `proxies`. Exits with 2 and a sentence when wrong."""
    parser = parser_of(description)
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds is at least 1")
    if options.seconds is not None and not 0.05 <= options.seconds <= 600:
        parser.error("--seconds is between 0.05 and 600")
    if options.beside:
        options.beside = _other_hudsucker(parser, options.beside)
    options.loads = _chosen_loads(parser, options)
    if options.list:
        return options
    _check_proxies(parser, options)
    _check_outputs(parser, options, folder)
    return options


def _other_hudsucker(parser, named):
    """The program: named itself, or by the folder of a build or of a source tree."""
    places = [named / where for where in IN_A_BUILD] if named.is_dir() else [named]
    found = [place for place in places if place.is_file() and os.access(place, os.X_OK)]
    if not found:
        parser.error(f"--beside: there is no program {named}" + (f", nor {', '.join(IN_A_BUILD)} in it" if named.is_dir() else ""))
    try:
        said = subprocess.run([found[0], "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        parser.error(f"--beside: {found[0]} cannot be run: {error}")
    if not said.startswith("hudsucker "):
        parser.error(f"--beside: {found[0]} is not hudsucker: asked for its --version it says {''.join(said.splitlines()[:1])!r}")
    ours = harness.PROGRAMS / "hudsucker"
    if ours.exists() and found[0].samefile(ours):
        parser.error(f"--beside: {found[0]} is what is measured anyway; name a copy of the one before, or another build")
    return found[0]


def _chosen_loads(parser, options):
    every = loads.all_loads()
    chosen = loads.chosen(every, options.only, options.quick)
    if options.only is not None:
        parts = loads.alternatives(options.only)
        if not parts:
            parser.error("--only has no word; --list shows the names of all loads")
        for part in parts:
            if not chosen or (len(chosen) > 1 and not loads.chosen(every, part)):
                parser.error(f"no load has the words '{part.strip()}'; --list shows them all (words are whole: \"64\" is not in \"1064\")")
    return chosen


def _check_proxies(parser, options):
    if options.proxies is None:
        return
    names = [*proxies.KINDS, *results.TLS_LABELS]
    words = session.words_of(options.proxies)
    unknown = [word for word in words if not any(word in name for name in names)]
    if not words or unknown:
        parser.error(f"--proxies: {'no word' if not words else f'no proxy is named {unknown[0]!r}'}; there are {', '.join(names)}")
    if not any(session.wanted(load, words) for load in options.loads):
        parser.error(f"--proxies: none of the chosen loads is measured with '{options.proxies}'; they have "
                     + ", ".join(dict.fromkeys(key for load in options.loads for key in load.proxies)))


def _check_outputs(parser, options, folder):
    wanted = outputs(options, folder)
    files = [path.resolve() for path in [*wanted.paths(), *filter(None, [options.source])]]
    twice = [path for path in files if files.count(path) > 1]
    if twice:
        parser.error(f"{twice[0]} would be written over; give each file a name of its own")
    for one in (wanted, outputs(options, folder, finished=False)):
        try:
            one.prepare()
        except OSError as error:
            parser.error(f"{error.filename} cannot be written: {error.strerror}")
