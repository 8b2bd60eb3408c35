"""What a put becomes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st

from outbox import prepare
from outbox.columns import Kind
from outbox.entry import Destination, Operation
from outbox.errors import InvalidEntry
from outbox.prepare import Written, digest, written, written_alike

TRADES = Destination("trades", integers=frozenset({"qty"}))
SESSIONS = Destination("sessions", on_conflict=("session_id",))
ORDERS = Destination("orders", key="order_id", on_conflict=("account", "order_id"), operation=Operation.UPSERT)
PAIRS = Destination("orders", on_conflict=("account", "order_id"))
UUIDS = Destination("trades", key_kind=Kind.UUID)
NUMBERS = Destination("trades", key_kind=Kind.INTEGER)


def shape_of(ready: Written) -> tuple[str, str, str, bool]:
    spec = ready.intent.spec
    return spec.operation.value, spec.on_conflict, spec.columns, spec.ordered


# ---------------------------------------------------------------------------------------------- shapes


def filling(count: int) -> dict[str, int]:
    """Return a row whose columns' names have `count` bytes, with the commas between them."""
    names = [f"c{number:058}" for number in range((count - 1) // 60)]
    return dict.fromkeys([*names, "z" * (count - 60 * len(names))], 1)


@pytest.mark.parametrize(
    ("more", "others", "columns"),
    [
        pytest.param({}, len(",id") + len("id"), 801, id="an insert, which names its key, too"),
        pytest.param({"operation": "upsert", "on_conflict": (f"c{0:058}",)}, 59, 800, id="an upsert"),
        pytest.param({"operation": "update", "match": {"id": 1}}, 0, 801, id="an update"),
    ],
)
def test_a_row_whose_columns_fill_a_url_is_refused(more: dict[str, Any], others: int, columns: int) -> None:
    assert written(TRADES, filling(48_000 - others), **more).intent.spec.columns
    words = rf"trades: the names of its {columns} columns have 48001 bytes.*nothing was written"
    with pytest.raises(InvalidEntry, match=words):
        written(TRADES, filling(48_001 - others), **more)


def test_an_insert_is_decided_by_the_key_column_and_names_it_among_its_columns() -> None:
    ready = written(TRADES, {"price": 1.5, "pair": "EURUSD"})
    assert shape_of(ready) == ("insert", "id", "id,pair,price", False)
    assert (ready.id, ready.intent.key, ready.intent.on_conflict, ready.intent.match) == (None, None, None, None)
    assert ready.payload == '{"pair":"EURUSD","price":1.5}'


def test_an_insert_with_an_ordering_key_travels_in_order() -> None:
    ready = written(TRADES, {"price": 1}, key="EURUSD")
    assert shape_of(ready) == ("insert", "id", "id,price", True)
    assert ready.intent.key == "EURUSD"


def test_an_upsert_is_ordered_by_the_values_that_decide() -> None:
    ready = written(ORDERS, {"order_id": 7, "account": "a", "qty": 1})
    assert shape_of(ready) == ("upsert", "account,order_id", "account,order_id,qty", True)
    assert ready.intent.key == '["7","a"]'


def test_an_upsert_with_one_deciding_column_is_ordered_by_its_plain_value() -> None:
    ready = written(SESSIONS, {"session_id": "s1"}, operation="upsert")
    assert ready.intent.key == "s1"


def test_an_update_is_ordered_like_the_upsert_of_the_same_row() -> None:
    upsert = written(SESSIONS, {"session_id": "s1", "pnl": 1}, operation="upsert")
    update = written(SESSIONS, {"pnl": 2}, operation="update", match={"session_id": "s1"})
    assert update.intent.key == upsert.intent.key
    assert shape_of(update) == ("update", "", "pnl", True)


def test_rows_of_other_columns_do_not_share_a_request() -> None:
    assert shape_of(written(TRADES, {"a": 1})) != shape_of(written(TRADES, {"b": 1}))


def test_the_order_of_a_rows_columns_does_not_matter() -> None:
    one, two = written(TRADES, {"a": 1, "b": 2}), written(TRADES, {"b": 2, "a": 1})
    assert (one.intent, one.payload, one.digest) == (two.intent, two.payload, two.digest)


def test_plain_rows_of_the_same_columns_share_what_is_made_once() -> None:
    prepare._plain.clear()
    intents = [written(TRADES, row).intent for row in ({"a": 1}, {"b": 1}, {"a": 2})]
    assert intents[0] is intents[2]
    assert intents[0] != intents[1]


def test_a_thousand_made_up_column_sets_do_not_grow_the_memory() -> None:
    known = []
    for number in range(2500):
        written(TRADES, {f"c{number}": 1})
        known.append(len(prepare._plain))
    assert max(known) == 1000


@pytest.mark.parametrize(
    ("destination", "row", "id", "key"),
    [
        pytest.param(TRADES, {"a": 1}, None, None, id="nobody has named it"),
        pytest.param(TRADES, {"a": 1}, "mine", "mine", id="by its id"),
        pytest.param(SESSIONS, {"session_id": "s1", "a": 1}, None, "s1", id="by what its upserts conflict on"),
        pytest.param(SESSIONS, {"session_id": "s1", "a": 1}, "mine", "s1", id="by that before its id"),
        pytest.param(SESSIONS, {"session_id": None, "a": 1}, "mine", "mine", id="by its id if that is null"),
        pytest.param(SESSIONS, {"a": 1}, None, None, id="that is not there"),
        pytest.param(PAIRS, {"account": "a", "order_id": 7}, None, '["7","a"]', id="by both columns"),
        pytest.param(PAIRS, {"account": "a"}, None, None, id="one column is not enough"),
    ],
)
def test_an_insert_whose_row_is_named_stands_in_the_line_of_its_upserts(
    destination: Destination, row: dict[str, object], id: str | None, key: str | None
) -> None:
    assert written(destination, row, id=id).intent.key == key


ALIKE: list[object] = [{"a": 1, "b": "x"}, {"a": 2, "b": None}]


@pytest.mark.parametrize(
    ("destination", "rows", "alike"),
    [
        pytest.param(TRADES, ALIKE, True, id="plain inserts"),
        pytest.param(UUIDS, ALIKE, True, id="of a table with UUIDs, which are minted"),
        pytest.param(NUMBERS, ALIKE, False, id="of one with integers, which are not"),
        pytest.param(SESSIONS, ALIKE, False, id="of one whose rows stand in line"),
        pytest.param(ORDERS, ALIKE, False, id="upserts"),
        pytest.param(TRADES, [{"id": "mine", "a": 1}], False, id="with an id of their own"),
        pytest.param(TRADES, [{"a": 1}, {"b": 1}], False, id="of other columns"),
    ],
)
def test_many_plain_rows_become_what_each_becomes_alone(
    destination: Destination, rows: list[object], alike: bool
) -> None:
    found = written_alike(destination, rows)
    assert (found is not None) is alike
    if found is not None:
        ids, more = ["one", "two"], {"created_at_ms": 1, "source": "bot", "lane": 2}
        alone = [written(destination, row).entry(each, **more) for each, row in zip(ids, rows, strict=True)]  # type: ignore[arg-type]
        assert found.entries(ids, **more) == alone  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="zip"):
            found.entries(ids[:1], **more)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("destination", "row", "arguments", "field"),
    [
        pytest.param(TRADES, {"a": 1}, {"on_conflict": ("a",)}, "on_conflict", id="an insert with conflict columns"),
        pytest.param(TRADES, {"a": 1}, {"match": {"a": 1}}, "match", id="an insert with a match"),
        pytest.param(TRADES, {"a": 1}, {"operation": "delete"}, "operation", id="an unknown operation"),
        pytest.param(TRADES, {"a": 1}, {"operation": "upsert"}, "on_conflict", id="an upsert decided by nothing"),
        pytest.param(TRADES, {"a": 1}, {"operation": "upsert", "on_conflict": "a"}, "on_conflict", id="one text"),
        pytest.param(
            TRADES, {"a": None}, {"operation": "upsert", "on_conflict": ("a",)}, "trades.a", id="a null decides"
        ),
        pytest.param(TRADES, {"b": 1}, {"operation": "upsert", "on_conflict": ("a",)}, "trades.a", id="none there"),
        pytest.param(TRADES, {"a": 1}, {"operation": "upsert", "on_conflict": ("a;",)}, "on_conflict", id="no name"),
        pytest.param(TRADES, {"a": 1}, {"operation": "update"}, "match", id="an update of what"),
        pytest.param(TRADES, {"a": 1}, {"operation": "update", "match": {}}, "match", id="an update of everything"),
        pytest.param(TRADES, {"a": 1}, {"operation": "update", "match": {"a": 2}}, "match.a", id="matched and set"),
        pytest.param(TRADES, {"a": 1}, {"operation": "update", "match": {"b c": 2}}, "match", id="no name in a match"),
        pytest.param(TRADES, {"a": 1}, {"operation": "update", "match": {"b": [1]}}, "match.b", id="a list"),
        pytest.param(TRADES, {"a": 1}, {"operation": "update", "match": {"b": {1}}}, "match.b", id="a set"),
        pytest.param(TRADES, {"a": 1}, {"operation": "update", "match": {"b": frozenset()}}, "match.b", id="another"),
        pytest.param(TRADES, {"a": 1}, {"operation": "update", "match": {"b": TRADES}}, "match.b", id="an object"),
        pytest.param(TRADES, {"a": 1}, {"operation": "update", "match": {"b": "é" * 1500}}, "match", id="a long URL"),
        pytest.param(TRADES, {"a": 1}, {"key": ""}, "key", id="an empty ordering key"),
        pytest.param(TRADES, {"a b": 1}, {}, 'trades["a b"]', id="a column that is no name"),
        pytest.param(TRADES, {}, {}, "trades", id="no column at all"),
    ],
)
def test_a_combination_that_cannot_work_is_refused_by_its_name(
    destination: Destination, row: object, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidEntry) as caught:
        written(destination, row, **arguments)
    assert caught.value.field == field
    assert str(caught.value).endswith("nothing was written")


