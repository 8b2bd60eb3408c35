"""The old module's habits, as small as they can be shown: what `test_old_faults` holds against it.

Written anew from what the specification's code does, not from its text. `Remote` stands for the service's client: it
stores rows in lists, and a test may tell it to fail before or after it has stored one.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]


class LineDownError(Exception):
    """The network failed."""


@dataclass
class Remote:
    """A remote end in memory. Each of `failures` spoils one call: "before" it is carried out, or "after" it."""

    tables: dict[str, list[Row]] = field(default_factory=dict)
    failures: deque[str | None] = field(default_factory=deque)

    def rows(self, table: str) -> list[Row]:
        """Return the rows of `table`."""
        return self.tables.setdefault(table, [])

    def insert(self, table: str, row: Row) -> None:
        """Append a row; the service gives it an id of its own, so that it never recognises a second sending."""
        self._call(lambda: self.rows(table).append(dict(row)))

    def upsert(self, table: str, row: Row, key: str) -> None:
        """Replace the row of the same `key`, or append."""
        self._call(lambda: self._merge(table, row, key))

    def select(self, table: str) -> list[Row]:
        """Return a copy of the rows."""
        found: list[Row] = []
        self._call(lambda: found.extend(self.rows(table)))
        return found

    def _merge(self, table: str, row: Row, key: str) -> None:
        others = [each for each in self.rows(table) if each[key] != row[key]]
        self.tables[table] = [*others, dict(row)]

    def _call(self, work: Callable[[], None]) -> None:
        failure = self.failures.popleft() if self.failures else None
        if failure == "before":
            raise LineDownError
        work()
        if failure == "after":
            raise LineDownError


class OldClient:
    """The client: one try, then a bounded queue in memory."""

    def __init__(self, remote: Remote | None) -> None:
        self.remote = remote
        self.queue: deque[tuple[str, Row, str]] = deque(maxlen=1000)

    async def write(self, table: str, row: Row, operation: str = "insert") -> bool:
        """Send one row; a failure puts it into the queue and says False."""
        if self.remote is None:
            return False
        try:
            if operation == "insert":
                self.remote.insert(table, row)
            else:
                self.remote.upsert(table, row, "session_id")
        except LineDownError:
            self.queue.append((table, row, operation))
            return False
        return True

    async def read(self, table: str) -> list[Row]:
        """Return rows, or none at all when it fails."""
        try:
            return self.remote.select(table) if self.remote else []
        except LineDownError:
            return []

    async def retry_pending(self) -> int:
        """Send the queue again: its inserts; everything else only counts."""
        sent, left = 0, []
        while self.queue:
            table, row, operation = self.queue.popleft()
            try:
                if operation == "insert" and self.remote:
                    self.remote.insert(table, row)
                sent += 1
            except LineDownError:
                left.append((table, row, operation))
        self.queue.extend(left)
        return sent

    async def log_trade(self, trade: Mapping[str, Any]) -> bool:
        """Write a trade under the id that it brings."""
        return await self.write("trades", {"trade_id": trade.get("id", ""), **trade})

    async def log_event(self, kind: str, data: Row | None = None) -> bool:
        """Write an event; its data are encoded twice, here and when the row is sent."""
        return await self.write("events", {"event_type": kind, "data": json.dumps(data or {})})


class OldLogger:
    """The trade logger. draw: 32 hexadecimal digits a call; the real one asks uuid4."""

    def __init__(self, client: OldClient, session_id: str, draw: Callable[[], str] = lambda: uuid.uuid4().hex) -> None:
        self.client = client
        self.session_id = session_id
        self.draw = draw

    async def log_trade(self, pnl: Any, pnl_pips: Any) -> None:
        """Write a trade, rounded, under the first eight digits of an id."""
        row = {"id": self.draw()[:8], "pnl": round(pnl, 2), "pnl_pips": round(pnl_pips, 1)}
        await self.client.log_trade(row)

    async def log_real_trade(self, trade: Row) -> None:
        """Write the executor's trade, after changing it."""
        trade["is_paper"] = False
        trade["session_id"] = self.session_id
        await self.client.log_trade(trade)


async def work_off(client: OldClient, pending: list[Row]) -> list[Row]:
    """One round of the worker over the pending file's items; return what the file holds afterwards."""
    done = 0
    for item in pending:
        if await client.write(item["table"], item["data"]):
            done += 1
    return [] if done == len(pending) else pending
