"""What a write means: the lane whose requests may carry it, and its place in line; no I/O.

One ordering key stands for one remote row, however its values are written. The columns' types are not known here, so
values that PostgreSQL may hold equal under one of its types share a key: 2 and "2", both cases of a UUID, two spellings
of an instant, two columns in either order. Two rows that share a key merely travel one after the other; one row with
two keys would lose its order. A row still has two keys where only its column makes two values equal: texts in `citext`,
values that `numeric(10, 2)` or `real` round across the sixth digit, and times in a `timestamp` without a zone, whose
offset PostgreSQL drops.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote
from uuid import UUID

from outbox.columns import identifier
from outbox.encoding import decode, encode_row, encode_value
from outbox.entry import Destination, LaneSpec, Operation
from outbox.errors import InvalidEntry

# Bytes of the columns' names, which are in the URL: PostgREST reads 51,200 of a request's head, a gateway fewer.
_LONGEST_COLUMNS = 48_000
# Bytes of an update's filters in the URL; Supabase's gateway takes 16 kB of URL and headers together.
_LONGEST_MATCH = 8000
# PostgREST reads these as its own parameters: `limit=eq.5` is no filter, and the update would reach every row.
RESERVED = frozenset({"and", "columns", "limit", "not", "offset", "on_conflict", "or", "order", "select"})
_UUID = re.compile(r"\{?(?:[0-9a-f]{4}-?){7}[0-9a-f]{4}\}?")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]{1,4})?")
_FRACTION = re.compile(r"(?<=[0-9]{2}:[0-9]{2}:[0-9]{2})\.([0-9]+)")
_WORDS = {word: word for word in ("true", "false", "nan", "infinity", "-infinity")} | {
    "inf": "infinity", "+inf": "infinity", "+infinity": "infinity", "-inf": "-infinity",
}  # fmt: skip


class Intent(NamedTuple):
    """What one write is meant to do: everything about an entry but its id, its time and its payload."""

    spec: LaneSpec
    key: str | None
    on_conflict: str | None
    match: str | None


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
    values = decode(text)
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


# ------------------------------------------------------------------------------------------ the key


def ordering_key(key: object) -> str | None:
    """Return the ordering key of `key`, one value or several, as text; None: no key.

    Applied to its own result it changes nothing. Raises InvalidEntry: empty, or without a JSON form.
    """
    if key is None:
        return None
    if isinstance(key, str) and not key:
        raise InvalidEntry("must not be empty", field="key")
    plain = decode(encode_value(key, where="key"))
    # Sorted: the order in which the columns are named does not matter.
    texts = sorted(_canonical(_text(each)) for each in (plain if isinstance(plain, list) else [plain]))
    return (texts[0] or '""') if len(texts) == 1 else json.dumps(texts, ensure_ascii=False, separators=(",", ":"))


def key_of_row(values: Sequence[object]) -> str:
    """Return the ordering key of the row that has `values` in its conflict or match columns."""
    key = ordering_key(list(values))
    assert key is not None
    return key


def _text(value: object) -> str:
    return value if isinstance(value, str) else encode_value(value, where="key")


@lru_cache(maxsize=4096)
def _canonical(text: str) -> str:
    """Return one text for all values that PostgreSQL may hold equal to `text` under some type."""
    folded = text.strip().casefold()
    if _UUID.fullmatch(folded):
        return str(UUID(folded))
    if _NUMBER.fullmatch(folded):
        return _number(Decimal(folded))
    return _instant(folded.upper()) or _WORDS.get(folded, text)


def _number(number: Decimal) -> str:
    if number != number.to_integral_value():
        number = Decimal(f"{number:.6g}")
    whole = number.adjusted() < 100 and number == number.to_integral_value()  # 1e9999 is not written out
    return str(int(number)) if whole else str(number.normalize())


def _instant(text: str) -> str | None:
    """Return a date, or a time in UTC as PostgreSQL reads it from PostgREST: without a zone UTC, to the microsecond."""
    fraction = _FRACTION.search(text)
    try:
        moment = datetime.fromisoformat(_FRACTION.sub("", text))
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        if fraction is not None:
            moment += timedelta(microseconds=int((Decimal(f"0.{fraction[1]}") * 1_000_000).to_integral_value()))
    except (ValueError, OverflowError):
        return None
    return f"{moment.replace(tzinfo=None).isoformat()}Z".removesuffix("T00:00:00Z")
