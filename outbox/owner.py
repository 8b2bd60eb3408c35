"""An outbox belongs to the process that opened it: what a fork, a pickle or a copy of one is told."""

from __future__ import annotations

import os
from typing import NoReturn

from outbox.errors import ForkedProcess, UsageError

_RULE = "an outbox belongs to its process; open one in the worker"


def check_process(pid: int) -> None:
    """Raise ForkedProcess unless this is process `pid`, which opened the outbox."""
    if os.getpid() != pid:
        raise ForkedProcess(f"this is a fork of process {pid}: {_RULE}; nothing was written")


def refuse_copy(outbox: object) -> NoReturn:
    """Raise UsageError: what `__reduce__` does, for pickle and copy alike."""
    raise UsageError(f"a {type(outbox).__name__} can be neither pickled nor copied: {_RULE}")
