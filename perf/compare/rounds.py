"""Alternation: in each round every proxy is measured once, and each round begins with another one."""
import dataclasses
import time

from . import bars

MAX_REPEATS = 2         # of a sample that was disturbed, or taken while the machine was slow
MAX_FAILURES = 2        # of a proxy in one load; then it is left out, and said
MIN_ROUNDS = 3          # with fewer samples a proxy is nobody's opponent


class SampleFailed(Exception):
    """A proxy did not get through a load; the text says how."""


def reason(error):
    """What is said of a sample or a load that failed. Of what nobody foresaw the type, too, which says more than the text."""
    foreseen = isinstance(error, (SampleFailed, AssertionError, OSError, RuntimeError)) and str(error)
    return str(error) if foreseen else f"{type(error).__name__}: {error}"


@dataclasses.dataclass
class Budget:
    """Time for what was not planned: repeats and further rounds, in the whole run."""
    seconds: float

    def spent_since(self, began):
        self.seconds -= time.monotonic() - began


def order(keys, number):
    """Rotated by one each round, so that nobody is always the first, or always behind the same one."""
    at = number % len(keys)
    return [*keys[at:], *keys[:at]]


class Rounds:
    """Takes the samples of one load. `contest.take(key, round)` returns figures, raw data, and why it was disturbed.

    A virtual machine is slow at times, for seconds, and says nothing: no steal, no other program, and yet every system call
    takes half as long again. It shows in the "rest", what client and node need for an operation, which has nothing to do with
    how good the proxy is. So a sample's slowness is its rest, over the lowest that was seen with the same proxy in the same
    load. Slow samples are taken again; when they stay so they are in no median, and in ratios only beside one that was as slow.
    The proxy's own figure is never looked at to decide that.
    """

    def __init__(self, load, contest, keys, *, calibration, budget, on_sample=lambda key: None):
        self.load, self.contest, self.keys, self.on_sample = load, contest, list(keys), on_sample
        self.calibration, self.budget = calibration, budget
        self.taken, self.failures, self.floors = [], {}, {}
        self.rounds = 0

    @property
    def samples(self):
        """With their slowness, as far as is known by now."""
        for sample in self.taken:
            sample.update(slowness=self._slowness(sample), slow=self._slow(sample), slow_from=self.load.slow)
        return self.taken

    def one_round(self):
        for key in order(self.keys, self.rounds):
            if len(self.failures.get(key, [])) < MAX_FAILURES:
                self.taken.append(self._sample(key))
            self.on_sample(key)
        self.rounds += 1

    def _sample(self, key):
        best, repeats = None, []
        for attempt in range(MAX_REPEATS + 1):
            if attempt and self.budget.seconds <= 0:
                break
            began = time.monotonic()
            try:
                figures, raw, disturbed = self.contest.take(key, self.rounds)
            except Exception as error:  # whatever it is, it must not cost the other samples
                self.failures.setdefault(key, []).append(reason(error))
                return {"proxy": key, "round": self.rounds, "figures": {}, "repeats": repeats, "failure": reason(error)}
            if attempt:
                self.budget.spent_since(began)
            sample = {"proxy": key, "round": self.rounds, "figures": figures, "raw": raw, "disturbed": disturbed}
            self._learn_floor(sample)
            best = min(filter(None, (best, sample)), key=self._badness)
            if disturbed is None and not self._slow(sample):
                break
            repeats.append(disturbed or f"slow, {self._slowness(sample):.2f}")
        self.calibration.samples += 1
        self.calibration.disturbed += best["disturbed"] is not None
        return {**best, "repeats": repeats}

    def _learn_floor(self, sample):
        rest = sample["figures"].get("rest")
        if rest:
            self.floors[sample["proxy"]] = min(rest, self.floors.get(sample["proxy"], rest))

    def _slowness(self, sample):
        rest = sample["figures"].get("rest")
        return rest / self.floors[sample["proxy"]] if rest else None

    def _slow(self, sample):
        return (self._slowness(sample) or 1.0) > self.load.slow

    def _badness(self, sample):
        return (sample["disturbed"] is not None, sample["figures"].get("rest") or 0)

    def failed(self):
        """Proxies that have too few samples to speak of: {key: why}."""
        counts = {key: sum(1 for s in self.taken if s["proxy"] == key and not s.get("failure")) for key in self.keys}
        wanted = min(MIN_ROUNDS, self.rounds)
        return {key: self.failures.get(key, ["no sample"])[-1] for key, count in counts.items() if count < wanted}

    def verdicts(self):
        return [bars.judge(bar, self.samples, self.failed()) for bar in self.load.bars]

    def in_doubt(self):
        return any(bars.in_doubt(verdict, bar) for verdict, bar in zip(self.verdicts(), self.load.bars))

    def go(self, rounds, max_rounds):
        """So many rounds, and further ones while a bar is in doubt and the budget allows it."""
        while self.rounds < rounds:
            self.one_round()
        while self.rounds < max_rounds and self.budget.seconds > 0 and self.in_doubt():
            began = time.monotonic()
            self.one_round()
            self.budget.spent_since(began)
        self.calibration.slow += sum(sample["slow"] for sample in self.samples)
        return self
