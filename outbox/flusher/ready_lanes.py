"""Which lanes a step looks at: all that have something to send or, of very many, those whose turn is near.

A bot whose rows keep changing their columns has thousands of lanes. Reading them all for each request would cost as
much as thousands of requests, so all are read again only after a share of them has had a turn, or after a poll. Between
two such looks the lanes wait in a queue, and lanes that got new entries are found by these entries.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from outbox.flusher.context import FlusherContext
from outbox.store.rows import Lane

# How many lanes a step looks at.
LOOK = 64
# All are read again when one in this many has had its turn.
SHARE = 16


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

    def turn(self) -> None:
        """Note that a request has begun."""
        self._turns += 1

    def served(self, lane: Lane) -> None:
        """Note that `lane` has rows in it: it comes last."""
        if self._queue.pop(lane.number, None) is not None:
            self._queue[lane.number] = lane

    def look_again(self) -> None:
        """Read all lanes at the next look: some that have left the queue have something to send."""
        self._read_s = float("-inf")

    def empty(self, lane: Lane) -> None:
        """Note that `lane` has nothing to send now."""
        self._queue.pop(lane.number, None)
