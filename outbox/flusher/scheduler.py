"""Which entries travel next, and which lane has its turn; `flusher.py` states the rules."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from outbox.entry import LaneSpec, Operation, Outgoing
from outbox.flusher.context import FlusherContext
from outbox.flusher.many_lanes import LOOK, ReadyLanes, SharedRequests, may_share
from outbox.flusher.pauses import Pauses
from outbox.flusher.scopes import PauseKey, keys_of
from outbox.flusher.traffic import Batch, RefusalRun, Source, Traffic
from outbox.postgrest.batch import (
    Limit,
    ahead_of_their_keys,
    fitting,
    heads,
    like_the_first,
    sent_bytes,
    unsuspected,
)
from outbox.store.rows import Lane


class Lanes:
    """The traffic of every lane that has had something to send."""

    def __init__(self, context: FlusherContext, pauses: Pauses) -> None:
        self._context = context
        self._store = context.store
        self._pauses = pauses
        self._traffic: dict[int, Traffic] = {}
        self._runs: dict[LaneSpec, RefusalRun] = {}  # of all lanes of a table and operation, whatever their columns
        self._begun = 0  # requests so far
        self.ready: ReadyLanes = ReadyLanes(context)
        self.shared: SharedRequests = SharedRequests(context, pauses, self.ready, self.traffic)
        self._served: dict[str, int] = {}  # when each destination last began one
        # The oldest entry of a shell's that has no key yet: nothing younger that has one may overtake it.
        self.unread_from: int | None = None

    async def load(self) -> None:
        """Read what died in runs of refusals that an earlier process has left."""
        runs = await self._store.refused_runs()
        specs = await self._store.lanes() if runs else {}
        for number, cause, seq in runs:
            self.traffic(Lane(number, specs[number], seq)).refused(cause, seq)

    def traffic(self, lane: Lane) -> Traffic:
        """Return what is under way in `lane`."""
        found = self._traffic.get(lane.number)
        if found is None:
            most, run = self._context.limits.batch_bytes, self._runs.setdefault(lane.spec.kind, RefusalRun())
            found = Traffic(lane, limit=Limit(most, most), run_of_all=run)
            self._traffic[lane.number] = found
        return found

    def refused_alike(self, one: Traffic) -> list[Traffic]:
        """Return the lanes in whose runs rows died as in that of `one`, which differs from them in columns only."""
        return [each for each in self._traffic.values() if each.run_of_all is one.run_of_all and each.run.seqs]

    def rewind(self) -> None:
        """Something may be ready behind what the lanes have handed out."""
        for traffic in self._traffic.values():
            traffic.rewind = True

    def forget_read(self) -> None:
        """Nothing is under way, and what was read may have changed: forget parts and suspects, and start over."""
        for traffic in self._traffic.values():
            traffic.parts.clear()
            traffic.suspects.clear()
        self.rewind()

    def under_way(self) -> dict[int, int]:
        """Return the oldest entry that is taken in each lane, by the lane's number."""
        return {number: min(taken) for number, traffic in self._traffic.items() if (taken := traffic.taken)}

    def rewind_for_older(self, lanes: Iterable[Lane], under_way: Mapping[int, int]) -> None:
        """Rewind each of `lanes` whose oldest entry is older than what was under way before it was read.

        It was dead then, or held back by hand, and is ready again.
        """
        for lane in lanes:
            if lane.first_seq < under_way.get(lane.number, 0):
                self.traffic(lane).rewind = True

    def accuse(self, keys: Collection[PauseKey]) -> None:
        """Mark all suspects under these pauses: nothing has passed since they failed."""
        for traffic in self._traffic.values():
            if traffic.suspects and not set(keys).isdisjoint(keys_of(traffic.lane)):
                traffic.suspects = dict.fromkeys(traffic.suspects, False)

    # ------------------------------------------------------------------------------------------ whose turn it is

    def in_turn(self, lanes: Sequence[Lane], may_start: Callable[[Lane], bool]) -> Iterator[Lane]:
        """Give the lanes that may start a request: that of the destination which has waited longest comes first.

        Within a destination it is the lane that has waited longest. One comes up again as long as a request of its own
        is started before the next one is asked for.
        """
        waiting = [(self._waited(lane), lane.number, lane) for lane in lanes if self._may_go(lane)]
        heapq.heapify(waiting)
        while waiting:
            waited, _, lane = heapq.heappop(waiting)
            if (now := self._waited(lane)) != waited:  # another lane of its destination was served meanwhile
                heapq.heappush(waiting, (now, lane.number, lane))
                continue
            if not may_start(lane) or self.ready.is_spent(lane):
                continue
            yield lane
            if (now := self._waited(lane)) != waited:
                heapq.heappush(waiting, (now, lane.number, lane))

    async def look(self, *, idle: bool) -> Sequence[Lane]:
        """Return the lanes that may have something to send; of very many the next ones. idle: nothing is under way."""
        if not self.ready.must_read(idle=idle) and not self._pauses.may_probe():
            return await self.ready.next(self._may_go)
        under_way = self.under_way()
        lanes = await self.ready.read()
        self.rewind_for_older(lanes, under_way)
        await self._pauses.end_idle(lanes)
        if len(lanes) <= LOOK:
            return lanes
        return self.ready.line_up(sorted(filter(self._may_go, lanes), key=self._waited))

    def _may_go(self, lane: Lane) -> bool:
        return not self._pauses.stand_in_the_way(self._pauses.over(lane).values())

    def _waited(self, lane: Lane) -> tuple[int, int, int]:
        return self._served.get(lane.spec.destination, 0), self.traffic(lane).served, lane.first_seq

    def serve(self, lane: Lane, batch: Batch) -> None:
        """Note that `lane`, and whoever shares its request, has had its turn."""
        self._begun += 1
        served = [lane, *(other for other, _ in batch.others)]
        self.ready.served(served)
        for each in served:
            self.traffic(each).served = self._begun
        self._served[lane.spec.destination] = self._begun

    # ------------------------------------------------------------------------------------------ what it sends

    async def next_batch(self, lane: Lane) -> Batch | None:
        """Return what `lane` may send now: nothing while it is paused, one row while a pause is probed."""
        traffic = self.traffic(lane)
        if lane.spec.ordered and traffic.under_way:
            return None
        pauses = self._pauses.over(lane)
        if self._pauses.stand_in_the_way(pauses.values()):
            return None
        batch = await self._probe(lane, traffic) if pauses else await self._whole(lane, traffic)
        if batch is None or self._pauses.over(lane) != pauses:
            return None  # it was paused while the store was read
        if batch.source is Source.PART:
            traffic.take_part(batch)
        if batch.source is Source.NEW and not pauses and not self.ready.whole and may_share(lane.spec):
            return await self.shared.fill(lane, batch)
        return batch

    async def _whole(self, lane: Lane, traffic: Traffic) -> Batch | None:
        limit = 1 if lane.spec.operation is Operation.UPDATE else self._context.limits.batch_rows
        max_bytes = min(traffic.limit.bytes, self._context.window.request_bytes)
        for source in traffic.sources():
            ready = await self._ready(lane, traffic, source, limit, max_bytes)
            entries = like_the_first(ready, traffic.suspects)
            sizes = sent_bytes(lane.spec, entries)
            if count := fitting(sizes, max_rows=limit, max_bytes=max_bytes):
                return Batch(source, entries[:count], sum(sizes[:count]))
        return None

    async def _probe(self, lane: Lane, traffic: Traffic) -> Batch | None:
        """Return one row that has not failed alone, by turns the last and the first; if there is none, a suspect."""
        sources = [source for source in traffic.sources() if source is not Source.SUSPECT]
        for source in [*sources, Source.SUSPECT]:
            limits = self._context.limits
            limit = limits.batch_rows if lane.spec.ordered else 1
            # Each source by itself: where two take turns, one of them would show its first row only.
            from_the_end = traffic.probes[source] % 2 == 0
            ready = await self._ready(lane, traffic, source, limit, limits.batch_bytes, from_the_end=from_the_end)
            if ready:
                choice = sorted(heads(unsuspected(ready, traffic.suspects)), key=lambda entry: entry.seq)
                traffic.probes[source] += 1
                chosen = choice[-from_the_end]
                return Batch(source, [chosen], sum(sent_bytes(lane.spec, [chosen])), probe=True)
        return None

    async def _ready(
        self, lane: Lane, traffic: Traffic, source: Source, limit: int, max_bytes: int, *, from_the_end: bool = False
    ) -> Sequence[Outgoing]:
        """Return what `source` has ready, oldest first: the first of them, or the last.

        What is read anew exceeds `max_bytes` by one entry at most.
        """
        found = await self._found(lane, traffic, source, limit, max_bytes, from_the_end)
        before = [] if self.unread_from is None or not lane.spec.ordered else [self.unread_from]
        if found and lane.spec.operation is Operation.UPSERT:
            before += await self._inserts_ahead(lane)
        free = [entry for entry in found if entry.seq < min(before)] if before else found
        if lane.spec.ordered and source is Source.NEW and traffic.sweep.is_over(free):
            traffic.sweep.restart()
            return await self._ready(lane, traffic, source, limit, max_bytes, from_the_end=from_the_end)
        return free

    async def _inserts_ahead(self, lane: Lane) -> list[int]:
        """Return the oldest insert of each lane that may bring the row of one of the upserts of `lane`.

        Without a key, the insert stands in no line. The upsert must come after it: an insert that finds its row there
        is ignored, or refused, and the values that only it has are lost.
        """
        if self._pauses.refuses_inserts(lane.spec.destination):
            return []
        ahead = await self._store.inserts_ahead(lane.spec.destination, lane.spec.on_conflict.split(","))
        return [seq for number, seq in ahead if not self._pauses.holds_lane(number)]

    async def _found(
        self, lane: Lane, traffic: Traffic, source: Source, limit: int, max_bytes: int, from_the_end: bool
    ) -> Sequence[Outgoing]:
        match source:
            case Source.PART:
                return await self._part(traffic, last=from_the_end and not lane.spec.ordered)
            case Source.SUSPECT:
                return await self._suspected(traffic, last=from_the_end)
            case Source.NEW if lane.spec.ordered and traffic.parts:
                return ()
            case Source.NEW if lane.spec.ordered:
                look = max(limit, self._context.limits.batch_rows) if traffic.suspects else limit
                return await self._store.ready(lane, after_seq=traffic.sweep.after, limit=look, max_bytes=max_bytes)
            case Source.NEW:
                hidden, after_seq = traffic.taken.union(traffic.suspects), traffic.after()
                if from_the_end:
                    return await self._store.newest(lane, limit=limit, hidden=hidden)
                return await self._store.ready(
                    lane, after_seq=after_seq, limit=limit, max_bytes=max_bytes, hidden=hidden
                )
            case Source.AGAIN:
                hidden = traffic.taken.union(traffic.suspects)
                return await self._store.refused_before(lane, limit=limit, max_bytes=max_bytes, hidden=hidden)

    async def _part(self, traffic: Traffic, *, last: bool) -> Sequence[Outgoing]:
        """Return the first part, or the last one."""
        while traffic.parts:
            if found := ahead_of_their_keys(await self._store.still_pending(traffic.parts[-last].seqs)):
                return found
            del traffic.parts[-last]  # settled by hand
        return ()

    async def _suspected(self, traffic: Traffic, *, last: bool) -> Sequence[Outgoing]:
        """Return one of the suspects that are ready; those that are not pending any more are forgotten."""
        if not traffic.suspects:
            return ()
        waiting = await self._store.still_pending(list(traffic.suspects))
        left = {entry.seq for entry, _ in waiting}
        for seq in [seq for seq in traffic.suspects if seq not in left]:
            del traffic.suspects[seq]
        ready = [entry for entry, waits in waiting if waits is None and entry.seq not in traffic.taken]
        return [ready[-last]] if ready else ()
