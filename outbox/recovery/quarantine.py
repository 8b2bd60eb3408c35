"""A damaged file is renamed with what belongs to it; one that vanished under the running bot is written anew.

Nothing is ever deleted. A removed file lives on as long as it is open: SQLite's backup reads it through the open
connection, -wal included; the copy is checked and synced before it gets a name, and is found like one set aside.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import aiosqlite

from outbox import logs
from outbox.errors import NotADatabase, StoreCorrupt, StoreError
from outbox.recovery import probe
from outbox.recovery.judge import Remedy, Wal, judge_wal, remedy
from outbox.recovery.probe import CORRUPT, RESCUED, found_beside
from outbox.store.files import (
    create_file,
    give,
    publish,
    shm_path,
    sync_file,
    sync_folder,
    uri,
    wal_path,
    with_its_own,
)
from outbox.store.sidecar import Facts
from outbox.threads import in_thread

logger: logs.Logger = logs.named("outbox.store")

_SALVAGED, _STRAY = ".salvaged-", ".stray-"
_BESIDE = ("-wal", "-shm")


def set_aside(path: Path, error: StoreError, facts: Facts | None, *, now_ms: int) -> Path:
    """Rename a damaged outbox file with its -wal and -shm, and return its new name; log where it is.

    error: what is wrong with it; raised again, with the file untouched, unless it is known to hold nothing but the
    outbox. facts: what the lock's sidecar says. The caller holds the lock and has closed every connection.
    """
    what = remedy(probe.weigh(path, facts))
    if what is Remedy.NOT_OURS:
        raise error
    if what is Remedy.REFUSE:
        reason = f"{path} is damaged and holds tables of the bot's own, or may; it was not touched ({error})"
        raise StoreCorrupt(reason, path=path) from error
    moved = _renamed(path, now_ms=now_ms)
    told = {"path": str(path), "error": str(error), "quarantined": str(moved)}
    logger.error("damaged file set aside, new outbox started", extra=told)
    return moved


def set_wal_aside(path: Path, facts: Facts | None, *, now_ms: int) -> Path:
    """Rename a -wal that belongs to another database, and return its new name. Raises StoreCorrupt: untouched."""
    if remedy(probe.weigh(path, facts, with_wal=False)) is not Remedy.SET_ASIDE:
        raise StoreCorrupt(
            f"{wal_path(path)} does not belong to {path}, which holds tables of the bot's own; neither was touched."
            " Move the -wal away if the database is the one you want",
            path=path,
        )
    try:
        name = _free_name(path, now_ms=now_ms)
        moved = wal_path(name)
        _move([(wal_path(path), moved), (shm_path(path), shm_path(name))])
    except OSError as error:
        raise StoreCorrupt(f"{wal_path(path)} cannot be set aside: {error}", path=path) from error
    told = {"path": str(path), "quarantined": str(moved)}
    logger.error("another database's WAL set aside", extra=told)
    return moved


def set_stray_aside(beside: Path, *, now_ms: int) -> None:
    """Rename a -wal or -journal that is neither, before SQLite removes it; it holds nothing of the outbox."""
    if not probe.is_stray(beside):
        return
    moved = _free_name(beside, now_ms=now_ms, kind=_STRAY)
    try:
        _move([(beside, moved)])
    except OSError as error:
        raise StoreError(f"{beside} holds something else and cannot be set aside: {error}", path=beside) from error
    logger.warning("stray file set aside", extra={"path": str(beside), "moved": str(moved)})


def keep_wal(path: Path, *, now_ms: int) -> None:
    """Copy a -wal of which SQLite reads only the beginning: it would overwrite the rest. A failure is logged."""
    kept = wal_path(_free_name(path, now_ms=now_ms))
    told = {"path": str(path), "quarantined": str(kept)}
    try:
        shutil.copyfile(wal_path(path), kept)
        kept.chmod(0o600)
    except OSError as error:  # such as a full disk: the loss is reported anyway
        logger.warning("damaged WAL could not be kept", extra={**told, "error": str(error.strerror)})
    else:
        logger.warning("damaged WAL kept as a copy", extra=told)


def dealt_with(quarantined: Path) -> Path:
    """Rename a salvaged file, so that it is no longer reported, and return its new name. Raises OSError."""
    name = quarantined.name.replace(CORRUPT, _SALVAGED, 1).replace(RESCUED, _SALVAGED, 1)
    target = quarantined.with_name(name)
    if target != quarantined and not target.exists():
        _move(_all(quarantined, target))
    return target


def _renamed(path: Path, *, now_ms: int) -> Path:
    try:
        target = _unfinished(path) or _free_name(path, now_ms=now_ms)
        _move(_all(path, target))
    except OSError as error:
        raise StoreCorrupt(f"{path} is damaged and cannot be set aside: {error}", path=path) from error
    return target


def _all(path: Path, target: Path) -> list[tuple[Path, Path]]:
    """The database comes first: if a crash stops it there, the -wal is not opened alone, and the next run continues."""
    return [(path, target), (wal_path(path), wal_path(target)), (shm_path(path), shm_path(target))]


def _move(names: Sequence[tuple[Path, Path]]) -> None:
    for old, new in names:
        if old.exists():
            old.rename(new)
    sync_folder(names[0][0].parent)


def _unfinished(path: Path) -> Path | None:
    """Return the new name of a database whose -wal is still here, because the renaming was interrupted."""
    beside = (each for each in found_beside(path) if not each.name.endswith(_BESIDE))
    waits = [each for each in beside if not wal_path(each).exists()]
    if not waits or path.exists():
        return None
    main, salt = probe.main_file(waits[-1]), probe.wal_salt(path)
    wal = judge_wal(whole=main.file is None, open_salt=main.open_salt, exists=True, salt=salt)
    return waits[-1] if wal is Wal.FITS else None


def _free_name(path: Path, *, now_ms: int, kind: str = CORRUPT) -> Path:
    stamp = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    name, number = f"{path.name}{kind}{stamp}", 1
    while any(path.with_name(_numbered(name, number) + end).exists() for end in ("", *_BESIDE)):
        number += 1
    return path.with_name(_numbered(name, number))


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def refuse_lost_head(path: Path, facts: Facts | None) -> StoreError | None:
    """Return what is wrong with a file that is empty or missing although it was an outbox; None: a new one may begin.

    SQLite would take it for a new file and remove the -wal with all its rows.
    """
    if path.exists() and path.stat().st_size:
        return None
    rest = probe.wal_salt(path) is not None
    if not rest and (facts is None or not path.exists()):
        return None  # it never existed, or its owner has removed it: a new one may begin
    what = f"{path} is {'empty' if path.exists() else 'missing'}"
    why = "its -wal, which holds data, is still there" if rest else "it was an outbox"
    return NotADatabase(f"{what}, although {why}; nothing was touched", path=path)


# ------------------------------------------------------------------------------------------ a file that vanished


async def rescue(
    path: Path, connection: aiosqlite.Connection, leftovers: Sequence[Path] | None, *, now_ms: int
) -> Path:
    """Write all that `connection` sees to a new file, 0600, and return its name: `path` if that is free.

    leftovers: our files at the path, useless without the database: removed before the new file takes it; None: the new
    file must get a name beside it. The old files stay in the kernel as long as this process lives, whatever is raised:
    StoreError, OSError, the engine's errors.
    """
    part = path.with_name(path.name + ".rescue")
    await in_thread(_fresh, part)
    try:
        copy = sqlite3.connect(uri(part, "rw"), uri=True, isolation_level=None, check_same_thread=False)
        try:
            await connection.backup(copy)
            await in_thread(_finish, copy, part)
        finally:
            await in_thread(copy.close)
        return await in_thread(_named, part, path, leftovers, now_ms)
    finally:
        await in_thread(_tidy, part)


def _fresh(part: Path) -> None:
    _tidy(part)  # what a killed process left
    create_file(part)
    give(part, like=part.parent)


def _finish(copy: sqlite3.Connection, part: Path) -> None:
    # The copy was never in use: with the flag, opening it would report a missing -wal.
    copy.execute("delete from outbox_meta where name = 'open'")
    found = copy.execute("pragma quick_check(1)").fetchall()
    if found != [("ok",)]:
        raise StoreError(f"what is left of it is damaged: {found[0][0]}", path=part)


def _named(part: Path, path: Path, leftovers: Sequence[Path] | None, now_ms: int) -> Path:
    sync_file(part)
    if leftovers is not None and not path.exists():
        for each in leftovers:
            each.unlink(missing_ok=True)
        if not wal_path(path).exists():  # else it is a foreign one, and the file must not get it
            with contextlib.suppress(FileExistsError):
                publish(part, path)
                return path
    beside = _free_name(path, now_ms=now_ms, kind=RESCUED)
    publish(part, beside)
    return beside


def _tidy(part: Path) -> None:
    for each in with_its_own(part):
        each.unlink(missing_ok=True)
