"""The calls of an `Outbox` that look: into its file, at its settings, and once at the remote end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from outbox.clock import Clock
from outbox.puts import Owned
from outbox.remote import Remote
from outbox.settings import Settings
from outbox.store.held_transaction import refuse_control
from outbox.store.pending_counter import PendingCounter
from outbox.store.reader import Shown

# Payloads fetched in one step, so that the event loop goes on.
_PAGE_ROWS = 200


class Looks(Owned):
    """The part of `Outbox` that reads."""

    _settings: Settings
    _clock: Clock
    _remote: Remote
    _pending_counter: PendingCounter

    async def fetch(self, path: str) -> list[dict[str, Any]]:
        """GET `path`, such as `trades?select=*&limit=10`, below the REST endpoint and return the rows.

        One request, bounded by the settings' `request_deadline_s`; the path goes as it is, so encode what is in it.
        Raises Unreachable: no answer; RemoteError: another answer than rows; ConfigError: no URL or key is set;
        InvalidQuery: it is no such path. Never [] for a failure.
        """
        self._check_process()
        self._loop_is_here()
        return await self._remote.fetch(path)

    async def read_local(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query of the bot's own on its own tables in the same file.

        Runs on the connection that cannot write, so it waits for no writer and sees what was committed before; what
        an open `transaction()` has written, only its own `execute` sees. The flusher reads there too: keep it short.
        Raises InvalidEntry: BEGIN, ATTACH, PRAGMA and their like; StoreError: SQLite refused it; UsageError.
        """
        self._check_process()
        self._loop_is_here()
        refuse_control(sql)
        return [tuple(row) for row in await self._store.read(sql, parameters)]

    async def pending_entries(self, limit: int | None = None) -> list[Shown]:
        """Return what is pending, or the `limit` oldest of it, oldest first: to look at, not to put again.

        Reads the whole backlog, in pages: what is delivered meanwhile is left out. `stats()` counts without that.
        """
        self._check_process()
        self._loop_is_here()
        seqs = await self._store.pending_seqs(limit)
        entries: list[Shown] = []
        for start in range(0, len(seqs), _PAGE_ROWS):
            entries += await self._store.shown(seqs[start : start + _PAGE_ROWS])
        return entries

    @property
    def path(self) -> Path:
        """The outbox file."""
        return self._store.path

    @property
    def source(self) -> str | None:
        """Who puts here, as the settings say: kept with each row, and what tells the sessions of two bots apart."""
        return self._settings.source

    @property
    def clock(self) -> Clock:
        """Where this outbox takes its time from."""
        return self._clock

    @property
    def supabase_url(self) -> str | None:
        """The project's URL, or None: none is set."""
        return self._remote.url

    @property
    def has_remote(self) -> bool:
        """Whether there is somewhere to send to and read from. Without it rows are kept all the same."""
        return self._remote.transport is not None

    def pending_now(self) -> int:
        """Return how many entries are pending, without waiting: some ten microseconds in the caller's thread.

        What `stats()` tells in full without holding up the event loop. Raises OutboxClosed, StoreError.
        """
        self._check_process()
        return self._pending_counter.pending()
