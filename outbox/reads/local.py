"""Floor 4 · reads. What the file holds of a destination, in pages: the connection is the flusher's too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from outbox.entry import Operation
from outbox.policy.overlay import Stored
from outbox.reads.results import Origin

# Of one step; a payload has about a kilobyte.
_STEP = 500
# Entries that one step looks at where no index knows the destination.
_WINDOW = 5000

# One branch for each way to wait, so that each has an index, as the store's own query of everything pending.
PENDING = """
select seq from outbox indexed by outbox_ready
 where state = 'pending' and waits is null and lane in (select lane from outbox_lanes where destination = ?1)
union all
select seq from outbox indexed by outbox_ready
 where state = 'pending' and waits is null and lane is null and destination = ?1
union all
select seq from outbox indexed by outbox_turns
 where state = 'pending' and key is not null and destination = ?1 and waits = 'turn'
union all
select seq from outbox indexed by outbox_retrying where state = 'pending' and waits = 'retry' and destination = ?1
 order by seq limit ?2
"""
SHOWN = """
select seq, id, operation, payload, on_conflict, match from outbox
 where state = 'pending' and seq in (select value from json_each(?)) order by seq
"""
HELD = """
select seq, id, operation, payload, on_conflict, match from outbox not indexed
 where seq > ? and seq <= ? and destination = ? and state in ('pending', 'delivered') order by seq
"""
BOUNDS = "select (select min(seq) from outbox), (select max(seq) from outbox)"


async def pending(origin: Origin, destination: str, most: int) -> list[Stored]:
    """Return what is pending for `destination`, oldest first; more than `most` of them: one more than that.

    What is delivered while this reads is among the remote rows by then.
    """
    seqs = [seq for (seq,) in await origin.read_local(PENDING, (destination, most + 1))]
    found: list[Stored] = []
    for start in range(0, len(seqs), _STEP):
        listed = f"[{','.join(map(str, seqs[start : start + _STEP]))}]"
        found += [_stored(row) for row in await origin.read_local(SHOWN, (listed,))]
    return found


async def held(origin: Origin, destination: str) -> AsyncIterator[Stored]:
    """Give what is pending or delivered and not pruned yet, in the order of the puts. O(history), in small steps."""
    ((first, last),) = await origin.read_local(BOUNDS)
    for after in range((first or 1) - 1, last or 0, _WINDOW):
        for row in await origin.read_local(HELD, (after, after + _WINDOW, destination)):
            yield _stored(row)


def _stored(row: tuple[Any, ...]) -> Stored:
    seq, entry_id, operation, payload, on_conflict, match = row
    return Stored(seq, entry_id, Operation(operation), payload, on_conflict, match)
