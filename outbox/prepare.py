"""What a put becomes: its spec, its ordering key, its digest; no I/O, no clock, no randomness."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import NamedTuple, TypeVar
from urllib.parse import quote
from uuid import UUID

from outbox.columns import Kind
from outbox.encoding import encode_alike, encode_row, identifier
from outbox.entry import Destination, Entry, IfExists, LaneSpec, Operation, OperationName, digest, digests
from outbox.errors import InvalidEntry
from outbox.ordering import key_of_row, ordering_key

_LONGEST_ID = 200
_NO_ID = (bool, float, bytes, bytearray, dict, list, tuple, set)
# Bytes of the columns' names, which are in the URL: PostgREST reads 51,200 of a request's head, a gateway fewer.
_LONGEST_COLUMNS = 48_000
# Bytes of an update's filters in the URL; Supabase's gateway takes 16 kB of URL and headers together.
_LONGEST_MATCH = 8000
# PostgREST reads these as its own parameters: `limit=eq.5` is no filter, and the update would reach every row.
RESERVED = frozenset({"and", "columns", "limit", "not", "offset", "on_conflict", "or", "order", "select"})
E = TypeVar("E", bound=Enum)
_KEYS = frozenset({Kind.UUID, Kind.INTEGER})
_INTEGER = re.compile(r"-?[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Intent:
    """What one write is meant to do: everything about an entry but its id, its time and its payload."""

    spec: LaneSpec
    key: str | None
    on_conflict: str | None
    match: str | None


class Written(NamedTuple):  # a tuple, as `Encoded`: one for every put
    """A write that is ready for the store, but for its time and, where `id` is None, its id."""

    id: str | None
    intent: Intent
    payload: str
    digest: str
    repaired: tuple[str, ...]
    if_exists: str | None = None

    def entry(self, id: str, *, created_at_ms: int, source: str | None, lane: int | None) -> Entry:
        """Return the entry to store."""
        spec = self.intent.spec
        return Entry(
            id, spec.destination, spec.operation, self.intent.key, self.payload, self.intent.on_conflict,
            self.intent.match, lane, created_at_ms, source, self.digest, self.if_exists,
        )  # fmt: skip


def written(
    destination: Destination,
    row: object,
    *,
    operation: OperationName | Operation | None = None,
    key: object = None,
    id: object = None,
    on_conflict: Sequence[str] | None = None,
    match: Mapping[str, object] | None = None,
    if_exists: IfExists | None = None,
) -> Written:
    """Return what to store for one put. Raises InvalidEntry, which names the field."""
    name = destination.name
    chosen = destination.operation if operation is None else member(Operation, operation, field="operation")
    encoded = encode_row(row, where=name, integers=destination.integers)
    own = None
    if chosen is Operation.INSERT and destination.key in encoded.columns:
        own = as_id(json.loads(encoded.text)[destination.key], f"{name}.{destination.key}")
        if own is None:  # an unset field of a model: the minted id goes there
            values = json.loads(encoded.text, parse_float=Decimal)
            del values[destination.key]
            encoded = encode_row(values, where=name)._replace(repaired=encoded.repaired)
    given = as_id(id, "id")
    if given is not None and own is not None and given != own:
        raise InvalidEntry(f"differs from the id {given!r} that was given for it", field=f"{name}.{destination.key}")
    chosen_id = given if given is not None else own
    if chosen is Operation.INSERT and destination.key_kind in _KEYS:
        chosen_id = _fitting(destination, chosen_id)
    plain = key is None and on_conflict is None and match is None and chosen_id is None and not destination.on_conflict
    if chosen is Operation.INSERT and plain:
        intent = _plain_insert(destination, encoded.columns)
    else:
        values = json.loads(encoded.text)
        intent = intend(
            destination, encoded.columns, values, operation=chosen, key=key, on_conflict=on_conflict, match=match,
            id=chosen_id,
        )  # fmt: skip
    mark = digest(name, chosen, intent.key, encoded.text, intent.on_conflict, intent.match)
    if if_exists is not None:
        _check_if_exists(if_exists, chosen_id)
    return Written(chosen_id, intent, encoded.text, mark, encoded.repaired, if_exists)


class Alike(NamedTuple):
    """Rows with the same intent, ready for the store but for their times and ids."""

    intent: Intent
    payloads: list[str]
    digests: list[str]

    def entries(self, ids: Sequence[str], *, created_at_ms: int, source: str | None, lane: int | None) -> list[Entry]:
        """Return the entries to store, each with its id."""
        name, operation, *_ = self.intent.spec
        return [
            Entry(each, name, operation, None, payload, None, None, lane, created_at_ms, source, mark, None)
            for each, payload, mark in zip(ids, self.payloads, self.digests, strict=True)
        ]


def written_alike(destination: Destination, rows: Sequence[object]) -> Alike | None:
    """Return what to store for plain inserts of `rows`, as `written` for each; None: `written` must do it."""
    plain = destination.operation is Operation.INSERT and not destination.on_conflict
    if not plain or destination.key_kind is Kind.INTEGER:
        return None
    encoded = encode_alike(rows, integers=destination.integers)
    if encoded is None or destination.key in encoded[0]:  # each row has its own id
        return None
    columns, payloads = encoded
    intent = _plain_insert(destination, columns)
    marks = digests(destination.name, Operation.INSERT, None, ((None, None, payload) for payload in payloads))
    return Alike(intent, payloads, marks)


def _fitting(destination: Destination, id: str | None) -> str | None:
    """Return `id` as the key column holds it. Raises InvalidEntry: PostgreSQL would refuse it (22P02)."""
    field = f"{destination.name}.{destination.key}"
    if destination.key_kind is Kind.UUID:
        try:
            return None if id is None else str(UUID(id))
        except ValueError:
            text_key = f"register({destination.name!r}, columns={{{destination.key!r}: 'text'}})"
            raise InvalidEntry(
                f"{id!r} is not a UUID, which this column holds; write id=outbox.uuid_of({id!r}), the same UUID each"
                f" time, or declare a text column: {text_key}",
                field=field,
            ) from None
    if id is None:
        raise InvalidEntry("holds integers, so no id can be minted for it; put it into the row, or id=…", field=field)
    if not (_INTEGER.fullmatch(id) and -(2**63) <= int(id) < 2**63):
        raise InvalidEntry(f"{id!r} is not an integer, which this column holds", field=field)
    return id


def _check_if_exists(if_exists: object, id: str | None) -> None:
    if if_exists != "keep":
        raise InvalidEntry("must be 'keep', or nothing", field="if_exists")
    if id is None:
        raise InvalidEntry("needs an id that stays the same when the row is told again: id=…", field="if_exists")


def intend(
    destination: Destination,
    columns: Sequence[str],
    values: Mapping[str, object],
    *,
    operation: Operation,
    key: object = None,
    on_conflict: Sequence[str] | None = None,
    match: Mapping[str, object] | None = None,
    id: str | None = None,
) -> Intent:
    """Return what a write of `values` into `destination` means. id: of an insert, if its caller chose it.

    Raises InvalidEntry.
    """
    if operation is not Operation.UPSERT and on_conflict is not None:
        raise InvalidEntry(f"belongs to an upsert, not to an {operation}", field="on_conflict")
    if operation is not Operation.UPDATE and match is not None:
        raise InvalidEntry(f"belongs to an update, not to an {operation}", field="match")
    match operation:
        case Operation.INSERT:
            return _insert(destination, columns, ordering_key(key) or _line_of(destination, values, id))
        case Operation.UPSERT:
            return _upsert(destination, columns, values, ordering_key(key), on_conflict)
        case Operation.UPDATE:
            return _update(destination, columns, ordering_key(key), match)


def _plain_insert(destination: Destination, columns: tuple[str, ...]) -> Intent:
    """The common case, cached: it does not depend on the row's values."""
    which = destination.name, destination.key, columns  # everything it depends on; quicker to hash than the dataclass
    known = _plain.get(which)
    if known is None:
        if len(_plain) >= 1000:  # a bot that invents column sets must not make this grow for ever
            _plain.clear()
        known = _plain[which] = _insert(destination, columns, None)
    return known


