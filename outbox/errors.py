"""Every error that this library raises, and what each says became of the data.

OutboxError
├── ConfigError             a setting cannot be used; nothing was opened or changed
├── NotInstalled            a file of the library is missing; no outbox file was opened
├── EntryError              the row or an argument cannot be stored; nothing was written
│   ├── InvalidEntry        a value, a name or a combination of arguments; carries `field`
│   └── IdConflict          the id is stored already, with other data
├── DeadlinePassed          a call of a BlockingOutbox took too long and was cancelled; it put no entry
├── UsageError              the call was made where or when it cannot work; nothing was written
│   ├── OutboxClosed        the outbox is closed, or was never opened
│   ├── ForeignLoop         another event loop or thread than the one that opened it
│   ├── ForkedProcess       a forked child of the process that opened it
│   ├── SessionError        the session is not where this call needs it to be; carries `session_id`
│   │   ├── SessionRunning      it is started already, by this or another SessionManager of the process
│   │   └── SessionNotRunning   it was never started, or has ended
│   ├── InsideTransaction   `put` on the outbox inside one of its own `transaction()` blocks
│   └── TransactionExpired  the block outlived its time limit; everything in it was rolled back
├── StoreError              the local SQLite file; carries `path`
│   ├── StoreInUse          another process has it open for writing; carries `pid`, `since`
│   ├── StoreBusy           locked by another connection for too long; nothing was written
│   ├── NotADatabase        the file is not a SQLite database; it was not touched
│   ├── WrongJournalMode    somebody else's database is not in WAL mode; it was not changed
│   ├── NotDurable          SQLite did not grant WAL and synchronous=FULL; nothing was written
│   ├── StoreTooNew         a newer version of this library wrote the file; it was not touched
│   ├── MigrationChanged    the file records another text for a migration than this library has
│   ├── StoreCorrupt        SQLite reports a damaged file
│   ├── DiskFull            no space; nothing was written, putting the same id again is safe
│   ├── OutboxFull          a configured bound is reached; nothing was written
│   ├── StoreVanished       the file was moved or replaced, or another process writes to it; carries `kept`, `ids`
│   ├── UnsafePath          the file has a second path, beside which there would be a second lock; nothing was opened
│   └── OutcomeUnknown      the commit failed in a way that may have stored the entry; carries `ids`
├── InvalidRequest          an operator's request cannot be carried out; nothing was changed; carries `field`
├── SchemaError             the remote tables could not be made or changed; carries `file`, `code`
├── InvalidQuery            a read has an invalid argument; nothing was sent; carries `field`
├── Undecidable             a merged or local read would have to guess what PostgreSQL decides; carries `field`
└── RemoteError             reading from the remote end failed; carries `status`, `code`
    └── Unreachable         no answer: the request may or may not have been carried out
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


class OutboxError(Exception):
    """The root of every error that this library raises on purpose. Each can be copied and pickled, its facts with it.

    Its cause (`__cause__`) and traceback are not copied, as for every Python exception.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own calls the class with only the message, but most classes here take facts by keyword.
        return _made_again, (type(self), *self.args), self.__dict__


class ConfigError(OutboxError, ValueError):
    """A setting cannot be used. `field` names it; nothing was opened or changed."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotInstalled(OutboxError):
    """A file of the library is missing, as in a frozen program without its data; no outbox file was opened."""


class EntryError(OutboxError):
    """The row, or an argument beside it, cannot be stored; nothing was written."""


class InvalidEntry(EntryError, ValueError):
    """A value, a name or a combination of arguments. `field` is its path, such as `trades.legs[2].price`."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(f"{field}: {message}; nothing was written")
        self.field = field
        self.reason = message


class IdConflict(EntryError):
    """The id is stored already, with other data. The stored entry stays as it is."""

    def __init__(self, id: str, destination: str) -> None:
        super().__init__(
            f"id {id} of {destination!r} is stored already with other data; that row stays, this one was not written"
        )
        self.id = id
        self.destination = destination


class DeadlinePassed(OutboxError, TimeoutError):
    """A call of a `BlockingOutbox` took too long and was cancelled; it put no entry. A put raises OutcomeUnknown."""


