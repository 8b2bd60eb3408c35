"""What the file holds of a destination, in pages: the connection is the flusher's too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from outbox.entry import Operation
from outbox.outbox import Outbox
from outbox.reads.overlay import Stored

# Of one step; a payload has about a kilobyte.
_STEP = 500
# Entries that one step looks at where no index knows the destination.
_WINDOW = 1000

# One branch for each way to wait, so that each has an index, as the store's own query of everything pending.
PENDING = """
select seq from outbox indexed by outbox_ready
 where state = 'pending' and waits is null and lane in (select lane from outbox_lanes where destination = ?)
union all
select seq from outbox indexed by outbox_ready
 where state = 'pending' and waits is null and lane is null and destination = ?
union all
select seq from outbox indexed by outbox_turns
 where state = 'pending' and key is not null and destination = ? and waits = 'turn'
union all
select seq from outbox indexed by outbox_retrying where state = 'pending' and waits = 'retry' and destination = ?
 order by seq limit ?
"""
# Delivered ones too: an entry whose successor is still read as pending may have gone between two steps.
SHOWN = """
select seq, id, operation, payload, on_conflict, match from outbox
 where state in ('pending', 'delivered') and seq in (select value from json_each(?)) order by seq
"""
HELD = """
select seq, id, operation, payload, on_conflict, match from outbox not indexed
 where seq > ? and seq <= ? and destination = ? and state in ('pending', 'delivered') order by seq
"""
BOUNDS = "select (select min(seq) from outbox), (select max(seq) from outbox)"


async def pending(outbox: Outbox, destination: str, most: int) -> list[Stored]:
    """Return what is pending for `destination`, oldest first; more than `most` of them: one more than that.

    What is delivered while this reads is among them; what is refused meanwhile may be.
    """
    seqs = [seq for (seq,) in await outbox.read_local(PENDING, (*[destination] * 4, most + 1))]
    found: list[Stored] = []
    for start in range(0, len(seqs), _STEP):
        listed = f"[{','.join(map(str, seqs[start : start + _STEP]))}]"
        found += [_stored(row) for row in await outbox.read_local(SHOWN, (listed,))]
    return found


async def last_seq(outbox: Outbox) -> int:
    """Return the place of the newest entry: whatever is put from now on stands behind it."""
    ((_, last),) = await outbox.read_local(BOUNDS)
    return last or 0


async def held(outbox: Outbox, destination: str, *, after_seq: int = 0) -> AsyncIterator[list[Stored]]:
    """Give what was put behind `after_seq` and is pending or delivered and not pruned yet, in the order of the puts.

    Reads the entries of all destinations there, step by step.
    """
    ((first, last),) = await outbox.read_local(BOUNDS)
    for after in range(max(after_seq, (first or 1) - 1), last or 0, _WINDOW):
        yield [_stored(row) for row in await outbox.read_local(HELD, (after, after + _WINDOW, destination))]


def _stored(row: tuple[Any, ...]) -> Stored:
    seq, entry_id, operation, payload, on_conflict, match = row
    return Stored(seq, entry_id, Operation(operation), payload, on_conflict, match)
