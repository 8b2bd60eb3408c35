"""How many entries are pending, asked without an `await`: the old module's `pending_count`.

The only SQLite call of this library that runs in the caller's thread. It reads the counters, one row per destination
and state, on a connection of its own that stays open: some ten microseconds, whatever the backlog. In a WAL file a
reader waits for nobody.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from outbox.store import database, files, queries


class PendingCounter:
    """Reads the counter; connects at the first call. Close it before the store."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: Any = None
        self._away = False
        self._last = 0

    def pending(self) -> int:
        """Return how many entries are pending, those that other connections have committed included."""
        if self._away:
            return self._last
        try:
            if self._connection is None:
                self._connection = self._connect()
            # All rows are fetched: a statement left open would hold its snapshot, and the WAL would grow.
            self._last = int(self._connection.execute(queries.PENDING_NOW.sql).fetchall()[0][0])
        except database.SqliteError as error:
            raise database.named(error, self._path) from error
        return self._last

    def _connect(self) -> Any:
        uri = files.uri(self._path)
        # The writer's own SQLite library: a second one in this process would drop the first one's file locks.
        # timeout=0: the event loop must not wait.
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0, check_same_thread=False)

    def admit(self, readers: bool) -> None:
        """Close the connection and keep to the last answer until readers are admitted again."""
        self._away = not readers
        self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
