"""How far the flusher steps back for a bot that puts without a pause; no I/O, no clock."""

from __future__ import annotations

# A row that is sent takes half as much of the interpreter as one that is put (docs/performance.md, row 11): one for two
# leaves four fifths of their rate to the puts.
PUTS_FOR_A_ROW = 2
# On a full disk puts fail without a pause, and only what is sent makes room for them.
LONGEST_S = 0.5


def wait_s(*, putting: bool, put: int, sent: int, since_s: float) -> float:
    """Return the seconds that the next request must wait at the most; 0: it may begin.

    putting: whether a put waits for its commit at this moment. put: entries put since the last request began, which
    carried `sent` rows, `since_s` seconds ago.
    """
    if not putting or put >= PUTS_FOR_A_ROW * sent:
        return 0.0
    return max(LONGEST_S - since_s, 0.0)
