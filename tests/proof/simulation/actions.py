"""What bots, operators and the world do: every call of the library, with what its answer says of the rows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from outbox import Outbox, OutboxError, SessionManager
from outbox.admin import inbox
from outbox.errors import ConfigError, IdConflict, OutcomeUnknown, StoreVanished
from tests.proof.simulation import janitor
from tests.proof.simulation.loop import Loop
from tests.proof.simulation.network import Mood
from tests.proof.simulation.world import SPOILS, Put, World, trade_id

# An operator who is not answered for so long takes the request back.
_LONGEST_ANSWER_S = 30


class Actions:
    """Each public method is an action of a program."""

    def __init__(self, world: World, loop: Loop, path: Path, outbox: Outbox, tell: Callable[[str], None]) -> None:
        self._world, self._loop, self._path, self._outbox, self._tell = world, loop, path, outbox, tell
        self._session = SessionManager(outbox)
        self.flusher: asyncio.Task[None] | None = None

    def start_flusher(self) -> None:
        """Start it; from now on what waits has to arrive."""
        self.flusher = asyncio.create_task(self._outbox.run_flusher())
        self._world.ails(self._loop.time())

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
            known = isinstance(error, OutboxError) and not isinstance(error, (OutcomeUnknown, StoreVanished))
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

    async def put(self, put: dict[str, Any], after: int = 0) -> None:
        new = self._new(**put)
        with self._asking(new):
            self._acknowledged(new, await self._outbox.put(**self._arguments(new)))

    async def nowait(self, put: dict[str, Any], after: int) -> None:
        new = self._new(**put)
        with self._asking(new):
            future = self._outbox.put_nowait(**self._arguments(new))
            if after % 2:
                self._acknowledged(new, await future)
            else:
                new.told = "unknown"

    async def cancelled(self, put: dict[str, Any], after: int) -> None:
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

    async def many(self, numbers: list[int], together: bool) -> None:
        puts = [self._new(n, "trades", {"n": n, "id": trade_id(n)}, group=-numbers[0]) for n in numbers]
        with self._asking(*puts):
            rows = [put.row for put in puts]
            if together:
                async with self._outbox.transaction() as tx:
                    receipts = await tx.put_many("trades", rows)
            else:
                receipts = await self._outbox.put_many("trades", rows)
        for put, receipt in zip(puts, receipts, strict=True):
            self._acknowledged(put, receipt)

    async def keep(self, numbers: list[int]) -> None:
        """Tell rows twice, as a broker does, the second time with something added: the first telling stays."""
        puts = [self._new(n, "fills", {"n": n, "id": f"f{n}"}, group=-numbers[0]) for n in numbers]
        with self._asking(*puts):
            receipts = await self._outbox.put_many("fills", [put.row for put in puts], if_exists="keep")
        for put, receipt in zip(puts, receipts, strict=True):
            self._acknowledged(put, receipt)
        again = await self._outbox.put_many("fills", [{**put.row, "late": True} for put in puts], if_exists="keep")
        if [(each.id, each.seq) for each in again] != [(each.id, each.seq) for each in receipts]:
            self._world.wrong(f"{numbers} were told twice and stored as {receipts} and {again}")

    async def thread(self, put: dict[str, Any], after: int) -> None:
        """As from another thread, but that this one waits in a coroutine."""
        new = self._new(**put)
        with self._asking(new):
            future = self._outbox.put_threadsafe(**self._arguments(new))
            self._acknowledged(new, await asyncio.wrap_future(future))

    async def again(self, put: dict[str, Any], other: bool) -> None:
        """Put one id twice, as a bot does that was not answered; other: with other data, which is refused."""
        new = self._new(**put)
        options = {**self._arguments(new), "id": new.row.get("id", trade_id(new.n))}
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

    async def request(self, action: str) -> None:
        """What a command asks of the running bot, through the folder beside the file."""
        arguments = {"before_ms": 0} if action == "prune" else {}
        inbox.post(self._path, action, arguments)

    async def transaction(self, puts: list[dict[str, Any]], end: str) -> None:
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

    async def load(self, table: str, first: int, every_s: float, s: float) -> None:
        until_s = self._loop.time() + s
        while self._loop.time() < until_s:
            first += 1
            await self.put({"n": first, "table": table, "operation": "insert", "row": {"n": first}})
            await asyncio.sleep(every_s)

    async def sleep(self, s: float) -> None:
        await asyncio.sleep(s)

    async def drain(self, timeout: float) -> None:
        started_s = self._loop.time()
        report = await self._outbox.drain(timeout)
        took_s = self._loop.time() - started_s
        self._tell(f"drained {report}")
        if took_s > timeout + 15:
            self._world.wrong(f"drain({timeout}) took {took_s:.1f} s")

    async def look(self) -> None:
        await self._outbox.stats()
        await self._outbox.pending_entries()
        await self._outbox.read_local("select count(*) from own")
        self._outbox.pending_now()

    async def requeue(self) -> None:
        self._tell(f"requeued {await self._outbox.requeue(everything=True)}")

    async def discard(self) -> None:
        handled = await self._outbox.discard(everything=True, reason="the simulation's")
        self._world.discarded.update(each.id for each in handled)
        self._tell(f"discarded {handled}")

    async def rest(self, s: float) -> None:
        """Cancel it, as a careless bot does, and start it again later."""
        flusher, self.flusher = self.flusher, None
        if flusher is None:
            return
        flusher.cancel()
        await asyncio.wait({flusher})
        self._world.ails(self._loop.time() + s)
        await asyncio.sleep(s)
        self.start_flusher()

    async def reload(self) -> None:
        await self._outbox.reload()

    async def setting(self, name: str, value: str) -> None:
        """Reload what nobody can use: it is refused, and what was there before stays."""
        os.environ[name] = value
        try:
            await self._outbox.reload()
        except ConfigError as error:
            self._tell(f"not reloaded: {error}")
        else:
            if name in os.environ:  # nobody else has removed it meanwhile
                self._world.wrong(f"{name}={value} was taken")
        finally:
            os.environ.pop(name, None)

    async def mood(self, table: str | None, kind: str, s: float) -> None:
        until_s = self._loop.time() + s
        self._world.network.moods.append(Mood(until_s, table, kind))
        self._world.ails(until_s)

    async def bad(self, share: float, s: float) -> None:
        network = self._world.network
        network.bad, network.bad_until_s = share, self._loop.time() + s
        self._world.ails(network.bad_until_s)

    async def latency(self, s: float) -> None:
        self._world.network.latency_s = s

    async def clock(self, s: float) -> None:
        self._world.step_clock(s)

    async def shell(self, n: int) -> None:
        """Somebody puts a row in with the sqlite3 shell."""
        put = self._new(n, "trades", {"n": n, "id": trade_id(n)})
        with contextlib.closing(sqlite3.connect(self._path, timeout=0, isolation_level=None)) as shell:
            try:
                shell.execute(
                    "insert into outbox (destination, payload) values ('trades', ?)",
                    (json.dumps({"id": trade_id(n), "n": n}),),
                )
            except sqlite3.OperationalError:
                put.told = "refused"  # the bot is writing
            else:
                put.told, put.id, put.by_shell = "acknowledged", trade_id(n), True

    async def session(self, do: str) -> None:
        if do == "start":
            await self._session.start_session(1000.0, ["EURUSD"])
        elif do == "beat":
            await self._session.update_heartbeat(1001.0)
        else:
            await self._session.end_session({"balance": 1002.0, "total_trades": 1, "total_pnl": 2.0})

    # ------------------------------------------------------------------------------------------ operators

    async def resend(self, destination: str | None) -> None:
        """As after a restore of the remote end; ids make it harmless."""
        self._tell(f"resent {await self._outbox.resend(destination=destination)}")

    async def edit(self, pick: int) -> None:
        """Take out of an entry what the remote end refuses, as the command does: through the folder beside the file."""
        spoiled = [put for put in self._world.puts.values() if put.id and put.spoiled()]
        if not spoiled:
            return
        put = spoiled[pick % len(spoiled)]
        row = {name: value for name, value in put.row.items() if name not in SPOILS}
        arguments = {
            "its_id": put.id,
            "destination": put.table,
            "payload": json.dumps(row),
            "was": None,
            "force": False,
        }
        put.before, put.unsure = put.row, True
        request = inbox.post(self._path, "edit", arguments)
        for _ in range(_LONGEST_ANSWER_S):
            await asyncio.sleep(1)
            if (answer := inbox.answer_to(self._path, request)) is not None:
                self._tell(f"edited {put.n}: {answer}")
                put.row, put.unsure = row if answer.get("done") else put.row, False
                return
        put.unsure = not inbox.withdraw(self._path, request)

    async def vanish(self, what: str, n: int) -> None:
        """Take a file away under the bot, which puts a row then: that put looks, and puts right what it can."""
        world, untold = self._world, what in janitor.UNTOLD
        hurt, world.vanished = world.hurt, True
        janitor.visit(world, self._path, what)
        world.hurt = hurt  # until somebody has looked, more than that
        world.vanishing.append(untold)
        try:
            await self.put({"n": n, "table": "trades", "operation": "insert", "row": {"n": n, "id": trade_id(n)}})
        except StoreVanished as error:
            if error.kept != self._path or not error.goes_on:
                raise
            world.puts[n].told = "acknowledged" if error.stored else "refused"
        world.vanishing.remove(untold)


class _OwnError(Exception):
    """What a bot's own code raises inside a transaction."""
