"""The loads, and the bar on each: the one table to change when a load or a bar is to be added.

A load names the proxies it is run against, the figure that is compared, and its bars. perf/README.md says what each load is
there for.
"""
import collections
import dataclasses
import re

from .bars import BEST_HAPROXY, BEST_PEER, Bar

KIB = 1024

# figure: what people call it, its unit, and how many digits after the point
FIGURES = {
    "cpu": ("proxy CPU", None, 2),  # the load's own unit
    "machine": ("machine CPU", None, 2),
    "rest": ("client and node", None, 2),
    "rate": ("throughput", None, 1),
    "p50": ("p50", "µs", 1),
    "p99": ("p99", "µs", 1),
    "p999": ("p99.9", "µs", 1),
    "memory": ("user memory", "KiB/relay", 2),
    "kernel_memory": ("kernel memory", "KiB/relay", 1),
    "node_cpu": ("node CPU", "µs/connection", 0),
    "resumed": ("resumed", "%", 1),
    "handshakes": ("handshakes", "1/s", 0),
    "time": ("time", "ns", 1),
    "lookups": ("look-ups", "M/s", 1),
    "bytes": ("memory", "B/token", 1),
}

SMALL = ("hudsucker", "haproxy", "haproxy-default", "nginx")
MIDDLE = ("hudsucker", "haproxy", "haproxy-default", "nginx-large")
LARGE = ("hudsucker", "haproxy", "haproxy-splice", "haproxy-splice-auto", "nginx-large")
MIXED = ("hudsucker", "haproxy", "haproxy-default", "haproxy-splice", "nginx-large")
NEVER_ASLEEP = ("haproxy-busy-polling",)  # for the latency of a connection that is alone
TLS = ("hudsucker", "haproxy-round-robin", "haproxy-sticky")  # in front of real TLS nodes


@dataclasses.dataclass(frozen=True)
class Load:
    group: str
    name: str
    kind: str                 # traffic, memory, tls or micro: who measures it
    figure: str               # what is compared
    proxies: tuple
    bars: tuple = ()
    options: dict = dataclasses.field(default_factory=dict)  # for who measures it
    unit: str = ""            # of "cpu" and "machine"
    rate_unit: str = ""
    longer: float = 1.0       # samples are so much longer than those of the others
    slow: float = 1.15        # a sample is slow when client and node need so much more than at best (rounds.Rounds)
    workers: int = 1
    quick: bool = False       # part of --quick
    changes: dict = dataclasses.field(default_factory=dict)  # by proxy: what is different in its options

    @property
    def key(self):
        return f"{self.group}: {self.name}"


def size(count):
    return f"{count // KIB} KB" if count >= KIB else f"{count} B"


def connections(count):
    return "1 connection" if count == 1 else f"{count} connections"


def bulk():
    bars = {1: (0.97, 0.90), 16: (0.93, 0.85), 64: (0.90, 0.75), 256: (0.85, 0.70)}
    for direction, load in (("down", "download"), ("up", "upload")):
        for count, (limit, aim) in bars.items():
            yield Load("bulk", f"{direction}, {connections(count)}", "traffic", "cpu", LARGE,
                       (Bar(limit, aim, "haproxy-splice"), Bar(0.35, 0.25, "haproxy-splice-auto")),
                       {"load": load, "connections": count}, "ms/GB", "GB/s", longer=1.5, slow=1.3,
                       quick=direction == "down" and count == 64)


def exchanges():
    limits = {1: {}, 64: {64: (0.88, 0.80), KIB: (0.92, 0.80), 4 * KIB: (0.88, 0.80), 16 * KIB: (0.88, 0.80)},
              1000: {count: (0.80, 0.72) for count in (64, KIB, 4 * KIB, 16 * KIB)}}
    for count, by_size in limits.items():
        for message in (64, KIB, 4 * KIB, 16 * KIB):
            bars = [Bar(*by_size[message])] if message in by_size else []
            if count == 1 and message == 64:
                bars = [Bar(0.92, 0.92), Bar(1.0, 1.0, figure="p50"), Bar(1.0, 1.0, figure="p99"),
                        *(Bar(None, None, NEVER_ASLEEP[0], figure) for figure in ("p50", "p99"))]
            peers = (MIDDLE if message >= 16 * KIB else SMALL) + (NEVER_ASLEEP if count == 1 else ())
            yield Load("exchange", f"{size(message)}, {connections(count)}", "traffic", "cpu", peers, tuple(bars),
                       {"load": "exchange", "connections": count, "request": message, "response": message}, "µs/op", "op/s",
                       slow=1.3 if count == 1 else 1.15,  # sleeping and waking vary by themselves
                       quick=message == 64 and count in (64, 1000))


def responses():
    bars = {4: (0.93, 0.88), 16: (0.93, 0.88), 64: (0.96, 0.88), 256: (0.93, 0.88)}
    for kib, (limit, aim) in bars.items():
        yield Load("response", f"{kib} KB, 64 connections", "traffic", "cpu", LARGE if kib > 4 else SMALL, (Bar(limit, aim),),
                   {"load": "exchange", "connections": 64, "request": 64, "response": kib * KIB}, "µs/op", "op/s", quick=kib == 64)


