"""Very many lanes: which of them a step looks at, and which share a request.

A bot whose rows keep changing their columns has thousands of lanes. Reading them all for each request would cost as
much as thousands of requests, so all are read again only after a share of them has had a turn, or after a poll. Between
two such looks the lanes wait in a queue, and lanes that got new entries are found by these entries.

Inserts with different sets of columns share a request where that means the same. PostgREST gives a row the default of
each column that it does not have (`missing=default`). That means the same as a request of its own on a table, for
inserts: an upsert would overwrite what it does not name, and of a view PostgREST does not know the defaults of the
table beneath. So the table is asked first whether it is one. After a refusal a sixteenth of the lanes share a request,
and in the end each travels alone: a misspelt column holds back only its own lanes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

from outbox.entry import LaneSpec, Operation
from outbox.flusher.context import FlusherContext
from outbox.flusher.pauses import Pauses
from outbox.flusher.traffic import Batch, Source, Traffic
from outbox.postgrest.batch import sent_bytes
from outbox.postgrest.client import Request, Transport
from outbox.postgrest.read_back import rows_read
from outbox.postgrest.verdicts import Failure, Reply
from outbox.store.rows import Lane

# How many lanes a step looks at.
LOOK = 64
# All are read again when one in this many has had its turn.
SHARE = 16
DIVISOR = 16
# Bytes of the names of their columns; Supabase's gateway takes 16 kB of URL and headers together.
_LONGEST_COLUMNS = 8000


class ReadyLanes:
    """The lanes that may have something to send. whole: the last look left none of them out."""

    def __init__(self, context: FlusherContext) -> None:
        self._context = context
        self._queue: dict[int, Lane] = {}
        self._count = 0  # at the last look at all of them
        self._read_s = float("-inf")
        self._seen_seq = 0
        self._turns = 0  # since then
        self.whole: bool = True

    def must_read(self, *, idle: bool) -> bool:
        """Return whether all lanes must be read. idle: nothing is under way."""
        return (
            self._count <= LOOK
            or self._turns * SHARE >= self._count
            or (idle and not self._queue)
            or self._context.clock.monotonic_s() - self._read_s >= self._context.limits.poll_s
        )

    async def read(self) -> list[Lane]:
        """Read all lanes that have something to send."""
        seen = self._context.store.writer.last_seq
        lanes = await self._context.store.ready_lanes()
        self.whole, self._count, self._turns, self._queue = True, len(lanes), 0, {}
        self._read_s, self._seen_seq = self._context.clock.monotonic_s(), seen
        return lanes

    def line_up(self, lanes: Iterable[Lane]) -> Sequence[Lane]:
        """Queue `lanes`, given longest wait first, in turns of their destinations; return the first of them."""
        places: Counter[str] = Counter()
        placed = list[tuple[int, Lane]]()
        for lane in lanes:
            placed.append((places[lane.spec.destination], lane))
            places[lane.spec.destination] += 1
        placed.sort(key=lambda each: each[0])
        self._queue = {lane.number: lane for _, lane in placed}
        self.whole = len(placed) <= LOOK
        return list(itertools.islice(self._queue.values(), LOOK))

    async def next(self, may_go: Callable[[Lane], bool]) -> Sequence[Lane]:
        """Return the first of the known lanes, with those that got new entries since the last look."""
        seen = self._context.store.writer.last_seq
        fresh = await self._context.store.lanes_put_since(self._seen_seq)
        self.whole, self._seen_seq = False, seen
        new = {lane.number: lane for lane in fresh if lane.number not in self._queue}
        self._queue = {**new, **self._queue} if new else self._queue
        found = list[Lane]()
        for lane in list(self._queue.values()):
            if len(found) == LOOK:
                break
            if may_go(lane):
                found.append(lane)
            else:
                self.empty(lane)
        return found

    def waiting(self) -> list[Lane]:
        """Return those that stand in the queue."""
        return list(self._queue.values())

    def is_spent(self, lane: Lane) -> bool:
        """Return whether `lane` has shared another one's request since it was looked at."""
        return not self.whole and lane.number not in self._queue

    def served(self, lanes: Iterable[Lane]) -> None:
        """Note that a request with rows of `lanes` has begun: they come last."""
        self._turns += 1
        for lane in lanes:
            if self._queue.pop(lane.number, None) is not None:
                self._queue[lane.number] = lane

    def look_again(self) -> None:
        """Read all lanes at the next look: some that have left the queue have something to send."""
        self._read_s = float("-inf")

    def empty(self, lane: Lane) -> None:
        """Note that `lane` has nothing to send now."""
        self._queue.pop(lane.number, None)


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
            size = sum(sent_bytes(lane.spec, entries))
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
