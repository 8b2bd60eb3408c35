"""What a read becomes: whatever a caller passes, the query keeps its shape or is refused."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from outbox.errors import InvalidQuery
from outbox.policy.reading import OPERATORS, Query, asked, checked_limit, checked_path
from outbox.policy.shaping import RESERVED


def names(*good: str) -> st.SearchStrategy[str]:
    """What is right as often as not, so that all of it is right often enough."""
    odd = st.one_of(st.text(max_size=20), st.sampled_from(["", "select", "a&b=c", "-", "x#", "a b", "pnl.desc"]))
    return st.one_of(*[st.sampled_from(good)] * 9, odd)


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20))
# No character of these can end a parameter, begin another one, or end the query.
SAFE = re.compile(r"[A-Za-z0-9_.~%*,:\-]*")


def parts(path: str) -> tuple[str, list[tuple[str, str]]]:
    table, _, query = path.partition("?")
    return table, [(name, value) for name, _, value in (part.partition("=") for part in query.split("&"))]


@given(
    table=names("trades", "_x9"),
    select=names("*", "a,b", "x:data->>y", "pnl::text"),
    column=names("symbol", "data->>y", "data->legs->0"),
    operator=st.sampled_from(sorted(OPERATORS)),
    value=VALUES,
    order=names("pnl", "-pnl", "-data->x"),
)
@example(table="trades", select="*", column="symbol", operator="eq", value="x&limit=0#", order="-pnl")
def test_whatever_is_passed_the_query_keeps_its_shape(
    table: str, select: str, column: str, operator: str, value: Any, order: str
) -> None:
    try:
        path = asked(table, select, {column: (operator, value)}, order).path(limit=10, offset=5, last="id")
    except InvalidQuery as error:
        assert error.field.split(".")[0] in ("table", "select", "filters", "order")
        return

    name, found = parts(path)
    assert name == table
    assert [unquote(key) for key, _ in found] == ["select", column, "order", "limit", "offset"]
    assert all(SAFE.fullmatch(text) for pair in found for text in pair)
    assert column not in RESERVED
    condition = unquote(found[1][1])
    assert condition == "is.null" if value is None else condition.startswith(f"{operator}.")
    if isinstance(value, str) and "\0" not in value and value.isascii():
        assert condition == f"{operator}.{value}"
    assert checked_path(path) == path


@pytest.mark.parametrize(
    ("select", "column", "shown"),
    [
        pytest.param("*", "id", True, id="all"),
        pytest.param("id,pnl", "id", True, id="by name"),
        pytest.param("pnl", "id", False, id="not asked for"),
        pytest.param("id:symbol", "id", False, id="another column under its name"),
        pytest.param("*,id:symbol", "id", False, id="hidden by another"),
        pytest.param("id::text", "id", False, id="changed"),
    ],
)
def test_whether_a_column_is_in_the_answer(select: str, column: str, shown: bool) -> None:
    assert asked("trades", select).shows(column) is shown


@pytest.mark.parametrize(
    ("order", "last", "expected"),
    [
        pytest.param(None, None, "trades?select=*&limit=2", id="none"),
        pytest.param(None, "id", "trades?select=*&order=id.asc&limit=2", id="the key alone"),
        pytest.param("pnl", "id", "trades?select=*&order=pnl.asc,id.asc&limit=2", id="the key last"),
        pytest.param("-id", "id", "trades?select=*&order=id.desc&limit=2", id="the key only once"),
    ],
)
def test_the_key_settles_the_order(order: str | None, last: str | None, expected: str) -> None:
    query: Query = asked("trades", order=order)

    assert query.path(limit=2, last=last) == expected


@pytest.mark.parametrize("limit", [None, 1, 1000, 1_000_000])
def test_a_limit_is_everything_or_a_positive_number(limit: int | None) -> None:
    assert checked_limit(limit) == limit


@pytest.mark.parametrize("limit", [0, -1, True, 1.0, "10"])
def test_any_other_limit_is_refused(limit: Any) -> None:
    with pytest.raises(InvalidQuery):
        checked_limit(limit)
