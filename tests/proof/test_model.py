"""The exhaustive model: no state of a few entries breaks a promise; ten planted faults are each found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from environment import ROOT

from outbox.entry import MOVES, State
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


# ------------------------------------------------------------------------------------------ the drawing


def drawn(text: str) -> set[tuple[str, str]]:
    """Return the moves between states that the first drawing of a page shows."""
    drawing = text.split("```text\n")[1].split("```")[0]
    lines = drawing.splitlines()
    states = "|".join(State)
    moves = set[tuple[str, str]]()
    for line in lines:  # along the line
        names = list(re.finditer(rf"\b({states})\b", line))
        for one, other in pairwise(names):
            between = line[one.end() : other.start()]
            moves |= {(one[0], other[0])} if "▶" in between else set()
            moves |= {(other[0], one[0])} if "◀" in between else set()
    return moves | _upright(lines, states)


def _upright(lines: Sequence[str], states: str) -> set[tuple[str, str]]:
    """Return the moves along vertical arrows: each column of them, between the states above and below its ends."""
    moves = set[tuple[str, str]]()
    for at in range(max(map(len, lines))):
        column = [line[at] if at < len(line) else " " for line in lines]
        rows = [row for row, sign in enumerate(column) if sign in "│▲▼"]
        if not rows:
            continue
        above, below = _near(reversed(lines[: rows[0]]), at, states), _near(lines[rows[-1] + 1 :], at, states)
        moves.add((below, above) if "▲" in (column[row] for row in rows) else (above, below))
    return moves


def _near(lines: Iterable[str], at: int, states: str) -> str:
    """Return the state whose name stands nearest to column `at`, in the first of `lines` that has one."""
    named = (list(re.finditer(rf"\b({states})\b", line)) for line in lines)
    return min(next(filter(None, named)), key=lambda name: max(name.start() - at, at - name.end(), 0))[0]


def test_the_drawing_of_the_lifecycle_shows_every_move_and_no_other() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert drawn(text) == {(str(one), str(other)) for one, after in MOVES.items() for other in after}
