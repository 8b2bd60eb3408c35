"""What a check-up asks of the file, and a commit that it tries beside it; nothing is written to it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from outbox.clock import Clock
from outbox.doctor.findings import Trial
from outbox.encoding import identifier
from outbox.entry import Destination, LaneSpec, Operation
from outbox.errors import InvalidEntry, OutboxError, StoreCorrupt
from outbox.store import database
from outbox.store.read_only import ReadOnlyStore
from outbox.store.reader import Reader
from outbox.threads import in_thread

# SQLite goes on after the first complaint; a person needs the kind of damage, not its whole extent.
_MOST_COMPLAINTS = 20
# Entries from a shell that nobody has read yet: while a bot runs, none is older than a second.
_MOST_UNREAD = 1000
# Where the newest delivered insert is looked for: that many entries back, so that a large file costs no more.
_BACK = 10_000

_PENDING_LANES = "select distinct lane from outbox where state = 'pending' and lane is not null"
_NEWEST_DELIVERED = (
    "select id, payload from outbox where seq > (select max(seq) from outbox) - ? and destination = ?"
    " and operation = 'insert' and state = 'delivered' order by seq desc limit 1"
)


async def damage(observer: ReadOnlyStore, *, thorough: bool) -> list[str]:
    """Return SQLite's complaints about the file. Reads all of it; thorough: compares the indexes with their tables."""
    name = "integrity_check" if thorough else "quick_check"
    try:
        rows = await observer.read(f"pragma {name}({_MOST_COMPLAINTS})")
    except StoreCorrupt as error:
        return [str(error)]
    # One row may hold several lines: "*** in database main ***" and what follows it.
    lines = [line.strip() for (text,) in rows for line in str(text).splitlines()]
    return [line for line in lines if line and line != "ok" and not line.startswith("***")]


async def pending_shapes(reader: Reader) -> list[LaneSpec]:
    """Return the kinds of request that pending entries need, those a shell has put in included. Reads the backlog."""
    lanes = await reader.lanes()
    shapes = [lanes[number] for (number,) in await reader.read(_PENDING_LANES) if number in lanes]
    for entry in await reader.unread(_MOST_UNREAD):
        columns = _columns(entry.payload)
        deciding = entry.on_conflict.split(",") if entry.on_conflict else []
        if entry.operation is Operation.INSERT:
            columns.add(Destination(entry.destination).key)
        if columns and _are_names([*columns, *deciding]):  # else it will be dead, and need no column
            named = ",".join(sorted(columns))
            shapes.append(LaneSpec(entry.destination, entry.operation, entry.on_conflict or "", named, ordered=False))
    return shapes


def _columns(payload: str) -> set[str]:
    try:
        return set(json.loads(payload))
    except (ValueError, RecursionError):  # Python reads less of JSON than SQLite does
        return set()


def _are_names(columns: Iterable[str]) -> bool:
    try:
        return all(identifier(column, field="column") for column in columns)
    except InvalidEntry:
        return False


async def newest_delivered(reader: Reader, destination: str) -> tuple[str, str] | None:
    """Return id and payload of the newest insert that was delivered to `destination`, if there is a recent one."""
    rows = await reader.read(_NEWEST_DELIVERED, (_BACK, destination))
    return (str(rows[0][0]), str(rows[0][1])) if rows else None


async def try_commit(folder: Path, clock: Clock) -> Trial:
    """Open a new file in `folder` as a writer would, commit once, and remove it again."""
    try:
        place = Path(await in_thread(tempfile.mkdtemp, prefix=".outbox-doctor-", dir=folder))
    except OSError as error:
        return Trial(None, error.strerror or type(error).__name__)
    try:
        return Trial(await _commit_s(place / "trial.db", clock))
    except (OutboxError, OSError) as error:
        return Trial(None, str(error))
    except database.SqliteError as error:
        return Trial(None, str(error))
    finally:
        await in_thread(shutil.rmtree, place, ignore_errors=True)


async def _commit_s(path: Path, clock: Clock) -> float:
    """Return the seconds that one small commit takes, with WAL and synchronous=FULL."""
    connection = await database.open_writer(path, busy_timeout_s=1.0)
    try:
        await connection.execute("create table trial (n integer)")
        started_s = clock.monotonic_s()
        await connection.execute("insert into trial values (1)")
        return clock.monotonic_s() - started_s
    finally:
        await connection.close()
