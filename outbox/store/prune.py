"""Pruning and shrinking, in steps: each is a commit of its own, and puts come in between."""

from __future__ import annotations

import asyncio

from outbox.store.store import Store

# A step of 500 rows holds the writer for a few milliseconds; puts stand in line behind one of them at the most.
_STEP = 500
# 64 pages of 4 KiB take about 1 ms: a vacuum moves each from the end of the file into a gap.
_PAGES = 64
# 4 MiB of gaps stay: the next rows go there, and a file that breathes need not move its pages each minute.
_KEPT_PAGES = 1024


async def prune(store: Store, before_ms: int, *, stop: asyncio.Event | None = None) -> int:
    """Remove, step by step, what was settled before `before_ms`; return how many entries. `stop` ends it early."""
    pruned, more = 0, True
    while more and not (stop is not None and stop.is_set()):
        step = await store.prune(before_ms, _STEP)
        pruned, more = pruned + step, step == _STEP
    return pruned


async def shrink(store: Store, *, stop: asyncio.Event | None = None) -> None:
    """Give free pages back to the disk, step by step, but the few that the next rows will fill."""
    while not (stop is not None and stop.is_set()) and await store.shrink(_PAGES, keep=_KEPT_PAGES):
        pass
