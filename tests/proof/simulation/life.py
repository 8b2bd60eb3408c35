"""One life of the process: the real library between the bots' actions and the simulated world."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from outbox import Outbox, OutboxError, Settings
from outbox.errors import ConfigError, InvalidEntry, OutboxClosed, StoreCorrupt, StoreVanished
from tests.proof.simulation.actions import Actions
from tests.proof.simulation.janitor import ODD_SETTINGS
from tests.proof.simulation.loop import Loop, set_clocks
from tests.proof.simulation.network import Transport
from tests.proof.simulation.program import Life as Plan
from tests.proof.simulation.world import BOUND_S, LIMITS, Action, World

_LOOK_S = 10.0
OWN_TABLE = "create table if not exists own (n integer primary key)"


class _Complaints(logging.Handler):
    """What is logged as an error though nobody has caused one."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        dropped = "never read" in record.getMessage()  # by a bot, of a future of its own: logged when it is collected
        error = record.exc_info[1] if record.exc_info else getattr(record, "error", "")
        late = dropped or isinstance(error, StoreVanished)  # as is what a request of the flusher has met
        if self._world.damaged or (late and self._world.vanished):
            return
        self._world.wrong(f"logged: {record.getMessage()} {error!r}")


class Life:
    """What happens from the opening to the close."""

    def __init__(self, world: World, plan: Plan, loop: Loop, path: Path) -> None:
        self._world, self._plan, self._loop, self._path = world, plan, loop, path

    async def run(self, *, last: bool) -> None:
        """Open, let every bot do its actions, close. last: then wait for what is to arrive, everything being sound."""
        world, loop = self._world, self._loop
        complaints = _Complaints(world)
        logging.getLogger("outbox").addHandler(complaints)
        logging.getLogger("asyncio").addHandler(complaints)
        world.ails(loop.time())
        transport = Transport(world.network, world.dice, self._tell)
        settings = self._settings()
        set_clocks(loop, lambda: world.stepped_s)
        try:
            outbox = await Outbox.open(settings, transport=transport)
        except OutboxError as error:
            if not world.damaged:
                raise
            world.refused = f"{type(error).__name__}: {error}"
            self._tell(f"refused: {world.refused}")
            return
        async with outbox:
            self._outbox = outbox
            try:
                stats = await outbox.stats()
            except StoreCorrupt:  # a page that the opening had no need to read
                if not world.damaged:
                    raise
                world.told = world.must_restart = True  # as the error says: the next opening sets the file aside
                return
            world.told = world.told or bool(stats.loss or stats.quarantined) or (world.unmarked and world.cut)
            world.unmarked = world.cut = False
            outbox.register("marks", on_conflict=("symbol",))
            async with outbox.transaction(limit_s=60) as tx:  # longer than any stall of the process
                await tx.execute(OWN_TABLE)
            self._actions = Actions(world, loop, self._path, outbox, self._tell)
            self._actions.start_flusher()
            watch = asyncio.create_task(self._watch())
            await asyncio.gather(*(self._bot(number, actions) for number, actions in enumerate(self._plan.bots)))
            if last:
                await self._wait_for_all()
            watch.cancel()
        if self._actions.flusher is not None:
            with contextlib.suppress(OutboxClosed):  # it had not begun yet
                await self._actions.flusher

    def _settings(self) -> Settings:
        """Read the settings; what the environment has of odd ones is refused by its name, and somebody removes it."""
        options = LIMITS | self._plan.settings
        while True:
            try:
                return Settings(path=self._path, source="bot@simulation", reserve_bytes=0, _env_file=None, **options)
            except ConfigError as error:
                self._tell(f"refused: {error}")
                said = str(error.field).upper()
                (name,) = {name for name, _ in ODD_SETTINGS} & {said, f"OUTBOX_{said}"}
                del os.environ[name], self._world.environment[name]

    def _tell(self, what: str) -> None:
        self._world.tell(f"{self._loop.time():.3f} {what}")
        self._loop.note(what)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._look()

    def _look(self) -> bool:
        world = self._world
        world.now_s = self._loop.time()
        found = [] if world.damaged else world.late()
        for wrong in found:
            world.wrong(wrong)
        return not found

    async def _wait_for_all(self) -> None:
        """Until all that can arrive has, for the bound; then until what is still on its way has, too."""
        network = self._world.network
        until_s = self._loop.time() + BOUND_S + 1
        while self._loop.time() < until_s and await self._more_can_arrive():  # noqa: ASYNC110 - nobody would set an event
            await asyncio.sleep(2)
        self._look()
        while network.on_way:  # noqa: ASYNC110
            await asyncio.sleep(1)

    async def _more_can_arrive(self) -> bool:
        rows: list[dict[str, Any]] = []
        try:
            rows = [json.loads(entry.payload) for entry in await self._outbox.pending_entries()]
            damage = (await self._outbox.stats()).damage if self._world.damaged else None  # where a verdict is written
        except StoreCorrupt:  # a page that the opening had no need to read
            if not self._world.damaged:
                raise
            damage = "that page"
        if damage is not None:
            self._world.must_restart = True  # as the error says: the next opening sets the file aside
            return False
        puts = [self._world.puts.get(row.get("n", row.get("u", 0))) for row in rows]
        return any(put is None or self._world.can_arrive(put) for put in puts)

    async def _bot(self, number: int, actions: list[Action]) -> None:
        for name, arguments in actions:
            self._tell(f"bot {number} {name} {arguments}")
            try:
                await getattr(self._actions, name)(**arguments)
            except InvalidEntry as error:
                self._world.wrong(f"{name} was refused although nothing is wrong with its rows: {error}")
            except OutboxError as error:
                self._tell(f"bot {number} {name}: {type(error).__name__}: {error}")
            except Exception as error:  # noqa: BLE001 - no call may raise anything but the library's own errors
                self._world.wrong(f"{name} raised {type(error).__name__}: {error}")
