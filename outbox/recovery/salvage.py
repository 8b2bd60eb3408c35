"""Puts what can still be read of a damaged outbox file into the open one, under the same ids.

SQL queries read around the damage first; then each page is read by itself, for what no query finds any more (carve.py).
Pending and dead entries are brought over with their history; delivered ones are not needed. Each keeps its number if
that is free, so that the order of each key holds. Their project and the running sessions are brought over too; cached
bars are not: a bot fetches them again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiosqlite

from outbox.errors import StoreError
from outbox.recovery import probe, quarantine
from outbox.recovery.damaged_file import HISTORY, SESSION, DamagedFile, FoundEntry, note
from outbox.recovery.pages import is_as_put
from outbox.store import queries
from outbox.store.receipts import find_lane
from outbox.store.store import Store
from outbox.threads import in_thread

_CHANGED = "salvaged: its content is not what was put; outbox show says what it is now"
_OVERTAKEN = "salvaged: a later entry of its key was sent meanwhile; outbox requeue --force sends this one"
_ELSEWHERE = "salvaged: it was put for another project than this outbox sends to; outbox requeue sends it there"


@dataclass(slots=True)
class Salvaged:
    """What became of the entries of a damaged file. Counts are entries.

    pending, dead: brought over. held: brought over as dead letters, because sending them might be wrong. carved: how
    many of these three were found only page by page. there: the open outbox had them already. unreadable: ranges of
    numbers, both ends included. lost_ids: of entries of which only the id could be read, at most 1,000.
    sessions: how many running ones were brought over. sessions_left: the ids of those whose source has another one
    here. sessions_unreadable: whether there may have been more. project_unreadable: whether it is unknown which project
    the entries belong to.
    """

    pending: int = 0
    dead: int = 0
    held: int = 0
    carved: int = 0
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
    """Put what can be read of `source` into `store`; a second run duplicates nothing.

    sending: whether entries may be on their way at this moment. project_known: awaited before the first entry is
    stored, once `store` has recorded the project, if `source` names one. Raises StoreError: nothing in it can be read,
    or the open outbox could not be written to; what was brought over before stays.
    """
    if source == store.path:
        raise StoreError(f"{source} is the outbox itself; nothing was changed", path=source)
    found = Salvaged()
    wreck = await in_thread(DamagedFile, source)
    try:
        project, found.project_unreadable = await in_thread(wreck.project)
        away = project is not None and await store.remember_project(project) != project
        await project_known()
        pages = wreck.pages(found.unreadable)
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
    except OSError:  # its entries are here; renaming it needs somebody with the right to
        kept_as = source
    if not await in_thread(probe.found_beside, store.path):
        await store.transact(lambda connection: connection.execute(queries.FORGET_FACT.sql, ("quarantined",)))
    return {**asdict(found), "kept_as": str(kept_as)}


# ---------------------------------------------------------------------------------------------- into the open one


async def _bring(
    store: Store, page: Sequence[FoundEntry], found: Salvaged, sending: Callable[[], bool], *, away: bool
) -> None:
    async def work(connection: aiosqlite.Connection) -> list[str | None]:
        return [await _brought_whole(connection, relic, sending=sending(), away=away) for relic in page]

    # Counted once, however often `work` ran.
    for relic, what in zip(page, await store.transact(work), strict=True):
        if what is None:
            note(found.unreadable, relic.row["seq"], relic.row["seq"])
        else:
            setattr(found, what, getattr(found, what) + 1)
            found.carved += relic.carved and what != "there"


async def _brought_whole(
    connection: aiosqlite.Connection, relic: FoundEntry, *, sending: bool, away: bool
) -> str | None:
    """As `_brought`; None: damage has made it invalid as an entry, such as a payload that is not JSON."""
    await connection.execute("savepoint relic")
    try:
        what = await _brought(connection, relic, sending=sending, away=away)
    except sqlite3.IntegrityError:
        await connection.execute("rollback to relic")
        what = None
    await connection.execute("release relic")
    return what


async def _brought(connection: aiosqlite.Connection, relic: FoundEntry, *, sending: bool, away: bool) -> str:
    """Insert one entry inside an open transaction; return the name of the counter for it."""
    row = dict(relic.row)
    there = await connection.execute_fetchall(
        "select 1 from outbox where id = ? and destination = ?", (row["id"], row["destination"])
    )
    if list(there):
        return "there"
    pending = row["state"] == "pending"
    words = (relic.doubt or await _objection(connection, row, sending=sending, away=away)) if pending else None
    taken = list(await connection.execute_fetchall("select 1 from outbox where seq = ?", (row["seq"],)))
    # As a dead letter first: reviving it then queues it by its number among the entries of its key.
    row |= {"seq": None if taken else row["seq"], "state": "dead"}
    row |= {"lane": None if relic.spec is None else await find_lane(connection, relic.spec)}
    if words is not None:
        row |= {"error_message": words}
    marks = ", ".join("?" * len(row))
    sql = f"insert into outbox ({', '.join(row)}) values ({marks}) returning seq"  # noqa: S608 - our own columns
    ((seq,),) = await connection.execute_fetchall(sql, tuple(row.values()))
    await connection.executemany(
        f"insert into outbox_history (seq, {HISTORY}) values (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - our own columns
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
    if row["digest"] is not None and not is_as_put(row):
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


# What became of a session that was running in the damaged file. left: its source has another one here.
# unreadable: damage has made it invalid.
_Became = Literal["brought", "here", "left", "unreadable"]


async def _bring_sessions(store: Store, sessions: Sequence[Sequence[Any]] | None, found: Salvaged) -> None:
    """Let each source without a session here continue the one that was running."""
    if sessions is None:
        found.sessions_unreadable = True
        return

    async def work(connection: aiosqlite.Connection) -> list[_Became]:
        return [await _brought_session(connection, session) for session in sessions]

    became = await store.transact(work)
    found.sessions = became.count("brought")
    found.sessions_left = [str(row[1]) for row, what in zip(sessions, became, strict=True) if what == "left"]
    found.sessions_unreadable = "unreadable" in became


async def _brought_session(connection: aiosqlite.Connection, session: Sequence[Any]) -> _Became:
    """Insert one session inside an open transaction, unless its source has one here."""
    sql = "select session_id from outbox_sessions where source = ?"
    for (here,) in await connection.execute_fetchall(sql, (session[0],)):
        return "here" if here == session[1] else "left"
    marks = ", ".join("?" * len(SESSION))
    try:
        await connection.execute(f"insert into outbox_sessions ({', '.join(SESSION)}) values ({marks})", session)  # noqa: S608
    except sqlite3.IntegrityError:
        return "unreadable"
    return "brought"
