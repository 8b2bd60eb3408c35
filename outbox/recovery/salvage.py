"""What can still be read of a damaged outbox file is put into the open one, with its ids.

Pending and dead entries come along, with their history; what was delivered is not needed. Each keeps its number where
that is free, so that the order of each key holds. With them come the project that they belong to and the sessions that
were running; cached bars do not: a bot fetches them again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any, assert_never

import aiosqlite

from outbox.entry import LaneSpec, Operation, digest
from outbox.errors import StoreError
from outbox.recovery import probe, quarantine
from outbox.store import database, files, meta, queries
from outbox.store.receipts import find_lane
from outbox.store.store import Store
from outbox.threads import in_thread

_COLUMNS = (
    "seq", "id", "destination", "operation", "state", "key", "payload", "on_conflict", "match", "lane", "attempts",
    "created_at_ms", "settled_at_ms", "error_status", "error_code", "error_message", "error_details", "error_hint",
    "source", "digest", "refused_since_ms", "if_exists",
)  # fmt: skip
_SESSION = (
    "source", "session_id", "status", "start_time", "day_start", "last_heartbeat", "initial_balance",
    "current_balance", "symbols", "version",
)  # fmt: skip
_HISTORY = "at_ms, event, status, code, message, batch_rows, request_id"
# One transaction of the open outbox each: the bot's puts come in between.
_PAGE = 200
# Each damaged page costs some dozen failures; a table whose root is damaged must not be asked for every number.
_MOST_FAILURES = 100_000
_LISTED_IDS = 1_000

_CHANGED = "salvaged: its content is not what was put; outbox show says what it is now"
_OVERTAKEN = "salvaged: a later entry of its key was sent meanwhile; outbox requeue --force sends this one"
_ELSEWHERE = "salvaged: it was put for another project than this outbox sends to; outbox requeue sends it there"


@dataclass(slots=True)
class Salvaged:
    """What became of the entries of a damaged file. Counts are entries.

    pending, dead: brought over. held: brought over as dead letters, because sending them might be wrong. there: the
    open outbox had them already. unreadable: ranges of numbers, both ends included. lost_ids: of entries whose id could
    be read and nothing else, 1,000 at the most. sessions: how many running ones were brought over. sessions_left: the
    ids of those whose source has another one here. sessions_unreadable: whether there may have been more.
    project_unreadable: whether nobody knows which project the entries belong to.
    """

    pending: int = 0
    dead: int = 0
    held: int = 0
    there: int = 0
    unreadable: list[tuple[int, int]] = field(default_factory=list)
    lost_ids: list[str] = field(default_factory=list)
    sessions: int = 0
    sessions_left: list[str] = field(default_factory=list)
    sessions_unreadable: bool = False
    project_unreadable: bool = False


async def nobody() -> None:
    """Tell nobody."""


async def salvage(
    store: Store,
    source: Path,
    *,
    sending: Callable[[], bool] = lambda: False,
    project_known: Callable[[], Awaitable[None]] = nobody,
) -> Salvaged:
    """Put what can be read of `source` into `store`; doing it again brings nothing twice.

    sending: whether entries may be on their way at this moment. project_known: awaited before the first entry comes,
    when `store` may know by now which project its entries belong to. Raises StoreError: nothing in it can be read, or
    the open outbox could not be written to; what was brought over before stays.
    """
    found = Salvaged()
    wreck = await in_thread(_DamagedFile, source)
    try:
        project, found.project_unreadable = await in_thread(wreck.project)
        away = project is not None and await meta.remember_project(store, project) != project
        await project_known()
        pages = wreck.pages(found)
        while (page := await in_thread(next, pages, None)) is not None:
            await _bring(store, page, found, sending, away=away)
        found.lost_ids = await in_thread(wreck.ids_within, found.unreadable)
        await _bring_sessions(store, await in_thread(wreck.sessions), found)
    finally:
        await in_thread(wreck.close)
    return found


async def salvage_and_rename(
    store: Store,
    source: Path,
    *,
    sending: Callable[[], bool] = lambda: False,
    project_known: Callable[[], Awaitable[None]] = nobody,
) -> dict[str, Any]:
    """Bring over what can be read of a damaged file, then rename it as salvaged. Errors as `salvage`."""
    found = await salvage(store, source, sending=sending, project_known=project_known)
    try:
        kept_as = await in_thread(quarantine.dealt_with, source)
    except OSError:  # its entries are here; who may rename it will
        kept_as = source
    if not await in_thread(quarantine.found_beside, store.path):
        await store.transact(lambda connection: connection.execute(queries.FORGET_FACT.sql, ("quarantined",)))
    return {**asdict(found), "kept_as": str(kept_as)}


@dataclass(frozen=True, slots=True)
class _FoundEntry:
    """One entry of the damaged file. row: its columns by name; spec: its lane's, if that can be read."""

    row: dict[str, Any]
    spec: LaneSpec | None
    history: list[Sequence[Any]]


