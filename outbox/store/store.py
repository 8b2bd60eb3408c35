"""One outbox file, opened: the lock, the writer, and a reader that cannot write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiosqlite

from outbox import logs
from outbox.clock import Clock
from outbox.entry import Entry, LaneSpec, State
from outbox.postgrest.verdicts import Reason, Refusal
from outbox.settings import Settings
from outbox.store import database, many, queries
from outbox.store.capacity import Capacity
from outbox.store.commits import Commits, Guard
from outbox.store.held_transaction import Block
from outbox.store.reader import Reader, listed
from outbox.store.receipts import Receipt, find_lane
from outbox.store.rows import Adopted, StoredPause
from outbox.store.sidecar import Sidecar
from outbox.store.writer import Writer

T = TypeVar("T")

logger: logs.Logger = logs.named("outbox.store")


class OpenedFile(NamedTuple):
    """An open file. writer, reader: its connections. lanes: rows of `queries.LANES`, some.

    last_seq: the highest number that an entry ever had. plain: the entries have no trigger of the bot's own.
    is_new: there was nothing at its path.
    """

    writer: aiosqlite.Connection
    reader: aiosqlite.Connection
    lanes: list[Any]
    last_seq: int
    plain: bool
    is_new: bool = False


class Store(Reader):
    """The open file. `recovery.open.open_store` makes one; it decides nothing, only stores and finds."""

    def __init__(
        self, path: Path, guard: Guard, entered: OpenedFile, capacity: Capacity, *, clock: Clock, busy_timeout_s: float
    ) -> None:
        super().__init__(path, entered.reader)
        self.is_new: bool = entered.is_new
        self._lock = guard.lock
        self._lock.loop = asyncio.get_running_loop()
        # What other processes are told: without a commit, and readable when the file is not.
        self.sidecar: Sidecar = guard.lock.sidecar
        self._clock = clock
        commits = Commits(
            entered.writer,
            path,
            guard,
            clock=clock,
            busy_timeout_s=busy_timeout_s,
            capacity=capacity,
            readers_away=partial(self.away, busy_timeout_s=busy_timeout_s),
        )
        self.writer: Writer = Writer(commits, path, capacity=capacity, last_seq=entered.last_seq, plain=entered.plain)
        self.put: Callable[[Entry, LaneSpec], asyncio.Future[Receipt]] = self.writer.put
        self.writer.on_stored = self.sidecar.mark
        self.writer.state.tell = self.sidecar.tell_task
        self.sidecar.tell_task(self.writer.state)
        self.on_corrupt: Callable[[Exception], None] = self._met_damage
        self.writer.commits.on_corrupt = self.on_corrupt
        self._learn(entered.lanes)
        self.writer.lanes.update({spec: number for number, spec in self._specs.items()})
        self.damage: str | None = None  # what SQLite said when it met a damaged page in this run

    async def close(self) -> None:
        """Commit what is in line and close. The reader goes before the writer, which empties the WAL."""
        self.on_readers(False)
        try:
            await self.writer.finish()
        finally:
            last, first = self.writer.commits.connection, self._reader
            if (
                self.writer.commits.vanished is not None
            ):  # the WAL may be another's now: the last one must be unable to write
                last, first = first, last
            try:
                await first.close()
            finally:
                # A caller who gives up does not make SQLite's thread let go of the file: the lock stays until it does.
                closing = asyncio.ensure_future(last.close())
                closing.add_done_callback(lambda _: self._lock.release())
                await asyncio.shield(closing)

    async def give_up(self) -> None:
        """Interrupt what SQLite is doing, which is rolled back, and let nobody wait for it any longer."""
        await database.interrupt(self._reader)
        await self.writer.give_up()

    # ------------------------------------------------------------------------------------------ damage and loss

    async def look(self) -> None:
        """Look whether the files are still at their paths, and put right what has gone. Raises StoreVanished."""
        await self.writer.run_exclusive(lambda connection: connection.execute("select 1"))

    def _met_damage(self, error: Exception) -> None:
        """Note a damaged page. What can be read and written still is; the next opening checks the whole file."""
        if self.damage is None:
            self.damage = str(error)
            self.sidecar.update(damage=self.damage)
            told = {"path": str(self.path), "error": self.damage}
            logger.error("damaged page found", extra=told)

    # ------------------------------------------------------------------------------------------ writing

    async def caught_up(self) -> None:
        """Return once everything now in line has been committed or refused."""

        async def nothing(_: aiosqlite.Connection) -> None:
            return None

        await self.writer.run_exclusive(nothing)

    async def put_many(self, ready: many.Placed) -> list[Receipt]:
        """Store all of `ready` in one commit, or none; receipts in order."""
        return await many.put_many(self.writer, self.path, ready)

    def block(self, limit_s: float) -> Block:
        """Return a transaction of the caller's, not begun yet."""
        return Block(self.writer, self.path, clock=self._clock, limit_s=limit_s)

    async def transact(self, work: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """Run `work`, which may run twice, inside one transaction."""
        return await self.writer.transact(work)

    async def settle(
        self,
        seqs: Sequence[int],
        state: State,
        *,
        refusal: Refusal | None = None,
        attempts: int = 0,
        batch_rows: int | None = None,
        run: tuple[int, str] | None = None,
    ) -> None:
        """Record the end of pending entries, and why; those no longer pending are left alone.

        run: the lane and the cause of the run of refusals in which they die.
        """
        now_ms = self._clock.now_ms()
        parameters = (state.value, now_ms, attempts, *_refusal_words(refusal), listed(seqs))
        if refusal is None:
            await self.writer.execute(queries.SETTLE.sql, parameters)
            return

        async def work(connection: aiosqlite.Connection) -> None:
            await connection.execute(queries.SETTLE.sql, parameters)
            await note(connection, seqs, now_ms=now_ms, event="refused", refusal=refusal, batch_rows=batch_rows)
            if run is not None:
                await connection.execute(queries.END_OTHER_RUN.sql, run)
                await connection.executemany(queries.JOIN_RUN.sql, [(seq, *run) for seq in seqs])

        await self.transact(work)

    async def postpone(
        self, seqs: Sequence[int], until_ms: int, *, refusal: Refusal, attempts: int, event: str, batch_rows: int
    ) -> None:
        """Let pending entries wait until `until_ms` for something of their own. event: postponed or stuck."""
        now_ms = self._clock.now_ms()
        parameters = (until_ms, attempts, *_refusal_words(refusal), listed(seqs))

        async def work(connection: aiosqlite.Connection) -> None:
            await connection.execute(queries.POSTPONE.sql, parameters)
            await connection.execute(queries.FIRST_REFUSED.sql, (now_ms, listed(seqs)))
            await note(connection, seqs, now_ms=now_ms, event=event, refusal=refusal, batch_rows=batch_rows)

        await self.transact(work)

    async def wake_due(self, now_ms: int, limit: int) -> None:
        """Make entries ready whose time has come."""
        await self.writer.execute(queries.DUE.sql, (now_ms, limit))

    async def wake_too_late(self, latest_ms: int, limit: int) -> None:
        """Make entries ready that would wait beyond `latest_ms`."""
        await self.writer.execute(queries.TOO_LATE.sql, (latest_ms, limit))

    async def reread_unknown(self, limit: int) -> None:
        """Make up to `limit` ready entries of each unknown lane unread: they came from another outbox's file."""
        for lane in self.unknown_lanes:
            await self.writer.execute(queries.UNLANE.sql, (lane, limit))

    async def adopt(self, entries: Sequence[Adopted]) -> None:
        """Complete entries that came in through a shell; from here on they are like any other."""

        async def work(connection: aiosqlite.Connection) -> None:
            for entry in entries:
                lane = await find_lane(connection, entry.spec)
                parameters = (lane, entry.key, entry.on_conflict, entry.digest, entry.seq)
                await connection.execute(queries.READ_SHELL_ROW.sql, parameters)

        await self.transact(work)

    # ------------------------------------------------------------------------------------------ the file itself

    async def checkpoint(self) -> database.Checkpoint:
        """Bring the WAL into the database as far as readers let it, waiting for none of them."""
        return await self.writer.run_exclusive(lambda connection: database.checkpoint(connection, "passive"))

    async def empty_wal(self) -> database.Checkpoint:
        """The same, and make the WAL an empty file unless somebody reads it."""
        return await self.writer.run_exclusive(database.empty_wal)

    # ------------------------------------------------------------------------------------------ pauses

    async def save_pause(self, pause: StoredPause) -> None:
        """Write a pause, or what is new about one."""
        parameters = (
            pause.scope, pause.subject, pause.reason, pause.status, pause.code, pause.message, pause.failures,
            pause.since_ms, pause.next_try_at_ms,
        )  # fmt: skip
        await self.writer.execute(queries.SAVE_PAUSE.sql, parameters)

    async def end_pauses(self, pauses: Sequence[tuple[str, str]]) -> None:
        """Remove pauses, each by scope and subject; the history keeps them."""
        now_ms = self._clock.now_ms()

        async def work(connection: aiosqlite.Connection) -> None:
            await connection.executemany(queries.PAUSE_ENDED.sql, [(now_ms, *pause) for pause in pauses])
            await connection.executemany(queries.END_PAUSE.sql, pauses)

        await self.transact(work)

    async def note_sending(self) -> None:
        """Record in the file that the process that has it open sends, from now on."""
        await self.writer.execute(queries.SENDS.sql, (self._clock.now_ms(),))

    async def state(self, facts: Mapping[str, object]) -> None:
        """Record these facts in the file, each under its name; None: remove the fact."""

        async def work(connection: aiosqlite.Connection) -> None:
            for name, value in facts.items():
                if value is None:
                    await connection.execute(queries.FORGET_FACT.sql, (name,))
                else:
                    await connection.execute(queries.STATE_FACT.sql, (name, str(value)))

        await self.transact(work)

    async def end_run(self, lane: int) -> int:
        """Revive what died in the run of refusals of `lane`, and forget it; return how many entries that were."""
        now_ms = self._clock.now_ms()

        async def work(connection: aiosqlite.Connection) -> int:
            seqs = [int(seq) for (seq,) in await connection.execute_fetchall(queries.RUN_TO_REVIVE.sql, (lane,))]
            await connection.execute(queries.REVIVE_RUN.sql, (listed(seqs),))
            await note(connection, seqs, now_ms=now_ms, event="requeued", message="the table accepts rows again")
            await connection.execute(queries.FORGET_RUN.sql, (lane,))
            return len(seqs)

        return await self.transact(work)

    async def forget_run(self, lane: int) -> None:
        """Forget the run of refusals of `lane`: it was its rows' fault."""
        await self.writer.execute(queries.FORGET_RUN.sql, (lane,))

    # ------------------------------------------------------------------------------------------ facts about the file

    async def keep_strict_order(self, strict: bool | None) -> bool:
        """Let a dead entry hold back what comes after it in its line, or not; entries already in line follow suit.

        None: as the file was last told. Returns what holds from here on.
        """
        told = await self.strict_order()
        if strict is None or told == strict:
            return told

        async def work(connection: aiosqlite.Connection) -> None:
            await connection.execute(queries.STATE_FACT.sql, ("strict_order", str(int(strict))))
            await connection.execute(queries.FREEZE.sql if strict else queries.THAW.sql)

        await self.transact(work)
        return strict

    async def remember_project(self, project: str) -> str:
        """Note which project the entries belong to, if that is not known yet; return which one they belong to."""

        async def work(connection: aiosqlite.Connection) -> str:
            await connection.execute(queries.STATE_FIRST.sql, ("project", project))
            rows = await connection.execute_fetchall(queries.FACT.sql, ("project",))
            return str(next(iter(rows))[0])

        return await self.transact(work)

    async def forget_project(self) -> str | None:
        """Let the entries belong to no project; return which one it was."""
        was = await self.project()

        async def work(connection: aiosqlite.Connection) -> None:
            await connection.execute(queries.FORGET_FACT.sql, ("project",))
            await connection.execute(queries.END_PAUSES_FOR.sql, (Reason.OTHER_PROJECT.value,))

        await self.transact(work)
        return was

    async def keep_source(self, settings: Settings) -> str | None:
        """Return which bot this is, and record it in the file.

        As it is set, else as the file was first told, so that a container's new host name is no new bot; else by the
        names of the file and of this host.
        """
        kept = await self.fact("source")
        source = settings.source if kept is None or "source" in settings.model_fields_set else kept
        if source is not None and source != kept:
            await self.state({"source": source})
        return source

    async def acknowledge_loss(self) -> bool:
        """Forget a loss that an operator has acknowledged, and return whether there was one."""

        async def work(connection: aiosqlite.Connection) -> bool:
            return bool((await connection.execute(queries.FORGET_FACT.sql, ("loss",))).rowcount)

        return await self.transact(work)


async def note(
    connection: aiosqlite.Connection,
    seqs: Sequence[int],
    *,
    now_ms: int,
    event: str,
    message: str | None = None,
    refusal: Refusal | None = None,
    batch_rows: int | None = None,
) -> None:
    """Write one line of history for each entry of `seqs`: with our own message, or what the server said."""
    said = refusal and (refusal.status, refusal.code, refusal.message, batch_rows, refusal.request_id)
    words = said or (None, None, message, batch_rows, None)
    await connection.execute(queries.NOTE.sql, (now_ms, event, *words, listed(seqs)))


def _refusal_words(refusal: Refusal | None) -> tuple[int | None, str | None, str | None, str | None, str | None]:
    if refusal is None:
        return None, None, None, None, None
    return refusal.status, refusal.code, refusal.message, refusal.details, refusal.hint
