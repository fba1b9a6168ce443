#!/usr/bin/env python3
"""The judge of the perf harness, judged: statistics, verdicts, the choice of the opponent, and the exit code.

Measures nothing, so it is cheap: what is tested is what perf/run makes of figures that are given here.
"""
import contextlib
import dataclasses
import io
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "perf"), str(ROOT / "tests/e2e")]

from compare import (bars, guard, loads, machine, options, page, paired, plots, proxies, results, rounds, session,  # noqa: E402
                     terminal, traffic)
from compare.bars import AIM, BEST_HAPROXY, BEST_PEER, MET, MISSED, SHOWN, UNMEASURED, Bar  # noqa: E402


def samples(figure="cpu", **by_proxy):
    """samples(hudsucker=[9, 10], nginx=[11, 12]): one value a round; None is a round in which the proxy failed."""
    found = []
    for proxy, values in by_proxy.items():
        for number, value in enumerate(values):
            sample = {"proxy": proxy.replace("_", "-"), "round": number, "figures": {figure: value}}
            found.append(sample if value is not None else {**sample, "figures": {}, "failure": "it broke"})
    return found


class Statistics(unittest.TestCase):
    def test_median_of_an_even_number_is_between_the_middle_two(self):
        self.assertEqual(paired.median([4, 1, 3, 2]), 2.5)

    def test_spread_is_half_the_distance_of_the_quartiles_over_the_median(self):
        self.assertAlmostEqual(paired.spread([8, 9, 10, 11, 12]), 0.1)

    def test_one_wild_value_moves_neither_median_nor_spread_much(self):
        self.assertEqual(paired.median([10, 10, 10, 11, 1000]), 10)
        self.assertLess(paired.spread([10, 10, 10, 11, 1000]), 0.06)

    def test_the_interval_is_students_t_on_the_logarithms(self):
        # logs -0.1, 0, 0.1: mean 0, deviation 0.1, t(2) = 2.920
        ratio = paired.paired_ratio({0: math.exp(-0.1), 1: 1.0, 2: math.exp(0.1)}, {0: 1, 1: 1, 2: 1})
        self.assertAlmostEqual(ratio.median, 1.0)
        self.assertAlmostEqual(ratio.high, math.exp(2.920 * 0.1 / math.sqrt(3)), places=9)
        self.assertAlmostEqual(ratio.low * ratio.high, 1.0)

    def test_what_both_suffered_in_a_round_does_not_matter(self):
        # The machine was three times slower in round 1; the ratio is 0.8 in each.
        ratio = paired.paired_ratio({0: 8, 1: 24, 2: 8.8}, {0: 10, 1: 30, 2: 11})
        self.assertAlmostEqual(ratio.median, 0.8)
        self.assertAlmostEqual(ratio.high, 0.8)

    def test_only_rounds_that_both_have_count(self):
        self.assertEqual(paired.paired_ratio({0: 1, 2: 1, 3: 1}, {1: 1, 2: 2, 3: 2}).rounds, 2)
        self.assertIsNone(paired.paired_ratio({0: 1}, {1: 1}))

    def test_one_round_has_no_interval(self):
        ratio = paired.paired_ratio({0: 1}, {0: 2})
        self.assertEqual((ratio.median, ratio.low, ratio.high), (0.5, None, None))

    def test_the_median_is_in_its_interval_however_lopsided_the_ratios_are(self):
        for side in (1, -1):  # few rounds far off pull the mean away from many that agree
            ours = {i: math.exp(side) if i in (0, 5, 10) else 1.0 for i in range(40)}
            ratio = paired.paired_ratio(ours, dict.fromkeys(range(40), 1))
            self.assertTrue(ratio.low <= ratio.median <= ratio.high, ratio)
            self.assertIn(1.0, (ratio.low, ratio.high))

    def test_more_rounds_make_the_interval_narrower(self):
        def width(count):
            ratio = paired.paired_ratio({i: 1 + 0.05 * (i % 2) for i in range(count)}, dict.fromkeys(range(count), 1))
            return ratio.high - ratio.low
        self.assertLess(width(8), width(4))

    def test_the_table_of_t_falls_and_ends_above_the_normal_distribution(self):
        self.assertEqual(sorted(paired.T_95, reverse=True), list(paired.T_95))
        self.assertGreater(paired.T_95[-1], 1.645)


NARROW = [1.00, 1.01, 0.99, 1.00, 1.00]
WIDE = [0.60, 1.30, 0.85, 0.80, 1.20]


def scaled(values, factor):
    return [value * factor for value in values]


# What is said of a load's CPU (median ratio, how steady), and the verdict wanted: a bar of 0.90 with an aim of 0.80.
VERDICTS = [
    ("well under the aim", scaled(NARROW, 0.70), AIM),
    ("exactly at the aim", [0.80] * 5, AIM),
    ("between aim and bar", scaled(NARROW, 0.85), MET),
    ("exactly at the bar", [0.90] * 5, MET),
    ("just above the bar, although below 1.0", scaled(NARROW, 0.91), MISSED),
    ("worse than the peer", scaled(NARROW, 1.2), MISSED),
    ("the median is under the bar, and the interval reaches above 1.0", WIDE, MISSED),
    ("one round only, however good", [0.5], UNMEASURED),
    ("one round only, however bad", [1.5], UNMEASURED),
    ("no figure", [], UNMEASURED),
]


