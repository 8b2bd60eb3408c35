"""One life of the process: the real library between the bots' actions and the simulated world."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
from pathlib import Path
from typing import Any

from outbox import Outbox, OutboxError, SessionManager, Settings
from outbox.admin import inbox
from outbox.errors import IdConflict, OutboxClosed, OutcomeUnknown
from tests.proof.simulation.loop import Loop, LoopClock
from tests.proof.simulation.network import Mood, Transport
from tests.proof.simulation.program import Life as Plan
from tests.proof.simulation.world import BOUND_S, LIMITS, Action, Put, World

_LOOK_S = 10.0
_RETENTION_S = 7 * 86_400.0
OWN_TABLE = "create table if not exists own (n integer primary key)"


class _Complaints(logging.Handler):
    """What is logged as an error though nobody has caused one."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if self._world.damaged:
            return
        error = record.exc_info[1] if record.exc_info else getattr(record, "error", "")
        self._world.wrong(f"logged: {record.getMessage()} {error!r}")


class Life:
    """What happens from the opening to the close."""

    def __init__(self, world: World, plan: Plan, loop: Loop, path: Path) -> None:
        self._world, self._plan, self._loop, self._path = world, plan, loop, path
        self._flusher: asyncio.Task[None] | None = None
        self._idle: set[asyncio.Future[Any]] = set()

    async def run(self, *, last: bool) -> None:
        """Open, let every bot do its actions, close. last: then wait for what is to arrive, everything being sound."""
        world, loop = self._world, self._loop
        complaints = _Complaints(world)
        logging.getLogger("outbox").addHandler(complaints)
        logging.getLogger("asyncio").addHandler(complaints)
        world.ails(loop.time())
        # Nobody can tell a year that a clock was set forward from one in which the machine was off.
        world.pruned = world.pruned or world.stepped_s - world.lowest_step_s > _RETENTION_S / 2
        transport = Transport(world.network, world.dice, self._tell)
        settings = Settings(
            path=self._path, source="bot@simulation", reserve_bytes=0, _env_file=None, **LIMITS, **self._plan.settings
        )
        clock = LoopClock(loop, lambda: world.stepped_s)
        try:
            outbox = await Outbox.open(settings, clock=clock, transport=transport)
        except OutboxError as error:
            if not world.damaged:
                raise
            world.refused = f"{type(error).__name__}: {error}"
            self._tell(f"refused: {world.refused}")
            return
        async with outbox:
            self._outbox = outbox
            stats = await outbox.stats()
            world.told_of_loss = world.told_of_loss or bool(stats.loss or stats.quarantined)
            self._session = SessionManager(outbox)
            outbox.register("marks", on_conflict=("symbol",))
            async with outbox.transaction() as tx:
                await tx.execute(OWN_TABLE)
            self._start_flusher()
            watch = asyncio.create_task(self._watch())
            await asyncio.gather(*(self._bot(number, actions) for number, actions in enumerate(self._plan.bots)))
            if last:
                await self._wait_for_all()
            watch.cancel()
        if self._flusher is not None:
            with contextlib.suppress(OutboxClosed):  # it had not begun yet
                await self._flusher

    def _tell(self, what: str) -> None:
        self._world.tell(f"{self._loop.time():.3f} {what}")
        self._loop.note(what)

    def _start_flusher(self) -> None:
        self._flusher = asyncio.create_task(self._outbox.run_flusher())
        self._world.ails(self._loop.time())

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
        rows = [json.loads(entry.payload) for entry in await self._outbox.pending_entries()]
        puts = [self._world.puts.get(row.get("n", row.get("u", 0))) for row in rows]
        return any(put is None or self._world.can_arrive(put) for put in puts)

    # ------------------------------------------------------------------------------------------ actions

    async def _bot(self, number: int, actions: list[Action]) -> None:
        for name, arguments in actions:
            self._tell(f"bot {number} {name} {arguments}")
            try:
                await getattr(self, f"_do_{name}")(**arguments)
            except OutboxError as error:
                self._tell(f"bot {number} {name}: {type(error).__name__}: {error}")
            except Exception as error:  # noqa: BLE001 - no call may raise anything but the library's own errors
                self._world.wrong(f"{name} raised {type(error).__name__}: {error}")

    def _new(self, n: int, table: str, row: dict[str, Any], operation: str = "insert", group: int | None = None) -> Put:
        put = self._world.puts[n] = Put(n, table, row, operation, group)
        return put

    def _acknowledged(self, put: Put, receipt: Any) -> None:
        put.told, put.id, put.seq = "acknowledged", receipt.id, receipt.seq
        self._tell(f"acknowledged {put.n} as {put.seq}")

    @contextlib.contextmanager
    def _asking(self, *puts: Put) -> Any:
        """Note what a call that fails says of its rows."""
        try:
            yield
        except BaseException as error:
            known = isinstance(error, OutboxError) and not isinstance(error, OutcomeUnknown)
            for put in puts:
                put.told = "refused" if known else "unknown"
            raise

    def _arguments(self, put: Put) -> dict[str, Any]:
        row = dict(put.row)
        options: dict[str, Any] = {"operation": put.operation}
        if put.operation == "update":
            options["match"] = {"symbol": row.pop("symbol")}
        if put.table == "orders":
            options["key"] = row["k"]
        return {"destination": put.table, "row": row, **options}

    async def _do_put(self, put: dict[str, Any], after: int = 0) -> None:
        new = self._new(**put)
        with self._asking(new):
            self._acknowledged(new, await self._outbox.put(**self._arguments(new)))

    async def _do_nowait(self, put: dict[str, Any], after: int) -> None:
        new = self._new(**put)
        with self._asking(new):
            future = self._outbox.put_nowait(**self._arguments(new))
            if after % 2:
                self._acknowledged(new, await future)
            else:
                new.told = "unknown"

    async def _do_cancelled(self, put: dict[str, Any], after: int) -> None:
        new = self._new(**put)
        task = asyncio.create_task(self._outbox.put(**self._arguments(new)))
        for _ in range(after):
            await asyncio.sleep(0)
        task.cancel()
        with self._asking(new):
            try:
                self._acknowledged(new, await task)
            except asyncio.CancelledError:
                new.told = "unknown"

    async def _do_many(self, numbers: list[int]) -> None:
        puts = [self._new(n, "trades", {"n": n, "id": f"t{n}"}, group=-numbers[0]) for n in numbers]
        with self._asking(*puts):
            receipts = await self._outbox.put_many("trades", [put.row for put in puts])
        for put, receipt in zip(puts, receipts, strict=True):
            self._acknowledged(put, receipt)

    async def _do_thread(self, put: dict[str, Any], after: int) -> None:
        """As from another thread, but that this one waits in a coroutine."""
        new = self._new(**put)
        with self._asking(new):
            future = self._outbox.put_threadsafe(**self._arguments(new))
            self._acknowledged(new, await asyncio.wrap_future(future))

    async def _do_again(self, put: dict[str, Any], other: bool) -> None:
        """Put one id twice, as a bot does that was not answered; other: with other data, which is refused."""
        new = self._new(**put)
        options = {**self._arguments(new), "id": new.row.get("id", f"again {new.n}")}
        with self._asking(new):
            first = await self._outbox.put(**options)
        self._acknowledged(new, first)
        if not other:
            second = await self._outbox.put(**options)
            if (second.id, second.seq) != (first.id, first.seq):
                self._world.wrong(f"{new.n} was stored twice, as {first} and {second}")
        else:
            try:
                await self._outbox.put(**{**options, "row": {**options["row"], "n": -new.n}})
            except IdConflict:
                return
            self._world.wrong(f"{new.n} was put over with other data")

    async def _do_request(self, action: str) -> None:
        """What a command asks of the running bot, through the folder beside the file."""
        arguments = {"before_ms": 0} if action == "prune" else {}
        inbox.post(self._path, action, arguments)

    async def _do_transaction(self, puts: list[dict[str, Any]], end: str) -> None:
        group = puts[0]["n"]
        news = [self._new(**put, group=group) for put in puts]
        with self._asking(*news):
            task = asyncio.create_task(self._transaction(news, end))
            if end == "cancel":
                await asyncio.sleep(0.001)
                task.cancel()
            try:
                receipts = await task
            except asyncio.CancelledError:
                for new in news:
                    new.told = "unknown"
                return
            except _OwnError:
                for new in news:
                    new.told = "refused"
                return
        for new, receipt in zip(news, receipts, strict=True):
            self._acknowledged(new, receipt)

    async def _transaction(self, news: list[Put], end: str) -> list[Any]:
        async with self._outbox.transaction(limit_s=1.0) as tx:
            receipts = []
            for new in news:
                await tx.execute("insert into own values (?)", (new.n,))
                receipts.append(await tx.put(**self._arguments(new)))
            if end == "raise":
                raise _OwnError
            if end == "expire":
                await asyncio.sleep(1.5)
        return receipts

    async def _do_load(self, table: str, first: int, every_s: float, s: float) -> None:
        until_s = self._loop.time() + s
        while self._loop.time() < until_s:
            first += 1
            await self._do_put({"n": first, "table": table, "operation": "insert", "row": {"n": first}})
            await asyncio.sleep(every_s)

    async def _do_sleep(self, s: float) -> None:
        await asyncio.sleep(s)

    async def _do_drain(self, timeout: float) -> None:
        started_s = self._loop.time()
        report = await self._outbox.drain(timeout)
        took_s = self._loop.time() - started_s
        self._tell(f"drained {report}")
        if took_s > timeout + 15:
            self._world.wrong(f"drain({timeout}) took {took_s:.1f} s")

    async def _do_look(self) -> None:
        await self._outbox.stats()
        await self._outbox.pending_entries()
        await self._outbox.read_local("select count(*) from own")
        self._outbox.pending_now()

    async def _do_requeue(self) -> None:
        self._tell(f"requeued {await self._outbox.requeue(everything=True)}")

    async def _do_discard(self) -> None:
        handled = await self._outbox.discard(everything=True, reason="the simulation's")
        self._world.discarded.update(each.id for each in handled)
        self._tell(f"discarded {handled}")

    async def _do_flusher(self, s: float) -> None:
        """Cancel it, as a careless bot does, and start it again later."""
        flusher, self._flusher = self._flusher, None
        if flusher is None:
            return
        flusher.cancel()
        await asyncio.wait({flusher})
        self._world.ails(self._loop.time() + s)
        await asyncio.sleep(s)
        self._start_flusher()

    async def _do_reload(self) -> None:
        await self._outbox.reload()

    async def _do_mood(self, table: str | None, kind: str, s: float) -> None:
        until_s = self._loop.time() + s
        self._world.network.moods.append(Mood(until_s, table, kind))
        self._world.ails(until_s)

    async def _do_bad(self, share: float, s: float) -> None:
        network = self._world.network
        network.bad, network.bad_until_s = share, self._loop.time() + s
        self._world.ails(network.bad_until_s)

    async def _do_latency(self, s: float) -> None:
        self._world.network.latency_s = s

    async def _do_clock(self, s: float) -> None:
        self._world.step_clock(s)

    async def _do_shell(self, n: int) -> None:
        """Somebody puts a row in with the sqlite3 shell."""
        put = self._new(n, "trades", {"n": n, "id": f"t{n}"})
        with contextlib.closing(sqlite3.connect(self._path, timeout=0, isolation_level=None)) as shell:
            try:
                shell.execute(
                    "insert into outbox (destination, payload) values ('trades', ?)", (f'{{"id": "t{n}", "n": {n}}}',)
                )
            except sqlite3.OperationalError:
                put.told = "refused"  # the bot is writing
            else:
                put.told, put.id = "acknowledged", f"t{n}"

    async def _do_session(self, do: str) -> None:
        if do == "start":
            await self._session.start_session(1000.0, ["EURUSD"])
        elif do == "beat":
            await self._session.update_heartbeat(1001.0)
        else:
            await self._session.end_session({"balance": 1002.0, "total_trades": 1, "total_pnl": 2.0})


class _OwnError(Exception):
    """What a bot's own code raises inside a transaction."""
