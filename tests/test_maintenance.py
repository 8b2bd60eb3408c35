"""Settled entries go after the retention, and are still counted; nothing else ever goes."""

from __future__ import annotations

from pathlib import Path

from outbox import Outbox, Settings
from outbox.testing import ManualClock, ScriptedTransport, refused
from tests.support import run_async

DAY_S = 86_400.0


async def gone(outbox: Outbox, number: int) -> bool:
    return (await outbox.stats()).pruned >= number


async def wait_for(outbox: Outbox, number: int) -> None:
    """Return once `number` entries are pruned; each look gives way to the housekeeper."""
    while not await gone(outbox, number):
        pass


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
        await wait_for(outbox, 1200)

        stats = await outbox.stats()
        assert (stats.pending, stats.delivered, stats.pruned) == (1, 0, 1200)


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
        await wait_for(outbox, 1)

        stats = await outbox.stats()
        assert (stats.pending, stats.dead, stats.delivered, stats.pruned) == (1, 1, 0, 1)


@run_async
async def test_close_does_not_wait_for_a_minute(tmp_path: Path) -> None:
    clock = ManualClock()  # it stands still: only the stop can end the housekeeper's rest
    outbox = await Outbox.open(Settings(path=tmp_path / "bot.db"), clock=clock, transport=ScriptedTransport())
    await outbox.close()
