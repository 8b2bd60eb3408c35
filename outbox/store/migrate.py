"""Brings a file to the newest schema: each step with its record in one transaction."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

import aiosqlite

from outbox import logs
from outbox.errors import StoreError
from outbox.store import database, files
from outbox.store.migrations import Migration, applied, check, shipped as shipped
from outbox.threads import in_thread

_MADE = re.compile(r"^create (?:table|view|index) (\w+)", re.MULTILINE)
_RECORDS = """
create table if not exists outbox_migrations (
    version       integer primary key,
    name          text    not null,
    checksum      text    not null,     -- SHA-256 of the migration's text
    applied_at_ms integer not null
) strict
"""


_ANY_ENTRY = "select 1 from outbox limit 1"
_NO_COPY: tuple[type[Exception], ...] = (OSError, StoreError, *database.SqliteError)

logger: logs.Logger = logs.named("outbox.store")


async def migrate(
    connection: aiosqlite.Connection, path: Path, *, now_ms: int, migrations: Sequence[Migration] | None = None
) -> int:
    """Bring the file to the newest version and return how many steps that took; a current file is only read.

    Raises StoreTooNew, MigrationChanged, StoreError for a name that is taken: the file is not touched. A step that
    fails is undone as a whole.
    """
    steps = shipped() if migrations is None else tuple(migrations)
    done = await database.run(connection, applied)
    check(done, steps, path)
    todo = [step for step in steps if step.version not in done]
    if todo:
        ours = _names([step for step in steps if step.version in done])
        await _check_names(connection, _names(todo) - ours, path)
    if done and todo:
        await _keep_copy(connection, path.with_name(f"{path.name}.before-{todo[0].version:04}"))
    for step in todo:
        await _apply(connection, step, path, now_ms=now_ms)
    return len(todo)


def _names(steps: Sequence[Migration]) -> set[str]:
    """Return the names of what `steps` make; a later step may make a thing of an earlier one anew."""
    return {name.lower() for step in steps for name in _MADE.findall(step.text)}


async def _check_names(connection: aiosqlite.Connection, made: set[str], path: Path) -> None:
    """Raise StoreError if a later step would fail on a name of the bot's own: the earlier ones would stay."""
    for kind, name in await connection.execute_fetchall("select type, name from sqlite_schema"):
        if str(name).lower() in made:
            raise _name_is_taken(path, f"{kind} {name} already exists")


def _name_is_taken(path: Path, what: str) -> StoreError:
    return StoreError(
        f"{path} has a table, view or index of its own with the name of one of the outbox's own ({what});"
        " it was not changed. Rename that one, or give the outbox a file of its own",
        path=path,
    )


async def _keep_copy(connection: aiosqlite.Connection, copy: Path) -> None:
    """Keep the file as the older version left it, if there is an entry in it; a copy that is there already stays.

    Each step is undone as a whole if it fails, so a full disk does not keep the bot from opening.
    """
    fresh = copy.with_name(copy.name + ".new")  # whole, and then renamed
    try:
        if await in_thread(copy.exists) or not list(await connection.execute_fetchall(_ANY_ENTRY)):
            return
        await in_thread(fresh.unlink, missing_ok=True)
        await in_thread(files.create_file, fresh)
        await connection.execute("vacuum into ?", (str(fresh),))
        await in_thread(fresh.rename, copy)
    except _NO_COPY as error:
        for half in (fresh, files.journal_path(fresh)):  # on a full disk the migration needs the room
            with contextlib.suppress(OSError):
                await in_thread(half.unlink, missing_ok=True)
        if database.classify_error(error) in database.DAMAGE:
            raise
        logger.warning("no copy was made before a migration", extra={"path": str(copy), "error": str(error)})


async def _apply(connection: aiosqlite.Connection, step: Migration, path: Path, *, now_ms: int) -> None:
    try:
        # One hop for all statements. It commits a transaction that is open: this one begins inside it.
        await connection.executescript(f"begin immediate;{_RECORDS};{step.text}")
        await connection.execute(
            "insert into outbox_migrations values (?, ?, ?, ?)", (step.version, step.name, step.checksum, now_ms)
        )
        await connection.execute("commit")
    except BaseException as error:
        await database.roll_back(connection)
        if isinstance(error, database.SqliteError) and "already exists" in str(error):
            raise _name_is_taken(path, str(error)) from error
        raise
