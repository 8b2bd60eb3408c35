"""`Outbox`: opens, wires, closes. What a bot calls."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import warnings
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from outbox import logs
from outbox.background import Part, ended, stop_in_time
from outbox.clock import Clock, SystemClock
from outbox.entry import Destination
from outbox.errors import ConfigError, StoreError
from outbox.futures import Waiting
from outbox.opening import Opening, log_opened
from outbox.operating import Operates, by_request
from outbox.postgrest.client import Transport
from outbox.puts import Destinations, Puts, refuse_copy
from outbox.remote import Remote
from outbox.settings import Settings
from outbox.stats import DrainReport
from outbox.store.capacity import Bounds
from outbox.store.reader import PendingCounter
from outbox.store.store import Store
from outbox.threads import in_thread
from outbox.transaction import OwnSql

if TYPE_CHECKING:
    from outbox.admin.inbox import CommandServer
    from outbox.store.maintenance import Maintenance

logger: logs.Logger = logs.named("outbox")

# How long a stopping flusher may take to finish what is in flight; what is not done stays pending.
_GRACE_S = 5.0
# The same for an operator's request.
_REQUEST_GRACE_S = 2.0


class Outbox(Puts, OwnSql, Operates):
    """The durable outbox: `put` returns once the row is on disk; the flusher brings it to Supabase.

    Belongs to the event loop that opened it. Make one with `Outbox.open`.
    """

    def __init__(self, store: Store, remote: Remote, settings: Settings, *, clock: Clock) -> None:
        # The modules that run an open file are loaded with the first one, not by `import outbox`.
        from outbox.admin.commands import Commands
        from outbox.drain import Drains
        from outbox.fleet import Reporter
        from outbox.flusher.flusher import Flusher

        self._store = store
        self._settings = settings
        self._clock = clock
        self._belongs_here()
        self._closing: asyncio.Task[None] | None = None
        self._spent_s = 0.0  # by the last block of `flushing()`, to stop
        self._destinations = Destinations(store, clock=clock, source=settings.source)
        self._remote = remote
        self._repeating = logs.Repeating(clock)
        self._waiting = Waiting(store.path, max_rows=settings.max_waiting, max_bytes=settings.max_waiting_bytes)
        self._pending_counter = PendingCounter(store.path)
        store.on_readers = self._pending_counter.admit
        self._flusher = Flusher(
            store,
            self._remote.current,
            self._destinations.destination,
            clock=clock,
            draw=random.random,
            limits=settings,
        )
        self._drains = Drains(store, self._flusher, self._remote, clock=clock, poll_s=settings.poll_s)
        flusher = self._flusher.state
        self._commands = Commands(
            store,
            clock=clock,
            sending=lambda: flusher.now.running,
            at_rest=self._flusher.at_rest,
            destinations=self._destinations,
        )
        self._reporter = Reporter(
            self._stats,
            lambda: None if self._flusher.is_away(remote.transport) else remote.transport,
            clock=clock,
            source=settings.source,
            every_s=0.0 if remote.fixed else settings.health_s,
            tell=store.sidecar.tell_task,
        )
        self._command_server: CommandServer | None = None
        self._maintenance: Maintenance | None = None

    @classmethod
    def open(
        cls,
        settings: Settings | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        destinations: Iterable[Destination] = (),
        wait_s: float = 0.0,
        clock: Clock | None = None,
        transport: Transport | None = None,
    ) -> Opening:
        """Open the outbox file for writing; create and migrate it if need be.

        Args:
            settings: Where the file and the project are; read from the environment and `.env` unless given.
            path: The file, in place of the settings' own.
            destinations: Your own tables, declared as by `register` before anything can be put.
            wait_s: Seconds to wait for another process that has the file open.
            clock: Replaces the machine's, for tests (`outbox.testing`).
            transport: Replaces the connection to Supabase, for tests.

        Returns:
            What `await` or `async with` turns into the open outbox.

        Raises:
            ConfigError: A setting or a destination cannot be used; nothing was opened.
            StoreInUse: Another process has the file open for writing; nothing was opened.
            StoreError: The file cannot be used; the error says why, and what became of it.
        """
        declared = tuple(destinations)

        async def start() -> Outbox:
            if not isinstance(settings, Settings | None):
                raise ConfigError(
                    f"settings must be Settings, not {type(settings).__name__}; a path is given as path=…",
                    field="settings",
                )
            if settings is not None and path is not None:
                raise ConfigError("path is given twice: as an argument and in the settings", field="path")
            given: dict[str, Any] = {} if path is None else {"path": path}
            # Reading .env is I/O, if only a little.
            chosen = await in_thread(Settings, **given) if settings is None else settings
            return await cls._open(chosen, declared, wait_s, clock or SystemClock(), transport)

        return Opening(start)

    @classmethod
    async def _open(
        cls,
        settings: Settings,
        declared: Sequence[Destination],
        wait_s: float,
        clock: Clock,
        transport: Transport | None,
    ) -> Outbox:
        from outbox.admin.inbox import CommandServer
        from outbox.recovery.open import open_store
        from outbox.store.maintenance import Maintenance

        # aiosqlite logs every statement with its parameters, which are payloads.
        logging.getLogger("aiosqlite").setLevel(logging.WARNING)
        try:
            path = settings.path.absolute()
        except OSError as error:
            raise StoreError("the current folder has gone; nothing was opened", path=settings.path) from error
        store = await open_store(
            path,
            clock=clock,
            busy_timeout_s=settings.busy_timeout_s,
            wait_s=wait_s,
            bounds=Bounds(settings.reserve_bytes, settings.max_pending_rows, settings.max_pending_bytes),
        )
        try:
            settings = settings.model_copy(update={"source": await store.keep_source(settings)})
            outbox = cls(store, Remote(settings, transport, clock), settings, clock=clock)
        except BaseException:
            await store.close()
            raise
        try:
            outbox._destinations.declare(declared)
            await store.keep_strict_order(settings.strict_order)
            await outbox._flusher.load()
            # The machine's own clock: the other processes that leave requests have no other.
            actions = outbox._commands.actions | by_request(outbox)
            outbox._maintenance = Maintenance(store, clock=clock, retention_days=settings.retention_days)
            outbox._command_server = CommandServer(
                store.path, actions, clock=SystemClock(), poll_s=settings.poll_s, tell=store.sidecar.tell_task
            )
            store.glance, store.glanced = outbox._command_server.glance, outbox._command_server.glanced
        except BaseException:
            await outbox.close()
            raise
        log_opened(store, settings.path)
        for warning in outbox._remote.warnings:
            logger.warning("entries cannot be sent", extra={"why": warning})
        return outbox

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the flusher, commit the queued puts, close the file. What is pending stays pending. Idempotent.

        A cancelled caller still waits for it, some 5 s if the server hangs; a second cancellation returns at once.
        """
        if os.getpid() != self._pid:
            return  # a forked child has neither threads nor locks; file and connections are the parent's
        if self._closing is None:
            self._loop_is_here()
            self._closed = True
            self._closing = asyncio.create_task(self._shut(), name="outbox-close")
        # Cancelling one of its callers must not leave the file half closed.
        try:
            await asyncio.shield(self._closing)
        except asyncio.CancelledError:
            await asyncio.wait({self._closing})  # so that the next outbox may open it; a second cancellation returns
            if not self._closing.cancelled() and (error := self._closing.exception()) is not None:
                logger.error("closing failed", exc_info=error)  # noqa: TRY400 - not the CancelledError's traceback
            raise

    async def _shut(self) -> None:
        parts = [
            Part("flusher", partial(self._drains.close, _GRACE_S)),
            Part("health report", self._reporter.stop),
            Part("file", self._store.close, give_up=self._store.give_up),
            Part("connections", self._remote.close),
        ]
        if self._maintenance is not None:
            parts.insert(2, Part("maintenance", self._maintenance.stop))
        if self._command_server is not None:
            parts.insert(2, Part("inbox", partial(self._command_server.stop, _REQUEST_GRACE_S)))
        await stop_in_time(parts, spent_s=self._spent_s)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and os.getpid() == self._pid:
            warnings.warn(f"{self!r} was never closed; use `async with Outbox.open(…)`", ResourceWarning, stacklevel=1)

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)

    def __repr__(self) -> str:
        return f"<Outbox {self._store.path}{' closed' if self._closed else ''}>"

    # ------------------------------------------------------------------------------------------ sending

    async def run_flusher(self) -> None:
        """Deliver entries to Supabase until cancelled or closed. Run it once, as a background task.

        Raises:
            UsageError: It runs already.
        """
        self._check_caller()
        self._reporter.start()
        await self._drains.run_flusher()

    @contextlib.asynccontextmanager
    async def flushing(self) -> AsyncIterator[Outbox]:
        """Run the flusher for the length of the block.

        Yields:
            This outbox.

        Raises:
            UsageError: The flusher runs already; it keeps running.
        """
        task = asyncio.create_task(self.run_flusher(), name="outbox-flusher")
        await asyncio.sleep(0)  # let it start, so that a drain in the block joins it
        if task.done():
            await task  # one runs already: neither this block nor its end may touch it
        try:
            yield self
        finally:
            began_s = asyncio.get_running_loop().time()
            await self._drains.stop(_GRACE_S)
            done = await ended({task})
            self._spent_s = asyncio.get_running_loop().time() - began_s
            if done:
                await task  # whatever broke it is raised here

    async def drain(self, timeout: float = 30.0) -> DrainReport:
        """Send until nothing is pending or `timeout` seconds have passed. Joins a running flusher, else runs one.

        Makes one immediate try, whatever the flusher waits for.

        Args:
            timeout: Seconds.

        Returns:
            What was sent and what is left. Ends early, with `held_by`, when all that is left waits for an operator:
                a wrong key, a missing table, another project, no URL.
        """
        self._check_caller()
        return await self._drains.drain(timeout)
