"""What is not sent for a while: each pause begins, is probed and ends here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from outbox import logs
from outbox.entry import Operation, State
from outbox.flusher import backoff
from outbox.flusher.context import FlusherContext, facts
from outbox.flusher.scopes import EVERYTHING, Paused, PauseKey, held_words, key_of, keys_of, wider_than
from outbox.postgrest import project
from outbox.postgrest.verdicts import Failure, Pause, Reason, Refusal, Reply, Scope
from outbox.store.rows import Lane, StoredPause, total

logger: logs.Logger = logs.named("outbox.flusher")

# A rate limit is everybody's, unless one destination meets it this often in a row and others get through between.
_LIMITS_ALONE = 2


@dataclass(frozen=True, slots=True)
class _Backlog:
    """What was pending when the last pause ended: how many entries, up to which number."""

    until_seq: int
    entries: int
    since_ms: int


class Pauses:
    """The pauses in force, in memory and in the file."""

    def __init__(self, context: FlusherContext) -> None:
        self._context = context
        self._store = context.store
        self._clock = context.clock
        self._paused: dict[PauseKey, Paused] = {}
        self._turns = count(1)
        self._backlog: _Backlog | None = None
        self._limited: dict[str, tuple[int, int]] = {}  # how often in a row each met a rate limit; the last turn
        self._answered: dict[PauseKey, int] = {}  # by what a pause would hold back: the last turn that got through

    async def load(self) -> None:
        """Read the pauses that an earlier process left, so that a restart neither forgets nor storms."""
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
        for stored in await self._store.pauses():
            wait_s = backoff.remaining_s(stored.next_try_at_ms, now_ms=now_ms, cap_s=self._context.longest_wait_s)
            self._paused[Scope(stored.scope), stored.subject] = Paused(stored, self.turn(), now_s + wait_s)

    def turn(self) -> int:
        """Return the next place in the order of requests and pauses."""
        return next(self._turns)

    # ------------------------------------------------------------------------------------------ looking

    def over(self, lane: Lane) -> dict[PauseKey, Paused]:
        """Return the pauses that hold `lane` back, the widest first."""
        if not self._paused:  # asked of thousands of lanes
            return {}
        found = {key: self._paused[key] for key in keys_of(lane) if key in self._paused}
        return {key: pause for key, pause in found.items() if pause.holds(lane)}

    def holds_lane(self, number: int) -> bool:
        """Return whether this lane is paused by itself."""
        return (Scope.LANE, str(number)) in self._paused

    def refuses_inserts(self, destination: str) -> bool:
        """Return whether the table refuses all inserts, whatever their columns."""
        pause = self._paused.get((Scope.DESTINATION, destination))
        return (
            pause is not None
            and pause.stored.reason == Reason.REFUSED
            and any(lane.spec.operation is Operation.INSERT for lane in pause.met.values())
        )

    def ended_by(self, lane: Lane, turn: int, *, accepted: bool) -> list[PauseKey]:
        """Return the pauses over `lane` that an answer to a request from turn `turn` may end.

        A request sent before a limit was met says nothing about it. accepted: a row was; nothing else ends a pause that
        began because none was.
        """
        return [
            key
            for key, pause in self.over(lane).items()
            if (pause.turn < turn or pause.stored.reason != Reason.RATE_LIMITED)
            and (accepted or pause.stored.reason != Reason.REFUSED)
        ]

    def is_refused(self, keys: Collection[PauseKey]) -> bool:
        """Return whether one of these pauses is in force because row after row was refused."""
        return any(key in self._paused and self._paused[key].stored.reason == Reason.REFUSED for key in keys)

    def _is_due(self, pause: Paused) -> bool:
        return pause.due_s <= self._clock.monotonic_s()

    def waits_s(self) -> list[float]:
        """Return, for each pause that is not due yet, the seconds until it is."""
        # One that is due already was tried in this step, or has nothing to send: the next commit wakes us.
        now_s = self._clock.monotonic_s()
        return [pause.due_s - now_s for pause in self._paused.values() if pause.due_s > now_s]

    def may_probe(self) -> bool:
        """Return whether some pause is due and nobody probes it yet."""
        return any(self._is_due(pause) and not pause.probing for pause in self._paused.values())

    def stand_in_the_way(self, pauses: Collection[Paused]) -> bool:
        """Return whether one of `pauses` forbids even a probe: not due yet, or probed at this moment."""
        return any(pause.probing or not self._is_due(pause) for pause in pauses)

    def for_operators(self, since: int) -> dict[PauseKey, StoredPause]:
        """Return the pauses that only an operator can end and that have survived a try since turn `since`."""
        return {
            key: pause.stored
            for key, pause in self._paused.items()
            if pause.tried > since and not pause.probing and Reason(pause.stored.reason).needs_operator
        }

    # ------------------------------------------------------------------------------------------ probing

    def settings_may_help(self) -> bool:
        """Return True once for each pause that has become due: its probe deserves fresh settings."""
        due = [pause for pause in self._paused.values() if self._is_due(pause) and not pause.reread]
        for pause in due:
            pause.reread = True
        return bool(due)

    def probe(self, lane: Lane) -> Sequence[Paused]:
        """Mark the pauses over `lane` as probed by a request that starts now, and return them for `probed`."""
        pauses = list(self.over(lane).values())
        for pause in pauses:
            pause.probing = True
        return pauses

    @staticmethod
    def probed(pauses: Sequence[Paused]) -> None:
        """Take the mark off: the request has ended."""
        for pause in pauses:
            pause.probing = False

    def make_due(self) -> None:
        """Let every pause be probed at once; the count of its failures stays."""
        self._make_due(self._paused.values())

    def make_untried_due(self, since: int) -> bool:
        """The same for those that no request since turn `since` has met; return whether there was one."""
        untried = [pause for pause in self._paused.values() if pause.tried <= since and not self._is_due(pause)]
        self._make_due(untried)
        return bool(untried)

    def try_elsewhere(self, lanes: Iterable[Lane]) -> bool:
        """Make the pause of everything due if one of the destinations of `lanes` has not met it; return whether."""
        pause = self._paused[EVERYTHING]
        met = {lane.spec.destination for lane in pause.met.values()}
        if pause.stored.reason == Reason.OTHER_PROJECT or {lane.spec.destination for lane in lanes} <= met:
            return False
        self._make_due([pause])
        return True

    def _make_due(self, pauses: Iterable[Paused]) -> None:
        for pause in pauses:
            pause.due_s, pause.reread = self._clock.monotonic_s(), False

    # ------------------------------------------------------------------------------------------ beginning

    async def begin(self, lane: Lane, verdict: Pause, outcome: Reply | Failure, *, turn: int) -> PauseKey:
        """Stop sending in the verdict's scope for a while, or for a while longer; `turn` is the failed request's.

        It reaches no further than what is known to fail. Returns what is held back. One row of `outbox_pauses` changes,
        no entry does.
        """
        key = key_of(lane, self._scope(lane, verdict, turn))
        before = self._paused.get(key)
        if before is not None and before.turn > turn:
            before.tried = max(before.tried, turn)
            before.met[lane.number] = lane
            return key  # several requests met the same failure: it counts once
        failures = before.stored.failures + 1 if before else 1
        wait_s = self._wait_s(verdict, outcome, failures)
        if key == EVERYTHING and verdict.slow and (before is None or not before.was_met_by(lane.spec.destination)):
            wait_s = min(wait_s, self._context.backoff_s(1))  # another destination is asked at once
        told = facts(
            lane,
            verdict.refusal,
            scope=key[0].value,
            what="everything" if key == EVERYTHING else held_words(lane, key[0]),
            reason=verdict.reason.value,
            why=verdict.reason.words,
            failures=failures,
            wait_s=round(wait_s, 3),
        )
        if before is None:
            logger.warning("sending paused", extra=told)
        elif verdict.reason.needs_operator and not Reason(before.stored.reason).needs_operator:
            logger.warning("sending still paused, needs an operator", extra=told)
        else:
            logger.info("sending still paused", extra=told)
        met = {**(before.met if before else {}), lane.number: lane}
        await self._stand(key, verdict.reason, verdict.refusal, before, wait_s, tried=turn if wait_s else 0, met=met)
        return key

    def _scope(self, lane: Lane, verdict: Pause, turn: int) -> Scope:
        """Return how far a failure reaches: its verdict's scope, or less where others are known to get through.

        A lane that is already under a narrower pause shows nothing of the others. Nor does one whose neighbours'
        requests began later and were answered before it failed.
        """
        if verdict.reason is Reason.RATE_LIMITED:  # what passes today is over the limit tomorrow
            return Scope.DESTINATION if self._is_limited_alone(lane.spec.destination, turn) else verdict.scope
        within = [scope for scope in Scope if scope not in wider_than(verdict.scope)]
        standing = [scope for scope in within if key_of(lane, scope) in self._paused]
        if standing:
            return standing[0]
        passing = [scope for scope in within if self._answered.get(key_of(lane, scope), 0) > turn]
        return next((scope for scope in within if scope not in passing), Scope.LANE)

    def _is_limited_alone(self, destination: str, turn: int) -> bool:
        """Count that a limit was met; return whether it is this destination's own: others got through between."""
        times, since = self._limited.get(destination, (0, 0))
        others = [at for (scope, of), at in self._answered.items() if scope is Scope.DESTINATION and of != destination]
        if self._answered.get((Scope.DESTINATION, destination), 0) > since:
            times = 0
        if times == 0 or since < min(turn, max(others, default=0)):
            times, since = times + 1, self.turn()
        self._limited[destination] = times, since
        return times >= _LIMITS_ALONE

    async def _stand(
        self,
        key: PauseKey,
        reason: Reason,
        refusal: Refusal,
        before: Paused | None,
        wait_s: float,
        *,
        tried: int,
        met: dict[int, Lane] | None = None,
    ) -> None:
        """Put a pause in force for `wait_s` seconds; it continues `before`. met: the lanes that failed so far."""
        now_ms = self._clock.now_ms()
        stored = StoredPause(
            scope=key[0].value,
            subject=key[1],
            reason=reason.value,
            status=refusal.status,
            code=refusal.code,
            message=refusal.message,
            failures=before.stored.failures + 1 if before else 1,
            since_ms=before.stored.since_ms if before else now_ms,
            next_try_at_ms=now_ms + int(wait_s * 1000),
        )
        # All of it before the first await: another answer may end the pause while it is written down.
        self._paused[key] = Paused(stored, self.turn(), self._clock.monotonic_s() + wait_s, tried, met=met or {})
        state = self._context.state
        state.now = replace(state.now, last_error=f"{stored.reason}: {stored.message}")
        if before is None:
            self._context.tally.pauses[stored.reason] += 1
        await self._store.save_pause(stored)

    async def pause_other_project(self, belongs_to: str, named: str) -> None:
        """Hold everything back: the URL names another project. No request probes it; the settings are read again."""
        before = self._paused.get(EVERYTHING)
        if before is not None and before.stored.reason != Reason.OTHER_PROJECT:
            before = None  # an outage of the file's own project, say: unrelated
        if before is not None and not self._is_due(before):
            return
        if before is None:
            told = {"belongs_to": belongs_to, "named": named}
            logger.warning("sending paused: the URL names another project", extra=told)
        wait_s = self._context.limits.pause_probe_s * (0.5 + self._context.draw())
        refusal = Refusal(None, None, project.refusal(belongs_to, named))
        await self._stand(EVERYTHING, Reason.OTHER_PROJECT, refusal, before, wait_s, tried=self.turn())

    async def end_other_project(self) -> None:
        """End that pause, if there is one: the URL names the file's own project, or it belongs to none yet."""
        found = self._paused.get(EVERYTHING)
        if found is not None and found.stored.reason == Reason.OTHER_PROJECT:
            await self.end([EVERYTHING])

    def _wait_s(self, verdict: Pause, outcome: Reply | Failure, failures: int) -> float:
        limits, draw = self._context.limits, self._context.draw
        if verdict.reason is Reason.REFUSED and failures == 1:
            return 0.0  # another row may pass: then the refused ones are bad themselves
        own_s = limits.pause_probe_s * (0.5 + draw()) if verdict.slow else self._context.backoff_s(failures)
        header = outcome.headers.get("retry-after") if isinstance(outcome, Reply) else None
        asked_s = backoff.retry_after_s(header, now_ms=self._clock.now_ms(), cap_s=limits.backoff_cap_s)
        if asked_s is None:
            return own_s
        # A tenth more at random: a thousand bots were told the same second. "Retry-After: 0" does not allow a storm.
        return max(own_s, asked_s * (1 + 0.1 * draw()))

    # ------------------------------------------------------------------------------------------ ending

    def answered(self, lane: Lane, turn: int) -> None:
        """Note that a request of `lane` from turn `turn` got through."""
        for key in keys_of(lane):
            self._answered[key] = max(self._answered.get(key, 0), turn)

    async def end(self, keys: Collection[PauseKey], answered: Lane | None = None) -> None:
        """End these pauses, which are in force: something has shown that they are over.

        answered: the lane that got through. A pause that it never met still holds back the lanes that did.
        """
        if not keys:
            return
        over = {key: self._paused.pop(key) for key in keys}
        narrower = {} if answered is None else self._narrowed(over, answered)
        self._paused |= narrower
        if not self._paused:
            self._context.state.now = replace(self._context.state.now, last_error=None)
        try:
            for pause in narrower.values():
                await self._store.save_pause(pause.stored)
            await self._store.end_pauses(_texts(keys))
        except BaseException:
            # The file still says paused: the next answer tries again to end it.
            self._paused = over | {key: each for key, each in self._paused.items() if key not in narrower}
            raise
        await self._tell_end(over, narrower)

    async def _tell_end(self, over: Mapping[PauseKey, Paused], narrower: Mapping[PauseKey, Paused]) -> None:
        """Log how long each pause took and the backlog it left; `tell_backlog` says when that is gone."""
        now_ms, backlog = self._clock.now_ms(), total(await self._store.counts(), State.PENDING)
        for (scope, subject), pause in over.items():
            lasted_s = round(max(0, now_ms - pause.stored.since_ms) / 1000, 3)
            what = {"scope": scope.value, "subject": subject, "reason": pause.stored.reason}
            more = {"lasted_s": lasted_s, "failures": pause.stored.failures, "backlog": backlog}
            logger.warning("sending resumed", extra={**what, **more})
        for (scope, subject), pause in narrower.items():
            told = {"scope": scope.value, "subject": subject, "reason": pause.stored.reason}
            logger.warning("sending still paused where it failed", extra=told)
        if over and backlog:
            self._backlog = _Backlog(self._store.writer.last_seq, backlog, now_ms)

    async def tell_backlog(self) -> None:
        """Log once that the backlog of the last pause is gone."""
        if self._backlog is None or self._paused:
            return
        oldest = await self._store.oldest_pending_seq()
        if oldest is not None and oldest <= self._backlog.until_seq:
            return
        took_s = round(max(0, self._clock.now_ms() - self._backlog.since_ms) / 1000, 3)
        logger.warning("backlog gone", extra={"backlog": self._backlog.entries, "took_s": took_s})
        self._backlog = None

    def _narrowed(self, over: Mapping[PauseKey, Paused], answered: Lane) -> dict[PauseKey, Paused]:
        """Return what remains of the pauses `over`, now that `answered` got through: due at once, a probe will tell."""
        found: dict[PauseKey, Paused] = {}
        for (scope, _), pause in over.items():
            if answered.number in pause.met or scope is Scope.LANE or pause.stored.reason == Reason.RATE_LIMITED:
                continue  # it is over, or as narrow as can be
            for lane in pause.met.values():
                elsewhere = lane.spec.destination != answered.spec.destination
                key = key_of(lane, Scope.DESTINATION if elsewhere else Scope.LANE)
                if key in self._paused:
                    continue
                stored = replace(pause.stored, scope=key[0].value, subject=key[1])
                found.setdefault(key, Paused(stored, self.turn(), self._clock.monotonic_s(), pause.tried)).met[
                    lane.number
                ] = lane
        return found

    async def end_idle(self, lanes: Sequence[Lane]) -> None:
        """End each pause that is due and holds back none of `lanes`: no probe would ever end it."""
        due = [key for key, pause in self._paused.items() if self._is_due(pause) and not pause.probing]
        held = {key for lane in lanes for key in self.over(lane)} if due else ()
        await self.end([key for key in due if key not in held])

    async def forget(self) -> None:
        """End every pause, as if nothing had failed."""
        keys = list(self._paused)
        self._paused.clear()
        await self._store.end_pauses(_texts(keys))


def _texts(keys: Collection[PauseKey]) -> list[tuple[str, str]]:
    return [(scope.value, subject) for scope, subject in keys]
