"""Requests to the running writer: a folder beside the file, one file each way.

Only one process may write to the outbox. A command that changes something while a bot runs leaves its request here,
written whole and then renamed, and the bot answers the same way. A request without an answer is still there and will be
carried out by this writer or the next one; carrying it out twice changes nothing the second time. One that fails for a
passing reason (the file is locked, or the disk is full) stays and is tried again at the next poll, and those behind it
wait; every other request is answered, if only with what is wrong with it.

Only the owner can use the folder (0700) and each file in it (0600); symbolic links are not followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import stat
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outbox import logs
from outbox.background import Background
from outbox.clock import Clock
from outbox.errors import DiskFull, InvalidRequest, OutboxClosed, OutboxError, OutcomeUnknown, StoreBusy, StoreError
from outbox.store.files import CAREFUL, give, read_plain, sync_folder
from outbox.task_state import TaskState
from outbox.threads import in_thread

logger: logs.Logger = logs.named("outbox.store")

_REQUEST, _ANSWER, _NEW, _UNREADABLE = ".request.json", ".answer.json", ".new", ".unreadable"
# Nobody waits for an answer that long; older files were left by a command that was killed.
_STALE_S = 24 * 3600.0
# A request is a handful of ids, or a row with its quotes escaped; an answer some thousand outcomes of 200 bytes.
_LONGEST_REQUEST = _LONGEST_ANSWER = 4_000_000


# Errors that may be gone by a later poll. Any other would recur, and hold up the requests behind it.
_PASSES = (StoreBusy, DiskFull, OutcomeUnknown, OutboxClosed)

# A client that was answered often asks again soon, as `outbox put` reading a pipe: poll this often for this long.
_SOON_S, _OFTEN_S = 1.0, 0.02
# How many polls after the flusher's last glance it looks by itself.
_OVERDUE = 1.5

Action = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Request:
    """What an operator asks for. name: distinguishes requests. action, arguments: see `operations`."""

    name: str
    action: str
    arguments: Mapping[str, Any]


def folder(store: Path) -> Path:
    """Return where the requests to the writer of `store` are; `store` itself may be a symbolic link."""
    real = store.resolve()
    return real.with_name(real.name + ".inbox")


# ---------------------------------------------------------------------------------------------- the command's side


def post(store: Path, action: str, arguments: Mapping[str, Any]) -> Request:
    """Leave a request for the running writer. Durable when this returns.

    Raises InvalidRequest: it is too long; StoreError: it cannot be left. Either way nothing was asked.
    """
    request = Request(f"{time.time_ns():020}-{uuid.uuid4().hex[:8]}", action, arguments)
    text = json.dumps({"action": action, "arguments": dict(arguments)}, ensure_ascii=False)
    content = text.encode(errors="surrogatepass")
    if len(content) > _LONGEST_REQUEST:
        raise InvalidRequest(
            f"it has {len(content):,} bytes, of {_LONGEST_REQUEST:,} that a running bot takes at once; nothing of it"
            " was written. Ask for less at once, or stop the bot and repeat",
            field="request",
        )
    place = folder(store)
    try:
        _make(place, store)
        _write(place / (request.name + _REQUEST), content, like=place)
    except OSError as error:
        message = f"no request can be left in {place}: {error.strerror}; nothing was asked"
        raise StoreError(message, path=store) from error
    return request


def answer_to(store: Path, request: Request) -> Mapping[str, Any] | None:
    """Return the writer's answer and remove it; None: there is none yet. Raises StoreError: it cannot be read."""
    file = folder(store) / (request.name + _ANSWER)
    try:
        answer = _parsed(read_plain(file, _LONGEST_ANSWER))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror}; the request was answered", path=store) from error
    if answer is None:
        raise StoreError(f"{file} holds no answer", path=store)
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)
    return answer


def withdraw(store: Path, request: Request) -> bool:
    """Withdraw a request. False: it is no longer there, so it was answered. Raises OSError."""
    try:
        (folder(store) / (request.name + _REQUEST)).unlink()
    except FileNotFoundError:
        return False
    return True


# ---------------------------------------------------------------------------------------------- the writer's side


