"""What a crash must leave, by what the process had said until then; pure.

The process says two things on its marked descriptor, one JSON list a line:

    ["may", keys, states]   before it begins something: from here on each key may also be in one of `states`
    ["is", keys, states]    once that was acknowledged: from here on each key must be in one of `states`

and ["together", keys]: all of these are there, or none of them, until one of them may go. A key is an entry's number
or another fact by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

ABSENT = "absent"
_NOTHING = frozenset({ABSENT})


@dataclass(frozen=True, slots=True)
class Facts:
    """What an image holds. states: by key, without those that are absent. faults: what is wrong with the file."""

    states: Mapping[str, str]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wrong:
    """One way in which an image breaks the promise. lost: it was acknowledged, and is not there or not so any more."""

    what: str
    lost: bool


@dataclass(slots=True)
class Ledger:
    """Hears the marks in their order, and judges what a crash has left."""

    allowed: dict[str, frozenset[str]] = field(default_factory=dict)
    together: list[tuple[str, ...]] = field(default_factory=list)

    def hear(self, text: str) -> None:
        """Take one mark. Raises ValueError: it is none."""
        match json.loads(text):
            case ["may", list(keys), list(states)]:
                for key in map(str, keys):
                    self.allowed[key] = self.allowed.get(key, _NOTHING) | frozenset(states)
                if ABSENT in states:
                    self.together = [group for group in self.together if not set(group) & set(map(str, keys))]
            case ["is", list(keys), list(states)]:
                self.allowed.update(dict.fromkeys(map(str, keys), frozenset(states)))
            case ["together", list(keys)]:
                self.together.append(tuple(map(str, keys)))
            case other:
                raise ValueError(f"no mark: {other}")

    def wrongs(self, facts: Facts) -> list[Wrong]:
        """Return what is wrong with an image that a crash has left at this moment."""
        found = [Wrong(fault, lost=False) for fault in facts.faults]
        for key, allowed in self.allowed.items():
            state = facts.states.get(key, ABSENT)
            if state not in allowed:
                found.append(Wrong(f"{key} is {state}, not {' or '.join(sorted(allowed))}", lost=True))
        found += [Wrong(f"{key} was never put", lost=False) for key in facts.states.keys() - self.allowed.keys()]
        for keys in self.together:
            if 0 < sum(key in facts.states for key in keys) < len(keys):
                found.append(Wrong(f"only a part of {', '.join(keys)}", lost=False))
        return found