class Verdicts(unittest.TestCase):
    def test_ratios(self):
        for name, ours, wanted in VERDICTS:
            with self.subTest(name):
                verdict = bars.judge(Bar(0.90, 0.80), samples(hudsucker=ours, nginx=[1.0] * 5))
                self.assertEqual(verdict.state, wanted, verdict)
                self.assertEqual(verdict.good, wanted in (AIM, MET))

    def test_not_above_is_met_by_an_equal_that_is_sure_but_the_aim_wants_less(self):
        bar = Bar(1.0, 1.0)
        self.assertEqual(bars.judge(bar, samples(hudsucker=WIDE, nginx=[1.0] * 5)).state, MISSED)
        self.assertEqual(bars.judge(bar, samples(hudsucker=NARROW, nginx=[1.0] * 5)).state, MET)
        self.assertEqual(bars.judge(bar, samples(hudsucker=scaled(NARROW, 0.9), nginx=[1.0] * 5)).state, AIM)
        self.assertEqual(bars.judge(bar, samples(hudsucker=scaled(NARROW, 1.02), nginx=[1.0] * 5)).state, MISSED)

    def test_absolute_figures(self):
        for value, wanted in ((0.2, AIM), (0.5, MET), (0.51, MISSED)):
            self.assertEqual(bars.judge(Bar(0.5, 0.25, None, "memory"), samples("memory", hudsucker=[value])).state, wanted)
        for value, wanted in ((31, AIM), (15, MET), (14.9, MISSED)):
            self.assertEqual(bars.judge(Bar(15, 30, None, "lookups", at_least=True), samples("lookups", hudsucker=[value])).state, wanted)

    def test_a_proxy_that_failed_is_no_opponent_and_one_that_never_ran_leaves_the_bar_unmeasured(self):
        taken = samples(hudsucker=[8] * 5, nginx=[4] * 5, haproxy=[10] * 5)
        self.assertEqual(bars.judge(Bar(0.9, 0.8), taken, failed={"nginx": "it broke"}).against, "haproxy")
        self.assertEqual(bars.judge(Bar(0.9, 0.8, "haproxy-splice"), taken).state, UNMEASURED)
        self.assertEqual(bars.judge(Bar(0.9, 0.8), taken, failed={"hudsucker": "it broke"}).state, UNMEASURED)
        self.assertEqual(bars.judge(Bar(0.9, 0.8), samples(hudsucker=[8] * 5)).state, UNMEASURED)

    def test_the_best_peer_is_the_one_with_the_lowest_median_in_this_run(self):
        taken = samples(hudsucker=[8] * 3, nginx=[9, 9, 30], haproxy=[10, 10, 1], haproxy_splice=[11] * 3, beside=[1] * 3)
        self.assertEqual(bars.judge(Bar(0.9, 0.8, BEST_PEER), taken).against, "nginx")
        self.assertEqual(bars.judge(Bar(0.9, 0.8, BEST_HAPROXY), taken).against, "haproxy")
        self.assertEqual(bars.judge(Bar(0.9, 0.8, "haproxy-splice"), taken).against, "haproxy-splice")

    def test_who_never_sleeps_is_compared_by_latency_only_and_by_name_only(self):
        by_cpu = samples(hudsucker=[8] * 5, haproxy=[10] * 5, haproxy_busy_polling=[1] * 5)
        by_latency = samples("p50", hudsucker=[8] * 5, haproxy=[10] * 5, haproxy_busy_polling=[4] * 5)
        self.assertEqual(bars.judge(Bar(0.9, 0.8), by_cpu).against, "haproxy")
        self.assertEqual(bars.judge(Bar(0.9, 0.8, BEST_HAPROXY, "p50"), by_latency).against, "haproxy")
        self.assertEqual(bars.judge(Bar(0.9, 0.8, "haproxy-busy-polling"), by_cpu).state, UNMEASURED)
        verdict = bars.judge(Bar(None, None, "haproxy-busy-polling", "p50"), by_latency)
        self.assertEqual((verdict.state, verdict.ratio.median), (SHOWN, 2.0))

    def test_what_is_only_shown_is_neither_met_nor_missed_and_never_in_doubt(self):
        bar = Bar(None, None, "haproxy", "p50")
        for ours in (NARROW, WIDE, [1.0], [], [None] * 5):
            verdict = bars.judge(bar, samples("p50", hudsucker=ours, haproxy=[1.0] * 5))
            self.assertEqual((verdict.state, bars.in_doubt(verdict, bar)), (SHOWN, False), ours)
        self.assertEqual(bars.judge(bar, samples("p50", hudsucker=NARROW)).state, SHOWN)

    def test_hudsucker_by_itself_is_compared_with_by_name_only(self):
        taken = samples("p50", hudsucker=[8] * 5, hudsucker_alone=[4] * 5, haproxy=[10] * 5)
        self.assertEqual(bars.judge(Bar(1.0, 1.0, BEST_PEER, "p50"), taken).against, "haproxy")
        self.assertEqual(bars.judge(Bar(1.0, 1.0, "hudsucker-alone", "p50"), taken).state, MISSED)

    def test_further_rounds_are_wanted_when_the_bar_is_inside_the_interval_whichever_way_it_looks(self):
        bar = Bar(0.90, 0.80)
        for ours, wanted in ((scaled(NARROW, 0.70), False), (scaled(NARROW, 0.899), True), (scaled(NARROW, 0.905), True),
                             (scaled(NARROW, 1.2), False), (WIDE, True), ([0.5], True)):
            self.assertEqual(bars.in_doubt(bars.judge(bar, samples(hudsucker=ours, nginx=[1.0] * 5)), bar), wanted, ours)


