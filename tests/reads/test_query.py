"""What a read becomes: whatever a caller passes, the query keeps its shape or is refused."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings, strategies as st

from outbox.errors import InvalidQuery
from outbox.ordering import RESERVED
from outbox.reads.keyset import walk
from outbox.reads.query import OPERATORS, Query, asked, check_numbers
from outbox.remote import checked_path


def names(*good: str) -> st.SearchStrategy[str]:
    """What is right as often as not, so that all of it is right often enough."""
    odd = st.one_of(st.text(max_size=20), st.sampled_from(["", "select", "a&b=c", "-", "x#", "a b", "pnl.desc"]))
    return st.one_of(*[st.sampled_from(good)] * 9, odd)


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20))
# No character of these can end a parameter, begin another one, or end the query.
SAFE = re.compile(r"[A-Za-z0-9_.~%*,:\-()]*")


def parts(path: str) -> tuple[str, list[tuple[str, str]]]:
    table, _, query = path.partition("?")
    return table, [(name, value) for name, _, value in (part.partition("=") for part in query.split("&"))]


def wanted_by(operator: str, value: object) -> object:
    return (operator, [value, "x"]) if operator == "in" else (operator, value)


def unquoted(listed: str) -> list[str]:
    """Read `("a b",c)` as PostgREST does."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"(?:,|$)|([^",]+)(?:,|$)', listed[1:-1], re.DOTALL)
    return [bare or re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL) for text, bare in found]


@settings(deadline=None)  # a busy machine is no failure
@given(
    table=names("trades", "_x9"),
    select=names("*", "a,b", "x:data->>y", "pnl::text"),
    column=names("symbol", "data->>y", "data->legs->0"),
    operator=st.sampled_from(sorted(OPERATORS)),
    value=VALUES,
    order=names("pnl", "-pnl", "-data->x"),
)
@example(table="trades", select="*", column="symbol", operator="eq", value="x&limit=0#", order="-pnl")
@example(table="trades", select="*", column="symbol", operator="in", value='x"),or=(a.eq.1\\', order="-pnl")
@example(table="trades", select="*", column="symbol", operator="like", value="%&or=(1)", order="-pnl")
def test_whatever_is_passed_the_query_keeps_its_shape(
    table: str, select: str, column: str, operator: str, value: Any, order: str
) -> None:
    try:
        query = asked(table, select, {column: wanted_by(operator, value)}, order)
        path = query.path(limit=10, offset=5, last=("id",))
    except InvalidQuery as error:
        assert error.field.split(".")[0] in ("table", "select", "filters", "order")
        return

    name, found = parts(path)
    assert name == table
    assert [unquote(key) for key, _ in found] == ["select", column, "order", "limit", "offset"]
    assert all(SAFE.fullmatch(text) for pair in found for text in pair)
    assert column not in RESERVED
    said, _, rest = unquote(found[1][1]).removeprefix("not.").partition(".")
    assert said == ("is" if value is None else operator)
    if isinstance(value, str) and "\0" not in value and value.isascii():
        assert (unquoted(rest) == [value, "x"]) if operator == "in" else (rest == value)
    assert checked_path(path) == path


@settings(deadline=None)  # a busy machine is no failure
@given(
    texts=st.tuples(
        *[st.one_of(st.none(), st.text(max_size=8), st.sampled_from(['"', "\\", '",or(', "&x=", ")"]))] * 2
    ),
    key=st.text(max_size=8),
    signs=st.tuples(*[st.sampled_from(["", "-"])] * 2),
)
def test_whatever_stands_in_the_last_row_the_next_page_keeps_its_shape(
    texts: tuple[str | None, str | None], key: str, signs: tuple[str, str]
) -> None:
    """The parameters are those of the order and one tree, whose names, operators and brackets no value can add to."""
    query = asked("trades", filters={"pnl": 1}, order=(f"{signs[0]}a", f"{signs[1]}b"))
    name, found = parts(walk(query, ("id",)).path((*texts, key), limit=10))

    assert name == "trades"
    assert [key for key, _ in found[:4]] == ["select", "pnl", "order", "limit"]
    assert {key for key, _ in found[4:]} <= {"a", "b", "id", "or"}
    assert all(re.fullmatch(r"[A-Za-z0-9_.~%*,:\-()]*", text) for pair in found for text in pair)
    for key_, tree in found[4:]:
        if key_ == "or":
            bare = re.sub(r'"(?:[^"\\]|\\.)*"', "V", unquote(tree), flags=re.DOTALL)
            assert re.fullmatch(
                r"(?:[(),]|and|or|(?:a|b|id)\.(?:not\.)?(?:is\.null|(?:eq|gt|lt)\.[A-Za-z0-9_-]+))*", bare
            ), bare
            assert bare.count("(") == bare.count(")")


@pytest.mark.parametrize("order", ["limit", "or", "select", "data->x"])
def test_pages_are_not_told_apart_by_a_word_of_postgrests_own(order: str) -> None:
    with pytest.raises(InvalidQuery, match="cannot be told apart"):
        walk(asked("trades", order=order), ("id",))


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

    assert query.path(limit=2, last=() if last is None else (last,)) == expected


@pytest.mark.parametrize("limit", [1, 1000, 1_000_000])
def test_a_limit_is_a_positive_number(limit: int) -> None:
    check_numbers(limit=limit)


@pytest.mark.parametrize("limit", [0, -1, True, 1.0, "10"])
def test_any_other_limit_is_refused(limit: Any) -> None:
    with pytest.raises(InvalidQuery):
        check_numbers(limit=limit)
