"""The writer's side of the inbox: polls it, has each request carried out, and answers.

A request that fails for a passing reason (the file is locked, or the disk is full) stays and is tried again at the next
poll, and those behind it wait; every other request is answered, if only with what is wrong with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from outbox import logs
from outbox.admin import inbox
from outbox.admin.inbox import Request
from outbox.background import Background, TaskState
from outbox.clock import Clock
from outbox.errors import DiskFull, OutboxClosed, OutboxError, OutcomeUnknown, StoreBusy
from outbox.threads import in_thread

logger: logs.Logger = logs.named("outbox.store")

# Errors that may be gone by a later poll. Any other would recur, and hold up the requests behind it.
_PASSES = (StoreBusy, DiskFull, OutcomeUnknown, OutboxClosed)

# A client that was answered often asks again soon, as `outbox put` reading a pipe: poll this often for this long.
_SOON_S, _OFTEN_S = 1.0, 0.02
# How many polls after the flusher's last glance it looks by itself.
_OVERDUE = 1.5

Action = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


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
        self._folder = inbox.folder(store)
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
        return inbox.holds_request(self._folder)

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
        requests = await in_thread(lambda: list(inbox.waiting(self._store)))
        for request in requests:
            if self._stop.is_set():
                return
            content = await self._carried_out(request)
            await in_thread(inbox.answer, self._store, request, content)
            self._answered_s = self._clock.monotonic_s()
        if requests:
            await in_thread(inbox.tidy, self._store, self._seen_s, now_s=self._clock.monotonic_s())

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
