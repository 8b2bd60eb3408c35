"""Sending again what was delivered: all of it comes back, nothing twice, and nothing newer is reverted."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from outbox import InvalidRequest, Outbox, Settings
from outbox.testing import FakeRemote, ManualClock, ScriptedTransport
from tests.store.tools import rows, shell
from tests.support import run_async

MANY = 20_000
COUNTED = """
select (select sum(entries) from outbox_counts), (select count(*) from outbox),
       (select entries from outbox_counts where state = 'delivered')
"""


@pytest.mark.slow
def test_all_of_many_rows_come_back_and_none_comes_twice(tmp_path: Path) -> None:
    asyncio.run(_many(tmp_path))


async def _many(tmp_path: Path) -> None:
    path, remote = tmp_path / "bot.db", FakeRemote()
    async with Outbox.open(Settings(_env_file=None, path=path), transport=remote) as outbox:
        for start in range(0, MANY, 1000):
            await outbox.put_many("trades", [{"n": n} for n in range(start, start + 1000)])
        with shell(path) as connection:  # delivered, as far as the file knows; the remote end is empty
            connection.execute("update outbox set state = 'delivered', settled_at_ms = created_at_ms")
        assert (await outbox.drain(timeout=1)).delivered == 0
        assert remote.rows("trades") == []

        dry = await outbox.resend(dry_run=True)
        assert (dry.resent, dry.dry_run) == (MANY, True)
        assert (await outbox.stats()).delivered == MANY

        report = await outbox.resend()
        assert (report.resent, report.superseded, report.updates) == (MANY, 0, 0)
        assert report.destinations == {"trades": MANY}
        assert rows(path, COUNTED) == [(MANY, MANY, 0)], "every entry is counted, and once"
        assert (await outbox.drain(timeout=200)).pending == 0

    stored = sorted(row["n"] for row in remote.rows("trades"))
    assert stored == list(range(MANY))
    assert rows(path, COUNTED) == [(MANY, MANY, MANY)]
    assert rows(path, "select count(*), count(distinct seq) from outbox_history where event = 'resent'") == [
        (MANY, MANY)
    ]


@run_async
async def test_of_upserts_the_newest_of_each_key_goes_and_updates_stay(tmp_path: Path) -> None:
    path, remote, clock = tmp_path / "bot.db", FakeRemote(), ManualClock()
    async with Outbox.open(Settings(_env_file=None, path=path), transport=remote, clock=clock) as outbox:
        outbox.register("positions", key="symbol", on_conflict=("symbol",), operation="upsert")
        for n in range(5):
            await outbox.put("positions", {"symbol": "EURUSD", "quantity": n})
        await outbox.put("positions", {"symbol": "EURUSD", "note": "mine"})  # another column: both are needed
        await outbox.put("positions", {"quantity": 9}, operation="update", match={"symbol": "EURUSD"})
        await outbox.put("trades", {"n": 1})
        await outbox.drain(timeout=20)
        await outbox.put("positions", {"symbol": "USDJPY", "quantity": 1})
        await outbox.drain(timeout=20)
        newer = await outbox.put("positions", {"symbol": "USDJPY", "quantity": 2})  # pending: it goes by itself

        report = await outbox.resend()
        assert (report.resent, report.superseded, report.updates) == (3, 5, 1)
        assert report.destinations == {"positions": 2, "trades": 1}
        pending = rows(path, f"select payload from outbox where state = 'pending' and seq < {newer.seq}")
        assert pending == [
            ('{"quantity":4,"symbol":"EURUSD"}',), ('{"note":"mine","symbol":"EURUSD"}',), ('{"n":1}',)
        ]  # fmt: skip
        assert (await outbox.drain(timeout=20)).pending == 0


@run_async
async def test_what_is_asked_for_is_resent_and_no_more(tmp_path: Path) -> None:
    path, clock = tmp_path / "bot.db", ManualClock()
    async with Outbox.open(Settings(_env_file=None, path=path), transport=ScriptedTransport(), clock=clock) as outbox:
        first = datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
        for n in range(4):
            await outbox.put("trades" if n % 2 else "events", {"n": n, "session_id": f"s-{n // 2}"})
            await outbox.drain(timeout=20)
            clock.advance(3600)
        hour = timedelta(hours=1)

        async def meant(**which: object) -> int:
            return (await outbox.resend(dry_run=True, **which)).resent  # type: ignore[arg-type]

        assert await meant() == 4
        assert await meant(since=first + hour) == 3
        assert await meant(until=first + hour) == 1
        assert await meant(since=first + hour, until=first + 3 * hour) == 2
        assert await meant(destination="trades") == await meant(session="s-1") == 2
        assert await meant(destination="trades", session="s-1") == 1
        assert await meant(destination="fills") == 0
        for wrong in ({"since": first.replace(tzinfo=None)}, {"destination": "a b"}, {"session": 7}):
            with pytest.raises(InvalidRequest):
                await outbox.resend(**wrong)
        assert (await outbox.stats()).pending == 0