class _DamagedFile:
    """A damaged file, opened to be read around its damage. Synchronous: run it in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading = probe.reading(path, immutable=not files.wal_path(path).exists())
        self._file = self._reading.__enter__()
        self._file.text_factory = database.readable
        try:
            self._columns = self._known_columns()
            self._last = self._last_seq()
            self._lanes = self._specs()
            self._has_history = bool(self._columns_of("outbox_history"))  # a file of the second version has none
        except database.SqliteError as error:
            self.close()
            raise StoreError(f"nothing can be read in {path}: {error}; it was not changed", path=path) from error
        except BaseException:
            self.close()
            raise

    def _known_columns(self) -> list[str]:
        """Return what this file has of the columns; one of an older version has fewer."""
        there = self._columns_of("outbox")
        if "payload" not in there:
            raise StoreError(f"{self._path} is not an outbox that can be read; it was not changed", path=self._path)
        return [name for name in _COLUMNS if name in there]

    def _columns_of(self, table: str) -> set[str]:
        """Return the names of a table's columns; none: this file has no such table."""
        return {str(row[1]) for row in self._file.execute(f"pragma table_info({table})").fetchall()}

    def close(self) -> None:
        self._reading.__exit__(None, None, None)

    def _asked(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any] | None:
        """Return the rows of a query; None: damage is in its way."""
        try:
            return list(self._file.execute(sql, parameters).fetchall())
        except database.SqliteError as error:
            if database.classify_error(error) in database.DAMAGE:
                return None
            raise database.named(error, self._path) from error

    def _last_seq(self) -> int:
        """Return the highest number, from whatever says it: the counter, the table's end, or an index."""
        ways = (
            "select seq from sqlite_sequence where name = 'outbox'",
            "select max(seq) from outbox not indexed",
            "select max(seq) from outbox indexed by sqlite_autoindex_outbox_1",
        )
        found = [rows[0][0] for way in ways if (rows := self._asked(way)) and isinstance(rows[0][0], int)]
        return max(found, default=0)

    def _specs(self) -> dict[int, LaneSpec]:
        rows = self._asked("select lane, destination, operation, on_conflict, columns, ordered from outbox_lanes")
        return {number: LaneSpec.of(spec) for number, *spec in rows or ()}

    def project(self) -> tuple[str | None, bool]:
        """Return which project the entries belong to, None: to none yet; and whether damage is in the way of that."""
        rows = self._asked("select value from outbox_meta where name = 'project'")
        name = str(rows[0][0]) if rows else None
        damaged = rows is None or (name is not None and "\N{REPLACEMENT CHARACTER}" in name)
        return None if damaged else name, damaged

    def sessions(self) -> list[Sequence[Any]] | None:
        """Return the sessions that were running, as `_SESSION`; None: damage is in the way of them."""
        if not self._columns_of("outbox_sessions"):  # a file of the first version
            return []
        return self._asked(f"select {', '.join(_SESSION)} from outbox_sessions where status = 'RUNNING'")  # noqa: S608

    def pages(self, found: Salvaged) -> Iterator[list[_FoundEntry]]:
        """Yield what is not settled, oldest first; halve what cannot be read until only the damage is left."""
        names = ", ".join(self._columns)
        sql = (
            f"select {names} from outbox not indexed where seq between ? and ?"  # noqa: S608 - our own columns
            " and state in ('pending', 'dead') order by seq limit ?"
        )
        ranges, failures = [(1, self._last)] if self._last else [], 0
        while ranges:
            first, last = ranges.pop()
            rows = self._asked(sql, (first, last, _PAGE))
            if rows is None:
                failures += 1
                if first == last or failures > _MOST_FAILURES:
                    _note(found.unreadable, first, last)
                else:
                    middle = (first + last) // 2
                    ranges += [(middle + 1, last), (first, middle)]
                continue
            if rows:
                yield [self._found_entry(row) for row in rows]
            if len(rows) == _PAGE and rows[-1][0] < last:
                ranges.append((rows[-1][0] + 1, last))

    def _found_entry(self, values: Sequence[Any]) -> _FoundEntry:
        row = dict(zip(self._columns, values, strict=True))
        sql = f"select {_HISTORY} from outbox_history where seq = ? order by number"  # noqa: S608 - our own columns
        lines = self._asked(sql, (row["seq"],)) if self._has_history else None
        return _FoundEntry(row, self._lanes.get(row["lane"]), lines or [])

    def ids_within(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return the ids that an index still knows of entries that cannot be read."""
        sql = (
            "select id from outbox indexed by sqlite_autoindex_outbox_1 where id > ? and seq between ? and ?"
            " order by id limit ?"
        )
        ids: list[str] = []
        for first, last in ranges:
            ids += [str(row[0]) for row in self._asked(sql, ("", first, last, _LISTED_IDS)) or ()]
        return ids[:_LISTED_IDS]


def _note(ranges: list[tuple[int, int]], first: int, last: int) -> None:
    if ranges and ranges[-1][1] + 1 == first:
        ranges[-1] = (ranges[-1][0], last)
    else:
        ranges.append((first, last))


# ---------------------------------------------------------------------------------------------- into the open one


async def _bring(
    store: Store, page: Sequence[_FoundEntry], found: Salvaged, sending: Callable[[], bool], *, away: bool
) -> None:
    async def work(connection: aiosqlite.Connection) -> list[str | None]:
        return [await _brought_whole(connection, relic, sending=sending(), away=away) for relic in page]

    # Counted once, however often `work` ran.
    for relic, what in zip(page, await store.transact(work), strict=True):
        if what is None:
            _note(found.unreadable, relic.row["seq"], relic.row["seq"])
        else:
            setattr(found, what, getattr(found, what) + 1)


async def _brought_whole(
    connection: aiosqlite.Connection, relic: _FoundEntry, *, sending: bool, away: bool
) -> str | None:
    """As `_brought`; None: the damage has left no entry that an outbox may hold, such as a payload that is no JSON."""
    await connection.execute("savepoint relic")
    try:
        what = await _brought(connection, relic, sending=sending, away=away)
    except sqlite3.IntegrityError:
        await connection.execute("rollback to relic")
        what = None
    await connection.execute("release relic")
    return what


async def _brought(connection: aiosqlite.Connection, relic: _FoundEntry, *, sending: bool, away: bool) -> str:
    """Insert one entry inside an open transaction; return the name of the counter that it belongs to."""
    row = dict(relic.row)
    there = await connection.execute_fetchall(
        "select 1 from outbox where id = ? and destination = ?", (row["id"], row["destination"])
    )
    if list(there):
        return "there"
    pending = row["state"] == "pending"
    words = await _objection(connection, row, sending=sending, away=away) if pending else None
    taken = list(await connection.execute_fetchall("select 1 from outbox where seq = ?", (row["seq"],)))
    # As a dead letter first: reviving it puts it into the line of its key at the place of its number.
    row |= {"seq": None if taken else row["seq"], "state": "dead"}
    row |= {"lane": None if relic.spec is None else await find_lane(connection, relic.spec)}
    if words is not None:
        row |= {"error_message": words}
    marks = ", ".join("?" * len(row))
    sql = f"insert into outbox ({', '.join(row)}) values ({marks}) returning seq"  # noqa: S608 - our own columns
    ((seq,),) = await connection.execute_fetchall(sql, tuple(row.values()))
    await connection.executemany(
        f"insert into outbox_history (seq, {_HISTORY}) values (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - our own columns
        [(seq, *line) for line in relic.history],
    )
    if not pending:
        return "dead"
    if words is not None:
        return "held"
    await connection.execute("update outbox set state = 'pending' where seq = ?", (seq,))
    return "pending"


async def _objection(connection: aiosqlite.Connection, row: dict[str, Any], *, sending: bool, away: bool) -> str | None:
    """Return why this pending entry must not simply be sent; None: it may. away: it belongs to another project."""
    if row["digest"] is not None:
        columns = row["on_conflict"] if row["operation"] == Operation.UPSERT else None
        now = digest(row["destination"], row["operation"], row["key"], row["payload"], columns, row["match"])
        if now != row["digest"]:
            return _CHANGED
    if away:
        return _ELSEWHERE
    if row["key"] is None:
        return None
    states = "('delivered', 'pending')" if sending else "('delivered')"
    later = await connection.execute_fetchall(
        f"select 1 from outbox where destination = ? and key = ? and seq > ? and state in {states} limit 1",  # noqa: S608
        (row["destination"], row["key"], row["seq"]),
    )
    return _OVERTAKEN if list(later) else None


async def _bring_sessions(store: Store, sessions: Sequence[Sequence[Any]] | None, found: Salvaged) -> None:
    """Let each source that has no session here go on with the one that was running."""
    if sessions is None:
        found.sessions_unreadable = True
        return

    async def work(connection: aiosqlite.Connection) -> list[_Session]:
        return [await _brought_session(connection, session) for session in sessions]

    for session, became in zip(sessions, await store.transact(work), strict=True):
        match became:
            case _Session.BROUGHT:
                found.sessions += 1
            case _Session.LEFT:
                found.sessions_left.append(str(session[1]))
            case _Session.UNREADABLE:
                found.sessions_unreadable = True
            case _Session.HERE:
                pass
            case _:
                assert_never(became)


class _Session(Enum):
    """What became of a session that was running in the damaged file."""

    BROUGHT = auto()
    HERE = auto()  # it was here already
    LEFT = auto()  # its source has another one here
    UNREADABLE = auto()  # what the damage has left of it is no session


async def _brought_session(connection: aiosqlite.Connection, session: Sequence[Any]) -> _Session:
    """Insert one session inside an open transaction."""
    sql = "select session_id from outbox_sessions where source = ?"
    for (here,) in await connection.execute_fetchall(sql, (session[0],)):
        return _Session.HERE if here == session[1] else _Session.LEFT
    marks = ", ".join("?" * len(_SESSION))
    try:
        await connection.execute(f"insert into outbox_sessions ({', '.join(_SESSION)}) values ({marks})", session)  # noqa: S608
    except sqlite3.IntegrityError:
        return _Session.UNREADABLE
    return _Session.BROUGHT
