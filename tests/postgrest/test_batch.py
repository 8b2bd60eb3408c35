"""What travels in one request: which of the ready entries, and what is left for the next."""

from __future__ import annotations

import pytest

from outbox.entry import LaneSpec, Operation, Outgoing
from outbox.postgrest.batch import (
    ahead_of_their_keys,
    heads,
    insert_body,
    last_of_each_row,
    like_the_first,
    own_duplicate,
    remote_id,
    sent_bytes,
    sent_digests,
    unsuspected,
    without_parent,
)
from outbox.prepare import digest


def outgoing(
    seq: int, key: str | None = None, attempts: int = 0, payload: str = "{}", id: str = "id", match: str | None = None
) -> Outgoing:
    return Outgoing(seq, id, key, payload, match, "digest", attempts)


INSERT = LaneSpec("events", Operation.INSERT, "id", "id,n", ordered=False)
UPSERT = LaneSpec("sessions", Operation.UPSERT, "a,b", "a,b,n", ordered=True)
UPDATE = LaneSpec("sessions", Operation.UPDATE, "", "n", ordered=True)


def line(*entries: Outgoing) -> list[int]:
    return [entry.seq for entry in entries]


@pytest.mark.parametrize(
    ("payload", "its_id"),
    [
        pytest.param('{"n":1}', "own", id="minted"),
        pytest.param('{"id":7,"n":1}', "7", id="the caller's"),
        pytest.param('{"n":"id"}', "own", id="a value that is called like the column"),
    ],
)
def test_the_key_column_holds_what_the_caller_put_there_or_else_the_entrys_id(payload: str, its_id: str) -> None:
    assert remote_id(INSERT, outgoing(1, id="own", payload=payload)) == its_id


@pytest.mark.parametrize(
    ("spec", "on_conflict"), [pytest.param(INSERT, None), pytest.param(UPSERT, "a,b"), pytest.param(UPDATE, None)]
)
def test_what_is_sent_must_have_the_digest_of_its_put(spec: LaneSpec, on_conflict: str | None) -> None:
    entries = [outgoing(1, "k", payload='{"n":1}', match='{"a":1}'), outgoing(2)]
    assert sent_digests(spec, entries) == [
        digest(spec.destination, spec.operation, each.key, each.payload, on_conflict, each.match) for each in entries
    ]


@pytest.mark.parametrize("payload", ['{"n":1}', '{"n":"é€😀"}'])
def test_the_bytes_that_an_entry_adds_are_those_of_its_row_and_a_comma(payload: str) -> None:
    entry = outgoing(1, id='i"1', payload=payload)
    assert sent_bytes(INSERT, [entry]) == [len(insert_body(INSERT, entry.id, payload).encode()) + 1]
    assert sent_bytes(UPSERT, [entry]) == [len(payload.encode()) + 1]


@pytest.mark.parametrize(
    ("spec", "payloads", "said"),
    [
        pytest.param(INSERT, ['{"n":1}'], "(id)=(own)", id="an insert by its id"),
        pytest.param(UPSERT, ['{"a":1,"b":2}'], "(a, b)=", id="an upsert by its columns"),
        pytest.param(UPDATE, ['{"n":1}'], None, id="an update inserts nothing"),
        pytest.param(INSERT, ['{"n":1}', '{"n":2}'], None, id="of two nobody knows which"),
        pytest.param(INSERT, [], None, id="nothing"),
    ],
)
def test_a_duplicate_that_is_the_entrys_own_row_is_known_by_its_words(
    spec: LaneSpec, payloads: list[str], said: str | None
) -> None:
    assert own_duplicate(spec, [outgoing(1, id="own", payload=each) for each in payloads]) == said


def test_of_upserts_of_one_row_the_last_one_travels_and_inserts_all_do() -> None:
    rows = ('{"a":1,"b":1,"n":1}', '{"a":1,"b":2,"n":2}', '{"a":1,"b":1,"n":3}')
    entries = [outgoing(seq, payload=row) for seq, row in enumerate(rows, start=1)]
    assert [line(*part) for part in last_of_each_row(UPSERT, entries)] == [[2, 3], [1]]
    assert [line(*part) for part in last_of_each_row(INSERT, entries)] == [[1, 2, 3], []]


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
    ready = [outgoing(1), outgoing(2, "k"), outgoing(3, "k"), outgoing(4, "other")]
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
    ready = [outgoing(seq, attempts=count) for seq, count in enumerate(attempts, start=1)]
    assert line(*like_the_first(ready, suspects)) == chosen


def test_the_first_of_each_key_waits_for_its_line_and_one_without_a_key_for_itself() -> None:
    entries = [
        outgoing(1, "a"),
        outgoing(2, id="x"),
        outgoing(3, "a"),
        outgoing(4, "b"),
        outgoing(5, id="y"),
        outgoing(6, "b"),
    ]
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
    assert line(*ahead_of_their_keys([(outgoing(seq, key), waits) for seq, key, waits in waiting])) == chosen


@pytest.mark.parametrize(
    ("details", "chosen"),
    [
        pytest.param('Key (order_id)=(7) is not present in table "orders".', [1, 3], id="all that name it"),
        pytest.param('Key (order_id)=(8) is not present in table "orders".', [2], id="one of them"),
        pytest.param('Key ("order_id")=(7) is not present in table "orders".', [1, 3], id="a quoted column"),
        pytest.param("Key (order_id, day)=(7, 1) is not present in table x.", [], id="two columns: it does not tell"),
        pytest.param('Key (order_id)=(a"b) is not present in table "orders".', [4], id="a value with a quote"),
        pytest.param(None, [], id="no details"),
    ],
)
def test_a_refusal_names_all_rows_of_one_missing_parent(details: str | None, chosen: list[int]) -> None:
    entries = [
        outgoing(1, payload='{"order_id":7}'),
        outgoing(2, payload='{"order_id":"8"}'),
        outgoing(3, payload='{"order_id":"7"}'),
        outgoing(4, payload='{"order_id":"a\\"b"}'),
    ]
    assert line(*without_parent(entries, details)) == chosen
