"""What is promised, row by row: which probes each needs, and how their samples become one figure.

A row is judged by ratios within one round, so that a machine that slows down slows both sides; the figure is the
median over the rounds. To add a row: name its probes in `PROBES`, and say in `ROWS` how to read them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Samples = Mapping[str, Sequence[Mapping[str, float]]]

PEERS = ("aiosqlite", "diskcache", "huey", "litequeue", "persist-queue", "sqloutbox")
LIBRARIES = "aiosqlite, httpx, tenacity, pydantic_settings"
SCENARIOS = {  # what it is compared with: None: that is what others are compared with
    "empty": None,
    "empty_keyed": None,
    "pending": "empty",
    "delivered": "empty",
    "blocked": "empty_keyed",
    "paused": "empty",
}


@dataclass(frozen=True, slots=True)
class Probe:
    """One measurement of a round. work: its name in `probes`. quick: arguments that `--quick` makes smaller.

    slow_sync: every fsync takes 5 ms more. times: how often in a round. shared: it needs the filled files.
    once: in the first round alone; it takes minutes.
    """

    work: str
    full: Mapping[str, Any]
    quick: Mapping[str, Any] = field(default_factory=dict)
    slow_sync: bool = False
    times: int = 1
    shared: bool = False
    once: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """What a row came to. text: for the table. met: None where there is nothing to meet."""

    text: str
    met: bool | None
    moonshot: bool | None = None
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One promise. needs: names of probes; judge: their samples to a figure."""

    number: int
    what: str
    target: str
    moonshot: str
    needs: tuple[str, ...]
    judge: Callable[[Samples], Figure]


PROBES: dict[str, Probe] = {
    "floor": Probe("floor", {"rows": 5_000}, {"rows": 2_000}),
    "put 64": Probe("put", {"rows": 30_000, "tasks": 64, "busy": True}, {"rows": 10_000}),
    "put 1": Probe("put", {"rows": 3_000, "tasks": 1}, {"rows": 1_000}),
    "floor, slow sync": Probe("floor", {"rows": 300}, {"rows": 100}, slow_sync=True),
    "put 64, slow sync": Probe("put", {"rows": 6_400, "tasks": 64, "busy": True}, {"rows": 3_200}, slow_sync=True),
    "put 64, ticker": Probe("put", {"rows": 60_000, "tasks": 64, "ticker": True}, {"rows": 20_000}),
    "backlog": Probe(
        "backlog", {"scenarios": list(SCENARIOS), "puts": 500, "batches": 25}, {"batches": 10}, shared=True
    ),
    "drain": Probe("drain", {"rows": 100_000}, {"rows": 10_000}),
    "far drain": Probe("far", {"rows": 100_000, "delay_s": 0.05, "in_flight": 8}, {"rows": 10_000}, once=True),
    "visible": Probe("visible", {"rows": 200}, {"rows": 50}),
    "memory": Probe("memory", {"rows": 1_000_000}, {"rows": 50_000}, once=True),
    "busy": Probe("busy", {"rows": 30_000, "backlog": 60_000}, {"rows": 10_000, "backlog": 20_000}),
    # 500 rows in 80 ms, four times at once: what the real servers take when they have the machine to themselves.
    "busy, servers apart": Probe(
        "busy_apart", {"rows": 30_000, "backlog": 60_000, "answer_s": 0.08}, {"rows": 10_000, "backlog": 20_000}
    ),
    "written": Probe("written", {"rows": 30_000, "tasks": 64}, {"rows": 10_000}),
    "recover": Probe("recover", {"rows": 100_000, "outage_s": 20.0}, {"rows": 10_000, "outage_s": 5.0}),
    "poison": Probe("poison", {"rows": 10_000, "bad": [1, 5, 50]}, {"rows": 5_000}),
    **{f"peer {name}": Probe("peer", {"name": name, "rows": 2_000, "tasks": 64}, {"rows": 1_000}) for name in PEERS},
    "many": Probe("many", {"rows": 1_024, "puts": 400}),
    "lone": Probe("lone", {"puts": 100}, {"puts": 30}),
    "sent": Probe("sent", {"rows": 5_000}, {"rows": 2_000}),
    "idle": Probe("idle", {"seconds": 30.0}, {"seconds": 5.0}),
    "arrivals": Probe("arrivals", {"rows": 10_000, "per_s": 1_000.0}, {"rows": 2_000, "per_s": 500.0}),
    "import outbox": Probe("imports", {"modules": "outbox.outbox"}, times=3),
    "import libraries": Probe("imports", {"modules": LIBRARIES}, times=3),
}


