"""Group commit, and what a caller is told when a commit fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiosqlite
import pytest

from outbox.clock import SystemClock
from outbox.entry import State
from outbox.errors import DiskFull, IdConflict, OutboxClosed, OutcomeUnknown, StoreBusy, StoreError
from outbox.recovery.open import open_store
from outbox.store.receipts import Receipt, insert_one
from outbox.store.store import Store
from tests.store.tools import count, entry, opened, python, raised, rows, shell, until
from tests.support import run_async


class FailingDisk(sqlite3.OperationalError):
    """A sync that fails."""

    sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC


UNLUCKY = """
create trigger unlucky before insert on outbox when new.payload ->> '$.n' = 13
begin
    select raise(abort, 'no thirteen');
end
"""


def commits(path: Path) -> int:
    """Count the commits in the WAL: frames whose header holds the size of the database after them."""
    content = path.with_name(path.name + "-wal").read_bytes()
    (page,) = struct.unpack(">I", content[8:12])
    salts = content[16:24]
    frames = range(32, len(content), 24 + page)
    return sum(content[at + 8 : at + 16] == salts and content[at + 4 : at + 8] != bytes(4) for at in frames)


async def nothing(_: aiosqlite.Connection) -> None:
    """Change nothing."""


@contextlib.asynccontextmanager
async def held(store: Store) -> AsyncIterator[None]:
    """Keep the writer busy, so that what is put meanwhile stands in line."""
    gate, begun = asyncio.Event(), asyncio.Event()

    async def work(_: aiosqlite.Connection) -> None:
        begun.set()
        await gate.wait()

    job = asyncio.create_task(store.transact(work))
    await begun.wait()
    try:
        yield
    finally:
        gate.set()
        await job


@run_async
async def test_a_put_waits_for_a_locked_file_no_longer_however_many_stand_before_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "bot.db", busy_timeout_s=0.3) as store:
        with shell(tmp_path / "bot.db") as other:
            other.execute("begin immediate")
            verdicts = [asyncio.ensure_future(store.transact(nothing)) for _ in range(6)]
            await asyncio.sleep(0)  # all of them stand in line
            put = asyncio.ensure_future(store.put(*entry(1, id="a")))
            many = asyncio.ensure_future(store.writer.put_all("trades", nothing, ["b"]))
            assert isinstance(await raised(put), StoreBusy)
            assert isinstance(await raised(many), StoreBusy)
            waited_for = [verdict.done() for verdict in verdicts]
            other.execute("rollback")
        await asyncio.gather(*verdicts, return_exceptions=True)
        assert sum(waited_for) <= 2  # the one under way, and one that stood before the put when that began
        # The control: who came later has a try of its own.
        assert (await store.put(*entry(1, id="a"))).seq == 1


@run_async
async def test_a_put_behind_commits_that_fail_hears_as_much_as_they_do(tmp_path: Path) -> None:
    async def fail(_: aiosqlite.Connection) -> None:
        raise FailingDisk("disk I/O error")

    async with opened(tmp_path / "bot.db", busy_timeout_s=0.3) as store:
        verdicts = [asyncio.ensure_future(store.transact(fail)) for _ in range(6)]
        await asyncio.sleep(0)
        put = asyncio.ensure_future(store.put(*entry(1, id="a")))
        error = await raised(put)
        assert isinstance(error, OutcomeUnknown) and error.ids == ("a",)
        assert sum(verdict.done() for verdict in verdicts) <= 2
        for verdict in verdicts:
            verdict.cancel()
        await asyncio.gather(*verdicts, return_exceptions=True)
        assert not (await store.put(*entry(1, id="a"))).duplicate


# ---------------------------------------------------------------------------------------------- group commit


@run_async
async def test_a_put_is_on_disk_when_it_returns(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        receipt = await store.put(*entry())
        assert rows(path, "select id, seq from outbox") == [(receipt.id, receipt.seq)]
        assert not receipt.duplicate


@pytest.mark.parametrize("puts", [1, 2, 64, 127, 128, 129, 130, 300, 1024, 1025])
@run_async
async def test_puts_that_wait_share_a_commit_and_keep_their_order(puts: int, tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        await store.put(*entry())  # makes the lane
        async with held(store):
            before = commits(path)
            waiting = [store.put(*entry()) for _ in range(puts)]
        receipts = await asyncio.gather(*waiting)
        # 1,024 is the largest group, and above 128 it is a multiple of that: the rest is a group of its own.
        assert commits(path) - before <= -(-puts // 1024) + 1 + (1 if puts > 128 else 0)

    assert [receipt.seq for receipt in receipts] == list(range(2, puts + 2))


@run_async
async def test_puts_one_after_the_other_have_a_commit_each(tmp_path: Path) -> None:
    """The control of the test above: it is the waiting together that saves commits."""
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        await store.put(*entry())
        before = commits(path)
        for _ in range(10):
            await store.put(*entry())
        assert commits(path) - before == 10


@run_async
async def test_one_rows_violation_fails_only_its_own_caller(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        with shell(path) as connection:
            connection.execute(UNLUCKY)
        async with held(store):
            waiting = [store.put(*entry(n)) for n in range(10, 20)]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        again = await store.put(*entry(20))

    problem = results.pop(3)
    assert isinstance(problem, StoreError)
    assert "no thirteen" in str(problem)
    assert "not written" in str(problem)
    assert all(isinstance(each, Receipt) and not each.duplicate for each in results)
    assert rows(path, "select payload ->> '$.n' from outbox order by seq") == [
        (n,) for n in (10, 11, 12, 14, 15, 16, 17, 18, 19, 20)
    ]
    assert again.seq > 0


@run_async
async def test_one_statement_for_the_group_would_lose_the_neighbours(tmp_path: Path) -> None:
    """The control of the test above: SQLite undoes the whole statement."""
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        with shell(path) as connection:
            connection.execute(UNLUCKY)
        with pytest.raises(sqlite3.IntegrityError):
            await store.writer._insert([entry(n)[0] for n in (12, 13, 14)])
    assert count(path) == 0


@pytest.mark.parametrize("action", ["ignore", "rollback, 'no'", "fail, 'no'"])
@run_async
async def test_whatever_a_bots_trigger_does_the_caller_gets_a_typed_error(action: str, tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        with shell(path) as connection:
            connection.execute(UNLUCKY.replace("abort, 'no thirteen'", action))
        async with held(store):
            waiting = [store.put(*entry(n)) for n in (12, 13, 14)]
        first, second, third = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(first, Receipt)
    assert isinstance(third, Receipt)
    assert type(second) is StoreError
    assert str(path) in str(second)
    assert count(path) == 2


@run_async
async def test_a_bots_trigger_that_refuses_a_verdict_is_a_typed_error(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        receipt = await store.put(*entry())
        with shell(path) as connection:
            connection.execute("create trigger no before update on outbox begin select raise(abort, 'frozen'); end")
        error = await raised(store.settle([receipt.seq], State.DELIVERED))
        assert type(error) is StoreError
        assert "frozen" in str(error)
        await store.put(*entry())


@run_async
async def test_the_same_id_and_data_at_once_are_one_row(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        async with held(store):
            waiting = [store.put(*entry(1, id="same")) for _ in range(5)]
        receipts = await asyncio.gather(*waiting)
        later = await store.put(*entry(1, id="same"))

    assert receipts == [Receipt(id="same", seq=1), *[Receipt(id="same", seq=1, duplicate=True)] * 4]
    assert later == Receipt(id="same", seq=1, duplicate=True)
    assert count(path) == 1


@run_async
async def test_the_same_id_with_other_data_fails_only_its_own_caller(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        async with held(store):
            waiting = [store.put(*entry(n, id=name)) for n, name in ((1, "a"), (2, "a"), (3, "b"))]
        first, second, third = await asyncio.gather(*waiting, return_exceptions=True)

    assert isinstance(first, Receipt)
    assert isinstance(third, Receipt)
    assert isinstance(second, IdConflict)
    assert (second.id, second.destination) == ("a", "trades")
    assert rows(path, "select payload from outbox order by seq") == [('{"n":1}',), ('{"n":3}',)]


@run_async
async def test_a_put_repeated_after_a_shell_put_it_is_known(tmp_path: Path) -> None:
    """A shell's row has no digest yet."""
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        with shell(path) as connection:
            connection.execute("""insert into outbox (id, destination, payload) values ('a', 'trades', '{"n":1}')""")
        assert await store.put(*entry(1, id="a")) == Receipt(id="a", seq=1, duplicate=True)
        assert isinstance(await raised(store.put(*entry(2, id="a"))), IdConflict)


