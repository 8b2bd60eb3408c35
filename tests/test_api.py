"""`Outbox` as a bot calls it: what returns, what raises, and from where it may be called."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import json
import logging
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from outbox import (
    ConfigError,
    DiskFull,
    ForeignLoop,
    ForkedProcess,
    IdConflict,
    InsideTransaction,
    InvalidEntry,
    Outbox,
    OutboxClosed,
    OutboxError,
    OutboxFull,
    Receipt,
    Settings,
    StoreBusy,
    StoreError,
    StoreInUse,
    Transaction,
    TransactionExpired,
    UsageError,
)
from outbox.futures import ThreadFuture
from outbox.testing import ManualClock
from tests.store.tools import count, python, raised, rows, shell, until
from tests.support import FORKS_WITH_THREADS, run_async

CANARY = "sb_secret_canary-4711"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bot.db"


def settings(path: Path, **more: Any) -> Settings:
    return Settings(_env_file=None, path=path, **more)


@asynccontextmanager
async def opened(path: Path, *, clock: ManualClock | None = None, **more: Any) -> AsyncIterator[Outbox]:
    async with Outbox.open(settings(path, **more), clock=clock) as outbox:
        yield outbox


def payloads(path: Path) -> list[Any]:
    return [json.loads(str(text)) for (text,) in rows(path, "select payload from outbox order by seq")]


# ---------------------------------------------------------------------------------------------- put


@run_async
async def test_a_put_is_in_the_file_when_it_returns(path: Path) -> None:
    async with opened(path) as outbox:
        receipt = await outbox.put("fills", {"symbol": "EURUSD"})
        assert rows(path, "select id, seq, state, destination from outbox") == [
            (receipt.id, receipt.seq, "pending", "fills")
        ]
        stats = await outbox.stats()
    assert (stats.pending, stats.delivered, stats.dead, stats.discarded) == (1, 0, 0, 0)
    assert stats.wal_bytes > 0
    assert stats.db_bytes > 0


@run_async
async def test_a_caller_may_change_its_row_as_soon_as_the_put_has_begun(path: Path) -> None:
    async with opened(path) as outbox:
        row = {"n": 1, "legs": [1]}
        task = asyncio.create_task(outbox.put("fills", row))
        await asyncio.sleep(0)  # a task does not begin before the loop lets it
        row["n"] = 2
        row["legs"] = []
        future = outbox.put_nowait("fills", row)  # begins at once
        row["n"] = 3
        row.clear()
        await asyncio.gather(task, future)
    assert payloads(path) == [{"legs": [1], "n": 1}, {"legs": [], "n": 2}]


@run_async
async def test_a_coroutine_that_nobody_has_begun_has_not_read_its_row(path: Path) -> None:
    """The control of the test above, and a warning: calling `put` does nothing yet."""
    async with opened(path) as outbox:
        row = {"n": 1}
        coroutine = outbox.put("fills", row)
        row["n"] = 2
        await coroutine
    assert payloads(path) == [{"n": 2}]


@run_async
async def test_what_cannot_be_stored_is_refused_before_anything_is_written(path: Path) -> None:
    async with opened(path) as outbox:
        for work in (
            outbox.put("fills", {"at": object()}),
            outbox.put("no table!", {"n": 1}),
            outbox.put("fills", {"n": 1}, operation="delete"),  # type: ignore[arg-type]
            outbox.put("fills", {"n": 1}, id=1.5),
            outbox.put("fills", {"n": 1}, operation="update"),
        ):
            error = await raised(work)
            assert isinstance(error, InvalidEntry), repr(error)
            assert "nothing was written" in str(error)
    assert count(path) == 0


@pytest.mark.parametrize("row", [{"n": 1}, Receipt(id="a", seq=1), 4711])
@run_async
async def test_a_row_in_the_place_of_the_destination_is_told_which_comes_first(path: Path, row: Any) -> None:
    async with opened(path) as outbox:
        async with outbox.transaction() as tx:
            error = await raised(tx.put(row, "events"))
        for put in (outbox.put_nowait, outbox.put_threadsafe):
            with pytest.raises(InvalidEntry, match="it comes first"):
                put(row, "events")
        assert str(error) == str(await raised(outbox.put(row, "events")))
    assert isinstance(error, InvalidEntry)
    assert error.field == "destination"
    assert 'put("trades", row); nothing was written' in str(error)
    assert count(path) == 0


@run_async
async def test_the_same_id_again_is_one_row_and_another_row_under_it_is_refused(path: Path) -> None:
    async with opened(path) as outbox:
        first = await outbox.put("fills", {"n": 1}, id="a")
        again = await outbox.put("fills", {"n": 1}, id="a")
        error = await raised(outbox.put("fills", {"n": 2}, id="a"))
        elsewhere = await outbox.put("notes", {"n": 2}, id="a")
    assert again == Receipt(id="a", seq=first.seq, duplicate=True)
    assert isinstance(error, IdConflict)
    assert not elsewhere.duplicate
    assert payloads(path) == [{"n": 1}, {"n": 2}]


# ---------------------------------------------------------------------------------------------- put_nowait


@run_async
async def test_put_nowait_is_bounded(path: Path) -> None:
    async with opened(path, max_waiting=3) as outbox:
        futures = [outbox.put_nowait("fills", {"n": n}) for n in range(3)]
        with pytest.raises(OutboxFull) as caught:
            outbox.put_nowait("fills", {"n": 3})
        assert (caught.value.field, caught.value.limit) == ("max_waiting", 3)
        await asyncio.gather(*futures)
        await outbox.put_nowait("fills", {"n": 4})  # there is room again
    assert [row["n"] for row in payloads(path)] == [0, 1, 2, 4]


@run_async
async def test_a_cancelled_put_nowait_frees_its_place_and_is_not_stored(path: Path) -> None:
    async with opened(path, max_waiting=1) as outbox:
        outbox.put_nowait("fills", {"n": 1}).cancel()
        await asyncio.sleep(0)
        await outbox.put_nowait("fills", {"n": 2})
    assert payloads(path) == [{"n": 2}]


async def fail_one(outbox: Outbox, use: Callable[[asyncio.Future[Receipt]], Coroutine[Any, Any, object]]) -> str:
    await outbox.put("fills", {"n": 1}, id="a")
    future = outbox.put_nowait("fills", {"n": "payload-canary"}, id="a")
    await use(future)
    await until(future.done)
    await asyncio.sleep(0)
    del future
    gc.collect()
    return "a"


async def nobody(future: asyncio.Future[Receipt]) -> object:
    return None


async def awaits(future: asyncio.Future[Receipt]) -> object:
    return await raised(future)


async def gathers(future: asyncio.Future[Receipt]) -> object:
    return await asyncio.gather(future, return_exceptions=True)


async def calls_back(future: asyncio.Future[Receipt]) -> object:
    future.add_done_callback(lambda done: done.exception())
    return None


@pytest.mark.parametrize(
    ("use", "logged"),
    [
        pytest.param(nobody, 1, id="nobody looks"),
        pytest.param(awaits, 0, id="awaited"),
        pytest.param(gathers, 0, id="gathered"),
        pytest.param(calls_back, 0, id="a callback"),
    ],
)
@run_async
async def test_a_failure_that_is_never_retrieved_is_logged_with_its_id(
    use: Callable[[asyncio.Future[Receipt]], Coroutine[Any, Any, object]],
    logged: int,
    path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened(path) as outbox:
        await fail_one(outbox, use)
    errors = [vars(record) for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == logged
    assert all((facts["destination"], facts["id"]) == ("fills", "a") for facts in errors)
    assert "payload-canary" not in repr(errors)


# ---------------------------------------------------------------------------------------------- from where


@run_async
async def test_another_thread_has_a_put_of_its_own(path: Path) -> None:
    async with opened(path) as outbox:
        receipt = await asyncio.to_thread(lambda: outbox.put_threadsafe("fills", {"n": 1}).result(timeout=200))
        error = await asyncio.to_thread(
            lambda: outbox.put_threadsafe("fills", {"n": 2}, id=receipt.id).exception(timeout=200)
        )
        with pytest.raises(InvalidEntry):
            await asyncio.to_thread(lambda: outbox.put_threadsafe("fills", {}))
    assert isinstance(error, IdConflict)
    assert payloads(path) == [{"n": 1}]


@run_async
async def test_waiting_for_a_thread_safe_put_on_the_own_loop_is_refused_instead_of_hanging(path: Path) -> None:
    async with opened(path) as outbox:
        future = outbox.put_threadsafe("fills", {"n": 1})
        for look in (future.result, future.exception):
            with pytest.raises(UsageError, match="would wait for itself"):
                look()
        assert await asyncio.wrap_future(future) == future.result()  # it is done: nobody waits
        assert future.id == future.result().id
    assert payloads(path) == [{"n": 1}]


async def is_left(future: ThreadFuture) -> None:
    await until(future.done)


async def is_waited_for(future: ThreadFuture) -> None:
    await asyncio.to_thread(future.exception)


@pytest.mark.parametrize(
    ("use", "logged"), [pytest.param(is_left, 1, id="left alone"), pytest.param(is_waited_for, 0, id="looked at")]
)
@run_async
async def test_a_thread_safe_put_that_fails_is_logged_unless_somebody_looks(
    use: Callable[[ThreadFuture], Coroutine[Any, Any, None]], logged: int, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(path) as outbox:
        await outbox.put("fills", {"n": 1}, id="a")
        await use(outbox.put_threadsafe("fills", {"n": "payload-canary"}, id="a"))
    errors = [vars(record) for record in caplog.records if record.levelno >= logging.ERROR]
    assert [(facts["destination"], facts["id"]) for facts in errors] == [("fills", "a")] * logged
    assert "payload-canary" not in repr(errors)


@run_async
async def test_puts_that_nobody_waits_for_are_bounded_together_by_rows_and_by_bytes(path: Path) -> None:
    async with opened(path, max_waiting=3, max_waiting_bytes=1000) as outbox:
        futures: list[Any] = [outbox.put_nowait("fills", {"n": 1}), outbox.put_threadsafe("fills", {"n": 2})]
        for put in (outbox.put_nowait, outbox.put_threadsafe):
            with pytest.raises(OutboxFull) as caught:
                put("fills", {"text": "é" * 500})
            assert (caught.value.field, caught.value.limit) == ("max_waiting_bytes", 1000)
        futures.append(outbox.put_threadsafe("fills", {"n": 3}))
        with pytest.raises(OutboxFull) as caught:
            outbox.put_threadsafe("fills", {"n": 4})
        assert caught.value.field == "max_waiting"
        await until(lambda: all(future.done() for future in futures))
        await outbox.put_nowait("fills", {"text": "é" * 5000})  # alone, a row may be larger
    assert count(path) == 4


@run_async
async def test_a_cancelled_thread_safe_put_is_not_written(path: Path) -> None:
    async with opened(path) as outbox:
        future = outbox.put_threadsafe("fills", {"n": 1})
        assert future.cancel()
        await outbox.put("fills", {"n": 2})
        assert outbox.put_threadsafe("fills", {"n": 3}).cancel()
    assert payloads(path) == [{"n": 2}]


@run_async
async def test_many_threads_lose_nothing(path: Path) -> None:
    async with opened(path) as outbox:

        def work(thread: int) -> None:
            for n in range(25):
                outbox.put_threadsafe("fills", {"n": n, "thread": thread}).result(timeout=200)

        await asyncio.gather(*(asyncio.to_thread(work, thread) for thread in range(4)))
    assert count(path) == 100


@run_async
async def test_another_thread_or_loop_gets_a_typed_error(path: Path) -> None:
    async with opened(path) as outbox:
        errors: list[BaseException | None] = []

        def elsewhere() -> None:
            errors.append(asyncio.run(raised(outbox.put("fills", {"n": 1}))))
            errors.append(asyncio.run(raised(outbox.close())))
            try:
                outbox.put_nowait("fills", {"n": 1})
            except OutboxError as error:
                errors.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert [type(error) for error in errors] == [ForeignLoop] * 3
        assert all("put_threadsafe" in str(error) and "BlockingOutbox" in str(error) for error in errors)
        await outbox.put("fills", {"n": 2})  # and it was not closed
    assert payloads(path) == [{"n": 2}]


@FORKS_WITH_THREADS
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_child_gets_a_typed_error_and_cannot_hurt_its_parent(path: Path) -> None:
    async def child_says(outbox: Outbox) -> int:
        for work in (outbox.put("fills", {"n": 1}), outbox.stats()):
            if not isinstance(await raised(work), ForkedProcess):
                return 1
        try:
            outbox.put_threadsafe("fills", {"n": 1})
        except ForkedProcess:
            signal.alarm(100)  # asyncio's own timeouts need the loop, which a child does not have
            await outbox.close()  # does nothing, and does not hang
            return 0
        return 2

    @run_async
    async def parent() -> None:
        async with opened(path) as outbox:
            await outbox.put("fills", {"n": 1})
            child = os.fork()
            if not child:
                status = 9
                try:
                    status = await child_says(outbox)
                finally:
                    os._exit(status)
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            await outbox.put("fills", {"n": 2})
            assert isinstance(await raised(_open(path)), StoreInUse)  # the child has not let go of the lock

    parent()
    assert payloads(path) == [{"n": 1}, {"n": 2}]


async def _open(path: Path) -> Outbox:
    return await Outbox.open(settings(path))


# ---------------------------------------------------------------------------------------------- open


def test_opening_is_a_coroutine_wherever_asyncio_wants_one(path: Path) -> None:
    async def use() -> None:
        loop = asyncio.get_running_loop()
        outbox = await asyncio.create_task(Outbox.open(settings(path)))
        await outbox.close()
        outbox = await asyncio.wait_for(Outbox.open(settings(path)), 200)
        await outbox.close()
        outbox = await asyncio.to_thread(
            lambda: asyncio.run_coroutine_threadsafe(Outbox.open(settings(path)), loop).result(200)
        )
        await outbox.put("fills", {"n": 1})  # it belongs to the loop that ran it
        await outbox.close()
        Outbox.open(settings(path)).close()  # never begun
        Outbox.open(settings(path))  # nor this one: it does not warn either

    asyncio.run(use())
    assert count(path) == 1
    with pytest.raises(ConfigError):
        asyncio.run(Outbox.open(str(path)))  # type: ignore[arg-type]


def test_an_outbox_can_be_neither_pickled_nor_copied(path: Path) -> None:
    @run_async
    async def use() -> None:
        async with opened(path) as outbox:
            for copied in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(UsageError, match="an outbox belongs to its process; open one in the worker"):
                    copied(outbox)

    use()


# ---------------------------------------------------------------------------------------------- close


@run_async
async def test_closing_commits_what_stands_in_line_and_may_be_repeated(path: Path) -> None:
    outbox = await _open(path)
    futures = [outbox.put_nowait("fills", {"n": n}) for n in range(100)]
    await asyncio.gather(outbox.close(), outbox.close())
    await outbox.close()

    assert all(future.done() and future.result() for future in futures)
    assert count(path) == 100
    for work in (outbox.put("fills", {"n": 1}), outbox.stats(), outbox.drain(), outbox.reload()):
        assert isinstance(await raised(work), OutboxClosed)
    with pytest.raises(OutboxClosed):
        outbox.put_nowait("fills", {"n": 1})
    with pytest.raises(OutboxClosed):
        outbox.put_threadsafe("fills", {"n": 1})
    with pytest.raises(OutboxClosed):
        async with outbox.transaction():
            pytest.fail("it began")
    assert "closed" in repr(outbox)


@run_async
async def test_cancelling_a_close_does_not_leave_the_file_half_closed(path: Path) -> None:
    for steps in range(12):
        outbox = await _open(path)
        future = outbox.put_nowait("fills", {"n": steps})
        closing = asyncio.create_task(outbox.close())
        for _ in range(steps):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait({closing})
        await outbox.close()
        assert future.result().seq
    assert count(path) == 12
    async with opened(path):
        """The lock is free."""


@run_async
async def test_a_look_while_it_closes_is_a_typed_error(path: Path) -> None:
    for steps in range(12):
        outbox = await _open(path)
        looking = asyncio.create_task(raised(outbox.stats()))
        for _ in range(steps):
            await asyncio.sleep(0)
        await outbox.close()
        assert isinstance(await looking, OutboxError | None)


DROPPED = """
import asyncio, gc, sys, warnings, weakref
from outbox import Outbox, Settings