@pytest.mark.parametrize("column", ["select", "order", "limit", "offset", "columns", "on_conflict", "and", "or", "not"])
def test_a_match_that_postgrest_would_not_read_as_a_filter_is_refused(column: str) -> None:
    """`PATCH trades?limit=eq.5` has no filter at all: it would change every row of the table."""
    with pytest.raises(InvalidEntry) as caught:
        written(TRADES, {"a": 1}, operation="update", match={column: 5, "id": 1})
    assert caught.value.field == f"match.{column}"
    written(TRADES, {column: 1}, operation="update", match={"id": 1})  # as a value it is a column like any other


# ---------------------------------------------------------------------------------------------- match and key


def test_a_match_keeps_the_digits_of_a_decimal() -> None:
    ready = written(
        TRADES, {"a": 1}, operation="update", match={"price": Decimal("1.10"), "at": datetime(2026, 1, 1, tzinfo=UTC)}
    )
    assert ready.intent.match == '{"at":"2026-01-01T00:00:00+00:00","price":1.10}'


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_a_match_fits_into_a_url(more: int, fits: bool) -> None:
    match = {"b": "x" * (8_000 - len(quote('{"b":""}')) + more)}
    try:
        written(TRADES, {"a": 1}, operation="update", match=match)
    except InvalidEntry as error:
        assert (error.field, fits) == ("match", False)
    else:
        assert fits