# ---------------------------------------------------------------------------------------------- cancelling


@run_async
async def test_receipts_name_their_own_rows_whoever_else_puts_rows_in_between(tmp_path: Path) -> None:
    """A shell, a transaction, and a trigger of the bot's own that answers each trade with an event."""
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        with shell(path) as db:
            db.execute("insert into outbox (destination, payload) values ('events', '{\"shell\": 1}')")
        receipts = [await store.put(*entry(1))]
        await store.transact(lambda connection: insert_one(connection, entry(2)[0], path))
        receipts += await asyncio.gather(*(store.put(*entry(n)) for n in range(3, 6)))
        with shell(path) as db:
            db.execute(
                "create trigger echo after insert on outbox when new.destination = 'trades' begin"
                " insert into outbox (destination, payload) values ('events', '{\"echo\": 1}'); end"
            )
        receipts += await asyncio.gather(*(store.put(*entry(n)) for n in range(6, 70)))
        receipts.append(await store.put(*entry(70)))
    with shell(path) as db:
        there = dict(db.execute("select id, seq from outbox where destination = 'trades'").fetchall())
        assert db.execute("select count(*) from outbox where destination = 'events'").fetchone() == (66,)
    assert len(there) == 70 and not any(receipt.duplicate for receipt in receipts)
    assert [there[receipt.id] for receipt in receipts] == [receipt.seq for receipt in receipts]