@dataclasses.dataclass
class FakeContest:
    """Gives out what it is told: a figure, or an exception. `cost[key]` is called with how often this proxy was measured."""
    cost: dict
    calls: list = dataclasses.field(default_factory=list)

    def take(self, key, number):
        self.calls.append((number, key))
        value = self.cost[key](sum(other == key for _, other in self.calls))
        if isinstance(value, Exception):
            raise value
        figure, disturbed, rest = value if isinstance(value, tuple) else (value, None, 1.0)
        return {"cpu": figure, "rest": rest}, {}, disturbed


def load_with(*bars_of_load, proxies_of_load=("hudsucker", "haproxy", "nginx")):
    return loads.Load("test", "a load", "traffic", "cpu", tuple(proxies_of_load), tuple(bars_of_load), {}, "µs/op", "op/s")


def run_rounds(contest, *bars_of_load, count=5, most=5, extra_seconds=math.inf):
    taken = rounds.Rounds(load_with(*bars_of_load), contest, ["hudsucker", "haproxy", "nginx"], calibration=machine.Calibration(),
                          budget=rounds.Budget(extra_seconds))
    return taken.go(count, most)


class Alternation(unittest.TestCase):
    def test_each_round_has_every_proxy_once_and_begins_with_another(self):
        contest = FakeContest({key: lambda _: 1.0 for key in ("hudsucker", "haproxy", "nginx")})
        run_rounds(contest, count=3)
        by_round = [[key for number, key in contest.calls if number == n] for n in range(3)]
        self.assertEqual([keys[0] for keys in by_round], ["hudsucker", "haproxy", "nginx"])
        self.assertTrue(all(sorted(keys) == ["haproxy", "hudsucker", "nginx"] for keys in by_round))

    def test_a_proxy_that_fails_is_reported_and_left_out_after_two_failures(self):
        contest = FakeContest({"hudsucker": lambda _: 1.0, "haproxy": lambda _: 2.0, "nginx": lambda _: rounds.SampleFailed("it broke")})
        taken = run_rounds(contest, Bar(0.9, 0.8))
        self.assertEqual(taken.failed(), {"nginx": "it broke"})
        self.assertEqual(sum(key == "nginx" for _, key in contest.calls), rounds.MAX_FAILURES)
        kept = results.of_load(taken.load, taken, {})
        self.assertEqual(kept["proxies"]["nginx"]["failed"], "it broke")
        self.assertIn("it broke", terminal.load_block(kept))

    def test_what_nobody_foresaw_fails_a_sample_and_not_the_load(self):
        contest = FakeContest({"hudsucker": lambda _: 1.0, "haproxy": lambda _: 2.0, "nginx": lambda n: KeyError("x") if n == 1 else 3.0})
        kept = results.of_load(load_with(Bar(0.9, 0.8)), run_rounds(contest, Bar(0.9, 0.8)), {})
        self.assertEqual(kept["proxies"]["nginx"]["failed_at_times"], ["KeyError: 'x'"])
        self.assertEqual(kept["bars"][0]["state"], AIM)

    def test_a_proxy_of_which_every_sample_was_slow_is_shown_as_such(self):
        # The quick sample is the disturbed one, so of each pair the slow one is kept.
        contest = FakeContest({"hudsucker": lambda n: (1.0, "others", 1.0) if n % 3 == 1 else (1.0, None, 2.0),
                               "haproxy": lambda _: 2.0, "nginx": lambda _: 3.0})
        taken = run_rounds(contest, Bar(0.9, 0.8))
        kept = results.of_load(taken.load, taken, {})
        self.assertEqual(kept["proxies"]["hudsucker"]["failed"], results.ALL_SLOW)
        self.assertEqual(kept["bars"][0]["state"], UNMEASURED)
        self.assertIn(results.ALL_SLOW, terminal.load_block(kept))

    def test_a_load_that_cannot_be_measured_has_its_reason_everywhere(self):
        kept = results.of_failed_load(load_with(Bar(0.9, 0.8)), ["hudsucker", "haproxy"], {"nginx": "nginx is not installed"}, "no node")
        self.assertEqual((kept["bars"][0]["state"], kept["proxies"]["nginx"]["failed"]), (UNMEASURED, "nginx is not installed"))
        self.assertIn("no node", terminal.load_block(kept))
        self.assertIn("NOT MEASURED (no node)", terminal.table([kept]))

    def test_a_load_that_could_not_go_ahead_of_others_says_so(self):
        self.assertEqual(results.remarks([{"raw": {"realtime": True}}, {}]), [])
        self.assertEqual(results.remarks([{"raw": {"realtime": False}}]), [results.NOT_AHEAD])
        whole = whole_run()
        whole["loads"][0]["remarks"] = [results.NOT_AHEAD]
        for text in (terminal.load_block(whole["loads"][0]), terminal.table(whole["loads"]), page.group_section("test", whole["loads"])):
            self.assertIn("SCHED_FIFO", text)

    def test_a_disturbed_sample_is_taken_again_and_counted_when_it_stays_so(self):
        contest = FakeContest({"hudsucker": lambda call: (1.0, "others", 1.0) if call == 1 else 1.0,
                               "haproxy": lambda _: (2.0, "others", 1.0), "nginx": lambda _: 2.0})
        taken = run_rounds(contest, count=1)
        self.assertEqual(taken.samples[0]["repeats"], ["others"])
        self.assertIsNone(taken.samples[0]["disturbed"])
        self.assertEqual((taken.calibration.samples, taken.calibration.disturbed), (3, 1))

    def test_a_sample_taken_while_client_and_node_were_slow_is_taken_again_and_at_last_counts_for_nothing(self):
        # Slow are hudsucker's first sample, when nobody can know it yet, and haproxy's second with both its repeats. What the
        # proxy itself needs says nothing: nginx needs twice as much every other time, and all of it counts.
        contest = FakeContest({"hudsucker": lambda n: (1.0, None, 1.5 if n == 1 else 1.0),
                               "haproxy": lambda n: (2.0, None, 1.5 if n in (2, 3, 4) else 1.0),
                               "nginx": lambda n: (4.0 if n % 2 else 2.0, None, 1.0)})
        taken = run_rounds(contest, count=3)
        self.assertEqual({(s["round"], s["proxy"]) for s in taken.samples if s["slow"]}, {(0, "hudsucker"), (1, "haproxy")})
        self.assertEqual(list(bars.by_round(taken.samples, "hudsucker", "cpu")), [1, 2])
        self.assertEqual(list(bars.by_round(taken.samples, "nginx", "cpu")), [0, 1, 2])
        self.assertEqual(sum(key == "haproxy" for _, key in contest.calls), 3 + rounds.MAX_REPEATS)
        self.assertEqual(taken.calibration.slow, 2)

    def test_rounds_in_which_the_machine_was_slow_for_both_alike_are_compared_and_others_are_not(self):
        # Round 0: quiet for both. Round 1: slow for both. Round 2: slow for haproxy only, so it looks bad without fault.
        taken = run_rounds(FakeContest({"hudsucker": lambda n: (0.8, None, 1.0) if n != 2 else (1.28, None, 1.6),
                                        "haproxy": lambda n: (1.0, None, 1.0) if n == 1 else (1.6, None, 1.6), "nginx": lambda _: 9.0}),
                           Bar(0.9, 0.8), count=3, extra_seconds=0)
        verdict = taken.verdicts()[0]
        self.assertEqual((verdict.against, verdict.ratio.rounds), ("haproxy", 2))
        self.assertAlmostEqual(verdict.ratio.high, 0.8)
        self.assertEqual((verdict.ours, verdict.theirs), (0.8, 1.0))

    def test_nothing_is_repeated_when_the_budget_is_used_up(self):
        contest = FakeContest({key: lambda _: (1.0, "others", 1.0) for key in ("hudsucker", "haproxy", "nginx")})
        run_rounds(contest, count=2, extra_seconds=0)
        self.assertEqual(len(contest.calls), 6)

    def test_rounds_are_added_while_the_bar_is_in_doubt_and_no_longer(self):
        def noisy(call):
            return 0.9 + 0.1 * (call % 4 - 1.5)
        doubtful = {"hudsucker": noisy, "haproxy": lambda _: 1.0, "nginx": lambda _: 2.0}
        clear = {**doubtful, "hudsucker": lambda _: 0.5}
        self.assertEqual(run_rounds(FakeContest(doubtful), Bar(0.9, 0.8), most=9).rounds, 9)
        self.assertEqual(run_rounds(FakeContest(doubtful), Bar(0.9, 0.8), most=9, extra_seconds=0).rounds, 5)
        self.assertEqual(run_rounds(FakeContest(clear), Bar(0.9, 0.8), most=9).rounds, 5)


