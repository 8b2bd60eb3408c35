"""The calls of an `Outbox` that an operator needs: other settings, another project, dead letters, sending again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from outbox.puts import Owned
from outbox.remote import Remote
from outbox.store.selection import Handled, Selection

if TYPE_CHECKING:
    from outbox.admin.commands import Commands
    from outbox.admin.resend import ResendReport
    from outbox.fleet import Reporter
    from outbox.flusher.flusher import Flusher


class Operates(Owned):
    """The part of `Outbox` that an operator calls."""

    _remote: Remote
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
        code: str | None = None,
        everything: bool = False,
        force: bool = False,
    ) -> list[Handled]:
        """Revive dead entries: they are pending again, their attempts forgotten, their history kept.

        Those that match all that is given: ids (none: no entry), destination, code (the server's error code, or its
        HTTP status where it gave none); `everything` must be said. Returns what became of each entry, and of each id
        that no entry has. One that a later entry of its key has overtaken, or may be overtaking, would revert newer
        state and is refused, unless forced. Done in steps, puts come in between.

        Raises InvalidRequest: nothing was changed; StoreError: what was done before stays, do the rest again.
        """
        self._check_caller()
        which = Selection.chosen(ids, destination, code, everything=everything)
        return await self._commands.requeue(which, force=force)

    async def discard(
        self,
        ids: Sequence[str] | None = None,
        *,
        reason: str,
        destination: str | None = None,
        code: str | None = None,
        everything: bool = False,
    ) -> list[Handled]:
        """Give dead entries up. The rows, and the reason, are kept until they are pruned. The rest as `requeue`."""
        self._check_caller()
        which = Selection.chosen(ids, destination, code, everything=everything)
        return await self._commands.discard(which, reason=reason)

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
        return await self._commands.resend(Selection.between(since, until, destination, session), dry_run=dry_run)
