"""How a person may change a refused entry's payload; no I/O, no clock, no randomness."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from outbox.encoding import decode, encode_row, encode_value
from outbox.entry import Destination, LaneSpec, Operation, State, StoredEntry
from outbox.errors import InvalidEntry
from outbox.ordering import intend, key_of_row
from outbox.prepare import as_id, digest

# What Python raises on JSON that SQLite accepts: very long numbers, deep nesting. InvalidEntry is a ValueError.
_UNREADABLE = (ValueError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrevised(StoredEntry):
    """An entry that an edit may mean. spec: of its lane; None: it never had one."""

    spec: LaneSpec | None
    state: State = State.DEAD  # pending: an earlier try may have stored it without our knowledge


@dataclass(frozen=True, slots=True)
class Revised:
    """What to store instead. spec, digest: None where the flusher, which knows the destination, must find them."""

    payload: str
    key: str | None
    spec: LaneSpec | None
    digest: str | None


def fingerprint(payload: str) -> str:
    """Return 32 hexadecimal digits that tell whether a payload has changed meanwhile."""
    return hashlib.blake2b(payload.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def revised(entry: Unrevised, text: str) -> Revised:
    """Return `entry` with the JSON object `text` as its payload; its id, table and operation stay.

    Raises InvalidEntry, which names the field: the text is not a JSON object, or cannot be sent as this entry.
    """
    encoded = encode_row(json_object(text, "payload", constant=_no_constant), where=entry.destination)
    values = decode(encoded.text)
    if entry.spec is None:  # a shell's, refused before it was read: it is interpreted as on first reading
        return Revised(encoded.text, entry.key, None, None)
    if entry.operation is Operation.INSERT:
        values = _with_its_own_id(entry, entry.spec.on_conflict, values)
        encoded = encode_row(values, where=entry.destination)
    deciding = tuple(entry.on_conflict.split(",")) if entry.on_conflict else None
    intent = intend(
        Destination(entry.destination, key=entry.spec.on_conflict if entry.operation is Operation.INSERT else "id"),
        encoded.columns,
        decode(encoded.text),
        operation=entry.operation,
        key=_given_key(entry, deciding),
        on_conflict=deciding,
        match=decode(entry.match) if entry.match else None,
        # Treat the id as the caller's own: then the flusher checks whether an earlier try has stored another row.
        id=entry.id if entry.state is State.PENDING and entry.operation is Operation.INSERT else None,
    )
    mark = digest(entry.destination, entry.operation, intent.key, encoded.text, entry.on_conflict, entry.match)
    return Revised(encoded.text, intent.key, intent.spec, mark)


def differences(before: str, after: str) -> list[tuple[str, str | None, str | None]]:
    """Return the columns of two payloads that differ, each with both values as JSON; None: not there.

    before: may be a shell's, which SQLite accepts as JSON and Python does not; then all columns of `after` differ.
    """
    try:
        old = _texts(before)
    except _UNREADABLE:
        old = {}
    new = _texts(after)
    return [(name, old.get(name), new.get(name)) for name in sorted({*old, *new}) if old.get(name) != new.get(name)]


def laid_out(payload: str) -> str:
    """Return a payload as a person edits it: a line for each column, numbers with all their digits."""
    try:
        texts = _texts(payload)
    except _UNREADABLE:  # a shell's: it is shown as it is
        return payload
    lines = ",\n".join(f"  {json.dumps(name, ensure_ascii=False)}: {value}" for name, value in texts.items())
    return f"{{\n{lines}\n}}\n"


def renamed(payload: str, names: Mapping[str, str]) -> str | None:
    """Return `payload` with columns renamed in place as `names` says; None: it has none of them.

    Raises InvalidEntry: a new name is already there.
    """
    try:
        values = decode(payload)
    except _UNREADABLE as error:
        raise InvalidEntry("cannot be read as JSON", field="payload") from error
    if set(names).isdisjoint(values):
        return None
    for old, new in names.items():
        if old in values and new in values:
            raise InvalidEntry(f"exists already, next to {old!r}", field=f"payload.{new}")
    texts = {names.get(name, name): encode_value(value, where=name) for name, value in values.items()}
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in texts.items()) + "}"


def _texts(payload: str) -> dict[str, str]:
    values = decode(payload)
    return {name: encode_value(value, where=name) for name, value in values.items()}


def exact_json(text: str, field: str, *, constant: Callable[[str], Any] | None = None) -> Any:
    """Return what `text` holds, numbers with all their digits. constant: what to make of NaN. Raises InvalidEntry."""
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=constant, object_pairs_hook=_once_each)
    except InvalidEntry as error:
        raise InvalidEntry(error.reason, field=f"{field}.{error.field}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidEntry(f"is not JSON: {error}", field=field) from error


def json_object(text: str, field: str, *, constant: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """Return the object that `text` holds, as `exact_json`. Raises InvalidEntry."""
    found = exact_json(text, field, constant=constant)
    if not isinstance(found, dict):
        raise InvalidEntry("must be a JSON object: { ... }", field=field)
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f'{name}; the string "{name}" is what PostgreSQL reads')


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name that occurs twice: JSON allows it and the last one wins, a slip that nobody would notice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidEntry("appears twice", field=name)
        found[name] = value
    return found


def _with_its_own_id(entry: Unrevised, column: str, values: dict[str, Any]) -> dict[str, Any]:
    """Keep the id, which makes a second sending harmless: it may be left out, but must not be changed."""
    field = f"{entry.destination}.{column}"
    if column in values and (own := as_id(values[column], field)) != entry.id:
        if own is not None:
            raise InvalidEntry(f"is the idempotency key and stays {entry.id!r}", field=field)
        return {name: value for name, value in values.items() if name != column}
    return values


def _given_key(entry: Unrevised, deciding: tuple[str, ...] | None) -> str | None:
    """Return the ordering key that the caller gave; None: it is derived from the values, and changes with them."""
    if deciding is None:
        return entry.key
    before = decode(entry.payload)
    return None if entry.key == key_of_row([before.get(column) for column in deciding]) else entry.key
