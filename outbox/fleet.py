"""Each flusher keeps its own row in the remote table `outbox_health`, keyed by its source, to make the fleet visible.

A separate task beside the flusher: the report is not an entry, waits for nothing and holds nothing back. A failure is
logged once and tried again with the next report; a missing table is not asked for again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import Enum, auto

from outbox import __version__, logs
from outbox.background import Background
from outbox.clock import Clock
from outbox.entry import LaneSpec, Operation
from outbox.errors import OutboxError
from outbox.postgrest.client import Transport, merge
from outbox.postgrest.verdicts import Delivered, Failure, Pause, Reject, Reply, Scope, judge, read_refusal
from outbox.stats import Stats
from outbox.task_state import TaskState

logger: logs.Logger = logs.named("outbox.health")

# A report is small; if it takes longer, that is an outage, which the flusher detects.
_DEADLINE_S = 10.0
# How long the last report, which says that the bot stops, may hold up closing.
_LAST_S = 1.5


TABLE = "outbox_health"
_NO_COLUMN = ("PGRST204", "42703")


@dataclass(frozen=True, slots=True)
class Report:
    """The state of a bot; the fields are columns of the table. Counts are entries.

    paused: why something is not sent; None: nothing is paused. stopped: the bot stops cleanly.
    """

    source: str
    health: str  # as `outbox status` names it
    pending: int
    dead: int
    oldest_pending_s: float | None
    last_success_at: str | None
    paused: str | None
    version: str
    every_s: float
    stopped: bool = False

    def request(self, *, with_health: bool) -> tuple[LaneSpec, str]:
        """Return the request's lane, and its row as a JSON object. with_health: the table has that column."""
        row = {name: value for name, value in asdict(self).items() if with_health or name != "health"}
        spec = LaneSpec(TABLE, Operation.UPSERT, "source", ",".join(sorted(row)), True)
        return spec, json.dumps(row, separators=(",", ":"), ensure_ascii=False)


class After(Enum):
    """What to do after an answer."""

    GO_ON = auto()
    TRY_LATER = auto()  # the table is not at fault: the next report may succeed
    WITHOUT_HEALTH = auto()  # a column is missing: the table is an older version
    GIVE_UP = auto()  # no such table, or no access: asking every minute would change nothing


def after(outcome: Reply | Failure) -> After:
    """Return what `outcome` means for the reports to come."""
    match judge(Operation.UPSERT, 1, outcome):
        case Delivered():
            return After.GO_ON
        case Pause() if isinstance(outcome, Reply) and read_refusal(outcome).code in _NO_COLUMN:
            return After.WITHOUT_HEALTH
        case Reject() | Pause(scope=Scope.DESTINATION | Scope.LANE, slow=True):
            return After.GIVE_UP
        case _:
            return After.TRY_LATER


def blocked(scopes: Sequence[str]) -> bool:
    """Whether nothing at all is sent now: the flusher probes anyway, and a report would only add a request."""
    return Scope.EVERYTHING in scopes


class Reporter:
    """Reports every `every_s` seconds from `start` on, as long as the flusher runs, and once more in `stop`.

    every_s: 0: never. stats: returns the current state. transport: the current one; None: nothing is configured. tell:
    as in `Background`.
    """

    def __init__(
        self,
        stats: Callable[[], Awaitable[Stats]],
        transport: Callable[[], Transport | None],
        *,
        clock: Clock,
        source: str | None,
        every_s: float,
        tell: Callable[[TaskState], None],
    ) -> None:
        self._stats = stats
        self._tell = tell
        self._transport = transport
        self._clock = clock
        self._source = source
        self._every_s = every_s
        self.background: Background | None = None
        self._stop = asyncio.Event()
        self._given_up = False
        self._with_health = True  # the table has the column
        self._told = False
        self._reported = False  # there is a row, so a last report must follow

    def start(self) -> None:
        """Start, unless it is running or switched off."""
        if self.background is None and self._every_s > 0 and self._source:
            self.background = Background(
                "health report", self._turn, clock=self._clock, stop=self._stop, tell=self._tell
            )

    def resume(self) -> None:
        """Try a missing table again: somebody has reloaded the settings."""
        self._given_up = self._told = False
        self._with_health = True

    async def stop(self) -> None:
        """Stop, with a last report that says so: silence is expected from here on. Takes a few seconds at most."""
        if self.background is None:
            return
        self._stop.set()
        await asyncio.wait({self.background.task}, timeout=_LAST_S)
        self.background.task.cancel()
        await asyncio.wait({self.background.task})
        if self._reported:
            await self._safely(stopped=True, deadline_s=_LAST_S)

    async def _turn(self) -> None:
        await self._safely(stopped=False, deadline_s=_DEADLINE_S)
        await self._clock.wait(self._stop, self._every_s)

    async def _safely(self, *, stopped: bool, deadline_s: float) -> None:
        """Report; log whatever goes wrong and raise nothing."""
        try:
            await self._report(stopped=stopped, deadline_s=deadline_s)
        except OutboxError as error:  # the file is locked, or was closed meanwhile
            if self._is_news():
                logger.warning("health cannot be read, retrying", extra={"error": str(error)})
        except Exception:
            logger.exception("health report failed")

    async def _report(self, *, stopped: bool, deadline_s: float) -> None:
        transport = self._transport()
        if transport is None or self._given_up:
            return
        report = await self._taken(stopped=stopped)
        if report is None:
            return
        while True:
            spec, row = report.request(with_health=self._with_health)
            outcome = await transport.send(merge(spec, [row]), deadline_s=deadline_s)
            if not (self._with_health and after(outcome) is After.WITHOUT_HEALTH):
                break
            self._with_health = False  # a table older than 0010_fleet_health.sql
        self._learn(outcome)

    async def _taken(self, *, stopped: bool) -> Report | None:
        """Return the report; None: nothing is sent at all, or the flusher probes anyway."""
        found = await self._stats()
        if not (found.flusher.running or stopped) or blocked([pause.scope for pause in found.pauses]):
            return None
        last_ms = found.flusher.last_delivery_ms
        success = None if last_ms is None else datetime.fromtimestamp(last_ms / 1000, UTC)
        return Report(
            source=self._source or "",
            health=found.health.words,
            pending=found.pending,
            dead=found.dead,
            oldest_pending_s=found.oldest_pending_age_s,
            last_success_at=None if success is None else success.isoformat(timespec="milliseconds"),
            paused=found.paused,
            version=__version__,
            every_s=self._every_s,
            stopped=stopped,
        )

    def _learn(self, outcome: Reply | Failure) -> None:
        match after(outcome):
            case After.GO_ON:
                self._reported, self._told = True, False
            case After.TRY_LATER:
                if self._is_news():
                    status, code = _said(outcome)
                    logger.warning("health not reported, retrying", extra={"status": status, "code": code})
            case After.GIVE_UP | After.WITHOUT_HEALTH:
                self._given_up = True
                status, code = _said(outcome)
                facts = {"table": TABLE, "status": status, "code": code}
                logger.warning("health not reported: its table is missing or refuses the row", extra=facts)

    def _is_news(self) -> bool:
        """Whether this is the first failure since the last successful report."""
        told, self._told = self._told, True
        return not told


def _said(outcome: Reply | Failure) -> tuple[int | None, str | None]:
    """Return the status and the code; without an answer the code is the reason why there is none."""
    if isinstance(outcome, Failure):
        return None, outcome.value
    refusal = read_refusal(outcome)
    return refusal.status, refusal.code
