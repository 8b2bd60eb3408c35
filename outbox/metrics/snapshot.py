"""How things stand in an open file, asked by another thread: what a monitor's scrape needs.

Neither the event loop nor the writer is asked, so that a bot whose loop hangs is still seen. Each question has a
connection of its own, some hundred microseconds; in a WAL file a reader waits for nobody.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from outbox.store import database, files, queries
from outbox.store.reader import StoredPause

# Counting stops here: a scrape must not read a backlog.
_MOST = 1000


class FileSnapshot:
    """Answers from the file `path`, which this process has open for writing. Each method raises StoreError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self, state: str) -> dict[str, int]:
        """Return how many entries are in `state`, by destination."""
        with self._asking() as ask:
            return {destination: entries for destination, its, entries in ask(queries.COUNTS.sql) if its == state}

    def destinations(self) -> set[str]:
        """Return every destination that ever had an entry."""
        with self._asking() as ask:
            return {destination for destination, _, _ in ask(queries.COUNTS.sql)}

    def oldest_pending_ms(self) -> int | None:
        """Return when the oldest pending entry was put, in Unix milliseconds; None: nothing is pending."""
        with self._asking() as ask:
            seqs = [seq for _, seq in ask(queries.READY_LANES.sql)]
            seqs += [row[0] for row in ask(queries.UNREAD.sql, (1,))]
            seqs += [row[0] for row in ask(queries.OLDEST_RETRYING.sql) if row[0] is not None]
            found = ask("select created_at_ms from outbox where seq = ?", (min(seqs),)) if seqs else []
        return int(found[0][0]) if found else None

    def postponed(self) -> int:
        """Return how many entries wait for something of their own; 1,000 stands for that many or more."""
        with self._asking() as ask:
            return int(ask(queries.POSTPONED.sql, (_MOST,))[0][0])

    def pauses(self) -> list[StoredPause]:
        """Return what is not sent to."""
        with self._asking() as ask:
            return [StoredPause(*row) for row in ask(queries.PAUSES.sql)]

    def since_ms(self, notice: str) -> int | None:
        """Return since when what `outbox_meta` calls `notice` holds, in Unix milliseconds; None: it does not."""
        with self._asking() as ask:
            rows = ask("select value from outbox_meta where name = ?", (notice,))
        return int(rows[0][0]) if rows and rows[0][0].isdigit() else None

    def db_bytes(self) -> int:
        """Return the size of the file."""
        return files.file_bytes(self._path)

    def wal_bytes(self) -> int:
        """Return the size of its WAL."""
        return files.file_bytes(files.wal_path(self._path))

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Any]:
        uri = files.uri(self._path)
        try:
            # The writer's own SQLite library: a second one in this process would drop the first one's file locks.
            with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0)) as connection:
                connection.execute("begin")  # one moment of the file's life

                def ask(sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
                    return list(connection.execute(sql, parameters).fetchall())

                yield ask
        except database.SqliteError as error:
            raise database.named(error, self._path) from error
