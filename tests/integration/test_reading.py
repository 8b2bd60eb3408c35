"""Reads against a real server: what is decided here is what PostgreSQL decides, and no page loses a row."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given, settings, strategies as st
from psycopg.rows import TupleRow
from supabase_lite import EmbeddedPostgres, SupabaseLite

from outbox import Column, Outbox, ReadSource, Settings, SupabaseClient, Undecidable
from outbox.columns import SHIPPED, UNKNOWN, Kind, comparable
from tests.support import run_async

if TYPE_CHECKING:
    Sql = psycopg.Connection[TupleRow]

COLUMNS: dict[str, Kind | Column] = {
    "n": Kind.INTEGER,
    "i": Column(Kind.INTEGER, default=7),
    "f": Column(Kind.FLOAT, default=None),
    "d": Column(Kind.NUMERIC, default=None),
    "t": Column(Kind.TEXT, default="new"),
    "ts": Column(Kind.TIMESTAMP, default=None),
    "b": Column(Kind.BOOLEAN, default=False),
    "u": Column(Kind.UUID, default=None),
}
TABLE = """
create table public.quotes (
    n bigint primary key, i int default 7, f float8, d numeric, t text default 'new', ts timestamptz,
    b boolean default false, u uuid
)
"""
VALUES: dict[str, list[Any]] = {
    "i": [None, 0, 1, -1, 7, 2147483647],
    "f": [None, 0.0, -0.0, 0.1, 0.30000000000000004, 1e308, -5, 5e-324, "NaN", "Infinity", "-Infinity", "1.50"],
    # No more digits than a double has: Supabase Lite writes no others. All of them: the comparison by SQL below.
    "d": [None, 0, 0.1, "0.10", "1.000000000001", "-999999999.5", 1e2, "NaN"],
    # Not the text "null": Supabase Lite takes `eq.null` for null; PostgREST does not.
    "t": [None, "", "a", "A", "b", "é", "new", "a b", "a,b", "x&limit=1", "(1)", 5],
    "ts": [
        None, "2026-01-02T10:00:00Z", "2026-01-02T11:00:00+01:00", "2026-01-02 10:00:00.000001+00",
        "2026-01-02T10:00:00.1Z", "2026-01-02T10:00:00.100000-00:00", "1969-12-31T23:59:59.999999Z",
        "2026-07-02T10:00+05:30",
    ],
    "b": [None, True, False],
    "u": [None, "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000A",
          "ffffffff-0000-0000-0000-000000000000"],
}  # fmt: skip
COMPARED = {
    **{name: ["eq", "neq", "gt", "gte", "lt", "lte", "in", "is"] for name in ("i", "f", "d", "ts", "u")},
    "b": ["eq", "neq", "gt", "gte", "lt", "lte", "in", "is", "true"],
    "t": ["eq", "neq", "in", "is"],
}


def a_row(dice: random.Random, number: int, *, whole: bool) -> dict[str, Any]:
    columns = [name for name in VALUES if whole or dice.random() < 0.6] or ["i"]
    return {"n": number} | {name: dice.choice(VALUES[name]) for name in columns}


def a_filter(dice: random.Random, column: str) -> Any:
    operator, found = dice.choice(COMPARED[column]), [value for value in VALUES[column] if value is not None]
    match operator:
        case "is":
            return (dice.choice(["is", "neq"]), None)
        case "true":
            return ("is", dice.choice([True, False, None]))
        case "in":
            return ("in", dice.sample(found, dice.randrange(0, min(4, len(found)))))
        case _:
            return (operator, dice.choice(found))


def a_query(dice: random.Random) -> dict[str, Any]:
    columns = dice.sample(list(VALUES), dice.choice([0, 1, 1, 2]))
    order = dice.sample(["i", "f", "d", "ts", "b", "u"], dice.choice([0, 1, 2]))
    signs = [dice.choice(["", "-"]) for _ in order]
    return {
        "filters": {column: a_filter(dice, column) for column in columns},
        "order": (*(sign + column for sign, column in zip(signs, order, strict=True)), dice.choice(["n", "-n"])),
    }


@pytest.fixture(scope="module")
def table(remote: SupabaseLite, postgres: EmbeddedPostgres) -> Iterator[None]:
    """A table with a column of each kind."""
    postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as sql:
        sql.execute(TABLE)
        sql.execute("grant select, insert, update on public.quotes to service_role")
        remote.stop()
        remote.start()  # Lite reads the tables when it starts
        yield
        sql.execute("drop table public.quotes")


@pytest.fixture
def quotes(table: None, clean_remote: SupabaseLite, sql: Sql) -> SupabaseLite:
    """The server, with that table, empty."""
    sql.execute("truncate public.quotes")
    return clean_remote


@asynccontextmanager
async def connected(folder: Path, remote: SupabaseLite) -> AsyncIterator[tuple[Outbox, SupabaseClient]]:
    values: dict[str, Any] = {"supabase_url": remote.url, "supabase_key": remote.secret_key}
    async with Outbox.open(Settings(path=folder / "bot.db", **values)) as outbox:
        outbox.register("quotes", key="n")
        client = SupabaseClient(outbox)
        client.describe("quotes", COLUMNS)
        yield outbox, client


def numbers(rows: list[dict[str, Any]]) -> list[int]:
    return [row["n"] for row in rows]


@pytest.mark.parametrize("seed", [1, 2, 3])
@run_async
async def test_local_rows_are_those_that_postgresql_finds(tmp_path: Path, quotes: SupabaseLite, seed: int) -> None:
    dice = random.Random(seed)
    found = 0
    async with connected(tmp_path, quotes) as (outbox, client):
        async with outbox.transaction() as tx:
            for number in range(60):
                await tx.put("quotes", a_row(dice, number, whole=number % 3 > 0))
        report = await outbox.drain(200)
        assert (report.pending, report.dead) == (0, 0)

        for _ in range(60):
            query = a_query(dice)
            remote = await client.query("quotes", "n", **query)
            local = await client.query("quotes", "n", **query, source="local")
            assert numbers(local) == numbers(remote), query
            assert (local.source, local.complete, remote.complete) == (ReadSource.LOCAL, False, True)
            found += len(remote)
    assert found > 500, "the queries find something"


@pytest.mark.parametrize("seed", [11, 12])
@run_async
async def test_merged_rows_are_those_that_the_remote_end_has_once_all_is_delivered(
    tmp_path: Path, quotes: SupabaseLite, seed: int
) -> None:
    dice = random.Random(seed)
    async with connected(tmp_path, quotes) as (outbox, client):
        async with outbox.transaction() as tx:
            for number in range(30):
                await tx.put("quotes", a_row(dice, number, whole=True))
        await outbox.drain(200)
        async with outbox.transaction() as tx:
            for number in range(30, 50):
                await tx.put("quotes", a_row(dice, number, whole=number % 2 > 0), key=f"[{number}]")
            for _ in range(40):
                number = dice.randrange(15, 60)
                row = a_row(dice, number, whole=False)
                if dice.random() < 0.5 or len(row) < 2 or number >= 50:
                    await tx.put("quotes", row, operation="upsert", on_conflict=("n",), key=f"[{number}]")
                else:
                    del row["n"]
                    await tx.put("quotes", row, operation="update", match={"n": number}, key=f"[{number}]")

        queries = [a_query(dice) for _ in range(35)]
        before = [numbers(await client.query("quotes", "n", **query)) for query in queries]
        merged = [await client.query("quotes", "n", **query, source="merged") for query in queries]
        paged = [[row["n"] async for row in client.rows("quotes", **q, page=4, source="merged")] for q in queries[:10]]
        limited = [numbers(await client.query("quotes", "n", **q, limit=3, offset=2, source="merged")) for q in queries]
        report = await outbox.drain(200)
        after = [numbers(await client.query("quotes", "n", **query)) for query in queries]

    assert (report.pending, report.dead) == (0, 0)
    for query, rows, expected in zip(queries, merged, after, strict=True):
        assert numbers(rows) == expected, query
    assert paged == after[:10]
    assert limited == [rows[2:5] for rows in after]
    assert all(rows.complete and rows.source is ReadSource.MERGED for rows in merged)
    assert before != after, "the control: what was pending matters"


@run_async
async def test_a_merged_row_shows_what_was_put_over_what_is_there(tmp_path: Path, quotes: SupabaseLite) -> None:
    async with connected(tmp_path, quotes) as (outbox, client):
        await outbox.put("quotes", {"n": 1, "t": "there", "f": 1.5})
        await outbox.drain(200)
        await outbox.put("quotes", {"f": 2.5}, operation="update", match={"n": 1})
        await outbox.put("quotes", {"n": 2})

        everything = await client.query("quotes", order="n", source="merged")
        some = await client.query("quotes", "n,t,f", order="-n", source="merged")

    assert everything[0] | {"t": "there", "f": 2.5, "b": False} == everything[0]
    assert everything[1] == {"n": 2}, "what the server fills in is not there yet"
    assert some == [{"n": 2, "t": "new", "f": None}, {"n": 1, "t": "there", "f": 2.5}], "unless its default is told"


UNDECIDABLE = [
    pytest.param({"order": "t"}, "order", id="the order of texts"),
    pytest.param({"filters": {"t": ("gt", "a")}}, "filters.t", id="texts compared"),
    pytest.param({"filters": {"t": ("ilike", "a")}}, "filters.t", id="a pattern"),
    pytest.param({"filters": {"nobody": 1}}, "filters.nobody", id="an unknown column"),
    pytest.param({"filters": {"f": "much"}}, "filters.f", id="no number"),
    pytest.param({"filters": {"ts": ("gt", "yesterday")}}, "filters.ts", id="a time that only PostgreSQL knows"),
    pytest.param({"filters": {"ts": ("gt", "2026-01-02T10:00:00")}}, "filters.ts", id="a time without a zone"),
    pytest.param({"filters": {"i": 1.5}}, "filters.i", id="no integer"),
    pytest.param({"select": "n::text"}, "select", id="a cast"),
]


@pytest.mark.parametrize(("query", "field"), UNDECIDABLE)
@pytest.mark.parametrize("source", ["merged", "local"])
@run_async
async def test_what_would_have_to_be_guessed_is_a_typed_error_also_without_rows(
    tmp_path: Path, query: Any, field: str, source: str
) -> None:
    async with Outbox.open(
        Settings(path=tmp_path / "bot.db", supabase_url="http://127.0.0.1:9", supabase_key="k")
    ) as out:
        client = SupabaseClient(out)
        client.describe("quotes", COLUMNS)
        with pytest.raises(Undecidable, match="no row was guessed") as caught:
            await client.query("quotes", **query, source=source)
    assert caught.value.field == field


PRINTED = st.text(alphabet="0123456789.+-eEnNaAiIfFtTyYZz:TW /_x", max_size=12)
TEXTS = {
    Kind.INTEGER: st.one_of(st.integers(-(2**63), 2**63 - 1).map(str), PRINTED),
    Kind.FLOAT: st.one_of(st.floats().map(str), st.decimals(places=3).map(str), PRINTED),
    Kind.NUMERIC: st.one_of(st.decimals().map(str), st.floats().map(str), PRINTED),
    Kind.TIMESTAMP: st.one_of(
        st.datetimes(timezones=st.timezones()).map(lambda moment: moment.isoformat()),
        st.from_regex(r"\A20[0-9]{2}-0[1-9]-[0-2][0-9][T ][0-2][0-9]:[0-5][0-9](:[0-6][0-9](\.[0-9]{1,7})?)?"
                      r"(Z|[+-][01][0-9](:?[0-6][0-9])?)?\Z"),
    ),
    Kind.BOOLEAN: st.sampled_from(["true", "false", "t", "no", "1", "TRUE"]),
    Kind.UUID: st.one_of(st.uuids().map(str), st.uuids().map(lambda found: f"{{{found}}}".upper())),
}  # fmt: skip
SQL_TYPES = {
    Kind.INTEGER: "bigint", Kind.FLOAT: "float8", Kind.NUMERIC: "numeric", Kind.TIMESTAMP: "timestamptz",
    Kind.BOOLEAN: "boolean", Kind.UUID: "uuid",
}  # fmt: skip


@pytest.mark.parametrize("kind", TEXTS)
def test_two_values_compare_here_as_they_do_in_postgresql(sql: Sql, kind: Kind) -> None:
    """Where PostgreSQL takes both texts; where it refuses one, there is no row to find. What is not certain is left."""
    name = SQL_TYPES[kind]
    compared = 0

    @settings(max_examples=250, deadline=None, derandomize=True, database=None)
    @given(left=TEXTS[kind], right=TEXTS[kind])
    def compare(left: str, right: str) -> None:
        nonlocal compared
        try:
            mine = (comparable(kind, left), comparable(kind, right))
        except ValueError:
            return
        try:
            row = sql.execute(
                f"select l < r, l = r from (select %s::{name} as l, %s::{name} as r) as x".encode(), (left, right)
            )
            theirs = row.fetchone()
        except psycopg.DataError:
            return
        assert (mine[0] < mine[1], mine[0] == mine[1]) == theirs
        compared += 1

    compare()
    assert compared > 3, "the control: some were compared"


# ------------------------------------------------------------------------------------------------ page after page


ORDERS: list[tuple[str, ...]] = [
    (), ("f",), ("-f", "b"), ("t",), ("-t", "-ts"), ("b", "-i", "f"), ("-b",), ("f", "i"), ("f", "i", "-b"),
    ("f", "-i", "ts"), ("n", "f"), ("b", "-n", "i", "f"), ("b", "-b", "n", "n"),
]  # fmt: skip


@pytest.mark.parametrize("order", ORDERS, ids=str)
@run_async
async def test_pages_give_each_row_once_in_the_order_of_postgresql(
    tmp_path: Path, quotes: SupabaseLite, sql: Sql, order: tuple[str, ...]
) -> None:
    dice = random.Random(5)
    sql.cursor().executemany(
        "insert into quotes (n, i, f, t, ts, b) values (%s, %s, %s, %s, %s, %s)",
        [
            (n, *(None if dice.random() < 0.4 else dice.choice(VALUES[name]) for name in ("i", "f", "t", "ts", "b")))
            for n in range(67)
        ],
    )
    expected = [n for (n,) in sql.execute(f"select n from quotes order by {sql_order((*order, 'n'))}".encode())]
    async with connected(tmp_path, quotes) as (_, client):
        for page in (3, 10, 67):
            assert [row["n"] async for row in client.rows("quotes", order=order or None, page=page)] == expected
        filtered = [row["n"] async for row in client.rows("quotes", {"n": [("gt", 10), ("lte", 50)]}, page=7)]
        rows = [row async for row in client.rows("quotes", select="t,f", page=50)]
    assert filtered == list(range(11, 51))
    assert len(rows) == 67 and all(set(row) == {"t", "f"} for row in rows)


def sql_order(order: Iterable[str]) -> str:
    return ", ".join(f"{name.removeprefix('-')} {'desc' if name.startswith('-') else 'asc'}" for name in order)


def sql_filter(dice: random.Random) -> tuple[dict[str, Any], str]:
    """A filter, and what it is in SQL."""
    column = dice.choice(["i", "f", "d", "ts", "u", "t"])
    value = dice.choice([each for each in VALUES[column] if each is not None])
    operator, sign = dice.choice([("eq", "="), ("neq", "<>"), ("gt", ">"), ("lte", "<=")])
    name = {"i": "int", "f": "float8", "d": "numeric", "ts": "timestamptz", "u": "uuid", "t": "text"}[column]
    return {column: (operator, value)}, f"{column} {sign} '{value}'::{name}"


# Three of each value in the three columns of an order: enough for keys that are alike at each page's end.
ROWS = 30


@pytest.mark.parametrize("seed", range(101, 106), ids=lambda seed: f"seed {seed}")
@run_async
async def test_random_pages_are_what_postgresql_itself_answers(
    tmp_path: Path, quotes: SupabaseLite, sql: Sql, seed: int
) -> None:
    """Rows full of nulls and equal sort keys, orders of any columns, filters, limits, offsets and page sizes."""
    dice = random.Random(seed)
    names = list(VALUES)
    some = {name: dice.sample(VALUES[name], min(3, len(VALUES[name]))) for name in names}
    sql.cursor().executemany(
        f"insert into quotes (n, {', '.join(names)}) values (%s{', %s' * len(names)})".encode(),
        [
            (n, *(None if dice.random() < 0.5 else dice.choice(some[name]) for name in names))
            for n in dice.sample(range(1000), ROWS)
        ],
    )
    found = 0
    async with connected(tmp_path, quotes) as (_, client):
        for _ in range(40):
            order = [dice.choice(["", "-"]) + name for name in dice.sample([*names, "n"], dice.randrange(4))]
            filters, where = sql_filter(dice) if dice.random() < 0.4 else ({}, "true")
            asked = f"select n from quotes where {where} order by {sql_order([*order, 'n'])}"
            expected = [n for (n,) in sql.execute(asked.encode())]
            page = dice.choice([1, 2, 7, ROWS // 2, ROWS])
            said = f"seed {seed}: {asked}, pages of {page}"
            assert [row["n"] async for row in client.rows("quotes", filters, order=order, page=page)] == expected, said
            assert numbers(await client.query("quotes", "n", filters, [*order, "n"])) == expected, said
            offset, limit = dice.randrange(20), dice.randrange(1, 50)
            cut = await client.query("quotes", "n", filters, [*order, "n"], limit, offset=offset)
            assert numbers(cut) == expected[offset : offset + limit], said
            found += len(expected)
    assert found > 10 * ROWS, "the control: the queries find something"


@run_async
async def test_rows_that_come_and_go_meanwhile_move_no_other_row(
    tmp_path: Path, quotes: SupabaseLite, sql: Sql
) -> None:
    sql.execute("insert into quotes (n) select generate_series(0, 198, 2)")
    found: list[int] = []
    async with connected(tmp_path, quotes) as (_, client), aclosing(client.rows("quotes", page=10)) as rows:
        async for row in rows:
            found.append(row["n"])
            if row["n"] % 20 == 18:  # in front of where the read stands, at each page's end
                sql.execute("insert into quotes (n) values (%s)", (row["n"] - 3,))
                sql.execute("delete from quotes where n = %s", (row["n"] - 18,))
    assert found == list(range(0, 200, 2))


@run_async
async def test_a_table_whose_unique_columns_are_not_told_is_an_error_instead_of_a_lost_row(
    tmp_path: Path, quotes: SupabaseLite, sql: Sql
) -> None:
    sql.execute("insert into quotes (n, i) select n, n / 10 from generate_series(1, 40) as n")
    async with connected(tmp_path, quotes) as (outbox, client):
        outbox.register("quotes", key="i")
        with pytest.raises(Undecidable, match="which columns are unique"):
            _ = [row async for row in client.rows("quotes", page=20)]


# ------------------------------------------------------------------------------------------------ what is known


TYPES = {
    Kind.UUID: "uuid", Kind.TEXT: "text", Kind.TIMESTAMP: "timestamp with time zone", Kind.INTEGER: "integer",
    Kind.FLOAT: "double precision", Kind.BOOLEAN: "boolean",
}  # fmt: skip


@pytest.mark.parametrize("table", SHIPPED)
def test_the_shipped_tables_are_what_is_known_of_them(clean_remote: SupabaseLite, sql: Sql, table: str) -> None:
    found = sql.execute(
        "select column_name, data_type, column_default from information_schema.columns where table_name = %s", (table,)
    ).fetchall()
    assert {name for name, _, _ in found} == set(SHIPPED[table])
    for name, kind, default in found:
        column = SHIPPED[table][name]
        assert column.kind is Kind.OTHER or kind in (TYPES[column.kind], "bigint"), name
        said = None if default is None else default.split("::")[0].strip("'")
        if column.default is UNKNOWN:
            assert said is not None and "(" in said, f"{name}: a constant, which can be known here"
        else:
            assert said == (None if column.default is None else str(column.default).replace("False", "false")), name
