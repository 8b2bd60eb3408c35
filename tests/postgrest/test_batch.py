"""What travels in one request: which of the ready entries, and what is left for the next."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from outbox.entry import LaneSpec, Operation
from outbox.postgrest.batch import (
    conflict_values,
    heads,
    last_of_each_row,
    like_the_first,
    not_behind,
    sent_bytes,
    sent_digest,
    unsuspected,
)
from outbox.postgrest.client import build


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


def test_nothing_follows_a_dead_entry_of_its_key() -> None:
    entries = [Ready(1, "k"), Ready(3, "k"), Ready(4), Ready(5, "other")]
    assert line(*not_behind(Ready(2, "k"), entries)) == [1, 4, 5]
    assert line(*not_behind(Ready(2), entries)) == [1, 3, 4, 5]


@pytest.mark.parametrize(
    ("payload", "sent", "superseded"),
    [
        pytest.param('{"a":1,"b":2,"n":9}', [2], [1], id="the same row: the last one travels"),
        pytest.param('{"b":2,"a":1}', [2], [1], id="whatever the order of its columns"),
        pytest.param('{"a":"1","b":2}', [2], [1], id="a text and a number of one spelling are one row to PostgreSQL"),
        pytest.param('{"a":1.0,"b":2}', [1, 2], [], id="1.0 is another spelling"),
        pytest.param('{"a":1,"b":null}', [1, 2], [], id="another value"),
    ],
)
def test_one_row_is_merged_once_in_a_request(payload: str, sent: list[int], superseded: list[int]) -> None:
    entries = [Ready(1, payload='{"a":1,"b":2}'), Ready(2, payload=payload)]
    first, second = last_of_each_row(UPSERT, entries)
    assert (line(*first), line(*second)) == (sent, superseded)
    assert last_of_each_row(INSERT, entries) == (entries, ())


def test_two_decimals_that_are_one_float_are_two_rows() -> None:
    one, other = '{"a":0.1}', '{"a":0.1000000000000000055511151231257827}'
    assert conflict_values(one, ["a"]) != conflict_values(other, ["a"])


@pytest.mark.parametrize("payload", ['{"n":1}', '{"n":"é€😀"}', '{"id":"own"}', "{}"])
@pytest.mark.parametrize("id", ["01890000-0000-7000-8000-000000000000", "é", '"'])
@pytest.mark.parametrize("spec", [INSERT, UPSERT, UPDATE], ids=lambda spec: spec.operation)
def test_an_entry_never_takes_more_of_a_request_than_was_reckoned(spec: LaneSpec, id: str, payload: str) -> None:
    entry = Ready(1, payload=payload, id=id)
    assert len(build(spec, [entry]).body) - len("[]") <= sent_bytes(spec, entry)


@pytest.mark.parametrize("spec", [INSERT, UPSERT, UPDATE], ids=lambda spec: spec.operation)
@pytest.mark.parametrize("change", [{"payload": '{"n":2}'}, {"key": "other"}, {"match": '{"a":1}'}], ids=str)
def test_whatever_decides_what_is_sent_changes_the_digest(spec: LaneSpec, change: dict[str, str]) -> None:
    assert sent_digest(spec, Ready(1)) == sent_digest(spec, Ready(2, attempts=3))
    assert sent_digest(spec, Ready(1)) != sent_digest(spec, Ready(1, **change))  # type: ignore[arg-type]