_COSTS = ("put", "flush", "stats")


def ratios(samples: Samples, above: str, below: str, field_name: str, other_name: str | None = None) -> list[float]:
    """Return one ratio per round: `field_name` of one probe to `other_name` (the same unless given) of another."""
    pairs = zip(samples[above], samples[below], strict=True)
    return [one[field_name] / other[other_name or field_name] for one, other in pairs]


def middle(samples: Samples, probe: str, field_name: str) -> float:
    """Return the median over the rounds."""
    return statistics.median(each[field_name] for each in samples[probe])


def _put_64(samples: Samples) -> Figure:
    ratio = statistics.median(ratios(samples, "put 64", "floor", "rows_per_s"))
    p50, p99 = middle(samples, "put 64", "p50_ms"), middle(samples, "put 64", "p99_ms")
    per_s = middle(samples, "put 64", "rows_per_s")
    return Figure(
        f"{ratio:.1f} F ({per_s:,.0f} rows/s), p50 {p50:.2f} ms, p99 {p99:.2f} ms",
        ratio >= 7 and p50 <= 2,
        ratio >= 12,
        {"ratio": ratio, "p50_ms": p50, "p99_ms": p99, "rows_per_s": per_s},
    )


def _put_1(samples: Samples) -> Figure:
    ratio = statistics.median(ratios(samples, "put 1", "floor", "p50_ms"))
    ours, raw = (middle(samples, probe, "p50_ms") for probe in ("put 1", "floor"))
    facts = {"ratio": ratio, "p50_ms": ours, "raw_p50_ms": raw}
    text = f"{ratio:.2f} x ({ours * 1e3:.0f} µs; raw {raw * 1e3:.0f} µs)"
    return Figure(text, ratio <= 1.8, ratio <= 1.4, facts)


def _slow_sync(samples: Samples) -> Figure:
    if not samples.get("floor, slow sync") or middle(samples, "floor, slow sync", "p50_ms") < 5:
        return Figure("not measured: needs Linux and a C compiler", None)
    ratio = statistics.median(ratios(samples, "put 64, slow sync", "floor, slow sync", "rows_per_s"))
    per_s = middle(samples, "put 64, slow sync", "rows_per_s")
    text = f"{ratio:.1f} F ({per_s:,.0f} rows/s)"
    return Figure(text, ratio >= 40, ratio >= 60, {"ratio": ratio, "rows_per_s": per_s})


def _ticker(samples: Samples) -> Figure:
    p99 = middle(samples, "put 64, ticker", "late_p99_ms")
    worst = middle(samples, "put 64, ticker", "late_max_ms")
    text = f"p99 {p99:.2f} ms, max {worst:.2f} ms"
    return Figure(text, p99 <= 2 and worst <= 10, worst <= 3, {"late_p99_ms": p99, "late_max_ms": worst})


def _backlog(samples: Samples) -> Figure:
    compared = {name: base for name, base in SCENARIOS.items() if base is not None}
    facts: dict[str, float] = {}
    for name, base in compared.items():
        for cost in _COSTS:
            rounds = [each[f"{name}_{cost}_ms"] / each[f"{base}_{cost}_ms"] for each in samples["backlog"]]
            facts[f"{name}_{cost}"] = statistics.median(rounds)
    lines = [f"{name}: " + ", ".join(f"{cost} {facts[f'{name}_{cost}']:.2f}" for cost in _COSTS) for name in compared]
    worst = max(facts.values())
    milliseconds = {name: middle(samples, "backlog", name) for name in samples["backlog"][0]}
    return Figure("\n".join(lines), worst <= 1.2, worst <= 1.05, {"worst": worst, **facts, **milliseconds})


def _open(samples: Samples) -> Figure:
    empty, full = (middle(samples, "backlog", f"{name}_open_ms") for name in ("empty", "pending"))
    text = f"{full:.1f} ms (empty: {empty:.1f} ms)"
    return Figure(text, full <= 50, full <= 10, {"open_ms": full, "empty_open_ms": empty})


