"""max_pending_rows and max_pending_bytes: a put beyond the bound is refused, and nothing is ever dropped."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from outbox import IdConflict, Outbox, OutboxFull, Receipt, Settings
from outbox.testing import ManualClock, ScriptedTransport, refused
from tests.store.tools import count, raised, rows, shell
from tests.support import run_async


def opened(path: Path, remote: ScriptedTransport | None = None, **values: Any) -> Any:
    settings = Settings(path=path, reserve_bytes=0, _env_file=None, **values)
    return Outbox.open(settings, clock=ManualClock(), transport=remote)


def sums(path: Path) -> tuple[object, ...]:
    (counted,) = rows(path, "select sum(entries), sum(bytes) from outbox_counts where state = 'pending'")
    (real,) = rows(
        path, "select count(*), coalesce(sum(length(cast(payload as blob))), 0) from outbox where state = 'pending'"
    )
    assert counted == real
    return counted


@run_async
async def test_rows_beyond_the_bound_are_refused_also_within_one_commit(tmp_path: Path) -> None:
    path, remote = tmp_path / "bot.db", ScriptedTransport()
    async with opened(path, remote, max_pending_rows=5) as outbox:
        await outbox.put("fills", {"n": -1})
        results = await asyncio.gather(
            *(outbox.put("events" if n % 2 else "fills", {"n": n}) for n in range(8)), return_exceptions=True
        )
        assert [isinstance(each, Receipt) for each in results] == [True] * 4 + [False] * 4
        error = results[-1]
        assert isinstance(error, OutboxFull)
        assert (error.field, error.limit) == ("max_pending_rows", 5)
        assert "max_pending_rows=5" in str(error)
        assert "nothing was written" in str(error)
        assert len({id(each) for each in results}) == 8

        await outbox.drain()  # what is delivered counts no more
        await outbox.put("fills", {"n": 9})
    assert count(path) == 6


@run_async
async def test_bytes_beyond_the_bound_are_refused_and_a_smaller_row_still_fits(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path, max_pending_bytes=1000) as outbox:
        await outbox.put("fills", {"text": "é" * 300})  # 600 bytes as UTF-8
        error = await raised(outbox.put("fills", {"text": "x" * 600}))
        assert isinstance(error, OutboxFull)
        assert (error.field, error.limit) == ("max_pending_bytes", 1000)
        await outbox.put("fills", {"text": "x" * 100})
        assert (await outbox.stats()).pending_bytes == 600 + 100 + 2 * len('{"text":""}')


@run_async
async def test_an_id_that_is_stored_already_needs_no_room(tmp_path: Path) -> None:
    """A put that is repeated after OutcomeUnknown must not hear that nothing was written."""
    async with opened(tmp_path / "bot.db", max_pending_rows=1) as outbox:
        first = await outbox.put("fills", {"n": 1}, id="a")
        assert await outbox.put("fills", {"n": 1}, id="a") == Receipt(id="a", seq=first.seq, duplicate=True)
        assert isinstance(await raised(outbox.put("fills", {"n": 2}, id="a")), IdConflict)
        assert isinstance(await raised(outbox.put("fills", {"n": 2}, id="b")), OutboxFull)
        async with outbox.transaction() as tx:
            assert (await tx.put("fills", {"n": 1}, id="a")).duplicate


@run_async
async def test_a_transaction_honours_the_bound_with_what_it_has_put_itself(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path, max_pending_rows=2) as outbox:

        async def three() -> None:
            async with outbox.transaction() as tx:
                await tx.execute("create table own (x)")
                for n in range(3):
                    await tx.put("fills", {"n": n})

        assert isinstance(await raised(three()), OutboxFull)
        assert count(path) == 0  # all or nothing
        async with outbox.transaction() as tx:
            for n in range(2):
                await tx.put("fills", {"n": n})
    assert count(path) == 2


@run_async
async def test_a_shells_insert_is_not_bounded_but_counts(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path, max_pending_rows=2) as outbox:
        with shell(path) as connection:
            for _ in range(3):
                connection.execute("insert into outbox (destination, payload) values ('fills', '{}')")
        assert isinstance(await raised(outbox.put("fills", {"n": 1})), OutboxFull)
        assert isinstance(await raised(outbox.put_nowait("fills", {"n": 1})), OutboxFull)
    assert count(path) == 3


@run_async
async def test_the_counter_of_bytes_follows_every_way_of_an_entry(tmp_path: Path) -> None:
    path, remote = tmp_path / "bot.db", ScriptedTransport()
    async with opened(path, remote) as outbox:
        await outbox.put("fills", {"text": "é"})
        remote.otherwise = refused(400, "22P02")
        await outbox.drain()
        assert sums(path) == (0, 0)
        await outbox.requeue(everything=True)
        with shell(path) as connection:
            connection.execute("""update outbox set payload = '{"text": "longer than it was"}'""")
            connection.execute("insert into outbox (destination, payload) values ('events', '{\"a\": 1}')")
            connection.execute("update outbox set destination = 'others' where destination = 'events'")
        assert sums(path) == (2, len('{"text": "longer than it was"}') + len('{"a": 1}'))
        with shell(path) as connection:
            connection.execute("delete from outbox")
        (left,) = rows(path, "select sum(bytes) from outbox_counts where state <> 'removed'")
        assert left == (0,)


@pytest.mark.parametrize("field", ["max_pending_rows", "max_pending_bytes"])
@run_async
async def test_without_a_bound_nothing_is_refused(field: str, tmp_path: Path) -> None:
    """The control: it is the bound that refuses."""
    async with opened(tmp_path / "bot.db", **{field: None}) as outbox:
        for n in range(20):
            await outbox.put("fills", {"n": n})
