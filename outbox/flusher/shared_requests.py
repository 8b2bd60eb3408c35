"""Rows of many sets of columns in one request, where each set has lanes of its own and thousands of them wait.

PostgREST gives a row the default of each column that it does not have (`missing=default`). That means the same as a
request of its own on a table, for inserts: an upsert would overwrite what it does not name, and of a view PostgREST
does not know the defaults of the table beneath. So the table is asked first whether it is one.

After a refusal a sixteenth of the lanes share a request, and in the end each travels alone: a misspelt column holds
back only its own lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from outbox.entry import LaneSpec, Operation
from outbox.flusher.batch import Batch, Source
from outbox.flusher.context import FlusherContext
from outbox.flusher.pauses import Pauses
from outbox.flusher.ready_lanes import ReadyLanes
from outbox.postgrest.batch import sent_bytes
from outbox.postgrest.client import Request, Transport
from outbox.postgrest.stored import rows_read
from outbox.postgrest.verdicts import Failure, Reply
from outbox.store.rows import Lane

if TYPE_CHECKING:
    from outbox.flusher.scheduler import Traffic

# At most this many lanes share a request.
MOST_LANES = 500
DIVISOR = 16
# Bytes of the names of their columns; Supabase's gateway takes 16 kB of URL and headers together.
_LONGEST_COLUMNS = 8000


def may_share(spec: LaneSpec) -> bool:
    """Return whether its rows may travel with rows of other columns: a row gets the default of each that it lacks.

    Not an upsert, which would overwrite what it does not name, nor what has a line.
    """
    return spec.operation is Operation.INSERT and not spec.ordered


def columns_of(specs: Iterable[LaneSpec]) -> str:
    """Return the columns of all `specs`, as they are sent."""
    return ",".join(sorted({column for spec in specs for column in spec.columns.split(",")}))


def sharing(spec: LaneSpec, lanes: Iterable[Lane], most: int) -> list[Lane]:
    """Return up to `most` of `lanes` whose rows may travel with those of `spec`: what a URL may name of them."""
    found, columns = list[Lane](), set(spec.columns.split(","))
    left = _LONGEST_COLUMNS - len(spec.columns)
    for lane in lanes:
        if len(found) >= most:
            break
        if lane.spec.destination != spec.destination or not may_share(lane.spec):
            continue
        if lane.spec.on_conflict != spec.on_conflict or lane.spec == spec:
            continue
        new = set(lane.spec.columns.split(",")) - columns
        left -= sum(len(column) + 1 for column in new)
        if left < 0:
            break
        columns |= new
        found.append(lane)
    return found


class SharedRequests:
    """Which lanes share a request."""

    def __init__(
        self, context: FlusherContext, pauses: Pauses, ready: ReadyLanes, traffic_of: Callable[[Lane], Traffic]
    ) -> None:
        self._context = context
        self._pauses = pauses
        self._ready = ready
        self._traffic_of = traffic_of

    async def fill(self, lane: Lane, batch: Batch) -> Batch:
        """Return `batch` of `lane` with what others have ready, as far as there is room."""
        traffic = self._traffic_of(lane)
        rows = self._context.limits.batch_rows - len(batch.entries)
        left = min(traffic.limit.bytes, self._context.window.request_bytes) - batch.bytes
        if rows < 1 or left < 1 or traffic.lanes < 2:
            return batch
        free = (each for each in self._ready.waiting() if self._is_free(each, traffic.lanes))
        lanes = sharing(lane.spec, free, traffic.lanes - 1)
        found = await self._context.store.alongside([each.number for each in lanes], limit=rows, max_bytes=left)
        cut = next(reversed(found), None) if sum(map(len, found.values())) >= rows else None
        others = list[tuple[Lane, Batch]]()
        for each in lanes:
            entries = found.get(each.number, ())
            size = sum(sent_bytes(lane.spec, entry) for entry in entries)
            left -= size
            if left < 0 or not self._is_free(each, traffic.lanes):
                break
            if entries:
                others.append((each, Batch(Source.NEW, entries, size)))
            if each.number == cut:
                break
            self._ready.empty(each)
        return replace(batch, bytes=batch.bytes + sum(share.bytes for _, share in others), others=others)

    def _is_free(self, lane: Lane, lanes: int) -> bool:
        """Whether `lane` may share a request of so many lanes; asked again once the store was read."""
        traffic = self._traffic_of(lane)
        return traffic.is_clean and traffic.lanes >= lanes and not self._pauses.over(lane)

    def shares(self, lane: Lane, batch: Batch) -> list[tuple[Traffic, Batch]]:
        """Return what each lane has in the request of `batch`, that of `lane` first."""
        return [(self._traffic_of(each), share) for each, share in ((lane, batch), *batch.others)]

    def restrict(self, lanes: Iterable[Traffic], most: int) -> None:
        """Let up to `most` lanes share a request with each of `lanes`: a shared one was not accepted."""
        for traffic in lanes:
            traffic.lanes, traffic.rewind = max(most, 1), True
        self._ready.look_again()


async def is_table(transport: Transport, destination: str, *, deadline_s: float) -> Literal[True] | Reply | Failure:
    """Return whether `destination` is a table; or what was answered instead.

    Each row of a table has the system column `tableoid`, a view has none.
    """
    path = f"{destination}?select=tableoid&limit=0"
    answer = await transport.send(Request("GET", path, (), b""), deadline_s=deadline_s)
    return answer if rows_read(answer) is None else True
