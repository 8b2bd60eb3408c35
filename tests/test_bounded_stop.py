"""Whatever hangs — a name server, a statement, threads of the bot's own, a disk — an outbox ends within its time."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiosqlite
import httpx
import pytest

from outbox import Outbox, OutboxClosed, OutcomeUnknown, Settings, StoreInUse, background, outbox as outbox_module
from outbox.errors import StoreError, TransactionExpired
from outbox.postgrest.client import PostgrestTransport
from outbox.postgrest.connecting import Backend, addresses
from outbox.postgrest.verdicts import Failure
from outbox.store.held_transaction import Block
from outbox.store.store import Store
from outbox.testing import FakeRemote, ManualClock
from outbox.threads import in_thread
from tests.postgrest.test_network import bare as bare
from tests.postgrest.test_postgrest import REQUEST, keep_alive, serving
from tests.store.tools import ROOT, rows, until
from tests.support import run_async

ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n"


def settings(path: Path, **more: Any) -> Settings:
    return Settings(path=path / "bot.db", _env_file=None, health_s=0, **more)


# ---------------------------------------------------------------------------------------------- a statement


@run_async
async def test_a_statement_without_end_is_interrupted_at_the_transactions_limit(tmp_path: Path) -> None:
    async with Outbox.open(settings(tmp_path), transport=FakeRemote()) as outbox:
        with pytest.raises(TransactionExpired):
            async with outbox.transaction(limit_s=0.2) as tx:
                await tx.put("events", {"n": 1})
                await tx.execute(ENDLESS)
        assert (await outbox.put("events", {"n": 2})).seq >= 1
        assert (await outbox.stats()).pending == 1


@run_async
async def test_many_statements_of_one_call_are_interrupted_too(tmp_path: Path) -> None:
    async with Outbox.open(settings(tmp_path), transport=FakeRemote()) as outbox:
        async with outbox.transaction() as tx:
            await tx.execute("create table t (i)")
        with pytest.raises(TransactionExpired):
            async with outbox.transaction(limit_s=0.2) as tx:
                slow = "insert into t with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000)"
                await tx.executemany(f"{slow} select max(i) + ? from n", [(n,) for n in range(100_000)])
        assert await outbox.read_local("select count(*) from t") == [(0,)]


@run_async
async def test_control_without_the_interrupt_the_statement_goes_on_behind_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt, asked = aiosqlite.Connection.interrupt, asyncio.Event()

    async def deaf(_: aiosqlite.Connection) -> None:
        asked.set()

    monkeypatch.setattr(aiosqlite.Connection, "interrupt", deaf)
    clock, blocks = ManualClock(), list[Block]()
    async with Outbox.open(settings(tmp_path), clock=clock, transport=FakeRemote()) as outbox:

        async def run() -> None:
            async with outbox.transaction() as tx:
                blocks.append(tx._block)
                await tx.execute(ENDLESS)

        task = asyncio.create_task(run())
        await until(lambda: bool(blocks) and blocks[0]._working)
        clock.advance(1000)  # the limit is over while the statement runs, not before
        await asked.wait()
        await asyncio.wait({task}, timeout=0.2)
        assert not task.done()
        monkeypatch.setattr(aiosqlite.Connection, "interrupt", interrupt)
        with pytest.raises(TransactionExpired):
            await task


# ---------------------------------------------------------------------------------------------- threads


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    release = threading.Event()
    yield release
    release.set()


@run_async
async def test_threads_of_the_bots_own_that_hang_hold_up_nothing(tmp_path: Path, stuck: threading.Event) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(2))
    hanging = [loop.run_in_executor(None, stuck.wait) for _ in range(8)]
    async with Outbox.open(settings(tmp_path), transport=FakeRemote()) as outbox:
        await outbox.put("events", {"n": 1})
        assert (await outbox.stats()).pending == 1
        assert (await outbox.drain(timeout=20)).delivered == 1
    # Control: what waits in that executor waits.
    behind = loop.run_in_executor(None, threading.get_ident)
    assert await asyncio.wait({behind}, timeout=0.05) == (set(), {behind})
    stuck.set()
    await asyncio.gather(*hanging, behind)


@run_async
async def test_work_beside_the_loop_runs_in_a_daemon_thread_with_the_callers_context() -> None:
    assert await in_thread(lambda: threading.current_thread().daemon)
    assert await in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 7, 0)
    # Control: asyncio's own is joined at the end.
    assert not await asyncio.to_thread(lambda: threading.current_thread().daemon)


@run_async
async def test_a_cancelled_call_returns_at_once(stuck: threading.Event) -> None:
    task = asyncio.create_task(in_thread(stuck.wait))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ---------------------------------------------------------------------------------------------- a name server


@run_async
async def test_a_dead_name_server_holds_threads_that_nobody_waits_for(
    monkeypatch: pytest.MonkeyPatch, stuck: threading.Event
) -> None:
    asked: list[threading.Thread] = []

    def dead(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(threading.current_thread())
        stuck.wait()
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", dead)
    transport = PostgrestTransport("http://10.0.0.1.example/rest/v1", "k" * 12, allow_insecure=True)
    waiting = asyncio.create_task(transport.send(REQUEST, deadline_s=200))
    await until(lambda: bool(asked))
    outcomes = await asyncio.gather(*(transport.send(REQUEST, deadline_s=0.1) for _ in range(4)))
    assert set(outcomes) == {Failure.TIMEOUT}
    assert [thread.daemon for thread in asked] == [True]  # one question, however many ask it
    stuck.set()
    failure = await waiting
    await transport.aclose()
    assert isinstance(failure, Failure)
    assert (failure, failure.words) == (Failure.UNREACHABLE, "Temporary failure in name resolution")
    # Control: httpx by itself asks in a thread that Python waits for.
    asked.clear()
    async with httpx.AsyncClient(timeout=None) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("http://10.0.0.1.example/")
    assert [thread.daemon for thread in asked] == [False]


@run_async
async def test_an_address_that_is_silent_does_not_hold_up_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(host: str, port: int, **_: object) -> list[Any]:
        kinds = [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "127.0.0.1")]
        return [(kind, socket.SOCK_STREAM, 6, "", (place, port)) for kind, place in kinds]

    async with serving(keep_alive) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        backend, plain = Backend(), Backend()._plain.connect_tcp

        async def silent(place: str, *rest: Any) -> Any:
            return await (plain(place, *rest) if place == "127.0.0.1" else asyncio.Event().wait())

        monkeypatch.setattr(socket, "getaddrinfo", both)
        monkeypatch.setattr(backend._plain, "connect_tcp", silent)
        stream = await backend.connect_tcp("two.example", port)
        await stream.aclose()
        assert await addresses("two.example", port) == ["192.0.2.1", "127.0.0.1"]


# ---------------------------------------------------------------------------------------------- the end


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_ALL_S", 0.3)


@run_async
async def test_a_statement_that_runs_at_the_end_is_interrupted_and_the_file_closed(
    tmp_path: Path, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt = Store.give_up

    async def give_up(store: Store) -> None:
        monkeypatch.setattr(background, "LEAST_S", 200.0)  # how soon the rest is done is the machine's
        await interrupt(store)

    monkeypatch.setattr(Store, "give_up", give_up)
    outbox = await Outbox.open(settings(tmp_path), transport=FakeRemote())
    await outbox.put("events", {"n": 1})
    begun = asyncio.Event()

    async def work() -> None:
        async with outbox.transaction(limit_s=1000) as tx:
            await tx.put("events", {"n": 2})
            begun.set()
            await tx.execute(ENDLESS)

    task = asyncio.create_task(work())
    await begun.wait()
    late = outbox.put_nowait("events", {"n": 3})
    await outbox.close()
    with pytest.raises((TransactionExpired, StoreError)):
        await task
    with contextlib.suppress(StoreError, OutboxClosed):
        await late
    assert rows(tmp_path / "bot.db", "select 1 from outbox_meta where name = 'open'") == []  # closed cleanly
    async with Outbox.open(settings(tmp_path)) as again:
        assert (await again.stats()).pending in (1, 2)


@run_async
async def test_a_file_that_answers_no_more_is_left_and_stays_locked(
    tmp_path: Path, hurried: None, stuck: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = await Outbox.open(settings(tmp_path), transport=FakeRemote())
    connection = outbox._store.writer.commits.connection
    hanging = asyncio.ensure_future(connection._execute(stuck.wait))  # type: ignore[no-untyped-call]  # as a disk that has gone away
    put = asyncio.ensure_future(outbox.put("events", {"n": 1}))
    await asyncio.sleep(0)
    with caplog.at_level(logging.ERROR):
        await outbox.close()
    assert "stop deadline passed, a part still runs part=file" in caplog.text
    with pytest.raises((OutcomeUnknown, OutboxClosed)):
        await put
    with pytest.raises(StoreInUse):
        await Outbox.open(settings(tmp_path))
    stuck.set()
    await hanging
    while True:  # it comes to its end after all
        with contextlib.suppress(StoreInUse):
            await (await Outbox.open(settings(tmp_path))).close()
            return
        await asyncio.sleep(0.02)


def test_all_bounds_together_stay_below_what_a_bot_is_given() -> None:
    parts = 6  # as `Outbox._shut` lists them
    block = outbox_module._GRACE_S + 2 * background.LEAST_S  # `flushing()`, before the outbox is closed
    assert block < background._ALL_S - 4  # what is left for the others
    # The first of them that hangs has all that is left; the file's is waited for once more when it is given up.
    assert background._ALL_S + (parts - 1 + 1) * background.LEAST_S < 15


@run_async
async def test_what_the_flushers_block_has_taken_is_taken_from_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float | None] = []
    plain = asyncio.wait

    async def wait(tasks: Any, *, timeout: float | None = None) -> Any:
        waited.append(timeout)
        return await plain(tasks, timeout=0)

    async def hang() -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as moment:
        moment.setattr("outbox.background.asyncio.wait", wait)
        moment.setattr(asyncio.get_running_loop(), "time", lambda: 1000.0)
        for spent_s in (0.0, 6.0):
            await background.stop_in_time([background.Part("all", hang)], spent_s=spent_s)
    assert waited == [background._ALL_S, background._ALL_S - 6.0]


BOT = """
import asyncio, socket, sys, threading, time
from outbox import Outbox, Settings

