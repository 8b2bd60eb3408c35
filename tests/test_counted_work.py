"""What a put and a drained row cost, counted: hops to SQLite's threads, and requests. Never timed."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from benchmark.answers import answering

from outbox import Outbox, Settings
from outbox.store import maintenance
from outbox.store.queries import Query
from outbox.store.reader import Reader
from outbox.store.writer import Writer
from outbox.testing import ManualClock, ScriptedTransport
from tests.flusher.bench import flushing
from tests.store.tools import shell
from tests.support import run_async

ROWS = 2_000
BATCH = 100


@contextmanager
def counted_hops(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Yield a list that grows by one with each call that crosses into one of SQLite's threads."""
    hops: list[str] = []
    plain = aiosqlite.Connection._execute

    async def counted(self: aiosqlite.Connection, fn: Any, *args: Any, **kwargs: Any) -> Any:
        hops.append(getattr(fn, "__name__", str(fn)))
        return await plain(self, fn, *args, **kwargs)  # type: ignore[no-untyped-call]

    with monkeypatch.context() as patch:
        patch.setattr(aiosqlite.Connection, "_execute", counted)
        yield hops


class Awaited(ManualClock):
    """awaited: set once maintenance waits for its next turn."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited = asyncio.Event()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        if timeout_s == maintenance._EVERY_S:
            self.awaited.set()
        return await super().wait(event, timeout_s)


@asynccontextmanager
async def opened(path: Path, transport: ScriptedTransport, **changes: Any) -> AsyncIterator[Outbox]:
    """Open an outbox whose clock stands still; maintenance has had its turn, and has no other."""
    clock = Awaited()
    async with Outbox.open(Settings(path=path, **changes), clock=clock, transport=transport) as outbox:
        await outbox.put("events", {"n": 0})
        await clock.awaited.wait()  # its own reads are hops, too
        yield outbox


@run_async
async def test_a_put_costs_one_hop_and_so_do_all_puts_that_wait_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "bot.db", ScriptedTransport()) as outbox:
        await outbox.put("trades", {"n": 0})  # the first entry of its kind makes the lane
        with counted_hops(monkeypatch) as hops:
            await outbox.put("trades", {"n": 1})
            assert len(hops) == 1, hops

        with counted_hops(monkeypatch) as hops:
            await asyncio.gather(*(outbox.put("trades", {"n": n}) for n in range(64)))
            assert len(hops) <= 2, hops  # the first may have gone ahead alone

        with counted_hops(monkeypatch) as hops:  # the control: what else is counted when there is more to count
            async with outbox.transaction() as tx:
                await tx.put("trades", {"n": 100})
            assert len(hops) > 2, hops


@pytest.mark.parametrize("turns", [64, 2, 0], ids=["", "control: two turns", "control: none, groups are halves"])
@pytest.mark.parametrize("most", [1, 4], ids=["alike", "some longer than others"])
@run_async
async def test_callers_that_do_other_work_between_their_puts_still_share_their_commits(
    most: int, turns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def a_few(self: Writer, callers: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    callers, puts, dice = 64, 10, random.Random(1)
    if turns < callers:
        monkeypatch.setattr(Writer, "_let_return", a_few)

    async def work(outbox: Outbox) -> None:
        for n in range(puts):
            await outbox.put("trades", {"n": n})
            for _ in range(dice.randint(1, most)):  # what a bot does between two puts
                await asyncio.sleep(0)

    async with opened(tmp_path / "bot.db", ScriptedTransport()) as outbox:
        await outbox.put("trades", {"n": 0})
        with counted_hops(monkeypatch) as hops:
            await asyncio.gather(*(work(outbox) for _ in range(callers)))
    if turns > 2 or (turns == 2 and most == 1):
        assert len(hops) <= puts + 2, hops
    else:
        assert len(hops) > 1.25 * puts, hops


@run_async
async def test_a_lone_put_does_not_wait_for_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0
    plain = asyncio.sleep

    async def counted(delay: float) -> None:
        nonlocal turns
        turns += 1
        await plain(delay)

    async with opened(tmp_path / "bot.db", ScriptedTransport()) as outbox:
        monkeypatch.setattr("outbox.store.writer.asyncio.sleep", counted)
        for n in range(5):
            await outbox.put("trades", {"n": n})
        assert turns == 0
        await asyncio.gather(*(outbox.put("trades", {"n": n}) for n in range(5)))
        assert turns > 0  # the control


@run_async
async def test_a_drain_sends_full_requests_and_settles_each_with_a_fixed_number_of_hops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def drained(rows: int) -> tuple[int, int]:
        transport = ScriptedTransport()
        async with opened(tmp_path / f"{rows}.db", transport, batch_rows=BATCH) as outbox:
            await asyncio.gather(*(outbox.put("trades", {"n": n}) for n in range(rows)))
            with counted_hops(monkeypatch) as hops:
                report = await outbox.drain(timeout=30)
            assert (report.delivered, report.pending) == (rows + 1, 0)
        return len(transport.requests) - 1, len(hops)

    requests, hops = await drained(ROWS)
    _, few_hops = await drained(BATCH)

    assert requests == ROWS // BATCH
    # Reading a batch, its verdict and the looks in between: some 8; never one for each row.
    assert hops - few_hops <= 12 * (ROWS // BATCH - 1), f"{hops} hops for {requests} requests"


@run_async
async def test_looking_costs_the_same_hops_whatever_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def looked_at(rows: int) -> int:
        async with opened(tmp_path / f"{rows}.db", ScriptedTransport()) as outbox:
            await asyncio.gather(*(outbox.put("trades", {"n": n}) for n in range(rows)))
            with counted_hops(monkeypatch) as hops:
                assert (await outbox.stats()).pending == rows + 1
        return len(hops)

    assert await looked_at(1) == await looked_at(ROWS)


@pytest.mark.parametrize("bounded", [True, False], ids=["as it is", "control: as many more as are on their way"])
@run_async
async def test_a_row_is_read_once_to_be_sent_whatever_else_is_on_its_way(
    bounded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    entries = Reader._entries

    async def counted(self: Reader, query: Query, parameters: Any, *, limit: int, **more: Any) -> Any:
        found = await entries(self, query, parameters, limit=limit if bounded else sys.maxsize, **more)
        read.append(len(found))
        return found[:limit]

    monkeypatch.setattr(Reader, "_entries", counted)
    async with opened(tmp_path / "bot.db", ScriptedTransport(), batch_rows=BATCH) as outbox:
        await outbox.put_many("trades", [{"n": n} for n in range(ROWS)])
        assert (await outbox.drain(timeout=30)).delivered == ROWS + 1
    assert (sum(read) == ROWS + 1) is bounded, read


@pytest.mark.parametrize("bounded", [True, False], ids=["as it is", "control: all rows are read, then cut"])
@run_async
async def test_a_request_reads_no_more_payloads_than_it_can_carry(
    bounded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """250 rows of 100 kB, a limit of 100 kB: what is read beside the row that travels is the one that did not fit."""
    read: list[int] = []
    entries = Reader._entries

    async def counted(self: Reader, query: Query, parameters: Any, *, max_bytes: int | None, **more: Any) -> Any:
        found = await entries(self, query, parameters, max_bytes=max_bytes if bounded else None, **more)
        read.extend(len(row[3]) for row in found)
        return found

    monkeypatch.setattr(Reader, "_entries", counted)
    transport, rows = ScriptedTransport(), 250 if bounded else 25  # the control reads as many times too much
    async with opened(tmp_path / "bot.db", transport, batch_bytes=100_000) as outbox:
        for number in range(0, rows, 25):
            await outbox.put_many("trades", [{"n": number + n, "x": "x" * 100_000} for n in range(25)])
        assert (await outbox.drain(timeout=30)).delivered == rows + 1
    assert (sum(read) <= 210_000 * len(transport.requests)) is bounded


@pytest.mark.parametrize("others", [False, True], ids=["", "control: another process commits before each look"])
@run_async
async def test_an_idle_flusher_asks_sqlite_once_a_poll(
    others: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = 30
    async with flushing(tmp_path, poll_s=1) as bench:
        await bench.put_many(1)
        await bench.settled()
        await bench.live(2)  # what it looks at once after a delivery
        with counted_hops(monkeypatch) as hops:
            for number in range(polls):
                if others:
                    with shell(bench.path) as connection:
                        connection.execute("insert into outbox_meta values (?, '')", (f"note {number}",))
                await bench.advance(1)
        assert (len(hops) > polls) is others, len(hops)


@contextmanager
def counted_searches(*, without: str | None = None) -> Iterator[list[str]]:
    """Yield a list that grows with each module that is looked for on the disk. without: one that is not there."""
    searches: list[str] = []

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            searches.append(name)
            if name == without:
                raise ModuleNotFoundError(name)

    hidden = sys.modules.pop(without, None) if without else None
    sys.meta_path.insert(0, Finder)
    try:
        yield searches
    finally:
        sys.meta_path.remove(Finder)
        if without and hidden:
            sys.modules[without] = hidden


@run_async
async def test_a_request_looks_for_no_module_on_the_disk(tmp_path: Path) -> None:
    with answering(0) as port:
        settings = Settings(path=tmp_path / "bot.db", supabase_url=f"http://127.0.0.1:{port}", supabase_key="sb_secret")
        async with Outbox.open(settings) as outbox:
            await outbox.put("events", {"n": 0})
            await outbox.drain(timeout=30)  # the first request imports what it needs
            found = {}
            for without in (None, "sniffio"):
                await outbox.put("events", {"n": 1})
                with counted_searches(without=without) as searches:
                    assert (await outbox.drain(timeout=30)).pending == 0
                found[without] = searches
    assert found[None] == []
    assert found["sniffio"].count("sniffio") > 1  # the control: httpcore asks anew with every request
