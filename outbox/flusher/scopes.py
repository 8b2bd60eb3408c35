"""How far a pause reaches, its key, and how it is put into words; no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile

from outbox.postgrest.verdicts import Reason, Scope
from outbox.store.rows import Lane, StoredPause

# A scope and its subject (which destination, which lane): a pause's key, here and in the file.
PauseKey = tuple[Scope, str]
EVERYTHING: PauseKey = (Scope.EVERYTHING, "")


def key_of(lane: Lane, scope: Scope) -> PauseKey:
    """Return the pause that holds `lane` back when it reaches as far as `scope`."""
    match scope:
        case Scope.EVERYTHING:
            return scope, ""
        case Scope.DESTINATION:
            return scope, lane.spec.destination
        case Scope.LANE:
            return scope, str(lane.number)


def keys_of(lane: Lane) -> list[PauseKey]:
    """Return the pauses that `lane` may stand under, the widest first."""
    return [key_of(lane, scope) for scope in Scope]


def held_words(lane: Lane, scope: Scope) -> str:
    """Return what of `lane` a pause of `scope` holds back, for people."""
    return lane.spec.destination if scope is Scope.DESTINATION else lane.spec.words()


def sentence(what: str, pause: StoredPause) -> str:
    """Return what holds `what` back, in the server's own words."""
    said = " ".join(str(part) for part in (pause.status, pause.code, pause.message) if part)
    return f"{what} is paused ({pause.reason.replace('_', ' ')}): {said}"


def wider_than(scope: Scope) -> frozenset[Scope]:
    """Return the scopes that reach further than `scope`."""
    return frozenset(takewhile(lambda each: each is not scope, Scope))


@dataclass(slots=True)
class Paused:
    """A pause as this process counts it: `due_s` on the monotonic clock, which no clock setting moves.

    turn: its place among the flusher's requests; a clock may stand still between the two. tried: that of the last
    request that met it.
    """

    stored: StoredPause
    turn: int
    due_s: float
    tried: int = 0
    probing: bool = False
    reread: bool = False  # the settings were read again since it became due
    met: dict[int, Lane] = field(default_factory=dict)  # the lanes whose requests met it, by number

    def holds(self, lane: Lane) -> bool:
        """Return whether this pause over `lane` holds it back: a table that refuses inserts may take upserts."""
        refused = self.stored.reason == Reason.REFUSED and self.met
        return not refused or any(each.spec.kind == lane.spec.kind for each in self.met.values())

    def was_met_by(self, destination: str) -> bool:
        """Return whether a request to `destination` met it."""
        return any(lane.spec.destination == destination for lane in self.met.values())
