"""In which order the parts of a refused batch come: its good rows wait for a few requests, not for all the bad ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from outbox.entry import LaneSpec, Operation
from outbox.flusher import traffic
from outbox.flusher.traffic import Batch, Source, Traffic
from outbox.postgrest.batch import Limit, halves
from outbox.store.rows import Lane

ROWS = 500
LANE = Lane(1, LaneSpec("events", Operation.INSERT, "id", "id,n", False), 1)


@dataclass
class Row:
    seq: int
    attempts: int = 0


def requests_until_all_good_rows_are_there(is_bad: Callable[[int], bool], in_flight: int, seed: int) -> int:
    """Send one batch of `ROWS` and its parts, so many at once; which answer comes first is the dice's."""
    dice, traffic, under_way = random.Random(seed), Traffic(LANE, Limit(1, 1)), list[Batch]()
    missing = {seq for seq in range(1, ROWS + 1) if not is_bad(seq)}

    def start(source: Source, rows: list[Row]) -> None:
        batch = Batch(source, rows, 1)  # type: ignore[arg-type]
        if source is Source.PART:
            traffic.take_part(batch)
        traffic.start(batch)
        under_way.append(batch)

    def answer(batch: Batch) -> None:
        if not any(map(is_bad, batch.seqs)):
            missing.difference_update(batch.seqs)
            traffic.accepted(batch.seqs)
        elif len(batch.seqs) > 1:
            traffic.split(halves(batch.entries))
        else:
            traffic.refusals += 1
        traffic.end(batch)

    start(Source.NEW, [Row(seq) for seq in range(1, ROWS + 1)])
    requests = 1
    while missing:
        answer(under_way.pop(dice.randrange(len(under_way)) if dice.random() < 0.3 else 0))
        while traffic.parts and len(under_way) < in_flight:
            start(Source.PART, [Row(seq) for seq in traffic.parts[0].seqs])
            requests += 1
    return requests


LAYOUTS: dict[str, Callable[[int], bool]] = {
    **{f"{bad} bad ones, then the good": lambda seq, bad=bad: seq <= bad for bad in (200, 300, 350, 400, 450)},  # type: ignore[misc]
    "450 bad ones behind the good": lambda seq: seq > 50,
    "50 good ones amid the bad": lambda seq: not 225 < seq <= 275,
    "50 good ones twice": lambda seq: seq <= 200 or 250 < seq <= 450,
}


@pytest.mark.parametrize("in_flight", [1, 4, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_good_rows_beside_hundreds_of_bad_ones_wait_for_a_few_requests(layout: str, in_flight: int) -> None:
    assert max(requests_until_all_good_rows_are_there(LAYOUTS[layout], in_flight, seed) for seed in range(6)) < 200


def test_control_without_hope_they_wait_for_nearly_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "_HOPE", 0)
    layout = LAYOUTS["450 bad ones, then the good"]
    assert max(requests_until_all_good_rows_are_there(layout, 4, seed) for seed in range(6)) > 200


def test_control_where_hope_is_lost_at_the_good_end_too_they_may_wait_for_nearly_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it was: three halvings after its neighbours were accepted a part was like any other."""

    def split(self: Traffic, parts: list[list[Row]]) -> None:
        original(self, parts)  # type: ignore[arg-type]
        for part in self.parts[: len(parts)]:
            part.before = part.behind = min(part.before, part.behind)

    original = Traffic.split
    monkeypatch.setattr(Traffic, "split", split)
    layout = LAYOUTS["450 bad ones, then the good"]
    assert max(requests_until_all_good_rows_are_there(layout, 4, seed) for seed in range(6)) > 200
