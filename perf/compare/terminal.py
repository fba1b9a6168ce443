"""What a terminal shows: a progress bar, a block for each finished load, and the table of bars."""
import os
import shutil
import sys
import time

from .bars import AIM, BEST_HAPROXY, BEST_PEER, MET, MISSED, SHOWN, UNMEASURED, ceiling
from .loads import FIGURES
from .results import label, unit_of

WORDS = {AIM: "aim met", MET: "met", MISSED: "MISSED", UNMEASURED: "NOT MEASURED", SHOWN: "shown"}
COLOURS = {AIM: "32", MET: "32", MISSED: "31", UNMEASURED: "33", SHOWN: "0"}


def duration(seconds):
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return f"{minutes}:{seconds:02d}"


def say(text, stream=None):
    """Prints. A reader that is gone (a pipe that was closed, a terminal that hung up) must not cost the results."""
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Progress:
    """A line at the bottom of the terminal; nothing where there is no terminal."""

    def __init__(self, total_seconds, loads):
        self.total, self.loads = max(1.0, total_seconds), loads
        self.done, self.finished, self.name = 0.0, 0, ""
        self.live = sys.stderr.isatty()
        self.started = time.monotonic()

    def begin(self, name, seconds, steps):
        self.name, self._budget, self._step = name, seconds, seconds / max(1, steps)
        self._spent = 0.0
        self.draw()

    def step(self, key):
        # Further rounds were not planned: the bar waits for them.
        self._spent = min(self._budget, self._spent + self._step)
        self.draw(key)

    def end(self):
        self.done += self._budget
        self._spent = 0.0
        self.finished += 1

    def remaining(self):
        done = self.done + self._spent
        elapsed = time.monotonic() - self.started
        pace = elapsed / done if done > 5 else 1.0
        return max(0.0, (self.total - done) * pace)

    def draw(self, key=""):
        if not self.live:
            return
        width = 24
        share = min(1.0, (self.done + self._spent) / self.total)
        full = int(share * width + 0.5)
        what_now = self.name + (f": {key}" if key else "")
        text = f" {'█' * full}{'░' * (width - full)} {share:4.0%}  {duration(self.remaining())} left  {what_now}"
        self._write("\r\033[K" + text[:shutil.get_terminal_size().columns - 1])

    def clear(self):
        if self.live:
            self._write("\r\033[K")

    def _write(self, text):
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:  # the terminal hung up
            self.live = False

    def say(self, text):
        self.clear()
        say(text)


def coloured(text, code):
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() else text


def number(value, digits=2):
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}f}"


def beside(value, marks, digits=2):
    """With so many digits that it is seen on which side of each mark it lies: 0.884 beside 0.88, not 0.88."""
    def hides(count):
        seen = round(value, count)
        return any((seen > mark, seen < mark) != (value > mark, value < mark) for mark in marks)
    while digits < 4 and hides(digits):
        digits += 1
    return number(value, digits)


def interval(ratio, marks=(), above=()):
    """`marks`: what the median is compared with; `above`: what the upper end of the interval is."""
    if ratio is None:
        return ""
    def exact(value, others):
        return beside(value, others, 2 if value >= 0.1 else 3)
    text = exact(ratio["median"], marks)
    return text if ratio["low"] is None else f"{text} ({exact(ratio['low'], ())}–{exact(ratio['high'], above)})"


COLUMNS = {"traffic": ("cpu", "machine", "rate", "p50", "p99", "p999"), "memory": ("memory", "kernel_memory"),
           "tls": ("node_cpu", "cpu", "handshakes", "resumed"), "micro": ("time", "lookups", "bytes")}


def columns_of(load):
    """Figures of this load that anybody has."""
    return [figure for figure in COLUMNS[load["kind"]] if any(figure in p["figures"] for p in load["proxies"].values())]


def rounds_of(load):
    return "1 round" if load["rounds"] == 1 else f"{load['rounds']} rounds"


def load_block(load):
    """A finished load: every proxy with its figures, and the ratio of ours to it."""
    columns = columns_of(load)
    width = 15
    heads = [(FIGURES[column][0], unit_of(load, column)) for column in columns] + ([("ours to theirs", "")] if load["ratios"] else [])
    lines = [coloured(f"\n{load['group']} · {load['name']}" + (f" · {rounds_of(load)}" if load["kind"] != "micro" else ""), "1")]
    lines += [(f"  {'':<36}" + "".join(f"{head[line]:>{width}}" for head in heads)).rstrip() for line in (0, 1) if heads]
    for key, proxy in load["proxies"].items():
        if not proxy["figures"]:
            lines.append(f"  {proxy['label']:<36}{coloured('failed', '31')}: {proxy['failed'].strip()}")
            continue
        cells = []
        for column in columns:
            figure = proxy["figures"].get(column)
            text = "–" if figure is None else number(figure["median"], FIGURES[column][2])
            if figure is not None and column == load["figure"]:
                text += f" ±{figure['spread']:.0%}"
            cells.append(f"{text:>{width}}")
        ratio = load["ratios"].get(key, {}).get(load["figure"])
        lines.append(f"  {proxy['label']:<36}{''.join(cells)}   {interval(ratio)}".rstrip())
        lines += [f"    {coloured('failed', '31')}: {text.strip()}" for text in failures(proxy)]
    return "\n".join([*lines, *(f"  {bar_line(load, bar)}" for bar in load["bars"]), *(f"  {remark}" for remark in load["remarks"])])


