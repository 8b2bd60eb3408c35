"""In use or closed: a flag in the file that exposes a lost or foreign -wal at the next opening.

Opening commits the flag and checkpoints it into the database file, with the first salt of the matching -wal; a clean
close clears it. Together with the number in the lock's sidecar it tells what is missing.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from pathlib import Path

import aiosqlite

from outbox import logs
from outbox.recovery import probe
from outbox.recovery.judge import Wal, judge_loss
from outbox.store import database, queries
from outbox.store.sidecar import Facts, Written
from outbox.threads import in_thread

logger: logs.Logger = logs.named("outbox.store")


# A damaged file's entries keep their numbers when they are salvaged. Fewer than this many were never acknowledged:
# a group commit holds 1,024; the rest allows for a shell's.
GAP = 10_000


async def begin(
    connection: aiosqlite.Connection, path: Path, before: Written, *, wal: Wal, start_after: int, now_ms: int
) -> tuple[Facts, int]:
    """Mark the file as in use; return its facts and its last number. Losses since the last close are noted and logged.

    before: what the lock's sidecar says. start_after: the number that the first entry of a new file must exceed. Raises
    the engine's errors.
    """
    file = await _value(connection, "file") or uuid.uuid4().hex
    ((seq,),) = await connection.execute_fetchall(queries.LAST_SEQ.sql)
    loss = judge_loss(seq=seq, mark=before.mark_of(file), wal=wal)
    # No number is used twice: a receipt always means the same entry.
    seq = max(seq or start_after, (loss.last or 0) if loss else 0)
    opened = {"at_ms": now_ms, "pid": os.getpid(), "program": Path(sys.argv[0]).name}
    async with database.transaction(connection):
        await connection.execute(queries.STATE_FACT.sql, ("file", file))
        await connection.execute(queries.STATE_FACT.sql, ("open", json.dumps(opened)))
        await _start_numbers(connection, seq)
        await connection.execute(queries.FORGET_FACT.sql, ("quarantined",))
        if start_after:  # a damaged file lies beside it: noted here, since v_health sees only this file
            await connection.execute(queries.STATE_FACT.sql, ("quarantined", json.dumps({"at_ms": now_ms})))
        if loss is not None:
            told = {"path": str(path), "first": loss.first, "last": loss.last, "certain": loss.certain}
            logger.error("acknowledged entries are missing", extra=told)
            await connection.execute(
                queries.STATE_FACT.sql, ("loss", json.dumps({"at_ms": now_ms, "what": loss.words}))
            )
    salt = await in_thread(probe.wal_salt, path)
    await connection.execute(queries.STATE_FACT.sql, ("open", json.dumps(opened | {"salt": salt})))
    # Passive waits for nobody; if a reader is in the way, the flag reaches the file a little later.
    await database.checkpoint(connection, "passive")
    tables = await connection.execute_fetchall("select name from sqlite_schema where type = 'table'")
    return Facts(file, any(probe.is_own(str(name)) for (name,) in tables)), seq


async def _value(connection: aiosqlite.Connection, name: str) -> str | None:
    rows = list(await connection.execute_fetchall(queries.FACT.sql, (name,)))
    return str(rows[0][0]) if rows else None


async def _start_numbers(connection: aiosqlite.Connection, seq: int) -> None:
    if seq:
        done = await connection.execute("update sqlite_sequence set seq = max(seq, ?) where name = 'outbox'", (seq,))
        if not done.rowcount:
            await connection.execute("insert into sqlite_sequence values ('outbox', ?)", (seq,))
