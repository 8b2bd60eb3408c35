"""What a column may be called, what it holds, and how PostgreSQL compares it; no I/O, no clock, no randomness.

A read that lays pending entries over remote rows must decide locally what the server decides remotely. Each kind below
has one rule of comparison whatever the server's settings. Where there is none, such as the order of two texts (it
depends on the collation), the read is `Undecidable`: an error is better than a row too many or too few.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from json.encoder import encode_basestring
from typing import Any, Final, TypeAlias

from outbox.errors import InvalidEntry, InvalidQuery, Undecidable


class Kind(StrEnum):
    """What PostgreSQL holds in a column, as far as comparison is concerned."""

    INTEGER = "integer"  # smallint, integer, bigint
    FLOAT = "float"  # double precision; not real, which rounds what is compared
    NUMERIC = "numeric"  # without a precision: numeric(10, 2) rounds what it stores
    TEXT = "text"  # text, varchar: equal or not; their order depends on the collation
    TIMESTAMP = "timestamp"  # timestamptz
    BOOLEAN = "boolean"
    UUID = "uuid"
    OTHER = "other"  # jsonb, arrays and everything else: never compared here


ORDERED: Final = frozenset(Kind) - {Kind.TEXT, Kind.OTHER}


class Default(Enum):
    """What a column holds after an insert that leaves it out."""

    UNKNOWN = "decided by the server, such as now()"


UNKNOWN: Final = Default.UNKNOWN


@dataclass(frozen=True, slots=True, init=False)
class Column:
    """A column of a remote table.

    Args:
        kind: A `Kind` or its name.
        default: The value that the table fills in; None: null; UNKNOWN: not known here.

    Raises:
        InvalidQuery: The kind does not exist.
    """

    kind: Kind
    default: object = UNKNOWN

    def __init__(self, kind: str | Kind, default: object = UNKNOWN) -> None:
        try:
            object.__setattr__(self, "kind", Kind(kind))
        except ValueError:
            raise InvalidQuery(f"must be one of {', '.join(Kind)}", field="kind") from None
        object.__setattr__(self, "default", default)


Columns: TypeAlias = Mapping[str, Column]


def _columns(columns: Mapping[Kind, Mapping[str, object]]) -> dict[str, Column]:
    return {name: Column(kind, default) for kind, names in columns.items() for name, default in names.items()}


def _without_default(*names: str) -> dict[str, object]:
    return dict.fromkeys(names)


# The server reads it from a header of the request that carries the row.
_SENDER: Final[dict[str, object]] = {"source": UNKNOWN}

# The tables of supabase_sql/. A test compares them with PostgreSQL's own catalogue.
SHIPPED: Final[Mapping[str, Columns]] = {
    "trades": _columns(
        {
            Kind.UUID: {"id": UNKNOWN},
            Kind.TEXT: _without_default("session_id", "trade_id", "symbol", "action", "comment") | _SENDER,
            Kind.TIMESTAMP: {"timestamp": None, "created_at": UNKNOWN},
            Kind.INTEGER: _without_default("direction", "intensity", "hmm_state"),
            Kind.FLOAT: _without_default("volume", "entry_price", "exit_price", "pnl", "pnl_pips") | {"commission": 0},
            Kind.BOOLEAN: {"is_paper": False},
            Kind.OTHER: {"extra": None},
        }
    ),
    "events": _columns(
        {
            Kind.UUID: {"id": UNKNOWN},
            Kind.TEXT: _without_default("session_id", "event_type") | _SENDER,
            Kind.TIMESTAMP: {"timestamp": None, "created_at": UNKNOWN},
            Kind.OTHER: {"data": None},
        }
    ),
    "sessions": _columns(
        {
            Kind.UUID: {"id": UNKNOWN},
            Kind.TEXT: _without_default("session_id", "end_reason") | {"status": "RUNNING"} | _SENDER,
            Kind.TIMESTAMP: {"start_time": None, "end_time": None, "created_at": UNKNOWN},
            Kind.FLOAT: {"initial_balance": None, "final_balance": None, "total_pnl": 0},
            Kind.INTEGER: {"total_trades": 0, "version": 0},
            Kind.OTHER: {"symbols": None, "extra": None},
        }
    ),
}


def integer_columns(table: str) -> frozenset[str]:
    """Return which columns of a shipped table PostgreSQL holds as integers."""
    return frozenset(name for name, column in SHIPPED[table].items() if column.kind is Kind.INTEGER)


def described(columns: Mapping[str, object]) -> dict[str, Column]:
    """Return the columns that a bot declares of its own table: each a `Column`, a `Kind`, or a kind's name.

    Raises InvalidQuery, which names the column.
    """
    found: dict[str, Column] = {}
    for name, told in columns.items():
        try:
            found[name] = told if isinstance(told, Column) else Column(str(told))
        except InvalidQuery:
            raise InvalidQuery(f"must be a Column or one of {', '.join(Kind)}", field=f"columns.{name}") from None
    return found


# ------------------------------------------------------------------------------------------ names

NAME = r"[A-Za-z_][A-Za-z0-9_]{0,62}"  # a plain SQL identifier
IDENTIFIER = re.compile(NAME)
_LONGEST_SHOWN = 40  # characters of an odd name


def identifier(name: object, *, field: str) -> str:
    """Return `name` if it is a plain SQL identifier of at most 63 characters, else raise InvalidEntry."""
    if not isinstance(name, str):
        raise InvalidEntry(f"a name must be a str, not {type(name).__name__}", field=field)
    plain = str.__str__(name)  # A subclass may print as something else.
    if not IDENTIFIER.fullmatch(plain):
        raise InvalidEntry(
            f"{shown(plain)} is not a plain SQL identifier (ASCII letters, digits and underscores, no digit first,"
            " at most 63 characters)",
            field=field,
        )
    return plain


def shown(name: str) -> str:
    """Return `name` as a message quotes it: on one line, and not at full length."""
    cut = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…"
    return encode_basestring(repaired(cut))


def repaired(text: str) -> str:
    """Return `text` as PostgreSQL can store it: U+2400 for NUL, U+FFFD for a lone surrogate, pairs joined."""
    return text.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


# ------------------------------------------------------------------------------------------ comparing


class Number(str):
    """A JSON number as its text: a float would change a Decimal's digits."""

    __slots__ = ()


