"""The calls of an `Outbox` beside putting and sending: those that look, and those that an operator needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outbox.clock import Clock
from outbox.puts import Owned
from outbox.remote import Remote
from outbox.settings import Settings
from outbox.store.held_transaction import refuse_control
from outbox.store.reader import PendingCounter
from outbox.store.rows import StoredEntry
from outbox.store.selection import Handled, Selection

if TYPE_CHECKING:
    from outbox.admin.commands import Commands
    from outbox.admin.resend import ResendReport
    from outbox.fleet import Reporter
    from outbox.flusher.flusher import Flusher


# Payloads fetched in one step, so that the event loop goes on.
_PAGE_ROWS = 200


class Operates(Owned):
    """The part of `Outbox` that looks, and that an operator calls."""

    _settings: Settings
    _clock: Clock
    _remote: Remote
    _pending_counter: PendingCounter
    _flusher: Flusher
    _reporter: Reporter
    _commands: Commands

    async def reload(self) -> None:
        """Read environment and `.env` again, send with the URL and key that are there now, and end every pause.

        Other settings count from the next open. Raises ConfigError: the old URL and key stay.
        """
        self._check_caller()
        await self._remote.refresh()
        self._reporter.resume()
        await self._flusher.forget_pauses()

    async def adopt(self) -> str | None:
        """Let this file's entries go to the project that the settings name, from the next answer on.

        A file belongs to the first project that has answered for one of its rows; while the URL names another one,
        everything is paused (`other_project`). What was delivered before stays where it is. Returns the project that
        it belonged to, None: to none yet. Raises StoreError: nothing was changed.
        """
        self._check_caller()
        return await self._flusher.adopt()

    async def requeue(
        self,
        ids: Sequence[str] | None = None,
        *,
        destination: str | None = None,
        session: str | None = None,
        code: str | None = None,
        said: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        where: Mapping[str, object] | None = None,
        everything: bool = False,
        force: bool = False,
        dry_run: bool = False,
    ) -> list[Handled]:
        """Revive dead entries: they are pending again, their attempts forgotten, their history kept.

        Those that match all that is given: ids (none: no entry), destination, session (the row's session_id), code (the
        server's error code, or its HTTP status where it gave none), said (a part of its message), since and until
        (excluded): when they died, where: values of the row's columns; `everything` must be said. Returns what became
        of each entry, and of each id that no entry has. One that a later entry of its key has overtaken, or may be
        overtaking, would revert newer state and is refused, unless forced. dry_run: only return what would become of
        them. Done in steps, puts come in between.

        Raises InvalidRequest: nothing was changed; StoreError: what was done before stays, do the rest again.
        """
        self._check_caller()
        which = Selection.chosen(
            ids, since, until, destination=destination, session=session, code=code, said=said, where=where,
            everything=everything,
        )  # fmt: skip
        return await self._commands.requeue(which, force=force, dry_run=dry_run)

    async def discard(
        self,
        ids: Sequence[str] | None = None,
        *,
        reason: str,
        destination: str | None = None,
        session: str | None = None,
        code: str | None = None,
        said: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        where: Mapping[str, object] | None = None,
        everything: bool = False,
        dry_run: bool = False,
    ) -> list[Handled]:
        """Give dead entries up, of the ids those too that are pending.

        The rows, and the reason, are kept until they are pruned. The rest as `requeue`.
        """
        self._check_caller()
        which = Selection.chosen(
            ids, since, until, destination=destination, session=session, code=code, said=said, where=where,
            everything=everything,
        )  # fmt: skip
        return await self._commands.discard(which, reason=reason, dry_run=dry_run)

    async def resend(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        destination: str | None = None,
        session: str | None = None,
        dry_run: bool = False,
    ) -> ResendReport:
        """Make delivered entries pending again: the remote end was restored from a backup, or emptied.

        Those that match all that is given, of what the retention has left: since, until (excluded): when they were
        delivered; session: its session_id. Ids make an insert harmless; of upserts the newest of each key is sent,
        updates are left out, both counted. dry_run: only count. Done in steps, puts come in between.

        Raises InvalidRequest: nothing was changed; StoreError: what was done before stays, do it again.
        """
        self._check_caller()
        which = Selection.chosen(None, since, until, destination=destination, session=session)
        return await self._commands.resend(which, dry_run=dry_run)

    # ------------------------------------------------------------------------------------------ looking

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

    async def pending_entries(self, limit: int | None = None) -> list[StoredEntry]:
        """Return what is pending, or the `limit` oldest of it, oldest first: to look at, not to put again.

        Reads the whole backlog, in pages: what is delivered meanwhile is left out. `stats()` counts without that.
        """
        self._check_process()
        self._loop_is_here()
        seqs = await self._store.pending_seqs(limit)
        entries: list[StoredEntry] = []
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