_plain: dict[tuple[str, str, tuple[str, ...]], Intent] = {}


def _insert(destination: Destination, columns: Sequence[str], key: str | None) -> Intent:
    everything = sorted({*columns, destination.key})
    spec = LaneSpec(destination.name, Operation.INSERT, destination.key, ",".join(everything), key is not None)
    return Intent(_sendable(spec), key, None, None)


def _sendable(spec: LaneSpec) -> LaneSpec:
    """Return `spec`. Raises InvalidEntry: no server would read its URL, which names the columns."""
    long = len(spec.columns) + len(spec.on_conflict)
    if long > _LONGEST_COLUMNS:
        count = spec.columns.count(",") + 1
        words = f"the names of its {count} columns have {long} bytes, of {_LONGEST_COLUMNS} that a URL may hold"
        raise InvalidEntry(words, field=spec.destination)
    return spec


def _line_of(destination: Destination, values: Mapping[str, object], id: str | None) -> str | None:
    """Return the ordering key of an insert whose caller names the row, so that its upserts and updates come later.

    The key also tells the flusher, even after a restart, that another row may be stored under the id.
    """
    if destination.on_conflict and all(values.get(column) is not None for column in destination.on_conflict):
        return key_of_row([values[column] for column in destination.on_conflict])
    return None if id is None else key_of_row([id])


