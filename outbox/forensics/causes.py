"""Groups dead entries by what they died of: one line for each table and cause."""

from __future__ import annotations

from dataclasses import dataclass, replace

from outbox.flusher.traffic import cause_of
from outbox.forensics import queries as asked
from outbox.postgrest.replies import Refusal
from outbox.store import queries
from outbox.store.reader import Reader

# Entries read in one query: some 50 ms.
_PAGE_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Cause:
    """Dead entries of one destination that died of one thing. first_ms, last_ms: of the deaths, Unix milliseconds.

    message: the server's words for the newest of them. said: a part of those words that distinguishes it from other
    causes of its destination and code; None: destination and code suffice.
    """

    destination: str
    status: int | None
    code: str | None
    message: str
    entries: int
    first_ms: int
    last_ms: int
    newest_seq: int
    example: str = ""
    said: str | None = None

    @property
    def told(self) -> str | None:
        """The value to give to `--code`."""
        return self.code if self.code is not None else None if self.status is None else str(self.status)


async def causes(reader: Reader) -> list[Cause]:
    """Return the causes of death, the most frequent first. Reads all dead entries, in steps."""
    found: dict[tuple[str, str], Cause] = {}
    for destination, states in sorted((await reader.counts()).items()):
        after_seq = 0
        while states.get("dead"):
            rows = await reader.read(queries.CAUSES.sql, (destination, after_seq, _PAGE_ROWS))
            for row in rows:
                _count(found, Cause(destination, row[0], row[1], row[2] or "", *row[3:]))
            if sum(row[3] for row in rows) < _PAGE_ROWS:
                break
            after_seq = max(row[6] for row in rows)
    ordered = sorted(found.items(), key=lambda each: -each[1].entries)
    return [
        replace(each, example=await _id(reader, each), said=_said(words, each, found)) for (_, words), each in ordered
    ]


def _count(found: dict[tuple[str, str], Cause], more: Cause) -> None:
    words = cause_of(Refusal(more.status, more.code, more.message))
    before = found.get((more.destination, words), more)
    newest = max(before, more, key=lambda each: each.newest_seq)
    found[more.destination, words] = replace(
        newest,
        entries=more.entries + (0 if before is more else before.entries),
        first_ms=min(before.first_ms, more.first_ms),
        last_ms=max(before.last_ms, more.last_ms),
    )


def _said(words: str, cause: Cause, found: dict[tuple[str, str], Cause]) -> str | None:
    """Return the longest text common to all messages of a cause, if another cause has the same code."""
    others = [each for each in found.values() if (each.destination, each.told) == (cause.destination, cause.told)]
    if len(others) == 1:
        return None
    parts = words.removeprefix(f"{cause.status} {cause.code} ").split("…")
    return max((part.strip() for part in parts), key=len) or None


async def _id(reader: Reader, cause: Cause) -> str:
    rows = await reader.read(asked.ID.sql, (cause.newest_seq,))
    return str(rows[0][0]) if rows else ""
