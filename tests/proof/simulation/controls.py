"""The library without one of its protections: each of these must be found."""

from __future__ import annotations

from typing import Any


def break_it(control: str | None) -> None:
    """Take one protection away, in this process alone."""
    if control is not None and control != "no keep-newer":
        _CONTROLS[control]()


def _no_idempotency_key() -> None:
    from outbox.postgrest import client

    vars(client)["insert_body"] = lambda spec, entry_id, payload: payload


def _counting_before_return() -> None:
    """An entry counts as delivered when it is sent, whatever the answer is."""
    from outbox.flusher import delivery
    from outbox.postgrest.verdicts import Delivered

    vars(delivery)["judge"] = lambda *arguments, **options: Delivered()


def _no_fairness() -> None:
    """The lanes go by their names, and no destination has room of its own."""
    from outbox.flusher.flusher import Flusher
    from outbox.flusher.scheduler import Lanes

    def has_room(self: Any, lane: Any) -> bool:
        return bool(self._requests.may_start(alone=False, probe=False))

    setattr(Lanes, "_waited", lambda self, lane: lane.spec)  # noqa: B010 - a type checker would refuse it
    setattr(Flusher, "_has_room", has_room)  # noqa: B010


def _no_word_of_a_loss() -> None:
    from outbox.recovery import clean_close

    vars(clean_close)["judge_loss"] = lambda **evidence: None


def _no_way_past() -> None:
    """An update that matches nothing holds up what stands behind it, and with it what brings its row."""
    from outbox.flusher import delivery

    vars(delivery)["lets_pass"] = lambda **facts: False


_CONTROLS = {
    "no idempotency key": _no_idempotency_key,
    "counting before return": _counting_before_return,
    "no fairness": _no_fairness,
    "no word of a loss": _no_word_of_a_loss,
    "no way past": _no_way_past,
}
# With the seed of a program that finds it; others do, too.
NAMES = {
    "no idempotency key": 9,
    "counting before return": 0,
    "no fairness": 282,
    "no word of a loss": 46,
    "no way past": 5,
    "no keep-newer": 54,
}
