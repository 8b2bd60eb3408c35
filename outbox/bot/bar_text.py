"""A price bar as text, and when it began; no I/O, no clock, no randomness."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from outbox.encoding import encode_value
from outbox.errors import InvalidEntry

# Where a bar may hold its time; the first one present counts.
TIME_FIELDS = ("time", "timestamp", "time_utc", "datetime")
# The end of the year 9999; negated, earlier than any bar.
FOREVER_MS = 253_402_300_800_000
# The year 5138 in seconds, March 1973 in milliseconds: no market's bar falls on the wrong side.
_MILLISECONDS_FROM = 100_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
# The encoder writes the numbers that JSON lacks as texts. A bar's own text of that kind is stored with its first
# character escaped, so that the two differ for us and are equal for SQLite. A backslash before the first quote would
# make it part of a longer text, a colon after the last one a name.
_ODD = re.compile(r'(?<!\\)"(NaN|-?Infinity)"(?!\s*:)')
_WORDS = frozenset({"NaN", "Infinity", "-Infinity"})
_MARK = "\uf8ff\ue3a1\uf6c2"  # private characters; gone before anything is stored


def bar_time_ms(bar: object, where: str) -> int:
    """Return when `bar` began, in Unix milliseconds. Raises InvalidEntry: it is not a mapping, or has no time."""
    if not isinstance(bar, Mapping):
        raise InvalidEntry(f"a bar is a mapping, not {type(bar).__name__}", field=where)
    for name in TIME_FIELDS:
        if (value := bar.get(name)) is not None:
            return time_ms(value, f"{where}.{name}")
    raise InvalidEntry(f"a bar needs its time, under one of {', '.join(TIME_FIELDS)}", field=where)


def time_ms(value: object, field: str) -> int:
    """Return a time in whole Unix milliseconds, rounded down. Raises InvalidEntry.

    Takes an aware datetime; an ISO 8601 text, UTC without a zone; a number of seconds, from 1e11 on milliseconds.
    """
    if isinstance(value, datetime):
        return _moment_ms(value, field)
    if isinstance(value, str):
        return _moment_ms(_parsed(value, field), field)
    try:
        number = float("nan") if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise InvalidEntry(f"not a time: {type(value).__name__}", field=field) from None
    milliseconds = number if abs(number) >= _MILLISECONDS_FROM else number * 1000
    if not abs(milliseconds) < FOREVER_MS:  # a NaN, too
        raise InvalidEntry("not a time in seconds or milliseconds since 1970", field=field)
    return math.floor(milliseconds)


def _parsed(text: str, field: str) -> datetime:
    # fromisoformat mistakes thirteen digits, which are milliseconds, for a date and a time of day.
    if text.strip().isdigit():
        raise InvalidEntry("digits alone are ambiguous; give a number, or 2026-01-31T12:00", field=field)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidEntry("a string that is not an ISO 8601 time, such as 2026-01-31T12:00:00Z", field=field) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _moment_ms(moment: datetime, field: str) -> int:
    if moment != moment:
        raise InvalidEntry("not a time: NaT", field=field)
    if moment.utcoffset() is None:
        raise InvalidEntry("a datetime without a time zone; use datetime(…, tzinfo=UTC)", field=field)
    return (moment - _EPOCH) // _MILLISECOND


def encoded(bar: object, where: str) -> str:
    """Return `bar` as the JSON text to store. Raises InvalidEntry, whose `field` is the offending path."""
    text = encode_value(bar, where=where)
    if not _ODD.search(text):
        return text
    return re.sub(rf'"{_MARK}(.)', lambda found: f'"\\u{ord(found[1]):04x}', encode_value(_marked(bar), where=where))


def _marked(value: Any) -> Any:
    """Return `value` with a mark on each text that would look like a number."""
    if isinstance(value, str):
        return f"{_MARK}{value}" if value in _WORDS else value
    if isinstance(value, Mapping):
        return {name: _marked(member) for name, member in value.items()}
    return [_marked(member) for member in value] if isinstance(value, list | tuple) else value


def decoded(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Return the bars in `texts`, with their NaN and infinities."""
    array = _ODD.sub(r"\1", f"[{','.join(texts)}]")
    bars: list[dict[str, Any]] = json.loads(array)
    return bars
