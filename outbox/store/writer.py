"""The one task that writes: the line of waiting work, and the group commit.

Theory of operation.

*The line.* All work waits in one line, first come, first served: a put, a job (work inside a transaction that the
writer opens, such as a verdict) or bare work (which begins and ends its own, such as a caller's `transaction()` or a
checkpoint). One task takes from the head. Nothing else ever uses the read-write connection, so no caller can roll back,
or commit, another's work.

*The group.* All puts at the head of the line, up to 1,024, become one `INSERT` of many rows: one transaction, one sync
of the WAL. While it runs, the next puts gather: the slower the disk, the larger the groups. Callers that were woken
together get their turns before the next group forms; a put that was alone waits for nobody. The statement runs in
SQLite's thread (aiosqlite), so the event loop keeps running.

*The answer.* No caller is answered before the commit is synced and the lock's sidecar holds the number of the newest
row. The numbers of a group need no second query as long as nothing was inserted in between: the last one is known, the
rest follow. Where the file disagrees (an id that is already stored, somebody else's insert), each entry is looked up.

*One bad row.* When one row breaks a rule of the file (a trigger of the bot's own), the whole statement is rolled back.
The group is then committed row by row, and only that row's caller is refused.

*When a commit fails*, `commits.py` decides what became of it and whether to try again; a group may be tried again:
an id is stored only once. Each caller gets an error of its own, which names its own id.

*Cancellation.* A put whose caller has gone before its turn is left out; after that, its row is stored and nobody is
told. A cancelled `await` does not stop SQLite's thread, so a caller never cancels the task itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from outbox import logs
from outbox.entry import Entry, LaneSpec
from outbox.errors import IdConflict, OutboxClosed, OutcomeUnknown, StoreBusy, StoreError
from outbox.store import database, queries
from outbox.store.capacity import Capacity
from outbox.store.commits import Commits
from outbox.store.receipts import Bare, Job, Put, Receipt, fail, find_lanes, receipt_of, stored
from outbox.task_state import TaskState

logger: logs.Logger = logs.named("outbox.store")

T = TypeVar("T")

# Called with the destination of each put when it gets in line, and the future of its outcome.
PutWatcher = Callable[[str, asyncio.Future[Any]], None]

# aiosqlite says ValueError when the connection is closed.
_NOT_NOTED: tuple[type[Exception], ...] = (ValueError, *database.SqliteError)
# Callers are woken in slices, so that a thousand do not hold the event loop at once: 16 put again within 1.5 ms.
_WAKE_SLICE = 16


class Writer:
    """Owns the read-write connection. Created by `Store`; nothing else ever writes."""

    def __init__(self, commits: Commits, path: Path, *, capacity: Capacity, last_seq: int, plain: bool) -> None:
        self.commits = commits
        self.capacity = capacity
        self._path = path
        self._line: deque[Put | Job | Bare] = deque()
        self._work = asyncio.Event()
        self._closing = False
        self._putting = False  # a group is under way
        # The last entry that is known. Another's insert (a transaction's, a shell's, a trigger's) shows as a gap.
        self.last_seq: int = last_seq
        self._plain: bool | None = plain
        self.lanes: dict[LaneSpec, int] = {}
        self.watchers: tuple[PutWatcher, ...] = ()
        self.committed: asyncio.Event = asyncio.Event()  # set after each commit; whoever waits for work clears it
        self.on_stored: Callable[[int], None] = lambda _: None  # told the number of each newest entry, on disk by then
        self.state: TaskState = TaskState("writer")
        self._repeating = commits.repeating
        self._task = asyncio.create_task(self._run(), name="outbox-writer")

    @property
    def putting(self) -> bool:
        """Whether a put is being committed or is the next to be."""
        return self._putting or (bool(self._line) and self._line[0].puts)

    def put(self, entry: Entry, spec: LaneSpec) -> asyncio.Future[Receipt]:
        """Line `entry` up for the next commit. The future resolves once it is on disk, or says why it is not."""
        done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.enqueue(entry, spec, done)
        return done

    def enqueue(self, entry: Entry, spec: LaneSpec, done: asyncio.Future[Receipt]) -> None:
        """Line `entry` up with a future of the caller's own."""
        self._enter(Put(entry, spec, done))
        for watcher in self.watchers:
            watcher(entry.destination, done)

    async def transact(self, work: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """Run `work` inside one transaction and return its result once that is on disk."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._enter(Job(work, done))
        return await done

    async def execute(self, sql: str, parameters: Sequence[Any]) -> None:
        """Run one statement, which may run twice; one hop, where `transact` takes three."""
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._enter(Job(lambda connection: connection.execute(sql, parameters), done, one_statement=True))
        await done

    async def run_exclusive(self, work: Callable[[aiosqlite.Connection], Awaitable[T]], ids: Sequence[str] = ()) -> T:
        """Run `work` once, outside any transaction of the writer's own; nothing else is written meanwhile.

        ids: the entries that an unknown outcome would concern; `work` may add to it.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._enter(Bare(work, done, ids))
        return await done

    async def put_all(
        self, destination: str, work: Callable[[aiosqlite.Connection], Awaitable[T]], ids: Sequence[str]
    ) -> T:
        """Run `work`, which stores the entries `ids`, all or none of them; again after a failed sync."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._enter(Bare(work, done, ids, puts=True))
        for watcher in self.watchers:
            watcher(destination, done)
        return await done

    async def is_plain(self, connection: aiosqlite.Connection) -> bool:
        """Return whether the entries have no trigger of the bot's own, which could refuse some or add others."""
        if self._plain is None:
            self._plain = not list(await connection.execute_fetchall(queries.OWN_TRIGGERS))
        return self._plain

    def expect_own_triggers(self) -> None:
        """Look for triggers again: the bot is about to change the file's schema."""
        self._plain = None

    def note_stored(self, seq: int) -> None:
        """Note that a job has committed the entry of this number; call it before any caller is answered."""
        self.last_seq = max(self.last_seq, seq)
        self.on_stored(seq)

    async def finish(self) -> None:
        """Commit what is in line and mark the file as closed; the connection stays open. New puts get OutboxClosed."""
        self._closing = True
        self._work.set()
        # Not `await self._task`: a shutdown handler may have cancelled every task of the loop, this one too.
        await asyncio.wait({self._task})
        with contextlib.suppress(StoreError):  # logged; what can be saved is saved
            if not self.commits.suspect:
                await self.commits.look()
                try:
                    await self.commits.connection.execute(queries.FORGET_FACT.sql, ("open",))
                except _NOT_NOTED as error:  # the next opening will look a little closer
                    logger.warning("clean close could not be recorded", extra={"error": str(error)})

    async def give_up(self) -> None:
        """End the work under way and answer everyone in line; `close` does the rest."""
        self._task.cancel()
        await database.interrupt(self.commits.connection)

    def _enter(self, item: Put | Job | Bare) -> None:
        if self._closing or self._task.done():
            raise OutboxClosed("the outbox is closed; nothing was written")
        self._refuse_on_full_disk(item)
        if not item.done.done():
            self._line.append(item)
            self._work.set()

    def _refuse_on_full_disk(self, item: Put | Job | Bare) -> None:
        """Answer `item` if there is no use in trying it."""
        if self.capacity.short and item.puts and (problem := self.commits.refusal(item.ids)) is not None:
            fail(item, problem)

    # ------------------------------------------------------------------------------------------ the task

    async def _run(self) -> None:
        try:
            while self._line or not self._closing:
                if self._line:
                    await self._serve_safely()
                else:
                    self._work.clear()
                    await self._work.wait()
        finally:
            self.state.running = False
            # Cancelled from outside: callers still in line must not wait for ever.
            while self._line:
                fail(self._line.popleft(), OutboxClosed("the outbox's writer was cancelled; nothing was written"))

    async def _serve_safely(self) -> None:
        """Serve the first in line; an error of our own goes to that caller, and the writer keeps running."""
        first = self._line[0]
        try:
            await self._serve_next()
        except Exception as error:  # noqa: BLE001 - told
            self.state.failed(error, self._repeating)
            if self._line and self._line[0] is first:
                self._line.popleft()
            fail(first, error)

    async def _serve_next(self) -> None:
        first = self._line[0]
        if isinstance(first, Put):
            if group := self._next_group():
                await self._guarded(self._commit_puts(group), group)
        else:
            self._line.popleft()
            self._refuse_on_full_disk(first)
            if not first.done.done():  # else its caller has gone, or was answered
                await self._guarded(self._commit_job(first), [first])

    async def _guarded(self, work: Awaitable[None], items: Sequence[Put | Job | Bare]) -> None:
        """Run `work`; its callers get whatever it raises, and the writer keeps running for the next ones.

        A file that has failed for as long as a put may wait fails the puts that stood in line all that time, too.
        """
        self._putting = items[0].puts
        behind = len(self._line)
        try:
            await work
        except Exception as error:  # noqa: BLE001 - handed to each waiter, not dropped
            for item in items:
                fail(item, error)
            if isinstance(error, StoreBusy | OutcomeUnknown) and error.waited_s >= self.commits.busy_timeout_s:
                for item in islice(self._line, behind):
                    if item.puts:
                        fail(item, error)
        except BaseException:  # the task was cancelled, which does not stop SQLite's thread
            for item in items:
                fail(item, OutcomeUnknown(path=self._path, ids=(), waited_s=0))
            raise
        finally:
            self._putting = False

    def _next_group(self) -> list[Put]:
        """Take the puts at the head of the line, without those whose caller has gone meanwhile."""
        group: list[Put] = []
        while self._line and len(group) < queries.MOST_ROWS:
            put = self._line[0]
            if not isinstance(put, Put):
                break
            self._line.popleft()
            self._refuse_on_full_disk(put)
            if not put.done.done():
                group.append(put)
        if odd := len(group) - queries.statement_rows(len(group)):
            self._line.extendleft(reversed(group[-odd:]))
            del group[-odd:]
        return group

    async def _commit_puts(self, group: list[Put]) -> None:
        if self.capacity.short or self.capacity.bounded:
            group = await self._admitted(group)
            if not group:
                return
        entries = await self._placed(group)
        try:
            seqs = await self.commits.run(lambda: self._insert(entries), ids=[entry.id for entry in entries])
        except sqlite3.IntegrityError:
            await self._commit_one_by_one(group, entries)
            return
        await self._answer(group, entries, seqs)

    async def _admitted(self, group: list[Put]) -> list[Put]:
        """Answer those for which there is no room, and return the others."""
        entries = [put.entry for put in group]
        ids = [entry.id for entry in entries]
        problems = await self.commits.run(
            lambda: self.capacity.refusals(self.commits.connection, entries), ids=ids, stores=False
        )
        refused = [(put, problem) for put, problem in zip(group, problems, strict=True) if problem is not None]
        if refused:
            await self._refuse(refused)
        return [put for put, problem in zip(group, problems, strict=True) if problem is None]

    async def _refuse(self, refused: Sequence[tuple[Put, StoreError]]) -> None:
        """Answer each with its error; but an id that is stored already, after an OutcomeUnknown, say, needs no room."""
        entries = [put.entry for put, _ in refused]
        ids = [entry.id for entry in entries]
        found = await self.commits.run(lambda: stored(self.commits.connection, entries), ids=ids, stores=False)
        for number, (put, problem) in enumerate(refused):
            self._answer_one(put, found.get(number), otherwise=problem)

    def _answer_one(self, put: Put, row: Sequence[Any] | None, **how: Any) -> Receipt | None:
        """Answer `put`, under whose id `row` is stored, as `receipt_of`; return the receipt that it gets."""
        try:
            receipt = receipt_of(put.entry, row, self._path, **how)
        except (IdConflict, StoreError) as error:
            fail(put, error)
            return None
        if not put.done.done():
            put.done.set_result(receipt)
        return receipt

    async def _insert(self, entries: Sequence[Entry]) -> range | None:
        """Store `entries` and return their places; None: some were there already, or others came in between."""
        cursor = await self.commits.connection.execute(*queries.insert(entries))
        places = range(self.last_seq + 1, self.last_seq + 1 + len(entries))
        return places if cursor.rowcount == len(entries) and cursor.lastrowid == places[-1] else None

    async def _commit_one_by_one(self, group: list[Put], entries: list[Entry]) -> None:
        """One of them breaks a rule of the file (a trigger of the bot's own, say): only its caller gets the error."""
        for put, entry in zip(group, entries, strict=True):
            try:
                seqs = await self.commits.run(lambda entry=entry: self._insert([entry]), ids=[entry.id])  # type: ignore[misc]
            except sqlite3.IntegrityError as error:
                problem = StoreError(
                    f"{self._path} refuses entry {entry.id}: {error}; it was not written", path=self._path
                )
                problem.__cause__ = error
                fail(put, problem)
            else:
                await self._answer([put], [entry], seqs)

    async def _answer(self, group: Sequence[Put], entries: Sequence[Entry], seqs: range | None) -> None:
        """Resume each caller: the commit is done. seqs: the entries' places, where nothing needs to be looked up."""
        self.committed.set()
        if seqs is None:
            await self._answer_looked_up(group, entries)
            return
        self.last_seq = seqs[-1]
        self.on_stored(self.last_seq)  # before any caller is answered
        for number, (put, entry, seq) in enumerate(zip(group, entries, seqs, strict=True), 1):
            if not put.done.done():
                put.done.set_result(Receipt(id=entry.id, seq=seq))
            if number % _WAKE_SLICE == 0 and number < len(group):
                await asyncio.sleep(0)
        if len(group) > 1:
            await self._let_return(len(group))

    async def _let_return(self, callers: int) -> None:
        """Let `callers`, woken together, put again as long as each turn brings some: half a group would sync twice."""
        await asyncio.sleep(0)  # those woken last run
        waited_for = -1
        while waited_for < len(self._line) < callers:
            waited_for = len(self._line)
            await asyncio.sleep(0)

    async def _answer_looked_up(self, group: Sequence[Put], entries: Sequence[Entry]) -> None:
        """Do the same from what the file says: an id may have been there already, as the same entry or another."""
        before = self.last_seq
        try:
            found = await stored(self.commits.connection, entries)
        except database.SqliteError as error:  # the commit worked; what it found under these ids cannot be read
            for put in group:
                fail(put, OutcomeUnknown(path=self._path, ids=(), waited_s=0), cause=error)
            return
        self.on_stored(max((place[0] for place in found.values()), default=0))
        for number, put in enumerate(group):
            if (receipt := self._answer_one(put, found.get(number), after_seq=before)) is not None:
                before = max(before, receipt.seq)  # the same id again in this group is there already
        self.last_seq = before

    async def _commit_job(self, job: Job | Bare) -> None:
        work = job.work
        try:
            if isinstance(job, Bare):
                result = await self.commits.run(lambda: work(self.commits.connection), ids=job.ids, again=job.puts)
            elif job.one_statement:
                result = await self.commits.run(lambda: work(self.commits.connection), ids=(), spends_reserve=True)
            else:
                result = await self.commits.run(lambda: self._in_transaction(work), ids=(), spends_reserve=True)
        except sqlite3.IntegrityError as error:  # a trigger of the bot's own
            raise StoreError(f"{self._path}: {error}; nothing was written", path=self._path) from error
        self.committed.set()
        if not job.done.done():
            job.done.set_result(result)

    async def _in_transaction(self, work: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        async with database.transaction(self.commits.connection):
            return await work(self.commits.connection)

    async def _placed(self, group: Sequence[Put]) -> list[Entry]:
        """Return the entries, each with its lane; a lane's first entry makes the lane, all new ones in one commit."""
        new = {put.spec: put.entry.id for put in group if put.entry.lane is None and put.spec not in self.lanes}
        if new:
            work = partial(self._in_transaction, lambda connection: find_lanes(connection, list(new)))
            self.lanes |= await self.commits.run(work, ids=list(new.values()), stores=False)
        return [
            put.entry if put.entry.lane is not None else put.entry._replace(lane=self.lanes[put.spec]) for put in group
        ]
