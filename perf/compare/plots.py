"""The report's plots, drawn as SVG by hand: no library, no script, and colours from the page's style sheet.

Every plot is a function of results as the JSON file has them and returns text. Classes (`ours`, `good`, `grid`…) are coloured
by plots.css, which follows the reader's preference for light or dark.
"""
import html
import math
import pathlib

from .bars import AIM, BUSY, LATENCIES, MET, MISSED, SHOWN, UNMEASURED
from .loads import FIGURES
from .terminal import beside
from .results import unit_of

WIDTH = 1000
MARGIN = 24  # around a plot that stands alone

# Proxies by colour, and where there are many of one kind, by shape too.
MARKS = {
    "hudsucker": ("ours", "disc"), "beside": ("ours", "ring"), "hudsucker-alone": ("ours", "diamond"),
    "hudsucker-logging": ("ours", "triangle"),
    "haproxy": ("haproxy", "disc"), "haproxy-default": ("haproxy", "ring"),
    "haproxy-splice": ("haproxy", "diamond"), "haproxy-splice-auto": ("haproxy", "triangle"),
    "haproxy-busy-polling": ("haproxy", "square"),
    "nginx": ("nginx", "square"), "nginx-large": ("nginx", "square"),
    "haproxy-round-robin": ("haproxy", "disc"), "haproxy-sticky": ("haproxy", "ring"),
}

STYLE = pathlib.Path(__file__).with_name("plots.css").read_text(encoding="utf-8")

# Of the shapes that are no circles, in their size.
CORNERS = {"diamond": ((0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)), "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
           "triangle": ((0, -1.1), (1.1, 0.9), (-1.1, 0.9))}

STATE_CLASS = {AIM: "good", MET: "good", MISSED: "bad", UNMEASURED: "warn", SHOWN: "ours"}


class Drawing:
    """Shapes on a canvas WIDTH wide; the height is set at the end."""

    def __init__(self, title):
        self.parts, self.title = [], title

    def add(self, text):
        self.parts.append(text)

    def text(self, x, y, content, classes=""):
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}">{html.escape(str(content))}</text>')

    def line(self, x1, y1, x2, y2, classes, dash=""):
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.add(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{classes}"{dashes}/>')

    def box(self, x, y, width, height, classes, radius=0):
        self.add(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0, width):.1f}" height="{height:.1f}" rx="{radius}" class="{classes}"/>')

    def mark(self, x, y, colour, shape, hint="", size=5.5):
        """`hint` is what the pointer shows."""
        title = f"<title>{html.escape(hint)}</title>" if hint else ""
        if shape in ("disc", "ring"):
            hollow = " hollow" if shape == "ring" else ""
            self.add(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size - (0.5 if hollow else 0)}" class="{colour}{hollow}">{title}</circle>')
            return
        points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in CORNERS[shape])
        self.add(f'<polygon points="{points}" class="{colour}">{title}</polygon>')

    def path(self, points, classes):
        self.add(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="{classes}"/>')

    def finish(self, height, alone=False):
        if not alone:
            return self._svg(f'viewBox="0 0 {WIDTH} {height:.0f}"', "")
        width, tall = WIDTH + 2 * MARGIN, height + MARGIN
        return self._svg(f'viewBox="{-MARGIN} 0 {width} {tall:.0f}" width="{width}" height="{tall:.0f}"',
                         f'<style>{STYLE}</style><rect x="{-MARGIN}" width="{width}" height="{tall:.0f}" style="fill: var(--card)"/>')

    def _svg(self, size, before):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{html.escape(self.title)}">'
                f'{before}{"".join(self.parts)}</svg>')


class Scale:
    """From figures to pixels, linear or logarithmic."""

    def __init__(self, low, high, left, right, log=False):
        self.low, self.high, self.left, self.right, self.log = low, high, left, right, log

    def __call__(self, value):
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.left + share * (self.right - self.left)

    def ticks(self, most=7):
        if self.log and self.high / self.low > 4:  # over less than that, equal steps are easier to read
            return self._log_ticks(most)
        for step in (factor * 10 ** power for power in range(-3, 9) for factor in (1, 2, 5)):
            if (self.high - self.low) / step <= most:
                first = math.ceil(self.low / step - 1e-9)
                return [i * step for i in range(first, int(self.high / step + 1e-9) + 1)]
        return []

    def _log_ticks(self, most):
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            found = [step * 10 ** decade for decade in decades for step in steps]
            found = [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]
            if len(found) <= most:
                return found
        return found[::2]


def short(value):
    if value >= 1000:
        return f"{value / 1000:g} k" if value < 1e6 else f"{value / 1e6:g} M"
    return f"{value:g}"


