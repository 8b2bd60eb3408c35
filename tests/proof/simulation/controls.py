"""The library without one of its protections: each of these must be found."""

from __future__ import annotations

from typing import Any

from tests.proof.simulation.program import Life, Program, made, put
from tests.proof.simulation.world import Action


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
        return bool(self.requests.may_start(alone=False, probe=False))

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
    "no idempotency key": 22,
    "counting before return": 0,
    "no fairness": 53,
    "no word of a loss": 0,
    "no way past": 7,
    "no keep-newer": 6,
}


def _lost_wal(seed: int) -> Program:
    """A bot is killed after its puts, which nobody could send, and somebody removes the -wal."""
    down: list[Action] = [("mood", {"table": None, "kind": "down", "s": 1e6})]
    puts = [put(n, "orders", {"k": "k0"}) for n in range(1, 7)]
    return Program(seed, [Life([[*down, *puts, ("sleep", {"s": 1e4})]], kill_at=4_000), Life([], before=["no wal"])])


def _late_states(seed: int) -> Program:
    """Each state of a session is put while the sending of the one before it is under way in a bad network."""
    steps: list[Action] = [("bad", {"share": 0.9, "s": 120.0})]
    for n in range(1, 20):
        steps += [put(n, "sessions", {"session_id": "s0", "version": n}, "upsert"), ("sleep", {"s": 4.0})]
    return Program(seed, [Life([steps])])


# Where random programs are too seldom the ones.
_PLANTED = {"no word of a loss": _lost_wal, "no keep-newer": _late_states}


def program(seed: int, control: str | None) -> Program:
    """Return the program of `seed` that is to find `control`; None: any random one."""
    return _PLANTED.get(control or "", made)(seed)
