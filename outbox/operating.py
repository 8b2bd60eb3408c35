"""The calls of an `Outbox` besides putting and sending: reading, and what an operator needs."""

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


# Payloads fetched in one step, so that the event loop keeps running.
_PAGE_ROWS = 200


class Operates(Owned):
    """The part of `Outbox` that reads, and that an operator calls."""

    _settings: Settings
    _clock: Clock
    _remote: Remote
    _pending_counter: PendingCounter
    _flusher: Flusher
    _reporter: Reporter
    _commands: Commands

    async def reload(self) -> None:
        """Read environment and `.env` again, send with the URL and key that are there now, and end every pause.

        Other settings take effect at the next open.

        Raises:
            ConfigError: A setting cannot be used. The old URL and key stay.
        """
        self._check_caller()
        await self._remote.refresh()
        self._reporter.resume()
        await self._flusher.forget_pauses()

    async def adopt(self) -> str | None:
        """Let this file's entries go to the project that the settings name, from the next answer on.

        A file belongs to the first project that has answered for one of its rows; while the URL names another one,
        everything is paused (`other_project`). What was already delivered stays where it is.

        Returns:
            The project that the file belonged to, or None if it belonged to none yet.

        Raises:
            StoreError: The file cannot be written. Nothing was changed.
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

        Applies to entries that match all arguments. Works in steps, so that puts can run in between.

        Args:
            ids: These entries; none if it is empty.
            destination: The remote table.
            session: The row's session_id.
            code: The server's error code, or its HTTP status where it gave none.
            said: A part of the server's message.
            since: When they died, at the earliest.
            until: When they died; excluded.
            where: Values of the row's columns.
            everything: All dead entries; must be given explicitly, and excludes the other choices.
            force: Also those that a later entry of their key has overtaken, or may be overtaking. They would revert
                newer state, and are refused otherwise.
            dry_run: Only return what would happen to them.

        Returns:
            What became of each entry, and of each id that no entry has.

        Raises:
            InvalidRequest: Nothing was changed.
            StoreError: What was done before stays; do the rest again.
        """
        self._check_caller()
        which = Selection.chosen(
            ids, since, until, destination=destination, session=session, code=code, said=said, where=where,
            everything=everything,
        )  # fmt: skip
        return await self._commands.requeue(which, force=force, dry_run=dry_run)

    async def discard(  # noqa: D417 - the others are those of `requeue`
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
        """Give up dead entries. The rows are kept until they are pruned. Other arguments and errors as `requeue`.

        Args:
            ids: These entries, including pending ones.
            reason: Why; kept as long as the rows.

        Returns:
            What became of each entry, and of each id that no entry has.
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

        Applies to entries that match all arguments and are still within the retention. Ids make an insert harmless; of
        upserts the newest of each key is sent, updates are left out, both counted. Works in steps, puts run between.

        Args:
            since: When they were delivered, at the earliest.
            until: When they were delivered; excluded.
            destination: The remote table.
            session: The row's session_id.
            dry_run: Only count.

        Returns:
            How many entries are sent again, and how many are left out.

        Raises:
            InvalidRequest: Nothing was changed.
            StoreError: What was done before stays; do it again.
        """
        self._check_caller()
        which = Selection.chosen(None, since, until, destination=destination, session=session)
        return await self._commands.resend(which, dry_run=dry_run)

    # ------------------------------------------------------------------------------------------ looking

    async def fetch(self, path: str) -> list[dict[str, Any]]:
        """GET `path` below the REST endpoint and return the rows; never [] on failure.

        One request, bounded by the settings' `request_deadline_s`.

        Args:
            path: Such as `trades?select=*&limit=10`. It is sent unchanged, so encode its values.

        Raises:
            Unreachable: No answer.
            RemoteError: An answer other than rows.
            ConfigError: No URL or key is set.
            InvalidQuery: It is not such a path.
        """
        self._check_process()
        self._loop_is_here()
        return await self._remote.fetch(path)

    async def read_local(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run the bot's own query on its own tables in the same file and return the rows.

        Runs on the read-only connection, so it waits for no writer and sees what is committed; what an open
        `transaction()` has written, only its own `execute` sees. The flusher reads there too: keep the query short.

        Raises:
            InvalidEntry: It is BEGIN, ATTACH, PRAGMA or the like.
            StoreError: SQLite refused it.
            UsageError: The call was made where it cannot work, such as on another event loop.
        """
        self._check_process()
        self._loop_is_here()
        refuse_control(sql)
        return [tuple(row) for row in await self._store.read(sql, parameters)]

    async def pending_entries(self, limit: int | None = None) -> list[StoredEntry]:
        """Return what is pending, or the `limit` oldest of it, oldest first: to look at, not to put again.

        Reads the whole backlog, in pages: what is delivered meanwhile is left out. `stats()` counts without reading it.
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
        """The bot's name in the settings: kept with each row, and distinguishes the sessions of two bots."""
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
        """Whether there is somewhere to send to and read from. Rows are kept even if there is not."""
        return self._remote.transport is not None

    def pending_now(self) -> int:
        """Return how many entries are pending, without waiting: some ten microseconds in the caller's thread.

        `stats()` tells more, without holding up the event loop.

        Raises:
            OutboxClosed: It is closed.
            StoreError: The file cannot be read.
        """
        self._check_process()
        return self._pending_counter.pending()