@pytest.mark.parametrize(
    ("destination", "match", "key"),
    [
        pytest.param(TRADES, {"id": 5, "version": 2}, "5", id="the row of an id"),
        pytest.param(SESSIONS, {"session_id": "s1", "version": 2}, "s1", id="the row of an upsert"),
        pytest.param(SESSIONS, {"version": 2}, "2", id="any rows"),
        pytest.param(PAIRS, {"account": "a", "version": 2}, '["2","a"]', id="half of what an upsert conflicts on"),
    ],
)
def test_an_update_stands_in_the_line_of_the_row_that_it_matches(
    destination: Destination, match: dict[str, object], key: str
) -> None:
    assert written(destination, {"a": 1}, operation="update", match=match).intent.key == key


def test_an_empty_text_may_decide_an_upsert() -> None:
    assert written(SESSIONS, {"session_id": ""}, operation="upsert").intent.key == '""'


def test_a_key_of_the_callers_own_wins_over_the_deciding_values() -> None:
    ready = written(SESSIONS, {"session_id": "s1"}, operation="upsert", key="day")
    assert (ready.intent.key, ready.intent.on_conflict) == ("day", "session_id")


@pytest.mark.parametrize("value", [None, True, 5, "x", Decimal("2.50")])
def test_any_single_value_may_be_matched(value: object) -> None:
    ready = written(TRADES, {"a": 1}, operation="update", match={"b": value})
    assert ready.intent.key
    assert ready.intent.match is not None


# ---------------------------------------------------------------------------------------------- digests

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=10)
values = st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), texts)


@given(st.dictionaries(st.sampled_from("abcdef"), values, min_size=1), texts)
def test_the_digest_covers_everything_that_decides_what_is_sent(row: dict[str, object], key: str) -> None:
    ready = written(TRADES, row, key=key)
    assert ready.digest == digest("trades", "insert", ready.intent.key, ready.payload, None, None)
    others = (
        written(Destination("events"), row, key=key),
        written(TRADES, row, key=key + "x"),
        written(TRADES, row),
        written(TRADES, {**row, "g": 1}, key=key),
        written(TRADES, row, key=key, operation="update", match={"z": 1}),
    )
    assert len({ready.digest, *(other.digest for other in others)}) == 6


@given(st.dictionaries(st.sampled_from("abcdef"), values, min_size=1))
def test_what_is_written_is_what_was_put(row: dict[str, object]) -> None:
    assert json.loads(written(TRADES, row).payload) == row


@given(st.dictionaries(st.sampled_from(["session_id", "a", "b"]), values, min_size=1))
def test_an_upsert_is_refused_or_has_a_key(row: dict[str, object]) -> None:
    try:
        ready = written(SESSIONS, row, operation="upsert")
    except InvalidEntry:
        assert row.get("session_id") is None
    else:
        assert ready.intent.key
        assert ready.intent.spec.ordered
