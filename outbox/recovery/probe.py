"""Looks at a file before it is trusted. Writes nothing, except copies for a trial.

Synchronous: run it in a thread, while the lock is held and before the store's own connections are open.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from outbox.errors import StoreError
from outbox.recovery.judge import Evidence, Wal, judge_loss, judge_wal
from outbox.store import files, sqlite
from outbox.store.migrations import shipped
from outbox.store.sidecar import Facts, Written

# What a file that was set aside is called.
CORRUPT, RESCUED = ".corrupt-", ".rescued-"
_JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
_NO_TRIAL: tuple[type[Exception], ...] = (OSError, *sqlite.SqliteError)
_WAL_HEADER, _FRAME_HEADER, _SMALLEST_PAGE = 32, 24, 512


def wal_salt(path: Path) -> int | None:
    """Return the first salt of the -wal of `path`; None: it is missing, or holds nothing that SQLite would use.

    Raises StoreError: it cannot be read.
    """
    try:
        # Closing a descriptor of a -wal drops no lock; closing one of the database would.
        with files.wal_path(path).open("rb") as wal:
            header = wal.read(_WAL_HEADER)
            size = os.fstat(wal.fileno()).st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{files.wal_path(path)} cannot be read: {error.strerror}", path=path) from error
    if size < _WAL_HEADER + _FRAME_HEADER + _SMALLEST_PAGE or header[:4] not in files.WAL_MAGIC:
        return None
    return int.from_bytes(header[16:20], "big")  # sqlite.org/fileformat2.html#walformat


def is_stray(beside: Path) -> bool:
    """Return whether a -wal or -journal holds something that is neither: SQLite would remove or overwrite it.

    One that begins with a zero was never finished, as after a power loss.
    """
    try:
        with beside.open("rb") as file:
            begin = file.read(len(_JOURNAL_MAGIC))
    except OSError:
        return False
    return begin[:1] not in (b"", b"\0") and begin != _JOURNAL_MAGIC and begin[:4] not in files.WAL_MAGIC


def found_beside(path: Path) -> tuple[Path, ...]:
    """Return the files that were set aside and not dealt with yet, oldest first."""
    starts = (path.name + CORRUPT, path.name + RESCUED)
    try:
        there = {each.name for each in path.parent.iterdir() if each.name.startswith(starts)}
    except OSError:
        return ()
    names = {name for name in there if not name.endswith("-shm")}  # an index, which SQLite rebuilds
    parts = {name for name in names if name.endswith("-wal") and name.removesuffix("-wal") in names}
    return tuple(path.with_name(name) for name in sorted(names - parts))


class Main(NamedTuple):
    """What the database file says without its -wal. open_salt: of the WAL that was in use with it; None: closed."""

    file: str | None
    open_salt: int | None
    seq: int


_NOTHING_KNOWN = Main(None, None, 0)


def main_file(path: Path) -> Main:
    """Return what `path` says without its -wal; all None for a file that is no outbox or cannot be read."""
    try:
        with reading(path, immutable=True) as connection:
            facts = dict(connection.execute("select name, value from outbox_meta where name in ('file', 'open')"))
            return Main(facts.get("file"), _salt_of(facts.get("open")), last_seq(connection))
    except sqlite.SqliteError:
        return _NOTHING_KNOWN


def loss_at_opening(path: Path, before: Written, seq: int) -> str | None:
    """Return what the next opening of `path`, which nobody has open, will report as missing; None: nothing.

    before: what the lock's sidecar says. seq: the file's last number. A -wal that opening would first try on a copy
    counts as the file's own. Raises StoreError.
    """
    main = main_file(path)
    mark = before.mark_of(main.file)
    loss = judge_loss(seq=seq, mark=mark, wal=how_wal_goes(path, main, mark))
    return None if loss is None else loss.words


def how_wal_goes(path: Path, main: Main, mark: int | None) -> Wal:
    """Return how the -wal matches the file. mark: the highest number acknowledged in it. Raises StoreError."""
    whole = main.file is None or (mark is not None and main.seq >= mark)
    exists = files.wal_path(path).exists()
    return judge_wal(whole=whole, open_salt=main.open_salt, exists=exists, salt=wal_salt(path))


def seq_with_wal(path: Path) -> int:
    """Return the highest number that an entry ever had, as far as SQLite reads the -wal. Raises the engine's errors."""
    with reading(path) as connection:
        return last_seq(connection)


