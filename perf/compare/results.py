"""Results as plain data: what the JSON file has, and what the table and the page are made from."""
import dataclasses
import json

from . import paired
from .bars import AIM, MET, MISSED, SHOWN, UNMEASURED, Verdict, by_round, comparable, pairs
from .loads import FIGURES
from .proxies import KINDS

VERSION = 2
EXIT_GOOD, EXIT_MISSED, EXIT_CANNOT, EXIT_NOISY, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
TLS_LABELS = {"haproxy-round-robin": "HAProxy, round robin", "haproxy-sticky": "HAProxy, sticks to session ids"}


def label(key):
    return TLS_LABELS.get(key) or KINDS[key].label


def unit_of(load, figure):
    """`load` as in the results."""
    if figure in ("cpu", "machine", "rest"):
        return load["unit"] or "µs/connection"
    if figure == "rate":
        return load["rate_unit"]
    return FIGURES[figure][1]


ALL_SLOW = "no sample counts: in each of them client and node were slow"
NOT_AHEAD = ("client and node could not go ahead of others on their core (SCHED_FIFO takes root or CAP_SYS_NICE), so the tails are "
             "those of the load itself")


def remarks(samples):
    """What must be known to read the figures of a load."""
    return [NOT_AHEAD] if any(sample.get("raw", {}).get("realtime") is False for sample in samples) else []


def _frame(load):
    return {"key": load.key, "group": load.group, "name": load.name, "kind": load.kind, "figure": load.figure, "unit": load.unit,
            "rate_unit": load.rate_unit, "workers": load.workers, "options": load.options}


def of_failed_load(load, keys, missing, why, trace=""):
    """What is kept of a load that could not be measured at all; `trace`: where in the program that was."""
    proxies = {key: {"label": label(key), "figures": {}, "failed": missing.get(key, why)} for key in [*keys, *missing]}
    verdicts = [{**dataclasses.asdict(bar), **_verdict(Verdict(SHOWN if bar.limit is None else UNMEASURED, why))} for bar in load.bars]
    return {**_frame(load), "rounds": 0, "proxies": proxies, "ratios": {}, "bars": verdicts, "samples": [], "remarks": [],
            "trace": trace}


def of_load(load, rounds, missing):
    """What is kept of one load."""
    failed = rounds.failed()
    proxies = {}
    for key in rounds.keys:
        figures = {}
        for figure in FIGURES:
            values = list(by_round(rounds.samples, key, figure).values())
            if values:
                figures[figure] = {"median": paired.median(values), "spread": paired.spread(values), "values": values}
        proxies[key] = {"label": label(key), "figures": figures}
        if key in failed:
            proxies[key]["failed"] = failed[key]
        elif key in rounds.failures:
            proxies[key]["failed_at_times"] = rounds.failures[key]
        if not figures:
            proxies[key].setdefault("failed", ALL_SLOW)
    for key, why in missing.items():
        proxies[key] = {"label": label(key), "figures": {}, "failed": why}
    verdicts = [{**dataclasses.asdict(bar), **_verdict(verdict)} for bar, verdict in zip(load.bars, rounds.verdicts())]
    return {**_frame(load), "rounds": rounds.rounds, "proxies": proxies, "ratios": _ratios(load, rounds), "bars": verdicts,
            "samples": rounds.samples, "remarks": remarks(rounds.samples)}


def _verdict(verdict):
    return {"state": verdict.state, "why": verdict.why, "ours": verdict.ours, "theirs": verdict.theirs,
            "compared_with": verdict.against, "ratio": dataclasses.asdict(verdict.ratio) if verdict.ratio else None}


def _ratios(load, rounds):
    """Ours to every other, by figure: {proxy: {figure: ratio}}. Memory too, where it is the figure."""
    found = {}
    for figure in dict.fromkeys((load.figure, "cpu", "machine", "rate", "p50", "p99", "p999")):
        for key in rounds.keys:
            ratio = None if key == "hudsucker" or not comparable(key, figure) else paired.paired_ratio(*pairs(rounds.samples, "hudsucker", key, figure))
            if ratio:
                found.setdefault(key, {})[figure] = dataclasses.asdict(ratio)
    return found


def states(loads):
    """{state: how many bars}. What is only shown is no bar."""
    count = dict.fromkeys((AIM, MET, MISSED, UNMEASURED), 0)
    for load in loads:
        for bar in load["bars"]:
            if bar["state"] != SHOWN:
                count[bar["state"]] += 1
    return count


def exit_code(loads, noise_faults):
    """Noise first: on a noisy machine neither a bar met nor one missed means anything."""
    if noise_faults:
        return EXIT_NOISY
    count = states(loads)
    return EXIT_MISSED if count[MISSED] or count[UNMEASURED] else EXIT_GOOD


def as_text(whole):
    return json.dumps(whole, indent=1, ensure_ascii=False)


def load_file(path):
    """What as_text() made of a run. Raises RuntimeError with a sentence; what is inside is not looked at any closer."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RuntimeError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise RuntimeError(f"{path} is no JSON, so not of perf/run") from None
    if not isinstance(whole, dict) or "version" not in whole:
        raise RuntimeError(f"{path} is not of perf/run: it says no version")
    if whole["version"] != VERSION:
        raise RuntimeError(f"{path} is of version {whole['version']}, and this perf/run reads version {VERSION}: measure again")
    return whole
