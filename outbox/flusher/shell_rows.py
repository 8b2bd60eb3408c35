"""What a plain INSERT from a sqlite3 shell means: its lane, ordering key and digest."""

from __future__ import annotations

import re

from outbox import logs
from outbox.columns import identifier
from outbox.encoding import decode
from outbox.entry import Destination, State, StoredEntry
from outbox.errors import InvalidEntry
from outbox.flusher.context import FlusherContext
from outbox.ordering import intend
from outbox.postgrest.verdicts import Refusal
from outbox.prepare import digest
from outbox.store.rows import Adopted

logger: logs.Logger = logs.named("outbox.flusher")

_MINTED = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


async def adopt(context: FlusherContext, limit: int) -> int | None:
    """Complete up to `limit` entries that a shell has left open. What cannot be sent becomes a dead letter.

    Returns the number of the oldest one that is left; None: none is.
    """
    store = context.store
    found = await store.unread(limit + 1)
    unread, left = found[:limit], found[limit:]
    adopted = []
    for entry in unread:
        try:
            adopted.append(understood(entry, context.destinations(entry.destination)))
        except (ValueError, RecursionError) as error:  # InvalidEntry; JSON that SQLite reads and Python does not
            logger.warning("entry from a shell cannot be sent", extra={"id": entry.id, "error": type(error).__name__})
            refusal = Refusal(None, "INVALID", str(error).replace("; nothing was written", ""))
            await store.settle([entry.seq], State.DEAD, refusal=refusal)
            context.tally.rejected[entry.destination] += 1
    await store.adopt(adopted)
    return left[0].seq if left else None


def understood(entry: StoredEntry, destination: Destination) -> Adopted:
    """Return what a shell's entry means. Raises InvalidEntry: it cannot be sent; ValueError, RecursionError: its JSON.

    Python reads less of JSON than SQLite does: neither very long numbers nor deep nesting.
    """
    values = decode(entry.payload)
    on_conflict = tuple(entry.on_conflict.split(",")) if entry.on_conflict else None
    match = decode(entry.match) if entry.match else None
    if not isinstance(match, dict | None):
        raise InvalidEntry("must be a JSON object", field="match")
    columns = tuple(sorted(values))
    if not columns:
        raise InvalidEntry("an empty row", field=entry.destination)
    for column in columns:
        identifier(column, field=f"{entry.destination}.{column}")
    # The schema's own default is a UUIDv7.
    its_id = entry.id if destination.key in values or not _MINTED.fullmatch(entry.id) else None
    intent = intend(
        destination, columns, values, operation=entry.operation, key=entry.key, on_conflict=on_conflict, match=match,
        id=its_id,
    )  # fmt: skip
    mark = digest(entry.destination, entry.operation, intent.key, entry.payload, intent.on_conflict, entry.match)
    return Adopted(entry.seq, intent.spec, intent.key, intent.on_conflict, mark)
