"""The report: one HTML file that needs nothing else, for a person who wants to see rather than to read columns."""
import html
import pathlib

from . import plots, terminal
from .bars import AIM, MET, MISSED, UNMEASURED
from .loads import FIGURES
from .results import states, unit_of

STYLE = plots.STYLE + pathlib.Path(__file__).with_name("page.css").read_text(encoding="utf-8")

# What is said above the plot of each group.
GROUPS = {
    "exchange": ("Round trips",
                 "Each connection sends a message and waits for an answer of the same size, again and again. Short messages show what a "
                 "system call costs, many connections what waiting costs."),
    "connect": ("Connections",
                "Connect, ClientHello, 64 bytes back, end. All proxies read the server name and choose by it; Hudsucker also looks the "
                "client's token up."),
    "response": ("Responses", "A request of 64 bytes and an answer of some size: where copying ends and splicing begins."),
    "bulk": ("Bulk",
             "As many bytes as will go. HAProxy is there three times: as documented with splice-auto, with splicing forced through pipes "
             "of 1 MiB, and copying."),
    "two workers": ("Two workers",
                    "Two rings, two threads, or two processes. With few cores they share them with the load, so only the CPU says "
                    "something."),
    "fairness": ("Beside bulk transfers", "One connection that exchanges 64 bytes while 64 others take all they can get."),
    "stalled": ("Beside stalled relays",
                "One connection that exchanges 64 bytes, by itself and beside relays in which nothing can move: the node has sent 6 MB and "
                "finished, and the client reads nothing. They must cost the one that works nothing."),
    "paced": ("Paced",
              "A fixed number of messages a second, far from the limit; latency counts from when a message should have left."),
    "idle": ("Idle relays",
             "User memory for a connection that is open and silent: the slope from 1,000 to 8,000 relays, and what the program takes "
             "beforehand for each connection that it could have."),
    "real TLS": ("What resumption saves",
                 "OpenSSL clients that come back to nginx nodes with ticket keys of their own. A client that reaches the node which gave "
                 "it its ticket resumes; any other has to do a full handshake. CPU of the nodes for each returning connection."),
    "micro": ("Core", "Single functions, without a system call in them."),
}


def text(content):
    return html.escape(str(content))


def card(*contents):
    inner = "".join(filter(None, contents))
    return f'<div class="card">{inner}</div>' if inner else ""


def tiles(whole):
    count = states(whole["loads"])
    total = sum(count.values())
    good = count[AIM] + count[MET]
    found = [("good" if good == total else "warn", f"{good} of {total}", "bars met"), ("", count[AIM], "of them reach the aim, too")]
    if count[MISSED]:
        found.append(("bad", count[MISSED], "missed"))
    if count[UNMEASURED]:
        found.append(("warn", count[UNMEASURED], "not measured"))
    noise = whole["noise"]
    spread = noise.get("direct_spread")
    found.append(("bad" if noise["faults"] else "", "too noisy" if noise["faults"] else f"±{spread:.1%}" if spread is not None else "–",
                  "the machine: nothing is judged" if noise["faults"] else "the same load without a proxy, over the run"))
    return '<div class="tiles">' + "".join(f'<div class="tile {kind}"><b>{text(number)}</b><span>{text(what)}</span></div>'
                                           for kind, number, what in found) + "</div>"


def figures_table(loads):
    """All medians of a group."""
    rows = []
    for load in loads:
        columns = terminal.columns_of(load)
        heads = "".join(f'<th class="n">{text(FIGURES[c][0])}<br>{text(unit_of(load, c))}</th>' for c in columns)
        rows.append(f'<tr><th>{text(load["name"])}<br>{terminal.rounds_of(load)}</th>{heads}<th class="n">ours to theirs</th></tr>')
        for key, proxy in load["proxies"].items():
            cells = ""
            for column in columns:
                figure = proxy["figures"].get(column)
                spread = f" ±{figure['spread']:.0%}" if figure and column == load["figure"] else ""
                cells += f'<td class="n">{terminal.number(figure["median"], FIGURES[column][2]) if figure else "–"}{spread}</td>'
            ratio = load["ratios"].get(key, {}).get(load["figure"])
            rows.append(f"<tr><td>{text(proxy['label'])}</td>{cells}<td class=\"n\">{terminal.interval(ratio)}</td></tr>")
            for failure in terminal.failures(proxy):
                rows.append(f'<tr><td colspan="{len(columns) + 2}" class="bad">{text(proxy["label"])} failed: {text(failure)}</td></tr>')
    return f"<details><summary>All figures</summary><table>{''.join(rows)}</table></details>"


def absolute_table(loads):
    """Bars without anybody to compare with."""
    rows = [(load, bar) for load in loads for bar in load["bars"] if bar["against"] is None]
    if not rows:
        return ""
    cells = "".join(
        f'<tr><td>{text(load["name"])}</td><td>{FIGURES[bar["figure"]][0]}</td>'
        f'<td class="n">{text(terminal.found(load, bar))}</td>'
        f'<td class="n">{text(terminal.limit_text(load, bar))}</td><td class="n">{text(terminal.aim_text(load, bar))}</td>'
        f'<td class="{plots.STATE_CLASS[bar["state"]]}">{text(terminal.verdict(load, bar))}</td></tr>' for load, bar in rows)
    heads = '<th></th><th></th><th class="n">measured</th><th class="n">bar</th><th class="n">aim</th><th></th>'
    return f"<table><tr>{heads}</tr>{cells}</table>"