async def main():
    outbox = await Outbox.open(Settings(_env_file=None, path=sys.argv[1]))
    known = weakref.ref(outbox)
    kept = outbox if sys.argv[2] == "kept" else None
    del outbox
    gc.collect()
    print("there" if known() else "gone")

warnings.simplefilter("ignore")
asyncio.run(main())
"""


@pytest.mark.parametrize(("how", "it_is"), [("dropped", "gone"), ("kept", "there")])
def test_an_outbox_that_nobody_has_closed_or_keeps_is_collected_while_the_loop_runs(
    how: str, it_is: str, path: Path
) -> None:
    with python(DROPPED, str(path), how) as process:
        out, err = process.communicate(timeout=100)
    assert out.split() == [it_is], err


FORGOTTEN = """
import asyncio, sys
from outbox import Outbox, Settings

async def main():
    outbox = await Outbox.open(Settings(_env_file=None, path=sys.argv[1]))
    await outbox.put("fills", {"n": 1})
    future = outbox.put_nowait("fills", {"n": 2})
    if sys.argv[2] == "flushing":
        asyncio.create_task(outbox.run_flusher())
        await asyncio.sleep(0)
    return outbox if sys.argv[2] == "kept" else None

kept = asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("how", ["dropped", "kept", "flushing"])
def test_a_program_that_forgets_to_close_ends_and_loses_nothing(how: str, path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-c", FORGOTTEN, str(path), how],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    assert "ResourceWarning" in result.stderr
    assert "was never closed" in result.stderr
    assert payloads(path)[:1] == [{"n": 1}]


@run_async
async def test_an_opening_that_fails_late_leaves_the_file_free(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(path.parent / "missing.pem"))  # httpx reads it for a new client
    error = await raised(_opened_with_key(path))
    assert error is None or isinstance(error, OSError)
    async with opened(path) as outbox:
        await outbox.put("fills", {"n": 1})


async def _opened_with_key(path: Path) -> None:
    async with opened(path, supabase_url="https://x.supabase.co", supabase_key=CANARY):
        pass


@run_async
async def test_a_path_is_given_once(path: Path) -> None:
    with pytest.raises(ConfigError, match="path"):
        await Outbox.open(settings(path), path=path)


# ---------------------------------------------------------------------------------------------- transaction


async def positions(outbox: Outbox) -> None:
    async with outbox.transaction() as tx:
        await tx.execute("create table positions (symbol text primary key, qty real)")


@run_async
async def test_entries_and_the_bots_own_rows_commit_together(path: Path) -> None:
    async with opened(path) as outbox:
        await positions(outbox)
        async with outbox.transaction() as tx:
            receipt = await tx.put("fills", {"n": 1})
            assert await tx.execute("insert into positions values (?, ?)", ("EURUSD", 1.5)) == []
            assert await tx.execute("select qty from positions where symbol = :s", {"s": "EURUSD"}) == [(1.5,)]
            assert count(path) == 0  # nobody else sees it yet
            assert rows(path, "select * from positions") == []
        assert rows(path, "select id from outbox") == [(receipt.id,)]
        assert rows(path, "select * from positions") == [("EURUSD", 1.5)]


@run_async
async def test_an_exception_rolls_everything_back(path: Path) -> None:
    async with opened(path) as outbox:
        await positions(outbox)
        with pytest.raises(ZeroDivisionError):
            async with outbox.transaction() as tx:
                await tx.put("fills", {"n": 1})
                await tx.put("a_new_lane", {"n": 1})
                await tx.execute("insert into positions values ('EURUSD', 1)")
                raise ZeroDivisionError
        assert rows(path, "select * from positions") == []
        assert rows(path, "select * from outbox_lanes") == []
        await outbox.put("a_new_lane", {"n": 2})  # its lane, too, was rolled back
        stats = await outbox.stats()
    assert payloads(path) == [{"n": 2}]
    assert stats.pending == 1


@run_async
async def test_a_put_inside_the_block_that_would_wait_for_itself_is_refused(path: Path) -> None:
    async with opened(path) as outbox:
        async with outbox.transaction() as tx:
            for work in (
                lambda: outbox.put("fills", {"n": 1}),
                lambda: outbox.drain(),
                lambda: asyncio.create_task(outbox.put("fills", {"n": 1})),  # a child of the block
                lambda: asyncio.to_thread(outbox.put_threadsafe, "fills", {"n": 1}),
            ):
                error = await raised(work())
                assert isinstance(error, InsideTransaction), repr(error)
            with pytest.raises(InsideTransaction):
                outbox.put_nowait("fills", {"n": 1})
            with pytest.raises(InsideTransaction):
                async with outbox.transaction():
                    pytest.fail("it began")
            await tx.put("fills", {"n": 2})
        await outbox.put("fills", {"n": 3})
    assert [row["n"] for row in payloads(path)] == [2, 3]


@run_async
async def test_a_child_of_the_block_that_outlives_it_may_put(path: Path) -> None:
    async with opened(path) as outbox:
        over = asyncio.Event()

        async def child() -> None:
            await over.wait()
            await outbox.put("fills", {"n": 1})

        async with outbox.transaction():
            task = asyncio.create_task(child())
        over.set()
        await task
    assert count(path) == 1


@run_async
async def test_another_outbox_is_another_file(path: Path) -> None:
    async with opened(path) as outbox, opened(path.with_name("other.db")) as other:
        async with outbox.transaction() as tx:
            await tx.put("fills", {"n": 1})
            await other.put("fills", {"n": 2})
        assert payloads(other._store.path) == [{"n": 2}]


@run_async
async def test_the_puts_of_others_wait_for_the_block_and_then_succeed(path: Path) -> None:
    async with opened(path) as outbox:
        begun, over = asyncio.Event(), asyncio.Event()

        async def block() -> None:
            async with outbox.transaction() as tx:
                await tx.put("fills", {"n": 1})
                begun.set()
                await over.wait()

        task = asyncio.create_task(block())
        await begun.wait()
        others = [asyncio.create_task(outbox.put("fills", {"n": n})) for n in (2, 3)]
        await asyncio.wait(others, timeout=0.05)
        assert not any(other.done() for other in others)
        over.set()
        await asyncio.gather(task, *others)
    assert [row["n"] for row in payloads(path)] == [1, 2, 3]


@pytest.mark.parametrize(
    "sql",
    [
        "BEGIN",
        "begin immediate",
        "/* x */ commit",
        "-- a\nPRAGMA synchronous = off",
        "ATTACH 'x.db' AS x",
        "detach x",
        "SAVEPOINT a",
        "release a",
        "VACUUM",
        ";;; rollback",
        "; /* a */ ; -- b\n\t end",
        "/* a /* b */ pragma user_version = 3",
        "/* -- */ commit",
        "--\ncommit",
        "\ufeffcommit",
        "\f\r\n\v commit",
    ],
)
@run_async
async def test_a_statement_that_would_leave_the_transaction_is_refused(sql: str, path: Path) -> None:
    async with opened(path) as outbox:
        with pytest.raises(ZeroDivisionError):
            async with outbox.transaction() as tx:
                await tx.put("fills", {"n": 1})
                with pytest.raises(InvalidEntry, match="cannot be used"):
                    await tx.execute(sql)
                raise ZeroDivisionError
    assert count(path) == 0


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        pytest.param("nonsense", (), id="no SQL"),
        pytest.param("select * from nowhere", (), id="no table"),
        pytest.param("select 1; commit", (), id="two statements"),
        pytest.param("select ?", (), id="too few parameters"),
        pytest.param("select 1", (1,), id="too many parameters"),
        pytest.param("select ?", (object(),), id="a parameter that SQLite cannot store"),
        pytest.param("select ?", (2**70,), id="an integer too large for SQLite"),
        pytest.param("select ?", ("\ud800",), id="half a character"),
        pytest.param("select '\0'", (), id="a NUL"),
        pytest.param("insert into positions values ('EURUSD', 2)", (), id="a row that is there already"),
        pytest.param("insert or fail into positions values ('EURUSD', 2)", (), id="the same, or fail"),
    ],
)
@run_async
async def test_a_failing_statement_is_a_typed_error_and_leaves_the_block_usable(
    sql: str, parameters: tuple[Any, ...], path: Path
) -> None:
    async with opened(path) as outbox:
        await positions(outbox)
        async with outbox.transaction() as tx:
            await tx.execute("insert into positions values ('EURUSD', 1)")
            error = await raised(tx.execute(sql, parameters))
            assert type(error) is StoreError, repr(error)
            assert error.__cause__ is not None
            await tx.put("fills", {"n": 1})
            conflict = await raised(tx.put("fills", {"n": 2}, id=(await tx.put("fills", {"n": 3})).id))
            assert isinstance(conflict, IdConflict)
    assert rows(path, "select * from positions") == [("EURUSD", 1.0)]
    assert [row["n"] for row in payloads(path)] == [1, 3]


