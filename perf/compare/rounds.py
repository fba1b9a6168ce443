"""Alternation: in each round every proxy is measured once, and each round begins with another one."""
import time

from . import bars

MAX_REPEATS = 2         # of a sample that others disturbed
MAX_FAILURES = 2        # of a proxy in one load; then it is left out, and said
MIN_ROUNDS = 3          # with fewer samples a proxy is nobody's opponent


class SampleFailed(Exception):
    """A proxy did not get through a load; the text says how."""


def order(keys, number):
    """Rotated by one each round, so that nobody is always the first, or always behind the same one."""
    at = number % len(keys)
    return [*keys[at:], *keys[:at]]


class Rounds:
    """Takes the samples of one load. `contest.take(key, round)` returns figures, raw data, and why it was disturbed."""

    def __init__(self, load, contest, keys, *, calibration, on_sample=lambda key: None):
        self.load, self.contest, self.keys, self.calibration, self.on_sample = load, contest, list(keys), calibration, on_sample
        self.samples, self.failures = [], {}
        self.rounds = 0

    def one_round(self):
        for key in order(self.keys, self.rounds):
            if len(self.failures.get(key, [])) < MAX_FAILURES:
                self.samples.append(self._sample(key))
            self.on_sample(key)
        self.rounds += 1

    def _sample(self, key):
        sample = {"proxy": key, "round": self.rounds, "figures": {}, "repeats": []}
        for attempt in range(MAX_REPEATS + 1):
            try:
                figures, raw, disturbed = self.contest.take(key, self.rounds)
            except (SampleFailed, AssertionError, OSError) as error:
                self.failures.setdefault(key, []).append(str(error))
                sample["failure"] = str(error)
                return sample
            sample.update(figures=figures, raw=raw, disturbed=disturbed)
            if disturbed is None:
                break
            if attempt < MAX_REPEATS:
                sample["repeats"].append(disturbed)
        self.calibration.samples += 1
        self.calibration.disturbed += disturbed is not None
        return sample

    def failed(self):
        """Proxies that have too few samples to speak of: {key: why}."""
        counts = {key: sum(1 for s in self.samples if s["proxy"] == key and not s.get("failure")) for key in self.keys}
        wanted = min(MIN_ROUNDS, self.rounds)
        return {key: self.failures.get(key, ["no sample"])[-1] for key, count in counts.items() if count < wanted}

    def verdicts(self):
        return [bars.judge(bar, self.samples, self.failed()) for bar in self.load.bars]

    def in_doubt(self):
        return any(bars.in_doubt(verdict, bar) for verdict, bar in zip(self.verdicts(), self.load.bars))

    def go(self, rounds, max_rounds, extra_seconds):
        """So many rounds, and further ones while a bar is in doubt. Returns the seconds that the further ones took: they stop
        once these are more than `extra_seconds`."""
        while self.rounds < rounds:
            self.one_round()
        began = time.monotonic()
        while self.rounds < max_rounds and time.monotonic() - began < extra_seconds and self.in_doubt():
            self.one_round()
        return time.monotonic() - began
