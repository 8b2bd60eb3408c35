"""How long to wait, and when to give up; no I/O, no clock, no randomness.

A wait follows a failure, or a bot that puts without a pause. Given up is only what was told "not yet" for too long.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime


def delay_s(failures: int, *, base_s: float, cap_s: float, draw: float) -> float:
    """Return the seconds to wait after failure number `failures` (1 after the first).

    Exponential with full jitter: anything from 0 to base_s, 2 base_s, 4 base_s … at most cap_s.
    `draw`: uniform in [0, 1). Raises ValueError: `failures` below 1, `draw` outside its range.
    """
    if failures < 1:
        raise ValueError(f"failures is {failures}, must be 1 or more")
    if not 0 <= draw < 1:
        raise ValueError(f"draw is {draw}, must be in [0, 1)")
    # 2**1024 overflows a float; 64 doublings pass any cap.
    return float(draw * min(cap_s, base_s * 2 ** min(failures - 1, 64)))


def retry_after_s(header: str | None, *, now_ms: int, cap_s: float) -> float | None:
    """Return the seconds that a Retry-After header asks for, from 0 to `cap_s`; None: no usable header.

    The header is a number of seconds or an HTTP date (RFC 9110, section 10.2.3).
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        # A number of a thousand digits is no number of seconds; ten digits are 300 years.
        return min(float(text[:10]), cap_s)
    try:
        then = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # a year that no calendar has
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return min(max(then.timestamp() - now_ms / 1000, 0.0), cap_s)


def remaining_s(next_try_at_ms: int, *, now_ms: int, cap_s: float) -> float:
    """Return the seconds until a stored time, from 0 to `cap_s`.

    A wall clock that was set back must not stall the flusher for longer than it would ever have waited.
    """
    return min(max((next_try_at_ms - now_ms) / 1000, 0.0), cap_s)


# Sending a row takes half the interpreter time of putting one (docs/performance.md, row 7): one sent for every two put
# leaves the puts four fifths of their rate.
PUTS_FOR_A_ROW = 2
# On a full disk puts fail one after another, and only sending makes room for them.
LONGEST_THROTTLE_S = 0.5


def throttle_s(*, putting: bool, put: int, sent: int, since_s: float) -> float:
    """Return the seconds that the next request must wait at most; 0: it may begin.

    putting: whether a put waits for its commit at this moment. put: entries put since the last request began, which
    carried `sent` rows, `since_s` seconds ago.
    """
    if not putting or put >= PUTS_FOR_A_ROW * sent:
        return 0.0
    return max(LONGEST_THROTTLE_S - since_s, 0.0)


# ------------------------------------------------------------------------------------------ told "not yet"

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