def last_seq(connection: Any) -> int:
    """Return the highest number that an entry ever had."""
    rows = connection.execute("select seq from sqlite_sequence where name = 'outbox'").fetchall()
    return int(rows[0][0]) if rows else 0


def _salt_of(value: object) -> int | None:
    try:
        salt = json.loads(str(value))["salt"]
    except (ValueError, KeyError, TypeError):
        return None
    return salt if isinstance(salt, int) else None


def reading(path: Path, *, immutable: bool = False) -> contextlib.closing[sqlite3.Connection]:
    """A connection that cannot write. immutable: without the -wal, and without locks."""
    return contextlib.closing(sqlite.plain_connection(path, immutable=immutable, timeout_s=1.0))


def refuse_foreign_journal(path: Path) -> None:
    """Raise StoreError: the rollback journal is not this file's, and SQLite would write its pages into the file.

    A file in WAL mode had its own journal once, when it was switched to that mode. It holds the first page, which may
    differ only in what the switch changes (sqlite.org/fileformat.html#the_database_header).
    """
    try:
        with path.open("rb") as file, files.journal_path(path).open("rb") as journal:
            first, size, kept = file.read(1 << 16), os.fstat(file.fileno()).st_size, journal.read(1 << 18)
    except OSError as error:
        raise StoreError(f"{path} and its -journal cannot be read: {error.strerror}", path=path) from error
    if kept[:8] != _JOURNAL_MAGIC or first[18:19] != b"\2":
        return  # SQLite ignores it; or the file is not in WAL mode, so that it may well be its own
    pages, sector, page_bytes = (int.from_bytes(kept[place : place + 4], "big") for place in (16, 20, 24))
    if pages <= 1 and size <= 2 * page_bytes and not files.wal_path(path).exists():
        return  # the file was being created
    page = kept[sector : sector + 4 + page_bytes]
    its_own = page[:4] == b"\0\0\0\1" and _lasting(page[4:]) == _lasting(first[:page_bytes])
    if not its_own or pages * page_bytes != size or files.wal_path(path).exists():
        journal_path = files.journal_path(path)
        raise StoreError(
            f"{journal_path} is another database's: opened now, SQLite would write its pages into {path}. Nothing was"
            f' opened or changed. Move it away, and start again: mv "{journal_path}" "{journal_path}.stray"',
            path=path,
        )


def _lasting(page: bytes) -> bytes:
    """Return a first page without what a switch of journal mode changes: the versions and the change counter."""
    return page[:18] + page[20:24] + page[28:92] + page[100:]


def undo_half(path: Path) -> None:
    """Let SQLite roll back what its journal holds, as it would at any opening for writing.

    Raises StoreError: it cannot; what the file holds is unknown.
    """
    try:
        with contextlib.closing(sqlite.plain_connection(path, "rw", timeout_s=1.0)) as connection:
            connection.execute("select 1 from sqlite_schema").fetchall()
    except sqlite.SqliteError as error:
        if sqlite.classify_error(error) not in sqlite.DAMAGE:  # damage is examined closely afterwards
            raise sqlite.named(error, path) from error


# ---------------------------------------------------------------------------------------------- whose file it is


@cache
def our_tables() -> frozenset[str]:
    """Return every table that this version's migrations create."""
    texts = "\n".join(step.text for step in shipped())
    found = re.findall(r"^create table (?:if not exists )?(\w+)", texts, re.MULTILINE)
    return frozenset({*found, "outbox_migrations"})