# What one value is compared as. Values of one kind are comparable with each other, and only those.
Comparable: TypeAlias = Any

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_PLAIN_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_INFINITY = re.compile(r"([+-]?)(?:inf|infinity)", re.IGNORECASE)
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
# No fraction beyond microseconds: PostgreSQL rounds it. No time without a zone: the server's session decides its zone.
_MOMENT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2})(:[0-9]{2})?(?:\.([0-9]{1,6}))?"
    r"(?:([Zz])|([+-])([0-9]{2})(?::?([0-9]{2}))?)"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAN = (1, 0)  # equal to itself and greater than every number, as in PostgreSQL


def comparable(kind: Kind, text: str) -> Comparable:
    """Return the value as which PostgreSQL compares `text`. Raises ValueError: that is not certain here."""
    match kind:
        case Kind.INTEGER:
            return _integer(text)
        case Kind.FLOAT:
            return _number(text, exact=False)
        case Kind.NUMERIC:
            return _number(text, exact=True)
        case Kind.TEXT:
            return text
        case Kind.TIMESTAMP:
            return _moment(text)
        case Kind.BOOLEAN:
            return {"true": True, "false": False}[text] if text in ("true", "false") else _refuse()
        case Kind.UUID:
            return int(text.replace("-", ""), 16) if _UUID.fullmatch(text) else _refuse()
        case Kind.OTHER:
            return _refuse()


def told(kind: Kind, value: object) -> str | None:
    """Return a payload's value as the text that PostgreSQL reads it from; None: null.

    Numbers in `value` are `Number`. Raises ValueError: what PostgreSQL makes of it is not certain here.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return ("true" if value else "false") if kind is Kind.BOOLEAN else _refuse()
    if isinstance(value, Number):
        # A number becomes text in PostgreSQL's own notation; only whole ones have just one.
        written = kind in (Kind.INTEGER, Kind.FLOAT, Kind.NUMERIC)
        return str(value) if written or (kind is Kind.TEXT and _PLAIN_INTEGER.fullmatch(value)) else _refuse()
    return value if isinstance(value, str) else _refuse()


def known(columns: Columns, name: str, field: str) -> Column:
    """Return what is known of a column. Raises Undecidable: it is unknown or never compared."""
    column = columns.get(name)
    if column is None or column.kind is Kind.OTHER:
        told_by = "its kind is not known here; SupabaseClient.describe tells it"
        raise Undecidable(told_by if column is None else f"{name} is no column to compare by", field=field)
    return column


def _integer(text: str) -> int:
    return int(text) if _INTEGER.fullmatch(text) else _refuse()


def _number(text: str, *, exact: bool) -> Comparable:
    if text.casefold() == "nan":
        return _NAN
    if (infinity := _INFINITY.fullmatch(text)) is not None:
        return (0, float("-inf" if infinity[1] == "-" else "inf"))
    if not _DECIMAL.fullmatch(text):
        _refuse()
    if exact:
        return (0, Decimal(text))
    number = float(text)
    # PostgreSQL refuses what a double can only hold as zero or as infinity.
    if number in (float("inf"), float("-inf")) or (number == 0 and Decimal(text) != 0):
        _refuse()
    return (0, number)


def _moment(text: str) -> int:
    """Microseconds since 1970."""
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise ValueError("not certain here")
    day, minute, second, fraction, _, sign, hours, minutes = found.groups()
    if fraction is not None and second is None:
        _refuse()
    moment = datetime.fromisoformat(f"{day}T{minute}{second or ':00'}+00:00")
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    if offset >= timedelta(hours=15):  # PostgreSQL takes no more than 15:59:59
        _refuse()
    whole = (moment - _EPOCH) // timedelta(microseconds=1) - (-1 if sign == "-" else 1) * (
        offset // timedelta(microseconds=1)
    )
    return whole + int((fraction or "0").ljust(6, "0"))


def _refuse() -> Any:
    raise ValueError("not certain here")