class UsageError(OutboxError, RuntimeError):
    """The call was made where or when it cannot work; nothing was written."""


class OutboxClosed(UsageError):
    """The outbox is closed, or was never opened; nothing was written."""


class ForeignLoop(UsageError):
    """The call came from another event loop or thread; nothing was written. Use `put_threadsafe` there."""


class ForkedProcess(UsageError):
    """The call came from a forked child of the process that opened the outbox; nothing was written."""


class SessionError(UsageError):
    """The session is not where this call needs it to be; nothing was written. `session_id`: "" if there is none."""

    def __init__(self, message: str, *, session_id: str) -> None:
        super().__init__(message)
        self.session_id = session_id


class SessionRunning(SessionError):
    """The session is started already, by this or another SessionManager of the process; nothing was written."""


class SessionNotRunning(SessionError):
    """There is no session to end: it was never started, or has ended. Nothing was written."""


class InsideTransaction(UsageError):
    """`put` on the outbox inside its own `transaction()` block would wait for itself; use the block's `put`."""


class TransactionExpired(UsageError):
    """The block held the writer longer than its limit; everything in it was rolled back."""


class StoreError(OutboxError):
    """The local SQLite file. `path` names it."""

    def __init__(self, message: str, *, path: Path) -> None:
        super().__init__(message)
        self.path = path


class StoreInUse(StoreError):
    """Another process has the file open for writing. `pid` and `since` (UTC, ISO 8601) identify it.

    here: it is this very process. A pid alone does not tell: each container has a process 1. ended: its event loop has
    ended, so that nobody can close that outbox any more.
    """

    def __init__(
        self, *, path: Path, pid: int | None, since: str | None, here: bool = False, ended: bool = False
    ) -> None:
        started = f" since {since}" if since else ""
        message = f"{path} is open for writing by {f'process {pid}' if pid else 'another process'}{started}"
        if here:
            way_out = "use that outbox, or await its close() first"
            if ended:
                way_out = (
                    "its event loop ended without close(), so that only a new process can open it (`async with` closes)"
                )
            message = f"{path} is already open in this process{started}: {way_out}"
        super().__init__(f"{message}; nothing was opened", path=path)
        self.pid = pid
        self.since = since


class StoreBusy(StoreError):
    """Another connection kept the file locked. Nothing was written. `waited_s`: seconds."""

    def __init__(self, *, path: Path, waited_s: float) -> None:
        super().__init__(f"{path} stayed locked for {waited_s:g} s; nothing was written", path=path)
        self.waited_s = waited_s


class NotADatabase(StoreError):
    """The file is not a SQLite database; it was not touched."""


class WrongJournalMode(StoreError):
    """The file is somebody else's database and not in WAL mode; its mode was not changed."""


class NotDurable(StoreError):
    """SQLite did not grant what durability needs; nothing was written."""


class StoreTooNew(StoreError):
    """A newer version of this library wrote the file; it was not touched."""


class MigrationChanged(StoreError):
    """The file records another text for a migration than this library ships; it was not touched."""


class StoreCorrupt(StoreError):
    """SQLite reports a damaged file."""


class DiskFull(StoreError, OSError):
    """No space left. Nothing was written, nor were the entries `ids`; putting the same ids again is safe."""

    errno: int | None = errno.ENOSPC

    def __init__(self, *, path: Path, ids: Sequence[str] = ()) -> None:
        super().__init__(
            f"no space left on the disk of {path}{_own_limit()}; nothing was written: {_listed(ids)}."
            " Make room, then put the same id again: it is safe",
            path=path,
        )
        self.ids: tuple[str, ...] = tuple(ids)


def _own_limit() -> str:
    """Return words for this process's own limit of a file's size, which SQLite meets as it meets a full disk."""
    if resource is None or (limit := resource.getrlimit(resource.RLIMIT_FSIZE)[0]) == resource.RLIM_INFINITY:
        return ""
    return f", or a file would be larger than the {limit:,} bytes that this process may write (ulimit -f)"


