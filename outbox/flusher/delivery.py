"""One batch, from its request to its settled verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from outbox import logs
from outbox.entry import State
from outbox.flusher.context import FlusherContext, facts
from outbox.flusher.orphans import gives_up
from outbox.flusher.pauses import Pauses, key_of, wider_than
from outbox.flusher.scheduler import Lanes
from outbox.postgrest import batching
from outbox.postgrest.batch import heads, last_of_each_row, not_behind, own_duplicate, sent_digest
from outbox.postgrest.client import Transport, build
from outbox.postgrest.verdicts import Delivered, Failure, Pause, Refusal, Reject, Reply, Retry, Split, Verdict, judge
from outbox.store.store import Lane, Outgoing

logger = logs.named("outbox.flusher")


class Delivery:
    """The way of one batch through one lane. What it does not get to settle stays pending."""

    def __init__(self, context: FlusherContext, pauses: Pauses, lanes: Lanes, transport: Transport, lane: Lane) -> None:
        self._context = context
        self._store = context.store
        self._limits = context.limits
        self._pauses = pauses
        self._lanes = lanes
        self._transport = transport
        self._lane = lane
        self._traffic = lanes.traffic(lane)
        self._parts: list[Sequence[Outgoing]] = []  # of the batch, still to be sent; the next one last

    async def run(self, batch: Sequence[Outgoing]) -> None:
        """Send `batch`, halving it as long as one of its rows makes the server refuse all of them."""
        self._parts.append(await self.intact(batch))
        while self._parts:
            entries = self._parts.pop()
            if entries and not await self._attempt(entries):
                self._traffic.rewind = True
                return

    async def intact(self, batch: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """Return the entries that are still what was put; a changed one is refused here, and kept."""
        spec = self._lane.spec
        changed = [entry for entry in batch if entry.digest != sent_digest(spec, entry)]
        if not changed:
            return batch
        refusal = Refusal(None, "DIGEST", "the stored entry is not what was put; it was not sent")
        logger.error("stored entries were changed", extra={"ids": [entry.id for entry in changed]})
        await self._context.note(self._note_dead(changed, refusal))
        return [entry for entry in batch if entry not in changed]

    # ------------------------------------------------------------------------------------------ one attempt

    async def _attempt(self, entries: Sequence[Outgoing]) -> bool:
        """Send one request and settle its verdict; False: the rest of the batch must wait."""
        spec = self._lane.spec
        sent, superseded = last_of_each_row(spec, entries)
        request, turn = build(spec, sent), self._pauses.turn()
        outcome = await self._transport.send(request, deadline_s=self._limits.request_deadline_s)
        verdict = judge(spec.operation, len(sent), outcome, own=own_duplicate(spec, sent), sent_bytes=len(request.body))
        await self._learn(entries, verdict, turn)
        match verdict:
            case Delivered():
                await self._delivered(entries)
                return True
            case Split():
                self._split(entries, sent, verdict)
                return True
            case Reject():
                await self._reject(sent[0], superseded, verdict.refusal)
                return True
            case Retry():
                await self._retry(entries, verdict.refusal)
                return not spec.ordered
            case Pause() if verdict.shrink and len(sent) == 1 and self._is_stuck(entries):
                hint = verdict.refusal.hint or "stuck: it fails alone, and others pass it"
                await self._postpone(entries, replace(verdict.refusal, hint=hint), event="stuck")
                return not spec.ordered
            case Pause():
                await self.pause(sent, verdict, outcome, turn)
                return False
            case _:
                assert_never(verdict)

    async def _learn(self, entries: Sequence[Outgoing], verdict: Verdict, turn: int) -> None:
        """An answer about rows ends the pauses of its lane; one about the destination those of everything."""
        if not isinstance(verdict, Pause):
            await self._context.home.learn(self._transport)  # before anything counts as delivered there
        over = self._pauses.ended_by(self._lane, turn)
        if not isinstance(verdict, Pause):
            for entry in entries:
                self._traffic.suspects.pop(entry.seq, None)
            self._lanes.mark_suspects(over, proven=True)
        elif not verdict.refusal.genuine:  # not the server's own words
            return
        else:
            over = [key for key in over if key[0] in wider_than(verdict.scope)]
        await self._pauses.end(over)

    # ------------------------------------------------------------------------------------------ the verdicts

    async def _delivered(self, entries: Sequence[Outgoing]) -> None:
        await self._context.note(self._note_delivered(entries))
        self._resize(len(entries), succeeded=True)

    async def _note_delivered(self, entries: Sequence[Outgoing]) -> None:
        await self._store.settle([entry.seq for entry in entries], State.DELIVERED)
        self._context.tally.delivered[self._lane.spec.destination] += len(entries)
        self._context.state.last_delivery_ms = self._context.clock.now_ms()
        self._context.pulse.delivered()

    def _split(self, entries: Sequence[Outgoing], sent: Sequence[Outgoing], verdict: Split) -> None:
        logger.info("batch refused, halving", extra=facts(self._lane, verdict.refusal, rows=len(sent)))
        if verdict.shrink:
            self._resize(len(sent), succeeded=False)
        first, second = batching.halves(entries)
        self._parts += [second, first]

    async def _reject(self, entry: Outgoing, superseded: Sequence[Outgoing], refusal: Refusal) -> None:
        await self._make_dead(entry, refusal)
        if await self._store.strict_order():
            self._parts = [not_behind(entry, part) for part in self._parts]
        self._parts.append(superseded)  # their winner is dead: they are what the destination gets

    async def _retry(self, entries: Sequence[Outgoing], refusal: Refusal) -> None:
        if await self._is_orphaned(entries[0]):
            gone = f"{refusal.message} (its parent never came: gave up)"
            await self._make_dead(entries[0], replace(refusal, message=gone))
        else:
            await self._postpone(entries, refusal, event="postponed")

    async def pause(self, sent: Sequence[Outgoing], verdict: Pause, outcome: Reply | Failure, turn: int) -> None:
        """Stop sending as far as `verdict` reaches; `turn` is the failed request's."""
        if verdict.shrink:
            self._resize(len(sent), succeeded=False)
            if len(sent) == 1:
                self._traffic.suspects[sent[0].seq] = False
        self._lanes.mark_suspects([key_of(self._lane, verdict.scope)], proven=False)
        await self._pauses.begin(self._lane, verdict, outcome, turn=turn)

    # An entry that fails alone with a timeout, say, may be the cause or may stand in an outage. It is suspected, and
    # the next probe is another one. That one's success proves it: failing alone again, it is postponed by itself.

    def _is_stuck(self, entries: Sequence[Outgoing]) -> bool:
        return any(self._traffic.suspects.get(entry.seq, False) for entry in entries)

    # ------------------------------------------------------------------------------------------ settling

    async def _make_dead(self, entry: Outgoing, refusal: Refusal) -> None:
        """Make `entry` a dead letter."""
        logger.warning("entry refused", extra=facts(self._lane, refusal, id=entry.id))
        await self._context.note(self._note_dead([entry], refusal, attempts=1, batch_rows=1))

    async def _note_dead(
        self, entries: Sequence[Outgoing], refusal: Refusal, *, attempts: int = 0, batch_rows: int | None = None
    ) -> None:
        seqs = [entry.seq for entry in entries]
        await self._store.settle(seqs, State.DEAD, refusal=refusal, attempts=attempts, batch_rows=batch_rows)
        self._context.tally.rejected[self._lane.spec.destination] += len(seqs)

    async def _postpone(self, entries: Sequence[Outgoing], refusal: Refusal, *, event: str) -> None:
        """Let what travelled as one row wait: of each key its first entry, behind which the others stand in line."""
        first = heads(entries)
        wait_s = self._context.backoff_s(max(entry.attempts for entry in first) + 1)
        told = facts(self._lane, refusal, ids=[entry.id for entry in first], wait_s=round(wait_s, 3))
        logger.info("entry postponed", extra=told)
        await self._context.note(self._note_postponed(first, refusal, wait_s, event=event, batch_rows=len(entries)))

    async def _note_postponed(
        self, entries: Sequence[Outgoing], refusal: Refusal, wait_s: float, *, event: str, batch_rows: int
    ) -> None:
        until_ms = self._context.steady_ms() + int(wait_s * 1000) + 1
        seqs = [entry.seq for entry in entries]
        await self._store.postpone(seqs, until_ms, refusal=refusal, attempts=1, event=event, batch_rows=batch_rows)
        self._context.tally.retries[self._lane.spec.destination] += len(seqs)

    async def _is_orphaned(self, entry: Outgoing) -> bool:
        """Whether nobody is left who could bring the row that `entry` refers to, and it has waited long enough."""
        oldest = await self._store.oldest_pending_seq()
        return gives_up(
            entry.attempts + 1,
            since_ms=entry.refused_since_ms,
            now_ms=self._context.clock.now_ms(),
            earlier_pending=oldest is not None and oldest < entry.seq,
            limit=self._limits.orphan_attempts,
            after_s=self._limits.orphan_after_s,
        )

    def _resize(self, sent: int, *, succeeded: bool) -> None:
        """Let the lane's next batch be larger, or smaller: this one may have been too much for the server."""
        self._traffic.limit = batching.next_limit(
            self._traffic.limit, sent=sent, succeeded=succeeded, max_rows=self._limits.batch_rows
        )
