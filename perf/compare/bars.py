"""What must be shown, and whether it was: the verdicts.

A ratio's bar is met when the median of the paired ratios is at or under the limit and their 90 % interval stays below 1.0.
The limit 1.0 means "not above": an equal is allowed, and its interval cannot stay below 1.0, so there it has to stay below
TIE_TOLERANCE: more than a tenth above must be out of the question. The aim wants it below 1.0 there, too.
One round has no interval, so it proves nothing and such a bar counts as not measured.
A bar without anybody to compare with is a plain figure: the median at or under the limit, or at least the limit.
Without a limit nothing is asked: the ratio is there to be seen.
"""
import dataclasses

from . import paired

BEST_PEER = "best peer"
BEST_HAPROXY = "best HAProxy"

TIE_TOLERANCE = 1.1

AIM, MET, MISSED, UNMEASURED, SHOWN = "aim", "met", "missed", "unmeasured", "shown"
NO_PEERS = ("hudsucker", "beside", "hudsucker-alone", "hudsucker-logging")  # never the best peer
BUSY = ("haproxy-busy-polling",)  # take a whole core whatever there is to do: compared by name, and never by CPU
LATENCIES = ("p50", "p99", "p999")


@dataclasses.dataclass(frozen=True)
class Bar:
    limit: float | None
    aim: float | None
    against: str | None = BEST_PEER  # or BEST_HAPROXY, a proxy's key, or None: an absolute figure
    figure: str = "cpu"
    at_least: bool = False           # absolute figures only: more is better


@dataclasses.dataclass(frozen=True)
class Verdict:
    state: str              # AIM, MET, MISSED or UNMEASURED; SHOWN without a limit
    why: str                # for people, in brackets behind the state
    ours: float | None = None
    theirs: float | None = None
    against: str | None = None   # the proxy's key it was compared with
    ratio: paired.Ratio | None = None

    @property
    def good(self):
        return self.state in (AIM, MET)


def by_round(samples, proxy, figure):
    """{round: figure} of this proxy's samples that count by themselves: not those that were taken while the machine was slow."""
    return {s["round"]: s["figures"][figure] for s in samples
            if s["proxy"] == proxy and not s.get("failure") and not s.get("slow") and s["figures"].get(figure) is not None}


def pairs(samples, ours, theirs, figure):
    """The figures of both in the rounds that they can be compared in: those in which the machine was as slow for the one as for
    the other (rounds.Rounds). When it was slow for both alike, that is what pairing is for."""
    def of(proxy):
        return {s["round"]: s for s in samples if s["proxy"] == proxy and not s.get("failure") and s["figures"].get(figure) is not None}
    mine, yours = of(ours), of(theirs)
    alike = [r for r in mine.keys() & yours.keys() if _alike(mine[r].get("slowness"), yours[r].get("slowness"), mine[r].get("slow_from"))]
    return ({r: side[r]["figures"][figure] for r in alike} for side in (mine, yours))


def _alike(one, other, limit):
    return one is None or other is None or max(one, other) <= limit * min(one, other)


def medians(samples, figure):
    """{proxy: median}, of those that have any."""
    found = {}
    for proxy in {s["proxy"] for s in samples}:
        values = list(by_round(samples, proxy, figure).values())
        if values:
            found[proxy] = paired.median(values)
    return found


def opponent(bar, samples, failed):
    """The key of whom `bar` compares with; None when nobody was measured. `failed`: proxies that did not get through."""
    have = {proxy: value for proxy, value in medians(samples, bar.figure).items() if proxy not in failed}
    if bar.against not in (BEST_PEER, BEST_HAPROXY):
        return bar.against if bar.against in have and comparable(bar.against, bar.figure) else None
    have = {proxy: value for proxy, value in have.items() if proxy not in NO_PEERS + BUSY}
    if bar.against == BEST_HAPROXY:
        have = {proxy: value for proxy, value in have.items() if proxy.startswith("haproxy")}
    return min(have, key=have.get) if have else None


def comparable(proxy, figure):
    return proxy not in BUSY or figure in LATENCIES


def judge(bar, samples, failed=(), us="hudsucker"):
    """The verdict on one bar. `samples` are those of one load, each {proxy, round, figures, failure?}."""
    verdict = _judge(bar, samples, failed, us)
    return verdict if bar.limit is not None else dataclasses.replace(verdict, state=SHOWN)


def _judge(bar, samples, failed, us):
    mine = by_round(samples, us, bar.figure)
    if us in failed or not mine:
        return Verdict(UNMEASURED, "Hudsucker was not measured")
    ours = paired.median(list(mine.values()))
    if bar.against is None:
        return _judge_absolute(bar, ours)
    key = opponent(bar, samples, failed)
    if key is None:
        return Verdict(UNMEASURED, "who it is compared with was not measured", ours)
    ratio = paired.paired_ratio(*pairs(samples, us, key, bar.figure))
    if ratio is None:
        return Verdict(UNMEASURED, "no round has both while the machine was alike for them", ours, None, key)
    state, why = _judge_ratio(bar, ratio) if bar.limit is not None else (SHOWN, "")
    return Verdict(state, why, ours, medians(samples, bar.figure)[key], key, ratio)


def _judge_absolute(bar, ours):
    def reached(limit):
        return ours >= limit if bar.at_least else ours <= limit
    if reached(bar.aim):
        return Verdict(AIM, "the aim, too", ours)
    if reached(bar.limit):
        return Verdict(MET, "", ours)
    return Verdict(MISSED, f"the median is {'below' if bar.at_least else 'above'} the bar", ours)


def ceiling(limit):
    """What the interval of a ratio has to stay below."""
    return 1.0 if limit < 1.0 else TIE_TOLERANCE


def _judge_ratio(bar, ratio):
    if ratio.high is None:
        return UNMEASURED, "one round"
    if ratio.median > bar.limit:
        return MISSED, "the median is above the bar"
    wanted = ceiling(bar.limit)
    if ratio.high >= wanted:
        return MISSED, f"the 90 % interval does not stay below {wanted}"
    return (AIM, "the aim, too") if ratio.median <= bar.aim and ratio.high < 1.0 else (MET, "")


def in_doubt(verdict, bar):
    """Would further rounds help to decide? Asked of bars that look met as of those that look missed, so that stopping early
    favours neither."""
    ratio = verdict.ratio
    if ratio is None or bar.limit is None:
        return False
    if ratio.low is None:
        return True
    return ratio.low < bar.limit < ratio.high or (ratio.median <= bar.limit and ratio.high >= ceiling(bar.limit))