def holds_request(place: Path) -> bool:
    """Return whether a request stands in the folder `place`; one that cannot be read may hold one. Some 5 µs."""
    try:
        with os.scandir(place) as files:
            return any(file.name.endswith(_REQUEST) for file in files)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def waiting(store: Path) -> Iterator[Request]:
    """Yield the unanswered requests, oldest first; a file that is no request is set aside, not removed.

    Raises OSError: the folder cannot be read, or is not to be trusted.
    """
    place = folder(store)
    try:
        names = {each.name for each in os.scandir(place)}
    except FileNotFoundError:
        return
    asked = sorted(name for name in names if name.endswith(_REQUEST))
    if asked:
        _check_trust(place, store)
    for file in (place / name for name in asked):
        name = file.name.removesuffix(_REQUEST)
        if name + _ANSWER in names:  # its writer was killed between answering and removing it
            file.unlink(missing_ok=True)
        elif (request := _request(file, name)) is not None:
            yield request


def answer(store: Path, request: Request, content: Mapping[str, Any]) -> None:
    """Answer `request` and only then remove it: a crash in between leaves both, and the answer counts.

    Raises OSError: the request is still there.
    """
    place = folder(store)
    _write(place / (request.name + _ANSWER), json.dumps(content).encode(), like=place)
    (place / (request.name + _REQUEST)).unlink(missing_ok=True)


def tidy(store: Path, seen_s: dict[str, float], *, now_s: float) -> None:
    """Remove unfetched answers and half-written files once they have been there for a day.

    seen_s: when each of them was first seen, kept here. now_s: on a clock that does not jump. Raises OSError.
    """
    place = folder(store)
    left = {each.name for each in os.scandir(place) if each.name.endswith((_ANSWER, _NEW))} if place.is_dir() else set()
    for name in seen_s.keys() - left:
        del seen_s[name]
    for name in left:
        if now_s - seen_s.setdefault(name, now_s) > _STALE_S:
            (place / name).unlink(missing_ok=True)  # its command may fetch it at this moment


def _request(file: Path, name: str) -> Request | None:
    """Return the request in `file`; None: it was taken back, or is none."""
    try:
        content = _parsed(read_plain(file, _LONGEST_REQUEST))
    except FileNotFoundError:
        return None
    except OSError as error:
        if not _is_plain(file):
            content = None
        else:  # permission may be granted later, or the disk may recover
            logger.warning("operator's request cannot be read", extra={"request": name, "error": error.strerror})
            return None
    match content:
        case {"action": str(action), "arguments": dict(arguments)}:
            return Request(name, action, arguments)
    with contextlib.suppress(FileNotFoundError):
        file.rename(_unused(file.with_suffix(_UNREADABLE)))
        logger.warning("operator's request not understood, set aside", extra={"request": name})
    return None


def _unused(file: Path) -> Path:
    """Return `file`, or a name like it that nothing has yet: what was set aside before stays what it is."""
    names = itertools.chain([file], (file.with_suffix(f".{number}{_UNREADABLE}") for number in itertools.count(2)))
    return next(name for name in names if not os.path.lexists(name))


def _check_trust(place: Path, store: Path) -> None:
    """Whoever can write into the folder can discard entries: only the bot's user, the file's owner, and root may."""
    facts = place.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        raise PermissionError(0, "the inbox is not a folder", str(place))
    if os.name == "nt":
        return
    mine = facts.st_uid in (os.geteuid(), store.resolve().stat().st_uid, 0)
    if not mine or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(0, "others may write into the inbox; make it 0700 and your own", str(place))


