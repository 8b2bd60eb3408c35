"""Settled entries go after the retention, and are still counted; nothing else ever goes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from outbox import Outbox, Settings
from outbox.store import maintenance
from outbox.testing import ManualClock, ScriptedTransport, refused
from tests.store.tools import entry, opened, rows, shell
from tests.support import run_async

DAY_S = 86_400.0


async def gone(outbox: Outbox, number: int) -> bool:
    return (await outbox.stats()).pruned >= number


async def wait_for(outbox: Outbox, clock: ManualClock, number: int) -> None:
    """Return once `number` entries are pruned; minutes pass, for a housekeeper that was busy when the clock moved."""
    while not await gone(outbox, number):
        clock.advance(60)


@run_async
async def test_what_was_delivered_goes_after_the_retention_and_stays_counted(tmp_path: Path) -> None:
    clock, remote = ManualClock(), ScriptedTransport()
    async with Outbox.open(Settings(path=tmp_path / "bot.db"), clock=clock, transport=remote) as outbox:
        for n in range(1200):
            outbox.put_nowait("trades", {"n": n})
        await outbox.drain()
        clock.advance(6.9 * DAY_S)
        await outbox.put("trades", {"n": -1})
        assert (await outbox.stats()).delivered == 1200

        clock.advance(0.2 * DAY_S)
        await wait_for(outbox, clock, 1200)

        stats = await outbox.stats()
        assert (stats.pending, stats.delivered, stats.pruned) == (1, 0, 1200)


@run_async
@pytest.mark.parametrize("days", [float("inf"), 1e300])
async def test_what_is_to_be_kept_for_ever_is_kept(days: float, tmp_path: Path) -> None:
    clock, remote = ManualClock(), ScriptedTransport()
    settings = Settings(path=tmp_path / "bot.db", retention_days=days)
    async with Outbox.open(settings, clock=clock, transport=remote) as outbox:
        await outbox.put("trades", {"n": 1})
        await outbox.drain()
        clock.advance(30_000 * DAY_S)
        assert outbox._maintenance is not None
        await outbox._maintenance._maintain()
        stats = await outbox.stats()
        assert (stats.delivered, stats.pruned) == (1, 0)


@run_async
async def test_pending_and_dead_entries_stay_however_old_they_are(tmp_path: Path) -> None:
    clock, remote = ManualClock(), ScriptedTransport()
    async with Outbox.open(Settings(path=tmp_path / "bot.db"), clock=clock, transport=remote) as outbox:
        await outbox.put("trades", {"n": 1})
        await outbox.drain()
        remote.otherwise = refused(400, "22P02")
        await outbox.put("trades", {"n": 2})
        await outbox.drain()
        await outbox.put("trades", {"n": 3})

        clock.advance(1000 * DAY_S)
        await wait_for(outbox, clock, 1)

        stats = await outbox.stats()
        assert (stats.pending, stats.dead, stats.delivered, stats.pruned) == (1, 1, 0, 1)


@run_async
async def test_close_does_not_wait_for_a_minute(tmp_path: Path) -> None:
    clock = ManualClock()  # it stands still: only the stop can end the housekeeper's rest
    outbox = await Outbox.open(Settings(path=tmp_path / "bot.db"), clock=clock, transport=ScriptedTransport())
    await outbox.close()


def pages(path: Path, pragma: str) -> int:
    return int(str(rows(path, f"pragma {pragma}")[0][0]))


@pytest.mark.slow
@run_async
async def test_the_file_gives_the_room_of_what_was_pruned_back_to_the_disk(tmp_path: Path) -> None:
    path, clock, remote = tmp_path / "bot.db", ManualClock(), ScriptedTransport()
    async with Outbox.open(Settings(path=path), clock=clock, transport=remote) as outbox:
        for n in range(3000):
            outbox.put_nowait("trades", {"n": n, "text": "x" * 3000})
        await outbox.drain()
        full = pages(path, "page_count")
        clock.advance(8 * DAY_S)
        await wait_for(outbox, clock, 3000)
        while pages(path, "freelist_count") > 1024:
            await outbox.stats()
    assert full > 3000
    assert 1000 <= pages(path, "freelist_count") <= 1024  # what stays is for the next rows
    assert path.stat().st_size < full * 4096 / 2
    assert rows(path, "select day, delivered from outbox_daily") == [("2026-01-01", 3000)]


@run_async
async def test_a_step_gives_back_as_many_pages_as_it_is_told_and_lets_puts_in_between(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        await store.transact(lambda connection: connection.execute("create table big (x)"))
        await store.transact(lambda connection: connection.execute("insert into big values (zeroblob(4000000))"))
        await store.transact(lambda connection: connection.execute("drop table big"))
        free = await maintenance.free_pages(store)

        assert free > 900
        assert await maintenance.shrink_step(store, 64, keep=100)
        assert await maintenance.free_pages(store) == free - 64
        put, step = store.put(*entry()), asyncio.create_task(maintenance.shrink(store))
        assert (await put).seq == 1
        await step
        while await maintenance.shrink_step(store, 64, keep=100):
            pass
        assert await maintenance.free_pages(store) == 100


@run_async
async def test_a_file_that_was_made_without_auto_vacuum_keeps_its_size_and_nobody_tries_for_ever(
    tmp_path: Path,
) -> None:
    path = tmp_path / "bot.db"
    with shell(path) as connection:  # a bot's own file, older than its outbox
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table big (x)")
        connection.execute("insert into big values (zeroblob(8000000))")
    async with opened(path) as store:
        await store.transact(lambda connection: connection.execute("drop table big"))
        free = await maintenance.free_pages(store)

        await maintenance.shrink(store)

        assert await maintenance.free_pages(store) == free > 1024