@run_async
async def test_a_statement_that_rolls_the_whole_transaction_back_says_so(path: Path) -> None:
    async with opened(path) as outbox:
        await positions(outbox)
        await outbox.put("fills", {"n": 0})

        async def block(*, goes_on: bool) -> None:
            async with outbox.transaction() as tx:
                await tx.execute("insert into positions values ('EURUSD', 1)")
                await tx.put("fills", {"n": 1})
                error = await raised(tx.execute("insert or rollback into positions values ('EURUSD', 2)"))
                assert type(error) is StoreError, repr(error)
                assert "the whole transaction was rolled back" in str(error)
                if not goes_on:
                    raise error
                assert isinstance(await raised(tx.execute("insert into positions values ('X', 2)")), OutboxError)

        for goes_on in (False, True):
            error = await raised(block(goes_on=goes_on))
            assert type(error) is StoreError, repr(error)
        await outbox.put("fills", {"n": 2})
    assert rows(path, "select * from positions") == []
    assert [row["n"] for row in payloads(path)] == [0, 2]


@run_async
async def test_a_block_that_outlives_its_limit_is_rolled_back_and_the_writer_goes_on(path: Path) -> None:
    clock = ManualClock()
    async with opened(path, clock=clock, transaction_limit_s=3) as outbox:

        async def block() -> None:
            async with outbox.transaction() as tx:
                await tx.put("fills", {"n": 1})
                other = asyncio.create_task(raised(_put_outside(outbox)))
                clock.advance(2.9)
                await tx.put("fills", {"n": 2})
                clock.advance(0.2)
                await until(lambda: not tx._block.open)
                assert await other is None  # the writer has gone on
                error = await raised(tx.put("fills", {"n": 3}))
                assert isinstance(error, TransactionExpired)
                assert "more than 3 s" in str(error)

        error = await raised(block())
        assert isinstance(error, TransactionExpired)
        assert "rolled back" in str(error)
        assert "more than 3 s" in str(error)
    assert [row["n"] for row in payloads(path)] == [9]


