"""An outbox belongs to the process and the event loop that opened it: what a call from elsewhere is told."""

from __future__ import annotations

import asyncio
import os
from typing import NoReturn

from outbox.errors import ForeignLoop, ForkedProcess, OutboxClosed, UsageError
from outbox.store.store import Store
from outbox.transaction import check_outside

_RULE = "an outbox belongs to its process; open one in the worker"


def check_process(pid: int) -> None:
    """Raise ForkedProcess unless this is process `pid`, which opened the outbox."""
    if os.getpid() != pid:
        raise ForkedProcess(f"this is a fork of process {pid}: {_RULE}; nothing was written")


def refuse_copy(outbox: object) -> NoReturn:
    """Raise UsageError: what `__reduce__` does, for pickle and copy alike."""
    raise UsageError(f"a {type(outbox).__name__} can be neither pickled nor copied: {_RULE}")


class Owned:
    """What asks each call where it comes from."""

    _store: Store

    def _belongs_here(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._closed = False

    def _check_process(self) -> None:
        check_process(self._pid)
        if self._closed:
            raise OutboxClosed("the outbox is closed; nothing was written")

    def _check_caller(self) -> None:
        self._check_process()
        self._loop_is_here()
        check_outside(self._store)

    def _loop_is_here(self) -> None:
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is not self._loop:
            raise ForeignLoop(
                "this is not the event loop that opened the outbox; nothing was written. From another thread use"
                " put_threadsafe; a bot that is not one asyncio program uses a BlockingOutbox"
            )
