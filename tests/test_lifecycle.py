"""Which moves an entry can make."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from outbox.entry import MOVES, State, allowed

SCHEMA = Path(__file__).parents[1] / "migrations" / "0001_outbox.sql"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(State.PENDING, State.DELIVERED, id="delivered"),
        pytest.param(State.PENDING, State.DEAD, id="refused"),
        pytest.param(State.DEAD, State.PENDING, id="requeue"),
        pytest.param(State.DEAD, State.DISCARDED, id="discard"),
        pytest.param(State.PENDING, State.DISCARDED, id="discard what waits"),
        pytest.param(State.DELIVERED, State.PENDING, id="resend"),
    ],
)
def test_a_move_of_the_drawing_is_allowed(before: State, after: State) -> None:
    assert allowed(before, after)


def test_no_other_move_is() -> None:
    assert sum(allowed(before, after) for before in State for after in State) == 6


@pytest.mark.parametrize("state", [state for state in State if state is not State.PENDING])
def test_what_has_arrived_moves_only_to_be_sent_again(state: State) -> None:
    assert not allowed(State.DELIVERED, state)


def test_every_state_has_its_moves_and_stands_in_the_schema() -> None:
    assert set(MOVES) == set(State)
    check = re.search(r"check \(state in \(([^)]*)\)\)", SCHEMA.read_text(encoding="utf-8"))
    assert check is not None
    assert re.findall(r"'(\w+)'", check[1]) == [state.value for state in State]
