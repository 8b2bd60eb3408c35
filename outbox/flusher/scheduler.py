"""Which entries travel next, and which lane has its turn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from outbox.entry import Operation
from outbox.flusher.context import FlusherContext
from outbox.flusher.pauses import PauseKey, Pauses, keys_of
from outbox.postgrest import batching
from outbox.postgrest.batch import like_the_first, sent_bytes, unsuspected
from outbox.store.store import Lane, Outgoing

# While something else on the same project makes it fail, a pause is looked at with one row.
_PROBE_ROWS = 1


@dataclass(slots=True)
class Traffic:
    """What is under way in a lane."""

    lane: Lane
    limit: int  # rows in the next request
    firsts: list[int] = field(default_factory=list)  # the first entry of each batch under way
    last_seq: int = 0  # how far an unordered lane has been handed out
    rewind: bool = False  # something behind last_seq is ready again: end what is under way, then start over
    # Entries that failed alone in a way that may be theirs or an outage's. True: others have passed since.
    suspects: dict[int, bool] = field(default_factory=dict)

    @property
    def under_way(self) -> int:
        """How many requests are under way."""
        return len(self.firsts)

    @property
    def after_seq(self) -> int:
        """Behind which entry the next batch begins; 0: at the oldest, as nothing is under way."""
        return self.last_seq if self.under_way else 0

    def may_start(self) -> bool:
        """Return whether one request more may run beside those under way."""
        return not self.under_way or not (self.lane.spec.ordered or self.rewind)

    def start(self, batch: Sequence[Outgoing]) -> None:
        """Count a request that carries `batch`."""
        self.last_seq = max(self.after_seq, batch[-1].seq)
        self.rewind = self.rewind and self.under_way > 0
        self.firsts.append(batch[0].seq)

    def end(self, batch: Sequence[Outgoing]) -> None:
        """Count it as ended."""
        self.firsts.remove(batch[0].seq)


class Lanes:
    """The traffic of every lane that has had something to send."""

    def __init__(self, context: FlusherContext, pauses: Pauses) -> None:
        self._context = context
        self._pauses = pauses
        self._traffic: dict[int, Traffic] = {}

    def traffic(self, lane: Lane) -> Traffic:
        """Return what is under way in `lane`."""
        return self._traffic.setdefault(lane.number, Traffic(lane, limit=self._context.limits.batch_rows))

    def rewind(self) -> None:
        """Something may be ready behind what the lanes have handed out."""
        for traffic in self._traffic.values():
            traffic.rewind = True

    def under_way(self) -> dict[int, int]:
        """Return the oldest entry under way in each lane, by the lane's number."""
        return {number: min(traffic.firsts) for number, traffic in self._traffic.items() if traffic.firsts}

    def rewind_for_older(self, lanes: Iterable[Lane], under_way: Mapping[int, int]) -> None:
        """Rewind each of `lanes` whose oldest entry is older than what was under way before it was read.

        It was dead then, or somebody's who looked after it by hand, and is ready again.
        """
        for lane in lanes:
            if lane.first_seq < under_way.get(lane.number, 0):
                self.traffic(lane).rewind = True

    def mark_suspects(self, keys: Collection[PauseKey], *, proven: bool) -> None:
        """Say of all suspects under these pauses whether others have passed since they failed."""
        for traffic in self._traffic.values():
            if traffic.suspects and not set(keys).isdisjoint(keys_of(traffic.lane)):
                traffic.suspects = dict.fromkeys(traffic.suspects, proven)

    def in_turn(self, lanes: Sequence[Lane], may_start: Callable[[], bool]) -> Iterator[Lane]:
        """Give the lanes that may start a request: a long backlog of one does not shut out the others.

        A lane comes up again as long as a request of its own is started before the next one is asked for.
        """
        waiting = list(lanes)
        while waiting:
            # Among equals the oldest entry, but for one that may be what a pause is about.
            waiting.sort(key=lambda lane: (self.traffic(lane).under_way, bool(self.traffic(lane).suspects)))
            for lane in list(waiting):
                if not may_start():
                    return
                before = self.traffic(lane).under_way
                yield lane
                if self.traffic(lane).under_way <= before:
                    waiting.remove(lane)

    async def next_batch(self, lane: Lane) -> Sequence[Outgoing]:
        """Return what `lane` may send now: nothing while it is paused, one row while a pause is probed."""
        traffic = self.traffic(lane)
        if not traffic.may_start():
            return ()
        pauses = self._pauses.over(lane)
        if self._pauses.stand_in_the_way(pauses.values()):
            return ()
        rows = 1 if lane.spec.operation is Operation.UPDATE else traffic.limit
        limit = _PROBE_ROWS if pauses else rows
        look = max(limit, self._context.limits.batch_rows) if traffic.suspects else limit
        ready = await self._context.store.ready(lane, after_seq=traffic.after_seq, limit=look)
        if self._pauses.over(lane) != pauses:
            return ()  # it was paused while the store was read
        return batching.take(
            unsuspected(ready, traffic.suspects) if pauses else like_the_first(ready, traffic.suspects),
            size=lambda entry: sent_bytes(lane.spec, entry),
            max_rows=limit,
            max_bytes=self._context.limits.batch_bytes,
        )
