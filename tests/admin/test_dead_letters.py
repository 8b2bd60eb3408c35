"""An operator requeues or discards dead letters, and never by accident."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from outbox import Outbox, Settings
from outbox.admin import dead_letters
from outbox.errors import InvalidRequest
from outbox.postgrest.verdicts import Reply
from outbox.store import maintenance, queries
from outbox.store.selection import Outcome, Selection
from outbox.testing import ManualClock, ScriptedTransport, refused
from tests.store.tools import until
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


async def die(
    outbox: Outbox, remote: ScriptedTransport, ids: list[str], answer: Any = BAD, note: str = "", **more: Any
) -> None:
    """Put entries that the server refuses."""
    remote.otherwise = answer
    for each in ids:
        await outbox.put("fills", {"id": each, "n": 1, "note": note}, **more)
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

        by_code = await outbox.requeue(code="23514", destination="fills")
        elsewhere = await outbox.requeue(destination="events")
        rest = await outbox.requeue(everything=True)

        assert [each.id for each in by_code] == ["b"]
        assert elsewhere == []
        assert [each.id for each in rest] == ["a"]


@run_async
async def test_the_selection_of_the_commands_is_there_in_python(tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, remote):
        remote.otherwise = BAD
        for its_id in ("a", "b"):
            await outbox.put("fills", {"id": its_id, "n": 1, "session_id": "night"})
        await outbox.drain()
        await die(outbox, remote, ["c"], CHECK)
        now = datetime.fromtimestamp(outbox.clock.now_ms() / 1000, UTC)

        for chosen, meant in (
            (dict[str, Any](session="night"), ["a", "b"]),
            ({"where": {"n": 1, "id": "b"}}, ["b"]),
            ({"said": "bad text"}, ["a", "b"]),
            ({"since": now - timedelta(hours=1), "until": now + timedelta(hours=1)}, ["a", "b", "c"]),
            ({"since": now + timedelta(hours=1)}, []),
        ):
            would = await outbox.requeue(**chosen, dry_run=True)
            given_up = await outbox.discard(**chosen, reason="a look", dry_run=True)
            assert sorted(each.id for each in would) == sorted(each.id for each in given_up) == meant, chosen
            assert {each.outcome for each in would} <= {Outcome.REQUEUED}
        assert ((await outbox.stats()).dead, await history(outbox, "a")) == (3, [("refused", "bad text")])
        with pytest.raises(InvalidRequest, match="since"):
            await outbox.requeue(since=datetime(2026, 1, 1))

        assert [each.id for each in await outbox.discard(session="night", where={"id": "a"}, reason="old")] == ["a"]
        assert [each.id for each in await outbox.requeue(session="night")] == ["b"], "the control: not dry"


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
        await outbox.put("fills", {"id": "sent", "n": 1})
        await outbox.drain()
        await outbox.put("fills", {"id": "waiting", "n": 1})

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
        await outbox.put("fills", {"id": "new", "n": 2}, key="k")
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
        await outbox.put("fills", {"id": "new", "n": 2}, key="k")
        await outbox.put("fills", {"id": "other", "n": 2}, key="other")
        await outbox.drain()

        assert (
            await maintenance.prune_step(outbox._store, 2**60, 500) == 1
        )  # the other one; "new" shows that "old" was overtaken
        assert [each.outcome for each in await outbox.requeue(["old"])] == [Outcome.LATER_DELIVERED]

        await outbox.discard(["old"], reason="superseded")
        assert await maintenance.prune_step(outbox._store, 2**60, 500) == 2


@run_async
async def test_more_than_one_steps_worth_is_done_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "STEP", 3)
    async with opened(tmp_path) as (outbox, remote):
        await die(outbox, remote, [f"a{n}" for n in range(10)])

        assert len(await outbox.requeue([f"a{n}" for n in range(5)])) == 5
        assert len(await outbox.requeue(destination="fills")) == 5
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


@run_async
async def test_the_refusals_of_a_revived_entry_are_counted_from_zero(tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, remote):
        await die(outbox, remote, ["a"])
        facts = "select attempts, settled_at_ms is null from outbox"
        assert await outbox._store.read(facts) == [(1, 0)]  # the control

        await outbox.requeue(["a"])

        assert await outbox._store.read(facts) == [(0, 1)]


@run_async
async def test_a_revived_entry_goes_before_the_later_ones_of_its_key_that_wait(tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, remote):
        await die(outbox, remote, ["old"], key="k")
        await outbox.put("fills", {"id": "new", "n": 2}, key="k")

        (revived,) = await outbox.requeue(["old"])
        await outbox.drain()

        assert revived.outcome is Outcome.REQUEUED  # nothing is on its way while no flusher runs
        assert [b'"id":"old"' in request.body for request in remote.requests[-2:]] == [True, False]


@run_async
async def test_an_entry_is_not_revived_while_a_later_one_of_its_key_is_on_its_way(tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, remote):
        await die(outbox, remote, ["old"], key="k")
        await die(outbox, remote, ["apart"], key="another")
        remote.gate.clear()
        await outbox.put("fills", {"id": "new", "n": 2}, key="k")
        sent = len(remote.requests)
        async with outbox.flushing():
            await until(lambda: len(remote.requests) > sent)

            outcomes = {each.id: each.outcome for each in await outbox.requeue(everything=True)}

            remote.gate.set()
        assert outcomes == {"old": Outcome.LATER_UNDER_WAY, "apart": Outcome.REQUEUED}


@run_async
async def test_what_died_after_the_request_was_made_is_not_meant_by_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, remote):
        await die(outbox, remote, ["a"])
        ((died_at_ms,),) = await outbox._store.read("select settled_at_ms from outbox")
        for until_ms, outcome in ((died_at_ms - 1, Outcome.DIED_SINCE), (died_at_ms, Outcome.REQUEUED)):
            which = Selection(ids=["a"], died_until_ms=until_ms)
            (done,) = await dead_letters.requeue(outbox._store.transact, which, now_ms=died_at_ms, force=False)
            assert done.outcome is outcome


@run_async
async def test_a_step_holds_no_more_than_its_share_and_lets_a_put_come_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "STEP", 3)
    async with opened(tmp_path) as (outbox, remote):
        await die(outbox, remote, [f"a{n}" for n in range(8)])
        dead_after: list[int] = []

        async def transact(work: Any) -> Any:
            done = await outbox._store.transact(work)
            dead_after.append((await outbox.stats()).dead)
            await outbox.put("events", {"step": len(dead_after)})
            return done

        which = Selection(everything=True)
        handled = await dead_letters.discard(transact, which, now_ms=1, reason="in steps")

        assert [each.id for each in handled] == [f"a{n}" for n in range(8)]
        assert dead_after == [8, 5, 2, 0]  # the first one asks which destinations there are
        assert (await outbox.stats()).pending == 4


@run_async
async def test_the_http_status_stands_in_for_a_code_that_the_server_did_not_give(tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, remote):
        await die(outbox, remote, ["a"], Reply(413, {}, b""), note="x" * 70_000)
        await die(outbox, remote, ["b"])

        assert await outbox.requeue(code="400") == []  # the control: the server gave "b" a code
        assert [each.id for each in await outbox.requeue(code="413")] == ["a"]


@pytest.mark.parametrize("reason", [None, 7, "x" * 1001, "\ud800"])
@run_async
async def test_a_reason_that_cannot_be_kept_changes_nothing(reason: Any, tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, remote):
        await die(outbox, remote, ["a"])
        with pytest.raises(InvalidRequest):
            await outbox.discard(["a"], reason=reason)
        assert (await outbox.stats()).dead == 1
        await outbox.discard(["a"], reason="x" * 1000)  # the control
        assert (await outbox.stats()).discarded == 1


def test_the_queries_of_operators_are_among_those_whose_plans_are_checked() -> None:
    assert {"DEAD", "SELECTED", "SEQS", "OVERTAKEN", "REVIVE", "GIVE_UP", "NOTE", "PRUNE"} <= set(queries.ALL)
