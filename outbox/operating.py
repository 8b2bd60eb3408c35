"""The calls of an `Outbox` besides putting and sending: reading, and what an operator needs."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outbox.clock import Clock
from outbox.entry import StoredEntry
from outbox.errors import OutboxClosed
from outbox.puts import Owned
from outbox.remote import Remote
from outbox.settings import Settings
from outbox.snapshot import Snapshot, take as take_snapshot, take_in_thread
from outbox.stats import Stats, Status
from outbox.store import lock
from outbox.store.reader import PendingCounter
from outbox.store.selection import Handled, Selection
from outbox.task_state import TaskState
from outbox.threads import in_thread

if TYPE_CHECKING:
    from outbox.admin.commands import Commands
    from outbox.admin.inbox import Action, CommandServer
    from outbox.admin.resend import ResendReport
    from outbox.fleet import Reporter
    from outbox.flusher.context import Tally
    from outbox.flusher.flusher import Flusher
    from outbox.store.maintenance import Maintenance
    from outbox.store.store import Store
    from outbox.store.writer import PutWatcher


# Payloads fetched in one step, so that the event loop keeps running.
_PAGE_ROWS = 200


class Operates(Owned):
    """The part of `Outbox` that reads, and that an operator calls."""

    _store: Store
    _settings: Settings
    _clock: Clock
    _remote: Remote
    _pending_counter: PendingCounter
    _flusher: Flusher
    _reporter: Reporter
    _commands: Commands
    _command_server: CommandServer | None
    _maintenance: Maintenance | None
    _closed: bool

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

    async def _salvage(self, source: Path) -> dict[str, Any]:
        from outbox.recovery.salvage import salvage_and_rename

        return await salvage_and_rename(
            self._store,
            source,
            sending=lambda: self._flusher.state.now.running,
            project_known=self._flusher.load_project,
        )

    # ------------------------------------------------------------------------------------------ looking

    async def stats(self) -> Stats:
        """Return the outbox's state. Reads counters, never the backlog.

        Raises:
            StoreError: The file cannot be read.
        """
        self._check_process()
        return await self._stats()

    async def _stats(self) -> Stats:
        from outbox.recovery.probe import found_beside

        path = self._store.path
        quarantined = await in_thread(found_beside, path)
        found = await take_snapshot(self._store, damage=self._store.damage, quarantined=quarantined)
        if self._maintenance is not None:  # it knows more recent values than the file
            found = found._replace(notices=self._maintenance.notices)
        found = found._replace(notices=found.notices._replace(files_lost_ms=self._store.writer.commits.files_lost_ms))
        vanished = () if self._store.writer.commits.vanished is None else (self._store.writer.commits.vanished.state,)
        return Stats.of(
            path,
            found,
            now_ms=self._clock.now_ms(),
            flusher=self._flusher.state.now,
            settings=self._remote.warnings,
            warnings=vanished,
            tasks=self._tasks(),
        )

    def _tasks(self) -> tuple[TaskState, ...]:
        parts = (self._maintenance, self._command_server, self._reporter)
        behind = (part.background for part in parts if part is not None)
        return (self._store.writer.state, *(replace(each.state) for each in behind if each is not None))

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


def by_request(outbox: Operates) -> dict[str, Action]:
    """The requests that need the whole outbox: reload, adopt and salvage.

    The task that calls them must not keep alive an outbox that nobody has closed.
    """
    from outbox.admin.commands import Salvage

    itself = weakref.ref(outbox)

    def found() -> Operates:
        if (alive := itself()) is None:
            raise OutboxClosed("the outbox is closed; nothing was done")
        return alive

    async def reload(_: Mapping[str, Any]) -> Mapping[str, Any]:
        await found().reload()
        return {}

    async def adopt(_: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"was": await found().adopt()}

    async def salvage(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        return await found()._salvage(Path(Salvage.of(arguments).file))

    return {"reload": reload, "adopt": adopt, "salvage": salvage}


def standing(path: Path) -> Snapshot:
    """Return a snapshot of a file that is open here, and of the files beside it; in any thread.

    Raises:
        StoreError: The file cannot be read.
    """
    from outbox.recovery.probe import found_beside

    return take_in_thread(path, damage=lock.written(path).damage, quarantined=found_beside(path))


class Monitor:
    """What any thread may read of an open outbox. Holds up nothing, not even its garbage collection."""

    def __init__(self, outbox: Operates) -> None:
        self._outbox = weakref.ref(outbox)
        self.path: Path = outbox.path
        self.clock: Clock = outbox.clock
        self.tally: Tally = outbox._flusher.tally
        self.flusher: Status = outbox._flusher.state

    def watches(self, outbox: Operates) -> bool:
        """Return whether it is this outbox."""
        return self._outbox() is outbox

    @property
    def over(self) -> bool:
        """Whether the outbox is closed, or was garbage-collected."""
        return (outbox := self._outbox()) is None or outbox._closed

    def tasks(self) -> tuple[TaskState, ...]:
        """Return the state of its background tasks."""
        return () if (outbox := self._outbox()) is None else outbox._tasks()

    def settings(self) -> Sequence[str]:
        """Return what in the settings keeps entries from arriving."""
        return () if (outbox := self._outbox()) is None else outbox._remote.warnings

    def watch_puts(self, watcher: PutWatcher) -> None:
        """Call `watcher` for each put from here on: when it is queued, with the future of its outcome.

        `watcher` must neither raise nor wait.
        """
        if (outbox := self._outbox()) is not None:
            outbox._store.writer.watchers += (watcher,)
