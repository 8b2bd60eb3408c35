"""What the machine and the file say. For a process of its own, not for the bot that writes."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from outbox.clock import Clock
from outbox.doctor import file_checks, findings
from outbox.doctor.findings import Finding, WalFacts
from outbox.doctor.wal import is_wal, read_wal
from outbox.entry import LaneSpec, State
from outbox.errors import StoreCorrupt, StoreError
from outbox.store import database, files, lock as lock_file
from outbox.store.lock import Holder
from outbox.store.read_only import ReadOnlyStore, is_file, look
from outbox.store.rows import StoredPause
from outbox.threads import in_thread

_BESIDE = ("", "-wal", "-shm", ".lock")


@dataclass(frozen=True, slots=True)
class Content:
    """What the file holds. shapes: the kinds of request that pending entries need. delivered: by destination."""

    damage: tuple[str, ...]
    used: frozenset[str]
    dead: int
    shapes: tuple[LaneSpec, ...]
    pauses: tuple[StoredPause, ...]
    lanes: Mapping[int, LaneSpec]
    newest_put_ms: int | None
    delivered: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Local:
    """The findings about file and machine. content: None: it could not be read, a finding says why."""

    findings: tuple[Finding, ...]
    content: Content | None


async def examine_file(path: Path, clock: Clock, *, thorough: bool) -> Local:
    """Look at `path` and its machine. Writes nothing to it; tries one commit in a folder of its own beside it."""
    try:
        path = await in_thread(files.real_path, path)
        if not await in_thread(is_file, path):
            return Local((findings.missing(path), *await _machine(path.parent)), None)
    except StoreError as error:
        return Local((findings.unreadable(str(error)),), None)
    # Before SQLite opens the file here: closing a descriptor of it would drop SQLite's own locks.
    before = await in_thread(_beside, path)
    trial = await file_checks.try_commit(path.parent, clock)
    content = await _content(path, thorough=thorough)
    filesystem = await in_thread(filesystem_of, path)
    permissions = findings.permissions(path, before.modes, writable=before.writable)
    # Another program's file: whoever else reads it does so for a reason. Whether this user may is worth a line.
    foreign = isinstance(content, StoreError) and not isinstance(content, StoreCorrupt) and before.writable
    found = [
        *(() if foreign else (permissions,)),
        findings.durability(path, before.wal_mode, filesystem, trial),
        findings.wal(before.wal),
        findings.writer(before.holder.pid, running=before.holder.running),
        *await _machine(path.parent),
    ]
    if isinstance(content, StoreCorrupt):
        return Local((findings.integrity(path, [str(content)], thorough=thorough), *found), None)
    if isinstance(content, StoreError):
        return Local((findings.unreadable(str(content)), *found), None)
    integrity = findings.integrity(path, content.damage, thorough=thorough)
    return Local((integrity, *found, findings.dead_letters(content.dead)), content)


# ------------------------------------------------------------------------------------------ beside the file


@dataclass(frozen=True, slots=True)
class _Beside:
    modes: Mapping[Path, int] | None
    writable: bool
    wal_mode: bool | None
    wal: WalFacts
    holder: Holder


def _beside(path: Path) -> _Beside:
    try:
        holder, wal = lock_file.look(path), read_wal(path)
    except OSError:  # another user's: the other checks are worth more
        holder, wal = Holder(None, None, running=None), WalFacts(files.file_bytes(files.wal_path(path)))
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return _Beside(None if os.name == "nt" else _modes(path), writable, is_wal(path), wal, holder)


def _modes(path: Path) -> dict[Path, int]:
    """Return the permission bits of the file and of those beside it."""
    modes = {}
    for each in (path.with_name(path.name + suffix) for suffix in _BESIDE):
        with contextlib.suppress(FileNotFoundError):  # a bot may close the file in this moment
            modes[each] = stat.S_IMODE(each.stat().st_mode)
    return modes


async def _machine(folder: Path) -> list[Finding]:
    """Return what holds whatever is in the file. folder: where it is, or would be."""
    free = await in_thread(_free_bytes, folder)
    engine = findings.engine(sqlite3.sqlite_version, exposed=database.EXPOSED_TO_WAL_RESET_BUG)
    return [findings.disk(free), engine]


def _free_bytes(folder: Path) -> int:
    there = next((each for each in (folder, *folder.absolute().parents) if each.exists()), Path.cwd())
    return shutil.disk_usage(there).free


def filesystem_of(path: Path, mounts: Iterable[str] | None = None) -> str | None:
    """Return the kind of the file system that `path` is on, as Linux names it; None: another system does not say.

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
    # Of several at one place the last one hides the others.
    return max(enumerate(over), key=lambda each: (len(each[1][0].parts), each[0]))[1][1] if over else None


def _mount(line: str) -> tuple[Path, str] | None:
    """Return where a line of mountinfo mounts what: the fifth word, and the one behind " - "."""
    words, separator, kind = line.partition(" - ")
    fields = words.split()
    if not separator or len(fields) < 5 or not kind.split():
        return None
    return Path(fields[4].replace("\\040", " ")), kind.split()[0]


# ------------------------------------------------------------------------------------------ inside the file


async def _content(path: Path, *, thorough: bool) -> Content | StoreError:
    async def work(observer: ReadOnlyStore) -> Content:
        damage = tuple(await file_checks.damage(observer, thorough=thorough))
        if damage:  # what else it says may be wrong, or fail
            return Content(damage, frozenset(), 0, (), (), {}, None, {})
        counts = await observer.counts()
        found = {name: await file_checks.newest_delivered(observer, name) for name in counts}
        return Content(
            damage=damage,
            used=frozenset(counts),
            dead=sum(states.get(State.DEAD, 0) for states in counts.values()),
            shapes=tuple(await file_checks.pending_shapes(observer)),
            pauses=tuple(await observer.pauses()),
            lanes=await observer.lanes(),
            newest_put_ms=await observer.newest_put_ms(),
            delivered={name: entry for name, entry in found.items() if entry is not None},
        )

    try:
        return await look(path, work)
    except StoreError as error:
        return error
