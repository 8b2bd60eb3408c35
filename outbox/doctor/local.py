"""Examines the machine, the file and the files beside it, and tries a commit in its folder.

Nothing is written to the file, and no lock is taken. Run it in its own process, not in the writing bot: closing any
descriptor of a file drops that process's locks on it. SQLite's formats: sqlite.org/fileformat2.html and walformat.html.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import stat
import struct
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from outbox.clock import Clock
from outbox.columns import identifier
from outbox.doctor import findings, queries as asked
from outbox.doctor.findings import Finding, Severity, Trial, WalFacts
from outbox.entry import Destination, LaneSpec, Operation, State
from outbox.errors import InvalidEntry, OutboxError, StoreCorrupt, StoreError
from outbox.store import database, files, lock
from outbox.store.lock import Holder
from outbox.store.read_only import ReadOnlyStore, is_file, look
from outbox.store.reader import Reader
from outbox.store.rows import StoredPause
from outbox.threads import in_thread

_BESIDE = ("", "-wal", "-shm", ".lock")
# SQLite continues after the first complaint; a person needs the kind of damage, not its whole extent.
_MOST_COMPLAINTS = 20
# Entries from a shell that no flusher has read yet: while a bot runs, none is older than a second.
_MOST_UNREAD = 1000
# How many entries back to look for the newest delivered insert, so that a large file costs no more.
_BACK = 10_000

_MAGIC = b"SQLite format 3\0"
# Bytes 18 and 19 of the file say how it is written and read: 1 is a rollback journal, 2 is WAL.
_WAL_FORMAT = b"\x02\x02"
# In the WAL-index: mxFrame stands at 16; five read marks at 100, then the bytes that are locked.
_INDEX = struct.Struct("=16xI80x5I")
_READ_LOCKS = 120 + 3


@dataclass(frozen=True, slots=True)
class Content:
    """What the file holds.

    shapes: the kinds of request that pending entries need. latest: the kind that was delivered last, by destination.
    delivered: the newest delivered insert's id and payload, by destination.
    """

    used: frozenset[str]
    dead: int
    shapes: tuple[LaneSpec, ...]
    pauses: tuple[StoredPause, ...]
    lanes: Mapping[int, LaneSpec]
    latest: Mapping[str, LaneSpec]
    newest_put_ms: int | None
    delivered: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Local:
    """The findings about file and machine. content: None: it could not be read, and a finding says why."""

    findings: tuple[Finding, ...]
    content: Content | None


async def examine_file(path: Path, clock: Clock, *, thorough: bool) -> Local:
    """Examine `path` and its machine. Writes nothing to it; tries one commit in a folder of its own beside it."""
    try:
        path = await in_thread(files.real_path, path)
        if not await in_thread(is_file, path):
            says = f"{path} does not exist; nothing was created"
            fix = "start the bot once, which makes it, or name the right one with --path"
            missing = Finding("file", Severity.UNREADABLE, says, fix)
            return Local((missing, *await _machine(path.parent)), None)
    except StoreError as error:
        return Local((Finding("file", Severity.UNREADABLE, str(error)),), None)
    # Before SQLite opens the file here: closing a descriptor of it would drop SQLite's own locks.
    writable, wal_mode, permissions, beside = await in_thread(_beside, path)
    trial = await try_commit(path.parent, clock)
    content = await _content(path, thorough=thorough)
    filesystem = await in_thread(filesystem_of, path)
    found = [findings.durability(path, wal_mode, filesystem, trial), *beside, *await _machine(path.parent)]
    if isinstance(content, StoreError):
        # In another program's file, others may read for good reason. Report only whether this user may.
        mine = () if writable else (permissions,)
        return Local((Finding("file", Severity.UNREADABLE, str(content)), *mine, *found), None)
    if not isinstance(content, Content):
        damaged = findings.integrity(path, content, thorough=thorough)
        return Local((damaged, permissions, *found, findings.skipped("entries", "the file is damaged")), None)
    whole = findings.integrity(path, (), thorough=thorough)
    return Local((whole, permissions, *found, findings.dead_letters(content.dead)), content)


def is_wal(path: Path) -> bool | None:
    """Return whether the file is in WAL mode; None: it is empty, no database, or cannot be read."""
    try:
        with path.open("rb") as file:
            header = file.read(20)
    except OSError:
        return None
    return header[18:20] == _WAL_FORMAT if len(header) == 20 and header.startswith(_MAGIC) else None


def read_wal(path: Path) -> WalFacts:
    """Return the state of the WAL of `path`. Raises OSError: another user's file."""
    size = files.file_bytes(files.wal_path(path))
    if size == 0 or lock.is_mine(path):
        return WalFacts(size)
    try:
        descriptor = os.open(files.shm_path(path), os.O_RDONLY)
    except FileNotFoundError:
        return WalFacts(size)
    try:
        index = os.read(descriptor, _INDEX.size)
        if len(index) < _INDEX.size:
            return WalFacts(size)
        frames, *marks = _INDEX.unpack(index)
        old = [number for number, mark in enumerate(marks) if number and mark < frames]
        holders = (lock.byte_holder(descriptor, _READ_LOCKS + number) for number in old)
        return WalFacts(size, tuple(sorted({pid for pid in holders if pid})))
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------ beside the file