@run_async
async def test_a_put_cancelled_in_line_is_not_stored(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        async with held(store):
            first, second, third = (store.put(*entry(n)) for n in (1, 2, 3))
            second.cancel()
        await asyncio.gather(first, third)
    assert rows(path, "select payload from outbox order by seq") == [('{"n":1}',), ('{"n":3}',)]


@run_async
async def test_a_put_cancelled_during_its_commit_does_not_affect_others(tmp_path: Path) -> None:
    """Cancelled after n steps of the loop, for every n: neighbours are stored, and no transaction stays open."""
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        for steps in range(30):
            waiting = [store.put(*entry()) for _ in range(3)]
            for _ in range(steps):
                await asyncio.sleep(0)
            waiting[1].cancel()
            first, _, third = await asyncio.gather(*waiting, return_exceptions=True)
            assert isinstance(first, Receipt)
            assert isinstance(third, Receipt)
        assert not store.writer.commits.connection.in_transaction
    assert 60 <= count(path) <= 90


@run_async
async def test_cancelled_jobs_leave_no_transaction_open(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        receipt = await store.put(*entry())
        for steps in range(20):
            job = asyncio.create_task(store.settle([receipt.seq], State.DELIVERED))
            for _ in range(steps):
                await asyncio.sleep(0)
            job.cancel()
            await asyncio.wait({job})
            await store.put(*entry())
            assert not store.writer.commits.connection.in_transaction


@run_async
async def test_a_cancelled_writer_leaves_nobody_waiting(tmp_path: Path) -> None:
    """A bot's shutdown handler may cancel every task of the loop, the writer among them."""
    path = tmp_path / "bot.db"
    store = await open_store(path, clock=SystemClock())
    gate = asyncio.Event()

    async def work(_: aiosqlite.Connection) -> None:
        await gate.wait()

    job = asyncio.create_task(raised(store.transact(work)))
    await until(lambda: store.writer.commits.connection.in_transaction)
    waiting = [store.put(*entry()) for _ in range(3)]

    store.writer._task.cancel()

    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in results] == [OutboxClosed] * 3
    assert isinstance(await job, OutcomeUnknown)
    with pytest.raises(OutboxClosed):
        store.put(*entry())
    await store.close()
    async with opened(path) as again:  # closed for good, and the lock is free
        await again.put(*entry())
    assert count(path) == 1


@run_async
async def test_a_writer_cancelled_during_a_commit_says_that_it_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path, busy_timeout_s=30) as store:
        with shell(path) as other:
            other.execute("begin immediate")
            made, spec = entry()
            waiting = store.put(made, spec)
            await until(lambda: not store.writer._line)
            store.writer._task.cancel()
            other.execute("rollback")
            error = await raised(waiting)
    assert isinstance(error, OutcomeUnknown)
    assert error.id == made.id


# ---------------------------------------------------------------------------------------------- closing


