"""Which entries an operator means, and what became of each: the one selection that looking and changing share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, NamedTuple, Self

from outbox.encoding import identifier
from outbox.entry import State
from outbox.errors import InvalidEntry, InvalidRequest

# A filter may mean every dead letter there is; one step of the writer handles this many.
STEP = 1000
# Capacity for a sentence or two; the history is read in a terminal.
_LONGEST_REASON = 1000


class Outcome(StrEnum):
    """What became of one entry that an operator named."""

    REQUEUED = "requeued"
    DISCARDED = "discarded"
    IS_PENDING = "pending already"
    IS_DELIVERED = "delivered already"
    IS_DISCARDED = "discarded before"
    UNKNOWN_ID = "unknown id"
    NOT_SELECTED = "not of that destination or code"
    DIED_SINCE = "died again after the request"
    CHANGED_SINCE = "changed after it was looked at"
    UNCHANGED = "as it was"
    UNFIT = "cannot be changed like that"  # it has a column of the new name, or is none of the table's
    LATER_DELIVERED = "a later entry of its key was delivered"  # it would revert newer state
    LATER_UNDER_WAY = "a later entry of its key may be on its way"  # and would arrive before it

    @property
    def done(self) -> bool:
        """Whether the entry was changed."""
        return self in (Outcome.REQUEUED, Outcome.DISCARDED)


NOT_DEAD = {
    State.PENDING: Outcome.IS_PENDING,
    State.DELIVERED: Outcome.IS_DELIVERED,
    State.DISCARDED: Outcome.IS_DISCARDED,
}


class Handled(NamedTuple):
    """An entry and what became of it. destination: None if nobody knows its id."""

    id: str
    destination: str | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead entries: those that match every field that is set, and at least one must be.

    ids: these (none of them: no entry), in whatever destination they are. code: the server's error code, or its
    HTTP status where it gave none. everything: all there are. died_until_ms: Unix time; not those that died later,
    for a request that is carried out after it was made. pending: of the ids also those that wait to be sent.
    """

    ids: tuple[str, ...] | None = None
    destination: str | None = None
    code: str | None = None
    everything: bool = False
    died_until_ms: int | None = None
    pending: bool = False

    def __post_init__(self) -> None:
        self._check_types()
        selectors = sum(value is not None for value in (self.ids, self.destination, self.code))
        if self.everything and selectors:
            raise InvalidRequest("contradicts every other choice of entries", field="everything")
        if not self.everything and not selectors:
            raise InvalidRequest("say which entries: ids, destination, code, or everything", field="ids")
        if self.destination is not None:
            try:
                identifier(self.destination, field="destination")
            except InvalidEntry as error:
                raise InvalidRequest("is no name of a table", field="destination") from error

    def _check_types(self) -> None:
        if self.ids is not None and not all(isinstance(each, str) for each in self.ids):
            raise InvalidRequest("must be a sequence of texts", field="ids")
        if not isinstance(self.destination, str | None):
            raise InvalidRequest("must be a text", field="destination")
        if not isinstance(self.code, str | None):
            raise InvalidRequest("must be a text", field="code")
        for name in ("everything", "pending"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidRequest("must be true or false", field=name)
        if not isinstance(self.died_until_ms, int | None) or isinstance(self.died_until_ms, bool):
            raise InvalidRequest("must be a whole number", field="died_until_ms")

    @classmethod
    def chosen(
        cls, ids: Sequence[str] | None, destination: str | None, code: str | None, *, everything: bool = False
    ) -> Self:
        """Return the filter that a caller's arguments mean. Raises InvalidRequest."""
        if isinstance(ids, str):
            raise InvalidRequest("must be a sequence of ids, not one text", field="ids")
        return cls(None if ids is None else tuple(ids), destination, code, everything)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the filter that `as_json` gave. Raises InvalidRequest, also for a field that nobody knows."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:  # left out, a selector of a newer version would widen what is selected
            raise InvalidRequest("is unknown to this version", field=min(unknown))
        ids = values.get("ids")
        if not isinstance(ids, list | tuple | None):
            raise InvalidRequest("must be a sequence of texts", field="ids")
        return cls(**{**values, "ids": None if ids is None else tuple(ids)})

    def as_json(self) -> dict[str, Any]:
        """Return what `of` reads."""
        return {name: value for name, value in asdict(self).items() if value is not None and value is not False}

    def refuses(self, entry: Selected) -> Outcome | None:
        """Return why `entry` is not meant; None: it is."""
        if self.destination is not None and entry.destination != self.destination:
            return Outcome.NOT_SELECTED
        if entry.state is State.PENDING and self.pending:
            return None
        if entry.state is not State.DEAD:
            return NOT_DEAD[entry.state]
        if self.code is not None and self.code != entry.said:
            return Outcome.NOT_SELECTED
        if self.died_until_ms is not None and (entry.settled_at_ms or 0) > self.died_until_ms:
            return Outcome.DIED_SINCE
        return None


class Selected(NamedTuple):
    """An entry as an operator's filter sees it. said: the server's code, or its status where it gave none."""

    seq: int
    id: str
    destination: str
    state: State
    said: str | None
    settled_at_ms: int | None

    @classmethod
    def of(cls, row: Sequence[Any]) -> Self:
        seq, its_id, destination, state, code, status, settled_at_ms = row
        said = code if code is not None else None if status is None else str(status)
        return cls(seq, its_id, destination, State(state), said, settled_at_ms)


def checked_reason(reason: object) -> str:
    """Return the reason of a discard without spaces around it. Raises InvalidRequest: it says nothing."""
    if not isinstance(reason, str) or not reason.strip():
        raise InvalidRequest("say why these entries are given up", field="reason")
    if len(reason) > _LONGEST_REASON:
        raise InvalidRequest(f"is longer than {_LONGEST_REASON:,} characters", field="reason")
    if reason.encode(errors="replace").decode() != reason or "\0" in reason:
        raise InvalidRequest("holds characters that cannot be stored", field="reason")
    return reason.strip()