async def _put_outside(outbox: Outbox) -> Receipt:
    # In a thread of no block: its context is its own.
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Receipt] = loop.create_future()

    def from_thread() -> None:
        receipt = outbox.put_threadsafe("fills", {"n": 9}).result(timeout=200)
        loop.call_soon_threadsafe(future.set_result, receipt)

    threading.Thread(target=from_thread).start()
    return await future


@run_async
async def test_a_block_that_outlasts_its_limit_raises_at_its_end(path: Path) -> None:
    async with opened(path) as outbox:
        with pytest.raises(TransactionExpired):
            async with outbox.transaction(limit_s=0.05) as tx:
                await tx.put("fills", {"n": 1})
                await until(lambda: not tx._block.open)
    assert count(path) == 0


@run_async
async def test_a_cancellation_is_not_lost_to_the_limit(path: Path) -> None:
    """A timeout around a block that has expired must stay a timeout."""
    async with opened(path) as outbox:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                async with outbox.transaction(limit_s=0.01) as tx:
                    with contextlib.suppress(TransactionExpired):  # on a slow machine the limit is over by now
                        await tx.put("fills", {"n": 1})
                    await asyncio.Event().wait()
        await outbox.put("fills", {"n": 2})
    assert payloads(path) == [{"n": 2}]


