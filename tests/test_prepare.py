"""What a put becomes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pydantic
import pytest
from hypothesis import given, strategies as st

from outbox import prepare
from outbox.entry import Destination, Operation, digest
from outbox.errors import InvalidEntry
from outbox.prepare import Written, written

TRADES = Destination("trades", integers=frozenset({"qty"}))
SESSIONS = Destination("sessions", on_conflict=("session_id",))
ORDERS = Destination("orders", key="order_id", on_conflict=("account", "order_id"), operation=Operation.UPSERT)


def shape_of(ready: Written) -> tuple[str, str, str, bool]:
    spec = ready.intent.spec
    return spec.operation.value, spec.on_conflict, spec.columns, spec.ordered


# ---------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    "more",
    [{}, {"operation": "upsert", "on_conflict": ("c0",)}, {"operation": "update", "match": {"id": 1}}],
)
def test_a_row_whose_columns_fill_a_url_is_refused(more: dict[str, Any]) -> None:
    row = {f"c{number}": number for number in range(4000)}
    assert written(TRADES, row, **more).intent.spec.columns  # the control: 23 kB go
    long = {f"column_number_{number}": number for number in range(4000)} | {"c0": 1}
    with pytest.raises(InvalidEntry, match=r"trades: the names of its 400\d columns have .*nothing was written"):
        written(TRADES, long, **more)


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


def test_a_thousand_made_up_column_sets_do_not_grow_the_memory() -> None:
    for number in range(2500):
        written(TRADES, {f"c{number}": 1})
    assert len(prepare._plain) <= 1000


# ---------------------------------------------------------------------------------------------- ids


class Model(pydantic.BaseModel):
    id: UUID | None = None
    price: Decimal = Decimal("1.10")


@dataclass
class Row:
    id: object
    price: float = 1.0


@pytest.mark.parametrize(
    ("row", "id", "expected"),
    [
        pytest.param({"price": 1}, None, None, id="minted later"),
        pytest.param({"price": 1}, "mine", "mine", id="given"),
        pytest.param({"price": 1}, 7, "7", id="given as a number"),
        pytest.param({"price": 1}, UUID(int=1), str(UUID(int=1)), id="given as a UUID"),
        pytest.param({"id": "r", "price": 1}, None, "r", id="in the row"),
        pytest.param({"id": 5, "price": 1}, None, "5", id="in the row as a number"),
        pytest.param({"id": 0, "price": 1}, None, "0", id="zero is an id too"),
        pytest.param({"id": 5, "price": 1}, "5", "5", id="in both, the same"),
        pytest.param(Row(UUID(int=2)), None, str(UUID(int=2)), id="in a dataclass"),
        pytest.param(Model(id=UUID(int=3)), None, str(UUID(int=3)), id="in a model"),
        pytest.param(Model(), None, None, id="a model's field that nobody has filled"),
        pytest.param(Model(), "mine", "mine", id="a model's field that the caller fills"),
    ],
)
def test_an_insert_gets_its_id(row: object, id: object, expected: str | None) -> None:
    assert written(TRADES, row, id=id).id == expected


def test_an_id_that_nobody_has_filled_is_not_sent_as_null() -> None:
    ready = written(TRADES, Model())
    assert ready.payload == '{"price":1.10}'
    assert ready.intent.spec.columns == "id,price"


def test_removing_an_empty_id_keeps_every_digit_and_what_was_repaired() -> None:
    ready = written(TRADES, {"id": None, "price": Decimal("1.10000000000000000000001"), "note": "a\0b"})
    assert '"price":1.10000000000000000000001' in ready.payload
    assert ready.repaired == ("trades.note",)


def test_a_row_that_is_nothing_but_an_empty_id_is_refused() -> None:
    with pytest.raises(InvalidEntry, match="at least one column"):
        written(TRADES, {"id": None})


@pytest.mark.parametrize(
    ("row", "id", "field"),
    [
        pytest.param({"id": "a", "price": 1}, "b", "trades.id", id="two ids"),
        pytest.param({"id": 1.5, "price": 1}, None, "trades.id", id="a fraction"),
        pytest.param({"id": True, "price": 1}, None, "trades.id", id="a truth value"),
        pytest.param({"price": 1}, b"x", "id", id="bytes"),
        pytest.param({"id": {"a": 1}, "price": 1}, None, "trades.id", id="an object"),
        pytest.param({"id": "", "price": 1}, None, "trades.id", id="empty"),
        pytest.param({"price": 1}, "", "id", id="given and empty"),
        pytest.param({"price": 1}, "x" * 201, "id", id="too long"),
        pytest.param({"price": 1}, "a\nb", "id", id="a line break"),
    ],
)
def test_an_unfit_id_is_refused_by_its_name(row: object, id: object, field: str) -> None:
    with pytest.raises(InvalidEntry) as caught:
        written(TRADES, row, id=id)
    assert caught.value.field == field


def test_an_upsert_never_takes_its_id_from_the_row() -> None:
    ready = written(SESSIONS, {"session_id": "s1", "id": "theirs"}, operation="upsert")
    assert ready.id is None
    assert json.loads(ready.payload)["id"] == "theirs"


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
        pytest.param(TRADES, {"a": 1}, {"operation": "update", "match": {"b": Row(1)}}, "match.b", id="an object"),
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
