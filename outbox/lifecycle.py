"""Which moves an entry can make; the schema and the drawing are tested against this table."""

from __future__ import annotations

from outbox.entry import State

MOVES: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.DELIVERED, State.DEAD, State.DISCARDED}),
    State.DEAD: frozenset({State.PENDING, State.DISCARDED}),  # requeue, discard
    State.DELIVERED: frozenset({State.PENDING}),  # resend; pruned after the retention
    State.DISCARDED: frozenset(),
}


def allowed(before: State, after: State) -> bool:
    """Return whether an entry may go from `before` to `after`."""
    return after in MOVES[before]
