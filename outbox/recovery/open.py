"""How an outbox file is opened for writing, whatever has happened to it since it was last closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite

from outbox import logs
from outbox.clock import Clock
from outbox.errors import NotADatabase, StoreCorrupt
from outbox.recovery import clean_close as openness
from outbox.recovery import probe as evidence
from outbox.recovery import quarantine
from outbox.recovery.judge import Loss, Wal, judge_wal
from outbox.store import database as door
from outbox.store import queries
from outbox.store.migrate import migrate
from outbox.store.sidecar import Sidecar, Written

logger = logs.named("outbox.store")

# What every run reads, so that damage there is found before the file is used.
_LOOKED_AT = (queries.COUNTS.sql, queries.READY_LANES.sql, queries.PAUSES.sql, queries.NEXT_DUE.sql)
# Of its text the length: a shell may have put any bytes, which are for the flusher to refuse.
_NEWEST = "select seq, length(payload) from outbox order by seq desc limit 1"


@dataclass(frozen=True, slots=True)
class Entered:
    """An open file. writer, reader: its connections. lanes: rows of `queries.LANES`. loss: what is missing from it.

    last_seq: the highest number that an entry ever had.
    """

    writer: aiosqlite.Connection
    reader: aiosqlite.Connection
    lanes: list[Any]
    last_seq: int
    loss: Loss | None


async def enter(path: Path, sidecar: Sidecar, *, clock: Clock, busy_timeout_s: float) -> Entered:
    """Open `path`, whose lock is held. A damaged file that held nothing but the outbox is set aside, never deleted.

    Raises StoreCorrupt, NotADatabase: it is damaged or was never ours, and was not touched; and every other StoreError.
    """
    before, now_ms = sidecar.before, clock.now_ms()
    try:
        wal = await asyncio.to_thread(_examined, path, before, now_ms)
        if wal is not Wal.STRANGE:
            if not door.file_bytes(path):  # cut off while it is made, it must not look like one that lost all
                await asyncio.to_thread(_written_down, sidecar.forget)
            return await _entered(path, sidecar, before, wal, clock, busy_timeout_s)
    except (StoreCorrupt, NotADatabase) as error:
        await asyncio.to_thread(quarantine.set_aside, path, error, before.facts, now_ms=now_ms)
        await asyncio.to_thread(_written_down, sidecar.forget)
        return await _entered(path, sidecar, Written(None, None, before.mark), Wal.FITS, clock, busy_timeout_s)
    await asyncio.to_thread(quarantine.set_wal_aside, path, before.facts, now_ms=now_ms)
    return await _entered(path, sidecar, before, Wal.MISSING, clock, busy_timeout_s)


def _behind_what_was_set_aside(path: Path, mark: int | None) -> int:
    """Return the number behind which a new file's begin: what was set aside keeps its own if it is salvaged."""
    beside = quarantine.found_beside(path)
    return max(mark or 0, *(evidence.main_file(each).seq for each in beside)) + openness.GAP if beside else 0


def _examined(path: Path, before: Written, now_ms: int) -> Wal:
    """Return how the -wal goes with the file. Raises StoreCorrupt, NotADatabase: it must not be opened."""
    facts = before.facts
    error = quarantine.refuse_lost_head(path, facts)
    if error is not None:
        raise error
    if evidence.is_half_done(path):
        evidence.undo_half(path)
    if not door.file_bytes(path):
        return Wal.FITS
    main = evidence.main_file(path)
    if facts is not None and facts.damage is not None and main.file in (None, facts.file):
        said = evidence.complaint(path)
        if said is not None:
            raise StoreCorrupt(f"{path} is damaged: {said}", path=path)
        told = {"path": str(path), "error": facts.damage}
        logger.warning("damage met in the last run is gone", extra=told)
    salt = evidence.wal_salt(path)
    exists = door.wal_path(path).exists()
    mark = before.mark_of(main.file)
    whole = main.file is None or (mark is not None and main.seq >= mark)
    wal = judge_wal(whole=whole, open_salt=main.open_salt, exists=exists, salt=salt)
    if wal is Wal.STRANGE and not evidence.wal_belongs(path, main):
        return wal
    error = evidence.first_look(path, (*_LOOKED_AT, _NEWEST))
    if error is not None:
        raise error
    if mark is not None and not whole and salt is not None and evidence.seq_with_wal(path) < mark:
        quarantine.keep_wal(path, now_ms=now_ms)
    return Wal.FITS if wal is Wal.STRANGE else wal


async def _entered(
    path: Path, sidecar: Sidecar, before: Written, wal: Wal, clock: Clock, busy_timeout_s: float
) -> Entered:
    writer = await door.open_writer(path, busy_timeout_s=busy_timeout_s)
    try:
        await migrate(writer, path, now_ms=clock.now_ms())
        lanes = list(await writer.execute_fetchall(queries.LANES.sql))
        for sql in (*_LOOKED_AT, _NEWEST):
            await writer.execute_fetchall(sql)
        start_after = await asyncio.to_thread(_behind_what_was_set_aside, path, before.mark)
        facts, seq, loss = await openness.begin(
            writer, path, before, wal=wal, start_after=start_after, now_ms=clock.now_ms()
        )
        await asyncio.to_thread(_written_down, partial(sidecar.begin, facts, seq))
        reader = await door.open_reader(path, busy_timeout_s=busy_timeout_s)
    except door.SqliteError as error:
        await writer.close()
        raise door.named(error, path, waited_s=busy_timeout_s) from error
    except BaseException:
        await writer.close()
        raise
    return Entered(writer, reader, lanes, seq, loss)


def _written_down(write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:  # a full disk must not keep the bot from what it has
        logger.warning("lock's sidecar cannot be written", extra={"error": str(error.strerror)})
