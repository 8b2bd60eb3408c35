"""An edit is whole or not at all; the payload that it replaces is kept; what is newer is not reverted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from outbox import Outbox, Settings
from outbox.admin.revision import fingerprint
from outbox.errors import InvalidEntry, InvalidRequest
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.store.selection import Outcome
from outbox.testing import ScriptedTransport, accepted, refused
from tests.store.tools import rows, shell, until
from tests.support import run_async

BAD = '"bad"'


def picky(request: Request) -> Reply:
    """Answer as a server that refuses one value."""
    return refused(400, "22P02", "bad text") if BAD.encode() in request.body else accepted(request)


def opened(path: Path) -> tuple[Settings, ScriptedTransport]:
    return Settings(path=path, _env_file=None), ScriptedTransport(otherwise=picky)


async def edit(outbox: Outbox, its_id: str, row: dict[str, object], **how: object) -> Outcome:
    asked = {"its_id": its_id, "payload": json.dumps(row), "was": None, "force": False, **how}
    (handled,) = (await outbox._commands.actions["edit"](asked))["entries"]
    return Outcome(handled["outcome"])


@run_async
async def test_an_edited_entry_arrives_with_its_new_row_and_tells_its_story(tmp_path: Path) -> None:
    settings, remote = opened(tmp_path / "bot.db")
    async with Outbox.open(settings, transport=remote) as outbox:
        await outbox.put("fills", {"n": "bad"}, id="t-1")
        await outbox.drain()
        assert (await outbox.stats()).dead == 1

        assert await edit(outbox, "t-1", {"n": "good", "why": "a hand"}) is Outcome.REQUEUED
        await outbox.drain()

        assert json.loads(remote.requests[-1].body) == [{"id": "t-1", "n": "good", "why": "a hand"}]
        assert "columns=id,n,why" in remote.requests[-1].path
        assert (await outbox.stats()).delivered == 1
    assert rows(tmp_path / "bot.db", "select payload from outbox_edits") == [('{"n":"bad"}',)]
    assert rows(tmp_path / "bot.db", "select event, message from outbox_history order by number") == [
        ("refused", "bad text"), ("requeued", "edited"),
    ]  # fmt: skip


@run_async
async def test_a_row_that_cannot_be_stored_leaves_everything_as_it_was(tmp_path: Path) -> None:
    settings, remote = opened(tmp_path / "bot.db")
    async with Outbox.open(settings, transport=remote) as outbox:
        await outbox.put("fills", {"n": "bad"}, id="t-1")
        await outbox.drain()
        with pytest.raises(InvalidEntry, match="idempotency key"):
            await edit(outbox, "t-1", {"id": "t-2"})

        seen = fingerprint('{"n":"another"}')
        assert await edit(outbox, "t-1", {"n": 1}, was=seen) is Outcome.CHANGED_SINCE
        assert await edit(outbox, "t-9", {"n": 1}) is Outcome.UNKNOWN_ID
        assert (await outbox.stats()).dead == 1
    assert rows(tmp_path / "bot.db", "select count(*) from outbox_edits") == [(0,)]


@run_async
async def test_an_edit_does_not_revert_what_came_later_unless_forced(tmp_path: Path) -> None:
    settings, remote = opened(tmp_path / "bot.db")
    async with Outbox.open(settings, transport=remote) as outbox:
        for name, value in (("u-1", "bad"), ("u-2", "good")):
            await outbox.put("orders", {"k": 1, "n": value}, operation="upsert", on_conflict=("k",), id=name)
            await outbox.drain()

        assert await edit(outbox, "u-1", {"k": 1, "n": "old"}) is Outcome.LATER_DELIVERED
        assert await edit(outbox, "u-2", {"k": 1, "n": "new"}) is Outcome.IS_DELIVERED
        assert await edit(outbox, "u-1", {"k": 1, "n": "old"}, force=True) is Outcome.REQUEUED
        await outbox.drain()
        assert json.loads(remote.requests[-1].body) == [{"k": 1, "n": "old"}]


@run_async
async def test_an_id_of_two_tables_needs_its_table(tmp_path: Path) -> None:
    settings, remote = opened(tmp_path / "bot.db")
    async with Outbox.open(settings, transport=remote) as outbox:
        for table in ("fills", "notes"):
            await outbox.put(table, {"n": "bad"}, id="x")
        await outbox.drain()
        with pytest.raises(InvalidRequest, match="destination"):
            await edit(outbox, "x", {"n": 1})
        assert await edit(outbox, "x", {"n": 1}, destination="notes") is Outcome.REQUEUED
        await outbox.drain()
        stats = await outbox.stats()
        assert (stats.dead, stats.delivered) == (1, 1)


@run_async
async def test_a_shells_entry_that_could_not_even_be_read_is_read_after_its_edit(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    settings, remote = opened(path)
    async with Outbox.open(settings, transport=remote) as outbox:
        with shell(path) as connection:
            connection.execute("insert into outbox (id, destination, payload) values ('s', 'events', '{\"a b\": 1}')")
        await outbox.drain()
        assert (await outbox.stats()).dead == 1

        assert await edit(outbox, "s", {"a": 1}) is Outcome.REQUEUED
        await outbox.drain()
        assert json.loads(remote.requests[-1].body) == [{"id": "s", "a": 1}]


@run_async
async def test_an_edit_moves_an_upsert_into_the_line_of_the_row_that_it_now_means(tmp_path: Path) -> None:
    settings, remote = opened(tmp_path / "bot.db")
    async with Outbox.open(settings, transport=remote) as outbox:
        await outbox.put("orders", {"k": 1, "n": "bad"}, operation="upsert", on_conflict=("k",), id="u-1")
        await outbox.drain()
        assert await edit(outbox, "u-1", {"k": 2, "n": "good"}) is Outcome.REQUEUED
        await outbox.drain()
        assert (await outbox.stats()).delivered == 1  # its digest is over the new key, too
    assert rows(tmp_path / "bot.db", "select key from outbox") == [("2",)]


@run_async
async def test_an_edit_is_compared_with_what_came_later_of_the_row_that_it_now_means(tmp_path: Path) -> None:
    settings, remote = opened(tmp_path / "bot.db")
    how = {"operation": "upsert", "on_conflict": ("k",)}
    async with Outbox.open(settings, transport=remote) as outbox:
        await outbox.put("orders", {"k": 1, "n": "bad"}, id="u-1", **how)  # type: ignore[arg-type]
        await outbox.put("orders", {"k": 2, "n": "newer"}, id="u-2", **how)  # type: ignore[arg-type]
        await outbox.drain()

        assert await edit(outbox, "u-1", {"k": 2, "n": "older"}) is Outcome.LATER_DELIVERED
        assert rows(tmp_path / "bot.db", "select key, payload, state from outbox where id = 'u-1'") == [
            ("1", '{"k":1,"n":"bad"}', "dead")
        ], "nothing was changed"
        assert rows(tmp_path / "bot.db", "select count(*) from outbox_edits") == [(0,)]

        await outbox.put("orders", {"k": 1, "n": "newer"}, id="u-3", **how)  # type: ignore[arg-type]
        await outbox.drain()
        assert await edit(outbox, "u-1", {"k": 3, "n": "other"}) is Outcome.REQUEUED, "the control: of no later one"


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda sent: sent | {"force": 1}, id="another type"),
        pytest.param(lambda sent: {k: v for k, v in sent.items() if k != "payload"}, id="one is missing"),
        pytest.param(lambda sent: sent | {"moon": "full"}, id="one that nobody knows"),
    ],
)
@run_async
async def test_a_request_to_edit_that_makes_no_sense_is_refused(
    spoil: Callable[[dict[str, object]], dict[str, object]], tmp_path: Path
) -> None:
    sent: dict[str, object] = {"its_id": "t", "destination": None, "payload": "{}", "was": None, "force": False}
    async with Outbox.open(Settings(path=tmp_path / "bot.db", _env_file=None)) as outbox:
        action = outbox._commands.actions["edit"]
        assert (await action(sent))["outcomes"] == {"unknown id": 1}  # the control
        with pytest.raises(InvalidRequest):
            await action(spoil(sent))


# ------------------------------------------------------------------------------------------ what waits


def knows_symbol(request: Request) -> Reply:
    """Answer as a table that has no column `symbl`."""
    if "symbl" in request.path:
        message = "Could not find the 'symbl' column of 'fills' in the schema cache"
        return refused(400, "PGRST204", message)
    return accepted(request)


@run_async
async def test_a_lane_with_a_misspelt_column_is_corrected_at_once_and_all_of_it_arrives(tmp_path: Path) -> None:
    remote = ScriptedTransport(otherwise=knows_symbol)
    async with Outbox.open(Settings(path=tmp_path / "bot.db", _env_file=None), transport=remote) as outbox:
        for number in range(5):
            await outbox.put("fills", {"symbl": "EURUSD", "n": number})
        await outbox.put("fills", {"symbl": "a", "symbol": "b"}, id="both")
        await outbox.put("other", {"symbl": "a"}, id="elsewhere")
        await outbox.drain(timeout=0.2)
        assert (await outbox.stats()).pending == 7  # the control: nothing fixes itself
        async with outbox.flushing():
            names = {"names": {"symbl": "symbol"}, "destination": "fills"}
            answer = await outbox._commands.actions["rename"](names)
        await outbox.drain(timeout=60)

        assert answer["outcomes"] == {Outcome.REQUEUED: 5, Outcome.UNFIT: 1}
        assert (await outbox.stats()).delivered == 5
        assert (await outbox.stats()).pending == 2
    stored = rows(tmp_path / "bot.db", "select payload from outbox where state = 'delivered' order by seq")
    assert [json.loads(str(payload)) for (payload,) in stored] == [{"symbol": "EURUSD", "n": n} for n in range(5)]


@run_async
async def test_a_pending_entry_is_edited_and_keeps_its_place_in_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    remote = ScriptedTransport(otherwise=picky)
    async with Outbox.open(Settings(path=path, _env_file=None), transport=remote) as outbox:
        for name, value in (("u-1", "a"), ("u-2", "b"), ("u-3", "c")):
            await outbox.put("orders", {"k": 1, "n": value}, operation="upsert", on_conflict=("k",), id=name)

        assert await edit(outbox, "u-1", {"k": 1, "n": "mended"}) is Outcome.REQUEUED
        waits = [("u-1", None), ("u-2", "turn"), ("u-3", "turn")]
        assert rows(path, "select id, waits from outbox order by seq") == waits
        assert await edit(outbox, "u-1", {"k": 2, "n": "another row"}) is Outcome.REQUEUED
        waits = [("u-1", None), ("u-2", None), ("u-3", "turn")]
        assert rows(path, "select id, waits from outbox order by seq") == waits
        (given_up,) = await outbox.discard(["u-2"], reason="a test")
        assert given_up.outcome is Outcome.DISCARDED
        assert rows(path, "select id, waits from outbox where state = 'pending' order by seq") == [
            ("u-1", None), ("u-3", None),
        ]  # fmt: skip
        await outbox.drain()
        assert [row["n"] for each in remote.requests for row in json.loads(each.body)] == ["another row", "c"]


@run_async
async def test_what_is_under_way_ends_before_a_pending_entry_is_edited(tmp_path: Path) -> None:
    """Else the answer to the old row would settle the new one, which nobody has sent."""
    asked, answer = asyncio.Event(), asyncio.Event()

    class Slow(ScriptedTransport):
        async def send(self, request: Request, *, deadline_s: float) -> Reply | Failure:
            asked.set()
            await answer.wait()
            return await super().send(request, deadline_s=deadline_s)

    async with Outbox.open(Settings(path=tmp_path / "bot.db", _env_file=None), transport=Slow()) as outbox:
        await outbox.put("fills", {"n": 1}, id="t-1")
        async with outbox.flushing():
            await asked.wait()
            editing = asyncio.create_task(edit(outbox, "t-1", {"n": 2}))
            giving_up = asyncio.create_task(outbox.discard(["t-1"], reason="x"))
            done, _ = await asyncio.wait({editing, giving_up}, timeout=0.2)
            assert not done  # the control: it is under way
            answer.set()
            assert await editing is Outcome.IS_DELIVERED
            assert [each.outcome for each in await giving_up] == [Outcome.IS_DELIVERED]


@run_async
async def test_an_edited_insert_that_an_earlier_try_has_stored_is_found_out(tmp_path: Path) -> None:
    """Its reply was lost, so the old row is there: the server ignores the new one, which is not what it holds."""
    stored: dict[str, object] = {}  # what the table holds

    def server(request: Request) -> Reply | Failure:
        if request.method == "GET":
            return Reply(200, {}, json.dumps([stored]).encode())
        stored.update(stored or json.loads(request.body)[0])
        return accepted(request, stored=0) if answers else Failure.TIMEOUT

    answers = False
    remote = ScriptedTransport(otherwise=server)
    async with Outbox.open(Settings(path=tmp_path / "bot.db", _env_file=None), transport=remote) as outbox:
        receipt = await outbox.put("fills", {"n": 1})
        async with outbox.flushing():
            await until(lambda: bool(stored))
        assert await edit(outbox, receipt.id, {"n": 2}) is Outcome.REQUEUED
        answers = True
        await outbox.drain(timeout=60)

        assert (await outbox.stats()).delivered == 0
    assert rows(tmp_path / "bot.db", "select state, error_code from outbox") == [("dead", "CONFLICT")]
