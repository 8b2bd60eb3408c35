"""Whether there is room for another entry: on the disk, and below the bounds that were set.

The disk is short of room from the moment a write finds it full until the reserve is whole again. Meanwhile puts are
refused at once, and the reserve's space is the flusher's and the housekeeper's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiosqlite

from outbox import logs
from outbox.entry import Entry
from outbox.errors import DiskFull, OutboxFull, StoreError
from outbox.store import queries
from outbox.store.reserve import LITTLE, NEEDED_TO_OPEN, Reserve
from outbox.threads import in_thread

logger = logs.named("outbox.store")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may be stored. None: no bound.

    reserve_bytes: held back on the disk; 0: nothing, a reserve that is there goes; None: leave it as it is.
    """

    reserve_bytes: int | None = None
    max_pending_rows: int | None = None
    max_pending_bytes: int | None = None


class Capacity:
    """The reserve of one store, and the bounds of its backlog."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._path = path
        self._bounds = bounds
        self._bounded = (bounds.max_pending_rows, bounds.max_pending_bytes) != (None, None)
        self._reserve = Reserve(path, bounds.reserve_bytes) if bounds.reserve_bytes else None
        self.short = False  # True: the disk was found full, and the reserve is not whole again yet
        self.changed = asyncio.Event()  # set when the housekeeper should look before its minute is over

    @property
    def open(self) -> bool:
        """Whether every put may be stored without looking further."""
        return not self.short and not self._bounded

    # ------------------------------------------------------------------------------------------ the reserve

    async def prepare(self) -> None:
        """Make the reserve, or give it up if the file could not even be opened without it."""
        if self._bounds.reserve_bytes is not None:
            await self._guarded(self._prepare)

    def _prepare(self) -> None:
        if self._reserve is None:
            Reserve(self._path, 0).release()
        elif not self._reserve.is_whole():
            self.short = not self._reserve.make()
        elif self._reserve.free() < NEEDED_TO_OPEN or self._lacks(NEEDED_TO_OPEN):
            self._reserve.release()
            self.short = True
        if self.short:
            facts = {"path": str(self._path), "reserve_bytes": self._bounds.reserve_bytes}
            logger.warning("disk almost full, puts are refused", extra=facts)

    async def release(self) -> bool:
        """Give the reserve up: a write found the disk full. Return whether that made room."""
        if self._reserve is None:
            return False
        held = not self.short
        self.short = True
        self.changed.set()
        if held:
            facts = {"path": str(self._path), "reserve_bytes": self._bounds.reserve_bytes}
            logger.error("disk full, the reserve is released and puts are refused", extra=facts)
            await self._guarded(self._reserve.release)
        return held

    async def is_lacking(self) -> bool:
        """Return whether an I/O error was for want of room: beyond a quota, or found out at the sync.

        False, too, once the reserve is given up, and where that cannot be found out.
        """
        if self._reserve is None or self.short:
            return False
        return await in_thread(self._lacks)

    def _lacks(self, size: int = LITTLE) -> bool:
        assert self._reserve is not None
        try:
            return self._reserve.lacks(size)
        except OSError:  # the disk is dying, that is all
            return False

    async def regain(self) -> bool:
        """Make the reserve again if there is room for it, and return whether puts are admitted now."""
        if self.short and self._reserve is not None:
            await self._guarded(self._regain)
        return not self.short

    def _regain(self) -> None:
        assert self._reserve is not None
        if self._reserve.make():
            self.short = False
            facts = {"path": str(self._path), "reserve_bytes": self._bounds.reserve_bytes}
            logger.warning("room on the disk again, puts are admitted", extra=facts)

    async def _guarded(self, work: Callable[[], None]) -> None:
        """Do `work` in a thread. A folder that allows no reserve must not keep anybody from putting."""
        try:
            await in_thread(work)
        except OSError as error:
            self._reserve, self.short = None, False
            logger.warning("no reserve can be kept", extra={"path": str(self._path), "error": str(error.strerror)})

    # ------------------------------------------------------------------------------------------ admission

    def check_disk(self) -> None:
        """Raise DiskFull while the disk is short of room."""
        if self.short:
            raise DiskFull(path=self._path)

    async def refusals(self, connection: aiosqlite.Connection, entries: Sequence[Entry]) -> list[StoreError | None]:
        """Return for each of `entries`, in order, why it is not admitted; None: it is. Two rows are read, no entry."""
        if self.short:
            return [DiskFull(path=self._path, ids=(entry.id,)) for entry in entries]
        if not self._bounded:
            return [None] * len(entries)
        rows, size = next(iter(await connection.execute_fetchall(queries.BACKLOG.sql)))
        found: list[StoreError | None] = []
        for entry in entries:
            length = len(entry.payload.encode())
            found.append(self._excess(rows + 1, size + length))
            if found[-1] is None:
                rows, size = rows + 1, size + length
        return found

    def _excess(self, rows: int, size: int) -> OutboxFull | None:
        for field, limit, wanted in (
            ("max_pending_rows", self._bounds.max_pending_rows, rows),
            ("max_pending_bytes", self._bounds.max_pending_bytes, size),
        ):
            if limit is not None and wanted > limit:
                return OutboxFull(path=self._path, field=field, limit=limit)
        return None