@run_async
async def test_a_block_cancelled_at_any_moment_leaves_no_transaction_open(path: Path) -> None:
    """All of it or nothing: each block puts two rows."""
    async with opened(path) as outbox:
        await outbox.put("fills", {"n": 0})

        async def block() -> None:
            async with outbox.transaction() as tx:
                await tx.put("fills", {"n": 1})
                await tx.put("fills", {"n": 2})

        finished = 0
        for steps in range(40):
            task = asyncio.create_task(block())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            finished += not task.cancelled()
            await outbox.put("fills", {"n": 0})
            assert not outbox._store.writer.commits.connection.in_transaction
    numbers = [row["n"] for row in payloads(path)]
    assert numbers.count(0) == 41
    assert numbers.count(1) == numbers.count(2) >= finished


@run_async
async def test_a_block_cancelled_while_it_waits_to_begin_never_runs(path: Path) -> None:
    async with opened(path) as outbox:
        begun, over = asyncio.Event(), asyncio.Event()

        async def first() -> None:
            async with outbox.transaction() as tx:
                begun.set()
                await over.wait()
                await tx.put("fills", {"n": 1})

        async def second() -> None:
            async with outbox.transaction():
                pytest.fail("it began")

        holding = asyncio.create_task(first())
        await begun.wait()
        waiting = asyncio.create_task(second())
        await until(lambda: len(outbox._store.writer._line) == 1)
        waiting.cancel()
        await asyncio.wait({waiting})
        over.set()
        await holding
        await outbox.put("fills", {"n": 2})
    assert [row["n"] for row in payloads(path)] == [1, 2]


