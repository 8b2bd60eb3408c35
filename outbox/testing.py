"""A clock that stands still and a fake remote end; production never imports it.

clock, remote = ManualClock(), FakeRemote()
async with Outbox.open(path="test.db", clock=clock, transport=remote) as outbox:
    remote.down()           # an outage, until remote.up()

docs/testing.md shows how to test a bot against outages, refusals, and lost or late replies.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from outbox.clock import Clock
from outbox.postgrest.client import Request, Transport
from outbox.postgrest.verdicts import Failure, Reply

__all__ = [
    "Answer",
    "Clock",
    "Failure",
    "FakeRemote",
    "ManualClock",
    "Reply",
    "Request",
    "ScriptedTransport",
    "Transport",
    "accepted",
    "refused",
]

Answer = Reply | Failure
Script = Callable[[Request], Answer]
Row = dict[str, Any]

# Real seconds for everything else between two steps of the clock: SQLite works in its own thread.
_BREATH_S = 0.001
# And how long the clock waits for who no longer waits for it: a busy machine stops that thread for seconds.
_PATIENCE_S = 10.0


class ManualClock:
    """Time that moves only when `advance` is called."""

    def __init__(self, now_ms: int = 1_767_225_600_000) -> None:  # 2026-01-01T00:00:00Z
        self._start_ms = now_ms
        self._monotonic_s = 1000.0
        self._alarms: list[tuple[float, asyncio.Event]] = []

    def now_ms(self) -> int:
        """Return Unix time in milliseconds, as the test has advanced it."""
        # Not rounded call by call: a thousand advances by half a millisecond are half a second.
        return self._start_ms + round((self._monotonic_s - 1000.0) * 1000)

    def monotonic_s(self) -> float:
        """Return seconds that `step_wall_clock` does not move."""
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

    async def advance_until(
        self, condition: Callable[[], object], *, within_s: float = 3600.0, step_s: float = 1.0
    ) -> float:
        """Let time pass in steps of `step_s` seconds until `condition()` holds, and return how many seconds passed.

        Who has waited for this clock, and works, has waited again before the next step: a busy machine costs no time.

        Raises:
            TimeoutError: It did not hold within `within_s` seconds of this clock.
        """
        started_s, real_s = self._monotonic_s, asyncio.get_running_loop().time
        waiting, patient_until_s = self._waiting(), real_s() + _PATIENCE_S
        while not condition():
            if self._monotonic_s - started_s >= within_s:
                raise TimeoutError(f"after {within_s:g} s the condition still did not hold")
            await asyncio.sleep(_BREATH_S)
            if self._waiting() >= waiting or real_s() >= patient_until_s:
                waiting, patient_until_s = self._waiting(), real_s() + _PATIENCE_S
                self.advance(step_s)
        return self._monotonic_s - started_s

    def _waiting(self) -> int:
        return sum(not alarm.is_set() for _, alarm in self._alarms)

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
    """Answers each request. An answer is a `Reply`, a `Failure`, or a function of the request that returns one.

    Attributes:
        answers: The answers to the next requests, one each.
        otherwise: The answer once those are used up.
        requests: What was sent.
        gate: While it is not set, requests wait, as for a server that hangs.
    """

    answers: deque[Answer | Script] = field(default_factory=deque)
    otherwise: Answer | Script = field(default_factory=lambda: accepted)
    requests: list[Request] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def send(self, request: Request, *, deadline_s: float) -> Answer:
        """Record `request` and answer it."""
        self.requests.append(request)
        await self.gate.wait()
        answer = self.answers.popleft() if self.answers else self.otherwise
        return answer(request) if callable(answer) else answer

    async def aclose(self) -> None:
        """Nothing is open."""


def _commit_all(_table: str, _row: Row) -> None:
    return None


@dataclass
class FakeRemote(ScriptedTransport):
    """A remote end with tables: it stores what it accepts, by the rules of PostgREST.

    Attributes:
        rule: What the database says of one row (table, row): None, or the answer that refuses the whole request.
    """

    rule: Callable[[str, Row], Reply | None] = _commit_all
    inserted: dict[tuple[str, str], Row] = field(default_factory=dict)  # by table and the text of its key
    merged: dict[tuple[str, str], Row] = field(default_factory=dict)  # by table and its deciding values, as JSON

    def __post_init__(self) -> None:
        super().__post_init__()
        self.otherwise: Answer | Script = self.commit

    # ------------------------------------------------------------------------------------------ what a test says

    def down(self) -> None:
        """Make it unreachable: an outage."""
        self.otherwise = Failure.UNREACHABLE

    def up(self) -> None:
        """End the outage."""
        self.otherwise = self.commit

    def lose_reply(self) -> None:
        """Carry out the next request and lose the reply: the sender cannot know."""
        self.answers.append(self._commit_in_silence)

    def hold(self) -> None:
        """Answer nothing until `release`; what is sent meanwhile arrives late."""
        self.gate.clear()

    def release(self) -> None:
        """Answer what was held, and all that follows."""
        self.gate.set()

    def rows(self, table: str) -> list[Row]:
        """Return the rows of `table`, in the order of their first arrival; inserted rows come first."""
        return [row for stored in (self.inserted, self.merged) for (name, _), row in stored.items() if name == table]

    # ------------------------------------------------------------------------------------------ what it does

    def commit(self, request: Request) -> Reply:
        """Do what the request says, all or nothing. It has no functions, and returns rows only by their keys.

        For other reads put a Reply with the rows into `answers`.
        """
        if request.method == "GET":
            return self._read_back(request)
        name, _, query = request.path.partition("?")
        sent, arguments = self.decoded(request), dict(parse_qsl(query, keep_blank_values=True))
        for row in sent:
            if (no := self.rule(name, row)) is not None:
                return no
        if request.method == "PATCH":
            return self._update(name, arguments, sent[0])
        prefer = dict(request.headers)["prefer"]
        deciding = arguments["on_conflict"].split(",")
        if "merge-duplicates" not in prefer:
            before = len(self.inserted)
            for row in sent:
                self.inserted.setdefault((name, row[deciding[0]]), row)
            return accepted(request, stored=len(self.inserted) - before)
        keys = [(name, json.dumps([row[column] for column in deciding], default=str)) for row in sent]
        if len(set(keys)) < len(keys):
            return refused(500, "21000", "ON CONFLICT DO UPDATE command cannot affect row a second time")
        for key, row in zip(keys, sent, strict=True):
            self.merged[key] = self.merged.get(key, {}) | row
        return accepted(request)

    def _read_back(self, request: Request) -> Reply:
        name, _, query = request.path.partition("?")
        if query == "select=tableoid&limit=0" or query.startswith("and="):  # all are tables; no text has two spellings
            return Reply(200, {"content-range": "*/*"}, b"[]")
        if re.fullmatch(r"select=\w+&limit=100", query):  # the values of other rows in a column
            return Reply(200, {"content-range": "*/*"}, json.dumps(self.rows(name)[:100], default=str).encode())
        filters = [(key, value) for key, value in parse_qsl(query) if key != "select"]
        if not filters or not all(value.startswith(('in.("', "eq.")) for _, value in filters):
            return refused(501, "", "FakeRemote gives no rows: put a Reply with them into `answers`")
        wanted = {
            key: {value[3:]} if value.startswith("eq.") else set(json.loads(f"[{value[4:-1]}]"))
            for key, value in filters
        }
        found = [row for row in self.rows(name) if all(str(row.get(key)) in values for key, values in wanted.items())]
        return Reply(200, {"content-range": "*/*"}, json.dumps(found, default=str).encode())

    def _update(self, name: str, arguments: dict[str, str], changes: Row) -> Reply:
        wanted = {column: value.removeprefix("eq.") for column, value in arguments.items() if column != "columns"}
        found = [row for row in self.rows(name) if all(str(row.get(column)) == text for column, text in wanted.items())]
        for row in found:
            row |= changes
        return Reply(204, {"content-range": f"*/{len(found)}"}, b"")

    def _commit_in_silence(self, request: Request) -> Failure:
        self.commit(request)
        return Failure.CUT

    def decoded(self, request: Request) -> list[Row]:
        """Return the rows that `request` carries."""
        body = json.loads(request.body)
        return body if isinstance(body, list) else [body]


def accepted(request: Request, *, stored: int | None = None) -> Reply:
    """Answer as PostgREST does when it has stored everything; there are no functions."""
    if request.method == "GET":
        return Reply(200, {"content-range": "*/*"}, b"[]")
    if request.method == "PATCH":
        return Reply(204, {"content-range": "0-0/1"}, b"")
    prefer = dict(request.headers)["prefer"]
    headers = {"preference-applied": prefer.replace(",", ", ")}
    if "count=exact" in prefer:  # how many rows are new: all of them, unless told otherwise
        headers["content-range"] = f"*/{len(json.loads(request.body)) if stored is None else stored}"
    return Reply(201, headers, b"")


def refused(status: int, code: str, message: str = "", *, details: str | None = None) -> Reply:
    """Answer as PostgREST does when the database has refused the statement."""
    body = {"code": code, "message": message, "details": details, "hint": None}
    return Reply(status, {"content-type": "application/json"}, json.dumps(body).encode())
