"""One batch, from its request to its settled verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from outbox import logs
from outbox.entry import Operation, Outgoing
from outbox.flusher.backoff import UNMATCHED_WAIT_S, lets_pass
from outbox.flusher.context import FlusherContext, facts
from outbox.flusher.many_lanes import DIVISOR, columns_of, is_table
from outbox.flusher.pauses import Pauses
from outbox.flusher.scheduler import Lanes
from outbox.flusher.scopes import key_of, wider_than
from outbox.flusher.settlement import Settlement
from outbox.flusher.traffic import MOST_LANES, Batch, cause_of
from outbox.postgrest import batch as batching
from outbox.postgrest.batch import heads, last_of_each_row, own_duplicate, sent_digests, without_parent
from outbox.postgrest.client import Transport, build
from outbox.postgrest.read_back import conflicts, is_applied
from outbox.postgrest.verdicts import (
    Delivered,
    Failure,
    Pause,
    Reason,
    Refusal,
    Reject,
    Reply,
    Retry,
    Scope,
    Split,
    Verdict,
    judge,
    read_refusal,
    stored_rows,
)
from outbox.store.rows import Lane

logger: logs.Logger = logs.named("outbox.flusher")


class Delivery:
    """One request of one lane. What it does not get to settle stays pending."""

    def __init__(self, context: FlusherContext, pauses: Pauses, lanes: Lanes, transport: Transport, lane: Lane) -> None:
        self._context = context
        self._store = context.store
        self._limits = context.limits
        self._pauses = pauses
        self._lanes = lanes
        self._transport = transport
        self._lane = lane
        self._traffic = lanes.traffic(lane)
        self._settlement = Settlement(context, lane, self._traffic.sweep)
        self._bytes, self._took_s = 0, 0.0  # of its request; until the answer

    async def run(self, batch: Batch) -> None:
        """Send the entries of `batch` that are still as they were put, and settle the answer's verdict."""
        self._bytes = batch.bytes
        entries = await self._intact(batch.all_entries)
        if entries and batch.others:
            await self._share(batch, entries)
        elif entries:
            await self._attempt(entries)

    async def _intact(self, batch: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """Return the entries that are still as they were put; a changed one is refused here, and kept."""
        digests = sent_digests(self._lane.spec, batch)
        changed = [entry for entry, digest in zip(batch, digests, strict=True) if entry.digest != digest]
        if not changed:
            return batch
        refusal = Refusal(None, "DIGEST", "the stored entry is not what was put; it was not sent")
        logger.error("stored entries were changed", extra={"ids": [entry.id for entry in changed]})
        await self._settlement.dead(changed, refusal)
        return [entry for entry in batch if entry not in changed]

    async def _share(self, batch: Batch, entries: Sequence[Outgoing]) -> None:
        """Send rows of many lanes in one request; unless it is accepted, fewer of them share the next one."""
        spec, turn = self._lane.spec, self._pauses.turn()
        outcome = await is_table(self._transport, spec.destination, deadline_s=self._limits.request_deadline_s)
        lanes = [lane for lane, _ in self._lanes.shared.shares(self._lane, batch)]
        if isinstance(outcome, Reply):
            self._lanes.shared.restrict(lanes, 1)
            return
        if outcome is True:
            columns = columns_of(traffic.lane.spec for traffic in lanes)
            request = build(spec._replace(columns=columns), entries)
            outcome, self._took_s = await self._context.window.send(
                self._transport, request, turn, now=self._pauses.turn
            )
        verdict = judge(spec.operation, len(entries), outcome)
        if isinstance(verdict, Delivered):
            await self._learn(entries, verdict, turn)
            await self._delivered(entries)
            return
        if outcome != Failure.UNREACHABLE:
            self._lanes.shared.restrict(lanes, len(lanes) // DIVISOR)
        if isinstance(verdict, Pause) and verdict.scope is not Scope.LANE:
            await self._pause(entries, verdict, outcome, turn)

    async def _attempt(self, entries: Sequence[Outgoing]) -> None:
        """Send one request and settle its verdict."""
        spec = self._lane.spec
        sent, superseded = last_of_each_row(spec, entries)
        request, turn = build(spec, sent), self._pauses.turn()
        outcome, self._took_s = await self._context.window.send(self._transport, request, turn, now=self._pauses.turn)
        verdict = judge(spec.operation, len(sent), outcome, own=own_duplicate(spec, sent), sent_bytes=len(request.body))
        if isinstance(verdict, Reject) and self._is_the_tables(sent[0], verdict.refusal):
            verdict = self._refused_run(verdict.refusal)
        # These two read back first, and learn then: a pause that the reading meets continues the old one.
        if isinstance(verdict, Delivered) and self._needs_proof(outcome, len(sent)):
            await self._prove(sent, outcome, turn)
        elif isinstance(verdict, Retry) and spec.operation is Operation.UPDATE and verdict.refusal.code is None:
            await self._unmatched(entries[0], verdict, turn)
        else:
            await self._learn(entries, verdict, turn)
            await self._settle(entries, sent, superseded, verdict, outcome, turn)

    async def _settle(
        self,
        entries: Sequence[Outgoing],
        sent: Sequence[Outgoing],
        superseded: Sequence[Outgoing],
        verdict: Verdict,
        outcome: Reply | Failure,
        turn: int,
    ) -> None:
        match verdict:
            case Delivered():
                await self._delivered(entries)
            case Split():
                await self._split(entries, sent, verdict)
            case Reject():
                await self._make_dead(sent[0], verdict.refusal)
                self._traffic.split([superseded])  # their winner is dead: they are what the destination gets
            case Retry():
                await self._retry(entries, verdict.refusal)
            case Pause() if len(sent) == 1 and self._is_stuck(sent[0], verdict, outcome):
                hint = verdict.refusal.hint or "stuck: it fails alone, and others pass it"
                self._traffic.suspects[sent[0].seq] = True
                await self._settlement.postponed(entries, replace(verdict.refusal, hint=hint), event="stuck")
            case Pause() if len(sent) > 1 and self._is_known(verdict, outcome):
                await self._split(entries, sent, Split(verdict.refusal, shrink=verdict.shrink))
            case Pause():
                await self._pause(sent, verdict, outcome, turn)
            case _:
                assert_never(verdict)

    # ------------------------------------------------------------------------------------------ whether it is there

    def _needs_proof(self, outcome: Reply | Failure, sent: int) -> bool:
        """Whether the server ignored a row whose id the caller may have chosen, so that another may be there."""
        spec = self._lane.spec
        if spec.operation is not Operation.INSERT or not spec.ordered or not isinstance(outcome, Reply):
            return False
        if not 200 <= outcome.status < 300:  # a duplicate of our own key
            return True
        stored = stored_rows(outcome)
        if stored is None and self._is_news("uncounted"):
            told = {"destination": spec.destination}
            logger.warning("server does not say how many rows it stored: duplicates are not checked", extra=told)
        return stored is not None and stored != sent

    async def _prove(self, sent: Sequence[Outgoing], outcome: Reply | Failure, turn: int) -> None:
        """Settle each entry by what the remote end holds under its id."""
        spec, status = self._lane.spec, outcome.status if isinstance(outcome, Reply) else 0
        kept = await self._store.resent([entry.seq for entry in sent])  # it may have been changed since it arrived
        kept.update(entry.seq for entry in sent if entry.if_exists == "keep")
        deadline_s = self._limits.request_deadline_s
        found = await conflicts(self._transport, spec, sent, status, kept=kept, deadline_s=deadline_s)
        if not isinstance(found, dict):
            await self._unproven(sent, found, turn)
            return
        await self._learn(sent, Delivered(), turn)
        for entry in sent:
            if (refusal := found.get(entry.seq)) is not None:
                await self._settlement.refused(entry, refusal, batch_rows=len(sent))
        if arrived := [entry for entry in sent if entry.seq not in found]:
            await self._delivered(arrived)

    async def _unproven(self, sent: Sequence[Outgoing], answer: Reply | Failure, turn: int) -> None:
        """Leave the entries pending: nobody knows whether they are there."""
        verdict = judge(Operation.INSERT, 2, answer)
        if isinstance(verdict, Pause) and (verdict.scope is Scope.EVERYTHING or not verdict.reason.needs_operator):
            await self._pause(sent, verdict, answer, turn)
            return
        await self._learn(sent, Delivered(), turn)
        refusal = read_refusal(answer) if isinstance(answer, Reply) else Refusal(None, None, answer.said)
        if self._is_news("unreadable"):
            told = {"destination": self._lane.spec.destination}
            logger.warning("rows with ids of your own cannot be read back: grant select to the bot's role", extra=told)
        hint = "whether it is there is not known before the bot's role may read the table: grant select on it"
        await self._settlement.postponed(sent, replace(refusal, hint=refusal.hint or hint), event="postponed")

    def _is_news(self, what: str) -> bool:
        """Whether this was not yet reported for the table."""
        before = len(self._context.told)
        self._context.told.add((self._lane.spec.destination, what))
        return len(self._context.told) > before

    async def _learn(self, entries: Sequence[Outgoing], verdict: Verdict, turn: int) -> None:
        """End pauses: an answer about rows ends its lane's; one about the destination ends those of everything."""
        if isinstance(verdict, Pause):
            if verdict.refusal.genuine:  # the server's own words
                over = self._pauses.ended_by(self._lane, turn, accepted=False)
                await self._pauses.end([key for key in over if key[0] in wider_than(verdict.scope)], self._lane)
            return
        await self._context.binding.learn(self._transport)  # before anything counts as delivered there
        self._pauses.answered(self._lane, turn)
        if self._traffic.suspects:
            passed = {entry.seq for entry in entries}
            self._traffic.suspects = dict.fromkeys((seq for seq in self._traffic.suspects if seq not in passed), True)
        self._traffic.passed = True
        accepted = isinstance(verdict, Delivered)
        if accepted and self._traffic.run_of_all.seqs:
            over = self._pauses.ended_by(self._lane, turn, accepted=accepted)
            await self._end_run(revive=self._pauses.is_refused(over))
        # Asked only now: another answer may have ended some of them while the run was written down.
        await self._pauses.end(self._pauses.ended_by(self._lane, turn, accepted=accepted), self._lane)

    # ------------------------------------------------------------------------------------------ the verdicts

    async def _delivered(self, entries: Sequence[Outgoing]) -> None:
        await self._settlement.delivered(entries)
        self._traffic.accepted([entry.seq for entry in entries])
        self._traffic.lanes = MOST_LANES
        self._resize(len(entries), self._took_s)

    async def _split(self, entries: Sequence[Outgoing], sent: Sequence[Outgoing], verdict: Split) -> None:
        logger.info("batch refused, halving", extra=facts(self._lane, verdict.refusal, rows=len(sent)))
        if verdict.shrink:
            self._resize(len(sent), None)
        orphans = without_parent(entries, verdict.refusal.details) if verdict.refusal.code == "23503" else ()
        if orphans:  # the server has named the row that all of these wait for
            await self._retry(orphans, verdict.refusal)
        left = [entry for entry in entries if entry not in orphans] if orphans else entries
        many = len(left) > 1 and len(orphans) * 10 < len(left)
        self._traffic.split(batching.halves(left) if many else [left])

    async def _unmatched(self, entry: Outgoing, answer: Retry, turn: int) -> None:
        """An update matched no row: an earlier try has applied it, or its row is not there."""
        spec, deadline_s = self._lane.spec, self._limits.request_deadline_s
        named = self._context.destinations(spec.destination)
        found = await is_applied(self._transport, spec, entry, named, deadline_s=deadline_s)
        if not isinstance(found, bool):
            verdict = judge(Operation.INSERT, 2, found)
            if isinstance(verdict, Pause) and not verdict.reason.needs_operator:  # else: the role may not read it
                await self._pause([entry], verdict, found, turn)
                return
        await self._learn([entry], Delivered() if found is True else answer, turn)
        if found is True:
            await self._delivered([entry])
            return
        refusal = answer.refusal
        behind, bringer = await self._store.behind(entry.seq)
        since_ms = self._context.refused_since_ms(entry)
        waited_s = 0.0 if since_ms is None else (self._context.steady_ms() - since_ms) / 1000
        passes = lets_pass(behind=behind, bringer=bringer, waited_s=waited_s)
        if passes and not await self._store.may_come(spec.destination, entry.seq):
            gone = replace(refusal, message=f"{refusal.message} (gave up: later entries of its key go on)")
            await self._settlement.refused(entry, gone)
        elif self._context.is_orphaned(entry, await self._store.oldest_pending_seq()):
            await self._make_dead(entry, replace(refusal, message=f"{refusal.message} (gave up: its row never came)"))
        else:
            self._traffic.refusals += 1
            most_s = max(UNMATCHED_WAIT_S - waited_s, 1.0) if behind and not passes else None
            await self._settlement.postponed([entry], refusal, event="postponed", most_s=most_s)
            if not passes:  # else its row may be on its way, and nothing behind it would bring that sooner
                wait_ms = int((UNMATCHED_WAIT_S - waited_s) * 1000)
                self._context.unmatched.add(entry.seq, self._context.steady_ms() + wait_ms)

    async def _retry(self, entries: Sequence[Outgoing], refusal: Refusal) -> None:
        self._traffic.refusals += len(entries)
        oldest = await self._store.oldest_pending_seq()
        lost = [entry for entry in heads(entries) if self._context.is_orphaned(entry, oldest)]
        for entry in lost:
            gone = f"{refusal.message} (gave up: its parent never came)"
            await self._make_dead(entry, replace(refusal, message=gone))
        if left := [entry for entry in heads(entries) if entry not in lost] if lost else entries:
            await self._settlement.postponed(left, refusal, event="postponed")

    async def _pause(self, sent: Sequence[Outgoing], verdict: Pause, outcome: Reply | Failure, turn: int) -> None:
        """Stop sending as far as `verdict` reaches; `turn` is the failed request's."""
        if verdict.shrink:
            self._resize(len(sent), None)
        unsent = outcome in (Failure.UNREACHABLE, Failure.MISCONFIGURED)
        if len(sent) == 1 and not unsent and verdict.reason is not Reason.RATE_LIMITED:
            self._traffic.suspects[sent[0].seq] = False
        self._traffic.trouble, self._traffic.passed = (verdict.refusal.status, verdict.refusal.code), False
        key = await self._pauses.begin(self._lane, verdict, outcome, turn=turn)
        self._lanes.accuse([key])
        self._traffic.rewind = True

    # ------------------------------------------------------------------------------------------ whose fault it is

    def _is_stuck(self, entry: Outgoing, verdict: Pause, outcome: Reply | Failure) -> bool:
        if verdict.reason is Reason.REFUSED:
            return False
        if self._traffic.suspects.get(entry.seq, False):
            return True
        if not self._is_known(verdict, outcome):
            return False
        self._traffic.passed = False  # one at a time: if another fails before any has passed, it is an outage
        return True

    def _is_known(self, verdict: Pause, outcome: Reply | Failure) -> bool:
        """Return whether a row of the lane has passed since this very answer paused it: then it concerns its rows.

        A rate limit concerns none of them.
        """
        if not isinstance(outcome, Reply) or verdict.reason is Reason.RATE_LIMITED:
            return False
        found = self._traffic.trouble == (verdict.refusal.status, verdict.refusal.code)
        return found and self._traffic.passed

    def _is_the_tables(self, entry: Outgoing, refusal: Refusal) -> bool:
        """Return whether this refusal is one too many for its cause."""
        if self._pauses.is_refused(self._pauses.over(self._lane)):
            return True
        return self._may_be_the_tables(entry) and self._traffic.is_run_full(cause_of(refusal))

    def _may_be_the_tables(self, entry: Outgoing) -> bool:
        """Return False if `entry` was refused before, or came in a batch of which others were accepted."""
        return entry.attempts == 0 and not self._traffic.mixed

    def _refused_run(self, refusal: Refusal) -> Pause:
        """Pause the lane; or the table, where no one lane was refused so often, but many of them together."""
        cause, spec = cause_of(refusal), self._lane.spec
        over = self._pauses.over(self._lane)
        alike = [key for key in over if key[0] is Scope.DESTINATION]
        wide = self._pauses.is_refused(alike) or not self._traffic.run.is_full(cause)
        wide = wide and not self._pauses.is_refused([key_of(self._lane, Scope.LANE)])
        count = len((self._traffic.run_of_all if wide else self._traffic.run).seqs)
        command = f"outbox requeue --destination {spec.destination}"
        if refusal.code:
            command += f" --code {refusal.code}"
        words = f"{count} rows died of it; they come back with the first that is accepted, or: {command}"
        told = replace(refusal, message=f"{refusal.message} ({words})")
        return Pause(Scope.DESTINATION if wide else Scope.LANE, Reason.REFUSED, told, slow=True)

    async def _end_run(self, *, revive: bool) -> None:
        """A row was accepted. revive: it was a probe, so what died by the table's fault is pending again."""
        if not revive:
            if self._traffic.run.seqs:
                await self._store.forget_run(self._lane.number)
            self._traffic.end_run()
            return
        count = 0
        for traffic in self._lanes.refused_alike(self._traffic):
            count += await self._store.end_run(traffic.lane.number)
            traffic.end_run()
            traffic.rewind = True
        told = {"destination": self._lane.spec.destination, "rows": count}
        logger.warning("refused entries are pending again: their table accepts rows", extra=told)

    async def _make_dead(self, entry: Outgoing, refusal: Refusal) -> None:
        """Make `entry` a dead letter, one of a run of refusals unless it is at fault itself."""
        self._traffic.refusals += 1
        cause = cause_of(refusal) if self._may_be_the_tables(entry) else None
        if cause is not None:
            self._traffic.refused(cause, entry.seq)
        await self._settlement.refused(entry, refusal, cause=cause)

    def _resize(self, rows: int, took_s: float | None) -> None:
        """Make the lane's next batch larger, or smaller if `took_s` is None: this one may have been too much."""
        if took_s is None and rows == 1:  # nobody can send less
            return
        self._traffic.limit = batching.next_limit(
            self._traffic.limit,
            sent=self._bytes,
            took_s=took_s,
            deadline_s=self._limits.request_deadline_s,
            most=self._limits.batch_bytes,
        )
