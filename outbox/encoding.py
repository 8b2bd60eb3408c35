"""Rows become canonical JSON, the only form in which they are stored, compared and sent.

Canonical: keys sorted by code point, no spaces, real UTF-8 characters, one text per value. What Postgres would
refuse or misread is converted where nothing is lost, repaired where it can be seen (`Encoded.repaired`), and
refused with its path everywhere else; an error names paths, keys and types, never a value.

Three paths lead to the same text. `_flat` writes rows of exact str, int, float, bool and None, which most are, into a
template of their columns, and `encode_alike` many such rows at once; `_fast` passes those that contain dicts, lists and
tuples to the C encoder; `_Writer` takes everything else, tracks the path, and is the only one that refuses.
`foreign_types` converts types that JSON does not know, one step at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from itertools import chain
from json.encoder import encode_basestring
from operator import itemgetter, methodcaller
from typing import Any, NamedTuple, TypeAlias, cast

from outbox.columns import IDENTIFIER, identifier, repaired, shown
from outbox.errors import InvalidEntry
from outbox.foreign_types import RefusedError, is_registered, simplifier

MAX_DEPTH = 100  # Levels of nesting, the row included; SQLite parses 1000, Python's stack takes some 300.
_MAX_DIGITS = 4300  # Python's own limit for parsing an integer; Decimal has none.

_STACK = "nested too deep for what is left of the calling stack"

_Trail: TypeAlias = "tuple[_Trail | None, str | int | None]"  # (the parent's, key or index; None in a set)


class Encoded(NamedTuple):
    """One row as it is stored and sent. A tuple: every put makes one, in half the time of a frozen dataclass."""

    text: str  # a canonical JSON object
    columns: tuple[str, ...]  # its top-level keys, sorted
    repaired: tuple[str, ...]  # sorted paths of the strings and keys that held NUL or surrogates


def decode(text: str | bytes) -> Any:
    """Return what JSON `text` holds, each number with all its digits: two that differ must not become one float.

    Raises ValueError, RecursionError: Python reads less of JSON than SQLite.
    """
    return json.loads(text, parse_float=Decimal)


def encode_row(row: object, *, where: str, integers: Collection[str] = ()) -> Encoded:
    """Return `row` encoded; the row is not changed and no reference to it is kept.

    `row`: a mapping, an instance of a dataclass, an attrs class or a msgspec struct, a pydantic model or a namedtuple,
    with at least one column.
    `where`: the destination, first part of every path. `integers`: columns in which integral floats and decimals
    become integers (1.0 → 1); other values there stay as they are, for the server to judge.
    Raises InvalidEntry, whose `field` is the path: a column that is not a plain SQL identifier, a value without an
    exact and unambiguous JSON form.
    """
    try:
        if type(row) is dict and _TEXT.issuperset(map(type, row)) and not _holds_float(row, integers):
            layout = _layout(tuple(row))
            if layout and (text := _flat(row, layout) or _fast(row, row.values(), 1)):
                return Encoded(text, layout.columns, ())
        return _Writer().row(row, where, integers)
    except RecursionError:
        raise InvalidEntry(_STACK, field=where) from None


def encode_alike(rows: Sequence[object], *, integers: Collection[str] = ()) -> tuple[tuple[str, ...], list[str]] | None:
    """Return the columns and the texts of `rows`, as `encode_row` would encode each; None: `encode_row` must do it.

    For dicts of plain scalars with the same columns in the same order: their values are encoded in one go and put into
    a template, which takes less than half the time for a row.
    """
    if set(map(type, rows)) != {dict}:
        return None
    plain = cast("Sequence[dict[str, object]]", rows)
    names = tuple(plain[0])
    if set(map(tuple, plain)) != {names} or not _TEXT.issuperset(map(type, chain.from_iterable(plain))):
        return None
    layout = _layout(names)
    if layout is None or any(float in map(type, map(itemgetter(name), plain)) for name in integers if name in names):
        return None
    values = list(chain.from_iterable(map(layout.values, plain)))
    text = _encoded(_VALUES, values) if _SCALARS.issuperset(map(type, values)) else None
    if text is None:
        return None
    filled = _BETWEEN.join([layout.template] * len(rows)) % tuple(text[1:-1].split(_BETWEEN))
    return layout.columns, filled.split(_BETWEEN)


def encode_value(value: object, *, where: str) -> str:
    """Return the canonical JSON of one value, by the rules of `encode_row`. Raises InvalidEntry."""
    try:
        return _fast(value, (value,), 0) or _Writer().value(value, (None, where), 1)
    except RecursionError:
        raise InvalidEntry(_STACK, field=where) from None


# --- The fast paths: None for what they do not know; the careful path decides. ------------------------------

_TEXT = frozenset({str})
_SCALAR_TEXTS: dict[type, Callable[[Any], str]] = {
    str: encode_basestring,
    int: int.__repr__,
    float: float.__repr__,
    bool: {True: "true", False: "false"}.__getitem__,
    type(None): {None: "null"}.__getitem__,
}
_SCALARS = frozenset(_SCALAR_TEXTS)
_NOT_FINITE = frozenset({"nan", "inf", "-inf"})  # as Python writes them; a string has quotes
_C_ENCODER = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
)
_BETWEEN = "\x1f"  # in no JSON text: a control character in a string is escaped
_VALUES = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(_BETWEEN, ":"))


class _Layout(NamedTuple):
    """What rows of the same columns share."""

    columns: tuple[str, ...]  # sorted
    template: str  # their JSON object, with %s for each value
    values: Callable[[Mapping[str, object]], Iterable[object]]  # of a row, in the order of the columns


@lru_cache(maxsize=512)
def _layout(names: tuple[str, ...]) -> _Layout | None:
    """Return the layout of rows with these columns; None: there are none, or one is not an identifier.

    A bot has few shapes of row: the cache is small.
    """
    if not names or not all(map(IDENTIFIER.fullmatch, names)):
        return None
    columns = tuple(sorted(names))
    members = ",".join(f'"{name}":%s' for name in columns)
    # itemgetter returns a single value without a tuple around it.
    values = itemgetter(*columns) if len(columns) > 1 else methodcaller("values")
    return _Layout(columns, f"{{{members}}}", values)


def _holds_float(row: Mapping[str, object], integers: Collection[str]) -> bool:
    for name in integers:  # noqa: SIM110 - any() with a generator takes three times as long
        if type(row.get(name)) is float:
            return True
    return False


def _is_plain(values: Collection[object], level: int) -> bool:
    """Tell whether the C encoder would write `values` as `_Writer` does; containers in them are one level down.

    Exact types only: the C encoder writes an Enum's data, a namedtuple as an array and the key True as "true".
    The depth limit ends a circular reference.
    """
    if _SCALARS.issuperset(map(type, values)):
        return True
    if level >= MAX_DEPTH:
        return False
    for value in values:
        if type(value) is dict:
            if not (_TEXT.issuperset(map(type, value)) and _is_plain(value.values(), level + 1)):
                return False
        elif type(value) is list or type(value) is tuple:
            if not _is_plain(value, level + 1):
                return False
        elif type(value) not in _SCALARS:
            return False
    return True


def _flat(row: Mapping[str, object], layout: _Layout) -> str | None:
    """Return `row` written value by value, or None where it holds more than scalars or needs a repair.

    The C encoder would sort and write the names anew for every row: with it 64 tasks put a tenth fewer rows a second
    (5 to 13 % in five rounds).
    """
    try:
        texts = [_SCALAR_TEXTS[type(value)](value) for value in layout.values(row)]
    except (KeyError, ValueError):  # another type; an integer of too many digits
        return None
    return _unless_unsound(layout.template % tuple(texts)) if _NOT_FINITE.isdisjoint(texts) else None


def _fast(value: object, values: Collection[object], level: int) -> str | None:
    """Return `value` written by the C encoder, or None if the text would not be canonical. `values` are its parts."""
    return _encoded(_C_ENCODER, value) if _is_plain(values, level) else None


def _encoded(encoder: json.JSONEncoder, value: object) -> str | None:
    try:
        return _unless_unsound(encoder.encode(value))
    except ValueError:  # NaN, an infinity, an integer of too many digits
        return None


def _unless_unsound(text: str) -> str | None:
    """Return `text`, or None if it holds what Postgres cannot store."""
    return text if "\\u0000" not in text and _is_utf8(text) else None


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- The careful path ------------------------------------------------------------------------------------------


class _Writer:
    """Writes one row piece by piece and remembers what it repaired."""

    __slots__ = ("repaired",)

    def __init__(self) -> None:
        self.repaired: set[str] = set()

    def row(self, row: object, where: str, integers: Collection[str]) -> Encoded:
        root: _Trail = (None, where)
        fields = row if type(row) is dict else _simplify(row, root)
        if type(fields) is not dict:
            kind = type(row).__name__
            raise InvalidEntry(f"a row is a mapping, a dataclass or a pydantic model, not {kind}", field=where)
        if not fields:
            raise InvalidEntry("a row needs at least one column", field=where)
        items = self._sorted_items(fields, root)
        columns = tuple([name for name, _ in items])
        if not _layout(columns):  # one of them is not an identifier; find it
            for name in columns:
                identifier(name, field=_path((root, name)))
        members = []
        for name, value in items:
            text = self.value(value, (root, name), 2)
            members.append(f'"{name}":{_as_integer(text) if name in integers else text}')
        return Encoded(f"{{{','.join(members)}}}", columns, tuple(sorted(self.repaired)))

    def value(self, value: object, trail: _Trail, level: int) -> str:
        """Return the JSON of `value`; `level` is its depth if it is a container."""
        kind = type(value)
        if (scalar := _SCALAR_WRITERS.get(kind)) is not None:
            return scalar(self, value, trail)
        if level > MAX_DEPTH:
            raise InvalidEntry(f"more than {MAX_DEPTH} levels of nesting, or it contains itself", field=_path(trail))
        if (container := _CONTAINER_WRITERS.get(kind)) is not None:
            return container(self, value, trail, level + 1)
        return self.value(_simplify(value, trail), trail, level + 1)

    def _str(self, value: str, trail: _Trail) -> str:
        if "\0" in value or not value.isascii():
            value = self._sound(value, trail)
        return encode_basestring(value)

    def _int(self, value: int, trail: _Trail) -> str:
        try:
            return int.__repr__(value)
        except ValueError:
            raise InvalidEntry("an int of too many digits; convert it to str", field=_path(trail)) from None

    def _float(self, value: float, trail: _Trail) -> str:
        return float.__repr__(value) if math.isfinite(value) else _not_finite(value)

    def _decimal(self, value: Decimal, trail: _Trail) -> str:
        if not value.is_finite():
            return _not_finite(value)
        text = str(value).upper()  # A decimal context may ask for "1e+2".
        if len(text) > _MAX_DIGITS:
            raise InvalidEntry("a Decimal of too many digits; convert it to str", field=_path(trail))
        return text

    def _dict(self, value: dict[object, object], trail: _Trail, level: int) -> str:
        members = [
            f"{encode_basestring(key)}:{self.value(member, (trail, key), level)}"
            for key, member in self._sorted_items(value, trail)
        ]
        return f"{{{','.join(members)}}}"

    def _list(self, value: Collection[object], trail: _Trail, level: int) -> str:
        return f"[{','.join([self.value(member, (trail, i), level) for i, member in enumerate(value)])}]"

    def _set(self, value: Collection[object], trail: _Trail, level: int) -> str:
        return f"[{','.join(sorted([self.value(member, (trail, None), level) for member in value]))}]"

    def _sorted_items(self, value: dict[Any, object], trail: _Trail) -> list[tuple[str, object]]:
        items: dict[str, object] = {}
        for key, member in value.items():
            text = key if type(key) is str and key.isascii() and "\0" not in key else self._key(key, trail)
            if text in items:
                raise InvalidEntry("two keys of the mapping become this one", field=_path((trail, text)))
            items[text] = member
        return sorted(items.items())  # no two keys are equal, so no two values are compared

    def _key(self, key: object, trail: _Trail) -> str:
        plain = _simplify(key, trail) if is_registered(type(key)) else key
        while isinstance(plain, Enum):
            plain = plain.value
        if isinstance(plain, str):
            text = str.__str__(plain)
            return self._sound(text, (trail, text))
        if isinstance(plain, int) and not isinstance(plain, bool):
            return self._int(plain, trail)
        raise InvalidEntry(f"a key of type {type(key).__name__}; convert it to str", field=_path(trail))

    def _sound(self, text: str, trail: _Trail) -> str:
        """Return `text` as Postgres can store it, and remember where it was repaired."""
        if "\0" not in text and _is_utf8(text):
            return text
        self.repaired.add(_path(trail))
        return repaired(text)


_SCALAR_WRITERS: dict[type, Callable[[_Writer, Any, _Trail], str]] = {
    str: _Writer._str,
    float: _Writer._float,
    int: _Writer._int,
    bool: lambda _writer, value, _trail: "true" if value else "false",
    type(None): lambda _writer, _value, _trail: "null",
    Decimal: _Writer._decimal,
}
_CONTAINER_WRITERS: dict[type, Callable[[_Writer, Any, _Trail, int], str]] = {
    dict: _Writer._dict,
    list: _Writer._list,
    tuple: _Writer._list,
    set: _Writer._set,
    frozenset: _Writer._set,
}


def _not_finite(value: float | Decimal) -> str:
    """Postgres reads these strings into float and numeric columns; without quotes they are not JSON."""
    # math.isnan raises for a signaling Decimal.
    is_nan = value.is_nan() if isinstance(value, Decimal) else math.isnan(value)
    return '"NaN"' if is_nan else '"Infinity"' if value > 0 else '"-Infinity"'


def _as_integer(text: str) -> str:
    """Return an integral JSON number without point or exponent; any other JSON unchanged."""
    if text[0] not in "-0123456789" or text.lstrip("-").isdigit():
        return text
    number = Decimal(text)
    # No float has more than 309 digits; 1E+999999 is left to the server instead of written out.
    return str(int(number)) if number.adjusted() < 400 and number == number.to_integral_value() else text


def _path(trail: _Trail) -> str:
    """Return a trail as a path: `trades.legs[2].price`, `trades.data["odd key"]`, `trades.tags[*]` in a set."""
    parent, step = trail
    if parent is None:
        return str(step)
    steps: list[str] = []
    while parent is not None:
        if isinstance(step, str):
            steps.append(f".{step}" if IDENTIFIER.fullmatch(step) else f"[{shown(step)}]")
        else:
            steps.append("[*]" if step is None else f"[{step}]")
        parent, step = parent
    return f"{step}{''.join(reversed(steps))}"


def _simplify(value: object, trail: _Trail) -> object:
    """Return `value` converted one step. The only place that calls foreign code."""
    kind: type = type(value)
    try:
        return simplifier(kind)(value)
    except RefusedError as error:
        raise InvalidEntry(str(error), field=_path(trail)) from None
    except Exception as error:  # noqa: BLE001 - a property, a serializer or a tzinfo may raise anything
        # Without its cause: the message of a foreign error may quote the value.
        problem = f"reading this {kind.__name__} raised {type(error).__name__}"
        raise InvalidEntry(problem, field=_path(trail)) from None