def connects():
    for end, limit, aim in (("rst", 0.85, 0.80), ("fin", 0.84, 0.78)):
        for count in (32, 128):
            # What a line for each connection costs, where there are most of them.
            log = ("hudsucker-logging",) if (end, count) == ("rst", 128) else ()
            yield Load("connect", f"ended by {end.upper()}, {count} at a time", "traffic", "cpu", SMALL + log,
                       (Bar(limit, aim), *(Bar(None, None, key) for key in log)),
                       {"load": "connect", "connections": count, "response": 64, "end": end, "token": "psk"}, "µs/connection",
                       "connections/s", quick=end == "rst" and count == 32)


def others():
    yield Load("idle", "1,000 to 8,000 idle relays", "memory", "memory", ("hudsucker", "haproxy", "nginx"),
               (Bar(0.5, 0.25, None, "memory"),), quick=True)
    yield Load("fairness", "64 B round trips beside 64 bulk transfers", "traffic", "p99", MIXED, (Bar(1.0, 0.5, BEST_HAPROXY, "p99"),),
               {"load": "mixed", "connections": 64}, "ms/GB", "GB/s", longer=4, slow=1.3)  # one connection makes few operations
    yield Load("stalled", "64 B round trips beside 2 stalled, half-closed relays", "traffic", "p50", ("hudsucker", "hudsucker-alone"),
               (Bar(1.0, 1.0, "hudsucker-alone", "p50"),), {"load": "stalled", "connections": 2}, "µs/op", "op/s", slow=1.3,
               changes={"hudsucker-alone": {"connections": 0}})
    for rate in (5000, 20000):
        yield Load("paced", f"1 KB at {rate:,} a second, 64 connections", "traffic", "p99", SMALL, (),
                   {"load": "exchange", "connections": 64, "request": KIB, "response": KIB, "rate": rate}, "µs/op", "op/s")
    for name, options, unit, rate_unit, who in (
            ("64 B, 64 connections", {"load": "exchange", "connections": 64, "request": 64, "response": 64}, "µs/op", "op/s", SMALL),
            ("bulk down, 64 connections", {"load": "download", "connections": 64}, "ms/GB", "GB/s", LARGE),
            ("connect, ended by RST, 128 at a time", {"load": "connect", "connections": 128, "response": 64, "end": "rst", "token": "psk"},
             "µs/connection", "connections/s", SMALL)):
        yield Load("two workers", name, "traffic", "cpu", who, (), options, unit, rate_unit, workers=2,
                   slow=1.3 if unit == "ms/GB" else 1.15)


def real_tls():
    bars = {"tls12-ticket": (0.40, 0.33), "tls13-ticket": (0.65, 0.60)}
    for nodes in (8, 3, 1):
        for certificate, kind in (("RSA-2048", "rsa"), ("ECDSA P-256", "ec")):
            for version, mode in (("TLS 1.2", "tls12-ticket"), ("TLS 1.3", "tls13-ticket")):
                judged = nodes == 8 and kind == "rsa"
                yield Load("real TLS", f"{version}, {certificate}, {nodes} node{'s' if nodes > 1 else ''}", "tls", "node_cpu", TLS,
                           (Bar(*bars[mode], "haproxy-round-robin", "node_cpu"),) if judged else (),
                           {"nodes": nodes, "certificate": kind, "mode": mode}, quick=judged)


def micro():
    yield Load("micro", "ClientHello of 517 bytes", "micro", "time", ("hudsucker",), (Bar(200, 120, None, "time"),),
               {"benchmark": "ClientHello517Bytes"}, quick=True)
    yield Load("micro", "ClientHello with ML-KEM, 1.8 KB", "micro", "time", ("hudsucker",), (Bar(250, 150, None, "time"),),
               {"benchmark": "ClientHelloMlKem"}, quick=True)
    for power, tokens, limit, aim in (("10⁶", 1_000_000, 15, 30), ("10⁷", 10_000_000, 8, 15)):
        yield Load("micro", f"affinity look-up, {power} tokens, a writer beside", "micro", "lookups", ("hudsucker",),
                   (Bar(limit, aim, None, "lookups", at_least=True), Bar(32, 24, None, "bytes")),
                   {"benchmark": f"AffinityFind/tokens:{tokens}/dependent:1/writes:100000"}, quick=power == "10⁶")


def all_loads():
    return [*exchanges(), *connects(), *responses(), *bulk(), *others(), *real_tls(), *micro()]


def words_of(text):
    """Whole words, and how often each is there: "64 B, 64 connections" has 64 twice. Thousands are written without a comma."""
    return collections.Counter(re.sub(r"(?<=\d),(?=\d{3})", "", text.lower()).replace(",", " ").replace(":", " ").split())


def alternatives(words):
    """What the commas of --only separate."""
    return [part for part in words.split(",") if part.strip(" :")]


def chosen(loads, words=None, quick=False):
    """`words`: a load's whole name, or alternatives separated by commas; all words of one must be words of the load's name, as
    often as they are said. They choose from all loads, also with --quick, which otherwise has a list of its own."""
    if words is None:
        return [load for load in loads if load.quick or not quick]
    named = [load for load in loads if load.key.lower() == words.strip().lower()]
    wanted = [words_of(part) for part in alternatives(words)]
    return named or [load for load in loads if any(part <= words_of(load.key) for part in wanted)]


__all__ = ["FIGURES", "Load", "all_loads", "alternatives", "chosen", "BEST_PEER"]
