"""A bot's own tables in the outbox's file: many rows in a block, reads beside it, and who hears of its end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from outbox import InvalidEntry, OutboxClosed, StoreError, TransactionExpired
from outbox.testing import ManualClock
from tests.bot.home import opened, rows
from tests.support import run_async

TABLE = "create table books (symbol text primary key, qty real) strict"
INSERT = "insert into books values (?, ?)"


class Changed(Exception):
    """The bot changes its mind in the middle of a block."""


@run_async
async def test_many_rows_are_written_in_a_block_and_read_outside_of_it_once_it_has_ended(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        async with outbox.transaction() as tx:
            await tx.execute(TABLE)
        async with outbox.transaction() as tx:
            await tx.executemany(INSERT, [("EURUSD", 1.5), ("GBPUSD", 2.0)])
            assert await outbox.read_local("select count(*) from books") == [(0,)], "what was committed before"
            assert await tx.execute("select count(*) from books") == [(2,)], "what this block has written"
        assert await outbox.read_local("select qty from books where symbol = ?", ("GBPUSD",)) == [(2.0,)]
    with pytest.raises(OutboxClosed):
        await outbox.read_local("select 1")


@run_async
async def test_a_row_that_is_refused_fails_the_call_and_the_block_can_roll_back(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        async with outbox.transaction() as tx:
            await tx.execute(TABLE)
        with pytest.raises(StoreError, match="UNIQUE"):
            async with outbox.transaction() as tx:
                await tx.executemany(INSERT, [("EURUSD", 1.5), ("EURUSD", 2.0)])
    assert rows(tmp_path, "select * from books") == []


@pytest.mark.parametrize("sql", ["pragma user_version", "begin", "/* x */ attach 'other.db' as other", "vacuum"])
@run_async
async def test_what_would_change_the_connection_is_refused(tmp_path: Path, sql: str) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        with pytest.raises(InvalidEntry):
            await outbox.read_local(sql)
        async with outbox.transaction() as tx:
            with pytest.raises(InvalidEntry):
                await tx.executemany(sql, [])


@run_async
async def test_a_read_cannot_write(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock()) as outbox:
        with pytest.raises(StoreError, match="readonly"):
            await outbox.read_local("delete from outbox")


@run_async
async def test_watchers_hear_of_the_end_the_last_one_first(tmp_path: Path) -> None:
    heard: list[tuple[str, bool]] = []
    async with opened(tmp_path, ManualClock()) as outbox:
        async with outbox.transaction() as tx:
            tx.when_over(lambda committed: heard.append(("first", committed)))
            tx.when_over(lambda committed: heard.append(("second", committed)))
            assert heard == []
        assert heard == [("second", True), ("first", True)]
        with pytest.raises(Changed):
            async with outbox.transaction() as tx:
                tx.when_over(lambda committed: heard.append(("rolled back", committed)))
                raise Changed
        assert heard[2:] == [("rolled back", False)]


@run_async
async def test_watchers_hear_of_a_block_that_outlived_its_limit(tmp_path: Path) -> None:
    heard: list[bool] = []
    clock = ManualClock()
    async with opened(tmp_path, clock) as outbox:
        with pytest.raises(TransactionExpired):
            async with outbox.transaction(limit_s=1) as tx:
                tx.when_over(heard.append)
                await tx.execute("select 1")
                clock.advance(2)
                assert tx._block._task is not None
                await asyncio.wait({tx._block._task})  # until the writer has noticed
        assert heard == [False]


@run_async
async def test_an_outbox_knows_who_puts(tmp_path: Path) -> None:
    async with opened(tmp_path, ManualClock(), source="bot-7") as outbox:
        assert outbox.source == "bot-7"
