"""Which entries an operator means, and what became of each: the one selection that looking and changing share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from outbox.entry import State
from outbox.errors import InvalidRequest

# A filter may mean every dead letter there is; one step of the writer handles this many.
STEP = 1000
# Room for a sentence or two; the history is read in a terminal.
_LONGEST_REASON = 1000
# What pydantic finds wrong, in our words.
_SAID = {
    "extra_forbidden": "is unknown to this version",
    "string_pattern_mismatch": "is not the name of a table",
    "missing": "is missing",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "list_type": "must be a sequence of strings",
}


class Arguments(BaseModel):
    """What a request holds. An unknown field is refused: ignoring a newer version's selector would widen it."""

    # Built with the first request: most bots never get one, and all would pay for it at their import.
    model_config: ClassVar[ConfigDict] = ConfigDict(
        strict=True, extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True
    )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return `values` as arguments. Raises InvalidRequest, which names the field."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_input=False, include_context=False, include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "arguments"
            raise InvalidRequest(_SAID.get(first["type"], str(first["msg"])), field=field) from None

    def but(self, **changes: Any) -> Self:
        """Return a copy with `changes` applied."""
        return self.model_copy(update=changes)

    def as_json(self) -> dict[str, Any]:
        """Return what `of` reads."""
        return self.model_dump(exclude_defaults=True)


def unix_ms(time: datetime | None, field: str) -> int | None:
    """Return Unix milliseconds. Raises InvalidRequest: not a datetime, or one without a time zone."""
    if time is None:
        return None
    if not isinstance(time, datetime) or time.tzinfo is None:
        raise InvalidRequest("must be a datetime with a time zone, such as datetime(…, tzinfo=UTC)", field=field)
    return int(time.timestamp() * 1000)


class Outcome(StrEnum):
    """What became of one entry that an operator named."""

    REQUEUED = "requeued"
    DISCARDED = "discarded"
    IS_PENDING = "already pending"
    IS_DELIVERED = "already delivered"
    IS_DISCARDED = "already discarded"
    UNKNOWN_ID = "unknown id"
    NOT_SELECTED = "outside the selection"
    DIED_SINCE = "died again since the request"
    CHANGED_SINCE = "changed meanwhile"
    UNCHANGED = "unchanged"
    UNFIT = "cannot be edited that way"  # it has a column of the new name, or is none of the table's
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """An entry and what became of it.

    Attributes:
        destination: None if nobody knows its id.
    """

    id: str
    destination: str | None
    outcome: Outcome


class Selection(Arguments):
    """Which entries: those that match every field that is set, both to look and to change.

    ids: these (none of them: no entry), in whatever destination they are. code: the server's error code, or its
    HTTP status where it gave none. said: a part of its message. since_ms, until_ms: Unix time, until excluded; of the
    put when looking, of the death or the delivery when changing. where: values of columns, as text.
    text: a part of a value of the row, or of its id.
    everything: all there are, where a choice is required. died_until_ms: not those that died later, for a request
    that is carried out after it was made. pending: of the ids, also those that wait to be sent.
    """

    ids: list[str] | None = None
    state: State | None = None
    destination: str | None = Field(default=None, pattern="^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    session: str | None = None
    code: str | None = None
    said: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    where: dict[str, str] | None = None
    text: str | None = None
    everything: bool = False
    died_until_ms: int | None = None
    pending: bool = False

    def checked(self) -> Self:
        """Return self. Raises InvalidRequest: it chooses nothing, or everything together with something else."""
        choices = (self.ids, self.destination, self.session, self.code, self.said, self.since_ms, self.until_ms,
                   self.where)  # fmt: skip
        chosen = any(value is not None for value in choices)
        if self.everything and chosen:
            raise InvalidRequest("contradicts every other choice of entries", field="everything")
        if not self.everything and not chosen:
            raise InvalidRequest("say which entries: ids, destination, code, or everything", field="ids")
        return self

    @classmethod
    def chosen(cls, ids: Sequence[str] | None, since: datetime | None, until: datetime | None, **choices: Any) -> Self:
        """Return the selection that a caller's arguments mean. Raises InvalidRequest."""
        if isinstance(ids, str):
            raise InvalidRequest("must be a sequence of ids, not one string", field="ids")
        if isinstance(choices.get("where"), Mapping):
            choices["where"] = {column: str(value) for column, value in choices["where"].items()}
        times = {"since_ms": unix_ms(since, "since"), "until_ms": unix_ms(until, "until")}
        return cls.of({"ids": None if ids is None else list(ids), **times, **choices})

    def parameters(self) -> tuple[Any, ...]:
        """Return the parameters of `queries.matches`."""
        where = json.dumps(self.where) if self.where else None
        fields = (self.destination, self.session, self.code, self.said, self.since_ms, self.until_ms, where, self.text)
        return tuple(value for field in fields for value in (field, field))

    def refuses(self, entry: Selected) -> Outcome | None:
        """Return why `entry` is not meant; None: it is."""
        if not entry.matches:
            return Outcome.NOT_SELECTED
        if entry.state is State.PENDING and self.pending:
            return None
        if entry.state is not State.DEAD:
            return NOT_DEAD[entry.state]
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
    matches: bool  # the selection, apart from the ids and what became of it

    @classmethod
    def of(cls, row: Sequence[Any]) -> Self:
        """Return what the query's `row` says."""
        matches, seq, its_id, destination, state, code, status, settled_at_ms = row
        said = code if code is not None else None if status is None else str(status)
        return cls(seq, its_id, destination, State(state), said, settled_at_ms, bool(matches))


def checked_reason(reason: object) -> str:
    """Return the reason of a discard without spaces around it. Raises InvalidRequest: it says nothing."""
    if not isinstance(reason, str) or not reason.strip():
        raise InvalidRequest("give the reason for discarding these entries", field="reason")
    if len(reason) > _LONGEST_REASON:
        raise InvalidRequest(f"is longer than {_LONGEST_REASON:,} characters", field="reason")
    if reason.encode(errors="replace").decode() != reason or "\0" in reason:
        raise InvalidRequest("holds characters that cannot be stored", field="reason")
    return reason.strip()
