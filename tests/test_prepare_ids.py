"""The id of a put: where it comes from, what it may be, what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

import pydantic
import pytest

from outbox.bot.records import is_uuid
from outbox.columns import Kind
from outbox.entry import Destination
from outbox.errors import InvalidEntry
from outbox.prepare import written

TRADES = Destination("trades")
SESSIONS = Destination("sessions", on_conflict=("session_id",))
UUIDS = Destination("trades", key_kind=Kind.UUID)
NUMBERS = Destination("trades", key_kind=Kind.INTEGER)


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
        pytest.param({"price": 1}, "x" * 200, "x" * 200, id="given and as long as it may be"),
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


UUID_TEXT = "0190a5c3-7b8e-7c3d-8a4f-00000000000a"


@pytest.mark.parametrize(
    ("destination", "id", "expected"),
    [
        pytest.param(UUIDS, None, None, id="a UUID is minted"),
        pytest.param(UUIDS, f"{{{UUID_TEXT.upper()}}}", UUID_TEXT, id="a UUID as PostgreSQL shows it"),
        pytest.param(NUMBERS, 7, "7", id="an integer"),
        pytest.param(NUMBERS, -(2**63), "-9223372036854775808", id="the least"),
        pytest.param(NUMBERS, 2**63 - 1, "9223372036854775807", id="the greatest"),
    ],
)
def test_an_id_is_what_its_column_holds(destination: Destination, id: object, expected: str | None) -> None:
    assert written(destination, {"a": 1}, id=id).id == expected


@pytest.mark.parametrize(
    ("destination", "id", "words"),
    [
        pytest.param(UUIDS, "mine", "'mine' is not a UUID", id="no UUID"),
        pytest.param(NUMBERS, None, "no id can be minted", id="no integer can be minted"),
        pytest.param(NUMBERS, "mine", "'mine' is not an integer", id="no integer"),
        pytest.param(NUMBERS, -(2**63) - 1, "is not an integer", id="too small"),
        pytest.param(NUMBERS, 2**63, "is not an integer", id="too great"),
    ],
)
def test_an_id_that_its_column_cannot_hold_is_refused(destination: Destination, id: object, words: str) -> None:
    with pytest.raises(InvalidEntry, match=words) as caught:
        written(destination, {"a": 1}, id=id)
    assert caught.value.field == "trades.id"


def test_an_upsert_needs_no_id_whatever_the_key_column_holds() -> None:
    assert written(NUMBERS, {"a": 1}, operation="upsert", on_conflict=("a",)).id is None


@pytest.mark.parametrize(("text", "is_one"), [(UUID_TEXT, True), ("mine", False)])
def test_what_is_a_uuid(text: str, is_one: bool) -> None:
    assert is_uuid(text) is is_one


def test_a_row_that_is_told_twice_needs_an_id() -> None:
    assert written(TRADES, {"a": 1}, id="mine", if_exists="keep").if_exists == "keep"
    assert written(TRADES, {"a": 1}, id="mine").if_exists is None
    for its_id, if_exists in ((None, "keep"), ("mine", "replace")):
        with pytest.raises(InvalidEntry) as caught:
            written(TRADES, {"a": 1}, id=its_id, if_exists=if_exists)  # type: ignore[arg-type]
        assert caught.value.field == "if_exists"


def test_an_id_in_the_row_stays_there() -> None:
    assert written(TRADES, {"id": 5, "price": 1}).payload == '{"id":5,"price":1}'


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
        pytest.param({"price": 1}, 10**5000, "id", id="a number that Python does not write"),
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
