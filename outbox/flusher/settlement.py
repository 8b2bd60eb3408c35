"""Writing down what became of a lane's entries: delivered, dead, or to be sent again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from outbox import logs
from outbox.entry import Outgoing, State
from outbox.flusher.context import FlusherContext, facts
from outbox.flusher.traffic import Sweep
from outbox.postgrest.batch import heads
from outbox.postgrest.verdicts import Refusal
from outbox.store.rows import Lane

logger: logs.Logger = logs.named("outbox.flusher")


class Settlement:
    """Settles entries of one lane in the file, and counts them. A write that has begun is finished."""

    def __init__(self, context: FlusherContext, lane: Lane, sweep: Sweep) -> None:
        self._context = context
        self._store = context.store
        self._lane = lane
        self._sweep = sweep
        self._destination = lane.spec.destination

    async def delivered(self, entries: Sequence[Outgoing]) -> None:
        """Record that they are at their destination."""

        async def note() -> None:
            await self._store.settle([entry.seq for entry in entries], State.DELIVERED)
            self._context.tally.delivered[self._destination] += len(entries)
            state = self._context.state
            state.now = replace(state.now, last_delivery_ms=self._context.clock.now_ms())
            self._context.heartbeat.delivered()

        await self._context.note(note())

    async def refused(
        self, entry: Outgoing, refusal: Refusal, *, batch_rows: int = 1, cause: str | None = None
    ) -> None:
        """Make it a dead letter, by the server's answer. batch_rows: how many went together. cause: as `dead`."""
        logger.warning("entry refused", extra=facts(self._lane, refusal, id=entry.id))
        await self.dead([entry], refusal, attempts=1, batch_rows=batch_rows, cause=cause)

    async def dead(
        self,
        entries: Sequence[Outgoing],
        refusal: Refusal,
        *,
        attempts: int = 0,
        batch_rows: int | None = None,
        cause: str | None = None,
    ) -> None:
        """Make them dead letters. cause: of the run of refusals in which they die."""
        seqs, run = [entry.seq for entry in entries], None if cause is None else (self._lane.number, cause)

        async def note() -> None:
            await self._store.settle(
                seqs, State.DEAD, refusal=refusal, attempts=attempts, batch_rows=batch_rows, run=run
            )
            self._context.tally.rejected[self._destination] += len(seqs)

        await self._context.note(note())

    async def postponed(
        self, entries: Sequence[Outgoing], refusal: Refusal, *, event: str, most_s: float | None = None
    ) -> None:
        """Postpone what travelled as one row: of each key its first entry, behind which the others stand in line."""
        first = heads(entries)
        self._sweep.postponed(max(entry.seq for entry in first), self._store.writer.last_seq)
        wait_s = self._context.backoff_s(max(entry.attempts for entry in first) + 1)
        wait_s = wait_s if most_s is None else min(wait_s, most_s)
        told = facts(self._lane, refusal, ids=[entry.id for entry in first], wait_s=round(wait_s, 3))
        logger.info("entry postponed", extra=told)

        async def note() -> None:
            until_ms = self._context.steady_ms() + int(wait_s * 1000) + 1
            seqs, rows = [entry.seq for entry in first], len(entries)
            await self._store.postpone(seqs, until_ms, refusal=refusal, attempts=1, event=event, batch_rows=rows)
            self._context.tally.retries[self._destination] += len(seqs)

        await self._context.note(note())