class FakeRun:
    """A run whose proxies are only names; what hud-load is asked for is kept."""

    def __init__(self):
        self.pace = session.QUICK
        self.cores = machine.Cores((0,), 0, 0)
        self.node = unittest.mock.Mock(pid=1)
        self.soft_interrupts, self.core_count = [], 1
        self.started, self.stopped, self.commands = [], [], []

    def keep_node(self):
        pass

    def start_proxy(self, key, cores):
        self.started.append(key)
        return unittest.mock.Mock(pids=[2], address="address", alive=lambda: True, key=key)

    def stop_proxy(self, proxy):
        self.stopped.append(proxy.key)

    def client(self, command, core, patience):
        self.commands.append(command)
        return {"cpu_ns": {"1": 5, "2": 7}, "own_cpu_ns": 3, "operations": 1, "bytes": 1, "seconds": 1,
                "machine_ns": {"busy": 20, "idle": 0, "steal": 0}}


class Samples(unittest.TestCase):
    def setUp(self):
        self.run = FakeRun()
        self.enterContext(unittest.mock.patch.object(traffic, "run_client", self.run.client))
        self.enterContext(unittest.mock.patch.object(machine, "watching_others", lambda: contextlib.nullcontext([0])))

    def contest(self, **changes):
        return traffic.Traffic(dataclasses.replace(load_with(), options={"load": "stalled", "connections": 2}, **changes), self.run)

    def test_who_never_idles_is_there_for_its_own_samples_only(self):
        with contextlib.closing(self.contest()) as contest:
            for key in ("hudsucker", "haproxy-busy-polling", "hudsucker", "haproxy-busy-polling"):
                contest.take(key, 0)
            self.assertEqual(self.run.started, ["hudsucker", "haproxy-busy-polling", "haproxy-busy-polling"])
            self.assertEqual(self.run.stopped, ["haproxy-busy-polling"] * 2)
        self.assertEqual(self.run.stopped[2:], ["hudsucker"])

    def test_a_proxy_can_have_options_of_its_own(self):
        contest = self.contest(changes={"hudsucker-alone": {"connections": 0}})
        for key, wanted in (("hudsucker", "2"), ("hudsucker-alone", "0"), ("beside", "2")):
            contest.take(key, 0)
            command = self.run.commands[-1]
            self.assertEqual(command[command.index("--connections") + 1], wanted)