def _drain(samples: Samples) -> Figure:
    ratio = statistics.median(ratios(samples, "drain", "drain", "rows_per_s", "bare_rows_per_s"))
    ours, bare = (middle(samples, "drain", name) for name in ("rows_per_s", "bare_rows_per_s"))
    facts = {"ratio": ratio, "rows_per_s": ours, "bare_rows_per_s": bare}
    return Figure(f"{ratio:.2f} x ({ours:,.0f} rows/s; bare {bare:,.0f})", ratio >= 0.9, ratio >= 1.3, facts)


def _far(samples: Samples) -> Figure:
    ratio = statistics.median(ratios(samples, "far drain", "far drain", "rows_per_s", "bare_rows_per_s"))
    ours, bare = (middle(samples, "far drain", name) for name in ("rows_per_s", "bare_rows_per_s"))
    facts = {"ratio": ratio, "rows_per_s": ours, "bare_rows_per_s": bare}
    return Figure(f"{ratio:.1f} x ({ours:,.0f} rows/s; one at a time {bare:,.0f})", ratio >= 5, None, facts)


def _visible(samples: Samples) -> Figure:
    ours, post = (middle(samples, "visible", f"{way}_p50_ms") for way in ("put", "post"))
    more = ours - post
    facts = {"more_ms": more, "put_p50_ms": ours, "post_p50_ms": post}
    return Figure(f"{ours:.1f} ms: the POST ({post:.1f} ms) + {more:.1f} ms", more <= 3, more <= 1, facts)


def _memory(samples: Samples) -> Figure:
    grown, before = (middle(samples, "memory", name) for name in ("grown_mib", "before_mib"))
    if math.isnan(grown):
        return Figure("not measured: the system does not say", None)
    return Figure(f"+ {grown:.0f} MiB ({before:.0f} before)", grown <= 64, grown <= 16, {"grown_mib": grown})


def _busy(samples: Samples) -> Figure:
    facts: dict[str, float] = {}
    texts = []
    for where, probe in (("on the same processors", "busy"), ("servers apart", "busy, servers apart")):
        ratio = statistics.median(ratios(samples, probe, probe, "beside_rows_per_s", "alone_rows_per_s"))
        alone, beside, drained = (
            middle(samples, probe, f"{which}_rows_per_s") for which in ("alone", "beside", "drained")
        )
        texts.append(f"{where}: {ratio:.2f} x ({beside:,.0f} rows/s; alone {alone:,.0f}; {drained:,.0f} drained)")
        facts |= {f"{probe}: {name}": value for name, value in (("ratio", ratio), ("drained_rows_per_s", drained))}
    worse = facts["busy: ratio"]
    return Figure("\n".join(texts), worse >= 0.7, worse >= 0.9, facts)


def _written(samples: Samples) -> Figure:
    total, payload = (middle(samples, "written", name) for name in ("bytes_per_put", "payload_bytes"))
    if not total > 0:  # nan, or a file system that the kernel keeps no count for
        return Figure("not measured: the system does not say", None)
    ratio = total / payload
    text = f"{ratio:.1f} x ({total:,.0f} bytes; the payload {payload:,.0f})"
    return Figure(text, None, ratio <= 3, {"ratio": ratio, "bytes_per_put": total})


def _recover(samples: Samples) -> Figure:
    seconds, per_s = (middle(samples, "recover", name) for name in ("recovered_s", "rows_per_s"))
    return Figure(f"{seconds:.1f} s ({per_s:,.0f} rows/s)", None, None, {"recovered_s": seconds, "rows_per_s": per_s})


def _poison(samples: Samples) -> Figure:
    clean = middle(samples, "poison", "requests_0")
    extra = {name: middle(samples, "poison", name) - clean for name in samples["poison"][0] if name != "requests_0"}
    text = ", ".join(f"{name.removeprefix('requests_')} poison: +{number:.0f}" for name, number in extra.items())
    return Figure(f"{text} (clean: {clean:.0f})", None, None, {"requests_0": clean, **extra})


def _micros(probe: str, **told: str) -> Callable[[Samples], Figure]:
    """Return how to report processor time: of each field (without `_us`) in its words, the median and the least."""

    def judge(samples: Samples) -> Figure:
        facts, texts = dict[str, float](), []
        for name, words in told.items():
            typical = middle(samples, probe, f"{name}_us")
            least = min(each[f"{name}_least_us"] for each in samples[probe])
            facts |= {f"{name}_us": typical, f"{name}_least_us": least}
            texts.append(f"{words} {typical:.1f} µs (least {least:.1f})")
        return Figure(", ".join(texts), None, None, facts)

    return judge


