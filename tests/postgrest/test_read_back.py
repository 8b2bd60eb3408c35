"""Whether what the remote end holds under an id is the row that was sent."""

from __future__ import annotations

import json
from decimal import Decimal
from urllib.parse import unquote

import pytest

from outbox.entry import LaneSpec, Operation, Outgoing
from outbox.postgrest.read_back import (
    conflict,
    differing,
    equal_path,
    find,
    is_rounded,
    read_back_path,
    rows_read,
    same,
)
from outbox.postgrest.replies import Failure, Reply

SPEC = LaneSpec("orders", Operation.INSERT, "ticket", "qty,ticket", ordered=True)


def outgoing(id: str, payload: str, match: str | None = None) -> Outgoing:
    return Outgoing(1, id, None, payload, match, "digest", 0)


@pytest.mark.parametrize(
    ("sent", "held", "alike"),
    [
        pytest.param(1, 1, True, id="a number"),
        pytest.param(1, Decimal("1.00"), True, id="numeric(10, 2)"),
        pytest.param(Decimal("1.005"), Decimal("1.010"), False, id="another value"),
        pytest.param(Decimal("1.2345"), Decimal("1.230"), False, id="rounded to other digits"),
        pytest.param(Decimal("1.2296"), Decimal("1.230"), True, id="rounded as a column with three digits does"),
        pytest.param(Decimal("1.1512"), Decimal("1.15"), False, id="a price that agrees in its first digits"),
        pytest.param(Decimal("1.123456789"), Decimal("1.1234568"), True, id="real"),
        pytest.param("1.50", Decimal("1.5"), True, id="a text into a number"),
        pytest.param(7, "7", True, id="a number into a text"),
        pytest.param("007", "7", False, id="two texts that one number has"),
        pytest.param("1e3", "1000", False, id="two spellings of a number in a text"),
        pytest.param("NaN", "NaN", True, id="NaN"),
        pytest.param(1, True, True, id="a number into a boolean"),
        pytest.param("t", True, True, id="a text into a boolean"),
        pytest.param(0, True, False, id="another boolean"),
        pytest.param(True, True, True, id="a boolean"),
        pytest.param(True, 1, False, id="a boolean is no number"),
        pytest.param(None, None, True, id="null"),
        pytest.param(None, 0, False, id="null is not 0"),
        pytest.param("", None, False, id="an empty text is not null"),
        pytest.param("EURUSD", "EURUSD", True, id="a text"),
        pytest.param("EURUSD", "eurusd", False, id="case counts in a text"),
        pytest.param("ab", "ab   ", True, id="char(5)"),
        pytest.param("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", True, id="uuid"),
        pytest.param("2026-01-02T10:00:00+00:00", "2026-01-02T10:00:00+00:00", True, id="an instant"),
        pytest.param("2026-01-02T12:00:00+02:00", "2026-01-02 10:00:00+00", True, id="an instant in another zone"),
        pytest.param("2026-01-02T10:00:00.120000Z", "2026-01-02T10:00:00.12+00:00", True, id="zeros of a second"),
        pytest.param("2026-01-02T10:00:00", "2026-01-02T10:00:00+00:00", True, id="without a zone it is UTC"),
        pytest.param("2026-01-02T12:00:00+02:00", "2026-01-02T12:00:00", True, id="timestamp without a zone"),
        pytest.param("2026-01-02T10:00:00Z", "2026-01-02", True, id="date"),
        pytest.param("09:30", "09:30:00", True, id="time of day"),
        pytest.param("09:30", "09:30:01", False, id="another time of day"),
        pytest.param("2026-01-02T10:00:00Z", "2026-01-02T10:00:01+00:00", False, id="a second later"),
        pytest.param({"b": 1, "a": [1, None]}, {"a": [1, None], "b": Decimal("1.0")}, True, id="jsonb"),
        pytest.param({"a": 1}, {"a": 1, "b": None}, False, id="jsonb with a key more"),
        pytest.param({"a": {"b": "01"}}, {"a": {"b": "1"}}, False, id="jsonb keeps texts as they are"),
        pytest.param({"a": 1}, {"a": True}, False, id="jsonb tells a boolean from a number"),
        pytest.param({"a": "2026-01-02T10:00:00Z"}, {"a": "2026-01-02T10:00:00+00:00"}, False, id="and no instant"),
        pytest.param('{"a": 1}', {"a": 1}, True, id="a text that became an object"),
        pytest.param({"a": 1}, '{"a":1}', True, id="an object in a text column"),
        pytest.param(["x", "y"], ["x", "y"], True, id="an array"),
        pytest.param(["x", "y"], ["y", "x"], False, id="an array in another order"),
    ],
)
def test_a_value_is_compared_as_postgresql_writes_it(sent: object, held: object, alike: bool) -> None:
    assert same(sent, held) is alike


def test_a_conflict_names_the_columns_and_shows_both_values_but_not_in_the_message() -> None:
    entry = outgoing("1001", '{"ticket":1001,"qty":777}')
    held = {"ticket": 1001, "qty": 888}
    assert differing(entry.payload, held) == ["qty"]
    refusal = conflict(SPEC, entry, held, 201, ["qty"])
    assert (refusal.status, refusal.code) == (201, "CONFLICT")
    assert refusal.message == "another row is there with orders.ticket = 1001; it differs in qty"
    assert json.loads(refusal.details or "") == {"qty": {"sent": 777, "stored": 888}}