class Machine(unittest.TestCase):
    def test_the_load_shares_no_physical_core_with_the_proxy_where_it_can(self):
        pairs = {0: {0, 1}, 1: {0, 1}, 2: {2, 3}, 3: {2, 3}, 4: {4, 5}, 5: {4, 5}}
        cores = machine.plan_cores(range(6), pairs.get)
        self.assertEqual((cores.proxy[0], cores.client, cores.server), (0, 2, 4))
        self.assertEqual(machine.plan_cores([0, 1], lambda core: {core}), machine.Cores((0, 1), 1, 1))
        with self.assertRaises(RuntimeError):
            machine.plan_cores([3])

    def test_foreign_programs_and_steal_disturb_a_sample_and_our_own_do_not(self):
        second = 1_000_000_000
        quiet = {"busy": 1.9 * second, "idle": 0.1 * second, "steal": 0}
        self.assertIsNone(machine.disturbance(1.88 * second, 0.01 * second, quiet, 1, 2))
        self.assertIn("other programs took 10.0%", machine.disturbance(1.88 * second, 0.2 * second, quiet, 1, 2))
        self.assertIn("nobody knows", machine.disturbance(1.2 * second, 0, quiet, 1, 2))
        self.assertIn("hypervisor", machine.disturbance(1.88 * second, 0, {**quiet, "steal": 0.1 * second}, 1, 2))

    def test_a_process_that_said_nothing_is_said_to_have_said_nothing(self):
        self.assertEqual(machine.ended("nginx", 1, " \n"), "nginx ended with 1 and said nothing")
        self.assertEqual(machine.ended("nginx", 1, "no such file\n"), "nginx ended with 1: no such file")
        self.assertEqual(machine.ended("nginx", -9, ""), "nginx was ended by SIGKILL and said nothing")

    def test_programs_of_others_are_seen_and_our_own_are_not(self):
        # The shell ends at once, so its child is nobody's descendant.
        orphan = int(subprocess.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True, check=True).stdout)
        child = subprocess.Popen(["sleep", "60"])
        try:
            others = machine.cpu_of_others()
            self.assertIn(orphan, others)
            self.assertNotIn(child.pid, others)
            self.assertNotIn(os.getpid(), others)
        finally:
            os.kill(orphan, signal.SIGKILL)
            child.kill()
            child.wait()

    def test_what_others_use_meanwhile_is_added_up_also_of_those_that_began_meanwhile(self):
        seen = iter([{1: 100, 2: 50}, {1: 160, 3: 40}])
        with unittest.mock.patch.object(machine, "cpu_of_others", lambda: next(seen)), machine.watching_others() as others:
            pass
        self.assertEqual(others, [100])

    def test_a_noisy_machine_is_said_to_be_one(self):
        quiet = machine.Calibration([100, 101, 100, 99], [5.0, 5.1, 5.0, 5.05], 40, 1)
        self.assertEqual(quiet.faults(), [])
        self.assertIn("computation", machine.Calibration([100, 140, 90, 150], [5.0] * 4).faults()[0])
        self.assertIn("without a proxy", machine.Calibration([100] * 4, [5, 9, 4, 8]).faults()[0])
        self.assertIn("disturbed", machine.Calibration([100] * 4, [5.0] * 4, 40, 10).faults()[0])
        self.assertIn("slow", machine.Calibration([100] * 4, [5.0] * 4, 40, 0, 20).faults()[0])
        self.assertFalse(machine.Calibration(samples=40, disturbed=10).hopeless())
        self.assertTrue(machine.Calibration(samples=40, disturbed=30).hopeless())


class Loads(unittest.TestCase):
    def test_every_load_has_a_name_of_its_own_and_hudsucker_in_it(self):
        every = loads.all_loads()
        self.assertEqual(len({load.key for load in every}), len(every))
        for load in every:
            self.assertIn("hudsucker", load.proxies, load.key)
            for bar in load.bars:
                self.assertIn(bar.figure, loads.FIGURES)
                self.assertTrue(bar.against in (None, BEST_PEER, BEST_HAPROXY) or bar.against in load.proxies, load.key)
                if bar.limit is None:
                    self.assertIsNone(bar.aim)
                else:
                    self.assertTrue(bar.aim >= bar.limit if bar.at_least else bar.aim <= bar.limit, load.key)
            self.assertLessEqual(load.changes.keys(), set(load.proxies))

    def test_words_choose_loads(self):
        every = loads.all_loads()
        self.assertEqual({load.group for load in loads.chosen(every, "exchange, idle relays")}, {"exchange", "idle"})
        self.assertEqual([load.name for load in loads.chosen(every, "exchange 64 b")],
                         ["64 B, 1 connection", "64 B, 64 connections", "64 B, 1000 connections"])
        self.assertTrue(all("RST" in load.key for load in loads.chosen(every, "connect rst")))
        self.assertEqual({load.group for load in loads.chosen(every, "connect")}, {"connect", "two workers"})  # not "connections"
        self.assertEqual([load.name for load in loads.chosen(every, "exchange 64 64")], ["64 B, 64 connections"])
        self.assertEqual([load.group for load in loads.chosen(every, "8000, 20000")], ["idle", "paced"])
        for words in ("no such load", ",", "", "exchange connect", "6"):
            self.assertEqual(loads.chosen(every, words), [], words)
        for load in every:
            self.assertEqual(loads.chosen(every, load.key), [load])
        self.assertTrue(0 < len(loads.chosen(every, quick=True)) < len(every))

    def test_every_peer_has_its_file_and_every_name_in_it_is_known(self):
        values = dict.fromkeys(("address", "node", "server_name", "workers", "max_connections", "worker_connections", "descriptors",
                                "folder", "core_list", "core_masks", "user_line", "buffer_size"), "x")
        for template in proxies.templates():
            self.assertNotIn("@", proxies.fill(template, values).replace("@NAME@", ""), template)
        self.assertEqual({path.name for path in proxies.PEERS.iterdir()}, proxies.templates())


