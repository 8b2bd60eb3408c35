"""Floor 4 · testing. A clock that stands still and a remote end that follows a script; production never imports it.

clock, remote = ManualClock(), ScriptedTransport()
async with Outbox.open(path="test.db", clock=clock, transport=remote) as outbox:
    remote.answers.append(Failure.UNREACHABLE)      # the first request fails, the rest succeed
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from outbox.policy.verdicts import Failure, Reply
from outbox.transport import Request

Answer = Reply | Failure
Script = Callable[[Request], Answer]


class ManualClock:
    """Time that moves only when `advance` is called."""

    def __init__(self, now_ms: int = 1_767_225_600_000) -> None:  # 2026-01-01T00:00:00Z
        self._start_ms = now_ms
        self._monotonic_s = 1000.0
        self._alarms: list[tuple[float, asyncio.Event]] = []

    def now_ms(self) -> int:
        # Not added up call by call: a thousand advances by half a millisecond are half a second.
        return self._start_ms + round((self._monotonic_s - 1000.0) * 1000)

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def step_wall_clock(self, seconds: float) -> None:
        """Set the wall clock forward or back; the monotonic clock does not notice."""
        self._start_ms += int(seconds * 1000)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass and wake whoever waited for them."""
        self._monotonic_s += seconds
        for due_s, alarm in self._alarms:
            if due_s <= self._monotonic_s:
                alarm.set()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Return True as soon as `event` is set, False once the clock was advanced by `timeout_s`."""
        if event.is_set() or timeout_s <= 0:
            return event.is_set()
        alarm = asyncio.Event()
        entry = (self._monotonic_s + timeout_s, alarm)
        self._alarms.append(entry)
        waiters = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(alarm.wait())]
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._alarms.remove(entry)
            for waiter in waiters:
                waiter.cancel()
        return event.is_set()


@dataclass
class ScriptedTransport:
    """Answers each request with the next of `answers`, else with `otherwise`; `requests` holds what was sent.

    gate: while it is not set, requests wait: a server that hangs.
    """

    answers: deque[Answer | Script] = field(default_factory=deque)
    otherwise: Answer | Script = field(default_factory=lambda: accepted)
    requests: list[Request] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def send(self, request: Request, *, deadline_s: float) -> Answer:
        self.requests.append(request)
        await self.gate.wait()
        answer = self.answers.popleft() if self.answers else self.otherwise
        return answer(request) if callable(answer) else answer

    async def aclose(self) -> None:
        """Nothing is open."""


def accepted(request: Request) -> Reply:
    """Answer as PostgREST does when it has stored everything."""
    if request.method == "PATCH":
        return Reply(204, {"content-range": "0-0/1"}, b"")
    prefer = dict(request.headers)["prefer"]
    return Reply(201, {"preference-applied": prefer.replace(",", ", ")}, b"")


def refused(status: int, code: str, message: str = "", *, details: str | None = None) -> Reply:
    """Answer as PostgREST does when the database has refused the statement."""
    import json

    body = {"code": code, "message": message, "details": details, "hint": None}
    return Reply(status, {"content-type": "application/json"}, json.dumps(body).encode())