def _upsert(
    destination: Destination,
    columns: Sequence[str],
    values: Mapping[str, object],
    key: str | None,
    on_conflict: Sequence[str] | None,
) -> Intent:
    if isinstance(on_conflict, str):
        raise InvalidEntry("must be a tuple of column names", field="on_conflict")
    deciding = tuple(on_conflict or destination.on_conflict)
    if not deciding:
        raise InvalidEntry("an upsert needs its conflict columns: on_conflict=(…)", field="on_conflict")
    for column in deciding:
        identifier(column, field="on_conflict")
        if values.get(column) is None:
            raise InvalidEntry(
                "is a conflict column of the upsert and must have a value", field=f"{destination.name}.{column}"
            )
    names = ",".join(deciding)
    spec = _sendable(LaneSpec(destination.name, Operation.UPSERT, names, ",".join(sorted(columns)), ordered=True))
    return Intent(spec, key or key_of_row([values[column] for column in deciding]), names, None)


def _update(
    destination: Destination, columns: Sequence[str], key: str | None, match: Mapping[str, object] | None
) -> Intent:
    if not match:
        raise InvalidEntry("an update needs match={…}: which rows", field="match")
    for column in match:
        identifier(column, field="match")
        if column in columns:
            # Sent twice it would match nothing: the first sending has changed the values that it matches.
            raise InvalidEntry("is both matched and set; its replay would match nothing", field=f"match.{column}")
        if column in RESERVED:
            raise InvalidEntry("is a reserved word of PostgREST and cannot be matched", field=f"match.{column}")
    text = encode_row(match, where="match").text
    values = json.loads(text)
    for column, value in values.items():
        if isinstance(value, dict | list):
            raise InvalidEntry("must be a single value", field=f"match.{column}")
    if len(quote(text)) > _LONGEST_MATCH:
        raise InvalidEntry(f"longer than {_LONGEST_MATCH} bytes, more than a URL may hold", field="match")
    spec = _sendable(LaneSpec(destination.name, Operation.UPDATE, "", ",".join(sorted(columns)), ordered=True))
    unique = destination.unique
    # {"id": …, "version": …} means the row of that id, and has the ordering key of its upserts.
    deciding = unique if values.keys() >= set(unique) else tuple(values)
    return Intent(spec, key or key_of_row([values[column] for column in deciding]), None, text)


def member(kind: type[E], value: object, *, field: str) -> E:
    """Return the member of `kind` that `value` is or names. Raises InvalidEntry, which lists them."""
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(repr(each.value) for each in kind)
        raise InvalidEntry(f"must be one of {names}", field=field) from None


def as_id(value: object, field: str) -> str | None:
    """Return an id as text; None: there is none. Raises InvalidEntry."""
    if value is None:
        return None
    text = str(value)
    if isinstance(value, _NO_ID) or not 1 <= len(text) <= _LONGEST_ID or not text.isprintable():
        raise InvalidEntry(f"must be a string or an integer of 1 to {_LONGEST_ID} printable characters", field=field)
    return text
