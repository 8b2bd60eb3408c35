"""Dead letters in an operator's hands: revived or given up, and never by accident."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from outbox import Outbox, Settings
from outbox.errors import InvalidRequest
from outbox.store import operators, queries
from outbox.store.operators import Outcome
from outbox.testing import ManualClock, ScriptedTransport, refused
from tests.support import run_async

BAD = refused(400, "22P02", "bad text")
CHECK = refused(400, "23514", "a check")


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[Outbox, ScriptedTransport]]:
    remote = ScriptedTransport()
    settings = Settings(path=folder / "bot.db", batch_rows=1)
    async with Outbox.open(settings, clock=ManualClock(), transport=remote) as outbox:
        yield outbox, remote
        stats = await outbox.stats()  # conservation, whatever was done
        rows = await outbox._store.read("select state, count(*) from outbox group by state")
        counted = {"pending": 0, "delivered": 0, "dead": 0, "discarded": 0} | dict(rows)
        assert counted == {name: getattr(stats, name) for name in counted}


async def die(outbox: Outbox, remote: ScriptedTransport, ids: list[str], answer: Any = BAD, **more: Any) -> None:
    """Put entries that the server refuses."""
    remote.otherwise = answer
    for each in ids:
        await outbox.put("trades", {"id": each, "n": 1}, **more)
    await outbox.drain()
    remote.otherwise = ScriptedTransport().otherwise


async def history(outbox: Outbox, its_id: str) -> list[tuple[Any, ...]]:
    sql = "select event, message from outbox_history join outbox using (seq) where id = ? order by number"
    return [tuple(row) for row in await outbox._store.read(sql, (its_id,))]


@run_async
async def test_a_requeued_entry_is_sent_again_and_keeps_its_history(tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, remote):
        await die(outbox, remote, ["a", "b"])

        outcomes = await outbox.requeue(["a"])

        assert [(each.id, each.outcome) for each in outcomes] == [("a", Outcome.REQUEUED)]
        assert await outbox._store.read("select attempts from outbox where id = 'a'") == [(0,)]
        assert (await outbox.drain()).delivered == 1
        assert await history(outbox, "a") == [("refused", "bad text"), ("requeued", None)]
        assert (await outbox.stats()).dead == 1


@run_async
async def test_filters_mean_what_matches_all_of_them(tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, remote):
        await die(outbox, remote, ["a"])
        await die(outbox, remote, ["b"], CHECK)

        by_code = await outbox.requeue(code="23514", destination="trades")
        elsewhere = await outbox.requeue(destination="events")
        rest = await outbox.requeue(everything=True)

        assert [each.id for each in by_code] == ["b"]
        assert elsewhere == []
        assert [each.id for each in rest] == ["a"]


@run_async
async def test_nothing_is_meant_by_accident(tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, remote):
        await die(outbox, remote, ["a"])
        with pytest.raises(InvalidRequest):
            await outbox.requeue()
        with pytest.raises(InvalidRequest):
            await outbox.discard(reason="x")
        with pytest.raises(InvalidRequest):
            await outbox.requeue(["a"], everything=True)
        assert await outbox.requeue([]) == []
        assert (await outbox.stats()).dead == 1


@run_async
async def test_what_is_not_dead_is_left_alone_and_said_to_be(tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, _):
        await outbox.put("trades", {"id": "sent", "n": 1})
        await outbox.drain()
        await outbox.put("trades", {"id": "waiting", "n": 1})

        outcomes = {each.id: each.outcome for each in await outbox.requeue(["sent", "waiting", "nobody"])}

        assert outcomes == {
            "sent": Outcome.IS_DELIVERED,
            "waiting": Outcome.IS_PENDING,
            "nobody": Outcome.UNKNOWN_ID,
        }


@run_async
async def test_an_entry_that_a_later_one_of_its_key_has_overtaken_is_revived_only_by_force(tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, remote):
        await die(outbox, remote, ["old"], key="k")
        await outbox.put("trades", {"id": "new", "n": 2}, key="k")
        await outbox.drain()

        (refusal,) = await outbox.requeue(["old"])
        assert refusal.outcome is Outcome.LATER_DELIVERED
        assert (await outbox.stats()).dead == 1

        (forced,) = await outbox.requeue(["old"], force=True)
        assert forced.outcome is Outcome.REQUEUED
        # The control: forced, it is sent after the newer one, which is just what the refusal prevents.
        await outbox.drain()
        assert b'"id":"old"' in remote.requests[-1].body
        assert await history(outbox, "old") == [("refused", "bad text"), ("requeued", "forced")]


@run_async
async def test_what_overtook_a_dead_entry_is_not_pruned_while_that_is_dead(tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, remote):
        await die(outbox, remote, ["old"], key="k")
        await outbox.put("trades", {"id": "new", "n": 2}, key="k")
        await outbox.put("trades", {"id": "other", "n": 2}, key="other")
        await outbox.drain()

        assert await outbox._store.prune(2**60, 500) == 1  # the other one; "new" shows that "old" was overtaken
        assert [each.outcome for each in await outbox.requeue(["old"])] == [Outcome.LATER_DELIVERED]

        await outbox.discard(["old"], reason="superseded")
        assert await outbox._store.prune(2**60, 500) == 2


@run_async
async def test_more_than_one_steps_worth_is_done_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "STEP", 3)
    async with opened(tmp_path) as (outbox, remote):
        await die(outbox, remote, [f"a{n}" for n in range(10)])

        assert len(await outbox.requeue([f"a{n}" for n in range(5)])) == 5
        assert len(await outbox.requeue(destination="trades")) == 5
        assert (await outbox.drain()).delivered == 10


@run_async
async def test_a_discarded_entry_keeps_its_row_its_words_and_the_reason(tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, remote):
        await die(outbox, remote, ["a"])
        for reason in ("", "  ", "a\x00b"):
            with pytest.raises(InvalidRequest):
                await outbox.discard(["a"], reason=reason)

        (done,) = await outbox.discard(["a"], reason=" a test order ")

        assert done.outcome is Outcome.DISCARDED
        assert await history(outbox, "a") == [("refused", "bad text"), ("discarded", "a test order")]
        assert [each.outcome for each in await outbox.requeue(["a"])] == [Outcome.IS_DISCARDED]
        stats = await outbox.stats()
        assert (stats.dead, stats.discarded) == (0, 1)


def test_the_queries_of_operators_are_among_those_whose_plans_are_checked() -> None:
    assert {"DEAD", "SELECTED", "SEQS", "OVERTAKEN", "REVIVE", "GIVE_UP", "NOTE", "PRUNE"} <= set(queries.ALL)
