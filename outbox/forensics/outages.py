"""The history of pauses (what was not sent, and when) and of the processes that had the file open for writing."""

from __future__ import annotations

from dataclasses import dataclass

from outbox.store.reader import Reader
from outbox.store.rows import PauseFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage(PauseFacts):
    """One pause, past or current. Times: Unix milliseconds. refused: entries that died in it; backlog: at its end."""

    ended_ms: int | None
    refused: int
    backlog: int | None


@dataclass(frozen=True, slots=True)
class Life:
    """One process that had the file open for writing. sends_ms: since when it sent; None: it did not.

    closed_ms: None: it still has it open, was killed, or the machine stopped. last: nobody has opened it since.
    """

    program: str | None
    pid: int | None
    opened_ms: int
    sends_ms: int | None
    closed_ms: int | None
    last: int  # 1 or 0


async def outages(reader: Reader, since_ms: int | None, until_ms: int | None, limit: int) -> list[Outage]:
    """Return the newest pauses in effect at some moment between two times, newest first."""
    if not await reader.knows("outbox_pause_history"):
        return []
    sql = (
        "select scope, subject, reason, status, code, message, failures, since_ms, ended_ms, refused, backlog"
        " from outbox_pause_history where (? is null or ended_ms is null or ended_ms >= ?)"
        " and (? is null or since_ms < ?) order by number desc limit ?"
    )
    return [Outage.of(row) for row in await reader.read(sql, (since_ms, since_ms, until_ms, until_ms, limit))]


async def lives(reader: Reader, since_ms: int | None, until_ms: int | None, limit: int) -> list[Life]:
    """Return the newest processes that opened the file between two times, newest first."""
    if not await reader.knows("outbox_lives"):
        return []
    sql = (
        "select program, pid, opened_ms, sends_ms, closed_ms, number = (select max(number) from outbox_lives)"
        " from outbox_lives where (? is null or opened_ms >= ?) and (? is null or opened_ms < ?)"
        " order by number desc limit ?"
    )
    rows = await reader.read(sql, (since_ms, since_ms, until_ms, until_ms, limit))
    return [Life(*row) for row in rows]
