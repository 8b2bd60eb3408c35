"""How many bytes may be on their way at once: all requests share one link, whichever lane they belong to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from outbox.clock import Clock
from outbox.postgrest.batch import Limit, next_limit
from outbox.postgrest.client import Request, Transport
from outbox.postgrest.verdicts import Failure, Reply, Silence

# What a link of 9 kB/s carries within the deadline of 30 s; a good one has doubled it after two or three answers.
FIRST_BYTES = 262_144
# A failure of less says nothing about size.
LEAST_BYTES = 4_096


class Window:
    """Bounds the bytes under way. Halved when they did not arrive in time, it is kept in the file.

    most: what all requests together may carry if the link allows it. save: writes the bytes; None: all is well again.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        batch_bytes: int,
        requests: int,
        deadline_s: float,
        save: Callable[[int | None], Awaitable[None]],
    ) -> None:
        self._clock = clock
        self._requests = requests
        self._deadline_s = deadline_s
        self._save = save
        self._most = batch_bytes * requests
        self._limit = Limit(min(self._most, FIRST_BYTES), self._most)
        self._saved: int | None = None
        self._halved = 0  # the turn when it last was
        self.under_way = 0  # bytes

    def remember(self, saved: int | None) -> None:
        """Begin with what an earlier process has found out."""
        self._saved = saved
        if saved is not None:
            found = max(min(saved, self._most), min(self._most, LEAST_BYTES))
            self._limit = Limit(found, found)

    @property
    def request_bytes(self) -> int:
        """What one request may carry, so that all of them arrive in time beside one another."""
        return self._limit.bytes // self._requests

    @property
    def has_room(self) -> bool:
        """Whether one more request may begin; a lone one always may."""
        return self.under_way < self._limit.bytes

    async def send(
        self, transport: Transport, request: Request, turn: int, *, now: Callable[[], int]
    ) -> tuple[Reply | Failure, float]:
        """Send `request`, which has begun in `turn`, and learn from it; return the answer and the seconds it took.

        now: the turn at which the answer comes. What began before the last halving fails for what was known then.
        """
        beside, began_s = self.under_way, self._clock.monotonic_s()
        outcome = await transport.send(request, deadline_s=self._deadline_s)
        took_s = self._clock.monotonic_s() - began_s
        beside = max(beside, self.under_way)  # itself included
        if isinstance(outcome, Reply):
            await self._learn(beside, took_s)
        elif outcome.kind in (Silence.TIMEOUT, Silence.CUT) and turn >= self._halved:
            self._halved = now()
            await self._learn(beside, None)
        return outcome, took_s

    async def _learn(self, carried: int, took_s: float | None) -> None:
        was = self._limit.bytes
        self._limit = next_limit(
            self._limit, sent=carried, took_s=took_s, deadline_s=self._deadline_s, most=self._most, least=LEAST_BYTES
        )
        if self._limit.bytes < was:
            await self._keep(self._limit.bytes)
        elif self._saved is not None and self._limit.bytes >= min(2 * self._saved, self._most):
            await self._keep(self._limit.bytes if self._limit.bytes < self._most else None)

    async def _keep(self, found: int | None) -> None:
        self._saved = found
        await self._save(found)