@run_async
async def test_a_full_disk_inside_a_block_is_a_typed_error_and_rolls_everything_back(path: Path) -> None:
    async with opened(path) as outbox:
        await outbox.put("fills", {"n": 0})
        connection = outbox._store.writer.commits.connection
        (pages,) = next(iter(await connection.execute_fetchall("pragma page_count")))
        await connection.execute(f"pragma max_page_count = {pages}")

        async def block() -> None:
            async with outbox.transaction() as tx:
                for n in range(400):
                    await tx.put("fills", {"n": n + 1, "text": "x" * 1000})

        error = await raised(block())
        assert isinstance(error, DiskFull), repr(error)
        await connection.execute("pragma max_page_count = 1000000")
        await until(lambda: outbox._store.writer.capacity.open)  # the reserve is given up, and made again
        await block()
    assert count(path) == 401


@run_async
async def test_a_block_that_cannot_begin_says_why(path: Path) -> None:
    async with opened(path, busy_timeout_s=0.1) as outbox:
        with shell(path) as other:
            other.execute("begin immediate")
            with pytest.raises(StoreBusy):
                async with outbox.transaction():
                    pytest.fail("it began")
            other.execute("rollback")
        async with outbox.transaction() as tx:
            await tx.put("fills", {"n": 1})
    assert count(path) == 1


