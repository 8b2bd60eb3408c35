"""Entries of all lanes in one request, in the order of their puts, where the server has a function.

With OUTBOX_RPC=auto, `outbox_apply` (supabase_sql/optional) takes what is ready of every lane that no pause holds back,
one request at a time: a parent that was put before its child arrives before it. Each row is answered for, and settled
as its own lane would have settled it. What the function says of more than a row, such as a table that is missing, is
for the lane itself to find out: it sends by itself for a while, and pauses if its own request is refused too. When
there is no such function, or it fails in a way that is not the whole remote end's, all lanes send by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from outbox import logs
from outbox.flusher import rpc_apply
from outbox.flusher.context import FlusherContext
from outbox.flusher.delivery import Delivery
from outbox.flusher.pauses import Pauses
from outbox.flusher.rpc_apply import Mixed, Rpc
from outbox.flusher.scheduler import Lanes, Traffic
from outbox.postgrest import batching
from outbox.postgrest.batch import sent_bytes
from outbox.postgrest.client import Request, Transport
from outbox.postgrest.verdicts import Delivered, Failure, Pause, Reply, Scope, Split, Verdict
from outbox.store.store import Lane, Outgoing

logger = logs.named("outbox.flusher")

# After an answer that the plain tables may not give, they are used for so long: all of them, or those it was about.
_REST_S = 60.0
# A refused row is answered with some hundred bytes, and there may be 10,000 of them.
_LONGEST_ANSWER = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Item:
    """An entry and its lane."""

    lane: Lane
    entry: Outgoing


class Together(Traffic):
    """The traffic of all lanes that share one request: none of them starts another one meanwhile."""

    def __init__(self, parts: Sequence[tuple[Traffic, Sequence[Outgoing]]]) -> None:
        super().__init__(parts[0][0].lane, limit=parts[0][0].limit)
        self._parts = parts

    def start(self, batch: Sequence[Outgoing]) -> None:
        """Count the request in each lane."""
        self.firsts.append(batch[0].seq)
        for traffic, entries in self._parts:
            traffic.start(entries)

    def end(self, batch: Sequence[Outgoing]) -> None:
        """Count it as ended in each lane, and begin each anew: what was held back is ready again."""
        self.firsts.clear()
        for traffic, entries in self._parts:
            traffic.end(entries)
            traffic.rewind = True


class Mixer:
    """Decides whether the next request is a mixed one, and delivers it."""

    def __init__(self, context: FlusherContext, pauses: Pauses, lanes: Lanes) -> None:
        self._context = context
        self._pauses = pauses
        self._lanes = lanes
        self._resting_until_s = float("-inf")
        self._apart_until_s: dict[int, float] = {}  # by the lane's number
        self._limit = context.limits.batch_rows  # rows in the next request
        self._last: Together | None = None

    @property
    def on(self) -> bool:
        """Whether requests are mixed now."""
        return self._context.limits.rpc is Rpc.AUTO and self._resting_until_s <= self._context.clock.monotonic_s()

    def forget(self) -> None:
        """Ask for the function again with the next request: the settings have changed."""
        self._resting_until_s = float("-inf")
        self._apart_until_s.clear()

    async def next_batch(self, lanes: Sequence[Lane]) -> list[Item]:
        """Return what is ready of the lanes that nothing holds back, in the order of the puts.

        Each lane is read as far as it could fill the request alone: which has the oldest entries is not known before.
        """
        limits, found = self._context.limits, list[Item]()
        if self._last is not None and self._last.under_way:
            return []  # one at a time: what is put later must not overtake what is under way
        for lane in lanes:
            if self._may_join(lane):
                ready = await self._context.store.ready(lane, after_seq=0, limit=self._limit)
                found += [Item(lane, entry) for entry in ready]
        return batching.take(
            # Again: a probe may have ended while the store was read.
            sorted((item for item in found if self._may_join(item.lane)), key=lambda item: item.entry.seq),
            size=lambda item: sent_bytes(item.lane.spec, item.entry) + 200,  # the entry's own frame
            max_rows=self._limit,
            max_bytes=limits.batch_bytes,
        )

    def takes(self, lane: Lane) -> bool:
        """Whether the entries of `lane` travel in mixed requests: not set apart, not paused, and no suspect is in it.

        The others send by themselves, also while a mixed request is under way.
        """
        if self._apart_until_s.get(lane.number, float("-inf")) > self._context.clock.monotonic_s():
            return False
        return not self._pauses.over(lane) and not self._lanes.traffic(lane).suspects

    def _may_join(self, lane: Lane) -> bool:
        return self.takes(lane) and not self._lanes.traffic(lane).under_way

    def traffic(self, batch: Sequence[Item]) -> Together:
        """Return what counts the request in the lanes of `batch`."""
        self._last = Together([(self._lanes.traffic(lane), entries) for lane, entries in _by_lane(batch)])
        return self._last

    async def run(self, batch: Sequence[Item], transport: Transport) -> None:
        """Send `batch` and settle each row's verdict."""
        deliveries = {lane: self._delivery(lane, transport) for lane, _ in _by_lane(batch)}
        intact = {entry.seq for lane, part in _by_lane(batch) for entry in await deliveries[lane].intact(part)}
        sent = [item for item in batch if item.entry.seq in intact]
        if not sent:
            return
        turn = self._pauses.turn()
        mixed = [Mixed(item.lane.spec, item.entry) for item in sent]
        outcome = await transport.send(self._request(mixed), deadline_s=self._context.limits.request_deadline_s)
        found = rpc_apply.verdicts(mixed, outcome)
        if not isinstance(found, list):
            await self._not_applied(deliveries[sent[0].lane], sent, found, outcome, turn)
            return
        self._resize(len(sent), succeeded=True)
        verdicts = {item.entry.seq: verdict for item, verdict in zip(sent, found, strict=True)}
        for lane, part in _by_lane(sent):
            told = [verdicts[entry.seq] for entry in part]
            if any(isinstance(verdict, Pause) for verdict in told) or not any(told):
                self._set_apart(lane)  # or what is not settled here would be in each request from now on
            await deliveries[lane].settle(list(zip(part, told, strict=True)), turn)

    def _delivery(self, lane: Lane, transport: Transport) -> Delivery:
        return Delivery(self._context, self._pauses, self._lanes, transport, lane)

    def _request(self, mixed: Sequence[Mixed]) -> Request:
        content = rpc_apply.body(mixed, strict=self._context.limits.strict_order)
        return Request("POST", rpc_apply.FUNCTION, (("content-type", "application/json"),), content, _LONGEST_ANSWER)

    def _set_apart(self, lane: Lane) -> None:
        self._apart_until_s[lane.number] = self._context.clock.monotonic_s() + _REST_S

    def _resize(self, sent: int, *, succeeded: bool) -> None:
        """Let the next request be larger, or smaller: this one may have been too much for the server."""
        most = self._context.limits.batch_rows
        self._limit = batching.next_limit(self._limit, sent=sent, succeeded=succeeded, max_rows=most)

    async def _not_applied(
        self, delivery: Delivery, sent: Sequence[Item], verdict: Verdict, outcome: Reply | Failure, turn: int
    ) -> None:
        """Nothing was applied, as far as known. What the whole remote end says is a pause; else the lanes try."""
        if isinstance(verdict, Pause | Split) and verdict.shrink:
            self._resize(len(sent), succeeded=False)
        if isinstance(verdict, Pause) and verdict.scope is Scope.EVERYTHING:
            await delivery.pause([item.entry for item in sent], verdict, outcome, turn)
        elif rpc_apply.is_absent(outcome):
            self._resting_until_s = float("inf")
            logger.info("no outbox_apply at the remote end: each table is sent to by itself")
        else:
            self._resting_until_s = self._context.clock.monotonic_s() + _REST_S
            refusal = None if isinstance(verdict, Delivered) else verdict.refusal
            told = {"status": refusal and refusal.status, "code": refusal and refusal.code}
            logger.warning("outbox_apply failed: each table is sent to by itself for a while", extra=told)


def _by_lane(items: Sequence[Item]) -> list[tuple[Lane, list[Outgoing]]]:
    found: dict[Lane, list[Outgoing]] = {}
    for item in items:
        found.setdefault(item.lane, []).append(item.entry)
    return list(found.items())