def _beside(path: Path) -> tuple[bool, bool | None, Finding, list[Finding]]:
    """Return whether this user may write, whether it is in WAL mode, and what permissions, WAL and lock mean."""
    try:
        holder, wal = lock.look(path), read_wal(path)
    except OSError:  # another user's: continue with the other checks
        holder, wal = Holder(None, None, running=None), WalFacts(files.file_bytes(files.wal_path(path)))
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    permissions = findings.permissions(None if os.name == "nt" else _modes(path), writable=writable)
    return writable, is_wal(path), permissions, [findings.wal(wal), findings.writer(holder.pid, running=holder.running)]


def _modes(path: Path) -> dict[Path, int]:
    """Return the permission bits of the file and of those beside it."""
    modes = {}
    for each in (path.with_name(path.name + suffix) for suffix in _BESIDE):
        with contextlib.suppress(FileNotFoundError):  # a bot may be closing the file at this moment
            modes[each] = stat.S_IMODE(each.stat().st_mode)
    return modes


async def _machine(folder: Path) -> list[Finding]:
    """Return the findings that do not depend on the file's content. folder: where it is, or would be."""
    free = await in_thread(_free_bytes, folder)
    engine = findings.engine(sqlite3.sqlite_version, exposed=database.EXPOSED_TO_WAL_RESET_BUG)
    return [findings.disk(free), engine]


def _free_bytes(folder: Path) -> int:
    there = next((each for each in (folder, *folder.absolute().parents) if each.exists()), Path.cwd())
    return shutil.disk_usage(there).free


def filesystem_of(path: Path, mounts: Iterable[str] | None = None) -> str | None:
    """Return the type of the file system of `path`, as Linux names it; None: another system does not say.

    mounts: lines of /proc/self/mountinfo, unless the machine's own.
    """
    if mounts is None:
        if not sys.platform.startswith("linux"):
            return None
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return None
    places = (_mount(line) for line in mounts)
    over = [place for place in places if place is not None and path.resolve().is_relative_to(place[0])]
    # Of several mounts at one place the last one hides the others.
    return max(enumerate(over), key=lambda each: (len(each[1][0].parts), each[0]))[1][1] if over else None


def _mount(line: str) -> tuple[Path, str] | None:
    """Return the mount point and type in a line of mountinfo: the fifth word, and the one after " - "."""
    words, separator, kind = line.partition(" - ")
    fields = words.split()
    if not separator or len(fields) < 5 or not kind.split():
        return None
    return Path(fields[4].replace("\\040", " ")), kind.split()[0]


# ------------------------------------------------------------------------------------------ inside the file


async def _content(path: Path, *, thorough: bool) -> Content | Sequence[str] | StoreError:
    """Return what the file holds, SQLite's complaints about it, or why it cannot be read."""

    async def work(observer: ReadOnlyStore) -> Content | Sequence[str]:
        if found_damage := await damage(observer, thorough=thorough):
            return found_damage  # anything else read from it may be wrong, or fail
        counts, lanes = await observer.counts(), await observer.lanes()
        found = {name: await newest_delivered(observer, name) for name in counts}
        latest = {name: await observer.read(asked.LATEST_LANE.sql, (_BACK, name)) for name in counts}
        return Content(
            used=frozenset(counts),
            dead=sum(states.get(State.DEAD, 0) for states in counts.values()),
            shapes=tuple(await pending_shapes(observer)),
            pauses=tuple(await observer.pauses()),
            lanes=lanes,
            latest={name: lanes[number] for name, read in latest.items() for (number,) in read if number in lanes},
            newest_put_ms=await observer.newest_put_ms(),
            delivered={name: entry for name, entry in found.items() if entry is not None},
        )

    try:
        return await look(path, work)
    except StoreCorrupt as error:
        return [str(error)]
    except StoreError as error:
        return error


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
    """Return the kinds of request that pending entries need, including those put by a shell. Reads the backlog."""
    lanes = await reader.lanes()
    shapes = [lanes[number] for (number,) in await reader.read(asked.PENDING_LANES.sql) if number in lanes]
    for entry in await reader.unread(_MOST_UNREAD):
        columns = _columns(entry.payload)
        deciding = entry.on_conflict.split(",") if entry.on_conflict else []
        if entry.operation is Operation.INSERT:
            columns.add(Destination(entry.destination).key)
        if columns and _are_names([*columns, *deciding]):  # else it will become dead and need no column
            named = ",".join(sorted(columns))
            shapes.append(LaneSpec(entry.destination, entry.operation, entry.on_conflict or "", named, ordered=False))
    return shapes


def _columns(payload: str) -> set[str]:
    try:
        return set(json.loads(payload))
    except (ValueError, RecursionError):  # Python accepts less JSON than SQLite does
        return set()


def _are_names(columns: Iterable[str]) -> bool:
    try:
        return all(identifier(column, field="column") for column in columns)
    except InvalidEntry:
        return False


async def newest_delivered(reader: Reader, destination: str) -> tuple[str, str] | None:
    """Return id and payload of the newest insert that was delivered to `destination`, if there is a recent one."""
    rows = await reader.read(asked.NEWEST_DELIVERED.sql, (_BACK, destination))
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
