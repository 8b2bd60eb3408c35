"""An entry's place in line: one ordering key for one remote row, however its values are written; no I/O.

The columns' types are not known here, so values that PostgreSQL may hold equal under one of its types share a key: 2
and "2", both cases of a UUID, two spellings of an instant, two columns in either order. Two rows that share a key
merely travel one after the other; one row with two keys would lose its order. A row still has two keys where only its
column makes two values equal: texts in `citext`, values that `numeric(10, 2)` or `real` round across the sixth digit,
and times in a `timestamp` without a zone, whose offset PostgreSQL drops.
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
_WORDS = {word: word for word in ("true", "false", "nan", "infinity", "-infinity")} | {
    "inf": "infinity", "+inf": "infinity", "+infinity": "infinity", "-inf": "-infinity",
}  # fmt: skip


def ordering_key(key: object) -> str | None:
    """Return the ordering key of `key`, one value or several, as text; None: no key.

    Applied to its own result it changes nothing. Raises InvalidEntry: empty, or without a JSON form.
    """
    if key is None:
        return None
    if isinstance(key, str) and not key:
        raise InvalidEntry("must not be empty", field="key")
    plain = json.loads(encode_value(key, where="key"), parse_float=Decimal)
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
