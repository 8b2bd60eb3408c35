"""When an entry is refused for good that was only told "not yet"; no I/O, no clock, no dice."""

from __future__ import annotations


def gives_up(
    refusals: int, *, since_ms: int | None, now_ms: int, earlier_pending: bool, limit: int, after_s: float
) -> bool:
    """Return whether an entry whose parent row never came is dead.

    refusals: answers so far that said so, this one included. since_ms: the first of them, in Unix milliseconds; None:
    this is the first. earlier_pending: something that was put before it is not delivered yet, and may be the parent.
    It takes `limit` refusals and `after_s` seconds and nobody left to wait for.
    """
    waited_s = 0.0 if since_ms is None else (now_ms - since_ms) / 1000
    return refusals >= limit and waited_s >= after_s and not earlier_pending
