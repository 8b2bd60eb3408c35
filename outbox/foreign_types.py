"""One step from a foreign type towards those that JSON knows, so that rows may hold more than texts and numbers.

It imports only the standard library and `outbox.errors`: numpy, pandas, pydantic, attrs and msgspec are known by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Any
from uuid import UUID

from outbox.errors import ConfigError

_PLAIN = frozenset({str, int, float, bool, type(None)})
# Types that are written as they are: a converter registered for them would never be called.
_WRITTEN = _PLAIN | {Decimal, dict, list, tuple, set, frozenset}

_registered: dict[type, Callable[[Any], object]] = {}


class RefusedError(Exception):
    """A value without an unambiguous JSON form; the message says why and what to do."""


def register_type(kind: type, convert: Callable[[Any], object]) -> None:
    """Write each value of `kind`, and of its subclasses, as what `convert` makes of it.

    Overrides what is built in for the type; of several bases the nearest decides, of two calls the later one.
    Raises ConfigError: `kind` is not a type or is one that JSON knows itself, or `convert` cannot be called.
    """
    given: object = kind
    if not isinstance(given, type) or not callable(convert):
        raise ConfigError("register_type takes a type and a function of its values, such as (Price, str)", field="kind")
    if kind in _WRITTEN or kind is object:
        raise ConfigError(f"{kind.__name__} is written as it is; convert it before the put", field="kind")
    _registered[kind] = convert
    simplifier.cache_clear()


def is_registered(kind: type) -> bool:
    """Whether a converter is registered for `kind`."""
    return any(base in _registered for base in kind.__mro__)


def is_row(value: object) -> bool:
    """Whether `value` has named members: a mapping, a dataclass or similar, a pydantic model."""
    kind = type(value)
    return isinstance(value, Mapping) or _field_names(kind) is not None or hasattr(kind, "model_dump")


@lru_cache(maxsize=512)
def simplifier(kind: type) -> Callable[[Any], object]:
    """Return what converts a value of type `kind` one step. The first match decides, so Enum precedes str."""
    for base in kind.__mro__:
        if base in _registered:
            return _registered[base]
    if (scientific := _scientific(kind)) is not None:
        return scientific
    for bases, simplify in _SIMPLIFIERS:
        if issubclass(kind, bases):
            return simplify
    if (names := _field_names(kind)) is not None:
        return lambda value: {name: getattr(value, name) for name in names}
    if callable(getattr(kind, "model_dump", None)):
        return _model_fields
    return _refuse


def _scientific(kind: type) -> Callable[[Any], object] | None:
    """Return the converter of a numpy or pandas type, found by its bases' names; None for any other type."""
    names = {base.__name__ for base in kind.__mro__ if str(base.__module__).startswith(("numpy", "pandas"))}
    for name, simplify in _SCIENTIFIC.items():
        if name in names:
            return simplify
    # Exact: a masked array hides values, a matrix never gets flat.
    return _array if names == {"ndarray"} and kind.__name__ == "ndarray" else None


def _moment(value: datetime) -> str:
    if value.utcoffset() is None:
        raise RefusedError(
            "a datetime without a time zone, which Postgres would read as UTC; use datetime.now(timezone.utc), or"
            " .replace(tzinfo=…) with the zone it was taken in"
        )
    return datetime.isoformat(value)


def _time_of_day(value: time) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise RefusedError("a time whose zone has no offset without a date; use a datetime, or .replace(tzinfo=None)")
    return time.isoformat(value)


def _timestamp(value: Any) -> object:
    return value.isoformat() if _moment(value) else None  # pandas' own: datetime's drops the nanoseconds


def _moment64(value: Any) -> object:
    return None if value != value else _refuse(value)  # only NaT differs from itself


def _numpy_scalar(value: Any) -> object:
    item = value.item()
    # An extended float returns itself; complex and structured scalars return what is refused anyway.
    return item if type(item) in _PLAIN else _refuse(value)


def _array(value: Any) -> object:
    # Not tolist(): that makes bare integers of datetime64[ns].
    return list(value) if value.ndim else value[()]


def _sequence(value: Any) -> object:
    # A namedtuple keeps its names, as a row and inside one.
    names = getattr(value, "_fields", None)
    return list(value) if names is None else dict(zip(names, value, strict=True))


def _field_names(kind: type) -> tuple[str, ...] | None:
    """Return the fields of a dataclass, an attrs class or a msgspec struct; None: any other type."""
    # Not asdict(): that copies everything below and never ends in a cycle.
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    if isinstance(attributes := getattr(kind, "__attrs_attrs__", None), tuple):
        return tuple(attribute.name for attribute in attributes)
    if isinstance(names := getattr(kind, "__struct_fields__", None), tuple):
        return names
    return None


def _model_fields(value: Any) -> object:
    # pydantic's warnings quote the value, so they are off; other classes with a model_dump take no arguments.
    return value.model_dump(warnings=False) if hasattr(value, "__pydantic_serializer__") else value.model_dump()


def _refuse(value: object) -> object:
    kind = type(value)
    hints = (_HINTS[base.__name__] for base in kind.__mro__ if base.__name__ in _HINTS)
    hint = next(
        hints,
        "convert it to str, a number, bool, datetime, dict or list, or say once how:"
        f" outbox.register_type({kind.__name__}, str)",
    )
    raise RefusedError(f"{kind.__name__} has no JSON form of its own; {hint}")


_SIMPLIFIERS: tuple[tuple[type | tuple[type, ...], Callable[[Any], object]], ...] = (
    (Enum, lambda value: value.value),
    # Subclasses, by the base's own methods: overridden ones may return anything.
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (Decimal, Decimal),
    (datetime, _moment),
    (date, date.isoformat),
    (time, _time_of_day),
    (UUID, UUID.__str__),
    (PurePath, str),  # not as_posix(): the path as the machine that wrote the row can open it
    ((list, tuple), _sequence),
    ((set, frozenset), frozenset),
    (Mapping, dict),
)
_SCIENTIFIC: dict[str, Callable[[Any], object]] = {
    "NaTType": lambda _: None,
    "NAType": lambda _: None,
    "Timestamp": _timestamp,
    "datetime64": _moment64,
    "timedelta64": _moment64,
    "generic": _numpy_scalar,
}
_HINTS = {
    **dict.fromkeys(("bytes", "bytearray", "memoryview"), "decode it, or use base64.b64encode(…).decode()"),
    "timedelta": "use .total_seconds()",
    "datetime64": "it has no time zone; use pandas.Timestamp(…, tz='UTC') or an aware datetime",
    "complex": "use .real and .imag",
    "generator": "use list(…)",
    "ndarray": "use .tolist()",
    "Series": "use .to_dict() or .tolist()",
    "DataFrame": "put its rows one by one, from .to_dict('records')",
    "SecretStr": "a secret should not leave the process; if it must, use .get_secret_value()",
}