def amount(value, digits=2):
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:.{min(digits, 1)}f}"


def legend(drawing, keys, labels, x, y):
    """In a row, wrapped; returns the y below it."""
    left = x
    for key in keys:
        width = 24 + 7.1 * len(labels[key])
        if x + width > WIDTH and x > left:
            x, y = left, y + 22
        drawing.mark(x + 6, y - 4, *MARKS[key])
        drawing.text(x + 18, y, labels[key], "soft")
        x += width + 8
    return y + 14


# ---- ratios: every bar of the issue in one picture ----

ROW = 24
RATIO_TICKS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0)


def ratio_rows(loads):
    """What the plot has: the bars that are ratios and were measured."""
    return [{"group": load["group"], "name": load["name"], "bar": bar, "figure": bar["figure"], "main": bar["figure"] == load["figure"],
             "opponent": load["proxies"][bar["compared_with"]]["label"]}
            for load in loads for bar in load["bars"] if bar["ratio"]]


def ratio_plot(loads, alone=False):
    """Each row a bar: the zone that meets it, the median of the paired ratios, its 90 % interval."""
    rows = ratio_rows(loads)
    if not rows:
        return ""
    drawing = Drawing("Ratios of Hudsucker to its peers, with 90 % intervals and the bars")
    low = min(0.6, *(min(r["bar"]["ratio"]["low"] or r["bar"]["ratio"]["median"], r["bar"]["aim"] or 1.0) for r in rows)) / 1.06
    high = max(1.15, *(r["bar"]["ratio"]["high"] or r["bar"]["ratio"]["median"] for r in rows)) * 1.03
    scale = Scale(max(low, 0.1), min(high, 3.0), 318, 690, log=True)
    y = 20
    drawing.text(scale(1.0) - 10, y, "◂ Hudsucker needs less", "soft end")
    drawing.text(scale(1.0) + 10, y, "more ▸", "soft")
    y += 14
    top = y
    body = Drawing("")
    group = None
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            y += 10 if y > top else 0
            body.text(0, y + 16, group, "strong")
            y += ROW
        _ratio_row(body, scale, row, y)
        y += ROW
    for tick in RATIO_TICKS:
        if scale.low <= tick <= scale.high:
            drawing.line(scale(tick), top, scale(tick), y, "grid")
            drawing.text(scale(tick), y + 16, f"{tick:g}", "soft middle small")
    drawing.line(scale(1.0), top - 4, scale(1.0), y + 2, "one")
    drawing.parts += body.parts
    y += 42
    drawing.box(0, y - 11, 22, 14, "zone")
    drawing.text(28, y, "meets the bar", "soft")
    drawing.box(140, y - 11, 22, 14, "zone")
    drawing.box(140, y - 11, 22, 14, "zone-aim")
    drawing.text(168, y, "meets the aim", "soft")
    drawing.line(290, y - 4, 320, y - 4, "good thick")
    drawing.mark(305, y - 4, "good", "disc")
    drawing.text(330, y, "median and 90 % interval of the paired ratios; bar met", "soft")
    drawing.line(700, y - 4, 730, y - 4, "bad thick")
    drawing.mark(715, y - 4, "bad", "ring")
    drawing.text(740, y, "bar missed", "soft")
    return drawing.finish(y + 14, alone)


def _ratio_row(drawing, scale, row, y):
    bar, ratio = row["bar"], row["bar"]["ratio"]
    middle = y + ROW / 2
    colour = STATE_CLASS[bar["state"]]
    name = row["name"] + ("" if row["main"] else f", {FIGURES[row['figure']][0]}")
    drawing.text(14, middle + 4.5, name)
    marks = () if bar["limit"] is None else (bar["limit"], bar["aim"])
    for limit, zone in zip(marks, ("zone", "zone-aim")):
        drawing.box(scale.left, y + 3, scale(limit) - scale.left, ROW - 6, zone)
    if marks:
        drawing.line(scale(bar["limit"]), y + 3, scale(bar["limit"]), y + ROW - 3, "gate")
    if ratio["low"] is not None:
        drawing.line(scale(ratio["low"]), middle, scale(ratio["high"]), middle, f"{colour} thick")
    sure = f", 90 % interval {ratio['low']:.3f} to {ratio['high']:.3f}" if ratio["low"] is not None else ""
    hint = f"{name}: {ratio['median']:.3f}{sure}, {ratio['rounds']} rounds, of {row['opponent']}; " + (
        f"bar {bar['limit']}, aim {bar['aim']}" if marks else "no bar")
    drawing.mark(scale(ratio["median"]), middle, colour, "ring" if bar["state"] in (MISSED, UNMEASURED) else "disc", hint)
    drawing.text(scale.right + 14, middle + 4.5, beside(ratio["median"], marks), f"strong {colour}")
    drawing.text(scale.right + 62, middle + 4.5, f"of {row['opponent']}", "soft small")


