"""What operators and races between them and the flusher must not do; and which SQLite is chosen."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from outbox import InvalidRequest, Outbox, Outcome, Settings
from outbox.admin import dead_letters, inbox
from outbox.store.selection import Selection
from outbox.testing import ScriptedTransport, refused
from tests.store.tools import until
from tests.support import run_async

BAD = refused(400, "22P02", "bad text")


def n_of(remote: ScriptedTransport) -> list[bytes]:
    """The business number of each row that was sent, in the order of sending."""
    return [request.body.split(b'"n":')[1][:1] for request in remote.requests]


async def put_old_and_new(outbox: Outbox, remote: ScriptedTransport) -> None:
    """`old` dies; `new`, later and of the same key, is on its way and hangs there."""
    remote.answers.append(BAD)
    await outbox.put("states", {"k": 1, "n": 1}, operation="upsert", on_conflict=("k",), id="old")
    await outbox.drain(200)
    remote.gate.clear()
    await outbox.put("states", {"k": 1, "n": 2}, operation="upsert", on_conflict=("k",), id="new")


@run_async
async def test_an_entry_is_not_revived_while_a_later_one_of_its_key_is_on_its_way(tmp_path: Path) -> None:
    remote = ScriptedTransport()
    async with Outbox.open(Settings(path=tmp_path / "bot.db"), transport=remote) as outbox:
        await put_old_and_new(outbox, remote)
        async with outbox.flushing():
            await until(lambda: len(remote.requests) == 2)

            (refusal,) = await outbox.requeue(["old"])
            remote.gate.set()
            await outbox.drain(200)

        assert refusal.outcome is Outcome.LATER_UNDER_WAY
        assert n_of(remote) == [b"1", b"2"]  # the newer state was sent last


@run_async
async def test_without_that_check_the_older_state_would_be_sent_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: only what was delivered already is looked at."""
    remote = ScriptedTransport()
    async with Outbox.open(Settings(path=tmp_path / "bot.db"), transport=remote) as outbox:
        monkeypatch.setattr(outbox._commands, "_sending", lambda: False)
        await put_old_and_new(outbox, remote)
        async with outbox.flushing():
            await until(lambda: len(remote.requests) == 2)

            (revived,) = await outbox.requeue(["old"])
            remote.gate.set()
            await outbox.drain(200)

        assert revived.outcome is Outcome.REQUEUED
        assert n_of(remote)[-1] == b"1"


@run_async
async def test_an_older_entry_of_a_key_is_revived_before_a_newer_one_whatever_the_order_of_their_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "STEP", 1)
    remote = ScriptedTransport()
    async with Outbox.open(Settings(path=tmp_path / "bot.db", batch_rows=1), transport=remote) as outbox:
        remote.otherwise = BAD
        for each in ("first", "second"):
            await outbox.put("fills", {"n": 1}, key="k", id=each)
        await outbox.drain(200)
        remote.otherwise = ScriptedTransport().otherwise

        handled = await outbox.requeue(["second", "first"])

        assert [(each.id, each.outcome) for each in handled] == [
            ("first", Outcome.REQUEUED),
            ("second", Outcome.REQUEUED),
        ]


@run_async
async def test_an_id_in_several_destinations_is_answered_for_each(tmp_path: Path) -> None:
    remote = ScriptedTransport()
    async with Outbox.open(Settings(path=tmp_path / "bot.db"), transport=remote) as outbox:
        await outbox.put("notes", {"n": 1}, id="x")
        await outbox.drain(200)
        remote.answers.append(BAD)
        await outbox.put("fills", {"n": 1}, id="x")
        await outbox.drain(200)

        handled = await outbox.discard(["x"], reason="a test")

        assert {each.destination: each.outcome for each in handled} == {
            "notes": Outcome.IS_DELIVERED,
            "fills": Outcome.DISCARDED,
        }


@run_async
async def test_a_late_request_leaves_what_died_after_it_was_made(tmp_path: Path) -> None:
    remote = ScriptedTransport(otherwise=BAD)
    async with Outbox.open(Settings(path=tmp_path / "bot.db"), transport=remote) as outbox:
        await outbox.put("fills", {"n": 1}, id="x")
        await outbox.drain(200)
        ((died_ms,),) = await outbox._store.read("select settled_at_ms from outbox")
        before, then = (
            Selection(everything=True, died_until_ms=died_ms - 1),
            Selection(ids=["x"], died_until_ms=died_ms - 1),
        )

        assert await outbox._commands.discard(before, reason="r") == []
        (left,) = await outbox._commands.discard(then, reason="r")

        assert left.outcome is Outcome.DIED_SINCE
        assert (await outbox.stats()).dead == 1


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"ids": "abc"}, id="a text, which is a sequence of letters"),
        pytest.param({"ids": [1]}, id="a number as id"),
        pytest.param({"everything": 1}, id="a number for yes"),
        pytest.param({"destination": ["fills"]}, id="a list as destination"),
        pytest.param({"destination": "trades; drop"}, id="no name of a table"),
        pytest.param({"everything": True, "colour": "red"}, id="a selector of a newer version"),
    ],
)
def test_a_filter_that_could_mean_more_than_was_said_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match="nothing was changed"):
        Selection.of(values).checked()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@run_async
async def test_a_request_that_is_a_link_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    outside = tmp_path / "outside.json"
    outside.write_text('{"action": "discard", "arguments": {"everything": true, "reason": "r"}}')
    async with Outbox.open(Settings(path=path, poll_s=0.01), transport=ScriptedTransport(otherwise=BAD)) as outbox:
        await outbox.put("fills", {"n": 1})
        await outbox.drain(200)
        place = inbox.folder(path)
        await asyncio.to_thread(place.mkdir, mode=0o700)
        (place / "1.request.json").symlink_to(outside)
        aside = place / "1.request.unreadable"

        await until(aside.is_symlink)

        assert (await outbox.stats()).dead == 1
    assert outside.exists()