def test_what_is_not_there_is_told_and_what_the_server_filled_in_does_not_count() -> None:
    entry = outgoing("1001", '{"qty":1}')
    assert differing(entry.payload, {"ticket": 1001, "qty": 1, "created_at": "now"}) == []
    assert "there is no row" in conflict(SPEC, entry, None, 201, []).message


@pytest.mark.parametrize(
    ("sent", "held", "others", "alike"),
    [
        pytest.param(Decimal("1.239"), Decimal("1.24"), [], True, id="numeric(10, 2), the only row"),
        pytest.param(Decimal("1.239"), Decimal("1.24"), [Decimal("2.00"), None], True, id="others have two digits"),
        pytest.param(Decimal("1.239"), Decimal("1.24"), [Decimal("2.005")], False, id="one has more"),
        pytest.param(Decimal("1.239"), Decimal("1.24"), [2, Decimal("2.5")], False, id="some have fewer: no scale"),
        pytest.param(Decimal("1.251"), Decimal("1.24"), [], False, id="another number"),
        pytest.param("1.239", Decimal("1.24"), [], True, id="a number as a text"),
        pytest.param(Decimal("5.4"), 5, [7], False, id="no digits at all are no proof"),
        pytest.param("2026-01-02T10:00:00.6Z", "2026-01-02T10:00:01+00:00", [], True, id="timestamptz(0)"),
        pytest.param(
            "2026-01-02T10:00:00.6Z", "2026-01-02T10:00:01+00:00", ["2026-01-02T10:00:00.25+00:00"], False,
            id="it keeps more",
        ),
        pytest.param(
            "2026-01-02T12:00:00.12345678+02:00", "2026-01-02T10:00:00.123457+00:00", [], True, id="microseconds"
        ),
        pytest.param("2026-01-02T12:00:00.6+02:00", "2026-01-02T12:00:01", [], True, id="timestamp(0), no zone"),
        pytest.param("09:30:00.6", "09:30:01", [], True, id="time(0)"),
        pytest.param("2026-01-02T10:00:02Z", "2026-01-02T10:00:01+00:00", [], False, id="a second later"),
        pytest.param("2026-02-30T10:00:02Z", "2026-01-02T10:00:01+00:00", [], False, id="no such day"),
        pytest.param("1.239", "1.24", [], False, id="two texts"),
        pytest.param("a", 1, [], False, id="a text"),
        pytest.param(None, Decimal("1.5"), [], False, id="null"),
        pytest.param(Decimal("1.5"), None, [], False, id="null there"),
    ],
)  # fmt: skip
def test_what_a_column_rounds_is_compared_as_finely_as_the_column_is(
    sent: object, held: object, others: list[object], alike: bool
) -> None:
    assert is_rounded(sent, held, others) is alike


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        pytest.param("P1D", 'qty.eq."P1D"', id="a text"),
        pytest.param(12.5, 'qty.eq."12.5"', id="a number"),
        pytest.param(True, 'qty.eq."true"', id="a boolean"),
        pytest.param('a"b\\c', 'qty.eq."a\\"b\\\\c"', id="quotes"),
        pytest.param([1, None, ["x"]], r'qty.eq."{\"1\",NULL,{\"x\"}}"', id="an array"),
    ],
)
def test_postgresql_is_asked_whether_a_column_equals_what_was_sent(value: object, asked: str) -> None:
    path = equal_path(SPEC, {"ticket": "1001"}, "qty", json.dumps({"qty": value}), "of the column's type")
    assert unquote(path or "") == f'orders?and=(ticket.eq."1001",{asked})&select=ticket'


@pytest.mark.parametrize(("value", "held"), [(None, "x"), ({"a": 1}, "x"), ("x", None), (1, 2), (1, Decimal("1.5"))])
def test_of_nothing_json_and_two_numbers_it_is_not_asked(value: object, held: object) -> None:
    assert equal_path(SPEC, {"ticket": "1001"}, "qty", json.dumps({"qty": value}), held) is None


def test_a_path_holds_as_many_ids_as_a_url_may() -> None:
    path, asked = read_back_path(SPEC, ['a"b', "c,d"])
    assert (path, asked) == ("orders?ticket=in.(%22a%5C%22b%22,%22c%2Cd%22)&select=qty,ticket", 2)
    path, asked = read_back_path(SPEC, ["x" * 200] * 500)
    assert len(path) < 7000 and 0 < asked < 500


def test_ids_are_found_however_the_server_writes_them() -> None:
    held = {"1001": {"n": 1}, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11": {"n": 2}}
    assert find(held, "1001") == {"n": 1}
    assert find(held, "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11") == {"n": 2}
    assert find(held, "1002") is None


@pytest.mark.parametrize(
    "answer", [Failure.CUT, Reply(200, {}, b"<html>"), Reply(200, {}, b"[1]"), Reply(403, {}, b"[]")]
)
def test_an_answer_without_rows_proves_nothing(answer: Reply | Failure) -> None:
    assert rows_read(answer) is None