def group_plots(name, loads):
    if name == "real TLS":
        return [plots.resumption_plot(loads)]
    if name == "idle":
        return [plots.bars_plot(loads[0], "memory")]
    if name == "micro":
        return [absolute_table(loads)]
    if name in ("fairness", "stalled", "paced"):
        return [plots.latency_plot(loads)]
    by_unit = {}
    for load in loads:
        by_unit.setdefault(load["unit"], []).append(load)
    found = [plots.dots_plot(part, "cpu", "CPU of the proxy") for part in by_unit.values()]
    if name == "exchange":
        found.append(plots.latency_plot([load for load in loads if load["name"].startswith("64 B")]))
    return found


def group_section(name, loads):
    title, about = GROUPS.get(name, (name, ""))
    drawn = "".join(card(plot) for plot in group_plots(name, loads) if plot)
    remarks = "".join(f"<p>{text(load['name'])}: {text(remark)}.</p>" for load in loads for remark in load["remarks"])
    return f"<section><h2>{text(title)}</h2><p class=\"soft\">{text(about)}</p>{remarks}{drawn}{figures_table(loads)}</section>"


def unproven(loads):
    """Bars that no plot can show, because nothing was measured."""
    rows = [f"<li>{text(load['key'])}: {text(bar['why'])}</li>" for load in loads for bar in load["bars"] if bar["state"] == UNMEASURED]
    return f"<p>Not measured:</p><ul>{''.join(rows)}</ul>" if rows else ""


def definition(value):
    if isinstance(value, dict):
        return "<br>".join(f"{text(name)}: {text(item)}" for name, item in value.items()) or "none"
    return text(value)


def environment(whole):
    found, noise = whole["environment"], whole["noise"]
    long = ("mitigations", "sysctls")
    rows = "".join(f"<dt>{text(name)}</dt><dd>{definition(value)}</dd>" for name, value in found.items() if name not in long)
    more = "".join(f"<dt>{name}</dt><dd>{definition(found.get(name, {}))}</dd>" for name in long)
    quiet = ""
    if noise.get("spin_spread") is not None:
        quiet = f"<dt>quiet?</dt><dd>the same computation ±{noise['spin_spread']:.1%}, the same load without a proxy " \
                f"±{noise['direct_spread']:.1%}; of {noise['samples']} samples {noise['disturbed']} stayed disturbed by " \
                f"others, and {noise['slow']} were taken while the machine was slow</dd>"
    return card(f"<dl>{rows}{quiet}</dl>", f"<details><summary>Mitigations and sysctls</summary><dl>{more}</dl></details>")


def subtitle(whole):
    found = whole["environment"]
    machine = [f"{found['processor']}, {found['cores']} cores, Linux {found['kernel']}", f"commit {found['commit']}"] if found else []
    return " · ".join([whole["started"], *machine, f"{whole['minutes']:.0f} minutes"])


def banners(whole):
    found = []
    if whole["noise"]["faults"]:
        found.append(("Too noisy to compare.", "; ".join(whole["noise"]["faults"])))
    if whole["interrupted"]:
        found.append(("Interrupted.", "What was measured until then is shown."))
    return "".join(f'<div class="banner"><b>{title}</b> {text(more)}</div>' for title, more in found)


BODY = """
<h1>Hudsucker beside HAProxy and nginx</h1>
<div class="soft">{subtitle}</div>
{tiles}{banners}
<h2>The bars</h2>
<p class="soft">Each row is a bar that Hudsucker has to meet against the peer named at its end: the best-tuned of this run, or a certain
one; a row without a zone is only there to be seen. The figure is CPU of the proxy for one operation or one GB (or what the row says), divided by the peer's in the same round. A
bar is met when the median lies in the tinted zone and the 90 % interval stays left of 1. Point at a mark for its figures.</p>
{ratios}
{groups}
<section><h2>The machine</h2>
<p class="soft">Measured on loopback: every proxy pays for both its neighbours' packets, and there is no card and no wire.
perf/README.md says what cannot be learnt this way.</p>
{environment}
{notes}</section>
<section><h2>Repeat it</h2>
<pre>{command}</pre>
<p class="soft">In each round every proxy runs once, and each round begins with another one; ratios are made within the round. ± is
half the distance between the quartiles. The peers' configurations, with the reason for every line, are in perf/peers.</p></section>
"""


def render(whole):
    """The page's text."""
    groups = {}
    for load in whole["loads"]:
        groups.setdefault(load["group"], []).append(load)
    notes = "".join(f"<li>{text(note)}</li>" for note in whole["notes"])
    body = BODY.format(
        subtitle=text(subtitle(whole)), tiles=tiles(whole), banners=banners(whole), environment=environment(whole),
        ratios=card(plots.ratio_plot(whole["loads"])) + unproven(whole["loads"]), command=text(" ".join(whole["command"])),
        groups="".join(group_section(name, loads) for name, loads in groups.items()),
        notes=f"<p>What went wrong on the way:</p><ul>{notes}</ul>" if notes else "")
    return ('<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>Hudsucker beside HAProxy and nginx</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>")
