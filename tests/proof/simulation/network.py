"""The network between the two: it loses, delays, repeats and garbles; a first sending may arrive after a second one."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from outbox.postgrest.client import Request
from outbox.postgrest.verdicts import Failure, Reply
from outbox.testing import refused
from tests.proof.simulation.server import VERSIONED, Server

GARBLED = (
    Reply(200, {"content-type": "text/html"}, b"<html>Please sign in to the hotel's network</html>"),
    Reply(502, {"content-type": "text/html"}, b"<h1>502 Bad Gateway</h1>"),
    Reply(400, {"content-type": "application/json"}, b'{"code":"235'),
    Reply(500, {}, b""),
)
MOODS: dict[str, Reply] = {
    "overloaded": Reply(503, {"retry-after": "3"}, b""),
    "limited": Reply(429, {}, b'{"message":"too many requests"}'),
    "unauthorized": Reply(401, {}, json.dumps({"code": "PGRST301", "message": "JWT expired"}).encode()),
    "no table": refused(404, "PGRST205", "Could not find the table in the schema cache"),
    "no grant": refused(403, "42501", "permission denied for table"),
    "deadlock": refused(500, "40P01", "deadlock detected"),
}


@dataclass
class Sending:
    """A request on its way. free: it may arrive at any time: what came later is not reverted by it."""

    due_s: float
    request: Request
    free: bool


@dataclass
class Mood:
    """What ails the remote end until then. table: only this one; kind: of `MOODS`, or down."""

    until_s: float
    table: str | None
    kind: str


@dataclass
class Network:
    """What outlives the process. bad: how often something goes wrong with a request, until bad_until_s."""

    server: Server = field(default_factory=Server)
    on_way: dict[int, Sending] = field(default_factory=dict)
    moods: list[Mood] = field(default_factory=list)
    bad: float = 0.0
    bad_until_s: float = 0.0
    latency_s: float = 0.05
    sent: int = 0


class Transport:
    """What one life of the process sends through."""

    project = "simulated"

    def __init__(self, network: Network, dice: random.Random, tell: Callable[[str], None]) -> None:
        self._network = network
        self._dice = dice
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Reply | Failure]] = {}
        self._numbers = itertools.count(network.sent + 1)
        for number, sending in list(network.on_way.items()):
            if sending.free:
                self._loop.call_at(max(sending.due_s, self._loop.time()), self._arrive, number)
            elif dice.random() < 0.5:  # what was under way when the process was killed
                self._arrive(number)
            else:
                del network.on_way[number]

    async def send(self, request: Request, *, deadline_s: float) -> Reply | Failure:
        """Send it, as far as the network lets us."""
        number = self._network.sent = next(self._numbers)
        fate = self._fate(request)
        self._tell(f"request {number} {request.method} {request.path} {request.body.decode()[:300]}: {fate}")
        outcome = await self._outcome(number, request, fate, deadline_s)
        said = outcome.value if isinstance(outcome, Failure) else f"{outcome.status} {outcome.body.decode()[:80]}"
        self._tell(f"answer {number} {said}")
        return outcome

    async def _outcome(self, number: int, request: Request, fate: str, deadline_s: float) -> Reply | Failure:
        network, dice = self._network, self._dice
        delay_s = network.latency_s * dice.uniform(0.1, 2)
        if fate in ("refused", "lost"):
            await asyncio.sleep(delay_s if fate == "refused" else deadline_s)
            return Failure.UNREACHABLE if fate == "refused" else Failure.TIMEOUT
        if fate == "late":
            delay_s = dice.uniform(0, 3 * deadline_s)
        if fate == "twice":
            self._launch(next(self._numbers), request, dice.uniform(0, 3 * deadline_s))
        answer: asyncio.Future[Reply | Failure] = self._loop.create_future()
        self._waiting[number] = answer
        self._launch(number, request, delay_s)
        try:
            async with asyncio.timeout(deadline_s):
                reply = await answer
                await asyncio.sleep(delay_s if fate != "late" else 0)
        except TimeoutError:
            self._give_up(number)
            return Failure.TIMEOUT
        except asyncio.CancelledError:
            self._give_up(number)
            raise
        finally:
            self._waiting.pop(number, None)
        if fate == "no reply":
            return Failure.CUT
        return dice.choice(GARBLED) if fate == "garbled" else reply

    def _fate(self, request: Request) -> str:
        if self._loop.time() >= self._network.bad_until_s or self._dice.random() >= self._network.bad:
            return "passes"
        fates = ["refused", "lost", "no reply", "garbled"]
        return self._dice.choice([*fates, "late", "late", "late", "twice"] if is_free(request) else fates)

    def _launch(self, number: int, request: Request, delay_s: float) -> None:
        due_s = self._loop.time() + delay_s
        self._network.on_way[number] = Sending(due_s, request, is_free(request))
        self._loop.call_at(due_s, self._arrive, number)

    def _give_up(self, number: int) -> None:
        """Nobody waits any more. What must not arrive late, for no trigger would notice, does not arrive at all."""
        sending = self._network.on_way.get(number)
        if sending is not None and not sending.free:
            del self._network.on_way[number]

    def _arrive(self, number: int) -> None:
        sending = self._network.on_way.pop(number, None)
        if sending is None:
            return
        outcome = self._mooded(sending.request)
        self._tell(f"arrives {number}: {outcome.value if isinstance(outcome, Failure) else outcome.status}")
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)

    def _mooded(self, request: Request) -> Reply | Failure:
        table = request.path.partition("?")[0]
        for mood in self._network.moods:
            if mood.until_s > self._loop.time() and mood.table in (None, table):
                return Failure.UNREACHABLE if mood.kind == "down" else MOODS[mood.kind]
        return self._network.server.apply(request)

    async def aclose(self) -> None:
        """Nothing is open."""


def is_free(request: Request) -> bool:
    """Whether `request` may arrive at any time and harm nothing: inserts by id, and rows with a version."""
    if request.method == "GET":
        return True
    inserts = "ignore-duplicates" in dict(request.headers).get("prefer", "")
    return inserts or (request.path.partition("?")[0] in VERSIONED and b'"version"' in request.body)