def whole_run(state=MET, noise=()):
    """A run as the JSON file has it, with one load whose bar has this state."""
    ours = {AIM: 0.7, MET: 0.85, MISSED: 0.95, UNMEASURED: None}[state]
    taken = run_rounds(FakeContest({"hudsucker": lambda _: ours if ours else rounds.SampleFailed("it broke"), "haproxy": lambda _: 1.0,
                                    "nginx": lambda _: 1.1}), Bar(0.90, 0.80))
    return {"version": results.VERSION, "mode": "test", "command": ["perf/run"], "started": "2024-01-01 00:00:00", "minutes": 1.0,
            "pace": {}, "environment": {}, "noise": {"faults": list(noise), "spins": [], "directs": []}, "notes": [], "interrupted": False,
            "loads": [results.of_load(taken.load, taken, {})]}


class Words(unittest.TestCase):
    """What a person reads must not contradict itself."""

    def row(self, **changes):
        whole = whole_run()
        load = whole["loads"][0]
        load["bars"][0].update(changes)
        return terminal.bar_rows([load])[0]

    def test_a_figure_has_as_many_digits_as_tell_it_from_the_bar(self):
        for value, marks, wanted in ((0.884, (0.88,), "0.884"), (0.8796, (0.88,), "0.8796"), (0.88, (0.88,), "0.88"),
                                     (0.85, (0.88, 0.80), "0.85"), (0.996, (1.0,), "0.996"), (0.8804, (0.88,), "0.8804")):
            self.assertEqual(terminal.beside(value, marks), wanted)
        ratio = {"median": 0.884, "low": 0.80, "high": 0.9996, "rounds": 5}
        self.assertEqual(self.row(ratio=ratio, limit=0.88, state=MISSED, why="the median is above the bar")[2:],
                         ("0.884 (0.80–0.9996)", "≤ 0.88", "0.80", "MISSED (the median is above the bar)", MISSED))

    def test_one_round_is_said_to_prove_nothing(self):
        verdict = bars.judge(Bar(0.90, 0.80), samples(hudsucker=[0.5], nginx=[1.0]))
        self.assertEqual(self.row(state=verdict.state, why=verdict.why, ratio=dataclasses.asdict(verdict.ratio), rounds=1)[5],
                         "NOT MEASURED (one round, 1 of 5 rounds could be paired)")

    def test_rounds_that_were_left_out_are_said(self):
        ratio = {"median": 0.7, "low": 0.6, "high": 0.8, "rounds": 3}
        self.assertEqual(self.row(ratio=ratio)[5], "met (3 of 5 rounds could be paired)")
        self.assertEqual(self.row(ratio={**ratio, "rounds": 5})[5], "met")

    def test_absolute_figures_have_their_unit(self):
        for figure, ours, wanted in (("time", 98.71, ("98.7 ns", "≤ 200 ns", "120 ns")),
                                     ("bytes", 24.0, ("24.0 B/token", "≤ 200 B/token", "120 B/token")),
                                     ("memory", 0.2, ("0.20 KiB/relay", "≤ 200 KiB/relay", "120 KiB/relay"))):
            self.assertEqual(self.row(figure=figure, ours=ours, against=None, ratio=None, limit=200, aim=120)[2:5], wanted)

    def test_what_is_only_shown_has_no_bar(self):
        ratio = {"median": 1.884, "low": 1.80, "high": 1.9, "rounds": 5}
        shown = dict(limit=None, aim=None, state=SHOWN, why="", against="haproxy", figure="p50", compared_with="haproxy")
        self.assertEqual(self.row(ratio=ratio, **shown)[2:], ("1.88 (1.80–1.90)", "none", "–", "shown", SHOWN))
        self.assertEqual(self.row(ratio=None, **{**shown, "why": "it broke"})[2:], ("–", "none", "–", "shown (it broke)", SHOWN))
        whole = whole_run()
        whole["loads"][0]["bars"].append({**whole["loads"][0]["bars"][0], **shown, "ratio": ratio})
        self.assertEqual(results.exit_code(whole["loads"], []), 0)
        self.assertEqual(sum(results.states(whole["loads"]).values()), 1)
        self.assertIn("p50 1.88 (1.80–1.90) of HAProxy, tuned, copying, no bar", terminal.load_block(whole["loads"][0]))
        self.assertIn("| 1.88 (1.80–1.90) | none | – | shown |", terminal.markdown(whole["loads"]))
        self.assertIn("no bar", plots.ratio_plot(whole["loads"]))
        self.assertIn("1 of 1", page.render(whole))

    def test_a_finished_load_has_no_verdict_that_the_end_could_take_back(self):
        for state in (AIM, MET, MISSED):
            block = terminal.load_block(whole_run(state)["loads"][0])
            self.assertIn("bar ≤ 0.90", block)
            for word in ("met", "MISSED"):
                self.assertNotIn(word, block)