@run_async
async def test_closing_commits_what_stands_in_line(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    store = await open_store(path, clock=SystemClock())
    waiting = [store.put(*entry()) for _ in range(200)]
    await store.close()
    assert all(put.done() for put in waiting)
    assert count(path) == 200
    assert not path.with_name("bot.db-wal").exists()
    with pytest.raises(OutboxClosed):
        store.put(*entry())
    with pytest.raises(OutboxClosed):
        await store.counts()


# ---------------------------------------------------------------------------------------------- busy, full, failing


@run_async
async def test_a_file_that_stays_locked_is_said_to_be_and_the_loop_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path, busy_timeout_s=1.0) as store:
        with shell(path) as other:
            other.execute("begin immediate")
            waiting = asyncio.gather(*(store.put(*entry()) for _ in range(3)), return_exceptions=True)
            ticks = 0
            while not waiting.done():
                await asyncio.sleep(0.005)
                ticks += 1
            errors = await waiting
            other.execute("rollback")
        receipt = await store.put(*entry())

    assert [type(error) for error in errors] == [StoreBusy] * 3
    assert all("nothing was written" in str(error) for error in errors)
    assert len({id(error) for error in errors}) == 3  # a traceback of its own for each caller
    assert ticks >= 3  # in the loop's own thread, one wait of SQLite would be one tick
    assert receipt.seq == 1


