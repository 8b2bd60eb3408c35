"""The exhaustive model: no state of a few entries breaks a promise; ten planted faults are each found."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.proof.counts import reached
from tests.proof.model import FAULTS, Model, items

A, B, S = ("a", False), ("b", False), ("s", False)
BAD_A, BAD_S = ("a", True), ("s", True)
FIVE = (A, A, S, S, BAD_S)

# Each fault with the fewest steps in which it can be seen, and the entries that show it.
FOUND = {
    "no idempotency key": (4, FIVE),
    "counting before return": (2, FIVE),
    "a timeout counts": (3, FIVE),
    "any 200 counts": (3, FIVE),
    "no keep-newer": (13, FIVE),
    "no order": (7, FIVE),
    "an outage kills": (3, FIVE),
    "a batch dies with its worst row": (6, (BAD_A, B)),
    "acknowledged before the commit": (2, FIVE),
    "a dead one holds its key": (0, (BAD_A, A)),
    "superseded settle with a dead winner": (12, FIVE),
}


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param((A, S, BAD_S), id="three entries of two keys"),
        pytest.param((BAD_A, A, S, S, BAD_S), id="five entries of two keys"),
    ],
)
def test_no_state_breaks_a_promise_and_from_each_all_can_arrive(entries: Sequence[tuple[str, bool]]) -> None:
    model = Model(items(*entries), lives=2)
    assert model.search() is None
    assert model.states > 1_000
    if len(entries) == 5:
        reached("states", model.states)


@pytest.mark.parametrize(("fault", "found"), FOUND.items())
def test_control_a_planted_fault_is_found_by_the_shortest_way(
    fault: str, found: tuple[int, Sequence[tuple[str, bool]]]
) -> None:
    steps, entries = found
    broken = Model(items(*entries), fault=fault).search()
    assert broken is not None
    assert len(broken[1]) == steps, broken


def test_every_fault_is_planted() -> None:
    assert set(FOUND) == set(FAULTS)
