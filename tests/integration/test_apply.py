"""`outbox_apply`: a mixed batch in one request, in the order of the puts, with a verdict for each row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from benchmark.mixed import FUNCTION, Entry, entries, measure
from psycopg.rows import TupleRow
from supabase_lite import EmbeddedPostgres, SupabaseLite

from outbox.entry import LaneSpec, Operation
from outbox.flusher import rpc_apply
from outbox.flusher.rpc_apply import Mixed
from outbox.postgrest.client import PostgrestTransport, Request
from outbox.postgrest.verdicts import CODES, Delivered, Pause, Reject, Reply, Retry, Scope, Verdict
from tests.integration.mixing import function_installed
from tests.support import run_async

if TYPE_CHECKING:
    Sql = psycopg.Connection[TupleRow]

WHEN = "2026-01-02T10:00:00Z"
TABLES = "public.parents, public.children"


@pytest.fixture(scope="module")
def function(remote: SupabaseLite, postgres: EmbeddedPostgres) -> Iterator[None]:
    before = (
        FUNCTION.read_text(encoding="utf-8"),  # again and again
        "create table public.parents (id uuid primary key, code text unique)",
        "create table public.children (id uuid primary key, parent uuid references public.parents (id))",
        f"grant select, insert, update on {TABLES} to service_role",
    )
    with function_installed(remote, postgres, before=before, after=(f"drop table {TABLES}",)):
        yield


@pytest.fixture
def server(function: None, clean_remote: SupabaseLite, sql: Sql) -> SupabaseLite:
    sql.execute(f"truncate {TABLES}".encode())
    return clean_remote


def uuid(number: int) -> str:
    return str(UUID(int=number))


def insert(seq: int, table: str, row: dict[str, Any], key: str | None = None) -> Mixed:
    columns = ",".join(sorted({*row, "id"}))
    spec = LaneSpec(table, Operation.INSERT, "id", columns, ordered=key is not None)
    return Mixed(spec, Entry(seq, uuid(seq), key, json.dumps(row)))


def upsert(seq: int, row: dict[str, Any]) -> Mixed:
    spec = LaneSpec("sessions", Operation.UPSERT, "session_id", ",".join(sorted(row)), ordered=True)
    return Mixed(spec, Entry(seq, uuid(seq), row["session_id"], json.dumps(row)))


def update(seq: int, session_id: str, row: dict[str, Any]) -> Mixed:
    spec = LaneSpec("sessions", Operation.UPDATE, "", ",".join(sorted(row)), ordered=True)
    match = json.dumps({"session_id": session_id, "end_time": None})
    return Mixed(spec, Entry(seq, uuid(seq), session_id, json.dumps(row), match))


async def send(server: SupabaseLite, batch: list[Mixed], *, key: str = "", strict: bool = False) -> Any:
    transport = PostgrestTransport(f"{server.url}/rest/v1", key or server.secret_key)
    content = (("content-type", "application/json"),)
    try:
        body = rpc_apply.body(batch, strict=strict)
        return await transport.send(Request("POST", rpc_apply.FUNCTION, content, body), deadline_s=30)
    finally:
        await transport.aclose()


async def applied(server: SupabaseLite, batch: list[Mixed], *, strict: bool = False) -> list[Verdict | None]:
    found = rpc_apply.verdicts(batch, await send(server, batch, strict=strict))
    assert isinstance(found, list)
    return found


def kinds(verdicts: list[Verdict | None]) -> list[str]:
    return [type(verdict).__name__ if verdict is not None else "held" for verdict in verdicts]


@run_async
async def test_a_child_put_after_its_parent_arrives_with_it_in_one_request(server: SupabaseLite, sql: Sql) -> None:
    batch = [insert(1, "parents", {"code": "a"}), insert(2, "children", {"parent": uuid(1)})]
    assert kinds(await applied(server, batch[::-1])) == ["Retry", "Delivered"], "the control: the order decides"
    sql.execute(f"truncate {TABLES}".encode())
    assert kinds(await applied(server, batch)) == ["Delivered", "Delivered"]
    assert sql.execute("select count(*) from children").fetchone() == (1,)


@run_async
async def test_each_row_has_the_verdict_that_it_would_have_had_alone(server: SupabaseLite, sql: Sql) -> None:
    trade = {"session_id": "s", "symbol": "EURUSD", "timestamp": WHEN, "pnl": 1.25}
    batch = [
        insert(1, "trades", trade),
        insert(2, "trades", trade | {"timestamp": "yesterdayish"}),
        insert(3, "no_such_table", {"a": 1}),
        insert(4, "trades", trade | {"misspelt": 1}),
        insert(5, "children", {"parent": uuid(99)}),
        insert(6, "parents", {"code": "a"}),
        insert(7, "parents", {"code": "a"}),
        upsert(8, {"session_id": "s-1", "start_time": WHEN}),
        update(9, "s-1", {"status": "STOPPED"}),
        insert(10, "trades", trade),
    ]
    found = await applied(server, batch)

    assert kinds(found) == [
        "Delivered", "Reject", "Pause", "Pause", "Retry", "Delivered", "Reject", "Delivered", "Delivered", "Delivered",
    ]  # fmt: skip
    refused = found[1]
    assert isinstance(refused, Reject)
    assert (refused.refusal.code, "yesterdayish" in refused.refusal.message) == ("22007", True)
    assert isinstance(found[2], Pause) and found[2].scope is Scope.DESTINATION
    assert isinstance(found[3], Pause) and found[3].scope is Scope.LANE
    duplicate = found[6]
    assert isinstance(duplicate, Reject) and "code" in (duplicate.refusal.details or "")
    assert sql.execute("select count(*), sum(pnl) from trades").fetchone() == (2, 2.5)
    assert sql.execute("select session_id, status from sessions").fetchall() == [("s-1", "STOPPED")]


@run_async
async def test_a_second_sending_changes_nothing(server: SupabaseLite, sql: Sql) -> None:
    batch = entries(60, 3)
    first, again = await applied(server, batch), await applied(server, batch)
    rows = sql.execute("select (select count(*) from trades), (select count(*) from events)").fetchone()
    assert first == again
    assert kinds(first).count("Reject") == 3
    assert rows is not None and rows[0] + rows[1] == 40 - 3


@run_async
async def test_what_stands_behind_a_row_that_must_wait_waits_too(server: SupabaseLite, sql: Sql) -> None:
    start = {"session_id": "s-1", "start_time": WHEN}
    batch = [update(1, "s-1", {"status": "A"}), upsert(2, start), upsert(3, start | {"session_id": "s-2"})]
    assert kinds(await applied(server, batch)) == ["Retry", "held", "Delivered"]

    bad = [upsert(4, start | {"start_time": "never"}), upsert(5, start)]
    assert kinds(await applied(server, bad, strict=True)) == ["Reject", "held"]
    assert kinds(await applied(server, bad)) == ["Reject", "Delivered"]


@run_async
async def test_the_servers_own_trouble_ends_the_request_and_applies_nothing(server: SupabaseLite, sql: Sql) -> None:
    sql.execute("create function public.deadlock() returns trigger language plpgsql as $$ begin"
                " raise exception 'deadlock detected' using errcode = '40P01'; end $$")  # fmt: skip
    sql.execute("create trigger deadlock before insert on public.children for each row execute function deadlock()")
    try:
        batch = [insert(1, "parents", {"code": "a"}), insert(2, "children", {"parent": uuid(1)})]
        found = rpc_apply.verdicts(batch, await send(server, batch))
    finally:
        sql.execute("drop function public.deadlock() cascade")
    assert isinstance(found, Pause)
    assert sql.execute("select count(*) from parents").fetchone() == (0,)


@run_async
async def test_only_the_service_role_may_call_it_and_only_with_its_own_privileges(
    server: SupabaseLite, sql: Sql
) -> None:
    batch = [insert(1, "parents", {"code": "a"})]
    public = rpc_apply.verdicts(batch, await send(server, batch, key=server.publishable_key))
    assert isinstance(public, Pause) and public.scope is Scope.EVERYTHING
    sql.execute("revoke insert on public.parents from service_role")
    try:
        (found,) = await applied(server, batch)
    finally:
        sql.execute("grant insert on public.parents to service_role")
    assert isinstance(found, Pause) and (found.scope, found.refusal.code) == (Scope.DESTINATION, "42501")
    for name in ("pg_class", "x; drop table public.parents", "PARENTS"):
        spec = batch[0].spec._replace(destination=name)
        (found,) = await applied(server, [replace(batch[0], spec=spec)])
        assert isinstance(found, Pause) and found.refusal.code == "42P01"
    assert await applied(server, batch) == [Delivered()]  # the control


def test_numbers_keep_their_digits_on_the_way_to_the_row(function: None, sql: Sql) -> None:
    """Straight to PostgreSQL: what the function makes of a body, byte for byte as it is sent."""
    sql.execute("create table public.prices (id uuid primary key, price numeric, note text)")
    try:
        row = '{"price":1.10000000000000000001,"note":"a\\"b"}'
        spec = LaneSpec("prices", Operation.INSERT, "id", "id,note,price", ordered=False)
        body = json.loads(rpc_apply.body([Mixed(spec, Entry(1, uuid(1), None, row))]), parse_float=str)
        text = rpc_apply.body([Mixed(spec, Entry(1, uuid(1), None, row))]).decode()
        assert body["strict"] is False
        sent = text.removeprefix('{"entries":').removesuffix(',"strict":false}')
        assert sql.execute("select applied from public.outbox_apply(%s::json)", (sent,)).fetchall() == [(True,)]
        found = sql.execute("select price::text, note from prices").fetchall()
        assert found == [("1.10000000000000000001", 'a"b')]
    finally:
        sql.execute("drop table public.prices")


@run_async
async def test_a_server_without_the_function_says_so(clean_remote: SupabaseLite) -> None:
    transport = PostgrestTransport(f"{clean_remote.url}/rest/v1", clean_remote.secret_key)
    try:
        request = Request("POST", "rpc/no_such_function", (("content-type", "application/json"),), b'{"entries":[]}')
        assert rpc_apply.is_absent(await transport.send(request, deadline_s=30))
    finally:
        await transport.aclose()


STRANGE = [
    pytest.param(b"<html>Please log in</html>", id="a portal"),
    pytest.param(b"[]", id="fewer rows"),
    pytest.param(b'[{"n":2,"applied":true}]', id="another row"),
    pytest.param(b'{"n":1}', id="no list"),
]


@pytest.mark.parametrize("body", STRANGE)
def test_an_answer_that_is_not_the_functions_delivers_nothing(body: bytes) -> None:
    batch = [insert(1, "parents", {"code": "a"})]
    found = rpc_apply.verdicts(batch, Reply(200, {}, body))
    assert isinstance(found, Pause)
    assert rpc_apply.verdicts(batch, Reply(200, {}, b'[{"n":1,"applied":true}]')) == [Delivered()]  # the control
    assert not rpc_apply.is_absent(Reply(200, {}, body))


def test_a_row_that_no_update_found_is_sent_again() -> None:
    batch = [update(1, "s-1", {"status": "A"})]
    (found,) = rpc_apply.verdicts(batch, Reply(200, {}, b'[{"n":1,"applied":false,"code":"NOROW","message":"no"}]'))  # type: ignore[misc]
    assert isinstance(found, Retry)


@run_async
async def test_poison_costs_the_plain_way_requests_and_the_mixed_one_none(
    server: SupabaseLite, postgres: EmbeddedPostgres
) -> None:
    costs = await measure(server, postgres.dsn, 300, 3)
    assert {(cost.delivered, cost.refused) for cost in costs.values()} == {(297, 3)}
    assert costs["mixed"].requests == 1
    assert costs["plain"].requests > 20


# Classes and codes that the function itself raises: they end the request, and no row is answered for.
RAISED = ("08", "25", "26", "40", "53", "55", "57", "58", "72", "XX")


@run_async
async def test_nothing_overtakes_a_row_of_its_key_that_may_be_sent_again(server: SupabaseLite, sql: Sql) -> None:
    """Whatever a trigger raises: an older state that arrives after a newer one would stay."""
    sql.execute("create table public.moods (name text primary key, raises text)")
    sql.execute("create function public.moody() returns trigger language plpgsql as $$ begin"
                " if new.raises is not null then raise exception 'moody' using errcode = new.raises; end if;"
                " return new; end $$")  # fmt: skip
    sql.execute("create trigger moody before insert on public.moods for each row execute function public.moody()")
    sql.execute("grant select, insert, update on public.moods to service_role")
    known = {code.ljust(5, "0") for code in CODES if not code.startswith(("PGRST", *RAISED))}
    codes = sorted(known | {"PT503", "PT409", "42601", "ZZ001"})
    spec = LaneSpec("moods", Operation.UPSERT, "name", "name,raises", ordered=True)
    batch = [
        Mixed(spec, Entry(2 * n + later, uuid(2 * n + later), code, json.dumps({"name": code, "raises": raises})))
        for n, code in enumerate(codes, 1)
        for later, raises in enumerate((code, None))
    ]
    try:
        sent = f"[{','.join(json.dumps(each) for each in json.loads(rpc_apply.body(batch))['entries'])}]"
        rows = sql.execute("select n, applied, code, message from public.outbox_apply(%s::json)", (sent,)).fetchall()
    finally:
        sql.execute("drop table public.moods")
        sql.execute("drop function public.moody()")
    lines = [dict(zip(("n", "applied", "code", "message"), row, strict=True)) for row in rows]
    found = rpc_apply.verdicts(batch, Reply(200, {}, json.dumps(lines).encode()))
    assert isinstance(found, list)
    fates = dict(zip(codes, zip(found[::2], found[1::2], strict=True), strict=True))
    for code, (first, second) in fates.items():
        assert second is None or isinstance(first, Reject), f"{code}: {first} was overtaken"
    assert fates["22000"][1] == fates["23000"][1] == Delivered(), "the control: nothing waits behind what is refused"


@pytest.mark.parametrize("payload", ['{"code":"a\\u0000b"}', '{"code":"\\ud800"}'], ids=["NUL", "half a pair"])
def test_a_text_that_postgresql_cannot_hold_is_refused_alone(function: None, sql: Sql, payload: str) -> None:
    sql.execute(f"truncate {TABLES}")
    spec = LaneSpec("parents", Operation.INSERT, "id", "code,id", ordered=False)
    batch = [Mixed(spec, Entry(n, uuid(n), None, text)) for n, text in enumerate(['{"code":"a"}', payload], 1)]
    sent = rpc_apply.body(batch).decode().removeprefix('{"entries":').removesuffix(',"strict":false}')
    rows = sql.execute("select applied, left(code, 2) from public.outbox_apply(%s::json)", (sent,)).fetchall()
    assert rows == [(True, None), (False, "22")]


def test_a_name_that_json_says_twice_is_one_column_and_its_last_value_counts(function: None, sql: Sql) -> None:
    sql.execute(f"truncate {TABLES}")
    spec = LaneSpec("parents", Operation.UPSERT, "id", "code,id", ordered=True)
    row = f'{{"id":"{uuid(1)}","code":"a","code":"b"}}'
    sent = rpc_apply.body([Mixed(spec, Entry(1, uuid(1), "k", row))]).decode()
    sent = sent.removeprefix('{"entries":').removesuffix(',"strict":false}')
    assert sql.execute("select applied from public.outbox_apply(%s::json)", (sent,)).fetchall() == [(True,)]
    assert sql.execute("select code from parents").fetchall() == [("b",)]
