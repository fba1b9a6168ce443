"""Statistics of alternating rounds: medians, their spread, and ratios that are paired within the round.

In one round every proxy is measured once, shortly after each other, so what the machine did in these seconds met all of
them alike. A ratio of two figures of the same round is therefore far steadier than the ratio of two medians.
"""
import dataclasses
import math

# Student's t, 95th percentile (so two sides make a 90 % interval), by degrees of freedom from 1; beyond the end the last is
# used, which is a little too wide and never too narrow.
T_95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753, 1.746, 1.740,
        1.734, 1.729, 1.725)


def quantile(values, share):
    """Between the two nearest values, linearly."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def median(values):
    return quantile(values, 0.5)


def spread(values):
    """Half the distance between the quartiles, as a share of the median: what "±" means in the tables."""
    middle = median(values)
    return (quantile(values, 0.75) - quantile(values, 0.25)) / 2 / abs(middle) if middle else 0.0


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Ours to theirs over paired rounds; `low` and `high` are the 90 % interval, with the median in it (None with fewer than two
    rounds)."""
    median: float
    low: float | None
    high: float | None
    rounds: int


def paired_ratio(ours, theirs):
    """`ours` and `theirs` map a round to a figure; only rounds that both have count. None when there is none.

    The interval is Student's t on the logarithms: ratios of positive figures are symmetric there (2 and 1/2 are as far from
    1), and one bad round widens it instead of being cut away. It is one of their mean, which the median can lie outside of where
    the ratios are lopsided; it then reaches to the median, so what is promised (90 %, and about the median) holds in any case.
    """
    logs = [math.log(ours[r] / theirs[r]) for r in sorted(ours.keys() & theirs.keys()) if ours[r] > 0 and theirs[r] > 0]
    if not logs:
        return None
    middle = median(logs)
    if len(logs) < 2:
        return Ratio(math.exp(middle), None, None, len(logs))
    mean = sum(logs) / len(logs)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in logs) / (len(logs) - 1))
    half = T_95[min(len(logs) - 1, len(T_95)) - 1] * deviation / math.sqrt(len(logs))
    return Ratio(math.exp(middle), math.exp(min(middle, mean - half)), math.exp(max(middle, mean + half)), len(logs))
