"""The history of pauses (what was not sent, and when) and of the processes that had the file open for writing."""

from __future__ import annotations

from dataclasses import dataclass

from outbox.forensics import queries
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
    rows = await reader.read(queries.OUTAGES.sql, (since_ms, since_ms, until_ms, until_ms, limit))
    return [Outage.of(row) for row in rows]


async def lives(reader: Reader, since_ms: int | None, until_ms: int | None, limit: int) -> list[Life]:
    """Return the newest processes that opened the file between two times, newest first."""
    if not await reader.knows("outbox_lives"):
        return []
    rows = await reader.read(queries.LIVES.sql, (since_ms, since_ms, until_ms, until_ms, limit))
    return [Life(*row) for row in rows]