@run_async
async def test_closing_waits_for_an_open_block(path: Path) -> None:
    outbox = await _open(path)
    begun, over = asyncio.Event(), asyncio.Event()

    async def block() -> None:
        async with outbox.transaction() as tx:
            begun.set()
            await over.wait()
            await tx.put("fills", {"n": 1})

    task = asyncio.create_task(block())
    await begun.wait()
    closing = asyncio.create_task(outbox.close())
    await asyncio.sleep(0)
    over.set()
    await asyncio.gather(task, closing)
    assert count(path) == 1


@run_async
async def test_a_transaction_is_what_the_package_says(path: Path) -> None:
    async with opened(path) as outbox, outbox.transaction() as tx:
        assert isinstance(tx, Transaction)
        assert (await tx.put("fills", {"n": 1}, id="a")).id == "a"
        assert (await tx.put("fills", {"n": 1}, id="a")).duplicate


@run_async
async def test_what_a_transaction_has_put_is_a_duplicate_the_next_time(path: Path) -> None:
    async with opened(path) as outbox:
        async with outbox.transaction() as tx:
            first = await tx.put("fills", {"n": 1}, id="a")
            await tx.put("fills", {"n": 2})
        assert not first.duplicate  # control
        assert await outbox.put("fills", {"n": 1}, id="a") == Receipt(id="a", seq=first.seq, duplicate=True)
        assert not (await outbox.put("fills", {"n": 1}, id="b")).duplicate