@run_async
async def test_a_file_that_is_locked_for_a_moment_only_delays(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        with shell(path) as other:
            other.execute("begin immediate")
            waiting = store.put(*entry())
            await until(lambda: not store.writer._line)
            assert not waiting.done()
            other.execute("rollback")
            await waiting
    assert count(path) == 1


@run_async
async def test_a_full_disk_is_said_to_each_caller_with_its_own_id_and_space_heals_it(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        await store.put(*entry())
        connection = store.writer.commits.connection
        rows_ = list(await connection.execute_fetchall("pragma page_count"))
        await connection.execute(f"pragma max_page_count = {rows_[0][0]}")
        made = [entry(n) for n in range(400)]

        async with held(store):
            waiting = [store.put(*each) for each in made]
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        full = [(each[0].id, error) for each, error in zip(made, errors, strict=True) if isinstance(error, DiskFull)]
        assert full
        assert all(error.ids == (name,) and name in str(error) for name, error in full)
        assert count(path) == 1 + sum(isinstance(each, Receipt) for each in errors)

        await connection.execute("pragma max_page_count = 1000000")
        receipts = await asyncio.gather(*(store.put(*each) for each in made))

    assert count(path) == 401
    assert len({receipt.seq for receipt in receipts}) == 400


FAILING = """
import asyncio, resource, signal, sqlite3, sys
from pathlib import Path
from outbox.clock import SystemClock
from outbox.entry import Destination
from outbox.errors import OutcomeUnknown
from outbox.prepare import mint_id, written
from outbox.recovery.open import open_store
from outbox.store.store import Store

path, readers, heals, text = Path(sys.argv[1]), sys.argv[2] == "reader", sys.argv[2] == "small", "x" * int(sys.argv[3])
busy_timeout_s = 60 if heals else 0.3  # what heals may take its time; else all of it passes in vain
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

def entry(n):
    ready = written(Destination("trades"), {"n": n, "text": text})
    return ready.entry(f"id-{n}", created_at_ms=1, source=None, lane=None), ready.intent.spec

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = await open_store(path, clock=SystemClock(), busy_timeout_s=busy_timeout_s)
    await store.put(*entry(0))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("pragma synchronous = off")
    wal = path.with_name(path.name + "-wal")
    before = wal.stat().st_size
    while wal.stat().st_size == before:  # the room that opening has left in it
        other.execute("insert or replace into outbox_meta values ('filler', hex(randomblob(8)))")
    if readers:  # an old snapshot: the checkpoint that must come first cannot finish
        other.execute("begin")
        other.execute("select count(*) from outbox").fetchone()
    await store.put(*entry(1))
    # From here on the system refuses to let the WAL grow: EFBIG, which is SQLITE_IOERR_WRITE.
    limit = path.with_name(path.name + "-wal").stat().st_size + 100
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    results = await asyncio.gather(*(store.put(*entry(n)) for n in range(2, 6)), return_exceptions=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    for n, error in enumerate(results, 2):
        if heals:
            assert error.id == f"id-{n}" and not error.duplicate, repr(error)
            continue
        assert isinstance(error, OutcomeUnknown), repr(error)
        assert error.id == f"id-{n}" and error.ids == (f"id-{n}",), error.ids
        assert "nothing was written" not in str(error)
        assert error.__cause__ is not None
    if readers:
        other.execute("rollback")
    for n in range(0, 6):
        await store.put(*entry(n))
    await store.close()
    print(sqlite3.connect(path).execute("select count(*), count(distinct id) from outbox").fetchone())
    print(sqlite3.connect(path).execute("pragma integrity_check").fetchone())

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
@pytest.mark.parametrize(
    ("case", "size"),
    [
        # The new connection's checkpoint empties the WAL, and the second attempt fits.
        pytest.param("small", 3_000, id="healed by the second attempt"),
        pytest.param("large", 200_000, id="until the deadline"),
        # The second attempt fails with "busy", which says nothing about the first.
        pytest.param("reader", 3_000, id="while a reader holds an old snapshot"),
    ],
)
def test_a_failed_write_is_of_unknown_outcome_and_the_same_id_again_is_one_row(
    case: str, size: int, tmp_path: Path
) -> None:
    with python(FAILING, str(tmp_path / "bot.db"), case, str(size)) as process:
        out, err = process.communicate()
    assert out.splitlines() == ["(6, 6)", "('ok',)"], err


FULL = """
import asyncio, resource, signal, sys
from pathlib import Path
from outbox.clock import SystemClock
from outbox.entry import Destination
from outbox.errors import DiskFull, OutboxError, OutcomeUnknown
from outbox.prepare import written
from outbox.recovery.open import open_store
from outbox.store.capacity import Bounds
from outbox.store.commits import Commits

path = Path(sys.argv[1])
if sys.argv[2] == "control":
    Commits.refusal = lambda *_: None
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

def entry(n, text=""):
    ready = written(Destination("trades"), {"n": n, "text": text})
    return ready.entry(f"id-{n}", created_at_ms=1, source=None, lane=None), ready.intent.spec

async def begun(store):
    block = store.block(2.0)
    await block.begin()

async def told(work):
    try:
        await work
    except OutboxError as error:
        return error

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = await open_store(path, clock=SystemClock(), busy_timeout_s=0.3, bounds=Bounds(reserve_bytes=1 << 16))
    await store.put(*entry(0))
    await store.empty_wal()
    await store.put(*entry(1))
    # No file may grow beyond this: neither the WAL by a large row, nor the database by a checkpoint of what is in it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    tried = await told(store.put(*entry(2, "x" * 100_000)))
    assert isinstance(tried, OutcomeUnknown) and store.writer.capacity.short and store.writer.commits.suspect, tried
    connection = store.writer.commits.connection
    for work, ids in (
        (store.put(*entry(3)), ("id-3",)),
        (store.put_many([entry(4), entry(5)]), ("id-4", "id-5")),
        (begun(store), ()),
    ):
        error = await told(work)
        print(type(error).__name__, getattr(error, "ids", None) == ids, store.writer.commits.connection is connection)
        limit = "the 40,000 bytes that this process may write (ulimit -f)"
        assert limit in str(error) or not isinstance(error, DiskFull), error
    print(type(await told(store.put(*entry(2, "x" * 100_000)))).__name__)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await store.look()  # as the housekeeper does, once a second
    assert not store.writer.commits.suspect
    full = await told(store.put(*entry(3)))  # until the reserve is whole again
    assert isinstance(full, DiskFull) and "ulimit" not in str(full), full
    assert await store.writer.capacity.regain()
    again = [await store.put(*entry(n, "x" * 100_000 * (n == 2))) for n in range(6)]
    print(len({receipt.seq for receipt in again}), sum((await store.counts())["trades"].values()))
    await store.close()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_what_was_never_tried_on_a_full_disk_is_told_so_without_waiting_for_a_new_connection(tmp_path: Path) -> None:
    """A commit has failed for want of room, and the connection must be replaced, for which there is no room either."""
    with python(FULL, str(tmp_path / "bot.db"), "") as process:
        out, err = process.communicate()
    # The row that was tried may be there: only a new connection can tell.
    assert out.splitlines() == ["DiskFull True True"] * 3 + ["OutcomeUnknown", "6 6"], err


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_control_who_must_wait_for_the_new_connection_hears_that_nobody_knows(tmp_path: Path) -> None:
    with python(FULL, str(tmp_path / "bot.db"), "control") as process:
        out, err = process.communicate()
    *puts, block, tried, stored = out.splitlines()
    assert [line.split()[0] for line in puts] == ["OutcomeUnknown"] * 2, err
    assert (block.split()[0], tried, stored) == ("OutcomeUnknown", "OutcomeUnknown", "6 6"), err


@run_async
async def test_what_is_logged_about_a_failed_commit_holds_no_payload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "bot.db"
    async with opened(path) as store:
        with shell(path) as connection:
            connection.execute(UNLUCKY)
        assert isinstance(await raised(store.put(*entry(13))), StoreError)
    assert not [
        record for record in caplog.records if record.name.startswith("outbox") and '"n"' in record.getMessage()
    ]
