"""Random programs of puts and of a remote end that fails in every way: in the end all is settled, once, in order."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.testing import Answer, refused
from tests.flusher.bench import DOWN, Bench, Clock, Remote, flushing, rows, table
from tests.support import run_async

# A third of a CPU second each. The simulation plays hundreds more in each run; EXAMPLES=1000 plays as many here.
EXAMPLES = int(os.environ.get("EXAMPLES", "20"))
KEYS = "abc"
BAD = refused(400, "23514", "check violated")
ORPHAN = refused(409, "23503", "no parent")


ANSWERS: dict[str, Reply | Failure] = {
    "down": DOWN,
    "lost before": Failure.TIMEOUT,
    "portal": Reply(200, {}, b"<html>"),
    "key": refused(401, "PGRST301", "JWT expired"),
    "table": refused(404, "PGRST205", "no table"),
    "column": refused(400, "PGRST204", "no column"),
    "unknown": Reply(500, {}, b""),
    "slow": refused(500, "57014", "statement timeout"),
    "busy": Reply(429, {"retry-after": "7"}, b""),
}
TROUBLES = ["fine", "lost after", *ANSWERS]


@dataclass(frozen=True)
class Put:
    """One put. bad: the database refuses it for good. orphan: how often its parent is not there yet."""

    kind: str
    key: str
    wide: bool = False  # another column, so another lane
    bad: bool = False
    orphan: int = 0


@dataclass
class Judge(Remote):
    """The remote end of a program: obeys its troubles, keeps to the rows' own faults, watches the order."""

    faults: dict[int, Put] = field(default_factory=dict)
    orphaned: Counter[int] = field(default_factory=Counter)
    troubles: list[str] = field(default_factory=list)
    accepted: dict[str, int] = field(default_factory=dict)  # the last of each key

    def __post_init__(self) -> None:
        super().__post_init__()
        self.otherwise = self.answer
        self.rule = self.fault

    def fault(self, _: str, row: dict[str, Any]) -> Reply | None:
        put = self.faults[row["n"]]
        if put.bad:
            return BAD
        return ORPHAN if self.orphaned[row["n"]] < put.orphan else None

    def answer(self, request: Request) -> Answer:
        for row in rows(request):
            put = self.faults[row["n"]]
            if put.kind != "free":
                assert row["n"] > self.accepted.get(put.key, -1) or row["n"] == self.accepted[put.key], "out of order"
        trouble = self.troubles.pop() if self.troubles else "fine"
        if trouble in ANSWERS:
            return ANSWERS[trouble]
        reply = self.commit(request)
        for row in rows(request):
            if self.fault("", row) is ORPHAN and len(rows(request)) == 1:
                self.orphaned[row["n"]] += 1
        if reply.status < 300:
            for row in rows(request):
                put = self.faults[row["n"]]
                if put.kind != "free" and trouble == "fine":
                    self.accepted[put.key] = max(row["n"], self.accepted.get(put.key, -1))
        return Failure.CUT if trouble == "lost after" and reply.status < 300 else reply


puts = st.builds(
    Put,
    st.sampled_from(["free", "insert", "upsert", "upsert", "update"]),
    st.sampled_from(KEYS),
    wide=st.booleans(),
    bad=st.sampled_from([False, False, False, False, True]),
    orphan=st.sampled_from([0, 0, 0, 0, 1, 2]),
)


async def put(bench: Bench, number: int, each: Put) -> None:
    row: dict[str, object] = {"n": number, **({"w": number} if each.wide else {})}
    match each.kind:
        case "free":
            await bench.outbox.put("state", row)
        case "insert":
            await bench.outbox.put("state", row, key=each.key)
        case "upsert":
            await bench.outbox.put("state", row | {"k": each.key}, operation="upsert", on_conflict=("k",))
        case "update":
            await bench.outbox.put("state", row, operation="update", match={"k": each.key})


def model(program: list[Put]) -> tuple[dict[str, dict[str, object]], list[int]]:
    """What the remote end must hold when all has arrived: merged rows by key, and inserted rows."""
    state: dict[str, dict[str, object]] = {}
    inserted = []
    for number, each in enumerate(program):
        values: dict[str, object] = {"n": number, **({"w": number} if each.wide else {})}
        if each.bad:
            continue
        if each.kind in ("free", "insert"):
            inserted.append(number)
        elif each.kind == "upsert":
            state[each.key] = state.get(each.key, {}) | values | {"k": each.key}
        else:
            state[each.key] |= values
    return state, inserted


@pytest.mark.slow
@given(
    program=st.lists(puts, max_size=25),
    troubles=st.lists(st.sampled_from(TROUBLES), max_size=25),
    rests=st.sets(st.integers(0, 25), max_size=5),
    restarts=st.sets(st.integers(0, 25), max_size=2),
    batch_rows=st.sampled_from([1, 2, 5, 500]),
)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_fails_everything_arrives_once_and_in_the_order_of_its_key(
    program: list[Put], troubles: list[str], rests: set[int], restarts: set[int], batch_rows: int
) -> None:
    # An update needs its row: else it would wait for ever, as it should.
    whole = [Put("upsert", key) for key in KEYS] + program
    remote, clock = Judge(faults=dict(enumerate(whole)), troubles=troubles), Clock()

    @run_async
    async def run(folder: Path) -> None:
        done = 0
        for part in [*sorted(restarts), len(whole)]:
            options: dict[str, Any] = {"batch_rows": batch_rows, "backoff_cap_s": 20, "pause_probe_s": 10}
            async with flushing(folder, remote=remote, clock=clock, draw=None, **options) as bench:
                while done < min(part, len(whole)):
                    await put(bench, done, whole[done])
                    if done in rests:
                        await bench.live(1)
                    done += 1
                if part == len(whole):
                    check(await bench.settled(within_s=20_000))
                    await bench.live(60)  # whatever is still paused without need
                    assert await bench.store.pauses() == []

    def check(stats: Any) -> None:
        state, inserted = model(whole)
        assert (stats.pending, stats.delivered + stats.dead) == (0, len(whole))
        # A bad upsert that a later one superseded was never sent, and nobody misses it.
        bad = Counter(each.kind == "upsert" for each in whole if each.bad)
        assert bad[False] <= stats.dead <= bad.total()
        merged = {json.loads(key)[0]: row for (_, key), row in remote.merged.items()}
        assert merged == state
        assert sorted(row["n"] for row in remote.inserted.values()) == inserted
        assert all(table(request) == "state" for request in remote.requests)
        assert len(remote.requests) < 40 + 20 * len(whole) + 3 * len(troubles)

    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder))


@run_async
async def test_control_the_judge_sees_an_entry_that_overtakes(tmp_path: Path) -> None:
    remote = Judge(faults={0: Put("upsert", "a"), 1: Put("upsert", "a")})
    async with flushing(tmp_path, remote=remote) as bench:
        await put(bench, 1, remote.faults[1])
        await bench.idle()
        await put(bench, 0, remote.faults[0])
        await bench.idle()
        assert "out of order" in str(bench.flusher.state.now.last_error)
        await asyncio.sleep(0)