def _idle(samples: Samples) -> Figure:
    wakes, percent = middle(samples, "idle", "wakes_per_s"), middle(samples, "idle", "cpu_percent")
    facts = {"wakes_per_s": wakes, "cpu_percent": percent}
    return Figure(f"{wakes:.1f} a second, {percent:.2f} % of a processor", wakes <= 2, None, facts)


def _arrivals(samples: Samples) -> Figure:
    facts = {name: middle(samples, "arrivals", name) for name in ("cpu_us", "p50_ms", "p99_ms")}
    return Figure("{cpu_us:.0f} µs a row, p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms".format(**facts), None, None, facts)


def _peers(samples: Samples) -> Figure:
    facts = {
        name: statistics.median(ratios(samples, f"peer {name}", "floor", "rows_per_s"))
        for name in sorted(PEERS, key=lambda name: -middle(samples, f"peer {name}", "rows_per_s"))
    }
    return Figure("\n".join(f"{name}: {ratio:.2f} F" for name, ratio in facts.items()), None, None, facts)


def _imports(samples: Samples) -> Figure:
    ours, theirs = (middle(samples, name, "import_ms") for name in ("import outbox", "import libraries"))
    ratio = ours / theirs  # each is a median already
    facts = {"ratio": ratio, "outbox_ms": ours, "libraries_ms": theirs}
    return Figure(f"{ratio:.2f} x ({ours:.0f} ms; the libraries {theirs:.0f} ms)", ratio <= 1.15, None, facts)


ROWS: tuple[Row, ...] = (
    Row(1, "put, 64 tasks", ">= 7 F, p50 <= 2 ms", ">= 12 F", ("floor", "put 64"), _put_64),
    Row(2, "put, 1 task: p50", "<= 1.8 x a raw commit", "<= 1.4 x", ("floor", "put 1"), _put_1),
    Row(
        3,
        "put, 64 tasks, fsync + 5 ms",
        ">= 40 F",
        ">= 60 F",
        ("floor, slow sync", "put 64, slow sync"),
        _slow_sync,
    ),
    Row(4, "a 1 ms ticker's lateness", "p99 <= 2 ms, max <= 10 ms", "max <= 3 ms", ("put 64, ticker",), _ticker),
    Row(5, "cost under a backlog, x empty", "<= 1.2 x", "<= 1.05 x", ("backlog",), _backlog),
    Row(6, "open with a backlog", "<= 50 ms", "<= 10 ms", ("backlog",), _open),
    Row(7, "drain into the REST server", ">= 0.9 x a bare httpx loop", ">= 1.3 x", ("drain",), _drain),
    Row(8, "the same, 50 ms away each way, 8 in flight", ">= 5 x one request at a time", "", ("far drain",), _far),
    Row(9, "put to visible in PostgreSQL, p50", "<= a direct POST + 3 ms", "+ 1 ms", ("visible",), _visible),
    Row(10, "memory while a backlog drains", "grows <= 64 MiB", "<= 16 MiB", ("memory",), _memory),
    Row(11, "puts while the flusher drains", ">= 0.7 x without", ">= 0.9 x", ("busy", "busy, servers apart"), _busy),
    Row(12, "import outbox", "<= 1.15 x its libraries", "", ("import outbox", "import libraries"), _imports),
    Row(13, "bytes to the disk for each put, 64 tasks", "report", "<= 3 x the payload", ("written",), _written),
    Row(14, "recovery of the remote end to an empty backlog", "report", "", ("recover",), _recover),
    Row(15, "extra requests to isolate refused rows", "report", "", ("poison",), _poison),
    Row(
        16,
        "processor time a row: put_many, transaction()",
        "report",
        "",
        ("many",),
        _micros("many", many="put_many", transaction="transaction()", alone="json and executemany alone"),
    ),
    Row(
        17,
        "processor time: a put that is alone, stats()",
        "report",
        "",
        ("lone",),
        _micros("lone", put="put", stats="stats()"),
    ),
    Row(
        18,
        "processor time of a row sent, without HTTP",
        "report",
        "",
        ("sent",),
        _micros("sent", sent="all of it", sent_loop="on the loop"),
    ),
    Row(19, "a bot at rest wakes", "<= 2 a second", "", ("idle",), _idle),
    Row(21, "put, arriving as a Poisson process", "report", "", ("arrivals",), _arrivals),
    Row(20, "put, 64 tasks, by others", "report", "", ("floor", *(f"peer {name}" for name in PEERS)), _peers),
)
