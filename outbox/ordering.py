"""Which line an entry stands in: one ordering key for one remote row, however its values are written; no I/O.

The columns' types are not known here, so whatever PostgreSQL may hold equal under some type is one key: 2 and "2",
the cases of a UUID or of a `citext`, two spellings of an instant, two columns in either order. Two rows that share a
key merely travel in one line; one row with two keys would lose its order. (What may still tell apart what a column
makes equal: values that `numeric(10, 2)` or `real` round across the sixth digit, and times in a `timestamp` without
a zone, whose offset PostgreSQL drops.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from uuid import UUID

from outbox.encoding import encode_value
from outbox.errors import InvalidEntry

_UUID = re.compile(r"\{?(?:[0-9a-f]{4}-?){7}[0-9a-f]{4}\}?")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]{1,4})?")
_FRACTION = re.compile(r"(?<=[0-9]{2}:[0-9]{2}:[0-9]{2})\.([0-9]+)")
_WORDS = {"true": "1", "false": "0", "-inf": "-infinity"} | dict.fromkeys(("inf", "+inf", "+infinity"), "infinity")


def ordering_key(key: object) -> str | None:
    """Return the text under which `key`, one value or several, stands in line; None: no key.

    Applied to its own result it changes nothing. Raises InvalidEntry: empty, or without a JSON form.
    """
    if key is None:
        return None
    if isinstance(key, str) and not key:
        raise InvalidEntry("must not be empty", field="key")
    plain = json.loads(encode_value(key, where="key"), parse_float=Decimal)
    if not isinstance(plain, list):
        return _canonical(_text(plain)) or '""'
    texts = sorted(_canonical(_text(each)) for each in plain)  # whatever the order in which the columns are named
    return (texts[0] or '""') if len(texts) == 1 else json.dumps(texts, ensure_ascii=False, separators=(",", ":"))


def key_of_row(values: Sequence[object]) -> str:
    """Return the ordering key of the row that has `values` in the columns which decide."""
    key = ordering_key(list(values))
    assert key is not None
    return key


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value)
    if value is None or isinstance(value, dict | list):
        return encode_value(value, where="key")
    return str(value)


@lru_cache(maxsize=4096)
def _canonical(text: str) -> str:
    """Return the one text of all that PostgreSQL may hold equal to `text` under some type."""
    folded = text.strip().casefold()
    if _UUID.fullmatch(folded):
        return str(UUID(folded))
    if _NUMBER.fullmatch(folded):
        return _number(Decimal(folded))
    return _instant(folded.upper()) or _WORDS.get(folded, folded)


def _number(number: Decimal) -> str:
    if number.adjusted() > 100:  # 1e9999 is left as it is written, not written out
        return str(number.normalize())
    if number == number.to_integral_value():
        return str(int(number))
    return repr(float(f"{number:.6g}"))


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
    return f"{moment.replace(tzinfo=None).isoformat()}z".removesuffix("T00:00:00z")