def is_own(table: str) -> bool:
    """Return whether a table is the bot's own; SQLite's and Litestream's bookkeeping is not."""
    return table not in our_tables() and not table.startswith(("sqlite_", "_litestream_"))


def weigh(path: Path, facts: Facts | None, *, with_wal: bool = True) -> Evidence:
    """Return whose file `path` is, from its schema if readable, and from what was recorded beforehand.

    facts: what the lock's sidecar says. with_wal: read the -wal, too.
    """
    # With its -wal only if there is one: else SQLite would create one and leave it there.
    ways = (False, True) if with_wal and files.wal_path(path).exists() else (True,)
    found = [tables for immutable in ways if (tables := _tables(path, immutable=immutable)) is not None]
    seen = {table for tables in found for table in tables}
    outbox = "outbox_migrations" in seen or (facts is not None and not found) or None
    own = any(map(is_own, seen)) or (facts is not None and facts.own_tables)
    known = bool(found) or facts is not None
    return Evidence(outbox=outbox, own_tables=own if known else None)


def _tables(path: Path, *, immutable: bool) -> set[str] | None:
    """Return the names of the tables; None: they cannot be read."""
    if not path.exists() or not path.stat().st_size:
        return None
    try:
        with reading(path, immutable=immutable) as connection:
            names = connection.execute("select name from sqlite_schema where type = 'table'").fetchall()
    except sqlite.SqliteError:
        return None
    return {str(name) for (name,) in names}


# ---------------------------------------------------------------------------------------------- a close look


def complaint(path: Path) -> str | None:
    """Return what SQLite finds wrong with the whole file; None: nothing. Reads all of it."""
    try:
        with reading(path) as connection:
            found = connection.execute("pragma integrity_check(1)").fetchall()
    except sqlite.SqliteError as error:
        if sqlite.classify_error(error) in sqlite.DAMAGE:
            return str(error)
        raise sqlite.named(error, path) from error
    return None if found == [("ok",)] else str(found[0][0])


def first_look(path: Path, queries: Sequence[str]) -> StoreError | None:
    """Return what is wrong with the pages that `queries` read; None: nothing, or nothing caused by damage.

    On a read-only connection: closing a writable one would checkpoint the -wal into a damaged file.
    """
    try:
        with reading(path, immutable=not files.wal_path(path).exists()) as connection:
            if connection.execute("select 1 from sqlite_schema where name = 'outbox_meta'").fetchall():
                for sql in queries:
                    connection.execute(sql).fetchall()
    except sqlite.SqliteError as error:
        return sqlite.named(error, path) if sqlite.classify_error(error) in sqlite.DAMAGE else None
    return None


def wal_belongs(path: Path, main: Main) -> bool:
    """Try the -wal on a copy of the database: is the result a sound file of the same outbox, and no older than before?

    Raises StoreError: the trial cannot be made, so nothing is known.
    """
    import tempfile

    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=path.name + ".trial-") as folder:
            copy = Path(folder) / "copy.db"
            _copy(path, copy)
            shutil.copyfile(files.wal_path(path), files.wal_path(copy))
            return complaint(copy) is None and _is_later(copy, main)
    except _NO_TRIAL as error:
        message = f"{path}: its -wal looks like another database's, and no copy could be made to try it on: {error}"
        raise StoreError(f"{message}; nothing was opened", path=path) from error


def _copy(path: Path, to: Path) -> None:
    """Copy the database without its -wal. Through SQLite: a descriptor of ours would drop its locks when closed."""
    files.create_file(to)
    with contextlib.closing(sqlite.plain_connection(to, "rw")) as target, reading(path, immutable=True) as source:
        source.backup(target)


def _is_later(copy: Path, main: Main) -> bool:
    with reading(copy) as connection:
        names = connection.execute("select value from outbox_meta where name = 'file'").fetchall()
        return names == [(main.file,)] and last_seq(connection) >= main.seq