def hang(*_, **__):
    threading.Event().wait()

async def main():
    socket.getaddrinfo = hang  # a name server that never answers
    settings = Settings(path=sys.argv[1], supabase_url="https://dead.example", supabase_key="k" * 20, _env_file=None)
    outbox = await Outbox.open(settings)
    flusher = outbox.flushing()
    await flusher.__aenter__()
    await outbox.put("events", {"n": 1})
    async def endless():
        async with outbox.transaction(limit_s=1000) as tx:
            await tx.put("events", {"n": 2})
            begun.set()
            await tx.execute(ENDLESS)
    begun = asyncio.Event()
    task = asyncio.create_task(endless())
    await begun.wait()
    if "disk" in sys.argv:  # which does not even listen to an interrupt
        asyncio.ensure_future(outbox._store._reader._execute(hang))
    late = outbox.put_nowait("events", {"n": 3})
    print("stopping", flush=True)
    await flusher.__aexit__(None, None, None)
    await outbox.close()
    await asyncio.gather(task, late, return_exceptions=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("more", [(), ("disk",)], ids=["name server and statement", "a disk, too"])
def test_a_whole_process_ends_in_its_time_with_all_of_it_at_once(more: tuple[str, ...], tmp_path: Path) -> None:
    program = BOT.replace("ENDLESS", repr(ENDLESS))
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "bot.db"), *more], cwd=ROOT, stdout=subprocess.PIPE
    ) as bot:
        try:
            assert bot.stdout is not None
            assert bot.stdout.readline() == b"stopping\n"
            assert bot.wait(timeout=100) == 0  # the seconds are added up above: a test's own would be the machine's
        finally:
            bot.kill()
    assert rows(tmp_path / "bot.db", "select count(*) from outbox where state = 'pending'")[0][0] in (1, 2)


@run_async
async def test_each_part_has_its_turn_whatever_those_before_it_do(
    hurried: None, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def hang() -> None:
        await asyncio.Event().wait()

    async def fail() -> None:
        raise OSError("broken")

    async def end() -> None:
        ended.append("last")

    parts = [background.Part("first", hang), background.Part("second", fail), background.Part("third", end)]
    with pytest.raises(OSError, match="broken"):
        await background.stop_in_time(parts)
    assert ended == ["last"]
    assert "part=first" in caplog.text
