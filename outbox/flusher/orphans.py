"""When an entry that was only told "not yet" is refused for good; no I/O, no clock, no randomness."""

from __future__ import annotations

# Entries in line behind an update that matches no row wait this long while it is tried.
UNMATCHED_WAIT_S = 60.0


def lets_pass(*, behind: bool, bringer: bool, waited_s: float) -> bool:
    """Return whether an update that matched no row must die so that what is behind it in its line can go.

    behind: something is. bringer: an insert or upsert is, which makes the row itself: the update came too early
    for it and would come too late after it. waited_s: since it first matched nothing.
    """
    return bringer or (behind and waited_s >= UNMATCHED_WAIT_S)


# How many entries are remembered; one more displaces the oldest, which then waits longer.
_REMEMBERED = 10_000


class FirstRefusals:
    """Since when entries wait for their parents, on a clock that does not jump.

    The file says when an entry was first refused, by the wall clock of that day. Nobody can tell how much of the time
    since then is a change of that clock: time before this process counts for at most half of what giving up takes.
    """

    def __init__(self) -> None:
        self._since_ms: dict[int, int] = {}

    def since_ms(self, seq: int, stored_ms: int | None, *, wall_ms: int, steady_ms: int, after_s: float) -> int | None:
        """Return when entry `seq` was first refused, on the clock of `steady_ms`; None: it is now.

        stored_ms: what the file says.
        """
        since_ms = self._since_ms.get(seq)
        if since_ms is None:
            before_ms = 0 if stored_ms is None else min(max(wall_ms - stored_ms, 0), int(after_s * 500))
            if len(self._since_ms) >= _REMEMBERED:
                del self._since_ms[next(iter(self._since_ms))]
            since_ms = self._since_ms[seq] = steady_ms - before_ms
        return None if stored_ms is None else since_ms


def gives_up(
    refusals: int, *, since_ms: int | None, now_ms: int, earlier_pending: bool, limit: int, after_s: float
) -> bool:
    """Return whether an entry whose parent row never came is dead.

    refusals: answers so far that said so, this one included. since_ms: the first of them, in Unix milliseconds; None:
    this is the first. earlier_pending: something that was put before it is not delivered yet, and may be the parent.
    It takes `limit` refusals, `after_s` seconds, and nothing left to wait for.
    """
    waited_s = 0.0 if since_ms is None else (now_ms - since_ms) / 1000
    return refusals >= limit and waited_s >= after_s and not earlier_pending