# ---- figures of every proxy ----

def proxies_of(loads):
    """Keys and labels of all proxies of these loads, in the order of MARKS."""
    labels = {key: proxy["label"] for load in loads for key, proxy in load["proxies"].items()}
    return [key for key in MARKS if key in labels], labels


def figures_of(load, figure):
    """{proxy: its median, spread and values}, of those that have it."""
    return {key: proxy["figures"][figure] for key, proxy in load["proxies"].items() if figure in proxy["figures"]}


def dots_plot(loads, figure, title, least=None):
    """A row for each load, a mark for each proxy. The scale is logarithmic: equal distances are equal ratios."""
    having = [load for load in loads if figures_of(load, figure)]
    if figure not in LATENCIES:  # theirs says nothing, and would push all others together
        having = [{**load, "proxies": {key: proxy for key, proxy in load["proxies"].items() if key not in BUSY}} for load in having]
    values = [f["median"] for load in having for f in figures_of(load, figure).values() if f["median"] > 0]
    if not values:
        return ""
    drawing = Drawing(title)
    keys, labels = proxies_of(having)
    y = legend(drawing, keys, labels, 0, 16) + 8
    scale = Scale(least or min(values) / 1.12, max(values) * 1.12, 318, 960, log=True)
    row = 30
    bottom = y + row * len(having)
    for tick in scale.ticks(9):
        drawing.line(scale(tick), y, scale(tick), bottom, "grid")
        drawing.text(scale(tick), bottom + 17, short(tick), "soft middle small")
    drawing.text(scale.right, bottom + 34, f"{title}, {unit_of(having[0], figure)}", "soft end small")
    for load in having:
        middle = y + row / 2
        found = figures_of(load, figure)
        drawing.text(14, middle + 4.5, load["name"])
        places = [scale(f["median"]) for f in found.values()]
        drawing.line(min(places), middle, max(places), middle, "span")
        for key in sorted(found, key=keys.index, reverse=True):  # ours is drawn last, on top
            figures = found[key]
            drawing.mark(scale(figures["median"]), middle, *MARKS[key],
                         f"{labels[key]}: {amount(figures['median'])} {unit_of(load, figure)} ±{figures['spread']:.1%}")
        y += row
    return drawing.finish(bottom + 42)


def latency_plot(loads):
    """From the median to p99.9, a row for each load and proxy."""
    having = [load for load in loads if any("p50" in p["figures"] for p in load["proxies"].values())]
    if not having:
        return ""
    rows = [(load, key, p) for load in having for key, p in load["proxies"].items() if "p50" in p["figures"]]
    lowest = min(p["figures"]["p50"]["median"] for _, _, p in rows) / 1.2
    highest = max(p["figures"]["p999"]["median"] for _, _, p in rows) * 1.15
    scale = Scale(lowest, highest, 318, 940, log=True)
    drawing = Drawing("Latency: p50, p99 and p99.9")
    drawing.mark(6, 12, "ours", "disc")
    drawing.text(18, 16, "p50", "soft")
    drawing.line(60, 5, 60, 19, "ours thick")
    drawing.text(68, 16, "p99", "soft")
    drawing.line(104, 12, 130, 12, "ours thick")
    drawing.text(138, 16, "to p99.9", "soft")
    y, top = 34, 30
    body = Drawing("")
    current = None
    for load, key, proxy in rows:
        if load is not current:
            y += 8 if current else 0
            current = load
            body.text(0, y + 14, f"{load['group']} · {load['name']}", "strong")
            y += 22
        figures, colour, middle = proxy["figures"], MARKS[key][0], y + 10
        p50, p99, p999 = (figures[name]["median"] for name in ("p50", "p99", "p999"))
        body.text(14, middle + 4.5, proxy["label"], "soft small")
        body.line(scale(p50), middle, scale(p999), middle, f"{colour} thick")
        body.line(scale(p99), middle - 6, scale(p99), middle + 6, f"{colour} thick")
        body.mark(scale(p50), middle, *MARKS[key],
                  f"{proxy['label']}: p50 {amount(p50, 1)} µs, p99 {amount(p99, 1)} µs, p99.9 {amount(p999, 1)} µs")
        y += 20
    for tick in scale.ticks(10):
        drawing.line(scale(tick), top, scale(tick), y + 4, "grid")
        drawing.text(scale(tick), y + 20, short(tick), "soft middle small")
    drawing.text(scale.right, y + 37, "µs, from when the operation should have begun", "soft end small")
    drawing.parts += body.parts
    return drawing.finish(y + 44)