class ExitCode(unittest.TestCase):
    """The program itself, over a run that is given to it."""

    def conclude(self, whole, *options):
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder) / "run.json"
            source.write_text(json.dumps(whole), encoding="utf-8")
            return subprocess.run([sys.executable, ROOT / "perf/run.py", "--from", source, "--html", pathlib.Path(folder) / "run.html",
                                   *options], capture_output=True, text=True)

    def test_all_bars_met_is_0(self):
        for state in (AIM, MET):
            done = self.conclude(whole_run(state))
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_a_missed_bar_is_1_and_said(self):
        done = self.conclude(whole_run(MISSED))
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("MISSED", done.stdout)

    def test_a_bar_that_could_not_be_measured_is_1_too(self):
        done = self.conclude(whole_run(UNMEASURED))
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("NOT MEASURED", done.stdout)
        self.assertIn("it broke", json.dumps(whole_run(UNMEASURED)))

    def test_a_noisy_machine_is_3_whatever_the_bars_look_like(self):
        for state in (AIM, MISSED):
            done = self.conclude(whole_run(state, ["others work here"]))
            self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
            self.assertIn("too noisy to compare", done.stderr)
            self.assertIn("others work here", done.stderr)
            self.assertIn("not judged", done.stdout)
            self.assertNotIn("MISSED", done.stdout)

    def test_a_file_that_cannot_be_read_is_2_and_one_sentence(self):
        broken = whole_run()
        del broken["loads"][0]["bars"][0]["limit"]
        for whole, words in (({**whole_run(), "version": 1}, "measure again"), ([], "no version"), ({"version": results.VERSION}, "shape"),
                             (broken, "shape")):
            done = self.conclude(whole)
            self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
            self.assertIn(words, done.stderr)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def test_a_reader_that_is_gone_costs_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder) / "run.json"
            source.write_text(json.dumps(whole_run()), encoding="utf-8")
            read, write = os.pipe()
            os.close(read)
            done = subprocess.run([sys.executable, ROOT / "perf/run.py", "--from", source], stdout=write, stderr=subprocess.PIPE,
                                  text=True)
            os.close(write)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertTrue(source.with_suffix(".html").exists())

    def test_words_that_choose_nothing_are_2(self):
        done = subprocess.run([sys.executable, ROOT / "perf/run.py", "--only", "no such load"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("no load has the words", done.stderr)


class Options(unittest.TestCase):
    """Mistakes are found before anything else happens, and said in a sentence."""

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def read(self, *arguments):
        return options.read("", self.folder, [str(argument) for argument in arguments])

    def refused(self, *arguments):
        """What is said."""
        with contextlib.redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit) as ended:
            self.read(*arguments)
        self.assertEqual(ended.exception.code, 2)
        return said.getvalue()

    def test_mistakes(self):
        (self.folder / "file").touch()
        for arguments, words in (
                (["--from="], "empty"), (["--json="], "empty"), (["--beside", "nowhere"], "no program"), (["--only", ","], "no word"),
                (["--only="], "no word"), (["--only", "exchange, nonsense"], "'nonsense'"), (["--only", "1 kb exchange connect"], "no load"),
                (["--proxies", "nobody"], "haproxy-splice-auto"), (["--proxies", ","], "no word"),
                (["--only", "micro", "--proxies", "nginx"], "none of the chosen loads"), (["--rounds", "0"], "at least 1"),
                (["--json", self.folder / "a", "--svg", self.folder / "a"], "written over"),
                (["--from", self.folder / "run.html"], "written over"), (["--seconds", "nan"], "between"),
                (["--svg", self.folder / "file" / "x.svg"], "cannot be written"), (["--markdown", self.folder], "cannot be written"),
                (["--fro", "x"], "unrecognized")):
            with self.subTest(arguments):
                self.assertIn(words, self.refused(*arguments))

    def program(self, path, says):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)
        return path

    def test_the_other_hudsucker_is_a_program_or_the_folder_of_its_build(self):
        program = self.program(self.folder / "tree/build/release/bin/hudsucker", "hudsucker 0.0.1")
        for named in (program, program.parent, program.parent.parent, self.folder / "tree"):
            self.assertEqual(self.read("--beside", named).beside, program)
        self.assertIn("nor hudsucker, bin/hudsucker", self.refused("--beside", self.folder))
        other = self.program(self.folder / "other", "other 1.0")
        self.assertIn("is not hudsucker", self.refused("--beside", other))
        broken = self.folder / "broken"
        broken.write_text("no program")
        broken.chmod(0o755)
        self.assertIn("cannot be run", self.refused("--beside", broken))
        with unittest.mock.patch.object(options.harness, "PROGRAMS", program.parent):
            self.assertIn("measured anyway", self.refused("--beside", program))

    def test_folders_of_all_files_are_made_and_nothing_is_left_in_them(self):
        names = [(f"--{kind}", self.folder / kind / "deep" / "out") for kind in ("json", "html", "svg", "markdown")]
        self.read(*[part for pair in names for part in pair])
        for _, path in names:
            self.assertEqual((path.parent.is_dir(), path.exists()), (True, False))

    def test_what_is_there_is_not_touched_beforehand(self):
        (self.folder / "x").write_text("before")
        self.read("--json", self.folder / "x")
        self.assertEqual((self.folder / "x").read_text(), "before")

    def test_only_a_whole_run_has_its_name_and_the_page_is_beside_the_json(self):
        def names(*arguments, finished=True):
            outputs = options.outputs(self.read(*arguments), self.folder, finished)
            return tuple(path and path.relative_to(self.folder).as_posix() for path in (outputs.json, outputs.html))
        self.assertEqual(names(), ("full.json", "full.html"))
        self.assertEqual(names("--quick"), ("quick.json", "quick.html"))
        self.assertEqual(names("--quick", finished=False), ("unfinished.json", "unfinished.html"))
        for shaping in (["--only", "bulk"], ["--proxies", "nginx"], ["--rounds", "3"], ["--seconds", "1"], ["--relay", "copy"]):
            self.assertEqual(names("--quick", *shaping), ("some.json", "some.html"), shaping)
        self.assertEqual(names("--json", self.folder / "a/b.json", finished=False), ("a/b.json", "a/b.html"))
        self.assertEqual(names("--from", self.folder / "c.json"), (None, "c.html"))

    def test_files_are_relative_to_where_the_user_stands(self):
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        self.assertEqual(self.read("--json", "x.json").json, self.folder / "x.json")


