"""Batch, send, judge, settle: the background coroutine that empties the outbox.

What is on its way is known in memory only. A crash leaves it pending, and the idempotency key makes the second
sending harmless. An outage is a pause: one row of its own, never a change to the entries that wait behind it.

    loop        when to look, and what may start: `Flusher`
    adoption    what a plain INSERT from a shell means
    lanes       which entries travel next, and which lane has its turn
    requests    what is under way, and the rest after an error of ours
    delivery    one batch, from its request to its settled verdict
    pauses      what is not sent for a while, and until when
    home        the project that the file belongs to
    means       what all of these work with
"""

from outbox.flusher.context import FlusherState, Limits, Tally
from outbox.flusher.flusher import Flusher

__all__ = ["Flusher", "FlusherState", "Limits", "Tally"]
