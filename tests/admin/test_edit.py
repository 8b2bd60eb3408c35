"""An edit is whole or not at all; the payload that it replaces is kept; what is newer is not reverted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from outbox import Outbox, Settings
from outbox.admin.revision import fingerprint
from outbox.errors import InvalidEntry, InvalidRequest
from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Reply
from outbox.store.selection import Outcome
from outbox.testing import ScriptedTransport, accepted, refused
from tests.store.tools import rows, shell
from tests.support import run_async

BAD = '"bad"'


def picky(request: Request) -> Reply:
    """Answer as a server that refuses one value."""
    return refused(400, "22P02", "bad text") if BAD.encode() in request.body else accepted(request)


def opened(path: Path) -> tuple[Settings, ScriptedTransport]:
    return Settings(path=path, _env_file=None), ScriptedTransport(otherwise=picky)


async def edit(outbox: Outbox, its_id: str, row: dict[str, object], **how: object) -> Outcome:
    values: dict[str, object] = {"was": None, "force": False, **how}
    destination = values.pop("destination", None)
    (handled,) = await outbox._commands.edit(its_id, destination, json.dumps(row), **values)  # type: ignore[arg-type]
    return handled.outcome


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
    async def nothing() -> None:
        return None

    sent: dict[str, object] = {"its_id": "t", "destination": None, "payload": "{}", "was": None, "force": False}
    async with Outbox.open(Settings(path=tmp_path / "bot.db", _env_file=None)) as outbox:
        action = outbox._commands.actions(outbox._destinations, nothing, nothing)["edit"]
        assert (await action(sent))["outcomes"] == {"unknown id": 1}  # the control
        with pytest.raises(InvalidRequest):
            await action(spoil(sent))