class Guard(unittest.TestCase):
    """A run that is killed leaves nothing behind."""

    RUN = """
import os, pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGHUP, signal.Handlers[sys.argv[4]])
sys.path[:0] = sys.argv[1:3]
from compare import guard
folder = pathlib.Path(sys.argv[3])
def work():
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    for number in guard.ENDING:
        signal.signal(number, signal.default_int_handler)
    (folder / "pids.new").write_text(f"{os.getpid()} {child.pid}")
    (folder / "pids.new").rename(folder / "pids")
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        (folder / "kept").touch()
    return 7
sys.exit(guard.guarded(work))
"""

    def begin(self, hang_up="SIG_DFL"):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.outer = subprocess.Popen([sys.executable, "-c", self.RUN, *sys.path[:2], self.folder, hang_up], start_new_session=True)
        self.addCleanup(self.outer.wait)
        self.addCleanup(self.outer.kill)
        self.until((self.folder / "pids").exists)
        self.run_pid, self.child = map(int, (self.folder / "pids").read_text().split())

    def until(self, predicate):
        deadline = time.monotonic() + 20
        while not predicate():
            self.assertLess(time.monotonic(), deadline, "it did not come about")
            time.sleep(0.01)

    def child_is_gone(self):
        return not pathlib.Path(f"/proc/{self.child}").exists()

    def test_the_run_killed(self):
        self.begin()
        os.kill(self.run_pid, signal.SIGKILL)
        self.assertEqual(self.outer.wait(20), 128 + signal.SIGKILL)
        self.assertTrue(self.child_is_gone())

    def test_all_that_the_user_sees_killed(self):
        self.begin()
        os.killpg(self.outer.pid, signal.SIGKILL)
        self.until(self.child_is_gone)
        self.until((self.folder / "kept").exists)

    def reaches_the_run(self, number):
        self.outer.send_signal(number)
        self.assertEqual(self.outer.wait(20), 7)
        self.assertTrue(self.child_is_gone() and (self.folder / "kept").exists())

    def test_an_end_that_is_asked_for(self):
        self.begin()
        self.reaches_the_run(signal.SIGTERM)

    def test_a_terminal_that_hangs_up(self):
        self.begin()
        self.reaches_the_run(signal.SIGHUP)

    def test_a_terminal_that_hangs_up_when_the_user_said_nohup(self):
        self.begin("SIG_IGN")
        self.outer.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        self.assertIsNone(self.outer.poll())
        self.reaches_the_run(signal.SIGTERM)


class Alone(unittest.TestCase):
    def test_one_run_at_a_time(self):
        with tempfile.TemporaryDirectory() as folder:
            lock = pathlib.Path(folder) / "lock"
            with guard.alone(lock):
                with self.assertRaisesRegex(RuntimeError, "another perf/run is running"):
                    guard.alone(lock)
            guard.alone(lock).close()


class Page(unittest.TestCase):
    def test_the_table_and_the_plot_for_a_readme_have_a_row_for_each_bar(self):
        whole = whole_run(MISSED)
        self.assertIn("| test: a load | HAProxy, tuned, copying (best) | 0.95 (0.95–0.95) | ≤ 0.90 | 0.80 | **missed** |",
                      terminal.markdown(whole["loads"]))
        plot = plots.ratio_plot(whole["loads"], alone=True)
        self.assertTrue(plot.startswith("<svg") and "<style>" in plot and "a load" in plot)


    def test_it_is_one_file_that_asks_for_nothing_and_shows_the_verdict(self):
        text = page.render(whole_run(MISSED))
        for word in ("src=", "@import", "url(", "<link", "<script"):
            self.assertNotIn(word, text)
        self.assertIn("missed", text.lower())
        self.assertIn("<svg", text)


if __name__ == "__main__":
    unittest.main()
