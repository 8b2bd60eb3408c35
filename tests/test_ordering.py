"""One remote row has one ordering key, however its values are written."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, strategies as st

from outbox.entry import Destination
from outbox.ordering import ordering_key
from outbox.prepare import written
from tests.support import in_zone

POSITIONS = Destination("positions", on_conflict=("venue", "ticket"))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        pytest.param(None, None, id="none"),
        pytest.param("EURUSD", "EURUSD", id="a text"),
        pytest.param(7, "7", id="a number"),
        pytest.param(0, "0", id="zero"),
        pytest.param(["a"], "a", id="a list of one"),
        pytest.param([""], '""', id="an empty value of a column"),
        pytest.param(("a", 7), '["7","a"]', id="a list of two"),
        pytest.param([None], "null", id="a null"),
        pytest.param({"b": 1, "a": 2}, '{"a":2,"b":1}', id="a mapping, sorted"),
        pytest.param(UUID(int=1), str(UUID(int=1)), id="a UUID"),
        pytest.param("1E9999", "1E+9999", id="a number that nobody writes out"),
        pytest.param("1e99", "1" + "0" * 99, id="a number of a hundred digits"),
        pytest.param("1e100", "1E+100", id="one of a digit more"),
        pytest.param(1234567, "1234567", id="a whole number keeps its digits"),
        pytest.param(0.1234567, "0.123457", id="a fraction keeps six"),
        pytest.param(100, "100", id="noughts at the end"),
        pytest.param(2.5, "2.5", id="a half"),
        pytest.param(["é", "b"], '["b","é"]', id="letters of any script"),
        pytest.param("2026-01-01 00:00:00.999999+00", "2026-01-01T00:00:00.999999Z", id="the last microsecond"),
    ],
)
def test_a_key_is_a_text(key: object, expected: str | None) -> None:
    assert ordering_key(key) == expected


def test_a_time_without_a_zone_is_utc_wherever_the_bot_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with in_zone("Pacific/Kiritimati", monkeypatch):
        assert ordering_key("2026-01-01T10:20:30") == "2026-01-01T10:20:30Z"


SAME: list[list[object]] = [
    [12345678901234567890, "12345678901234567890", Decimal("12345678901234567890.0"), "1234567890123456789E+1"],
    [2, "2", 2.0, "2.0", "02", " 2 ", Decimal("2.00"), "2e0"],
    [1.1, "1.10", Decimal("1.1"), 1.100000023841858],  # the last one is what numpy's float32 says
    ["550E8400-E29B-41D4-A716-446655440000", UUID("550e8400-e29b-41d4-a716-446655440000"),
     "{550e8400e29b41d4a716446655440000}"],
    ["2026-01-02T10:00:00Z", "2026-01-02 11:00:00+01:00", "2026-01-02T10:00:00.000000-00", "2026-01-02 10:00"],
    ["2026-01-02T10:00:00.123457Z", "2026-01-02T10:00:00.1234567+00:00", "2026-01-02T15:30:00.123457+05:30"],
    ["2026-01-02", "2026-01-02T00:00:00Z", "2026-01-02T01:00:00+01:00"],
    [True, "true", "TRUE"],
    [float("nan"), "NaN", "nan"],
    [float("inf"), "Infinity", "inf"],
    [["LMAX", 1], [1, "LMAX"], ("1", "LMAX")],
    ["EURUSD"],
    ["eurusd"],
]  # fmt: skip


def test_what_postgresql_may_hold_equal_is_one_key_and_nothing_else_is() -> None:
    keys = [{ordering_key(spelling) for spelling in spellings} for spellings in SAME]
    assert [len(each) for each in keys] == [1] * len(SAME)
    assert len(set().union(*keys)) == len(SAME), "the control: other rows have other keys"


def test_a_row_of_more_digits_than_a_float_has_one_line_however_it_is_named() -> None:
    ticket = Decimal("12345678901234567890.0")
    of_upsert = key({"venue": "LMAX", "ticket": int(ticket), "qty": 5}, operation="upsert")
    named: list[Any] = [int(ticket), str(int(ticket)), ticket]
    keys = {key({"qty": 6}, operation="update", match={"venue": "LMAX", "ticket": each}) for each in named}
    keys |= {key({"venue": "LMAX", "ticket": each}, operation="upsert") for each in named}
    assert keys == {of_upsert}
    assert key({"venue": "LMAX", "ticket": ticket + 1}, operation="upsert") not in keys, "the control"


@given(st.one_of(st.text(), st.integers(), st.floats(), st.decimals(), st.datetimes(timezones=st.timezones()).map(str)))
def test_the_key_of_a_key_is_the_key(value: object) -> None:
    """A shell may copy an entry with its key, and an edit hands it on."""
    key = ordering_key(value) if value != "" else "x"
    assert ordering_key(key) == key


def key(row: Mapping[str, Any], **how: Any) -> str | None:
    return written(POSITIONS, row, **how).intent.key


def test_an_upsert_and_an_update_of_one_row_stand_in_one_line_whatever_names_it() -> None:
    row = {"venue": "LMAX", "ticket": 1, "qty": 5}
    keys = {key(row, operation="upsert", on_conflict=names) for names in itertools.permutations(("venue", "ticket"))}
    keys.add(key(row, operation="upsert"))
    for match in ({"ticket": "1", "venue": "LMAX"}, {"venue": "LMAX", "ticket": 1, "version": 3}):
        keys.add(key({"qty": 6}, operation="update", match=match))
    assert len(keys) == 1
    assert key({"qty": 6}, operation="update", match={"venue": "LMAX", "ticket": 2}) not in keys, "the control"