def failures(proxy):
    return list(filter(None, [proxy.get("failed"), *proxy.get("failed_at_times", [])]))


def with_unit(load, bar, value):
    """A limit, or an absolute figure, which has a unit; ratios have none."""
    if bar["against"] is not None:
        return number(value)
    return f"{value:g} {unit_of(load, bar['figure'])}"


def limit_text(load, bar):
    if bar["limit"] is None:
        return "none"
    return f"{'≥' if bar['at_least'] else '≤'} {with_unit(load, bar, bar['limit'])}"


def aim_text(load, bar):
    if bar["aim"] is None:
        return "–"
    return with_unit(load, bar, bar["aim"])


def what(load, bar):
    """What the bar is about, where it is not the load's own figure."""
    return "" if bar["figure"] == load["figure"] else f", {FIGURES[bar['figure']][0]}"


def against(bar):
    if bar["against"] is None:
        return "absolute"
    if bar["compared_with"] is None:
        return bar["against"] if bar["against"] in (BEST_PEER, BEST_HAPROXY) else label(bar["against"])
    return label(bar["compared_with"]) + (" (best)" if bar["against"] != bar["compared_with"] else "")


def found(load, bar):
    if bar["limit"] is None:
        return interval(bar["ratio"]) or "–"
    marks = (bar["limit"], bar["aim"])
    if bar["ratio"]:
        return interval(bar["ratio"], marks, (ceiling(bar["limit"]), 1.0))
    if bar["against"] is not None or bar["ours"] is None:
        return "–"
    return f"{beside(bar['ours'], marks, FIGURES[bar['figure']][2])} {unit_of(load, bar['figure'])}"


def bar_line(load, bar):
    """Without a verdict: whether the machine was quiet enough to judge is known at the end only."""
    of = "" if bar["against"] is None else f" of {against(bar)}"
    reason = f": {bar['why']}" if bar["state"] in (UNMEASURED, SHOWN) and bar["why"] else ""
    asked = "no bar" if bar["limit"] is None else f"bar {limit_text(load, bar)}, aim {aim_text(load, bar)}"
    return f"{FIGURES[bar['figure']][0]} {found(load, bar)}{of}, {asked}{reason}"


def rounds_left_out(load, bar):
    if not bar["ratio"] or bar["ratio"]["rounds"] >= load["rounds"]:
        return ""
    return f"{bar['ratio']['rounds']} of {load['rounds']} rounds could be paired"


def verdict(load, bar, with_reason=True):
    """The state and, in brackets, why (of a bar not measured always), and on how many rounds it stands when some were dropped."""
    why = bar["why"] if bar["state"] in (UNMEASURED, SHOWN) or (with_reason and bar["state"] == MISSED) else ""
    more = ", ".join(filter(None, (why, rounds_left_out(load, bar))))
    return WORDS[bar["state"]] + (f" ({more})" if more else "")


HEADS = ("load", "compared with", "ratio (90 % interval)", "bar", "aim", "")


def bar_rows(loads, with_reason=True):
    """The cells of each bar, and its state."""
    return [(f"{load['group']}: {load['name']}{what(load, bar)}", against(bar), found(load, bar), limit_text(load, bar),
             aim_text(load, bar), verdict(load, bar, with_reason), bar["state"]) for load in loads for bar in load["bars"]]


def markdown(loads):
    """The same for a README."""
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    for *cells, word, state in bar_rows(loads, with_reason=False):
        lines.append("| " + " | ".join([*cells, word if state in (AIM, MET, SHOWN) else f"**{word.lower()}**"]) + " |")
    return "\n".join(lines)


def table(loads, judged=True):
    """All bars, one a line; without the verdicts where nothing is judged."""
    rows, heads = bar_rows(loads), HEADS
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(5)]
    lines = ["\n" + "  ".join(f"{head:<{width}}" for head, width in zip(heads, widths)).rstrip()]
    for row in rows:
        cells = "  ".join(f"{cell:<{width}}" for cell, width in zip(row[:5], widths))
        lines.append(f"{cells}  {coloured(row[5], COLOURS[row[6]]) if judged else 'not judged'}")
    lines += [f"{load['key']}: {remark}" for load in loads for remark in load["remarks"]]
    return "\n".join(lines)