def bars_plot(load, figure):
    """One load, a bar for each proxy, and the gate of the load's own bar."""
    found = [(key, p, p["figures"][figure]) for key, p in load["proxies"].items() if figure in p["figures"]]
    if not found:
        return ""
    highest = max(f["median"] for _, _, f in found)
    limits = [bar for bar in load["bars"] if bar["figure"] == figure and bar["against"] is None]
    scale = Scale(0, max([highest, *(bar["limit"] for bar in limits)]) * 1.02, 318, 880)
    drawing = Drawing(f"{load['name']}: {FIGURES[figure][0]}")
    y = 6
    for key, proxy, figures in found:
        drawing.text(14, y + 17, proxy["label"])
        width = scale(figures["median"]) - scale.left
        drawing.box(scale.left, y + 3, max(1.5, width), 19, MARKS[key][0], 2)
        # Right of all bars, where no limit's line crosses it.
        drawing.text(WIDTH, y + 17, f"{amount(figures['median'])} {unit_of(load, figure)}", "soft end")
        y += 28
    for bar in limits:
        drawing.line(scale(bar["limit"]), 2, scale(bar["limit"]), y, "gate", "4 3")
        drawing.text(scale(bar["limit"]) + 4, y + 12, f"bar {bar['limit']:g}", "soft small")
    return drawing.finish(y + 20)


def resumption_plot(loads):
    """CPU of the nodes for a connection that comes back, over the number of nodes: a panel for each version and certificate."""
    panels = {}
    for load in loads:
        version, certificate, _ = load["name"].split(", ")
        panels.setdefault(f"{version}, {certificate}", []).append(load)
    if not panels:
        return ""
    keys, labels = proxies_of(loads)
    drawing = Drawing("CPU of the nodes for a returning client, by number of nodes")
    drawing.text(WIDTH, 16, "µs a returning connection", "soft end small")
    top = legend(drawing, keys, labels, 0, 16) + 12
    values = [f["median"] for load in loads for f in figures_of(load, "node_cpu").values()]
    if not values:
        return ""
    highest = max(values) * 1.08
    columns = 2 if len(panels) > 1 else 1
    width, height = (WIDTH - 40 * (columns - 1)) / columns, 250
    for index, (name, panel) in enumerate(panels.items()):
        left = (index % columns) * (width + 40)
        _resumption_panel(drawing, name, panel, keys, labels, left, top + (index // columns) * height, width, height - 70, highest)
    return drawing.finish(top + math.ceil(len(panels) / columns) * height)


def _resumption_panel(drawing, name, panel, keys, labels, left, top, width, height, highest):
    counts = sorted(load["options"]["nodes"] for load in panel)
    step = (width - 160) / max(1, len(counts) - 1)
    across = {count: left + 60 + step * i for i, count in enumerate(counts)}
    scale = Scale(0, highest, top + 20 + height, top + 20)
    drawing.text(left, top + 8, name, "strong")
    for tick in scale.ticks(5):
        drawing.line(left + 46, scale(tick), left + width, scale(tick), "grid")
        drawing.text(left + 40, scale(tick) + 4, f"{tick:g}", "soft end small")
    for count, x in across.items():
        drawing.text(x, top + height + 40, f"{count} node{'s' if count > 1 else ''}", "soft middle small")
    last = []
    for key in reversed(keys):
        points = sorted((load["options"]["nodes"], figures_of(load, "node_cpu")[key]["median"], figures_of(load, "resumed")[key]["median"])
                        for load in panel if key in figures_of(load, "node_cpu"))
        drawing.path([(across[count], scale(cpu)) for count, cpu, _ in points], f"{MARKS[key][0]} thick")
        for count, cpu, resumed in points:
            drawing.mark(across[count], scale(cpu), *MARKS[key],
                         f"{labels[key]}, {count} nodes: {cpu:.0f} µs a connection, {resumed:.0f} % resumed")
        for count, cpu, resumed in points[-1:]:
            last.append([scale(cpu), across[count], f"{cpu:.0f} µs, {resumed:.0f} %", MARKS[key][0]])
    last.sort()
    for above, below in zip(last, last[1:]):  # labels that would lie upon each other are moved apart
        below[0] = max(below[0], above[0] + 14)
    for y, x, text, colour in last:
        drawing.text(x + 12, y + 4, text, f"small {colour}")