# ---------------------------------------------------------------------------------------------- secrets


@run_async
async def test_the_key_is_in_no_text_that_the_outbox_makes(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    made = settings(path, supabase_url="https://127.0.0.1:9", supabase_key=CANARY, poll_s=0.01)
    async with Outbox.open(made) as outbox:
        texts = [
            repr(outbox),
            str(outbox),
            repr(made),
            str(made),
            repr(outbox._remote.transport),
            repr(vars(outbox._remote)),
            repr(vars(outbox)),
        ]
        async with outbox.flushing():
            await outbox.put("fills", {"n": 1})
            report = await outbox.drain(timeout=0.3)  # nobody listens there
        assert report.pending == 1
        texts += [repr(await outbox.stats()), repr(report)]
        try:
            await outbox.put("fills", {"n": object()})
        except InvalidEntry as error:
            texts.append("".join(traceback.format_exception(error)))
    texts += [record.getMessage() + repr(vars(record)) for record in caplog.records]
    texts.append(await asyncio.to_thread(path.read_text, encoding="latin-1"))

    assert len(texts) > 8
    assert not [text for text in texts if CANARY in text or "canary" in text]


@pytest.mark.slow
def test_the_library_loads_without_the_command_line() -> None:
    # httpx loads rich for a command line of its own wherever that is installed.
    code = "from outbox import Outbox; import sys; print({'typer', 'outbox.cli'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_sqlite_is_the_one_that_the_tests_believe() -> None:
    assert sqlite3.sqlite_version_info >= (3, 38)


@run_async
async def test_what_a_newcomer_types_first_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="settings must be Settings, not str; a path is given as path="):
        await Outbox.open(str(tmp_path / "bot.db"))  # type: ignore[arg-type]
    opening: Any = Outbox.open(path=tmp_path / "bot.db")
    with pytest.raises(AttributeError, match="await this first"):
        await opening.put("fills", {})
    async with opening:
        pass