class OutboxFull(StoreError):
    """A configured bound is reached; nothing was written. `limit` is the bound, `field` its setting."""

    def __init__(self, *, path: Path, field: str, limit: int) -> None:
        super().__init__(f"{path} has reached its limit {field}={limit}; nothing was written", path=path)
        self.field = field
        self.limit = limit


class StoreVanished(StoreError):
    """The file was removed, moved or replaced under the running bot, or another process writes to it as well.

    kept: where all acknowledged rows are; None: nowhere, and the message says what is left. ids: the entries of this
    call. stored: whether they are in `kept`; if not, none of them was written. state: what happened, without the
    ids. goes_on: whether the next put works because the file is back at its path.
    """

    def __init__(
        self, *, path: Path, what: str, kept: Path | None, ids: Sequence[str] = (), stored: bool, goes_on: bool
    ) -> None:
        where = f"is in {kept}" if kept is not None else "could not be brought back"
        then = "the outbox goes on there" if goes_on else "nothing more is written before the outbox is opened again"
        self.state: str = f"{path} {what}; what was acknowledged {where}; {then}"
        fate = "stored there as well" if stored and kept is not None else "lost" if stored else "nothing was written"
        super().__init__(f"{self.state}; {_listed(ids)}: {fate}. Put the same id again: it is stored once", path=path)
        self.what = what
        self.kept = kept
        self.ids: tuple[str, ...] = tuple(ids)
        self.stored = stored
        self.goes_on = goes_on

    def of(self, ids: Sequence[str], *, stored: bool) -> StoreVanished:
        """Return the same error for the entries `ids`."""
        return StoreVanished(
            path=self.path, what=self.what, kept=self.kept, ids=ids, stored=stored, goes_on=self.goes_on
        )


class UnsafePath(StoreError):
    """What is at the path, or beside it, must not be opened. Nothing was opened.

    The file has a second path, which would have another lock and another -wal beside it: a hard link, or a mount of the
    file alone. Or it is not a plain file: a folder, a named pipe; for its -wal, -shm and -journal also a symbolic link.
    """


class OutcomeUnknown(StoreError):
    """The commit failed in a way that may have stored the entry. Putting the same `id` again stores one row."""

    def __init__(self, *, path: Path, ids: Sequence[str], waited_s: float) -> None:
        super().__init__(
            f"commits to {path} failed for {waited_s:g} s; it is unknown whether this was stored: {_listed(ids)}."
            " Put the same id again: it is stored once",
            path=path,
        )
        self.ids: tuple[str, ...] = tuple(ids)
        self.waited_s = waited_s

    @property
    def id(self) -> str | None:
        """The id of the entry that the failed call put; None for a transaction without entries."""
        return self.ids[0] if self.ids else None


class InvalidRequest(OutboxError, ValueError):
    """An operator's request cannot be carried out. `field` is the argument; nothing was changed."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(f"{field}: {message}; nothing was changed")
        self.field = field


class SchemaError(OutboxError):
    """The remote tables could not be made or changed. `file` was rolled back, those before it stay; None: none was run.

    `code`: PostgreSQL's error code, if it gave one.
    """

    def __init__(self, message: str, *, file: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.file = file
        self.code = code


class InvalidQuery(OutboxError, ValueError):
    """A read has an invalid argument. `field` is the argument, such as `filters.symbol`; nothing was sent."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(f"{field}: {message}; nothing was sent")
        self.field = field


class Undecidable(OutboxError):
    """A merged or local read would have to guess what PostgreSQL decides. `field`: of the query, or of an entry."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(f"{field}: {message}; no row was guessed")
        self.field = field


class RemoteError(OutboxError):
    """The remote end refused to answer a read. `status`: HTTP; `code`: its own error code, if it gave one."""

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Unreachable(RemoteError, ConnectionError):
    """No answer arrived; the request may or may not have been carried out."""


def _made_again(kind: type[OutboxError], *args: object) -> OutboxError:
    """Return an error without calling its `__init__`: its message is already complete."""
    error = kind.__new__(kind, *args)
    error.args = args  # an OSError takes them in its `__init__`
    return error


def _listed(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:3])
    return shown + (f" and {len(ids) - 3} more" if len(ids) > 3 else "") if ids else "the transaction"
