"""What travels in one request: which of the ready entries, and what is left for the next."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from outbox.entry import LaneSpec, Operation
from outbox.postgrest.batch import (
    ahead_of_their_keys,
    heads,
    like_the_first,
    unsuspected,
    without_parent,
)


@dataclass(frozen=True, slots=True)
class Ready:
    seq: int
    key: str | None = None
    attempts: int = 0
    payload: str = "{}"
    id: str = "id"
    match: str | None = None


INSERT = LaneSpec("events", Operation.INSERT, "id", "id,n", ordered=False)
UPSERT = LaneSpec("sessions", Operation.UPSERT, "a,b", "a,b,n", ordered=True)
UPDATE = LaneSpec("sessions", Operation.UPDATE, "", "n", ordered=True)


def line(*entries: Ready) -> list[int]:
    return [entry.seq for entry in entries]


@pytest.mark.parametrize(
    ("suspects", "chosen"),
    [
        pytest.param(set(), [1, 2, 3, 4], id="nobody is suspected"),
        pytest.param({1}, [2, 3, 4], id="one without a key"),
        pytest.param({2}, [1, 4], id="what stands behind it in its key is left out too"),
        pytest.param({1, 2, 4}, [1, 2, 3, 4], id="nothing else is there: the suspects themselves"),
    ],
)
def test_a_pause_is_probed_with_what_is_not_its_cause(suspects: set[int], chosen: list[int]) -> None:
    ready = [Ready(1), Ready(2, "k"), Ready(3, "k"), Ready(4, "other")]
    assert line(*unsuspected(ready, suspects)) == chosen


@pytest.mark.parametrize(
    ("attempts", "suspects", "chosen"),
    [
        pytest.param([0, 0, 0], set(), [1, 2, 3], id="all alike"),
        pytest.param([0, 1, 0], set(), [1], id="up to one that was refused before"),
        pytest.param([1, 2, 0], set(), [1, 2], id="those that were refused before, however often"),
        pytest.param([0, 0, 0], {1}, [1], id="a suspect travels alone"),
        pytest.param([0, 0, 0], {2}, [1], id="up to a suspect"),
        pytest.param([], set(), [], id="nothing"),
    ],
)
def test_a_batch_is_of_one_sort(attempts: list[int], suspects: set[int], chosen: list[int]) -> None:
    ready = [Ready(seq, attempts=count) for seq, count in enumerate(attempts, start=1)]
    assert line(*like_the_first(ready, suspects)) == chosen


def test_the_first_of_each_key_waits_for_its_line_and_one_without_a_key_for_itself() -> None:
    entries = [Ready(1, "a"), Ready(2, id="x"), Ready(3, "a"), Ready(4, "b"), Ready(5, id="y"), Ready(6, "b")]
    assert sorted(line(*heads(entries))) == [1, 2, 4, 5]


@pytest.mark.parametrize(
    ("waiting", "chosen"),
    [
        pytest.param([(1, "k", None), (2, "k", "turn"), (3, None, None)], [1, 2, 3], id="a ready key and its line"),
        pytest.param([(1, "k", "retry"), (2, "k", "turn"), (3, "j", None)], [3], id="a key whose first one waits"),
        pytest.param([(2, "k", "turn"), (3, "k", "turn")], [], id="a key that is held behind a dead entry"),
        pytest.param([(1, None, "retry"), (2, None, None)], [2], id="without a key each for itself"),
    ],
)
def test_of_a_part_travels_what_nothing_older_holds_back(
    waiting: list[tuple[int, str | None, str | None]], chosen: list[int]
) -> None:
    assert line(*ahead_of_their_keys([(Ready(seq, key), waits) for seq, key, waits in waiting])) == chosen


@pytest.mark.parametrize(
    ("details", "chosen"),
    [
        pytest.param('Key (order_id)=(7) is not present in table "orders".', [1, 3], id="all that name it"),
        pytest.param('Key (order_id)=(8) is not present in table "orders".', [2], id="one of them"),
        pytest.param('Key ("order_id")=(7) is not present in table "orders".', [1, 3], id="a quoted column"),
        pytest.param("Key (order_id, day)=(7, 1) is not present in table x.", [], id="two columns: it does not tell"),
        pytest.param(None, [], id="no details"),
    ],
)
def test_a_refusal_names_all_rows_of_one_missing_parent(details: str | None, chosen: list[int]) -> None:
    entries = [
        Ready(1, payload='{"order_id":7}'),
        Ready(2, payload='{"order_id":"8"}'),
        Ready(3, payload='{"order_id":"7"}'),
    ]
    assert line(*without_parent(entries, details)) == chosen