class CommandServer:
    """Polls the inbox of `store` every `poll_s` seconds: one `scandir` in a thread; it creates no folder.

    After an answer it polls more often for a second. As long as the flusher looks for work and glances at the inbox
    in the same hop, it does not poll at all: an idle bot wakes once for both.
    """

    def __init__(
        self,
        store: Path,
        actions: Mapping[str, Action],
        *,
        clock: Clock,
        poll_s: float,
        tell: Callable[[TaskState], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._actions = actions
        self._clock = clock
        self._poll_s = poll_s
        self._folder = folder(store)
        self._stop = asyncio.Event()
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None  # sets `_due`
        self._repeating = logs.Repeating(clock)
        self.background: Background = Background("inbox", self._turn, clock=clock, stop=self._stop, tell=tell)
        self._answered_s = -_SOON_S
        self._seen_s: dict[str, float] = {}  # when each file that nobody fetched was first seen, on the steady clock

    async def stop(self, grace_s: float) -> None:
        """Let the request under way finish; after `grace_s` seconds it is cancelled, for the next writer to redo."""
        self._stop.set()
        self._due.set()
        await asyncio.wait({self.background.task}, timeout=grace_s)
        self.background.task.cancel()
        await asyncio.wait({self.background.task})

    def glance(self) -> bool:
        """Return whether a request waits; in any thread."""
        return holds_request(self._folder)

    def glanced(self, found: bool) -> None:
        """Hear what a `glance` of the flusher has found: look at once, or not before its next one is overdue."""
        if found or not self._is_soon():
            self._look_in(0.0 if found else _OVERDUE * self._poll_s)

    def _is_soon(self) -> bool:
        return self._clock.monotonic_s() - self._answered_s < _SOON_S

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._due.set)

    async def _turn(self) -> None:
        self._due.clear()
        try:
            await self._look()
            self._repeating.over("failed")
        except OutboxClosed:
            raise
        except (OutboxError, OSError) as error:  # the next poll may find it fixed
            words = f"{type(error).__name__}: {error}"
            if (news := self._repeating.news("failed", words)) is not None:
                logger.warning("inbox unavailable, retrying", extra={"error": words, **news})
        self._look_in(min(self._poll_s, _OFTEN_S) if self._is_soon() else self._poll_s)
        await self._due.wait()

    async def _look(self) -> None:
        requests = await in_thread(lambda: list(waiting(self._store)))
        for request in requests:
            if self._stop.is_set():
                return
            content = await self._carried_out(request)
            await in_thread(answer, self._store, request, content)
            self._answered_s = self._clock.monotonic_s()
        if requests:
            await in_thread(tidy, self._store, self._seen_s, now_s=self._clock.monotonic_s())

    async def _carried_out(self, request: Request) -> Mapping[str, Any]:
        """Return the answer to `request`. Raises one of `_PASSES`: the request stays, to be carried out later."""
        facts = {"request": request.name, "action": request.action}
        action = self._actions.get(request.action)
        if action is None:
            known = ", ".join(sorted(self._actions))
            return _error(f"{request.action!r} is unknown to this bot's version, which knows {known}")
        try:
            content = {"ok": True, **await action(request.arguments)}
        except _PASSES:
            raise
        except OutboxError as error:
            logger.warning("operator's request refused", extra={**facts, "error": str(error)})
            return _error(str(error))
        except Exception as error:  # a bug of ours: the same request would fail for ever and hold up the others
            logger.exception("operator's request failed", extra=facts)
            return _error(f"it failed inside the bot ({type(error).__name__}); its log says where")
        logger.info("operator's request carried out", extra={**facts, "outcomes": content.get("outcomes")})
        return content


def _error(words: str) -> Mapping[str, Any]:
    return {"ok": False, "error": words}


# ---------------------------------------------------------------------------------------------- files


def _make(place: Path, store: Path) -> None:
    """Create the folder for the file's owner: a command run by root must not lock the bot out."""
    try:
        place.mkdir(mode=0o700)
    except FileExistsError:
        if not stat.S_ISDIR(place.lstat().st_mode):
            raise
        return
    give(place, like=store)
    sync_folder(place.parent)


def _write(file: Path, content: bytes, *, like: Path) -> None:
    fresh = file.with_name(file.name + _NEW)
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | CAREFUL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    give(fresh, like=like)
    fresh.replace(file)
    sync_folder(file.parent)


def _is_plain(file: Path) -> bool:
    try:
        return stat.S_ISREG(file.lstat().st_mode)
    except FileNotFoundError:
        return True  # it has vanished meanwhile


def _parsed(content: bytes | None) -> dict[str, Any] | None:
    try:
        found = json.loads(content) if content is not None else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
