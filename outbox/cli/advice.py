"""What `outbox show` advises to do next about an entry."""

from __future__ import annotations

import shlex

from outbox.cli import format as formatting
from outbox.entry import State
from outbox.forensics.entries import Story
from outbox.store.rows import StoredPause


def advice(story: Story) -> list[str]:
    """Return what the reader can do about an entry, a sentence each."""
    row = story.row
    match row.state:
        case State.DELIVERED:
            return ["Nothing: it has arrived. It is pruned after the retention."]
        case State.DISCARDED:
            return ["Nothing: it was given up, and is pruned after the retention."]
        case State.DEAD:
            return [formatting.typed(line) for line in _advice_for_dead(story)]
        case State.PENDING:
            return [formatting.typed(line) for line in _advice_for_pending(story)]


def _advice_for_dead(story: Story) -> list[str]:
    name = typed_id(story.row.id)
    give_up = f'Not needed any more? outbox discard --reason "..." {name}'
    if story.overtaken:
        return ["A later entry of its key was delivered: sent now, it would revert that one.", give_up]
    return [
        f"Fix what the server complains about, then: outbox requeue {name}",
        f"Is the row itself wrong? outbox edit {name}",
        give_up,
    ]


def typed_id(its_id: str) -> str:
    """Return an id quoted for the shell: no part of it is read as a command, an option or several words."""
    return f"{'-- ' if its_id.startswith('-') else ''}{shlex.quote(its_id)}"


def _advice_for_pending(story: Story) -> list[str]:
    row = story.row
    if row.waits == "turn" and story.behind:
        return [f"It waits for an earlier entry of its key: outbox show {typed_id(story.behind)}"]
    if row.waits == "retry" and row.next_attempt_at_ms is not None:
        return [f"It is tried again at {formatting.moment(row.next_attempt_at_ms)}, by itself."]
    own = [
        f"Is the row itself wrong? outbox edit {typed_id(row.id)}",
        f'Not needed any more? outbox discard --reason "..." {typed_id(row.id)}',
    ]
    if not story.pauses:
        return ["It is sent by itself. If it stays: outbox status says what is in the way.", *own]
    told = [f"A pause holds it, of {what}: {_why(pause)}." for what, pause in story.pauses]
    if any(pause.code in ("PGRST204", "42703") for _, pause in story.pauses):
        own.insert(0, "A column misspelt in many rows? outbox edit --rename-column OLD=NEW --all-matching")
    return [*told, "How to fix it: outbox doctor", "Once it is fixed: outbox reload", *own]


def _why(pause: StoredPause) -> str:
    answered = formatting.said(pause.status, pause.code, pause.message)
    return f"{pause.reason.replace('_', ' ')}{f' ({answered})' if answered else ''}"
